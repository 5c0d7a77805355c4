"""Checkpoints of a training run: one safetensors file, whose metadata holds the rest as JSON.

One file, so that tensors and counters can never come from different moments; renamed into place, so that a run killed
while writing leaves the checkpoint before.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from superserve.errors import CheckpointError

_STATE: Final = "superserve.training"
_T = TypeVar("_T", bound=msgspec.Struct)


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: msgspec.Struct) -> None:
    """Write tensors and state as one file, on the disk before it takes the place of the last one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with scratch.open("wb") as file:
        file.write(save(contiguous, {_STATE: msgspec.json.encode(state).decode()}))
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def load_checkpoint(path: Path, kind: type[_T]) -> tuple[dict[str, Tensor], _T]:
    """Read what `save_checkpoint` wrote.

    Raises:
        CheckpointError: if the file is not a readable checkpoint with a state of this kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            state = msgspec.json.decode(dict(file.metadata() or {}).get(_STATE, ""), type=kind)
    except (SafetensorError, OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of a training run ({error}): train without --resume") from None
    return tensors, state


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state by ``NUMBER.KEY``, parameters numbered in the order of its groups.

    Learning rates and the like are not state here: a run sets them from its plan.
    """
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
