"""Pack one subnet: trace it, rewrite it, write it down, and see that it computes what eager float32 does."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.engine import INT8, one_copy_dtype
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import check_subnet
from superserve.supernet.builds import this_machine
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed.examples import fitting_examples
from superserve.supernet.packed.fuse import fold_norms, optimise
from superserve.supernet.packed.lower import Lowering
from superserve.supernet.packed.memory import check_torch
from superserve.supernet.packed.program import FORMAT, PROGRAM_FILE, WEIGHTS_FILE, Program
from superserve.supernet.packed.quantise import quantise
from superserve.supernet.packed.ranges import fit
from superserve.supernet.packed.trace import Traced, graph_inputs, trace_subnet
from superserve.supernet.packed_engine import Loader, ModuleEngine
from superserve.supernet.points import LabelledExamples, check_points, count
from superserve.supernet.reduced import TORCH_DTYPES
from superserve.supernet.right_answers import REFERENCE, Runs, refuse_losses
from superserve.supernet.runtimes.contest import PROGRAM

#: The largest batch that a fresh subnet is tried with.
_MOST_ROWS: Final = 16

#: Rows of a batch that integers are fitted to.
_FITTED_ROWS: Final = 16

#: Parts of a subnet's large layers that stay float32, those that lose most first, until the rest is accurate enough.
_PARTS_LEFT: Final = (0.0, 0.125, 0.375)

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
        dtype: ``float32``, ``bfloat16``, or ``int8``: large layers in integers, or as many as the accuracy allows.
        path: the folder to write; one that is there is replaced. A process that has it mapped keeps what it had.

    Raises:
        ConfigError: if this torch cannot pack, or the subnet holds something that cannot be packed.
        ModelFolderError: if the model cannot be loaded, the outputs or the accuracy differ from eager
            float32's by more than `accuracy.py` allows, there are no examples for ``int8``, or the folder cannot be
            written.
    """
    check_torch()
    fitting = fitting_examples(folder) if dtype == INT8 else None
    if fitting is None:
        graphs = _floating(folder, subnet, dtype)
    else:
        graphs = integer_graphs(folder, subnet, _batches(folder, fitting.fitted))
    check = _Check(folder, subnet, dtype, fitting and fitting.checked)
    about = About(folder.model_hash, folder.front.subnets[subnet].id, dtype)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            stage = Path(scratch) / "packed"
            nbytes = _first_accurate(graphs, about, stage, check)
            if path.exists():
                path.rename(Path(scratch) / "old")
            stage.rename(path)
    except OSError as error:
        raise ModelFolderError(f"{path}: a packed subnet cannot be kept there: {error}") from None
    return PackedBuild(path, nbytes)


def _floating(folder: ModelFolder, subnet: int, dtype: str) -> Iterator[Traced]:
    """The one graph of a subnet in a floating-point dtype."""
    traced = trace_subnet(folder, subnet, dtype)
    optimise(traced.graph, TORCH_DTYPES[dtype])
    yield traced


def integer_graphs(folder: ModelFolder, subnet: int, batches: Sequence[Sequence[Tensor]]) -> Iterator[Traced]:
    """Graphs of a subnet in int8 that are ready to run, each with more layers in float32 than the one before.

    Args:
        folder: the model.
        subnet: its index in the front.
        batches: what to fit to: inputs of the graph (`graph_inputs`).
    """
    traced = _folded(folder, subnet)
    ranges = fit(traced.graph, batches)
    for float32 in dict.fromkeys(ranges.noisiest(part) for part in _PARTS_LEFT):
        quantise(traced.graph, ranges.affines, float32)
        optimise(traced.graph, TORCH_DTYPES[one_copy_dtype(INT8)])
        yield traced
        traced = _folded(folder, subnet)  # the next one begins with a graph that was not rewritten


def _folded(folder: ModelFolder, subnet: int) -> Traced:
    traced = trace_subnet(folder, subnet, one_copy_dtype(INT8))
    fold_norms(traced.graph)
    return traced


def _batches(folder: ModelFolder, fitted: np.ndarray[Any, Any]) -> list[list[Tensor]]:
    starts = range(0, len(fitted), _FITTED_ROWS)
    return [graph_inputs(folder, [fitted[start : start + _FITTED_ROWS]]) for start in starts]


def _first_accurate(graphs: Iterator[Traced], about: "About", stage: Path, check: "_Check") -> int:
    """Write the first of several graphs that passes; returns the bytes of its weights.

    Raises:
        ModelFolderError: what the last one failed with.
    """
    failed: ModelFolderError | None = None
    for traced in graphs:
        shutil.rmtree(stage, ignore_errors=True)
        nbytes = write_packed(traced, about, stage)
        try:
            check.passes(stage)
        except ModelFolderError as error:
            failed = error
        else:
            return nbytes
    assert failed is not None
    raise failed


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


class _Check(NamedTuple):
    """Runs what was packed as a worker will, on real inputs, and compares it with eager float32."""

    folder: ModelFolder
    subnet: int
    dtype: str
    checked: LabelledExamples | None
    """On which to compare; None: bundled test data, or random rows."""

    def passes(self, path: Path) -> None:
        """Return if it may be used.

        Raises:
            ModelFolderError: if it may not.
        """
        folder = self.folder
        module = Loader.of(folder, self.dtype).module(PROGRAM, path)
        most = min(_MOST_ROWS, folder.config.max_batch_size)
        eager = EagerEngine(load_supernet(folder))
        engine = ModuleEngine(PROGRAM, self.dtype, eager.subnet_ids, module)
        check_subnet(engine, eager, self.subnet, self._rows(most), [1, 3, most])
        if self.checked is None:
            check_points(engine, lambda: eager, folder, subnets=[self.subnet], again=True)
        else:
            runs, ids = Runs(engine.name, engine.dtype), [engine.subnet_ids[self.subnet]]
            count(lambda: engine, folder, runs, self.checked, ids, again=True)
            count(lambda: eager, folder, REFERENCE, self.checked, ids)
            refuse_losses(folder, runs, ids)
        module.close()

    def _rows(self, most: int) -> list[np.ndarray[Any, Any]]:
        if self.checked is None:
            return self.folder.example_inputs(most, np.random.default_rng(_SEED))
        return [self.checked.inputs[:most]]
