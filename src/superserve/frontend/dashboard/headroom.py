"""How much more the workers could take if every request ran the fastest subnet: a signal to scale on.

A server that degrades shows no queue and misses no deadline long after it has begun to give up accuracy. What is left
until it cannot degrade further is what a burst may be.
"""

from collections.abc import Iterable

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.serving.dataplane import ServedModel


def headroom(demands: Iterable[tuple[ServedModel, float]], workers: float) -> float:
    """The part of the workers' time that is left at the fastest subnets; below 0 if more is asked for.

    Args:
        demands: models, and the rows per second that are offered to them.
        workers: live ones, counted as `Scheduler.capacity` does; without any, there is no headroom.
    """
    if not workers:
        return 0.0
    needed = sum(rows_per_s * row_ns(model) for model, rows_per_s in demands if rows_per_s) / NS_PER_S
    return 1.0 - needed / workers


def row_ns(model: ServedModel) -> float:
    """What a row takes of a worker's time at least: in the best batch of the fastest subnet that meets the SLO.

    Latencies are the profile's medians, as long as they last at present, for the longest texts where lengths differ; to
    each batch comes the mean time in which its worker waits for it.
    """
    router, slo_ns = model.router, model.slo_ms * NS_PER_MS
    table, wait = router.table, router.telemetry.wait
    observed = sum(wait.counts)
    wait_ns = wait.total / observed if observed else 0.0
    takes_ns = {
        rows: table.typical_ns[router.policy.subnets[0]][rows] * router.scheduler.drift + wait_ns
        for rows in table.batches
    }
    fit = [rows for rows in table.batches if takes_ns[rows] <= slo_ns] or [table.batches[0]]
    return min(takes_ns[rows] / rows for rows in fit)
