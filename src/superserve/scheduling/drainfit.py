"""DrainFit, our own policy: the most accurate batch after which everything else can still be served in time."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, NamedTuple

from superserve.errors import ConfigError
from superserve.profile import LatencyTable
from superserve.scheduling.arrivals import WINDOW_SPAN
from superserve.scheduling.policy import (
    Bound,
    Decision,
    Placement,
    Policy,
    SchedulerView,
    TimeoutAction,
    register_policy,
)

#: Positions of the queue at which its deadlines are looked at grow by this factor: a queue of 10,000 needs about 35.
_STRIDE: Final = 1.3
#: Arrivals are foreseen this many usual deadlines ahead. Later ones can be met by later decisions; between 0.25 and 1
#: it hardly matters.
_AHEAD: Final = 0.5
#: When the mean request of a burst is due, in usual deadlines from now: it arrives in the middle of its window.
_BURST_DUE: Final = 1.0 + WINDOW_SPAN / 2


def _strided(end: int) -> tuple[int, ...]:
    positions = [0]
    while positions[-1] < end:
        positions.append(max(positions[-1] + 1, int(positions[-1] * _STRIDE)))
    return tuple(positions)


#: Those positions, in a queue of any length.
_POSITIONS: Final = _strided(1 << 32)

#: Work that must be done by an instant: rows, worker time until then, rows of a whole batch's share of them. A plain
#: tuple: some twenty are made for every decision.
_Due = tuple[float, float, int]


class _Outlook(NamedTuple):
    """All work in sight when a batch is to be chosen. Durations are in planned time (see `SchedulerView`)."""

    due: list[_Due]
    rows: int
    """Waiting rows, from the batch's head on."""
    slack_ns: int
    """Of the batch's head."""
    workers: int
    """Those that it may count on, where models share them."""
    burst_worker_ns: float
    """Worker time until the mean request of a burst that begins now is due."""
    bursts: Sequence[int]
    standing_rows: float
    """Waiting rows beyond one full batch, and those that typically arrive within a usual deadline."""
    standing_worker_ns: float
    """Worker time of a usual deadline."""
    head_slo_ns: float
    """Time from the head's arrival to its deadline."""


class _Candidate(NamedTuple):
    value: float
    subnet: int
    rows: int


