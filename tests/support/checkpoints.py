"""Small checkpoints in the layouts of the public ones, with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig

BERT = DynaBertConfig(classes=3, vocabulary=40, hidden=24, layers=4, heads=4, neurons=48, positions=16)

#: ``config.json`` beside `bert_state`, as Hugging Face writes it.
BERT_SETTINGS: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16, "type_vocab_size": 2, "hidden_act": "gelu", "finetuning_task": "mnli",
    "id2label": {"0": "contradiction", "1": "entailment", "2": "neutral"},
}  # fmt: skip


def bert_state() -> dict[str, Tensor]:
    """The state_dict of a small BERT classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DynaBert(BERT)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return dict(network.state_dict())


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
