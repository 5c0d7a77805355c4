"""Read a checkpoint file into tensors without running anything in it."""

import pickle
import re
import warnings
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import safe_globals

from superserve.errors import CheckpointError

#: What training scripts wrap the parameters in.
_WRAPPERS: Final = ("state_dict", "model")


class Checkpoint(NamedTuple):
    """What is of use in a checkpoint file."""

    tensors: dict[str, Tensor]
    """By name, on the CPU."""
    arguments: dict[str, Any]
    """What the training script was started with, where it wrote that beside the weights (``args``)."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` or safetensors file by name; see `open_checkpoint`."""
    return open_checkpoint(path).tensors


def open_checkpoint(path: Path) -> Checkpoint:
    """Read a ``torch.save`` or safetensors file.

    Python objects are never unpickled, but for the parsed command line that many training scripts store: values by
    name. A prefix ``module.`` that all names share (data-parallel training) is taken off, and what else stands beside
    the parameters (optimiser state, epoch) is left out.

    Raises:
        CheckpointError: naming the file, and whether it is missing, damaged, full of code or of no parameters.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    tensors, arguments = (_safetensors(path), {}) if path.suffix == ".safetensors" else _torch(path)
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name: give the file with the network's state_dict")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return Checkpoint(tensors, arguments)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: truncated, or not a safetensors file ({error})") from None


def _torch(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    loaded = _loaded(path)
    arguments = loaded.get("args") if isinstance(loaded, Mapping) else None
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state_dict")
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return tensors, dict(vars(arguments)) if isinstance(arguments, Namespace) else {}


def _loaded(path: Path) -> Any:  # noqa: ANN401 (whatever somebody saved)
    """The content of a file that holds nothing but tensors, plain values and command lines."""
    try:
        # Making a Namespace sets attributes of an empty object: no code of the file's runs.
        with warnings.catch_warnings(), safe_globals([Namespace]):
            # It warns of unusual pickles, which it then reads or refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_pickle_complaint(str(error))}") from None
    except (RuntimeError, EOFError, LookupError, ValueError, AttributeError, TypeError, OSError) as error:
        if "allocate memory" in str(error):
            raise
        raise CheckpointError(f"{path}: truncated, or not a file that torch.save wrote ({_first(error)})") from None


def _pickle_complaint(message: str) -> str:
    if "truncated" in message or "invalid load key" in message or "Ran out of input" in message:
        return "truncated, or not a file that torch.save wrote"
    return (
        "holds pickled Python objects, not only tensors. Loading them would run code from the file, which is never "
        "done: save its state_dict (tensors by name) and import that"
    )


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class Picker:
    """Takes tensors out of a checkpoint by any of the names they may go by.

    Args:
        tensors: the checkpoint.
        path: where it came from, for messages.
        settings: the content of the ``config.json`` beside it, and the training script's arguments; empty where there
            is neither.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.family = ""
        """Who reads it: what a checkpoint is complained about is not that it looks like its own family's."""
        self._tensors = dict(tensors)
        self._path = path
        self.renamed = 0
        """How many tensors went by another name than the first one asked for."""
        self.ignored: tuple[str, ...] = ()
        """What was left in the end."""

    def holds(self, name: str) -> bool:
        """Whether the checkpoint has a tensor of this name."""
        return name in self._tensors

    def shape(self, names: Iterable[str], dimensions: int, *, fix: str = "") -> tuple[int, ...]:
        """The shape of a tensor that says how large the network is.

        Args:
            names: of the tensor.
            dimensions: that it must have.
            fix: what a file of this family that lacks it is, and needs.

        Raises:
            CheckpointError: if it is missing or has another number of dimensions.
        """
        found = self._find(names, fix)
        shape = tuple(self._tensors[found].shape)
        if len(shape) != dimensions:
            raise CheckpointError(f"{self._path}: tensor {found!r} has shape {shape}, not {dimensions} dimensions")
        return shape

    def numbered(self, prefix: str) -> int:
        """How many numbers follow ``prefix`` in the names of tensors."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return len({match[1] for name in self._tensors if (match := pattern.search(name))})

    def take(self, names: Iterable[str], shape: tuple[int, ...]) -> Tensor:
        """The tensor under the first of these names that the checkpoint has, as contiguous float32.

        Raises:
            CheckpointError: if there is none, or it has another shape, another kind of values or no finite ones.
        """
        options = list(names)
        found = self._find(options)
        self.renamed += found != options[0]
        tensor = self._tensors.pop(found)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise CheckpointError(
                f"{self._path}: tensor {found!r} is {tensor.dtype} {tuple(tensor.shape)}, not float {shape}: "
                "a file of another network, or of another size of this one"
            )
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{self._path}: tensor {found!r} has values that are not finite: it is damaged")
        return tensor.to(torch.float32).contiguous()

    def finish(self, harmless: Iterable[str]) -> None:
        """Check that the names of all tensors not taken end in one of these.

        Raises:
            CheckpointError: naming a tensor that has no place in the network.
        """
        endings = tuple(harmless)
        unknown = [name for name in self._tensors if not name.endswith(endings)]
        if unknown:
            raise CheckpointError(
                f"{self._path}: tensor {unknown[0]!r} (and {len(unknown) - 1} more) has no place in this "
                f"family's network{self._hint()}"
            )
        self.ignored = tuple(sorted(self._tensors))

    def _find(self, names: Iterable[str], fix: str = "") -> str:
        options = list(names)
        for name in options:
            if name in self._tensors:
                return name
        raise CheckpointError(f"{self._path}: tensor {options[0]!r} is missing{self._hint(fix)}")

    def _hint(self, fix: str = "") -> str:
        family = recognise(self._tensors)
        if family not in {None, self.family}:
            return f": the file looks like one of family {family!r}"
        return f": {fix}" if fix else ""


#: A part of a name that tells a family's checkpoints from those of the families after it.
_MARKS: Final[Mapping[str, str]] = {
    "input_stem.": "ofa_resnet50",
    "feature_mix_layer.bn.": "ofa_proxyless",
    "first_conv.": "ofa_mobilenet_v3",
    "roberta.": "dynabert_roberta",
    "classifier.out_proj.": "dynabert_roberta",
    "encoder.layer.": "dynabert",
    "patch_embed_super.": "autoformer",
}


def recognise(tensors: Mapping[str, Any]) -> str | None:
    """The family that tensor names point to, if any."""
    return next((family for mark, family in _MARKS.items() if any(mark in name for name in tensors)), None)
