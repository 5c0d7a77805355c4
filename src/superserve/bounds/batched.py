"""A certified upper bound that knows that worker time is spent in whole batches."""

from typing import Final

import numpy as np

from superserve.bounds.cells import Cells
from superserve.bounds.costs import BatchCosts, Capacity, Floats, Prices, Stamps
from superserve.bounds.offers import offers
from superserve.bounds.relaxations import InOrder, OneByOne, Relaxation

#: Steps from the first prices to better ones. Twice as many lowered the bound by less than 0.05 points.
_STEPS: Final = 16
#: The first step, as a share of the prices around; later ones are shorter. Anything from 0.15 to 0.6 does.
_FIRST_STEP: Final = 0.4
_MOMENTUM: Final = 0.5
#: Prices are improved as if there were only so many subnets, spread evenly over all.
_SUBNETS_WHILE_STEPPING: Final = 8


def batched_bound(
    arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, capacity: Capacity, prices: Prices, *, in_order: bool
) -> tuple[float, Prices]:
    """No schedule of the requests has a higher sum of accuracies of requests served in time.

    *Claim.* Let a schedule run batches, without preemption, each on one of identical workers, C(t) of which are there
    at t; each batch begins when its members have arrived and ends before they are due. Let lambda(t) >= 0 be any price
    of worker time. A batch of b requests at subnet s that begins at t *gains* g = b x accuracy(s) less the integral of
    lambda from t to t + l(s, b). Then the sum of accuracies over requests served in time is at most

        integral of C(t) lambda(t) dt + G,   where G is at least what the batches of any schedule gain together.

    *Proof.* At most C(t) batches run at t, so that together they pay at most the integral. The sum of accuracies is
    what they gain plus what they pay. QED. G comes from a relaxation in which workers are forgotten:

    *In order* (`relaxations.InOrder`; deadlines in order of arrival). Schedulers here take every batch from the front
    of a queue in order of deadline, so each batch's members come before those of all later batches. A batch with
    requests between its members that are never served may take those instead of its first ones: arrivals and
    deadlines fit all the better. So the batches are disjoint runs of consecutive requests, and G is the most that any
    such runs gain, each at its best subnet and its best instant between the arrival of its last member and the
    deadline of its first: a longest path. For one worker the order is no restriction: of two batches the one that
    begins first also ends first, so an exchange of members puts them in order.

    *One by one* (`relaxations.OneByOne`). A request takes part in one batch, and gets an equal share g / b of its
    gain. The batch runs in an interval [t, t + l(s, b)] within the windows of all its members, so at least b requests
    have windows that hold this interval. G is the sum over requests of the largest share with such an interval in the
    request's own window. This holds for batches of any requests, whatever the deadlines are.

    Batches that are not whole in time, or take longer than l, only pay more. In both relaxations prices are constant
    in cells of time, and starts are looked for in all cells that a window touches, so that gains are never too low.

    Good prices make the bound tight. They are the first ones given, improved by a few steps of the subgradient method
    (up where the relaxation keeps more workers busy than there are, down where fewer; Held, Wolfe and Crowder 1974),
    whose later half is averaged. That decides how tight the bound is, never whether it holds.

    Args:
        arrival_ns: int64 (n,), never decreasing, n > 0.
        deadline_ns: int64 (n,), after the arrivals.
        costs: of batches.
        capacity: identical workers over time.
        prices: to begin with.
        in_order: batches are taken in order of arrival, and deadlines come in this order.

    Returns:
        Sum of accuracies, in per cent x requests; and the improved prices.
    """
    cells = Cells.over(arrival_ns, deadline_ns)
    relaxation = InOrder if in_order else OneByOne
    work_ns = np.diff(capacity.work_ns(cells.edges_ns))
    near = max(1, int((deadline_ns - arrival_ns).min()) // cells.cell_ns // 2)
    few = costs.thinned(_SUBNETS_WHILE_STEPPING)
    stepping = relaxation(arrival_ns, deadline_ns, cells, offers(few))
    total, best = _improved(stepping, work_ns, prices(cells.middles_ns), near)
    if len(few.accuracies) < len(costs.accuracies):
        final = relaxation(arrival_ns, deadline_ns, cells, offers(costs))
        total = float(work_ns @ best) + final.gain(best, with_busy=False).total

    def improved(instants_ns: Stamps) -> Floats:
        return best[np.clip(cells.holding(instants_ns), 0, cells.count - 1)]

    return total, improved


def _improved(relaxation: Relaxation, work_ns: Floats, prices: Floats, near: int) -> tuple[float, Floats]:
    """The lowest value found, and its prices. Steps are measured by the prices ``near`` cells around."""
    scale = _around(prices, near) + 0.05 * prices.mean()
    most_busy = float(work_ns.max()) or 1.0
    best, best_prices = np.inf, prices
    direction, later = np.zeros(len(prices)), np.zeros(len(prices))
    for step in range(_STEPS):
        last = step == _STEPS - 1
        if last:
            prices = later / (step - _STEPS // 2)
        gain = relaxation.gain(prices, with_busy=not last)
        value = float(work_ns @ prices) + gain.total
        if value < best:
            best, best_prices = value, prices
        spare = (work_ns - gain.busy * relaxation.cells.cell_ns) / most_busy
        direction = np.clip(spare, -1.0, 1.0) + _MOMENTUM * direction
        prices = np.maximum(0.0, prices - _FIRST_STEP * (1.0 - step / _STEPS) * scale * direction)
        if step >= _STEPS // 2:
            later += prices
    return best, best_prices


def _around(values: Floats, near: int) -> Floats:
    """The mean of so many values before and after each."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(0, places - near), np.minimum(len(values), places + near + 1)
    return np.asarray((sums[high] - sums[low]) / (high - low), np.float64)
