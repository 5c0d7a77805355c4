"""Which batches of a subnet serve the most rows per time."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple


class Batch(NamedTuple):
    """Rows, and the time that they take together, dispatch included."""

    rows: int
    time_ns: int


class EfficientBatches:
    """For each subnet and span, the batch with the least time per row among those that fit into it.

    Tables are made when they are asked for, anew whenever prices have changed, which they do in steps.

    Args:
        sizes: of batches, rising.
        latency_ns: by (subnet, rows).
    """

    def __init__(self, sizes: Sequence[int], latency_ns: Sequence[Sequence[int]]) -> None:
        self._sizes = sizes
        self._latency_ns = latency_ns
        self._prices = (1.0, 0)
        self._tables: dict[int, tuple[list[int], list[Batch]]] = {}

    def price(self, drift: float, overhead_ns: int) -> None:
        """From now on a batch takes so many times its latency, and its dispatch so long."""
        if self._prices != (drift, overhead_ns):
            self._prices = (drift, overhead_ns)
            self._tables.clear()

    def best(self, subnet: int, span_ns: int) -> Batch:
        """The most efficient batch that takes less than a span, of equal ones the smallest, which may take more."""
        table = self._tables.get(subnet)
        if table is None:
            table = self._tables[subnet] = self._made(self._latency_ns[subnet])
        times, best = table
        return best[bisect_left(times, span_ns)]

    def _made(self, latency_ns: Sequence[int]) -> tuple[list[int], list[Batch]]:
        """Times of all sizes but the smallest, and for each size the best up to it."""
        drift, overhead_ns = self._prices
        best: list[Batch] = []
        times: list[int] = []
        for size in self._sizes:
            this = Batch(size, round(latency_ns[size] * drift) + overhead_ns)
            times.append(this.time_ns)
            better = not best or this.time_ns * best[-1].rows < best[-1].time_ns * this.rows
            best.append(this if better else best[-1])
        return times[1:], best
