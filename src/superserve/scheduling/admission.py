"""Who is admitted: what can be in time behind everything that waits."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable
from superserve.request import Request
from superserve.scheduling.arrivals import WINDOW_SPAN, WINDOWS, ArrivalEstimate
from superserve.scheduling.commitments import Commitments
from superserve.scheduling.efficient import Batch, EfficientBatches
from superserve.scheduling.policy import Policy, SchedulerView
from superserve.scheduling.victims import level
from superserve.scheduling.waiting import WaitingQueue

if TYPE_CHECKING:
    from superserve.scheduling.actions import Launch

#: How long `ArrivalEstimate` remembers bursts, in usual deadlines.
_MEMORY: Final = WINDOWS * WINDOW_SPAN
#: Levels of priority whose arrivals are told apart; larger ones count as this one.
_LEVELS: Final = 8
#: Those behind a newcomer are looked at in distances that grow by this factor.
_STRIDE: Final = 1.5
#: A batch has to fit into this part of the time that a request has: the other part it waits for the batch before.
OWN_PART: Final = 0.5


class Promise(StrEnum):
    """What admitting a request would have broken."""

    OWN = "own"
    """It cannot be in time, whatever runs."""
    BATCH = "batch"
    """It cannot be in time in an efficient batch."""
    OTHERS = "others"
    """One that was there before could no longer be in time."""


class Prediction(NamedTuple):
    """The arithmetic of a refusal. Times count from the request's arrival."""

    promise: Promise
    rows_ahead: int
    """Rows to be served before: due no later, and no less urgent."""
    batch_rows: int
    """Rows of the batches that serve them soonest."""
    batch_ns: int
    """What such a batch takes, dispatch included."""
    workers: int
    predicted_ns: int
    """When its answer would be there (of `Promise.BATCH`: its batch would start; of ``OTHERS``: the other's answer)."""
    latest_ns: int
    """When that would have to be."""

    @property
    def retry_after_ns(self) -> int:
        """When a request like it would be admitted, if nobody else came."""
        return max(1, self.predicted_ns - self.latest_ns)

    def __str__(self) -> str:
        what = {
            Promise.OWN: "it would be answered after {} at best, and is due in {}",
            Promise.BATCH: "its batch would start after {}, and has to within {}",
            Promise.OTHERS: "with it, one admitted before would be answered after {}, and is due in {}",
        }[self.promise].format(_ms(self.predicted_ns), _ms(self.latest_ns))
        workers = "1 worker takes" if self.workers == 1 else f"{self.workers} workers take"
        return (
            f"{self.rows_ahead} rows are to be served before, and {workers} {_ms(self.batch_ns)} for each "
            f"{self.batch_rows} of them with the fastest subnet: {what}"
        )


class Supply(NamedTuple):
    """Worker time that there is for the queue; where workers differ, in time of the fastest."""

    workers: float
    free_ns: float
    """Sum of the instants at which they are predicted to be free."""
    reserve_ns: float
    """Of their time, what is not to be counted on."""


class BatchTimes(NamedTuple):
    """The most efficient batches by bucket, in the times that are usual and in those that are planned with."""

    typical: Sequence[EfficientBatches]
    planned: Sequence[EfficientBatches]

    @classmethod
    def of(cls, tables: Sequence[LatencyTable]) -> "BatchTimes":
        """By what the tables of the buckets say."""
        return cls(
            [EfficientBatches(table.batches, table.typical_ns) for table in tables],
            [EfficientBatches(table.batches, table.latency_ns) for table in tables],
        )

    def price(self, drift: float, typical_overhead_ns: int, planned_overhead_ns: int) -> None:
        """From now on a batch takes so many times what it is profiled with, and its dispatch so long."""
        for times, overhead_ns in ((self.typical, typical_overhead_ns), (self.planned, planned_overhead_ns)):
            for each in times:
                each.price(drift, overhead_ns)


