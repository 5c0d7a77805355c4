"""Which structure the EDF queue should be: ours, a binary heap, a balanced sorted list.

Run: ``python benchmarks/queue_structures.py [--json FILE]`` (sortedcontainers is compared if it is installed).
"""

import heapq
import itertools
from collections.abc import Callable

import numpy as np

from side_by_side import json_argument, measure, table, write
from superserve.request import Request
from superserve.scheduling import EDFQueue

DEPTH = 1_000
OPERATIONS = 2_000
PEEKED = 16


def requests(jitter: int) -> list[Request]:
    """Arrivals one apart; deadlines up to ``jitter`` out of order (0: one SLO for all)."""
    rng = np.random.default_rng(0)
    count = DEPTH + OPERATIONS
    deadlines = np.arange(count) * 10 + rng.integers(0, jitter + 1, count) * 10
    return [Request(number, number, int(deadline)) for number, deadline in enumerate(deadlines)]


def edf_queue(jitter: int, peeked: int) -> Callable[[], int]:
    """Push, peek at the most urgent, pop, at a steady depth, with the queue in use."""
    items = requests(jitter)

    def work() -> int:
        queue = EDFQueue()
        for item in items[:DEPTH]:
            queue.push(item)
        for item in items[DEPTH:]:
            queue.push(item)
            for position in range(peeked):
                queue.peek(position)
            queue.pop()
        return OPERATIONS

    return work


def heap(jitter: int, peeked: int) -> Callable[[], int]:
    """The same with heapq; an ordered peek is nsmallest."""
    items = [(item.deadline_ns, item.id, item) for item in requests(jitter)]

    def work() -> int:
        queue = items[:DEPTH]
        heapq.heapify(queue)
        for item in items[DEPTH:]:
            heapq.heappush(queue, item)
            if peeked:
                heapq.nsmallest(peeked, queue)
            heapq.heappop(queue)
        return OPERATIONS

    return work


def sorted_key_list(jitter: int, peeked: int) -> Callable[[], int] | None:
    """The same with sortedcontainers, if installed."""
    try:
        from sortedcontainers import SortedList  # noqa: PLC0415  (optional)
    except ImportError:
        return None
    items = [(item.deadline_ns, item.id, item) for item in requests(jitter)]

    def work() -> int:
        queue = SortedList(items[:DEPTH])
        for item in items[DEPTH:]:
            queue.add(item)
            if peeked:
                list(itertools.islice(queue, peeked))
            queue.pop(0)
        return OPERATIONS

    return work


def main() -> None:
    """Print push + pop at depth 1,000, with and without ordered peeks, for one SLO and for mixed ones."""
    path = json_argument(main.__doc__ or "")
    tables = []
    for jitter, peeked in itertools.product((0, 500), (0, PEEKED)):
        named = {
            "EDFQueue": edf_queue(jitter, peeked),
            "heapq": heap(jitter, peeked),
            "sortedcontainers.SortedList": sorted_key_list(jitter, peeked),
        }
        alternatives = {name: work for name, work in named.items() if work is not None}
        slos = "mixed SLOs" if jitter else "one SLO"
        tables.append(table(f"push + pop at depth {DEPTH}, {peeked} peeked, {slos}", measure(alternatives)))
    write(path, tables)


if __name__ == "__main__":
    main()
