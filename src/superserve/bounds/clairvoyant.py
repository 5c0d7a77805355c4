"""A good schedule that knows all arrivals: how much of a bound can be reached."""

import numpy as np
import numpy.typing as npt

from superserve.bounds.costs import BatchCosts, Floats, Prices, Stamps

#: Times at which workers are free, int64 (states, workers), rising along a row; sums of accuracies, float64 (states,).
_States = tuple[Stamps, Floats]


def clairvoyant_schedule(
    arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, workers: int, prices: Prices, *, width: int = 300
) -> float:
    """What the best schedule reaches that a beam search over all arrivals finds.

    Requests are decided on in order of arrival: give one up, or take it and those after it as a batch to the worker
    that is free first, at any size and subnet that is in time. After each number of requests the ``width`` most
    promising states go on: those with the highest sum of accuracies less the price of the time their workers are
    taken. With the prices of `batched.batched_bound` the sum found and that bound enclose the optimum of schedules
    that serve in order.

    Args:
        arrival_ns: int64 (n,), never decreasing, n > 0.
        deadline_ns: int64 (n,), in order of arrival.
        costs: of batches.
        workers: identical ones.
        prices: of worker time.
        width: states kept. The work is proportional to it.

    Returns:
        Sum of accuracies, in per cent x requests.
    """
    assert (np.diff(deadline_ns) >= 0).all(), "deadlines must come in order of arrival"
    instants_ns = np.linspace(arrival_ns[0], deadline_ns[-1], 64 * len(arrival_ns)).astype(np.int64)
    paid = np.concatenate([[0.0], np.cumsum(prices(instants_ns[:-1]) * np.diff(instants_ns))])
    reached: list[list[_States]] = [[] for _ in range(len(arrival_ns) + 1)]
    reached[0].append((np.full((1, workers), arrival_ns[0]), np.zeros(1)))
    for first, now_ns in enumerate(arrival_ns.tolist()):
        free_ns, value = _merged(reached[first], now_ns)
        reached[first] = []
        promise = value - np.interp(free_ns, instants_ns, paid).sum(1)
        kept = np.argsort(-promise, kind="stable")[:width]
        states = free_ns[kept], value[kept]
        reached[first + 1].append(states)
        for rows in range(1, min(costs.max_rows, len(arrival_ns) - first) + 1):
            ready_ns = int(arrival_ns[first + rows - 1])
            batches = _with_batch(states, ready_ns, int(deadline_ns[first]), costs.time_ns[:, rows])
            reached[first + rows] += [
                (free_ns, value + rows * costs.accuracies[subnet]) for subnet, free_ns, value in batches
            ]
    return max(float(value.max()) for _, value in reached[-1])


def _with_batch(states: _States, ready_ns: int, due_ns: int, time_ns: Stamps) -> list[tuple[int, Stamps, Floats]]:
    """Subnet, and states after its batch on the worker that is free first, for each subnet that is in time."""
    free_ns, value = states
    start_ns = np.maximum(free_ns[:, 0], ready_ns)
    found = []
    for subnet, batch_ns in enumerate(time_ns.tolist()):
        in_time = start_ns + batch_ns <= due_ns
        if in_time.any():
            after_ns = free_ns[in_time]
            after_ns[:, 0] = start_ns[in_time] + batch_ns
            found.append((subnet, after_ns, value[in_time]))
    return found


def _merged(states: list[_States], now_ns: int) -> _States:
    """All different states; who is free before the next arrival is free at it."""
    free_ns = np.maximum(np.concatenate([free_ns for free_ns, _ in states]), now_ns)
    free_ns.sort(1)
    value = np.concatenate([value for _, value in states])
    # Of equal times only the highest sum counts.
    order = np.argsort(-value, kind="stable")
    _, different = np.unique(_bytes(free_ns[order]), return_index=True)
    return free_ns[order[different]], value[order[different]]


def _bytes(rows: Stamps) -> npt.NDArray[np.void]:
    """Each row as one value that can be compared."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
