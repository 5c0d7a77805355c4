"""When the busy workers are expected to be free."""

import heapq


class Commitments:
    """Predicted ends of running batches, with their sum at hand.

    A batch past its predicted end counts as ending now: however long it hangs, it never looks like spare capacity.
    """

    def __init__(self) -> None:
        self._end_ns: dict[int, int] = {}
        self._ends: list[tuple[int, int]] = []
        self._sum_ns = 0
        self._pending = 0
        self.changes = 0
        """Grows whenever a batch is added or removed."""
        self.latest_ns = 0
        """No batch that runs, or ran, is predicted to end later."""

    def add(self, worker: int, end_ns: int) -> None:
        """A worker took a batch that is predicted to end at ``end_ns``."""
        self.changes += 1
        self.latest_ns = max(self.latest_ns, end_ns)
        self._end_ns[worker] = end_ns
        heapq.heappush(self._ends, (end_ns, worker))
        self._sum_ns += end_ns
        self._pending += 1

    def remove(self, worker: int) -> None:
        """A worker's batch ended, or the worker did."""
        self.changes += 1
        end_ns = self._end_ns.pop(worker)
        if end_ns >= 0:
            self._sum_ns -= end_ns
            self._pending -= 1
        # Here, and not only where somebody asks: under light load, or by some policies, nobody ever does.
        ends = self._ends
        while ends and self._end_ns.get(ends[0][1]) != ends[0][0]:
            heapq.heappop(ends)

    def free_sum_ns(self, now_ns: int, workers: int) -> int:
        """Sum over all ``workers`` of the instants at which they are free: now for idle and overdue ones."""
        ends = self._ends
        while ends and ends[0][0] <= now_ns:
            end_ns, worker = heapq.heappop(ends)
            if self._end_ns.get(worker) == end_ns:
                self._end_ns[worker] = -1
                self._sum_ns -= end_ns
                self._pending -= 1
        return self._sum_ns + (workers - self._pending) * now_ns

    def ends_ns(self, now_ns: int, workers: int) -> list[int]:
        """The instants at which all ``workers`` are free, in no order: now for idle and overdue ones."""
        ends = [max(now_ns, end_ns) for end_ns in self._end_ns.values()]
        return ends + [now_ns] * (workers - len(ends))
