"""Pack one subnet: trace it, rewrite it, write it down, and see that it computes what eager float32 does."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import check_subnet
from superserve.supernet.builds import this_machine
from superserve.supernet.engine import EagerEngine, as_tensor
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed.fuse import optimise
from superserve.supernet.packed.lower import Lowering
from superserve.supernet.packed.memory import check_torch
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.packed.program import FORMAT, PROGRAM_FILE, WEIGHTS_FILE, Program
from superserve.supernet.packed.trace import Traced, trace_subnet
from superserve.supernet.points import check_points
from superserve.supernet.reduced import TORCH_DTYPES, load_supernet_in

#: The largest batch that a fresh subnet is tried with.
_MOST_ROWS: Final = 16

_SEED: Final = 0


class PackedBuild(NamedTuple):
    """A packed subnet, and where it lies."""

    path: Path
    nbytes: int
    """What it takes on the machine, beside the one copy of the weights."""


@torch.inference_mode()
def build_packed(folder: ModelFolder, subnet: int, dtype: str, path: Path) -> PackedBuild:
    """Pack a subnet for this machine into a folder, which appears when it is whole; seconds, of one thread.

    Args:
        folder: the model.
        subnet: its index in the front.
        dtype: ``float32`` or ``bfloat16``.
        path: the folder to write; one that is there is replaced. A process that has it mapped keeps what it had.

    Raises:
        ConfigError: if this torch cannot pack, or the subnet holds something that cannot be packed.
        ModelFolderError: if the model cannot be loaded, the outputs or the accuracy differ from eager
            float32's by more than `accuracy.py` allows, or the folder cannot be written.
    """
    check_torch()
    traced = trace_subnet(folder, subnet, dtype)
    optimise(traced.graph, TORCH_DTYPES[dtype])
    about = About(folder.model_hash, folder.front.subnets[subnet].id, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            stage = Path(scratch) / "packed"
            nbytes = write_packed(traced, about, stage)
            _check(folder, subnet, dtype, stage)
            if path.exists():
                path.rename(Path(scratch) / "old")
            stage.rename(path)
    except OSError as error:
        raise ModelFolderError(f"{path}: a packed subnet cannot be kept there: {error}") from None
    return PackedBuild(path, nbytes)


class About(NamedTuple):
    """What a packed subnet is of."""

    model_hash: str
    subnet: str
    dtype: str


def write_packed(traced: Traced, about: About, path: Path) -> int:
    """Write a graph that was made ready to run into a new folder; returns the bytes of its weights.

    Raises:
        ConfigError: if it holds something that a program cannot hold.
    """
    path.mkdir(mode=0o700)
    lowered = Lowering(traced.graph, traced.tensors, path / WEIGHTS_FILE)
    program = Program(
        format=FORMAT,
        model_hash=about.model_hash,
        target=this_machine(about.dtype),
        subnet=about.subnet,
        takes=traced.takes,
        nbytes=lowered.nbytes,
        inputs=len(traced.graph.inputs),
        constants=lowered.constants,
        steps=lowered.steps,
        outputs=lowered.outputs,
    )
    (path / PROGRAM_FILE).write_bytes(msgspec.json.encode(program))
    for file in (PROGRAM_FILE, WEIGHTS_FILE):
        (path / file).chmod(0o600)
    return lowered.nbytes


def _check(folder: ModelFolder, subnet: int, dtype: str, path: Path) -> None:
    """Run what was packed as a worker will, on real inputs, and compare it with eager float32."""
    module = PackedModule.load(path, SharedParts.of(folder, load_supernet_in(folder, dtype)))
    most = min(_MOST_ROWS, folder.config.max_batch_size)
    inputs = folder.example_inputs(most, np.random.default_rng(_SEED))
    engine, eager = _Packed(module, folder, dtype), EagerEngine(load_supernet(folder))
    check_subnet(engine, eager, subnet, inputs, [1, 3, most])
    check_points(engine, lambda: eager, folder, subnets=[subnet], again=True)
    module.close()


class _Packed:
    """One packed subnet as an `Engine`, whichever subnet it is asked for."""

    name = "packed"

    def __init__(self, module: PackedModule, folder: ModelFolder, dtype: str) -> None:
        self.dtype = dtype
        self.subnet_ids = tuple(record.id for record in folder.front.subnets)
        self._module = module
        self._datatypes = [tensor.datatype for tensor in folder.config.inputs]

    def actuate(self, subnet: int) -> None:
        """Nothing is to be set."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:  # noqa: ARG002
        """See `Engine.run`."""
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return [output.numpy() for output in self._module.run(tensors)]
