"""The workers of a scheduler, or of the schedulers of several models together."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from superserve.scheduling.commitments import Commitments

if TYPE_CHECKING:
    from superserve.scheduling.actions import Action
    from superserve.scheduling.scheduler import Scheduler
    from superserve.scheduling.state import SchedulerState

#: What a scheduler wants done.
Told = tuple["Scheduler", Sequence["Action"]]


class Fleet:
    """The workers of one device, in a pool that has several.

    Attributes:
        live: how many there are, idle ones and busy ones.
        overlaps: whether they take a second batch while they run one; they are alike.
        commitments, soonest: as those of `Workers`.
    """

    def __init__(self) -> None:
        self.live = 0
        self.overlaps = False
        self.commitments = Commitments()
        self.soonest = Commitments()


class Workers:
    """Which workers there are, and which of them are idle.

    Args:
        devices: of how many devices they may be. What a device takes for a batch is for each model to know.
    """

    def __init__(self, devices: int = 1) -> None:
        self.live: set[int] = set()
        """Idle ones and busy ones."""
        self.idle: deque[int] = deque()
        """The longest idle first."""
        self.commitments = Commitments()
        """When the busy ones are expected to be free."""
        self.soonest = Commitments()
        """When they typically are, which is sooner: plans are careful."""
        self.overdue: set[int] = set()
        """Those whose batch should have been answered: not live until it is."""
        self.fleets: Sequence[Fleet] = tuple(Fleet() for _ in range(devices)) if devices > 1 else ()
        """By device; none where there is one, for that has all."""
        self.devices: dict[int, int] = {}
        """By worker, those that are gone among them: what they ran has yet to end."""
        self.runs: dict[int, Scheduler] = {}
        """Whose batch a busy worker runs."""
        self.overlapping: set[int] = set()
        """Those that take a second batch while they run one."""
        self.room: dict[int, int] = {}
        """Of these the ones that have room for a second batch, with the instant at which the first typically ends."""
        self.behind: dict[int, Scheduler] = {}
        """Whose batch comes next on those that have two."""

    def join(self, worker: int, device: int = 0) -> None:
        """A worker came, idle."""
        assert worker not in self.live, f"worker {worker} is here already"
        assert device < max(1, len(self.fleets)), f"worker {worker} is of device {device}, which nobody plans for"
        self.devices[worker] = device
        self._enter(worker)
        self.idle.append(worker)

    def leave(self, worker: int) -> None:
        """A worker is gone."""
        if worker in self.idle:
            self.idle.remove(worker)
        elif worker in self.live:
            self._release(worker)
        if worker in self.live:
            self._quit(worker)
        self.overdue.discard(worker)
        self.overlapping.discard(worker)
        self.behind.pop(worker, None)

    def overlap(self, worker: int, *, overlaps: bool) -> None:
        """Whether a worker takes a second batch while it runs one, from its next batch on; may be told before it joins.

        One that does so no more runs what it has been given.
        """
        if self.fleets and worker in self.live:
            self.fleets[self.devices[worker]].overlaps = overlaps
        if overlaps:
            self.overlapping.add(worker)
        else:
            self.overlapping.discard(worker)
            self.room.pop(worker, None)

    def begin(self, worker: int, scheduler: "Scheduler", end_ns: int, typical_ns: int) -> None:
        """A worker runs a batch of a scheduler from now on, which ends at an instant by plan, and typically sooner."""
        self.runs[worker] = scheduler
        self.commitments.add(worker, end_ns)
        self.soonest.add(worker, typical_ns)
        if self.fleets:
            fleet = self.fleets[self.devices[worker]]
            fleet.commitments.add(worker, end_ns)
            fleet.soonest.add(worker, typical_ns)

    def follow(self, worker: int, scheduler: "Scheduler", end_ns: int, typical_ns: int) -> None:
        """A worker that has `room` runs another batch once it is through with the one that it runs."""
        self._release(worker)
        self.begin(worker, self.runs[worker], end_ns, typical_ns)
        self.behind[worker] = scheduler

    def suspend(self, worker: int) -> bool:
        """Do without a busy worker until it is free; False, and nothing happens, where there is no other one."""
        if worker not in self.live or len(self.live) == 1:
            return False
        self._release(worker)
        self._quit(worker)
        self.overdue.add(worker)
        return True

    def free(self, now_ns: int, worker: int) -> None:
        """A worker is through with its batch: it goes on with the one behind it, or is idle."""
        late = worker in self.overdue
        if not late:
            self._release(worker)
        if self.behind and (scheduler := self.behind.pop(worker, None)) is not None:
            self.runs[worker] = scheduler
            scheduler.goes_on(now_ns, worker)
            return
        if late:
            self.overdue.remove(worker)
            self._enter(worker)
        self.idle.append(worker)

    def _release(self, worker: int) -> None:
        """A busy worker's batches end otherwise than by plan, or now."""
        self.commitments.remove(worker)
        self.soonest.remove(worker)
        if self.fleets:
            fleet = self.fleets[self.devices[worker]]
            fleet.commitments.remove(worker)
            fleet.soonest.remove(worker)
        if self.room:
            self.room.pop(worker, None)

    def _enter(self, worker: int) -> None:
        self.live.add(worker)
        if self.fleets:
            fleet = self.fleets[self.devices[worker]]
            fleet.live += 1
            fleet.overlaps = worker in self.overlapping

    def _quit(self, worker: int) -> None:
        self.live.remove(worker)
        if self.fleets:
            self.fleets[self.devices[worker]].live -= 1


