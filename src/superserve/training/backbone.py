"""Start from somebody's BERT: read it with its vocabulary, and put what matters most in front.

A subnet keeps the leading heads and neurons of each layer, so that the most important ones must lead before training
as a supernet begins. Source: Hou et al., "DynaBERT", NeurIPS 2020, section 2.1 (network rewiring).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from superserve.errors import CheckpointError, ConfigError
from superserve.supernet.actuator import apply, bind
from superserve.supernet.importing.checkpoint import Picker, read_checkpoint, recognise
from superserve.supernet.importing.dynabert import DynaBertImporter
from superserve.supernet.importing.dynabert_roberta import DynaRobertaImporter
from superserve.supernet.importing.huggingface import read_settings
from superserve.supernet.importing.importer import CHECKPOINT_FILES
from superserve.supernet.zoo.dynabert import DynaBert, DynaBertConfig
from superserve.tokenizer import PADDING as PADDING_PIECE
from superserve.tokenizer import Tokenizer
from superserve.training.word_dropout import PADDING

#: The spread of a new classifier's weights: BERT's own ``initializer_range``.
_CLASSIFIER_STD: Final = 0.02

Batches = Iterable[tuple[tuple[Tensor, ...], Tensor]]
"""Network inputs and labels."""


class Backbone(NamedTuple):
    """A BERT with a new classifier on top."""

    architecture: DynaBertConfig
    """With DynaBERT's widths and depths."""
    pieces: tuple[str, ...]
    weights: dict[str, Tensor]
    """By the names of `DynaBert`."""


def read_backbone(folder: Path, classes: int, seed: int) -> Backbone:
    """Read a folder as Hugging Face lays it out: ``config.json``, ``vocab.txt``, and weights.

    Args:
        folder: the folder; a classifier that its weights hold is left out.
        classes: of the new classifier.
        seed: of the new classifier's weights.

    Raises:
        CheckpointError: if a file is missing or not BERT's.
        ConfigError: if the vocabulary is not one of BERT's kind.
    """
    path = next((folder / name for name in CHECKPOINT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"--backbone {folder}: holds none of {', '.join(CHECKPOINT_FILES)}")
    found = read_checkpoint(path)
    if recognise(found) == DynaRobertaImporter.name:
        raise CheckpointError(
            f"--backbone {path}: a RoBERTa, whose byte-level BPE this recipe cannot cut texts with: give a BERT. "
            f"`superserve import {DynaRobertaImporter.name}` takes one that is trained, and token ids"
        )
    tensors = {name: tensor for name, tensor in found.items() if not name.startswith("classifier.")}
    settings = read_settings(folder / "config.json")
    hidden = settings.get("hidden_size")
    if not isinstance(hidden, int):
        raise CheckpointError(f"{folder / 'config.json'}: says no hidden_size: is it the config.json of a BERT?")
    generator = torch.Generator().manual_seed(seed)
    tensors["classifier.weight"] = torch.randn(classes, hidden, generator=generator) * _CLASSIFIER_STD
    tensors["classifier.bias"] = torch.zeros(classes)
    architecture, network = DynaBertImporter().read(Picker(tensors, path, settings))
    pieces = _read_pieces(folder / "vocab.txt", architecture.vocabulary)
    return Backbone(architecture, pieces, {name: tensor.clone() for name, tensor in network.state_dict().items()})


def rewired(architecture: DynaBertConfig, weights: Mapping[str, Tensor], batches: Batches) -> dict[str, Tensor]:
    """Weights of the same function, with the most important heads and neurons of every layer first."""
    network = DynaBert(architecture)
    network.load_state_dict(weights)
    rewire(network, importances(network, batches))
    return network.state_dict()


def importances(network: DynaBert, batches: Batches) -> dict[str, tuple[Tensor, Tensor]]:
    """How much the loss would change without each head and each neuron, by layer, to first order.

    DynaBERT's: the absolute gradient of the loss by a factor in front of a head's or neuron's output, which is the sum
    of weight times gradient over the weights that read it; summed over batches.

    Args:
        network: with gradients; left with none and with its largest subnet active.
        batches: network inputs and labels.

    Returns:
        By the name of the layer: (heads,) and (neurons,).
    """
    sizes = network.config
    apply(bind(network, network.space.largest(), None))
    found = {
        f"bert.encoder.layer.{number}": (torch.zeros(sizes.heads), torch.zeros(sizes.neurons))
        for number in range(sizes.layers)
    }
    for x, labels in batches:
        network.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(*x), labels))
        for layer, (heads, neurons) in found.items():
            heads.add_(_without_each(network.get_parameter(f"{layer}.attention.output.dense.weight"), sizes.heads))
            neurons.add_(_without_each(network.get_parameter(f"{layer}.output.dense.weight"), sizes.neurons))
    network.zero_grad()
    return found


def rewire(network: DynaBert, found: dict[str, tuple[Tensor, Tensor]]) -> None:
    """Put the most important heads and neurons of every layer first; what the whole network computes stays."""
    for layer, (heads, neurons) in found.items():
        width = network.config.hidden // network.config.heads
        order = torch.argsort(heads, descending=True, stable=True)
        features = (order[:, None] * width + torch.arange(width)).flatten()
        for part in ("query", "key", "value"):
            _permute(network, f"{layer}.attention.self.{part}", features)
        _permute_inputs(network, f"{layer}.attention.output.dense", features)
        order = torch.argsort(neurons, descending=True, stable=True)
        _permute(network, f"{layer}.intermediate.dense", order)
        _permute_inputs(network, f"{layer}.output.dense", order)


def _read_pieces(path: Path, most: int) -> tuple[str, ...]:
    try:
        pieces = tuple(path.read_text(encoding="utf-8").splitlines())
        tokenizer = Tokenizer(pieces)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a vocabulary of BERT's, one piece a line ({error})") from None
    if len(pieces) > most or any(" " in piece for piece in pieces):
        raise ConfigError(f"{path}: {len(pieces)} pieces, for a network that knows {most}; none may hold a space")
    if tokenizer.padding != PADDING:
        raise ConfigError(f"{path}: {PADDING_PIECE} must stand first, as in BERT's own vocabularies")
    return pieces


def _without_each(weight: Tensor, units: int) -> Tensor:
    """Of each unit that a matrix reads: |sum of weight times gradient|."""
    assert weight.grad is not None
    return (weight.detach() * weight.grad).sum(0).view(units, -1).sum(1).abs()


@torch.no_grad()
def _permute(network: DynaBert, name: str, order: Tensor) -> None:
    for parameter in network.get_submodule(name).parameters():
        parameter.copy_(parameter[order])


@torch.no_grad()
def _permute_inputs(network: DynaBert, name: str, order: Tensor) -> None:
    weight = network.get_parameter(f"{name}.weight")
    weight.copy_(weight[:, order])
