"""Policies under which a worker holds one subnet at a time and changing it takes time.

What SuperServe does away with, to compare with. On workers that actuate in place the change is played: a worker that
changes its subnet is given no work until the time has passed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import ConfigError
from superserve.profile import LatencyTable
from superserve.request import Request
from superserve.scheduling.policy import (
    Decision,
    HeadPolicy,
    Placement,
    Policy,
    SchedulerView,
    TimeoutAction,
    Wait,
    register_policy,
)

#: Plans leave so much of the capacity unused: Proteus' beta.
HEAD_ROOM: Final = 1.05
#: Time to load a subnet: the paper's coarse policy of Fig. 1c; it says "hundreds of milliseconds" elsewhere.
LOAD_MS: Final = 100.0
#: Proteus solves every 30 s (paper section 7).
SOLVE_INTERVAL_S: Final = 30.0
#: Weight of the last interval in the smoothed demand: ``ewma_decay`` 0.7 of Proteus' sources is a centre of mass.
DEMAND_WEIGHT: Final = 1.0 / 1.7
#: The first interval is a thirtieth: nothing is known of the demand before it ends.
_FIRST_INTERVAL: Final = 1.0 / 30.0


class _Rate(NamedTuple):
    """What one worker does at most with a subnet, in rows per nanosecond."""

    rows_per_ns: float
    subnet: int


def serving_rates(table: LatencyTable, budget_ns: float, overhead_ns: int) -> list[_Rate]:
    """The best rate of every subnet that has a batch within a latency budget, in rising order of accuracy."""
    rates = []
    for subnet, row in enumerate(table.latency_ns):
        sizes = [rows for rows in table.batches if row[rows] < budget_ns]
        if sizes:
            rates.append(_Rate(max(rows / (row[rows] + overhead_ns) for rows in sizes), subnet))
    return rates


def full_batches(table: LatencyTable, budget_ns: float) -> list[int]:
    """Per subnet the largest batch within a latency budget, 1 if there is none."""
    budget = int(min(budget_ns, 1e18))
    return [max(1, table.largest_batch(subnet, budget)) for subnet in range(len(table))]


class Coarse(HeadPolicy):
    """A reactive policy that pays an actuation delay: the coarse policy of the paper's Fig. 1, and its ideal at 0 ms.

    All workers hold the same subnet. Whenever no change is under way, the target is the most accurate subnet whose
    full batches within half the usual deadline keep up with 1.05 times the arrival rate of the last deadlines on all
    workers; the fastest if none does. A change takes effect after the delay, and until then the old subnet serves: too
    slow a one when the rate has risen, too inaccurate a one when it has fallen. Batches fill the head's slack. A head
    is given up if the subnet cannot serve it in time, or only in a smaller batch than a full one while enough wait:
    the choice of the subnet counts on full batches, and with small ones the queue would never recover.

    The paper does not say what its policy does in detail. It holds state: the subnet, and the change under way.
    """

    name: ClassVar[str] = "coarse"
    observes_arrivals: ClassVar[bool] = True
    by_bucket: ClassVar[bool] = False

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction, delay_ns: int) -> None:
        super().__init__(table, timeout_action)
        self._delay_ns = delay_ns
        self._subnet = -1
        self._target = -1
        self._full: list[int] = []
        self._effective_ns = 0

    def decide(self, view: SchedulerView) -> Decision:
        """See `Policy.decide`."""
        if self._subnet != self._target and view.now_ns >= self._effective_ns:
            self._subnet = self._target
        if self._subnet == self._target:
            self._target = self._wanted(view)
            self._effective_ns = view.now_ns + self._delay_ns
            if self._subnet < 0 or not self._delay_ns:
                self._subnet = self._target
        return super().decide(view)

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:
        """See `HeadPolicy.place`."""
        subnet = max(self._subnet, self.usable(head.min_accuracy)[0])
        rows = self.table.largest_batch(subnet, slack_ns)
        if self.timeout_action == "delay":
            return Placement(subnet, rows if rows >= head.rows else self.table.max_rows)
        full = self._full[subnet]
        return Placement(subnet, rows) if rows >= max(head.rows, full if waiting_rows >= full else 0) else None

    def _wanted(self, view: SchedulerView) -> int:
        slo_ns = view.arrivals.slo_ns or float("inf")
        demand = HEAD_ROOM * view.arrivals.rows_within(view.now_ns, 1.0)
        self._full = full_batches(self.table, slo_ns / 2)
        rates = serving_rates(self.table, slo_ns / 2, view.overhead_ns)
        enough = [rate.subnet for rate in rates if rate.rows_per_ns * view.workers_total >= demand]
        return enough[-1] if enough else 0


@dataclass(slots=True)
class _Hosted:
    """What a worker holds, and from when on."""

    subnet: int
    ready_ns: int


class Proteus(Policy):
    """Proteus (ASPLOS 2024; its MILP as in paper section 7): which worker holds which subnet, solved anew now and then.

    Every 30 s, and when a worker comes or goes, the number of workers per subnet is chosen such that the demand,
    smoothed over intervals and with 5 % of head-room, is served at the highest mean accuracy. A subnet serves at the
    rate of its largest batch within half the usual deadline; one without such a batch is not used. With one kind of
    request and identical workers the MILP is a problem in counts (`allocate`). Workers keep their subnets where the
    counts allow it; one that changes takes the load time, during which it is given no work.

    In between, idle workers take from the queue, the most accurate one first. Each holds its batch back until it is
    full or its head can wait no longer. A head is given up if no idle worker's subnet serves it in time, or if it would
    force all of them into smaller batches than full ones while enough wait: the plan counts on full batches. (Proteus
    routes requests to workers on arrival, in proportion to their rates; here one queue is for all.)

    It holds state: the smoothed demand, and what each worker holds.

    Args:
        table: latencies and accuracies.
        timeout_action: see `Policy`.
        interval_ns: between solves.
        load_ns: to load a subnet.
    """

    name: ClassVar[str] = "proteus"
    observes_arrivals: ClassVar[bool] = True
    by_bucket: ClassVar[bool] = False

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction, interval_ns: int, load_ns: int) -> None:
        super().__init__(table, timeout_action)
        self._interval_ns = interval_ns
        self._load_ns = load_ns
        self._hosted: dict[int, _Hosted] = {}
        self._targets: dict[int, int] = {}
        self._full: list[int] = []
        self._demand: float | None = None
        self._solve_ns = 0
        self._looked_ns = 0
        self._interval_start_ns = 0
        self._offered = 0.0

    def decide(self, view: SchedulerView) -> Decision | Wait:
        """See `Policy.decide`."""
        self._measure(view)
        if view.now_ns >= self._solve_ns or self._targets.keys() != set(view.workers):
            self._solve(view)
        self._load(view)
        ready = [worker for worker in view.idle if self._hosted[worker].ready_ns <= view.now_ns]
        if not ready:
            return Wait(min(self._hosted[worker].ready_ns for worker in view.idle))
        ready.sort(key=lambda worker: -self._hosted[worker].subnet)
        waiting = view.queue.rows
        for position in range(view.depth):
            placed = self._placed(view, ready, position, waiting)
            if isinstance(placed, Wait) and position:
                return Decision(self.subnets[0], 0, position)  # asked again for what is left
            if placed is not None:
                return placed
            head = view.queue.peek(position)
            if self.timeout_action == "delay":
                subnet = max(self._hosted[ready[-1]].subnet, self.usable(head.min_accuracy)[0])
                return Decision(subnet, self.table.max_rows, 0, ready[-1])
            waiting -= head.rows
        return Decision(self.subnets[0], 0, view.depth)

    def _placed(self, view: SchedulerView, ready: Sequence[int], position: int, waiting: int) -> Decision | Wait | None:
        """What to do with a head: run it, hold it back, or None if no worker of ``ready`` serves it in time."""
        head, slack_ns = view.queue.peek(position), view.slack_ns(position)
        hold_ns: int | None = None
        short: Decision | None = None
        for worker in ready:
            subnet = self._hosted[worker].subnet
            rows = self.table.largest_batch(subnet, slack_ns)
            if rows < head.rows or self.table.accuracies[subnet] < head.min_accuracy:
                continue
            full = self._full[subnet]
            decision = Decision(subnet, rows, position, worker)
            if min(waiting, full) > rows:
                short = short or (decision if waiting < full else None)
                continue
            last_ns = view.now_ns + slack_ns - self.table.latency_ns[subnet][min(waiting, full)] - 1
            if waiting >= full or last_ns <= view.now_ns:
                return decision
            hold_ns = last_ns if hold_ns is None else min(hold_ns, last_ns)
        return short if hold_ns is None else Wait(hold_ns)

    def _measure(self, view: SchedulerView) -> None:
        elapsed_ns = view.now_ns - self._looked_ns
        self._offered += view.arrivals.rows_within(view.now_ns, elapsed_ns)
        self._looked_ns = view.now_ns

    def _solve(self, view: SchedulerView) -> None:
        if view.now_ns >= self._solve_ns:
            self._end_interval(view.now_ns)
        slo_ns = view.arrivals.slo_ns or float("inf")
        rates = serving_rates(self.table, slo_ns / 2, view.overhead_ns) or [_Rate(1.0, 0)]
        self._full = full_batches(self.table, slo_ns / 2)
        wanted = allocate(rates, self.table.accuracies, len(view.workers), HEAD_ROOM * (self._demand or 0.0))
        self._targets = self._spread(wanted, view)

    def _end_interval(self, now_ns: int) -> None:
        length_ns = self._interval_ns
        if not self._targets:
            length_ns = round(self._interval_ns * _FIRST_INTERVAL)
        elif now_ns > self._interval_start_ns:
            last = self._offered / (now_ns - self._interval_start_ns)
            self._demand = last if self._demand is None else self._demand + DEMAND_WEIGHT * (last - self._demand)
        self._interval_start_ns, self._offered = now_ns, 0.0
        self._solve_ns = now_ns + length_ns

    def _spread(self, wanted: Sequence[int], view: SchedulerView) -> dict[int, int]:
        """Targets per worker with as few changes as the numbers allow."""
        open_places = Counter(wanted)
        targets: dict[int, int] = {}
        for worker in sorted(view.workers):
            hosted = self._hosted.get(worker)
            if hosted is not None and open_places[hosted.subnet]:
                targets[worker] = hosted.subnet
                open_places[hosted.subnet] -= 1
        left = sorted(open_places.elements())
        return targets | {worker: left.pop() for worker in sorted(view.workers) if worker not in targets}

    def _load(self, view: SchedulerView) -> None:
        """Start the loads of idle workers; a busy one finishes its batch first. The first subnets are there already."""
        started = bool(self._hosted)
        for gone in self._hosted.keys() - self._targets.keys():
            del self._hosted[gone]
        for worker in view.idle:
            target, hosted = self._targets[worker], self._hosted.get(worker)
            if hosted is None or hosted.subnet != target:
                self._hosted[worker] = _Hosted(target, view.now_ns + (self._load_ns if started else 0))


def allocate(rates: Sequence[_Rate], accuracies: Sequence[float], workers: int, demand: float) -> list[int]:
    """A subnet for each worker: the demand is served, at the highest mean accuracy.

    The linear relaxation mixes at most two subnets. So for each pair the fewest workers at the faster one that make up
    for the demand are taken, and then workers move up to more accurate subnets as long as the demand stays served.
    If all workers at the fastest subnet do not serve it, that is the allocation.

    Args:
        rates: per subnet that may be used, in rising order of accuracy, never rising in rate.
        accuracies: per subnet of the table.
        workers: how many there are.
        demand: rows per nanosecond.
    """
    best = (-1.0, [rates[0].subnet] * workers)
    useful = _hull(rates, accuracies)
    for number, slow in enumerate(useful):
        for fast in useful[: number + 1]:
            gain = fast.rows_per_ns - slow.rows_per_ns
            missing = demand - workers * slow.rows_per_ns
            count = 0 if missing <= 0 else workers + 1 if gain <= 0 else -int(-missing // gain)
            if count > workers:
                continue
            held = [fast] * count + [slow] * (workers - count)
            held = _moved_up(held, useful, demand)
            best = max(best, (_mean_accuracy(held, accuracies, demand), [rate.subnet for rate in held]))
    return best[1]


def _hull(rates: Sequence[_Rate], accuracies: Sequence[float]) -> list[_Rate]:
    """Rates on the concave hull of accuracy over time per row: no mixture of two others beats them."""
    hull: list[_Rate] = []
    for rate in rates:
        point = (1.0 / rate.rows_per_ns, accuracies[rate.subnet])
        while len(hull) > 1:
            first, middle = ((1.0 / other.rows_per_ns, accuracies[other.subnet]) for other in hull[-2:])
            if (middle[1] - first[1]) * (point[0] - first[0]) > (point[1] - first[1]) * (middle[0] - first[0]):
                break
            hull.pop()
        hull.append(rate)
    return hull


def _moved_up(held: list[_Rate], rates: Sequence[_Rate], demand: float) -> list[_Rate]:
    held = list(held)
    spare = sum(rate.rows_per_ns for rate in held) - demand
    for place, rate in enumerate(held):
        affordable = [other for other in rates if rate.rows_per_ns - other.rows_per_ns <= spare]
        if affordable and affordable[-1].subnet > rate.subnet:
            spare -= rate.rows_per_ns - affordable[-1].rows_per_ns
            held[place] = affordable[-1]
    return held


def _mean_accuracy(held: Sequence[_Rate], accuracies: Sequence[float], demand: float) -> float:
    """Over the demand, if the most accurate workers are given as much of it as they can do."""
    if demand <= 0:
        return max(accuracies[rate.subnet] for rate in held)
    left, total = demand, 0.0
    for rate in sorted(held, key=lambda rate: -accuracies[rate.subnet]):
        share = min(left, rate.rows_per_ns)
        total += share * accuracies[rate.subnet]
        left -= share
    return total / demand


def _number(policy: str, argument: str, default: float, unit: str) -> float:
    try:
        value = float(argument) if argument else default
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"policy {policy}:{argument}: the part after the colon is a number of {unit}, at least 0")
    return value


def _create_coarse(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> Policy:
    delay_ms = _number(Coarse.name, argument, LOAD_MS, "milliseconds")
    return Coarse(table, timeout_action, round(delay_ms * NS_PER_MS))


def _create_proteus(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> Policy:
    interval_s = _number(Proteus.name, argument, SOLVE_INTERVAL_S, "seconds")
    return Proteus(table, timeout_action, round(interval_s * NS_PER_S), round(LOAD_MS * NS_PER_MS))


register_policy(Coarse.name, _create_coarse)
register_policy(Proteus.name, _create_proteus)
