"""Running the policy grid: jobs over all cores, each finished run kept in a file at once."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

import superserve
from superserve.experiments.grid_cells import Cell
from superserve.experiments.parallel import run_jobs
from superserve.metrics import ResultRow
from superserve.scheduling import TimeoutAction

OURS: Final = "drainfit"
SLACKFIT: Final = "slackfit"
#: Fixed subnets in a cell: all of them, or as many, spread over the front.
MOST_FIXED: Final = 8
SHEDDING: Final[TimeoutAction] = "reject"

#: What our policy alone is made of: a change there leaves the other policies' runs valid.
_OURS_ALONE: Final = ("scheduling/drainfit.py", "scheduling/arrivals.py")
_COMMON: Final = ("scheduling", "simulator", "bounds", "latency.py", "profile.py", "traces/arrivals.py")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one cell under one seed, and the bound of that cell and seed. Accuracies in per cent."""

    cell: Cell
    seed: int
    policy: str
    code: str
    """`fingerprint` of what made it."""
    requests: int
    """Length of the run, as asked for."""
    attainment: float
    accuracy: float | None
    goodput: float
    bound: float


@dataclass(frozen=True)
class Job:
    """Some policies on one cell under one seed."""

    cell: Cell
    seed: int
    policies: tuple[str, ...]
    data: Path | None
    requests: int | None


def policies(cell: Cell) -> list[str]:
    """Ours first, then all that it is measured against."""
    spread = np.linspace(0, cell.subnets - 1, min(cell.subnets, MOST_FIXED)).round().astype(int)
    ids = [subnet.id for subnet in cell.profile.subnets]
    return [OURS, SLACKFIT, "maxbatch", "maxacc", *(f"fixed:{ids[index]}" for index in spread)]


@cache
def fingerprint(policy: str) -> str:
    """Of the code that a policy's runs depend on: runs of older code are made again."""
    root = Path(superserve.__file__).parent
    files = [
        file for name in _COMMON for file in ([root / name] if name.endswith(".py") else (root / name).glob("*.py"))
    ]
    skipped = () if policy == OURS else _OURS_ALONE
    digest = hashlib.sha256()
    for file in sorted(files):
        if str(file.relative_to(root)) not in skipped:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def run_job(job: Job) -> list[Run]:
    """Simulate the policies of a job."""
    scenario = job.cell.scenario(job.data, job.requests)
    bound = scenario.bound(job.seed)
    return [_run(job, policy, scenario.row(policy, job.seed, SHEDDING), bound) for policy in job.policies]


def run_grid(
    cells: Sequence[Cell],
    file: Path,
    *,
    data: Path | None = None,
    most_seeds: int | None = None,
    requests: int | None = None,
    keep_others: bool = False,
    on_progress: Callable[[int, int, str], None] | None = None,
    processes: int | None = None,
) -> list[Run]:
    """Every policy on every cell under every seed; what the file has of them is not run again.

    Args:
        cells: what to run.
        file: JSON lines, one per `Run`; appended to as runs end, so that a killed grid goes on where it was.
        data: folder of the recordings.
        most_seeds: fewer seeds than the cells ask for, for a first look.
        requests: length of a run, for a first look; default: what the cells ask for.
        keep_others: take the other policies' runs as they are, whatever code made them.
        on_progress: called with (jobs done, jobs in all, what was done last).
        processes: how many at a time; default: one per core.

    Returns:
        The runs of these cells, in order of cell, seed and policy.
    """
    known = _known(file, requests, keep_others=keep_others)
    wanted = [
        (cell, seed, policies(cell)) for cell in cells for seed in range(min(cell.seeds, most_seeds or cell.seeds))
    ]
    jobs = []
    for cell, seed, names in wanted:
        missing = tuple(name for name in names if (cell, seed, name) not in known)
        if missing:
            jobs.append(Job(cell, seed, missing, data, requests))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as log:
        for done, (job, runs) in enumerate(run_jobs(run_job, jobs, processes=processes), 1):
            log.write(b"".join(msgspec.json.encode(run) + b"\n" for run in runs))
            log.flush()
            known.update({(run.cell, run.seed, run.policy): run for run in runs})
            if on_progress is not None:
                on_progress(done, len(jobs), f"{job.cell.name}, seed {job.seed}")
    return [known[cell, seed, name] for cell, seed, names in wanted for name in names]


def _run(job: Job, policy: str, row: ResultRow, bound: float) -> Run:
    return Run(
        cell=job.cell,
        seed=job.seed,
        policy=policy,
        code=fingerprint(policy),
        requests=job.requests or job.cell.requests,
        attainment=row.slo_attainment,
        accuracy=row.mean_serving_accuracy,
        goodput=row.goodput_weighted_accuracy,
        bound=bound,
    )


def _known(file: Path, requests: int | None, *, keep_others: bool) -> dict[tuple[Cell, int, str], Run]:
    """The runs of a file that are still valid."""
    codes = {True: fingerprint(OURS), False: fingerprint(SLACKFIT)}
    return {
        (run.cell, run.seed, run.policy): run
        for run in _read(file)
        if (run.code == codes[run.policy == OURS] or (keep_others and run.policy != OURS))
        and run.requests == (requests or run.cell.requests)
    }


def _read(file: Path) -> Iterable[Run]:
    if not file.exists():
        return
    decoder = msgspec.json.Decoder(Run)
    for line in file.read_bytes().splitlines():
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:  # the last line of a killed run
            continue
