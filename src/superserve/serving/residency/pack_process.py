"""The process that packs one subnet: ``python -m superserve.serving.residency.pack_process TASK``.

It takes only the time that nobody else wants, and is the first to go if memory runs out: nothing of it may be felt by
what is served beside it.
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from superserve.clock import NS_PER_S, monotonic_ns, process_cpu_ns
from superserve.engine import Engine, EngineChoice
from superserve.errors import ModelFolderError, SuperServeError
from superserve.file_lock import alone
from superserve.model_folder import ModelFolder
from superserve.processes import end_with_parent
from superserve.serving.devices import CPU, batch_grid
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet.packed_store import PackRecord, find_pack, hashes, pack_path, write_record

_LOCK_FILE: Final = ".lock"
_UNFINISHED: Final = ".packing-"
_SEED: Final = 0

#: Pairs of runs behind the ratio of a batch size: as many as there is time for, within these.
_LEAST_PAIRS: Final = 3
_MOST_PAIRS: Final = 15
_PAIRS_NS: Final = NS_PER_S


def main() -> None:
    """Do a task, and print its record as JSON in the last line."""
    end_with_parent()
    task = msgspec.json.decode(sys.argv[1], type=PackTask)
    if task.background:
        stand_back(task.cores)
    try:
        record = pack(task)
    except (SuperServeError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(record).decode() + "\n")


def stand_back(cores: Sequence[int]) -> None:
    """Run only when nobody else wants a core, on any of these, and be the first to be ended when memory is short."""
    if cores:
        os.sched_setaffinity(0, cores)
    os.nice(19)
    # Whoever wakes up takes the core from it at once, which a low priority alone does not see to.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError):  # where the kernel has no such file
        Path("/proc/self/oom_score_adj").write_text("1000")


def pack(task: PackTask) -> PackRecord:
    """Pack a subnet and keep it in the user's cache; or find that it is kept, every byte of it.

    Of several processes that pack subnets of a model one is at work. What one that was killed left is removed.

    Raises:
        SuperServeError: if the subnet cannot be packed, or computes something else than eager float32.
        OSError: if the files cannot be written.
    """
    folder = ModelFolder(Path(task.folder), bundled=task.bundled)
    path = pack_path(folder, task.dtype, task.subnet)
    path.parent.mkdir(parents=True, exist_ok=True)
    for private in (path.parent, path.parent.parent, path.parent.parent.parent):
        private.chmod(0o700)
    with alone(path.parent / _LOCK_FILE):
        kept = None if task.force else find_pack(folder, task.dtype, task.subnet, task.engine)
        if kept is not None:
            return kept.record
        for left in path.parent.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as scratch:
            stage = Path(scratch) / "pack"
            record = build(folder, task, stage)
            if path.exists():  # a process that has it mapped keeps what it had
                path.rename(Path(scratch) / "old")
            stage.rename(path)
    return record


def build(folder: ModelFolder, task: PackTask, stage: Path) -> PackRecord:
    """Write a subnet's program, weights and record into a folder; it is checked by `build_packed`, and timed here.

    Raises:
        SuperServeError: as `pack`.
    """
    # Here, since what is kept is found without them, thirty times as fast.
    from superserve.serving.engines import load_engine  # noqa: PLC0415
    from superserve.supernet.packed.build import build_packed  # noqa: PLC0415
    from superserve.supernet.packed.module import PackedModule, SharedParts  # noqa: PLC0415
    from superserve.supernet.packed_engine import Mapped, PackedEngine  # noqa: PLC0415
    from superserve.supernet.reduced import load_supernet_in  # noqa: PLC0415

    began_ns = monotonic_ns()
    built = build_packed(folder, task.subnet, task.dtype, stage)
    taken_ns = monotonic_ns() - began_ns
    shared = SharedParts.of(folder, load_supernet_in(folder, task.dtype))
    behind = load_engine(folder, EngineChoice(CPU, task.engine, task.dtype))
    engine = PackedEngine(behind, lambda _: Mapped(PackedModule.load(stage, shared)), folder.config.inputs)
    if not engine.reside([task.subnet]):
        raise ModelFolderError(f"{folder.path}: subnet {task.subnet} was packed, and cannot be run: see above")
    most = folder.config.max_batch_size
    inputs = folder.example_inputs(most, np.random.default_rng(_SEED))
    batches = [rows for rows in batch_grid(most) if rows <= len(inputs[0])]
    ratios = tuple(
        round(statistics.median(_ratios(engine, behind, task.subnet, [array[:rows] for array in inputs])), 4)
        for rows in batches
    )
    record = PackRecord(
        subnet=folder.front.subnets[task.subnet].id,
        nbytes=built.nbytes,
        seconds=round(taken_ns / NS_PER_S, 1),
        behind=task.engine,
        batches=tuple(batches),
        ratios=ratios,
        sha256=hashes(stage),
    )
    write_record(stage, record)
    return record


def _ratios(engine: Engine, behind: Engine, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> Iterator[float]:
    """The time of one engine over that of another, in turns: whatever else the machine does happens to both.

    Processor time, of which there is one thread: this process waits for its core most of the time.
    """
    until_ns = monotonic_ns() + _PAIRS_NS
    for pair in range(_MOST_PAIRS):
        if pair >= _LEAST_PAIRS and monotonic_ns() > until_ns:
            return
        yield _taken_ns(engine, subnet, inputs) / _taken_ns(behind, subnet, inputs)


def _taken_ns(engine: Engine, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> int:
    began_ns = process_cpu_ns()
    engine.run(subnet, inputs)
    return process_cpu_ns() - began_ns


if __name__ == "__main__":
    main()