class SharedWorkers(Workers):
    """Workers that the schedulers of several models share: what happens to workers is told here, not to a scheduler.

    Each model keeps its own queue, profile and policy, and its `Scheduler` gives the guarantees that it gives alone;
    any worker runs any model. A worker that becomes idle is offered to the model whose most urgent request has the
    least slack (`Scheduler.head_slack_ns`; of equal ones to the model that came first), and so on until no worker is
    idle or no model wants one. Within a model the order is by deadline, so that over all of them it is, too.

    Policies see all workers. What other models run counts as `Commitments` do: busy until its predicted end. What they
    have yet to run counts as their part of the workers' time (`share`).
    """

    def __init__(self, devices: int = 1) -> None:
        super().__init__(devices)
        self._schedulers: list[Scheduler] = []

    def add(self, scheduler: "Scheduler") -> None:
        """A model is served from now on; its scheduler was made for these workers."""
        self._schedulers.append(scheduler)
        if len(self._schedulers) > 1:
            for each in self._schedulers:
                each.observe_arrivals()

    def remove(self, scheduler: "Scheduler") -> None:
        """A model is served no more; nothing of it waits or runs."""
        assert not scheduler.in_flight, "a model with running batches cannot go"
        self._schedulers.remove(scheduler)
        self.runs = {worker: other for worker, other in self.runs.items() if other is not scheduler}

    @property
    def can_lend(self) -> bool:
        """Whether a worker may do what nobody waits for: nothing waits, and another one stays idle if there are others.

        So a request that comes meanwhile waits only where there is one worker, and for that batch alone.
        """
        kept = 1 if len(self.live) > 1 else 0
        return len(self.idle) > kept and not any(scheduler.queue_depth for scheduler in self._schedulers)

    def share(self, now_ns: int, scheduler: "SchedulerState") -> float:
        """The part of the workers' time that a model may count on: in proportion to what each of them needs.

        Needs are counted at each model's fastest subnet. So all models are driven to cheaper subnets alike, and none of
        them plans with time that another one cannot do without.
        """
        if len(self._schedulers) == 1:
            return 1.0
        span_ns = scheduler.usual_deadline_ns
        own_ns = scheduler.need_ns(now_ns, span_ns)
        all_ns = sum(each.need_ns(now_ns, span_ns) for each in self._schedulers)
        return own_ns / all_ns if all_ns else 1.0

    def on_worker_ready(self, now_ns: int, worker: int, device: int = 0) -> Sequence[Told]:
        """A worker joined, warm and idle."""
        self.join(worker, device)
        return self.offer(now_ns)

    def on_batch_done(self, now_ns: int, worker: int, taken_ns: int, waited_ns: int = 0) -> Sequence[Told]:
        """A worker answered a batch, as in `Scheduler.on_batch_done`.

        The batch's scheduler comes first, with a `Finish` for each of its requests and nothing else.
        """
        scheduler = self.runs[worker]
        return (scheduler, scheduler.on_batch_done(now_ns, worker, taken_ns, waited_ns)), *self.offer(now_ns)

    def on_batch_failed(self, now_ns: int, worker: int) -> Sequence[Told]:
        """A worker could not run a batch, as in `Scheduler.on_batch_failed`."""
        scheduler = self.runs[worker]
        return (scheduler, scheduler.on_batch_failed(now_ns, worker)), *self.offer(now_ns)

    def on_batch_overdue(self, now_ns: int, worker: int) -> Sequence[Told]:
        """A batch should have been answered: see `Scheduler.on_batch_overdue`."""
        if not self.suspend(worker):
            return ()
        schedulers = dict.fromkeys((self.runs[worker], self.behind.get(worker, self.runs[worker])))
        told = [(scheduler, scheduler.on_batch_overdue(now_ns, worker)) for scheduler in schedulers]
        return *told, *self.offer(now_ns)

    def on_worker_lost(self, now_ns: int, worker: int) -> Sequence[Told]:
        """A worker is gone. Its requests wait again, in their own model's queue."""
        if worker not in self.live and worker not in self.overdue:
            return ()
        self.leave(worker)
        lost = [(scheduler, scheduler.on_worker_lost(now_ns, worker)) for scheduler in self._schedulers]
        return *lost, *self.offer(now_ns)

    def offer(self, now_ns: int) -> Sequence[Told]:
        """Requests came in: workers that are idle or have room go to models that want them, the most urgent first."""
        schedulers = self._schedulers
        if len(schedulers) == 1:
            return ((schedulers[0], schedulers[0].on_worker_idle(now_ns)),)
        told: list[Told] = []
        contenders = [scheduler for scheduler in schedulers if scheduler.queue_depth]
        while contenders and (self.idle or self.room):
            first = _most_urgent(contenders, now_ns)
            launched = self.commitments.changes
            told.append((first, first.on_worker_idle(now_ns, batches=1)))
            if self.commitments.changes == launched or not first.queue_depth:
                contenders.remove(first)
        return told

    def is_next(self, now_ns: int, scheduler: "Scheduler") -> bool:
        """Whether no other model waits for a worker with a more urgent request than this one, which has some."""
        if len(self._schedulers) == 1:
            return True
        return _most_urgent([each for each in self._schedulers if each.queue_depth], now_ns) is scheduler


def _most_urgent(schedulers: "Sequence[Scheduler]", now_ns: int) -> "Scheduler":
    return min(schedulers, key=lambda scheduler: scheduler.head_slack_ns(now_ns))
