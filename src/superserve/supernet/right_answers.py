"""How many labelled examples each engine and dtype got right on this machine, kept in the user's cache.

Counting takes seconds to minutes, starting a worker must not. So it is done once, by whoever comes first
(``accuracy.py``), and is worth something only for what was counted: the same model, version, torch, processor and
device. The counts of eager float32 are kept like the others, which are held against them.

Nothing here imports torch: the router decides which engine its workers run.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from superserve.errors import ModelFolderError
from superserve.file_lock import alone
from superserve.model_folder import ModelFolder, cache_folder, write_json
from superserve.supernet.builds import Target, check_ours, this_machine
from superserve.supernet.packed.fitting_source import fitting_hash

logger = logging.getLogger(__name__)

#: Raised whenever counts of before must not be used any more.
FORMAT: Final = 1

#: Accuracy that an engine may lose against eager float32, in points of a set of examples (at least one example).
MOST_POINTS: Final = 0.1

_CPU: Final = "cpu"

_FIX: Final = "count again with `superserve evaluate`"


class Runs(NamedTuple):
    """What examples are run through."""

    engine: str
    """As `Engine.name`."""
    dtype: str
    """As `Engine.dtype`."""
    device: str = _CPU
    """``cpu``, or the name of the GPU."""

    def __str__(self) -> str:
        return f"engine {self.engine} ({self.dtype})" + ("" if self.device == _CPU else f" on {self.device}")


#: What every other engine and dtype is held against.
REFERENCE: Final = Runs("eager", "float32")


class RightAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many examples of a set one subnet got right."""

    subnet: str
    """Its id."""
    examples: str
    """The set: `examples_hash`."""
    n: int
    """Number of examples in it."""
    right: int
    """Those whose label is the class with the highest score."""


class Loss(NamedTuple):
    """What a subnet gets wrong on one set of examples that eager float32 gets right, in sum."""

    subnet: str
    n: int
    lost: int
    """Below 0 if some are won."""

    @property
    def points(self) -> float:
        """Points of accuracy."""
        return 100 * self.lost / self.n

    @property
    def is_too_much(self) -> bool:
        """Whether it is more than `MOST_POINTS`, and more than a single example."""
        return self.lost > max(MOST_POINTS * self.n / 100, 1)


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a file of counts."""

    format: int
    model_hash: str
    target: Target
    runs: Runs
    counts: tuple[RightAnswers, ...]


def examples_hash(inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> str:
    """What tells a set of labelled examples from others."""
    digest = hashlib.sha256()
    for array in (inputs, labels):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def counts_path(folder: ModelFolder, runs: Runs) -> Path:
    """Where the counts of an engine and dtype are kept, for this machine, torch, version and what int8 is fitted to."""
    key = (FORMAT, this_machine(runs.dtype), runs, fitting_hash(folder, runs.dtype))
    digest = hashlib.sha256(msgspec.json.encode(key)).hexdigest()
    where = cache_folder() / "accuracy" / f"{folder.config.name}-{folder.model_hash[:16]}"
    return where / f"{runs.engine}-{runs.dtype}-{digest[:16]}.json"


def kept_answers(folder: ModelFolder, runs: Runs) -> tuple[RightAnswers, ...]:
    """All that was counted here; none if nothing was.

    What lies there and may not be used is told in a warning, and counted again.
    """
    path = counts_path(folder, runs)
    if not path.exists():
        return ()
    try:
        for ours in (path.parent, path):
            check_ours(ours, _FIX)
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except (OSError, msgspec.MsgspecError, ModelFolderError) as error:
        logger.warning("ignoring counts of right answers: %s: %s", path, error)
        return ()
    fits = (kept.format, kept.model_hash, kept.target, kept.runs) == (
        FORMAT,
        folder.model_hash,
        this_machine(runs.dtype),
        runs,
    )
    return kept.counts if fits else ()


def keep_answers(folder: ModelFolder, runs: Runs, counts: Iterable[RightAnswers]) -> None:
    """Keep counts, in the place of those of the same subnets and examples.

    Raises:
        ModelFolderError: if the user's cache cannot be written, or others may write there, too.
    """
    path = counts_path(folder, runs)
    with _locked(path):
        merged = {(count.subnet, count.examples): count for count in (*kept_answers(folder, runs), *counts)}
        kept = _Kept(
            format=FORMAT,
            model_hash=folder.model_hash,
            target=this_machine(runs.dtype),
            runs=runs,
            counts=tuple(merged.values()),
        )
        try:
            write_json(path, kept)
            path.chmod(0o600)
        except OSError as error:
            raise _unwritable(path, error) from None


@contextmanager
def counting_alone(folder: ModelFolder, runs: Runs) -> Iterator[None]:
    """Let one process count at a time: those that wait find what it has kept.

    Raises:
        ModelFolderError: as `keep_answers`: before anything is counted.
    """
    with _locked(counts_path(folder, runs).with_suffix(".counting")):
        yield


def losses(folder: ModelFolder, runs: Runs) -> list[Loss]:
    """What is known of an engine and dtype: for each subnet and set of examples that eager float32 has seen, too."""
    expected = {(count.subnet, count.examples): count for count in kept_answers(folder, REFERENCE)}
    return [
        Loss(found.subnet, found.n, expected[key].right - found.right)
        for found in kept_answers(folder, runs)
        if (key := (found.subnet, found.examples)) in expected
    ]


def why_refused(folder: ModelFolder, runs: Runs, subnets: Iterable[str] | None = None) -> str:
    """Why an engine and dtype that is known to lose accuracy is not used; empty if nothing is known against it.

    Args:
        folder: the model.
        runs: what is to be served.
        subnets: ids of those that it is to run; None means the whole front.
    """
    chosen = None if subnets is None else set(subnets)
    found = [loss for loss in losses(folder, runs) if loss.is_too_much and (chosen is None or loss.subnet in chosen)]
    if not found:
        return ""
    told = ", ".join(f"{loss.subnet} {loss.points:.2f} points ({loss.lost} of {loss.n} examples)" for loss in found)
    parts = (("dtype", runs.dtype, REFERENCE.dtype), ("engine", runs.engine, REFERENCE.engine))
    instead = next((f"--{what} {best}" for what, used, best in parts if used != best), f"--device {REFERENCE.device}")
    return (
        f"{folder.path}: {runs} loses more than {MOST_POINTS:g} points of accuracy against eager float32, and is not "
        f"used: {told}: use {instead} (counted once, and kept in {counts_path(folder, runs)})"
    )


def refuse_losses(folder: ModelFolder, runs: Runs, subnets: Iterable[str] | None = None) -> None:
    """Refuse an engine and dtype that is known to lose accuracy; see `why_refused`.

    Raises:
        ModelFolderError: naming the subnets, what they lose, and what to use instead.
    """
    if reason := why_refused(folder, runs, subnets):
        raise ModelFolderError(reason)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, in a folder that is made if it is not there."""
    with ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_ours(path.parent, _FIX)  # else nobody would read what is kept, and a loss would go unnoticed
            held.enter_context(alone(path.with_suffix(f"{path.suffix}.lock")))
        except OSError as error:
            raise _unwritable(path, error) from None
        yield


def _unwritable(path: Path, error: OSError) -> ModelFolderError:
    return ModelFolderError(f"{path}: counts of right answers cannot be kept there: {error}")
