"""What the server carries on emulated workers: the live part of E7."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from superserve.client.result import Progress
from superserve.engine import EngineChoice
from superserve.experiments.live import LiveSetup, run_live
from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.loads import Steady
from superserve.profile import LatencyTable
from superserve.serving.emulated import ENGINE_NAME as EMULATED

#: Emulated workers sleep, but two cores must also route and generate the load.
LIVE_WORKERS: Final = (1, 2, 4, 8)
LIVE_SHARES: Final = (0.5, 0.7, 0.8, 0.9)
ATTAINED: Final = 0.999
SECONDS: Final = 4.0


async def sustained_live(lab: Lab, counts: Sequence[int]) -> dict[int, float]:
    """By number of workers, the highest tried rate that is served in time; 0 if none is.

    Loads rise until one is not carried: too little attained, or a run that is void since router or generator need too
    much of their cores.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="superserve-e7-") as scratch:
        for done, workers in enumerate(counts):
            if lab.on_progress is not None:
                lab.on_progress(done, len(counts), f"live, {workers} workers")
            found[workers] = await _sustained(lab, workers, Path(scratch))
    return found


def capacity(lab: Lab, workers: int, subnet: int) -> float:
    """Requests/s that full batches of a subnet carry, one after the other, with overhead and without a pause."""
    table = LatencyTable(lab.profile)
    row = table.latency_ns[subnet]
    return workers * max(rows / (row[rows] + lab.overhead_ms * 1e6) for rows in table.batches) * 1e9


async def _sustained(lab: Lab, workers: int, scratch: Path) -> float:
    best = 0.0
    for share in LIVE_SHARES:
        rate = share * capacity(lab, workers, 0)
        if not await _carried(lab, workers, rate, scratch):
            break
        best = rate
    return best


async def _carried(lab: Lab, workers: int, rate: float, scratch: Path) -> bool:
    source = Steady(rate, 0.0, lab.seconds(SECONDS))
    trace_file = scratch / "trace.npz"
    source.trace(0).save(trace_file)
    setup = LiveSetup(
        model="digits",
        choice=EngineChoice("emulated:r-profile", EMULATED, "none"),
        workers=workers,
        trace_name=source.name,
        trace_file=trace_file,
        slo_ms=lab.slo_ms,
        seed=0,
        profile_file=None,
        subnet_ids=tuple(subnet.id for subnet in lab.profile.subnets),
        scratch=scratch,
    )
    run = await run_live(setup, f"fixed:{lab.profile.subnets[0].id}", _silent)
    return run.row.slo_attainment >= ATTAINED and not run.void_reasons


def _silent(progress: Progress) -> None:
    """A run of seconds needs no progress of its own."""