class Admission:
    """Refuses on arrival what could not be in time.

    A request is *certain* to be late if it is so even when everything that is due no later, and is no less urgent, runs
    at the fastest subnets that accuracy floors leave, at the rate of their most efficient batches, on all workers from
    the ends of their running batches on, all in the time that it typically takes. That is a bound, no schedule: the
    deadlines of what is ahead do not matter, and time is divided without remainder. So nobody is refused whom some
    schedule serves together with all that wait (``tests/scheduling/test_admission.py`` tries all schedules of small
    instances). The fastest subnets are reckoned with, hence accuracy is given up before requests are; what is less
    urgent does not count, hence it is refused, or given up (``victims.py``), before what is more urgent.

    When requests had to be refused or given up for a while, this bound is too kind: it admits requests that come to the
    head of the queue with just enough time to run alone, where only full batches keep up. They would be given up after
    having waited, and others with them. So a model counts as *overloaded* from when, for as long as a request has from
    arrival to deadline, another was always refused or given up within such a time. Then a newcomer must

    - start early enough for an efficient batch, by the schedule of such batches one after the other on each worker, in
      planned times, which are careful;
    - leave room for the more urgent ones that are expected to come while it waits;
    - not make those late that are due later, no less urgent and in time without it: they were here first.

    Rows of different buckets are reckoned with the times of their own: no batch is faster than those of its rows, so
    that the bound holds, and a short text is refused for what it takes, not for what the longest would. In overload its
    own batch is one of the longest rows.

    Where workers overlap batches, the dispatch of one passes while its worker runs the one before: it takes none of the
    time that there is for what waits, and an answer is there when both have run.

    While the queue is far from its deadlines the work is constant, whatever its length. Else it is logarithmic in the
    number of workers, and in the length of the queue where deadlines are mixed (see `EDFQueue.rows_until`); linear in
    the workers only for those that are refused outside of overload.

    Args:
        policy: says which subnets there are, and how long batches take.
        queue: what waits.
        view: the scheduler's.
        soonest: when busy workers are typically free. In ``view`` stands when they are by plan.
        share: of the workers' time that this model may count on, by instant; asked for in overload only.
        tables: by bucket; None: the policy's, for there is one.
    """

    def __init__(
        self,
        policy: Policy,
        queue: WaitingQueue,
        view: SchedulerView,
        soonest: Commitments,
        share: Callable[[int], float] = lambda _: 1.0,
        *,
        tables: Sequence[LatencyTable] | None = None,
    ) -> None:
        self._queue = queue
        self._view = view
        self._soonest = soonest
        self._share = share
        self.plan_with(policy, tables or (policy.table,), view.overhead_ns)
        self._short_since_ns, self._short_until_ns = 0, -1
        self._has_lasted = False
        self._arrivals: dict[int, ArrivalEstimate] = {}
        self._counted = (-1, 0, 0, 0, 0)

    def plan_with(self, policy: Policy, tables: Sequence[LatencyTable], overhead_ns: int) -> None:
        """From now on batches take what these tables say; see the constructor, and `price`."""
        self._policy = policy
        self._tables = tables
        self._apart, self._behind = BatchTimes.of(tables), BatchTimes.of(tables)
        self._prices = (0.0, 0, 0)
        self.price(overhead_ns)

    def price(self, overhead_ns: int) -> None:
        """What the dispatch of a batch typically takes; to be called when what is planned with has changed, too."""
        drift, planned_ns = self._view.drift, self._view.overhead_ns
        if self._prices == (drift, overhead_ns, planned_ns):
            return
        self._prices = (drift, overhead_ns, planned_ns)
        self._overhead_ns = overhead_ns
        self._apart.price(drift, overhead_ns, planned_ns)
        self._behind.price(drift, 0, 0)
        fastest = self._policy.subnets[0]
        slowest = self._apart.typical[-1].best(fastest, 0)
        self._row_ns = slowest.time_ns / slowest.rows
        self._least_ns = round(self._tables[0].latency_ns[fastest][1] * drift) + planned_ns

    def typical_ns(self, launch: "Launch") -> int:
        """What a batch typically takes, dispatch included."""
        profiled_ns = self._tables[launch.bucket].typical_ns[launch.subnet][launch.rows]
        return round(profiled_ns * launch.drift) + self._overhead_ns

    def given_up(self, now_ns: int, request: Request) -> None:
        """Not everybody can be served: this one is not."""
        if now_ns > self._short_until_ns:
            self._short_since_ns = now_ns
        self._short_until_ns = max(self._short_until_ns, now_ns + request.deadline_ns - request.arrival_ns)
        lasted_ns = _MEMORY * (request.deadline_ns - request.arrival_ns)
        self._has_lasted = self._has_lasted or now_ns - self._short_since_ns > lasted_ns

    def is_overloaded(self, now_ns: int, request: Request) -> bool:
        """Whether others have been refused or given up, all through the time that a request has."""
        since_ns = now_ns - request.deadline_ns + request.arrival_ns
        return now_ns <= self._short_until_ns and self._short_since_ns <= since_ns

    def has_recovered(self, now_ns: int) -> bool:
        """Whether an overload that outlasted the memory for bursts has ended since this was last asked."""
        if self._short_until_ns >= now_ns or not self._has_lasted:
            return False
        self._has_lasted = False
        return True

    def refusal(self, now_ns: int, request: Request) -> Prediction | None:
        """Why a request cannot be admitted; None if it can.

        Args:
            now_ns: its arrival.
            request: there is still time for it to run alone: its ``latest_start_ns`` has not passed.
        """
        if self._arrivals or request.priority > 1:
            self._observe(now_ns, request)
        if now_ns > self._short_until_ns and self._has_room(now_ns, request):
            return None
        fastest = self._policy.usable(request.min_accuracy)[0]
        if not self.is_overloaded(now_ns, request):
            refused = self._late(now_ns, request, fastest)
        else:
            refused = self._late_in_batch(now_ns, request, fastest) or self._late_others(now_ns, request, fastest)
        if refused is not None:
            self.given_up(now_ns, request)
        return refused

    @property
    def _times(self) -> BatchTimes:
        """What batches take of a worker's time that always has work."""
        return self._behind if self._view.overlapping else self._apart

    @property
    def _hidden_ns(self) -> int:
        """What passes of the dispatch of a batch while its worker runs the one before."""
        return self._view.overhead_ns if self._view.overlapping else 0

    def _has_room(self, now_ns: int, request: Request) -> bool:
        """Whether all that waits could be served row by row in what is left once every worker is free.

        Then `_late` has nothing to find, and it takes several times as long.
        """
        queue = self._queue
        start_ns = request.latest_start_ns - (queue.rows + request.rows) * self._row_ns / len(self._view.workers)
        return now_ns <= start_ns >= self._soonest.latest_ns and request.min_accuracy <= 0.0 and not queue.is_mixed

    def _late(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        """Whether it is certain to be late."""
        hidden_ns, times = self._hidden_ns, self._times.typical
        deadline_ns, latest_ns = request.deadline_ns, request.latest_start_ns + hidden_ns
        batch = times[request.bucket].best(fastest, deadline_ns - now_ns)
        rows, row_ns = self._ahead(times, now_ns, request, batch)
        need_ns = (rows + request.rows) * row_ns
        workers = len(self._view.workers)
        free_ns = self._soonest.free_sum_ns(now_ns, workers)
        if workers * latest_ns >= free_ns and workers * deadline_ns - free_ns >= need_ns:
            return None
        ends = self._soonest.ends_ns(now_ns, workers)
        # Of what is due with it some may be of one row, and start later than a request of many can.
        late_ns = max(
            ends[0] - latest_ns, _missing(ends, deadline_ns - self._least_ns + hidden_ns - 1, deadline_ns, need_ns)
        )
        if late_ns <= 0:
            return None
        due_ns = deadline_ns - now_ns
        batch_ns = round(row_ns * batch.rows)
        return Prediction(Promise.OWN, rows, batch.rows, batch_ns, workers, due_ns + late_ns, due_ns)

    def _late_in_batch(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        """Whether it would be late in an efficient batch, behind others of them."""
        left_ns, times = request.deadline_ns - now_ns, self._times.planned
        batch, own = times[-1].best(fastest, left_ns), times[-1].best(fastest, int(left_ns * OWN_PART))
        latest_ns = min(request.latest_start_ns + self._hidden_ns, request.deadline_ns - own.time_ns - 1)
        rows, row_ns = self._ahead(times, now_ns, request, batch)
        rows += self._expected(now_ns, request, latest_ns)
        batch_ns = round(batch.rows * row_ns / self._share(now_ns))
        workers = len(self._view.workers)
        started, next_ns = self._started(now_ns, workers, latest_ns, batch_ns)
        missing = rows // batch.rows + 1 - started
        if missing <= 0:
            return None
        start_ns = next_ns + (missing - 1) * batch_ns // workers
        return Prediction(
            Promise.BATCH, rows, batch.rows, batch_ns, workers, start_ns - now_ns, max(0, latest_ns - now_ns)
        )

    def _late_others(self, now_ns: int, request: Request, fastest: int) -> Prediction | None:
        """Whether one that is due later, no less urgent, and in time without it would be late."""
        queue = self._queue
        ahead = queue.position_of(request.deadline_ns)
        if ahead == len(queue):
            return None
        batch = self._times.planned[-1].best(fastest, request.deadline_ns - now_ns)
        workers = len(self._view.workers)
        free_ns = self._view.commitments.free_sum_ns(now_ns, workers)
        # A whole batch per worker is kept back: with half of one, the mean of what rounding costs, a tenth of requests
        # with 144 ms were given up for others with 36 ms. Those within that reserve still count as in time.
        return self._displaced(now_ns, request, ahead, batch, Supply(workers, free_ns, workers * batch.time_ns))

    def _displaced(self, now_ns: int, request: Request, ahead: int, batch: Batch, supply: Supply) -> Prediction | None:
        """The first that would be late, of those that are looked at behind a position."""
        queue, row_ns = self._queue, batch.time_ns / batch.rows
        workers, free_ns, reserve_ns = supply
        row_share, own_ns = queue.rows / len(queue), request.rows * row_ns
        for position in _strided(ahead, len(queue)):
            other = queue.peek(position)
            rows = round((position + 1) * row_share)
            need_ns, left_ns = rows * row_ns, workers * other.deadline_ns - free_ns
            if need_ns <= left_ns < need_ns + own_ns + reserve_ns and level(other) <= level(request):
                end_ns = int((need_ns + own_ns + reserve_ns + free_ns) / workers) + 1
                return Prediction(
                    Promise.OTHERS,
                    rows,
                    batch.rows,
                    batch.time_ns,
                    len(self._view.workers),
                    end_ns - now_ns,
                    other.deadline_ns - now_ns,
                )
        return None

    def _ahead(
        self, times: Sequence[EfficientBatches], now_ns: int, request: Request, batch: Batch
    ) -> tuple[int, float]:
        """Rows to be served before a request, and worker time per row of them and of its own."""
        queue, deadline_ns = self._queue, request.deadline_ns
        if not queue.is_mixed and not request.bucket and request.min_accuracy <= 0.0:
            return queue.rows_until(deadline_ns), batch.time_ns / batch.rows
        rows, need_ns = request.rows, request.rows * batch.time_ns / batch.rows
        for kind, count in queue.rows_of_kinds(deadline_ns):
            if kind.level <= level(request):
                best = times[kind.bucket].best(kind.fastest, deadline_ns - now_ns)
                rows += count
                need_ns += count * best.time_ns / best.rows
        return rows - request.rows, need_ns / rows

    def _expected(self, now_ns: int, request: Request, until_ns: int) -> int:
        """Rows of more urgent requests that are expected to come by an instant."""
        if not self._arrivals or until_ns <= now_ns:
            return 0
        span_ns, own = until_ns - now_ns, min(level(request), _LEVELS)
        return round(sum(each.rows_within(now_ns, span_ns) for of, each in self._arrivals.items() if of < own))

    def _observe(self, now_ns: int, request: Request) -> None:
        """Count arrivals by level, from the first of a lower priority on."""
        estimate = self._arrivals.setdefault(min(level(request), _LEVELS), ArrivalEstimate())
        estimate.observe(now_ns, request.rows, request.deadline_ns - now_ns)

    def _started(self, now_ns: int, workers: int, until_ns: int, batch_ns: int) -> tuple[int, int]:
        """How many batches, one after the other on each worker, would start by an instant, and when the next one would.

        Kept for the next arrival: it holds until a batch starts or ends, or until the next one would start.
        """
        commitments = self._view.commitments
        changes, kept_ns, since_ns, started, next_ns = self._counted
        if changes != commitments.changes or kept_ns != batch_ns or not since_ns <= until_ns < next_ns:
            started, next_ns = commitments.starts(now_ns, workers, until_ns, batch_ns)
            self._counted = commitments.changes, batch_ns, until_ns, started, next_ns
        return started, next_ns


def _missing(ends: Sequence[int], latest_ns: int, deadline_ns: int, need_ns: float) -> int:
    """By how much later a request would have to be due for the workers to have enough time before; at most 0 if not.

    Only the time of workers that are free by ``latest_ns`` counts, when the last of what is due with it has to start;
    ``ends`` says when each is, in order.
    """
    later_ns, time_ns = 0, 0
    for count, end_ns in enumerate(ends, 1):
        time_ns += deadline_ns - end_ns
        later_ns = max(end_ns - latest_ns, ceil((need_ns - time_ns) / count))
        if count == len(ends) or later_ns < ends[count] - latest_ns:
            break
    return later_ns


def _strided(first: int, end: int) -> Iterator[int]:
    """Positions from the first to the last, in growing distances."""
    distance = 0
    while first + distance < end - 1:
        yield first + distance
        distance = max(distance + 1, int(distance * _STRIDE))
    yield end - 1


def _ms(span_ns: int) -> str:
    return f"{span_ns / NS_PER_MS:.1f} ms"
