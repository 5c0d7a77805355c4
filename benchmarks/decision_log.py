"""What it costs per request to keep what was decided: a router with and without its log, workers that take no time.

Rounds of both are interleaved in one process, from `Router.submit` to the answer: the decisions themselves, the pool
and the answers are in both. Batches of one are the worst case, for what is kept of a batch is kept once.

    python benchmarks/decision_log.py [--json FILE]
"""

import asyncio
from collections.abc import Callable

from http_path import CONFIG, noop_profile, zeros
from side_by_side import json_argument, measure, table, write
from superserve.clock import NS_PER_S, MonotonicClock
from superserve.errors import SuperServeError
from superserve.profile import LatencyTable
from superserve.scheduling import Scheduler, create_policy
from superserve.serving.config import ModelSettings
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import Answer
from superserve.serving.router import Router
from superserve.serving.router_memory import settle_memory
from superserve.serving.shared_pool import SharedPool

#: More than are kept: what is measured is the steady state, in which the oldest go.
REQUESTS = 24_576
SIZES = (1, 8, 64)


class Nobody:
    """Waits for the end of requests."""

    def answered(self, answer: Answer) -> None:
        """See `Responder`."""

    def refused(self, error: SuperServeError) -> None:
        """See `Responder`."""


async def served(decisions: int, size: int) -> Callable[[], int]:
    """Work of a round: requests in batches of a size, each one answered as soon as it is launched."""
    clock = MonotonicClock(asyncio.get_running_loop())
    fake = FakePool(1, zeros)
    pool = SharedPool(fake, clock)
    scheduler = Scheduler(
        create_policy("fixed:largest", LatencyTable(noop_profile())), overhead_ns=0, shared=pool.workers
    )
    router = Router(scheduler, pool, clock, output_row_bytes=[40], decisions=decisions)
    await router.start()
    inputs, nobody = [bytes(CONFIG.inputs[0].row_bytes)], Nobody()

    def work() -> int:
        for number in range(REQUESTS // size):
            for _ in range(size):
                now_ns = clock.now_ns()
                router.submit(
                    arrival_ns=now_ns,
                    deadline_ns=now_ns + NS_PER_S,
                    rows=1,
                    min_accuracy=0.0,
                    priority=0,
                    inputs=inputs,
                    responder=nobody,
                    request_id=b"%x" % number,
                )
            while fake.running:
                fake.finish(0)
            fake.launched.clear()
        return REQUESTS

    return work


async def main() -> None:
    """Measure and print."""
    kept = ModelSettings().decisions
    settle_memory()
    tables = []
    for size in SIZES:
        works = {f"{count:,} decisions kept": await served(count, size) for count in (0, kept)}
        tables.append(table(f"batches of {size}, us per request", measure(works)))
    write(json_argument(__doc__ or ""), tables)


if __name__ == "__main__":
    asyncio.run(main())
