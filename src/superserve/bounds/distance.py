"""How far a run is from what no policy can pass."""

from importlib.util import find_spec
from typing import Final

import msgspec
import numpy as np

from superserve.bounds.batched import batched_bound
from superserve.bounds.costs import BatchCosts, Capacity, Prices, Stamps
from superserve.bounds.fluid import fluid_bound, fluid_prices
from superserve.bounds.one_worker import single_worker_optimum
from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.metrics import ResultRow
from superserve.profile import Profile
from superserve.simulator.conditions import ORDINARY, Conditions
from superserve.traces.trace import Trace

#: The exact optimum of one worker is looked for as long as it takes about half a millisecond per request.
_PAIRS_PER_REQUEST: Final = 10_000

#: A bound takes some 400 bytes of memory per request: ``superserve simulate`` leaves it out for longer traces.
MOST_REQUESTS: Final = 5_000_000


def accuracy_bound(
    trace: Trace,
    profile: Profile,
    *,
    workers: int,
    slo_ms: float,
    overhead_ms: float | None = None,
    conditions: Conditions = ORDINARY,
    capacity: Capacity | None = None,
) -> float:
    """An upper bound on the goodput-weighted accuracy of any policy on a trace, in per cent.

    It holds for runs of `simulate` with the same arguments, whatever the latency draws are: batches are priced at
    the profiled medians, which no simulated batch undercuts. Deadlines of different lengths are bounded tightly where
    scipy is installed (extra ``oracle``), and validly without.

    Args:
        trace: arrivals; its own SLOs hold where it has them.
        profile: what a simulated batch takes; of a text model with the shortest texts, for it is not known which batch
            would have which.
        workers: number of identical workers.
        slo_ms: deadline from arrival, in milliseconds.
        overhead_ms: dispatch overhead that every batch takes; if None, what of the profile's no batch undercuts. Where
            workers overlap batches, it passes while they run others, and counts for nothing.
        conditions: of the run; lost and slow workers lower the bound, all else in them only lowers the run.
        capacity: workers over time, where that is known otherwise; None: as the conditions say.

    Raises:
        ValueError: for an empty trace.
    """
    if not len(trace):
        raise ValueError("nothing was offered in this run: no figure is defined")
    overhead_ns = profile.usual_overhead_us * NS_PER_US if overhead_ms is None else overhead_ms * NS_PER_MS
    if profile.device.overlaps:  # it passes while the worker runs another batch
        overhead_ns = 0.0
    costs, present = _costs_and_capacity(profile.buckets[0], round(overhead_ns), workers, conditions)
    available = capacity or present
    slo_ns = np.full_like(trace.arrival_ns, round(slo_ms * NS_PER_MS)) if trace.slo_ns is None else trace.slo_ns
    # Whoever waits less than the shortest batch takes is lost anyway.
    served = slo_ns >= costs.time_ns[:, 1:].min()
    arrival_ns, deadline_ns = trace.arrival_ns[served], (trace.arrival_ns + slo_ns)[served]
    if not len(arrival_ns):
        return 0.0
    in_order = bool((np.diff(deadline_ns) >= 0).all()) and not conditions.worker_events
    if in_order and workers == 1 and capacity is None:
        optimum = single_worker_optimum(arrival_ns, deadline_ns, costs.padded(), _PAIRS_PER_REQUEST)
        if np.isfinite(optimum):
            return optimum / len(trace)
    total, prices = preemptive_bound(arrival_ns, deadline_ns, costs, available)
    if conditions.alike(workers):
        whole, _ = batched_bound(arrival_ns, deadline_ns, costs.padded(), available, prices, in_order=in_order)
        total = min(total, whole)
    return total / len(trace)


def preemptive_bound(
    arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, capacity: Capacity
) -> tuple[float, Prices]:
    """The lowest bound that lets batches be cut up at will, and what worker time is worth to it."""
    window_ns = deadline_ns - arrival_ns
    envelope = costs.envelope(float(window_ns.max()))
    total = fluid_bound(arrival_ns, deadline_ns, envelope, capacity)
    if (window_ns == window_ns[0]).all() or find_spec("scipy") is None:
        return total, fluid_prices(arrival_ns, deadline_ns, envelope, capacity)
    from superserve.bounds.windows import mixed_dual  # noqa: PLC0415  (scipy is an extra)

    mixed, prices = mixed_dual(arrival_ns, deadline_ns, costs, capacity)
    return min(total, mixed), prices


def _costs_and_capacity(
    profile: Profile, overhead_ns: int, workers: int, conditions: Conditions
) -> tuple[BatchCosts, Capacity]:
    """Batch times on the fastest worker, and how many fastest workers there are worth of from each instant on.

    A batch takes factor x latency + overhead on a worker. In time of the fastest worker, which is the worker's own
    times fastest / factor, that is at least fastest x latency + overhead x fastest / slowest.
    """
    alive = conditions.alive(workers)
    factors = {worker: conditions.factor(worker) for _, here in alive for worker in here} or {0: 1.0}
    fastest, slowest = min(factors.values()), max(factors.values())
    costs = BatchCosts.of(profile, int(overhead_ns * fastest / slowest), factor=fastest)
    speeds = [sum(fastest / factors[worker] for worker in here) for _, here in alive]
    return costs, Capacity(tuple(at_ns for at_ns, _ in alive), tuple(speeds))


def with_bound(
    row: ResultRow,
    trace: Trace,
    profile: Profile,
    *,
    overhead_ms: float | None = None,
    conditions: Conditions = ORDINARY,
) -> ResultRow:
    """The row with ``distance_to_bound`` filled in: `accuracy_bound` less its goodput-weighted accuracy, in points."""
    bound = accuracy_bound(
        trace, profile, workers=row.workers, slo_ms=row.slo_ms, overhead_ms=overhead_ms, conditions=conditions
    )
    return msgspec.structs.replace(row, distance_to_bound=bound - row.goodput_weighted_accuracy)
