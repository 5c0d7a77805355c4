"""When the busy workers are expected to be free."""

from bisect import bisect_left, bisect_right, insort
from math import inf


class Commitments:
    """Predicted ends of running batches in order, with their sum at hand.

    A batch past its predicted end counts as ending now: however long it hangs, it never looks like spare capacity.
    """

    def __init__(self) -> None:
        self._end_ns: dict[int, int] = {}
        self._ends: list[tuple[int, int]] = []
        """(end, worker) in order, without those that were past when somebody asked."""
        self._sum_ns = 0
        self.changes = 0
        """Grows whenever a batch is added or removed."""
        self.latest_ns = 0
        """No batch that runs, or ran, is predicted to end later."""

    def add(self, worker: int, end_ns: int) -> None:
        """A worker took a batch that is predicted to end at ``end_ns``."""
        self.changes += 1
        self.latest_ns = max(self.latest_ns, end_ns)
        self._end_ns[worker] = end_ns
        insort(self._ends, (end_ns, worker))
        self._sum_ns += end_ns

    def remove(self, worker: int) -> None:
        """A worker's batch ended, or the worker did."""
        self.changes += 1
        entry, ends = (self._end_ns.pop(worker), worker), self._ends
        index = bisect_left(ends, entry)
        if index < len(ends) and ends[index] == entry:  # else it was past
            del ends[index]
            self._sum_ns -= entry[0]

    def end_ns(self, worker: int) -> int:
        """When a busy worker's batch is predicted to end, be that past."""
        return self._end_ns[worker]

    def free_sum_ns(self, now_ns: int, workers: int) -> int:
        """Sum over all ``workers`` of the instants at which they are free: now for idle and overdue ones."""
        self._pass(now_ns)
        return self._sum_ns + (workers - len(self._ends)) * now_ns

    def ends_ns(self, now_ns: int, workers: int) -> list[int]:
        """The instants at which all ``workers`` are free, in order: now for idle and overdue ones."""
        self._pass(now_ns)
        return [now_ns] * (workers - len(self._ends)) + [end_ns for end_ns, _ in self._ends]

    def starts(self, now_ns: int, workers: int, until_ns: int, batch_ns: int) -> tuple[int, int]:
        """How many batches would start by an instant, and when the next one would.

        They are run one after the other on each of ``workers`` from when it is free, and take ``batch_ns`` each. The
        work is logarithmic in the number of workers, and linear in what the longest running batch takes over that.
        """
        self._pass(now_ns)
        ends = self._ends
        free = workers - len(ends)
        first_ns, last_ns = now_ns if free else ends[0][0], ends[-1][0] if ends else now_ns
        number = max(0, (until_ns - last_ns) // batch_ns + 1)  # of the first batch that not every worker would start
        started, nexts = number * workers, []
        while (by_ns := until_ns - number * batch_ns) >= first_ns:
            busy = bisect_right(ends, (by_ns, inf))
            started += free + busy
            if busy < len(ends):
                nexts.append(ends[busy][0] + number * batch_ns)
            number += 1
        return started, min((*nexts, first_ns + number * batch_ns))

    def _pass(self, now_ns: int) -> None:
        """Forget the ends of batches that should have ended by now."""
        ends = self._ends
        while ends and ends[0][0] <= now_ns:
            self._sum_ns -= ends.pop(0)[0]
