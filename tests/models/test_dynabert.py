"""DynaBERT against Hugging Face BERT whose heads, neurons and layers were cut away by code of this file.

Source of what a subnet keeps: huawei-noah/Pretrained-Language-Model, ``DynaBERT/transformers/modeling_bert.py``.
"""

import copy
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from superserve.supernet.actuator import apply, bind
from superserve.supernet.extract import extract
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.dynabert import DynaBertImporter
from superserve.supernet.zoo.dynabert import DynaBert

TOLERANCE = 1e-5
DEPTHS, WIDTHS = (0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)
CASES: dict[str, dict[str, Any]] = {
    "12 layers": {},
    "8 layers, 16 heads": {"num_hidden_layers": 8, "num_attention_heads": 16, "hidden_size": 128},
    "4 layers, 8 heads, relu": {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_act": "relu"},
    "odd MLP": {"num_hidden_layers": 4, "intermediate_size": 100},
    "base size, 4 layers": {"num_hidden_layers": 4, "hidden_size": 768, "intermediate_size": 3072},
}


def _bert(case: str) -> Any:
    """BERT with random weights that matter: attention is sharp and logits differ between rows."""
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 (slow to import)

    sizes = {
        "vocab_size": 101, "hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 192, "max_position_embeddings": 40, "num_labels": 3,
    } | CASES[case]  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(**sizes)).eval().requires_grad_(requires_grad=False)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter.size(1)))
            else:
                nn.init.uniform_(parameter, *((0.5, 1.5) if "LayerNorm.weight" in name else (-0.2, 0.2)))
    return model


def _prune(model: Any, depth: float, width: float) -> None:
    """Keep the leading heads and neurons of every layer, and floor(i / depth) of the layers."""
    config, encoder = model.config, model.bert.encoder
    head = config.hidden_size // config.num_attention_heads
    heads = round(config.num_attention_heads * width)
    rows = torch.arange(heads * head)
    neurons = torch.arange(int(heads * 1.0 / config.num_attention_heads * config.intermediate_size))
    kept = [math.floor(i / depth) for i in range(round(depth * len(encoder.layer)))]
    encoder.layer = nn.ModuleList(encoder.layer[i] for i in kept)
    for layer in encoder.layer:
        for part in ("query", "key", "value"):
            setattr(layer.attention.self, part, _keep(getattr(layer.attention.self, part), rows, 0))
        layer.attention.output.dense = _keep(layer.attention.output.dense, rows, 1)
        layer.intermediate.dense = _keep(layer.intermediate.dense, neurons, 0)
        layer.output.dense = _keep(layer.output.dense, neurons, 1)


def _keep(layer: nn.Linear, index: Tensor, dim: int) -> nn.Linear:
    weight = layer.weight.index_select(dim, index).clone()
    pruned = nn.Linear(weight.size(1), weight.size(0))
    pruned.weight = nn.Parameter(weight, requires_grad=False)
    pruned.bias = nn.Parameter(layer.bias[index].clone() if dim == 0 else layer.bias.clone(), requires_grad=False)
    return pruned


def _texts() -> dict[str, Tensor]:
    """Five texts of different lengths, padded to 17 tokens; the last is padding alone but for one token."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 101, (5, 17), generator=generator)
    mask = (torch.arange(17) < torch.tensor([[17], [12], [9], [4], [1]])).long()
    types = torch.randint(0, 2, (5, 17), generator=generator)
    return {"input_ids": tokens * mask, "attention_mask": mask, "token_type_ids": types}


@pytest.mark.parametrize("case", CASES)
def test_every_subnet_is_the_pruned_bert(case: str) -> None:
    """All 12 depths and widths of each case: 60 configurations."""
    texts, compared = _texts(), 0
    whole = _bert(case)
    _, network = DynaBertImporter().read(Picker(whole.state_dict(), Path("oracle"), whole.config.to_dict()))
    for depth, width in product(DEPTHS, WIDTHS):
        oracle = copy.deepcopy(whole)
        _prune(oracle, depth, width)
        expected = oracle(**texts).logits
        spec = network.dynabert_spec(depth, width)
        apply(bind(network, spec, {}))
        found = network(*texts.values())
        assert (found - expected).abs().max() <= TOLERANCE, (depth, width)
        assert torch.equal(extract(network, spec, {})(*texts.values()), found)
        assert expected.std() > 0.05, "logits too alike to compare"
        compared += 1
    assert compared == 12


def test_one_text_needs_no_segments() -> None:
    texts = _texts() | {"token_type_ids": torch.zeros(5, 17, dtype=torch.int64)}
    oracle = _bert("odd MLP")
    _, network = DynaBertImporter().read(Picker(oracle.state_dict(), Path("oracle"), oracle.config.to_dict()))
    apply(bind(network, network.space.largest(), {}))
    found = network(texts["input_ids"], texts["attention_mask"])
    assert (found - oracle(**texts).logits).abs().max() <= TOLERANCE


def test_state_dict_is_hugging_faces() -> None:
    """The served weights load into BERT unchanged."""
    oracle = _bert("odd MLP")
    _, network = DynaBertImporter().read(Picker(oracle.state_dict(), Path("oracle"), oracle.config.to_dict()))
    assert isinstance(network, DynaBert)
    assert oracle.load_state_dict(network.state_dict()).missing_keys == []
