"""The best schedule of one worker that knows all arrivals, for long traces too."""

import numpy as np

from superserve.bounds.costs import BatchCosts, Floats, Stamps

_Front = tuple[Stamps, Floats]


def single_worker_optimum(
    arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, pairs_per_request: float = np.inf
) -> float:
    """The exact optimum for one worker and deadlines in order of arrival, by dynamic programming.

    Under such deadlines some optimum serves in order of arrival, in batches of consecutive requests, each started as
    soon as its last member and the worker are there (exchange and left shift, see `exact.exact_optimum`). So after
    deciding on the first i requests only the instant at which the worker is free and the sum of accuracies so far
    matter, and of these pairs only those that no other one beats in both.

    How many remain depends on the profile: about 40 where batching pays (three seconds for 20,000 requests and 6
    subnets), a thousand where latencies are multiples of each other in many ways.

    Args:
        arrival_ns: int64 (n,), never decreasing, n > 0.
        deadline_ns: int64 (n,), in order of arrival.
        costs: of batches.
        pairs_per_request: give up when more pairs are looked at, on average.

    Returns:
        Sum of accuracies in per cent x requests; infinity if it gave up.
    """
    assert (np.diff(deadline_ns) >= 0).all(), "deadlines must come in order of arrival"
    count = len(arrival_ns)
    time_ns, sizes = costs.time_ns[:, 1:].T, np.arange(1, costs.max_rows + 1)
    worth = sizes[:, None] * costs.accuracies
    # Pairs after deciding on each number of requests.
    reached: list[list[_Front]] = [[] for _ in range(count + 1)]
    reached[0].append((np.zeros(1, np.int64), np.zeros(1)))
    looked_at = 0
    for first in range(count):
        free_ns, value = _unbeaten(reached[first], int(arrival_ns[first]))
        reached[first] = []
        reached[first + 1].append((free_ns, value))
        ready_ns = arrival_ns[first : first + costs.max_rows]
        start_ns = np.maximum(ready_ns[:, None], free_ns)
        end_ns = start_ns[:, None, :] + time_ns[: len(ready_ns), :, None]
        looked_at += end_ns.size
        if looked_at > pairs_per_request * (first + 100):
            return np.inf
        in_time = end_ns <= deadline_ns[first]
        for size in np.flatnonzero(in_time.any((1, 2))).tolist():
            here = in_time[size]
            values = worth[size][:, None] + value
            reached[first + size + 1].append((end_ns[size][here], values[here]))
    return max(float(value.max()) for _, value in reached[count])


def _unbeaten(pairs: list[_Front], ready_ns: int) -> _Front:
    """Pairs that no other one beats, by rising instants; all free before the next arrival are equally early."""
    free_ns = np.maximum(ready_ns, np.concatenate([free_ns for free_ns, _ in pairs]))
    value = np.concatenate([value for _, value in pairs])
    order = np.lexsort([-value, free_ns])
    free_ns, value = free_ns[order], value[order]
    better = np.concatenate([[True], value[1:] > np.maximum.accumulate(value)[:-1]])
    return free_ns[better], value[better]
