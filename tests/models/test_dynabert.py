"""DynaBERT against Hugging Face BERT and RoBERTa whose heads, neurons and layers were cut away by code of this file.

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
from superserve.supernet.importing import FAMILIES
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.zoo.dynabert import ElasticEncoder

TOLERANCE = 1e-5
DEPTHS, WIDTHS = (0.5, 0.75, 1.0), (0.25, 0.5, 0.75, 1.0)
CASES: dict[str, dict[str, Any]] = {
    "12 layers": {},
    "8 layers, 16 heads": {"num_hidden_layers": 8, "num_attention_heads": 16, "hidden_size": 128},
    "4 layers, 8 heads, relu": {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_act": "relu"},
    "odd MLP": {"num_hidden_layers": 4, "intermediate_size": 100},
    "base size, 4 layers": {"num_hidden_layers": 4, "hidden_size": 768, "intermediate_size": 3072},
    "roberta, 12 layers": {},
    "roberta, 4 layers, 8 heads, relu": {"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_act": "relu"},
    "roberta, segments, padding 3": {"num_hidden_layers": 4, "type_vocab_size": 2, "pad_token_id": 3},
    "roberta, base size, 4 layers": {"num_hidden_layers": 4, "hidden_size": 768, "intermediate_size": 3072},
}


def _oracle(case: str) -> Any:
    """BERT or RoBERTa with random weights that matter: attention is sharp and logits differ between rows."""
    import transformers  # noqa: PLC0415 (slow to import)

    sizes = {
        "vocab_size": 101, "hidden_size": 96, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 192, "max_position_embeddings": 40, "num_labels": 3,
    }  # fmt: skip
    if case.startswith("roberta"):
        # What the published RoBERTa has and the class's defaults have not.
        config = transformers.RobertaConfig(**{"type_vocab_size": 1, "layer_norm_eps": 1e-5} | sizes | CASES[case])
        make = transformers.RobertaForSequenceClassification
    else:
        config, make = transformers.BertConfig(**sizes | CASES[case]), transformers.BertForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make(config).eval().requires_grad_(requires_grad=False)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=1.5 / math.sqrt(parameter.size(1)))
            else:
                nn.init.uniform_(parameter, *((0.5, 1.5) if "LayerNorm.weight" in name else (-0.2, 0.2)))
    return model


def _imported(model: Any) -> ElasticEncoder:
    family = "dynabert_roberta" if model.config.model_type == "roberta" else "dynabert"
    _, network = FAMILIES[family].read(Picker(model.state_dict(), Path("oracle"), model.config.to_dict()))
    assert isinstance(network, ElasticEncoder)
    return network


def _prune(model: Any, depth: float, width: float) -> None:
    """Keep the leading heads and neurons of every layer, and floor(i / depth) of the layers."""
    config, encoder = model.config, model.base_model.encoder
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


def _texts(config: Any) -> dict[str, Tensor]:
    """Five texts of different lengths, padded to 17 tokens, one of them in front; the last has one token."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.pad_token_id + 1, 101, (5, 17), generator=generator)
    mask = (torch.arange(17) < torch.tensor([[17], [12], [9], [4], [1]])).long()
    mask[2] = mask[2].flip(0)
    types = torch.randint(0, config.type_vocab_size, (5, 17), generator=generator)
    tokens = torch.where(mask.bool(), tokens, config.pad_token_id)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": types}


@pytest.mark.parametrize("case", CASES)
def test_every_subnet_is_the_pruned_model(case: str) -> None:
    """All 12 depths and widths of each case: 108 configurations."""
    whole = _oracle(case)
    texts, network, compared = _texts(whole.config), _imported(whole), 0
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


@pytest.mark.parametrize("case", ["odd MLP", "roberta, 4 layers, 8 heads, relu"])
def test_one_text_needs_no_segments(case: str) -> None:
    oracle = _oracle(case)
    texts = _texts(oracle.config) | {"token_type_ids": torch.zeros(5, 17, dtype=torch.int64)}
    network = _imported(oracle)
    apply(bind(network, network.space.largest(), {}))
    found = network(texts["input_ids"], texts["attention_mask"])
    assert (found - oracle(**texts).logits).abs().max() <= TOLERANCE


def test_the_longest_text_of_roberta_takes_the_last_position() -> None:
    oracle = _oracle("roberta, segments, padding 3")
    network = _imported(oracle)
    apply(bind(network, network.space.largest(), {}))
    assert network.config.positions == 36
    longest, too_long = ((torch.full((1, length), 7), torch.ones(1, length).long()) for length in (36, 37))
    assert (network(*longest) - oracle(*longest).logits).abs().max() <= TOLERANCE
    for model in (network, oracle):
        with pytest.raises(IndexError):
            model(*too_long, torch.zeros(1, 37).long())


@pytest.mark.parametrize("case", ["odd MLP", "roberta, segments, padding 3"])
def test_state_dict_is_hugging_faces(case: str) -> None:
    """The served weights load into the model that they came from unchanged."""
    oracle = _oracle(case)
    assert oracle.load_state_dict(_imported(oracle).state_dict()).missing_keys == []
