"""A certified upper bound for long traces, in near-linear time."""

import numpy as np

from superserve.bounds.costs import Capacity, Envelope, Floats, Prices, Stamps

_Chain = tuple[list[float], list[float]]


def fluid_bound(arrival_ns: Stamps, deadline_ns: Stamps, envelope: Envelope, capacity: Capacity) -> float:
    """No schedule of the requests has a higher sum of accuracies of requests served in time.

    *Claim.* Let a schedule run batches, without preemption, on m workers, each batch after its last member arrived
    and before its first member is due. Then the sum of accuracies over requests served in time is at most the value
    returned.

    *Proof.* (1) Split the worker time of a batch of b requests at subnet s, overhead included, evenly among its
    members: tau_r = l(s, b) / b each. All of it lies in [a_r, d_r], because the batch does, and at any instant the
    shares of all requests add up to the number of busy workers at most. The batch fits the window of each member, so
    l(s, b) is at most the longest window, and by the definition of `BatchCosts.envelope` the accuracy of s is at
    most f(tau_r), f the envelope; a request not served has 0 <= f(0). So the sum is at most that of f(tau_r) over an
    allocation of worker time to requests that respects windows and capacity, with preemption and any parallelism.

    (2) Measure time by the worker time that has passed (`Capacity.work_ns`): capacity becomes 1. Stretches in which
    no window is open are cut out. Where a deadline lies before that of an earlier arrival it is put off to that one's:
    windows only grow. Deadlines are now in order of arrival, so an exchange of equal amounts of work turns any
    feasible allocation into one that serves requests one after the other in that order, with the same tau. Let p_i be
    an instant between the end of i and the start of i+1 with a_(i+1) <= p_i <= d_i: one exists, since i ends by d_i,
    i+1 starts from a_(i+1) on, and a_(i+1) <= d_i after the cuts. Giving i all of [p_(i-1), p_i] takes nothing from
    anybody and f never falls.

    (3) What remains is the maximum of sum f(p_i - p_(i-1)) over a_(i+1) <= p_i <= d_i with both ends fixed, f concave.
    The taut string through these gates, the shortest curve, has the most equal increments: they are majorised by
    those of every other curve through the gates, so by Hardy, Littlewood and Polya it is the maximum for every
    concave f (Barlow et al., Statistical Inference under Order Restrictions, 1972). QED.

    The bound is exact for the fluid problem when deadlines come in order of arrival (one SLO); for mixed deadlines
    `windows.mixed_bound` is tighter. Floating point: relative error about 1e-12, far below any comparison made.

    Args:
        arrival_ns: int64 (n,), never decreasing.
        deadline_ns: int64 (n,).
        envelope: of batches that fit the longest window.
        capacity: workers over time.

    Returns:
        Sum of accuracies, in per cent x requests.
    """
    if not len(arrival_ns):
        return 0.0
    return float(envelope(worker_times(arrival_ns, deadline_ns, capacity)).sum())


def worker_times(arrival_ns: Stamps, deadline_ns: Stamps, capacity: Capacity) -> Floats:
    """The most equal worker times per request that windows and capacity allow, float64 (n,); see `fluid_bound`."""
    return np.diff(_string(arrival_ns, deadline_ns, capacity)[0])


def fluid_prices(arrival_ns: Stamps, deadline_ns: Stamps, envelope: Envelope, capacity: Capacity) -> Prices:
    """What a little more worker time would add to `fluid_bound`, for n > 0 requests."""
    curve, closed_s = _string(arrival_ns, deadline_ns, capacity)
    # Times at a corner, up to rounding, belong to the segment before it.
    segment = np.searchsorted(envelope.time_ns[1:], np.diff(curve) * (1.0 - 1e-9))
    worth = np.append(envelope.slopes, 0.0)[segment]
    begins, ends = curve[:-1] + closed_s, curve[1:] + closed_s

    def prices(instants_ns: Stamps) -> Floats:
        done = capacity.work_ns(instants_ns)
        served = np.minimum(np.searchsorted(ends, done), len(ends) - 1)
        return np.where((begins[served] <= done) & (done <= ends[served]), worth[served], 0.0)

    return prices


def _string(arrival_ns: Stamps, deadline_ns: Stamps, capacity: Capacity) -> tuple[Floats, Floats]:
    """The taut string, (n + 1,), and how much worker time without an open window was cut out before each request."""
    opens = capacity.work_ns(arrival_ns)
    closes = capacity.work_ns(np.maximum.accumulate(deadline_ns))
    closed_s = np.concatenate([[0.0], np.cumsum(np.maximum(0.0, opens[1:] - closes[:-1]))])
    opens, closes = opens - closed_s, closes - closed_s
    low = np.concatenate([opens, closes[-1:]])
    high = np.concatenate([opens[:1], closes])
    return taut_string(low, np.maximum(low, high)), closed_s


def taut_string(low: Floats, high: Floats) -> Floats:
    """The shortest curve between two others, at 0, 1, 2, ...; both ends of the two must coincide.

    The funnel algorithm: from the curve's last corner so far, keep the greatest convex minorant of the upper gates
    and the least concave majorant of the lower ones. When they cross, the curve follows one of them to its first
    corner. Every gate enters and leaves each chain once, so it takes linear time.
    """
    corners: _Chain = ([0.0], [float(low[0])])
    upper: _Chain = ([0.0], [float(low[0])])
    lower: _Chain = ([0.0], [float(low[0])])
    # The first entry of each chain is the curve's last corner.
    for x, (y_low, y_high) in enumerate(zip(low[1:].tolist(), high[1:].tolist(), strict=True), 1):
        _extend(upper, lower, corners, (x, y_high), 1.0)
        _extend(lower, upper, corners, (x, y_low), -1.0)
    corners[0].append(len(low) - 1.0)
    corners[1].append(float(low[-1]))
    return np.interp(np.arange(len(low)), *corners)


def _extend(own: _Chain, other: _Chain, corners: _Chain, gate: tuple[float, float], sign: float) -> None:
    """Add a gate to its chain (``sign`` 1: the upper, convex one), and move the last corner while the chains cross."""
    own_x, own_y = own
    x, y = gate
    while len(own_x) > 1:
        before = (own_y[-1] - own_y[-2]) * (x - own_x[-1])
        after = (y - own_y[-1]) * (own_x[-1] - own_x[-2])
        if sign * before < sign * after:
            break
        own_x.pop()
        own_y.pop()
    if len(own_x) == 1:
        own_x[0], own_y[0] = _follow(other, corners, gate, sign)
    own_x.append(x)
    own_y.append(y)


def _follow(chain: _Chain, corners: _Chain, gate: tuple[float, float], sign: float) -> tuple[float, float]:
    """Move the last corner along a chain as long as a gate lies beyond its next segment; returns the corner."""
    x, y = gate
    chain_x, chain_y = chain
    first, last = 0, len(chain_x) - 1
    while first < last:
        x0, y0, x1, y1 = chain_x[first], chain_y[first], chain_x[first + 1], chain_y[first + 1]
        if sign * (y - y0) * (x1 - x0) >= sign * (y1 - y0) * (x - x0):
            break
        first += 1
        corners[0].append(x1)
        corners[1].append(y1)
    if first:
        del chain_x[:first]
        del chain_y[:first]
    return chain_x[0], chain_y[0]
