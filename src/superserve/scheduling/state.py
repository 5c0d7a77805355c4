"""What a scheduler knows, and what others may ask of it; nothing is decided here."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from superserve.clock import NS_PER_S
from superserve.profile import LatencyTable
from superserve.request import RequestState
from superserve.scheduling.actions import Launch
from superserve.scheduling.admission import Admission
from superserve.scheduling.buckets import decide_by
from superserve.scheduling.drift import DriftEstimate
from superserve.scheduling.expiry import ExpiryQueue
from superserve.scheduling.flights import Flights
from superserve.scheduling.overhead import OverheadEstimate
from superserve.scheduling.plans import Plan, Plans, none_slower
from superserve.scheduling.policy import Policy, SchedulerView
from superserve.scheduling.waiting import WaitingQueue
from superserve.scheduling.workers import SharedWorkers, Workers

_RUNNING: Final = RequestState.RUNNING
_DONE: Final = RequestState.DONE


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """Bounds that hold whatever the load."""

    max_queued: int = 20_000
    """Requests that may wait at once; one more is rejected."""


class SchedulerState:
    """The requests that wait, the batches that run, what they are planned with, and what of it is known by now.

    Args:
        policy: chooses subnet, batch size and victims; its table and ``timeout_action`` hold here, too.
        overhead_ns: dispatch overhead that is taken off every slack until `observe_overhead` knows better.
        limits: bounds.
        shared: workers that other models use, too. What happens to workers is then told to them: of the events, only
            those of requests and time come from outside. None: the scheduler has its workers for itself.
        shorter: the same policy for each shorter bucket of the profile, the shortest first (`create_policies`): then
            requests may be of any of them, and ``policy`` is for the longest rows.
        workers: those that it has for itself; None: new ones, which are of one device.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        overhead_ns: int,
        limits: SchedulerLimits | None = None,
        shared: SharedWorkers | None = None,
        shorter: Sequence[Policy] = (),
        workers: Workers | None = None,
    ) -> None:
        self._set_policies((*shorter, policy))
        self._history = Plans(Plan(0, policy, self.tables_of))
        self.limits = limits or SchedulerLimits()
        self._expires = policy.timeout_action == "reject"
        self._queue = WaitingQueue(lambda floor: self.policy.usable(floor)[0])
        self._overhead = OverheadEstimate(overhead_ns)
        self._drift = DriftEstimate()
        self._shared = shared
        self._workers: Workers = shared or workers or Workers()
        self._idle = self._workers.idle
        self._room = self._workers.room
        self._flights = Flights()
        self._commitments = self._workers.commitments
        self._view = SchedulerView(
            policy.table,
            self._queue,
            overhead_ns,
            commitments=self._commitments,
            workers=self._workers.live,
            idle=self._idle,
            overlapping=self._workers.overlapping,
        )
        self._admission = Admission(
            policy, self._queue, self._view, self._workers.soonest, self._share, tables=self.tables
        )
        self._expiry = ExpiryQueue()
        self._wake_ns: int | None = None
        self._observes = policy.observes_arrivals
        self._ranked = False
        """Whether there have been requests of a lower priority than others."""
        self._overloaded = False
        """Whether a request has become hopeless since victims were last looked for."""
        self._relax_after_ns = 0
        """Nothing that was learned is forgotten before."""
        self._slow_after_ns = 0
        """Slow workers get nothing before."""

    def _set_policies(self, policies: Sequence[Policy]) -> None:
        """Take the policy and its tables, by bucket, and what follows from them alone."""
        self._policies = policies
        self.policy = policy = policies[-1]
        self.tables = tuple(one.table for one in policies)
        """By bucket (`Request.bucket`)."""
        self.tables_of: Sequence[Sequence[LatencyTable]] = (self.tables,)
        """By device."""
        self._decide = decide_by(policies)
        fastest = policy.table.latency_ns[policy.subnets[0]]
        # Not 0: time has to pass until a slow worker is asked again.
        self._fastest_ns = max(1, fastest[policy.table.batches[0]])
        self._pace_ns = min(fastest[rows] / rows for rows in policy.table.batches)

    @property
    def queue_depth(self) -> int:
        """Requests waiting."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether a request would be rejected for those that wait."""
        return len(self._queue) >= self.limits.max_queued

    @property
    def workers(self) -> int:
        """Workers that are idle or running a batch."""
        return len(self._workers.live)

    @property
    def capacity(self) -> float:
        """How many workers there are; where they differ, how many like the first device's that makes."""
        return len(self._workers.live)

    @property
    def workers_by_device(self) -> Sequence[int]:
        """How many there are of each device; none where there is one device."""
        return [fleet.live for fleet in self._workers.fleets]

    @property
    def busy(self) -> int:
        """Workers that run a batch of this model, overdue ones among them."""
        return sum(1 for worker in (*self._flights.first, *self._flights.overdue) if self._runs(worker))

    @property
    def in_flight(self) -> int:
        """Batches of this model that workers have and have not answered: those they run, and those that come next."""
        return len(self._flights)

    @property
    def unfinished(self) -> int:
        """Admitted requests without an outcome."""
        return len(self._queue) + sum(request.state is _RUNNING for request in self._flights.requests())

    def running(self, worker: int) -> Launch | None:
        """The batch of this model that a worker runs."""
        return self._flights.first.get(worker) if self._runs(worker) else None

    def launched(self, worker: int) -> Sequence[Launch]:
        """The batches of this model that a worker has been given and that are not overdue, the next to end first."""
        return self._flights.on(worker)

    def oldest_arrival_ns(self) -> int | None:
        """When the oldest request came that has not ended; None if all have. It looks at each of them."""
        known = chain(self._queue, self._flights.requests())
        return min((request.arrival_ns for request in known if request.state is not _DONE), default=None)

    def _runs(self, worker: int) -> bool:
        """Whether the batch that a worker runs is of this model."""
        return self._workers.runs.get(worker) is self

    @property
    def planned_overhead_ns(self) -> int:
        """The dispatch overhead that is taken off every slack."""
        return self._view.overhead_ns

    @property
    def drift(self) -> float:
        """What batches are planned to take over what their profile says; at least 1."""
        return self._view.drift

    def slow(self, worker: int) -> bool:
        """Whether a worker runs this model's batches slower than the others do, or the way to it is longer.

        It may be idle while work waits.
        """
        return self._drift.slow(worker) or self._overhead.far(worker)

    def head_slack_ns(self, now_ns: int) -> int:
        """Slack of the most urgent of the waiting requests, of which there is one.

        A request that is late already (``timeout_action`` is ``"delay"``) has none to compare. It counts as due when
        its own time from arrival to deadline has passed once more, then when twice that has, four times that, and so
        on: the backlog of one model does not keep the others from being in time, and still each of its requests has
        its turns.
        """
        head = self._queue.peek()
        left_ns = head.deadline_ns - now_ns
        if left_ns < 0:
            span_ns = max(1, head.deadline_ns - head.arrival_ns)
            turns = (-(left_ns // span_ns)).bit_length()
            left_ns += span_ns * ((1 << turns) - 1)
        return left_ns - self._view.overhead_ns

    @property
    def usual_deadline_ns(self) -> float:
        """Mean time from arrival to deadline of recent requests."""
        return self._view.arrivals.slo_ns

    def need_ns(self, now_ns: int, span_ns: float) -> float:
        """Worker time that what waits, and what is expected within a span, needs at the fastest subnet."""
        return (self._queue.rows + self._view.arrivals.rows_within(now_ns, span_ns)) * self._pace_ns

    def bears(self, policies: Sequence[Policy]) -> bool:
        """Whether `replan` would break no promise: the fastest subnet of nobody who waits would take longer.

        That subnet is what a request is admitted by, what it is given up by, and what its latest start follows from.
        Looks at all that wait if they have accuracy floors.
        """
        queue = self._queue
        floors = {request.min_accuracy for request in queue} if queue.is_mixed else {0.0} if queue else ()
        return none_slower(self._policies, policies, floors)

    def plan_at(self, at_ns: int) -> Plan:
        """See `Plans.at`."""
        return self._history.at(at_ns)

    def retry_after_s(self) -> float:
        """How long the waiting rows take at the fastest subnet's full batches on all workers, in seconds."""
        table = self.policy.table
        batch_ns = self._expected_ns(self.policy.subnets[0], table.max_rows)
        batches = -(-self._queue.rows // table.max_rows)
        return batches * batch_ns / (self.capacity or 1.0) / NS_PER_S

    def _expected_ns(self, subnet: int, rows: int, bucket: int = -1) -> int:
        """What a batch is expected to take at most in a worker."""
        return round(self.tables[bucket].latency_ns[subnet][rows] * self._view.drift)

    def _least_overhead_ns(self) -> int:
        """What to plan with for a worker that is not far."""
        return self._overhead.planned_ns

    def _share(self, now_ns: int) -> float:
        """Of the workers' time, what this model may count on."""
        share = 1.0 if self._shared is None else self._shared.share(now_ns, self)
        return share * self._drift.capacity(len(self._workers.live)) if self._drift.uneven else share
