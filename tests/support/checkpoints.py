"""Small checkpoints in the layouts of the public ones, with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig, ElasticEncoder
from superserve.supernet.zoo.dynabert_roberta import DynaRoberta, DynaRobertaConfig

C = TypeVar("C", bound=DynaBertConfig)

BERT = DynaBertConfig(classes=3, vocabulary=40, hidden=24, layers=4, heads=4, neurons=48, positions=16)
ROBERTA = DynaRobertaConfig(classes=3, vocabulary=40, hidden=24, layers=4, heads=4, neurons=48, positions=14)

#: ``config.json`` beside `bert_state`, as Hugging Face writes it.
BERT_SETTINGS: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16, "type_vocab_size": 2, "hidden_act": "gelu", "finetuning_task": "mnli",
    "id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"},
}  # fmt: skip


#: The same beside `roberta_state`, by DynaBERT's code, which is of the time before labels and padding were written.
ROBERTA_SETTINGS: dict[str, Any] = {
    name: value for name, value in BERT_SETTINGS.items() if name not in {"id2label", "type_vocab_size"}
} | {"layer_norm_eps": 1e-5}


def bert_state() -> dict[str, Tensor]:
    """The state_dict of a small BERT classifier."""
    return _random(DynaBert, BERT)


def roberta_state(architecture: DynaRobertaConfig = ROBERTA) -> dict[str, Tensor]:
    """The same of a RoBERTa."""
    return _random(DynaRoberta, architecture)


def _random(network: Callable[[C], ElasticEncoder], architecture: C) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = network(architecture)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return dict(made.state_dict())


def texts(path: Path, rows: int = 30, *, tokens: int = 8, labels: bool = True, types: bool = True) -> Path:
    """An archive of token ids, masks, segments and classes."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "input_ids": rng.integers(0, 40, (rows, tokens)),
        "attention_mask": np.ones((rows, tokens), np.int64),
    }
    if types:
        arrays["token_type_ids"] = rng.integers(0, 2, (rows, tokens))
    if labels:
        arrays["labels"] = rng.integers(0, 3, rows)
    np.savez(path, **arrays)
    return path
