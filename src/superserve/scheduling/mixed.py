"""The scheduler of workers of several devices: which of the idle ones gets the next batch, and what it runs."""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from superserve.errors import ConfigError
from superserve.profile import Profile
from superserve.request import Request
from superserve.scheduling.actions import Action
from superserve.scheduling.buckets import create_policies
from superserve.scheduling.device_plan import DevicePlan
from superserve.scheduling.expiry import ExpiryQueue
from superserve.scheduling.mixed_admission import MixedAdmission
from superserve.scheduling.plans import Plan, Plans
from superserve.scheduling.policy import Bound, Decision, Policy, TimeoutAction, Wait
from superserve.scheduling.scheduler import Scheduler
from superserve.scheduling.state import SchedulerLimits
from superserve.scheduling.workers import SharedWorkers, Workers


class Pairing(NamedTuple):
    """An idle worker and what its device's policy would have it run."""

    worker: int
    device: int
    decision: Decision


class _Like(NamedTuple):
    """What makes workers get the same answer."""

    device: int
    drift: float
    overhead_ns: int


class MixedScheduler(Scheduler):
    """A `Scheduler` for workers of several devices, each of which is planned with a profile of its own.

    The policy is asked for the worker at hand, with the table and the overhead of its device, and with all workers
    counted in such workers (`SchedulerView.capacity`). Of several idle ones, that differ in device or drift, each is
    asked, and one gets its batch (`preference`). What differs else:

    - Nothing is given up because the worker at hand cannot serve it in time: another may. The batch then begins behind
      such requests. They wait for a worker that can, and expire when none of any live device could be in time.
    - A request is infeasible if it is on the device that is fastest for it among those that have a live worker.
    - A device's overhead is that of its own batches.

    Args:
        policies: by device and bucket; they differ in nothing but their tables, which have the same subnets, largest
            batch and buckets (`create_scheduler` checks that).
        overheads_ns: by device, until overheads have been observed.
        limits, shared: see `Scheduler`; ``shared`` is made for as many devices.
    """

    def __init__(
        self,
        policies: Sequence[Sequence[Policy]],
        *,
        overheads_ns: Sequence[int],
        limits: SchedulerLimits | None = None,
        shared: SharedWorkers | None = None,
    ) -> None:
        *shorter, longest = policies[0]
        own = None if shared is not None else Workers(len(policies))
        super().__init__(
            longest, overhead_ns=overheads_ns[0], limits=limits, shared=shared, shorter=shorter, workers=own
        )
        given = zip(policies, overheads_ns, self._workers.fleets, strict=True)
        self._plans = [DevicePlan(*one) for one in given]
        self.tables_of = [plan.tables for plan in self._plans]
        self._history = Plans(Plan(0, longest, self.tables_of))
        self._fastest_ns = max(1, min(plan.tables[-1].latency_ns[longest.subnets[0]][1] for plan in self._plans))
        self._live: Sequence[int] = range(len(self._plans))
        """Devices that have a live worker; if none has, those that had."""
        self._rest_ns: dict[_Like, int] = {}
        """By what idle workers have in common that can serve nothing of what waits: when to ask them again.

        A little later, and when something comes that they can serve.
        """
        self._waits_ns: dict[_Like, int] = {}
        """The same of those that their policy lets wait, until anything changes."""
        self._admission = MixedAdmission(
            longest, self._queue, self._view, self._share, workers=self._workers, devices=self._plans
        )
        self._plan()

    def slow(self, worker: int) -> bool:
        """See `Scheduler.slow`: slower or farther than others on the same device."""
        return self._drift.slow(worker) or self._plans[self._workers.devices.get(worker, 0)].overhead.far(worker)

    def preference(self, pairing: Pairing) -> tuple[float, ...]:
        """Of several idle workers, the one with the largest gets its batch."""
        decision = pairing.decision
        return (
            -decision.shed,
            -self.slow(pairing.worker),
            decision.subnet,
            self._plans[pairing.device].row_ns,
        )

    def observe_overhead(self, overhead_ns: int, worker: int, device: int = 0) -> None:
        """See `Scheduler.observe_overhead`."""
        self._plans[device].overhead.observe(overhead_ns, worker)
        self._plan()

    def admit(self, now_ns: int, request: Request) -> Sequence[Action]:
        """See `Scheduler.admit`."""
        self._see_devices()
        refused = super().admit(now_ns, request)
        if self._rest_ns and not refused:
            fastest, rows, bucket = self.policy.usable(request.min_accuracy)[0], request.rows, request.bucket
            left_ns = request.deadline_ns - now_ns
            self._rest_ns = {
                like: until_ns
                for like, until_ns in self._rest_ns.items()
                if like.overhead_ns + self._plans[like.device].run_ns(fastest, rows, bucket, like.drift) >= left_ns
            }
        return refused

    def on_timer(self, now_ns: int) -> Sequence[Action]:
        """See `Scheduler.on_timer`."""
        self._see_devices()
        return super().on_timer(now_ns)

    def _dispatch(self, now_ns: int, batches: int = sys.maxsize) -> Sequence[Action]:
        self._wake_ns = None
        self._see_devices()
        if not self._queue or not (self._idle or self._room):
            return ()
        actions: list[Action] = []
        self._waits_ns.clear()
        view = self._look(now_ns)
        while batches and self._idle and self._queue:
            pairing = self._paired(now_ns)
            if pairing is None:
                self._wake_ns = min((*self._rest_ns.values(), *self._waits_ns.values()))
                break
            decision = pairing.decision
            if self._ranked and (self._overloaded or decision.shed or decision.bound is Bound.OVERLOAD):
                ended = self._give_up_victims()
                actions.extend(ended)
                if ended:
                    continue
            self._face(now_ns, pairing.worker, pairing.device)
            view.workers_idle = len(self._idle)
            worker = self._claim(None, pairing.worker)
            actions.append(self._launch(now_ns, decision, worker, pairing.device, decision.shed))
            batches -= 1
        view.overhead_ns = self._least_overhead_ns()
        if self._room and batches:
            self._launch_behind(now_ns, batches, actions)
        return actions

    def _paired(self, now_ns: int) -> Pairing | None:
        """The idle worker that gets the next batch; None if no idle worker can serve anything of what waits."""
        best: Pairing | None = None
        for worker, device in self._candidates(now_ns):
            self._face(now_ns, worker, device)
            decision = self._decide_on(device)
            if isinstance(decision, Wait):
                self._waits_ns[self._like(worker)] = decision.until_ns
            elif not decision.rows:
                self._rest_ns[self._like(worker)] = now_ns + self._fastest_ns
            else:
                pairing = Pairing(worker, device, decision)
                if best is None or self.preference(pairing) > self.preference(best):
                    best = pairing
        return best

    def _candidates(self, now_ns: int) -> Iterator[tuple[int, int]]:
        """Of idle workers that would all get the same answer, the longest idle one with its device, if it is time."""
        self._rest_ns = {like: until_ns for like, until_ns in self._rest_ns.items() if until_ns > now_ns}
        seen = {*self._rest_ns, *self._waits_ns}
        for worker in tuple(self._idle):
            like = self._like(worker)
            if like not in seen:
                seen.add(like)
                yield worker, like.device

    def _like(self, worker: int) -> "_Like":
        device = self._workers.devices[worker]
        return _Like(device, self._drift.of(worker), self._plans[device].overhead.of(worker))

    def _face(self, now_ns: int, worker: int, device: int) -> None:
        """Have the view show what a worker sees."""
        view, plan, plans = self._view, self._plans[device], self._plans
        view.table = plan.tables[-1]
        view.overhead_ns = plan.overhead.of(worker)
        view.worker_drift = self._drift.of(worker)
        view.workers_idle = len(self._idle)
        count, free_ns = 0.0, 0.0
        for other in plans:
            worth, fleet = plan.row_ns / other.row_ns, other.fleet
            count += worth * fleet.live
            free_ns += worth * fleet.commitments.free_sum_ns(now_ns, fleet.live)
        view.weighed = (count, free_ns)

    def _see_devices(self) -> None:
        """A device has come, or its last worker has gone: what can be served until when has changed."""
        live = [number for number, plan in enumerate(self._plans) if plan.fleet.live]
        if not live or live == self._live:
            return
        self._live = live
        self._plan()
        self._expiry = ExpiryQueue()
        for request in self._queue:
            self._set_latest_start(request, self.policy.usable(request.min_accuracy)[0])
            if self._expires:
                self._expiry.push(request)

    def _enqueue(self, request: Request) -> None:
        """What comes back may have been admitted when other devices were there."""
        self._set_latest_start(request, self.policy.usable(request.min_accuracy)[0])
        super()._enqueue(request)

    def _set_latest_start(self, request: Request, fastest: int) -> None:
        rows, bucket, drift = request.rows, request.bucket, self._view.drift
        takes_ns = min(self._plans[device].alone_ns(fastest, rows, bucket, drift) for device in self._live)
        request.latest_start_ns = request.deadline_ns - takes_ns - 1

    def _profiled_ns(self, request: Request, fastest: int) -> int:
        plans = (self._plans[device] for device in self._live)
        return min(
            plan.overhead.start_ns + plan.tables[request.bucket].latency_ns[fastest][request.rows] for plan in plans
        )

    def _relax(self) -> None:
        for plan in self._plans:
            plan.overhead.relax()

    def _forget_way(self, worker: int) -> None:
        for plan in self._plans:
            plan.overhead.forget(worker)

    @property
    def capacity(self) -> float:
        """See `Scheduler.capacity`."""
        first = self._plans[0].row_ns
        return sum(first / plan.row_ns * plan.fleet.live for plan in self._plans)

    def _plan(self) -> None:
        self._view.drift = self._drift.planned
        self._view.overhead_ns = self._least_overhead_ns()
        self._admission.price(0)

    def _least_overhead_ns(self) -> int:
        return min(self._plans[device].overhead.planned_ns for device in self._live)

    def _typical_overhead_ns(self, device: int) -> int:
        return self._plans[device].overhead.typical_ns

    def _decide_on(self, device: int) -> Decision | Wait:
        return self._plans[device].decide(self._view)


