"""A certified upper bound where deadlines of different lengths mix."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from superserve.bounds.cells import range_min
from superserve.bounds.costs import BatchCosts, Capacity, Envelope, Floats, Prices, Stamps
from superserve.bounds.fluid import fluid_bound

#: Time is priced in bins of half the shortest window: finer ones lowered the bound by less than 0.02 points and took
#: up to thirty times as long.
_BINS_PER_WINDOW: Final = 2
#: However short the shortest window is, the longest one has no more bins.
_BINS_PER_LONGEST: Final = 64
#: Bounds the linear program: about a hundred thousand variables. Longer traces are priced in stretches of so many bins.
_BINS_PER_STRETCH: Final = 1500
#: Window lengths are told apart up to so many; more are rounded up, which can only raise the bound.
_MOST_LENGTHS: Final = 32
#: Segments of each envelope in the linear program. Prices need no more, and the bound is taken from the whole one.
_MOST_SEGMENTS: Final = 12


def mixed_bound(arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, capacity: Capacity) -> float:
    """No schedule of the requests has a higher sum of accuracies of requests served in time.

    *Claim.* For any prices lambda(t) >= 0 of a unit of worker time, and capacity C(t), the value

        integral of C(t) lambda(t) dt + sum over requests r of max over tau >= 0 of ( f_r(tau) - tau min lambda )

    with the minimum over [a_r, d_r], bounds that sum from above.

    *Proof.* Step (1) of `fluid.fluid_bound` turns a schedule into an allocation x_r(t) of worker time inside windows,
    and at most C(t) in all, with a sum of accuracies of at most sum f_r(tau_r), tau_r the integral of x_r. Here f_r is
    the envelope of the batches that fit the window of r itself. Then

        sum f_r(tau_r) = sum ( f_r(tau_r) - integral x_r lambda ) + integral lambda sum x_r
                      <= sum ( f_r(tau_r) - tau_r min lambda ) + integral lambda C.  QED (weak duality).

    Good prices make it tight. They are the dual solution of a linear program in which time and requests are put into
    bins: its accuracy decides how tight the bound is, never whether it holds, for the bound is evaluated at the
    requests' own windows. The result is the lower one of this bound and `fluid.fluid_bound`.

    Args:
        arrival_ns: int64 (n,), never decreasing.
        deadline_ns: int64 (n,), in any order.
        costs: of batches.
        capacity: workers over time.

    Returns:
        Sum of accuracies, in per cent x requests.
    """
    if not len(arrival_ns):
        return 0.0
    window_ns = deadline_ns - arrival_ns
    relaxed = fluid_bound(arrival_ns, deadline_ns, costs.envelope(float(window_ns.max())), capacity)
    if (np.diff(deadline_ns) >= 0).all() and (window_ns == window_ns[0]).all():
        return relaxed
    return min(relaxed, mixed_dual(arrival_ns, deadline_ns, costs, capacity)[0])


def mixed_dual(arrival_ns: Stamps, deadline_ns: Stamps, costs: BatchCosts, capacity: Capacity) -> tuple[float, Prices]:
    """The claim's value for the prices of the linear program, and these prices; n > 0. See `mixed_bound`."""
    window_ns = deadline_ns - arrival_ns
    bin_ns = _bin_ns(window_ns)
    bins = _Bins.of(arrival_ns, deadline_ns, bin_ns, capacity)
    kind_ns = _rounded_up(window_ns)
    envelopes = {int(length): costs.envelope(float(length)) for length in np.unique(kind_ns)}
    per_bin = _prices(bins, kind_ns, envelopes)

    def prices(instants_ns: Stamps) -> Floats:
        return np.asarray(per_bin[np.clip((instants_ns - arrival_ns[0]) // bin_ns, 0, len(per_bin) - 1)], np.float64)

    return _dual_value(bins, kind_ns, envelopes, per_bin), prices


@dataclass(frozen=True, eq=False)
class _Bins:
    """Time in bins: worker time of each, float64 (bins,); and the first and last bin of each request's window."""

    work_ns: Floats
    first: Stamps
    last: Stamps

    @classmethod
    def of(cls, arrival_ns: Stamps, deadline_ns: Stamps, bin_ns: int, capacity: Capacity) -> "_Bins":
        start_ns = int(arrival_ns[0])
        first = (arrival_ns - start_ns) // bin_ns
        # A window that ends where a bin begins has no time in that bin.
        last = np.maximum(first, (deadline_ns - start_ns - 1) // bin_ns)
        edges_ns = start_ns + bin_ns * np.arange(int(last.max()) + 2)
        return cls(np.diff(capacity.work_ns(edges_ns)), first, last)


def _bin_ns(window_ns: Stamps) -> int:
    shortest, longest = int(window_ns.min()), int(window_ns.max())
    return max(1, shortest // _BINS_PER_WINDOW, longest // _BINS_PER_LONGEST)


def _rounded_up(window_ns: Stamps) -> Stamps:
    """Lengths of windows, rounded up to a few of them."""
    lengths = np.unique(window_ns)
    if len(lengths) > _MOST_LENGTHS:
        lengths = lengths[np.linspace(0, len(lengths) - 1, _MOST_LENGTHS).astype(int)]
    return lengths[np.searchsorted(lengths, window_ns)]


def _dual_value(bins: _Bins, kind_ns: Stamps, envelopes: Mapping[int, Envelope], prices: Floats) -> float:
    """The claim's value for some prices per bin."""
    total = float(bins.work_ns @ prices)
    for length_ns, envelope in envelopes.items():
        members = kind_ns == length_ns
        cheapest = range_min(prices, bins.first[members], bins.last[members])
        total += float(envelope.surplus(cheapest).sum())
    return total


def _prices(bins: _Bins, kind_ns: Stamps, envelopes: Mapping[int, Envelope]) -> Floats:
    """Good prices per bin, from linear programs over stretches of time."""
    prices = np.zeros(len(bins.work_ns))
    for start in range(0, len(prices), _BINS_PER_STRETCH):
        # Stretches overlap by the longest window before and after, so that what is kept of each knows its neighbours.
        margin = int((bins.last - bins.first).max()) + 1
        low, high = max(0, start - margin), min(len(prices), start + _BINS_PER_STRETCH + margin)
        inside = (bins.first >= low) & (bins.last < high)
        found = _solve(
            _Bins(bins.work_ns[low:high], bins.first[inside] - low, bins.last[inside] - low),
            kind_ns[inside],
            envelopes,
        )
        end = min(len(prices), start + _BINS_PER_STRETCH)
        prices[start:end] = found[start - low : end - low]
    return prices


def _solve(bins: _Bins, kind_ns: Stamps, envelopes: Mapping[int, Envelope]) -> Floats:
    """Dual prices of the linear program in which requests of one window length and one pair of bins act as one."""
    if not len(kind_ns):
        return np.zeros(len(bins.work_ns))
    keys, numbers = np.unique(np.stack([bins.first, bins.last, kind_ns]), axis=1, return_counts=True)
    first, last, length = keys
    unit = float(bins.work_ns.max()) or 1.0
    # Variables: worker time of a group in a bin, then the group's time on each segment of its envelope.
    spans = last - first + 1
    group = np.repeat(np.arange(len(spans)), spans)
    place = np.arange(len(group)) - np.repeat(np.cumsum(spans) - spans, spans) + first[group]
    slopes, widths, owner = _segments(length, envelopes)
    x, z = len(group), len(owner)
    rows = np.concatenate([place, len(bins.work_ns) + owner, len(bins.work_ns) + group])
    columns = np.concatenate([np.arange(x), x + np.arange(z), np.arange(x)])
    signs = np.concatenate([np.ones(x + z), -np.ones(x)])
    matrix = coo_array((signs, (rows, columns)), shape=(len(bins.work_ns) + len(spans), x + z)).tocsr()
    limits = np.concatenate([bins.work_ns / unit, np.zeros(len(spans))])
    upper = np.concatenate([np.full(x, np.inf), widths * numbers[owner] / unit])
    solved = linprog(
        np.concatenate([np.zeros(x), -slopes * unit]),
        A_ub=matrix,
        b_ub=limits,
        bounds=np.stack([np.zeros(x + z), upper], 1),
        method="highs",
    )
    if solved.x is None:  # out of time or memory: free worker time is a valid price, if a poor one
        return np.zeros(len(bins.work_ns))
    return np.asarray(np.maximum(0.0, -solved.ineqlin.marginals[: len(bins.work_ns)]) / unit, np.float64)


def _segments(length: Stamps, envelopes: Mapping[int, Envelope]) -> tuple[Floats, Floats, Stamps]:
    """Slope, width and group of every segment of every group's envelope, thinned out."""
    slopes, widths, owners = [], [], []
    thin = {key: _thinned(envelope) for key, envelope in envelopes.items()}
    for number, key in enumerate(length.tolist()):
        envelope = thin[key]
        slopes.append(envelope.slopes)
        widths.append(np.diff(envelope.time_ns))
        owners.append(np.full(len(envelope.slopes), number))
    return np.concatenate(slopes), np.concatenate(widths), np.concatenate(owners)


def _thinned(envelope: Envelope) -> Envelope:
    corners = len(envelope.time_ns)
    if corners <= _MOST_SEGMENTS + 1:
        return envelope
    kept = np.unique(np.linspace(0, corners - 1, _MOST_SEGMENTS + 1).astype(int))
    return Envelope(envelope.time_ns[kept], envelope.accuracy[kept])
