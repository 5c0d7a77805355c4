"""The best schedule of a small instance that knows all arrivals."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from superserve.bounds.costs import BatchCosts, Stamps
from superserve.errors import UsageError

#: Beyond this an instance is refused: the solver would take minutes.
_MOST_VARIABLES: Final = 200_000
_MOST_INSTANTS: Final = 5_000


class ScheduledBatch(NamedTuple):
    """A batch of an optimal schedule. ``members`` are positions of requests."""

    start_ns: int
    end_ns: int
    subnet: int
    members: tuple[int, ...]
    accuracy: float
    """Of the subnet, in per cent."""

    @property
    def value(self) -> float:
        """Sum of the accuracies of its members."""
        return self.accuracy * len(self.members)


def exact_optimum(
    arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, workers: int
) -> tuple[float, list[ScheduledBatch]]:
    """The paper's zero-one integer linear program (section 4.1), solved by HiGHS.

    Variables I(B, s, t): run the batch B of requests at subnet s from instant t on. Maximise the sum of
    accuracy(s) x size(B) x I subject to: each request runs at most once; at most ``workers`` batches run at any
    instant (which is the paper's one batch per worker at a time, since intervals of which at most m overlap can be
    coloured with m colours); a batch ends by its earliest deadline, and starts no earlier than its *latest* arrival.
    The paper's constraint (1c) takes the earliest arrival, under which a batch could start before its members are
    there.

    Nothing is lost by these restrictions: a schedule can be shifted left until every batch starts at an arrival or at
    the end of another batch, so instants are sums of an arrival and batch times; and where deadlines come in order of
    arrival, a batch may be exchanged for one of consecutive requests. Where they do not, every set of requests is a
    possible batch.

    Args:
        arrival_ns: int64 (n,), never decreasing.
        deadline_ns: int64 (n,).
        costs: of batches.
        workers: identical ones.

    Returns:
        Sum of accuracies in per cent x requests, and a schedule that reaches it.

    Raises:
        UsageError: if the instance has more than 200,000 variables.
    """
    batches = _possible_batches(arrival_ns.tolist(), deadline_ns.tolist(), costs)
    if not batches:
        return 0.0, []
    starts = np.unique([batch.start_ns for batch in batches])
    rows, columns = [], []
    for number, batch in enumerate(batches):
        running = range(*np.searchsorted(starts, [batch.start_ns, batch.end_ns]).tolist())
        rows += [*batch.members, *(len(arrival_ns) + instant for instant in running)]
        columns += [number] * (len(batch.members) + len(running))
    matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(arrival_ns) + len(starts), len(batches)))
    limits = np.concatenate([np.ones(len(arrival_ns)), np.full(len(starts), workers)])
    solved = milp(
        [-batch.value for batch in batches],
        integrality=np.ones(len(batches)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, ub=limits),
        options={"mip_rel_gap": 0.0},
    )
    assert solved.success, f"serving nothing is feasible, yet the solver says: {solved.message}"
    chosen = [batch for batch, taken in zip(batches, solved.x, strict=True) if taken > 0.5]
    return sum(batch.value for batch in chosen), sorted(chosen)


def _possible_batches(arrivals: Sequence[int], deadlines: Sequence[int], costs: BatchCosts) -> list[ScheduledBatch]:
    """Every batch, subnet and start that fits its members' windows and could be part of an optimum."""
    instants = _start_instants(arrivals, max(deadlines, default=0), costs)
    found: list[ScheduledBatch] = []
    for members in _member_sets(arrivals, deadlines, costs.max_rows):
        ready_ns = max(arrivals[member] for member in members)
        due_ns = min(deadlines[member] for member in members)
        for subnet, time_ns in enumerate(costs.time_ns[:, len(members)].tolist()):
            accuracy = float(costs.accuracies[subnet])
            low, high = np.searchsorted(instants, [ready_ns, due_ns - time_ns + 1])
            found += [
                ScheduledBatch(start_ns, start_ns + time_ns, subnet, members, accuracy)
                for start_ns in instants[low:high].tolist()
            ]
        if len(found) > _MOST_VARIABLES:
            raise UsageError(
                f"{len(arrivals)} requests make more than {_MOST_VARIABLES:,} possible batches: take fewer requests, "
                "fewer subnets, or latencies in a coarser unit"
            )
    return found


def _member_sets(arrivals: Sequence[int], deadlines: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    count = len(arrivals)
    in_order = all(before <= after for before, after in pairwise(deadlines))
    for size in range(1, min(most, count) + 1):
        if in_order:
            yield from (tuple(range(first, first + size)) for first in range(count - size + 1))
        else:
            yield from combinations(range(count), size)


def _start_instants(arrivals: Sequence[int], end_ns: int, costs: BatchCosts) -> Stamps:
    """Arrivals, and ends of batches that started at such an instant."""
    times = np.unique(costs.time_ns[:, 1:])
    instants = np.unique(np.array(arrivals, np.int64))
    fresh = instants
    while len(fresh):
        ends = np.unique((fresh[:, None] + times).ravel())
        fresh = np.setdiff1d(ends[ends < end_ns], instants, assume_unique=True)
        instants = np.union1d(instants, fresh)
        if len(instants) > _MOST_INSTANTS:
            raise UsageError(
                f"batches could start at more than {_MOST_INSTANTS:,} instants: take fewer requests, or latencies in a "
                "coarser unit"
            )
    return instants