def create_scheduler(
    policy: str,
    profiles: Sequence[Profile],
    *,
    overheads_ns: Sequence[int],
    timeout_action: TimeoutAction = "reject",
    limits: SchedulerLimits | None = None,
    shared: SharedWorkers | None = None,
) -> Scheduler:
    """The scheduler of a model, by the name of its policy.

    Args:
        policy: a name for `create_policy`.
        profiles: what to plan with, by device of the workers (`Workers.join`).
        overheads_ns: dispatch overhead to plan with until it has been observed, by device.
        timeout_action: what becomes of requests whose deadline cannot be met.
        limits: bounds.
        shared: workers that other models use, too; see `Scheduler`.

    Raises:
        ConfigError: as `create_policy`; or if there are several devices, and the profiles do not fit each other, or the
            policy plans for one device only.
    """
    by_device = [create_policies(policy, profile, timeout_action) for profile in profiles]
    if len(profiles) == 1:
        *shorter, longest = by_device[0]
        return Scheduler(longest, overhead_ns=overheads_ns[0], limits=limits, shared=shared, shorter=shorter)
    if not by_device[0][-1].by_bucket:
        raise ConfigError(f"policy {policy!r} plans for workers of one device only: give it one profile")
    for other in profiles[1:]:
        _check_alike(profiles[0], other)
    return MixedScheduler(by_device, overheads_ns=overheads_ns, limits=limits, shared=shared)


def _check_alike(profile: Profile, other: Profile) -> None:
    """That a decision which is made with one profile means the same with the other."""
    for what, of_one, of_other in (
        ("subnets", *([(each.id, each.accuracy) for each in one.subnets] for one in (profile, other))),
        ("largest batch", profile.batches[-1], other.batches[-1]),
        ("text lengths", *([bucket.length for bucket in one.shorter] for one in (profile, other))),
    ):
        if of_one != of_other:
            raise ConfigError(
                f"the profiles of {profile.device.name!r} and {other.device.name!r} differ in {what}, {of_one} and "
                f"{of_other}: profile the same model on both devices"
            )
