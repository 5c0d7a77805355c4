"""The process that packs one subnet: ``python -m superserve.serving.residency.pack_process TASK``.

It takes only the time that nobody else wants, and is the first to go if memory runs out: nothing of it may be felt by
what is served beside it.
"""

import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from superserve.clock import NS_PER_S, monotonic_ns, process_cpu_ns
from superserve.engine import PACKED, Engine, EngineChoice
from superserve.errors import ModelFolderError, SuperServeError
from superserve.file_lock import alone
from superserve.model_folder import ModelFolder
from superserve.processes import end_with_parent
from superserve.serving.devices import CPU, batch_grid
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet.packed_store import (
    PackRecord,
    find_pack,
    hashes,
    mapped_bytes,
    pack_path,
    write_record,
)
from superserve.supernet.runtimes.contest import PROGRAM, best_ratios, fastest, worth_keeping
from superserve.supernet.runtimes.installed import chosen
from superserve.supernet.runtimes.sessions import Arrays

if TYPE_CHECKING:
    from superserve.supernet.packed_engine import ModuleEngine
    from superserve.supernet.runtimes.build import RuntimeBuilder

_LOCK_FILE: Final = ".lock"
_UNFINISHED: Final = ".packing-"
_SEED: Final = 0

#: Rounds of runs behind the ratios of a batch size: as many as there is time for, within these.
_LEAST_ROUNDS: Final = 3
_MOST_ROUNDS: Final = 15
_ROUNDS_NS: Final = NS_PER_S


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
        wanted = None if task.runtimes is None else chosen(task.runtimes, task.dtype)
        kept = None if task.force else find_pack(folder, task.dtype, task.subnet, task.engine, wanted)
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
    """Write what runs a subnet, and its record, into a folder; each of it is checked as it is built, and timed here.

    Raises:
        SuperServeError: as `pack`.
    """
    # Here, since what is kept is found without them, thirty times as fast.
    from superserve.serving.engines import load_engine  # noqa: PLC0415
    from superserve.supernet.packed.build import build_packed  # noqa: PLC0415
    from superserve.supernet.packed_engine import Loader, ModuleEngine  # noqa: PLC0415
    from superserve.supernet.runtimes.build import RuntimeBuilder  # noqa: PLC0415

    began_ns = monotonic_ns()
    build_packed(folder, task.subnet, task.dtype, stage)
    tried = chosen(task.runtimes, task.dtype)
    loader = Loader.of(folder, task.dtype)
    builder = RuntimeBuilder(folder, task.subnet, loader, stage)
    engines, left = builder.build(tuple(tried))
    behind = load_engine(folder, EngineChoice(CPU, PACKED, task.dtype, task.engine).behind)
    program = ModuleEngine(PROGRAM, task.dtype, behind.subnet_ids, loader.module(PROGRAM, stage))
    most = folder.config.max_batch_size
    inputs = folder.example_inputs(most, np.random.default_rng(_SEED))
    batches = tuple(rows for rows in batch_grid(most) if rows <= len(inputs[0]))
    ratios = _ratios({PROGRAM: program, **engines}, behind, task.subnet, inputs, batches)
    kept, nbytes_each = _kept(builder, engines, ratios, left, batches)
    for name in engines.keys() - set(kept):
        left.setdefault(name, "not faster by enough for the memory that it takes in every worker")
        builder.remove(name)
    runtimes = {name: tried[name] for name in kept if name != PROGRAM}
    record = PackRecord(
        subnet=folder.front.subnets[task.subnet].id,
        nbytes=mapped_bytes(stage, kept),
        nbytes_each=nbytes_each,
        seconds=round((monotonic_ns() - began_ns) / NS_PER_S, 1),
        behind=task.engine,
        batches=batches,
        ratios=best_ratios(ratios, kept),
        runs=fastest(ratios, kept),
        runtimes=runtimes,
        tried=tried,
        left=left,
        sha256=hashes(stage, runtimes),
    )
    write_record(stage, record)
    return record


def _kept(
    builder: "RuntimeBuilder",
    engines: Mapping[str, "ModuleEngine"],
    ratios: dict[str, tuple[float, ...]],
    left: dict[str, str],
    batches: Sequence[int],
) -> tuple[tuple[str, ...], int]:
    """What is worth keeping of all that passes the last check, and what that takes in each worker.

    The check takes seconds: only of what would be kept it is worth them. What fails leaves ``ratios`` for ``left``.
    """
    while True:
        kept = worth_keeping(ratios)
        runtime = next((name for name in kept if name != PROGRAM), None)
        if runtime is None:
            return kept, 0
        try:
            return kept, builder.check(engines[runtime], batches)
        except ModelFolderError as error:
            left[runtime] = str(error)
            del ratios[runtime]


def _ratios(
    engines: Mapping[str, Engine], behind: Engine, subnet: int, inputs: Arrays, batches: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    """By engine and batch size: its time over that of the engine behind, medians of runs in turns."""
    found: dict[str, list[float]] = {name: [] for name in engines}
    for rows in batches:
        rounds = list(_rounds(engines, behind, subnet, [array[:rows] for array in inputs]))
        for name, ratios in found.items():
            ratios.append(round(statistics.median(each[name] for each in rounds), 4))
    return {name: tuple(ratios) for name, ratios in found.items()}


def _rounds(engines: Mapping[str, Engine], behind: Engine, subnet: int, batch: Arrays) -> Iterator[dict[str, float]]:
    """The times of engines over that of another, in turns: whatever else the machine does happens to all.

    Processor time, of which there is one thread: this process waits for its core most of the time.
    """
    for engine in (*engines.values(), behind):  # the first batch of a size finds nothing prepared
        engine.run(subnet, batch)
    until_ns = monotonic_ns() + _ROUNDS_NS
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and monotonic_ns() > until_ns:
            return
        taken_ns = {name: _taken_ns(engine, subnet, batch) for name, engine in engines.items()}
        behind_ns = _taken_ns(behind, subnet, batch)
        yield {name: taken / behind_ns for name, taken in taken_ns.items()}


def _taken_ns(engine: Engine, subnet: int, inputs: Arrays) -> int:
    began_ns = process_cpu_ns()
    engine.run(subnet, inputs)
    return process_cpu_ns() - began_ns


if __name__ == "__main__":
    main()
