"""What a policy sees, what it answers, and the register of policies by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import entry_points
from typing import ClassVar, Final, Literal, NamedTuple

from superserve.errors import ConfigError
from superserve.profile import LatencyTable
from superserve.request import Request
from superserve.scheduling.arrivals import ArrivalEstimate
from superserve.scheduling.commitments import Commitments
from superserve.scheduling.queue import EDFQueue

TimeoutAction = Literal["reject", "delay"]

#: What a server runs if it is told nothing, and what the name ``default`` stands for.
DEFAULT_POLICY: Final = "drainfit"

#: Third parties register policies here: the entry point's name is the policy's, its value the factory.
ENTRY_POINT_GROUP: Final = "superserve.policies"


@dataclass(slots=True)
class SchedulerView:
    """What a policy may look at when a worker is idle and a request waits. Policies change nothing in it.

    Latencies of the table are *planned* time. While the machine runs slower than its profile, a batch takes ``drift``
    times as long as planned, and what is left until a deadline counts for less: `slack_ns` is in planned time, to be
    compared with the table's latencies; a policy that reckons with instants itself divides by ``drift``. Where the
    worker at hand is slower than the others, slack is in the planned time of that one. ``overhead_ns`` is the dispatch
    overhead that slack already excludes, as it is.
    """

    table: LatencyTable
    queue: EDFQueue
    overhead_ns: int
    now_ns: int = 0
    workers_idle: int = 0
    workers_total: int = 0
    arrivals: ArrivalEstimate = field(default_factory=ArrivalEstimate)
    """Kept up only for policies with `Policy.observes_arrivals`."""
    commitments: Commitments = field(default_factory=Commitments)
    workers: Collection[int] = ()
    """Ids of all live workers."""
    idle: Collection[int] = ()
    """Ids of those that may be given work, the longest idle first; for policies that choose a worker."""
    share: float = 1.0
    """Of the workers' time: what this model may count on, beside those that it shares the workers with and less what
    slow workers cannot do."""
    drift: float = 1.0
    """What batches take over what the table says they take; at least 1."""
    worker_drift: float = 1.0
    """The same on the worker that gets the batch, if the policy chooses none."""
    weighed: tuple[float, float] | None = None
    """`capacity` where workers are of several devices."""
    behind_ns: int = 0
    """How much later than after the dispatch overhead a batch begins, because its worker still runs another one. Slack
    excludes it, too; what the worker has yet to do is among the `commitments`."""
    overlapping: Collection[int] = ()
    """Ids of the workers that get their next batch while they run one."""

    @property
    def depth(self) -> int:
        """Number of waiting requests; at least 1 when a policy is asked."""
        return len(self.queue)

    @property
    def free_sum_ns(self) -> int:
        """Sum over all workers of the instants at which they are predicted to be free, now for idle ones."""
        return self.commitments.free_sum_ns(self.now_ns, self.workers_total)

    @property
    def capacity(self) -> tuple[float, float]:
        """How many workers there are, and `free_sum_ns`, each counted for what it does in a time.

        The worker at hand counts for 1, as do all where they are alike; one of a device that serves twice as many rows
        per time counts for 2.
        """
        return self.weighed or (self.workers_total, self.free_sum_ns)

    def slack_ns(self, position: int = 0) -> int:
        """Slack of the request at a position in deadline order: (deadline - now - until a batch begins) / its drift."""
        left_ns = self.queue.peek(position).deadline_ns - self.now_ns - self.overhead_ns - self.behind_ns
        return left_ns if self.worker_drift == 1.0 else int(left_ns / self.worker_drift)


class Bound(StrEnum):
    """What kept a decision from the next more accurate subnet; decision records say so."""

    NOTHING = "nothing"
    """It is the most accurate one that the policy may use."""
    SLACK = "slack"
    """No batch of that one would meet the deadline of the most urgent request."""
    DRAIN = "drain"
    """After a batch of that one, the work in sight could not all be done in time."""
    STANDING = "standing"
    """A queue would be left standing, served in batches too small to shorten it."""
    BURST = "burst"
    """A burst like recent ones would cost more than that one gains."""
    OVERLOAD = "overload"
    """Not everything can be in time whatever runs: the fastest subnet serves the most."""
    RULE = "rule"
    """The policy has a rule that is none of these."""


@dataclass(frozen=True, slots=True)
class Decision:
    """First give up the ``shed`` most urgent requests, then run up to ``rows`` rows at subnet index ``subnet``.

    ``rows`` may be 0 if everything waiting is given up. A shed request is answered at once and never executed.
    ``worker`` is one of ``view.idle``; None leaves it to the scheduler, which takes the longest idle one.
    ``bound`` is why no more accurate subnet runs.
    """

    subnet: int
    rows: int
    shed: int = 0
    worker: int | None = None
    bound: Bound = Bound.RULE


@dataclass(frozen=True, slots=True)
class Wait:
    """Leave the worker idle until ``until_ns``, or until something changes before that."""

    until_ns: int


class Placement(NamedTuple):
    """A subnet and the most rows to run with it."""

    subnet: int
    rows: int


class Policy(ABC):
    """Chooses subnet and batch size whenever a worker is idle and a request waits.

    A policy is a pure function of the view: it holds nothing but tables made from its arguments. It keeps the
    contract that a decision's subnet is one of `subnets`, reaches the head's accuracy floor, holds the head's rows,
    and (unless late answers are wanted) is profiled to meet the head's deadline.

    Args:
        table: latencies and accuracies.
        timeout_action: what becomes of a request whose deadline cannot be met: ``"reject"`` gives it up,
            ``"delay"`` serves it late.
    """

    name: ClassVar[str]
    observes_arrivals: ClassVar[bool] = False
    """Whether it looks at ``view.arrivals``, which cost a microsecond per request to keep up."""
    by_bucket: ClassVar[bool] = True
    """Whether there may be one object of it per bucket of the profile: not if it holds state. One that does is asked
    for idle workers only."""

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction = "reject") -> None:
        self.table = table
        self.timeout_action = timeout_action
        self.subnets: Sequence[int] = range(len(table))
        """Indices of the subnets that it may use, in rising order of accuracy."""

    @abstractmethod
    def decide(self, view: SchedulerView) -> Decision | Wait:
        """What to do with an idle worker; called only while a request waits."""

    def restrict(self, subnets: Collection[int]) -> None:
        """Use only these of its subnets, one of them at least; before it is first asked."""
        self.subnets = [subnet for subnet in self.subnets if subnet in subnets]

    def usable(self, min_accuracy: float) -> Sequence[int]:
        """The subnets that reach an accuracy floor, in rising order of accuracy; empty if none does."""
        if min_accuracy <= 0.0:
            return self.subnets
        floor = self.table.floor_index(min_accuracy)
        return [subnet for subnet in self.subnets if subnet >= floor]


class HeadPolicy(Policy):
    """A policy that fits the batch into the slack of the most urgent request alone, as all of the paper's do.

    Work-conserving: it never waits for a fuller batch. If the head cannot be placed, it is given up and the next one
    looked at (``timeout_action="reject"``), or the fastest subnet runs its largest batch, late (``"delay"``). Every
    request looked at but one is given up, so the work is constant per request over its life.
    """

    @abstractmethod
    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:
        """The batch that ``head`` should lead, or None if there is none that meets its deadline.

        Args:
            head: the most urgent request.
            slack_ns: its slack.
            waiting_rows: rows of all waiting requests, the head's included.
        """

    def decide(self, view: SchedulerView) -> Decision:
        """See `Policy.decide`."""
        if self.timeout_action == "delay":
            head = view.queue.peek()
            slack_ns = view.slack_ns()
            placed = self.place(head, slack_ns, view.queue.rows)
            if placed is None:
                return Decision(self.usable(head.min_accuracy)[0], self.table.max_rows, bound=Bound.OVERLOAD)
            return Decision(*placed, bound=self._bound(placed.subnet, head, slack_ns))
        waiting_rows = view.queue.rows
        for position in range(view.depth):
            head, slack_ns = view.queue.peek(position), view.slack_ns(position)
            placed = self.place(head, slack_ns, waiting_rows)
            if placed is not None:
                return Decision(*placed, shed=position, bound=self._bound(placed.subnet, head, slack_ns))
            waiting_rows -= head.rows
        return Decision(self.subnets[0], 0, shed=view.depth, bound=Bound.OVERLOAD)

    def _bound(self, subnet: int, head: Request, slack_ns: int) -> Bound:
        if subnet == self.subnets[-1]:
            return Bound.NOTHING
        return Bound.SLACK if self.table.largest_batch(subnet + 1, slack_ns) < head.rows else Bound.RULE


PolicyFactory = Callable[[LatencyTable, TimeoutAction, str], Policy]

_FACTORIES: dict[str, PolicyFactory] = {}


def register_policy(name: str, factory: PolicyFactory) -> None:
    """Make ``name`` (or ``name:argument``) known to `create_policy`; the factory gets the part after the colon."""
    _FACTORIES[name] = factory


def policy_names() -> tuple[str, ...]:
    """All registered names, those of installed packages included."""
    installed = {entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return tuple(sorted({*_FACTORIES, *installed}))


def create_policy(name: str, table: LatencyTable, timeout_action: TimeoutAction = "reject") -> Policy:
    """The policy of a name such as ``slackfit`` or ``fixed:smallest``; ``default`` is `DEFAULT_POLICY`.

    Raises:
        ConfigError: if no such policy is registered, or it refuses its argument.
    """
    kind, _, argument = (DEFAULT_POLICY if name == "default" else name).partition(":")
    factory = _FACTORIES.get(kind) or _installed(kind)
    if factory is None:
        raise ConfigError(f"policy {name!r} is unknown; known: {', '.join(policy_names())}")
    return factory(table, timeout_action, argument)


def _installed(kind: str) -> PolicyFactory | None:
    for entry in entry_points(group=ENTRY_POINT_GROUP, name=kind):
        factory: PolicyFactory = entry.load()
        return factory
    return None
