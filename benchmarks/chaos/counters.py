"""What a running server has counted, as it tells Prometheus."""

from collections import Counter

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from superserve.experiments.observed import page_of


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Requests by how they ended, those that lost a worker with slack left apart; and what is left."""

    ended: dict[str, int]
    rescued: dict[str, int]
    launched_too_late: int
    waiting: int
    workers: int
    tasks: int = 0
    """Of its event loop."""


async def read_counters(metrics_url: str) -> Counters:
    """Read them.

    Raises:
        OSError: if the server does not tell.
    """
    return parse(await page_of(metrics_url))


def parse(page: str) -> Counters:
    """Out of the page that Prometheus reads, of a server of one model."""
    found: Counter[tuple[str, str]] = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name, sample.labels.get("outcome", "")] += int(sample.value)
    return Counters(
        ended=_by_outcome(found, "superserve_requests_total"),
        rescued=_by_outcome(found, "superserve_rescued_requests_total"),
        launched_too_late=found["superserve_launched_too_late_total", ""],
        waiting=found["superserve_queue_depth", ""],
        workers=found["superserve_workers", ""],
        tasks=found["superserve_tasks", ""],
    )


def _by_outcome(found: Counter[tuple[str, str]], wanted: str) -> dict[str, int]:
    return {outcome: count for (name, outcome), count in found.items() if name == wanted}