class DrainFit(Policy):
    """The most accurate subnet after whose batch the rest can still be drained in time, at almost the same accuracy.

    SlackFit looks at the head's slack alone. It spends slack on accuracy until the queue stands at the edge of its
    deadlines, and has none left when a burst comes. DrainFit asks, for each subnet from the most accurate down,
    whether *all* the work in sight could still be done in time afterwards. Accuracy is concave in the time spent per
    request, so among plans that use the same worker time the one that treats all requests alike is the best (Jensen);
    hence a subnet is right if the remaining work can go on at its own pace, or the next cheaper one's.

    For a subnet, take the smallest profiled batch that holds the queue, or the largest that the head's slack allows.
    It is accepted if for every instant x in sight

        extra + pace x rows(x) + reserve <= worker_time(x)

    - ``rows(x)``: rows due by x: of the queue, and those expected to arrive early enough to be due by then;
    - ``worker_time(x)``: time until x over all workers, less what running batches still need;
    - ``pace``: time per row of the next cheaper subnet's most efficient batch; but if rows stay behind, no less than
      this batch's own time per row, for then the next head has as little slack and will get no better a batch. This
      keeps inefficient small batches of large subnets out while a queue stands (what sends SlackFit into a spiral);
    - ``extra``: what this batch costs beyond that pace;
    - ``reserve``: half a batch per worker, since work comes in whole batches (the mean of a part that is cut off).

    One more thing is refused: a standing queue served in batches that are too small. When the slack left no longer
    holds a subnet's most efficient batch, a smaller one of it may still keep up with the arrivals, and the queue would
    stand for good: full batches of a cheaper subnet shorten it, give the slack back, and are more accurate from then
    on. While rows stay behind, a batch smaller than the most efficient one that the head's whole deadline allows is
    therefore accepted only if batches like it would, within a usual deadline, remove the queue but for one full batch
    (from which the next ones are filled) beside what *typically* arrives: the median of recent windows, so that a
    burst that has passed is not expected again.

    Among accepted subnets, the expected loss from a burst decides: with the arrivals of recent half-deadline windows
    as samples, rows that even the fastest subnet could not serve in time after this batch are counted against it.

    If nothing is accepted, the system is overloaded, and the fastest subnet runs the batch that serves the most rows
    per time, over all starts in the queue: heads before the start are given up. Otherwise only what no cell can serve
    in time is given up.

    Every decision keeps what `Policy` promises, whatever the estimates are. The work is logarithmic in the length of
    the queue and in the number of subnets.
    """

    name: ClassVar[str] = "drainfit"
    observes_arrivals: ClassVar[bool] = True

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction = "reject") -> None:
        super().__init__(table, timeout_action)
        self._overhead_ns = -1
        self._pace_ns: list[float] = []

    def decide(self, view: SchedulerView) -> Decision:
        """See `Policy.decide`."""
        self._price_overhead(round(view.overhead_ns / view.drift))
        start = 0 if self.timeout_action == "delay" else self._first_feasible(view)
        if start == view.depth:
            return Decision(self.subnets[0], 0, start, bound=Bound.OVERLOAD)
        head = view.queue.peek(start)
        usable = self.usable(head.min_accuracy)
        outlook = self._outlook(view, start)
        placed = self._placed(outlook, usable, head.rows)
        if placed is not None:
            return Decision(*placed[0], shed=start, bound=placed[1])
        if self.timeout_action == "delay":
            return Decision(usable[0], self.table.max_rows, bound=Bound.OVERLOAD)
        return self._overloaded(view, start)

    def _price_overhead(self, overhead_ns: int) -> None:
        """Each batch takes the dispatch overhead, too (in planned time, like latencies): part of every pace."""
        if overhead_ns != self._overhead_ns:
            self._overhead_ns = overhead_ns
            sizes = self.table.batches
            self._pace_ns = [min((row[n] + overhead_ns) / n for n in sizes) for row in self.table.latency_ns]

    def _first_feasible(self, view: SchedulerView) -> int:
        """Position of the first request that some cell can still serve in time; the depth if there is none."""
        position = 0
        while position < view.depth:
            request = view.queue.peek(position)
            fastest = self.usable(request.min_accuracy)[0]
            if self.table.latency_ns[fastest][request.rows] < view.slack_ns(position):
                break
            position += 1
        return position

    def _outlook(self, view: SchedulerView, start: int) -> _Outlook:
        """All work in sight from a position of the queue on, at a logarithmic number of instants."""
        head = view.queue.peek(start)
        queue, arrivals = view.queue, view.arrivals
        workers, free_ns = view.capacity
        count = view.depth - start
        row_share = queue.rows / view.depth
        slo_ns = arrivals.slo_ns
        planned = 1.0 / view.drift
        ours = view.share * planned
        counted = max(1, round(view.workers_total * view.share))
        most = self.table.max_rows
        due: list[_Due] = []
        for position in (*_POSITIONS[: bisect_left(_POSITIONS, count - 1)], count - 1):
            deadline_ns = queue.peek(start + position).deadline_ns
            rows = (position + 1) * row_share
            early_ns = deadline_ns - view.now_ns - slo_ns
            if early_ns > 0:
                rows += arrivals.rows_within(view.now_ns, early_ns)
            due.append((rows, (workers * deadline_ns - free_ns) * ours, min(most, -(-int(rows) // counted))))
        rows = count * row_share + arrivals.rows_within(view.now_ns, _AHEAD * slo_ns)
        until_ns = view.now_ns + (1 + _AHEAD) * slo_ns
        due.append((rows, (workers * until_ns - free_ns) * ours, min(most, -(-int(rows) // counted))))
        return _Outlook(
            due=due,
            rows=max(head.rows, round(count * row_share)),  # what is given up may have had fewer than the others
            slack_ns=view.slack_ns(start),
            workers=counted,
            burst_worker_ns=(workers * (view.now_ns + _BURST_DUE * slo_ns) - free_ns) * ours,
            bursts=arrivals.bursts,
            standing_rows=count * row_share - self.table.max_rows + arrivals.typical_rows,
            standing_worker_ns=workers * slo_ns * ours,
            head_slo_ns=(head.deadline_ns - head.arrival_ns) * planned,
        )

    def _placed(self, outlook: _Outlook, usable: Sequence[int], head_rows: int) -> tuple[Placement, Bound] | None:
        """The best accepted batch and why it is no better, or None.

        Acceptance falls with accuracy, so its edge is searched by bisection.
        """
        below, above, bound = -1, len(usable), Bound.NOTHING
        while above - below > 1:
            middle = (below + above) // 2
            refusal = self._refusal(outlook, usable, middle, head_rows)
            if refusal is None:
                below = middle
            else:
                above, bound = middle, refusal
        if below < 0:
            return None
        best = max(self._candidates(outlook, usable, below, head_rows))
        return Placement(best.subnet, best.rows), bound if best.subnet == usable[below] else Bound.BURST

    def _candidates(self, outlook: _Outlook, usable: Sequence[int], edge: int, head_rows: int) -> Iterator[_Candidate]:
        """Accepted batches from the edge of acceptance down, in growing steps, until no burst could hurt."""
        step = 1
        while True:
            subnet = usable[edge]
            rows = self._rows(outlook, subnet, head_rows)
            taken = min(rows, outlook.rows)
            loss = self._expected_victims(outlook, subnet, rows) * self.table.accuracies[self.subnets[0]] / taken
            yield _Candidate(self.table.accuracies[subnet] - loss, subnet, rows)
            if loss == 0.0 or edge == 0:
                return
            edge = max(0, edge - step)
            step *= 2

    def _rows(self, outlook: _Outlook, subnet: int, head_rows: int) -> int:
        """The smallest profiled batch that holds the queue, or the largest that the slack allows; 0 if none fits."""
        batches = self.table.batches
        most = self.table.largest_batch(subnet, outlook.slack_ns)
        if most < head_rows:
            return 0
        holding = bisect_left(batches, outlook.rows)
        return most if holding == len(batches) else min(most, batches[holding])

    def _refusal(self, outlook: _Outlook, usable: Sequence[int], index: int, head_rows: int) -> Bound | None:
        """Why not everything in sight can be done in time after this subnet's batch; None if it can."""
        subnet, cheaper = usable[index], usable[max(0, index - 1)]
        rows = self._rows(outlook, subnet, head_rows)
        if rows == 0:
            return Bound.SLACK
        taken = min(rows, outlook.rows)
        batch_ns = self.table.latency_ns[subnet][rows] + self._overhead_ns
        pace_ns = self._pace_ns[cheaper]
        if taken < outlook.rows:
            pace_ns = max(pace_ns, batch_ns / taken)
            spiral = outlook.standing_rows * batch_ns > outlook.standing_worker_ns * taken
            if spiral and rows < self._efficient_rows(subnet, outlook.head_slo_ns):
                return Bound.STANDING
        extra_ns = max(0.0, batch_ns - taken * pace_ns)
        half, row, overhead_ns = outlook.workers / 2, self.table.latency_ns[cheaper], self._overhead_ns
        for due_rows, worker_ns, share in outlook.due:
            if due_rows > taken and extra_ns + pace_ns * due_rows + half * (row[share] + overhead_ns) > worker_ns:
                return Bound.DRAIN
        return None

    def _efficient_rows(self, subnet: int, slack_ns: float) -> int:
        """The batch with the least time per row among those below a slack; 0 if there is none."""
        row, overhead_ns = self.table.latency_ns[subnet], self._overhead_ns
        fitting = [size for size in self.table.batches if row[size] + overhead_ns < slack_ns]
        return min(fitting, key=lambda size: (row[size] + overhead_ns) / size, default=0)

    def _expected_victims(self, outlook: _Outlook, subnet: int, rows: int) -> float:
        """Rows of a burst right after this batch's launch that the fastest subnet could not serve in time."""
        fastest = self.subnets[0]
        batch_ns = self.table.latency_ns[subnet][rows] + self._overhead_ns
        reserve_ns = outlook.workers / 2 * (self.table.latency_ns[fastest][-1] + self._overhead_ns)
        spare_ns = outlook.burst_worker_ns - batch_ns - reserve_ns
        spare_rows = spare_ns / self._pace_ns[fastest] - max(0, outlook.rows - rows)
        victims = 0.0
        for burst in outlook.bursts:
            if burst <= spare_rows:
                break
            victims += burst - spare_rows
        return victims / max(1, len(outlook.bursts))

    def _overloaded(self, view: SchedulerView, start: int) -> Decision:
        """The start and batch size that serve the most rows per time, victims included.

        The subnet is the fastest that the request at the start allows; a batch holds that request at least.
        """
        best, position = (0.0, 0, 0, 0), start
        for size in self.table.batches:
            fitting = self._fitting(view, position, size)
            if fitting is None:
                break
            position, subnet, held = fitting
            rows = min(held, view.depth - position)
            rate = rows / (self.table.latency_ns[subnet][rows] + self._overhead_ns)
            best = max(best, (rate, -position, held, subnet))
        _, negated, rows, subnet = best
        return Decision(subnet, rows, shed=-negated, bound=Bound.OVERLOAD)

    def _fitting(self, view: SchedulerView, position: int, size: int) -> tuple[int, int, int] | None:
        """The first request from a position on that can lead a batch of a size, or of its own rows if they are more.

        Returns:
            Its position, its fastest subnet and the rows; None if there is no such request.
        """
        while position < view.depth:
            request = view.queue.peek(position)
            subnet, rows = self.usable(request.min_accuracy)[0], max(size, request.rows)
            if self.table.latency_ns[subnet][rows] < view.slack_ns(position):
                return position, subnet, rows
            position += 1
        return None


def _create(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> DrainFit:
    if argument:
        raise ConfigError(f"policy drainfit:{argument}: drainfit takes nothing after a colon")
    return DrainFit(table, timeout_action)


register_policy(DrainFit.name, _create)
