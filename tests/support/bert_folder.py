"""A folder with a small BERT, as Hugging Face lays it out."""

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import nn

from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig

PIECES: Final = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", ",", "please", "wake", "alarm", "morning", "pay", "bill", "owe", "moon"),
    *("river", "song", "card", "post", "arrive", "euro", "rate", "exchange", "train", "test", "dev"),
)
SIZES: Final = DynaBertConfig(
    classes=2,
    vocabulary=len(PIECES),
    hidden=16,
    layers=4,
    heads=4,
    neurons=24,
    positions=12,
    token_types=2,
)
SETTINGS: Final[dict[str, Any]] = {
    "model_type": "bert", "vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 4,
    "num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 12, "type_vocab_size": 2,
}  # fmt: skip


def untrained_bert() -> DynaBert:
    """As training begins with it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DynaBert(SIZES)


def random_bert() -> DynaBert:
    """With weights that matter: every head and neuron differs."""
    network = untrained_bert()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network


def write_bert(folder: Path) -> Path:
    """Encoder, an old classifier, and what pretraining leaves behind."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone() for name, tensor in untrained_bert().state_dict().items()}
    save_file(state | {"cls.predictions.bias": torch.zeros(len(PIECES))}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SETTINGS))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder
