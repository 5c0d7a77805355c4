"""What several models that share workers are promised, whatever happens."""

import heapq
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, TypeVar

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import Finish, Launch, Scheduler, SharedWorkers, TimeoutAction, create_policy
from superserve.scheduling.workers import Told
from support.profiles import make_profile, profiles, several_devices
from support.watched import Watched, WatchedWorkers

_Profiles = TypeVar("_Profiles")

Given = tuple[Profile, str, TimeoutAction]

POLICIES = ["drainfit", "slackfit", "fixed:smallest", "fixed:largest", "maxacc"]


def models(profiles: st.SearchStrategy[_Profiles], *more: str) -> st.SearchStrategy[list[tuple[_Profiles, str, Any]]]:
    """Up to three models: what each is planned with, its policy, and what becomes of hopeless requests."""
    policy, action = st.sampled_from([*POLICIES, *more]), st.sampled_from(["reject", "delay"])
    return st.lists(st.tuples(profiles, policy, action), min_size=1, max_size=3)


class SharingMachine(RuleBasedStateMachine):
    """Throws events at the schedulers of up to three models; `Watched` checks each model's promises as if alone."""

    workers = Bundle("workers")

    @initialize(
        given=st.one_of(
            st.tuples(st.just(1), models(profiles(), "proteus:0.01")),
            st.tuples(st.just(2), models(several_devices(profiles(), least=2, most=2))),
        )
    )
    def start(self, given: tuple[int, Sequence[tuple[Any, str, TimeoutAction]]]) -> None:
        self.devices, models = given
        self.fleet = WatchedWorkers()
        self.shared = SharedWorkers(self.devices)
        self.models = [Watched(*given, self.fleet, self.shared) for given in models]
        for model in self.models:
            self.shared.add(model.scheduler)
        self.now_ns = 0
        self.next_worker = 0

    def apply(self, told: Sequence[Told]) -> None:
        for scheduler, actions in told:
            model = next(model for model in self.models if model.scheduler is scheduler)
            model.apply(self.now_ns, actions)

    @rule(target=workers, pick=st.integers(0, 1), overlaps=st.booleans())
    @precondition(lambda self: self.next_worker < 4)
    def worker_ready(self, pick: int, overlaps: bool) -> int:
        worker = self.next_worker
        self.next_worker += 1
        self.fleet.idle.add(worker)
        if overlaps:
            self.fleet.overlapping.add(worker)
            self.shared.overlap(worker, overlaps=True)
        self.apply(self.shared.on_worker_ready(self.now_ns, worker, pick % self.devices))
        return worker

    @rule(
        pick=st.integers(0, 2),
        slo_ms=st.floats(0.1, 60.0),
        rows=st.integers(1, 16),
        floor=st.sampled_from([0.0, 0.0, 71.0, 99.0]),
    )
    def arrive(self, pick: int, slo_ms: float, rows: int, floor: float) -> None:
        self.models[pick % len(self.models)].arrive(self.now_ns, slo_ms, rows, floor, 0)

    @rule(model=st.integers(0, 2), pick=st.integers(0, 1_000))
    def cancel(self, model: int, pick: int) -> None:
        self.models[model % len(self.models)].cancel(self.now_ns, pick)

    @rule(pick=st.integers(0, 3), failed=st.booleans(), slowness=st.sampled_from([0.5, 1.0, 1.5, 20.0]))
    @precondition(lambda self: self.fleet.busy)
    def batch_ends(self, pick: int, failed: bool, slowness: float) -> None:
        worker = self.fleet.busy[pick % len(self.fleet.busy)]
        model, launch = self.fleet.end(worker)
        taken_ns = model.taken_ns(launch, slowness)
        if failed:
            self.apply(self.shared.on_batch_failed(self.now_ns, worker))
        else:
            self.apply(self.shared.on_batch_done(self.now_ns, worker, taken_ns))
        assert all(request.id in model.ended for request in launch.requests) or (failed and launch.overdue)

    @rule(pick=st.integers(0, 3))
    @precondition(lambda self: self.fleet.running)
    def batch_overdue(self, pick: int) -> None:
        worker = self.fleet.running[pick % len(self.fleet.running)]
        if len(self.shared.live) > 1:
            self.fleet.overdue.add(worker)
        self.apply(self.shared.on_batch_overdue(self.now_ns, worker))

    @rule(worker=consumes(workers))
    def worker_lost(self, worker: int) -> None:
        lost = self.fleet.lose(worker)
        self.apply(self.shared.on_worker_lost(self.now_ns, worker))
        for model, launch in lost:
            model.check_loss(self.now_ns, launch)

    @rule(pick=st.integers(0, 2))
    @precondition(lambda self: len(self.models) > 1)
    def model_goes(self, pick: int) -> None:
        model = self.models[pick % len(self.models)]
        if not self.fleet.of(model):
            model.stop(self.now_ns)
            self.shared.remove(model.scheduler)
            self.models.remove(model)

    @rule(pick=st.integers(0, 3), requests=st.integers(2, 6))
    @precondition(lambda self: self.shared.room)
    def a_batch_nearly_ends_while_others_wait(self, pick: int, requests: int) -> None:
        for number in range(requests):
            self.models[number % len(self.models)].arrive(self.now_ns, 60.0, 1, 0.0, 0)
        if self.shared.room:
            ends_ns = sorted(self.shared.room.values())
            self.time_passes((ends_ns[pick % len(ends_ns)] - self.now_ns) / NS_PER_MS)

    @rule(delta_ms=st.floats(0.0, 20.0))
    def time_passes(self, delta_ms: float) -> None:
        until_ns = self.now_ns + max(0, round(delta_ms * NS_PER_MS))
        while (
            due := min(filter(None, map(_timer, self.models)), key=lambda timer: timer[0], default=None)
        ) is not None:
            if due[0] > until_ns:
                break
            self.now_ns = max(self.now_ns, due[0])
            due[1].tick(self.now_ns)
        self.now_ns = until_ns

    @invariant()
    def promises_hold(self) -> None:
        for model in self.models:
            model.check()
        assert self.shared.live == self.fleet.idle.union(self.fleet.running)
        assert set(self.shared.idle) == self.fleet.idle
        assert sum(model.scheduler.busy for model in self.models) == len(self.fleet.busy)

    def teardown(self) -> None:
        for model in getattr(self, "models", ()):
            model.stop(self.now_ns)


def _timer(model: Watched) -> tuple[int, Watched] | None:
    due_ns = model.scheduler.next_timer()
    return None if due_ns is None else (due_ns, model)


SharingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSharingContract = SharingMachine.TestCase


class World:
    """Models on shared workers in virtual time; a batch takes what its profile says. Overhead is zero."""

    def __init__(self, workers: int, *models: tuple[Profile, str, TimeoutAction]) -> None:
        self.shared = SharedWorkers()
        self.schedulers = []
        for profile, policy, action in models:
            scheduler = Scheduler(
                create_policy(policy, LatencyTable(profile), action), overhead_ns=0, shared=self.shared
            )
            self.shared.add(scheduler)
            self.schedulers.append(scheduler)
        self.ended: list[list[Finish]] = [[] for _ in models]
        self.launches: list[tuple[int, int, Launch]] = []
        """(instant, model, batch), in order."""
        self.on_launch: Callable[[int, int, Launch], None] = lambda *_: None
        self._ends: list[tuple[int, int, int]] = []
        self._ids = [0] * len(models)
        self.now_ns = 0
        for worker in range(workers):
            self._apply(self.shared.on_worker_ready(0, worker))

    def arrive(self, model: int, at_ms: float, slo_ms: float) -> Request:
        self.run(round(at_ms * NS_PER_MS))
        request = Request(self._ids[model], self.now_ns, self.now_ns + round(slo_ms * NS_PER_MS))
        self._ids[model] += 1
        scheduler = self.schedulers[model]
        self._apply([(scheduler, scheduler.on_arrival(self.now_ns, request))])
        return request

    def lose(self, worker: int) -> None:
        self._ends = [end for end in self._ends if end[1] != worker]
        self._apply(self.shared.on_worker_lost(self.now_ns, worker))

    def run(self, until_ns: int) -> None:
        while True:
            timers = [(due, model) for model, each in enumerate(self.schedulers) if (due := each.next_timer())]
            timer_ns, model = min(timers, default=(until_ns + 1, -1))
            if self._ends and self._ends[0][0] <= min(timer_ns, until_ns):
                self.now_ns, worker, taken_ns = heapq.heappop(self._ends)
                self._apply(self.shared.on_batch_done(self.now_ns, worker, taken_ns))
            elif timer_ns <= until_ns:
                self.now_ns = timer_ns
                self._apply([(self.schedulers[model], self.schedulers[model].on_timer(timer_ns))])
            else:
                break
        self.now_ns = until_ns

    def outcomes(self, model: int) -> list[Outcome]:
        return [finish.outcome for finish in self.ended[model]]

    def _apply(self, told: Sequence[Told]) -> None:
        for scheduler, actions in told:
            model = self.schedulers.index(scheduler)
            for action in actions:
                if isinstance(action, Finish):
                    self.ended[model].append(action)
                    continue
                self.launches.append((self.now_ns, model, action))
                self.on_launch(self.now_ns, model, action)
                taken_ns = scheduler.policy.table.latency_ns[action.subnet][action.rows]
                heapq.heappush(self._ends, (self.now_ns + taken_ns, action.worker, taken_ns))


ONE = make_profile([[2.0], [4.0]], batches=(1,))
SLOW = make_profile([[5.0]], batches=(1,))

ARRIVALS = st.lists(st.tuples(st.integers(0, 2), st.floats(0.0, 4.0), st.floats(1.0, 80.0)), min_size=1, max_size=40)


@given(arrivals=ARRIVALS, workers=st.integers(1, 3))
def test_an_idle_worker_takes_the_most_urgent_request_of_all_models(
    arrivals: list[tuple[int, float, float]], workers: int
) -> None:
    """At each launch no other model's waiting request is due earlier: deadlines are in order over all models."""
    world = World(workers, *[(profile, "fixed:smallest", "reject") for profile in (ONE, SLOW, ONE)])

    def check(now_ns: int, model: int, launch: Launch) -> None:
        head = launch.requests[0]
        for other, scheduler in enumerate(world.schedulers):
            if other != model and scheduler.queue_depth:
                assert scheduler.head_slack_ns(now_ns) >= head.deadline_ns - now_ns

    world.on_launch = check
    at_ms = 0.0
    for model, gap_ms, slo_ms in arrivals:
        at_ms += gap_ms
        world.arrive(model, at_ms, slo_ms)
    world.run(round(200 * NS_PER_MS))
    assert sum(map(len, world.ended)) == len(arrivals)


@given(arrivals=ARRIVALS, actions=st.lists(st.sampled_from(["reject", "delay"]), min_size=3, max_size=3))
def test_nobody_waits_beyond_its_deadline_for_another_model(
    arrivals: list[tuple[int, float, float]], actions: list[TimeoutAction]
) -> None:
    """With ``reject``, a request has ended or runs at its deadline, whatever the other models have waiting."""
    world = World(
        1, *[(profile, "drainfit", action) for profile, action in zip((ONE, SLOW, ONE), actions, strict=True)]
    )
    waiting: list[Request] = []
    at_ms = 0.0
    for model, gap_ms, slo_ms in arrivals:
        at_ms += gap_ms
        request = world.arrive(model, at_ms, slo_ms)
        if actions[model] == "reject":
            waiting.append(request)
    for request in sorted(waiting, key=lambda request: request.deadline_ns):
        world.run(max(world.now_ns, request.deadline_ns))
        ended = {id(finish.request) for finished in world.ended for finish in finished}
        running = {id(one) for _, _, launch in world.launches for one in launch.requests}
        assert id(request) in ended | running
    world.run(round(1000 * NS_PER_MS))
    assert sum(map(len, world.ended)) == len(arrivals)


def test_of_equally_urgent_models_the_first_one_is_served_first() -> None:
    """The order is written down, not left to chance."""
    world = World(1, (ONE, "fixed:smallest", "reject"), (ONE, "fixed:smallest", "reject"))
    world.arrive(0, 0.0, 10.0)
    world.arrive(1, 1.0, 20.0)
    world.arrive(0, 1.0, 20.0)
    world.run(10 * NS_PER_MS)
    assert [model for _, model, _ in world.launches] == [0, 0, 1]


def test_a_late_request_has_its_turns() -> None:
    """It is due again once, 3, 7, ... times its own time from arrival to deadline after its deadline."""
    shared = SharedWorkers()
    scheduler = Scheduler(create_policy("fixed:smallest", LatencyTable(ONE), "delay"), overhead_ns=0, shared=shared)
    shared.add(scheduler)
    shared.on_worker_ready(0, 0)
    for number in range(2):
        scheduler.on_arrival(0, Request(number, 0, 10))
    slacks = {now_ns: scheduler.head_slack_ns(now_ns) for now_ns in (0, 10, 11, 20, 21, 40, 41, 80, 81)}
    assert slacks == {0: 10, 10: 0, 11: 9, 20: 0, 21: 19, 40: 0, 41: 39, 80: 0, 81: 79}


def test_a_backlog_of_late_requests_leaves_the_others_in_time() -> None:
    """A model that serves late what it cannot serve in time shares the workers with one that is in time, and both live.

    Model 0 is offered twice what the worker can do, model 1 a quarter of it.
    """
    world = World(1, (SLOW, "fixed:smallest", "delay"), (SLOW, "fixed:smallest", "reject"))
    for step in range(400):
        world.arrive(0, 2.5 * step, 20.0)
        if step % 8 == 0:
            world.arrive(1, 2.5 * step, 20.0)
    served = world.outcomes(1).count(Outcome.SERVED)
    assert served / len(world.ended[1]) > 0.8
    late = world.outcomes(0).count(Outcome.LATE)
    assert late > 0.5 * 1000 / 5 - served, "the rest of the worker's time is the other model's"


def test_a_lost_workers_requests_come_back_to_their_own_model() -> None:
    """They wait in their own queue, and run again on a worker that the other model has used."""
    world = World(2, (ONE, "fixed:smallest", "reject"), (SLOW, "fixed:smallest", "reject"))
    first = world.arrive(0, 0.0, 50.0)
    second = world.arrive(1, 0.0, 50.0)
    world.lose(1)
    assert [scheduler.queue_depth for scheduler in world.schedulers] == [0, 1]
    world.run(20 * NS_PER_MS)
    assert [(model, launch.worker, launch.requests) for _, model, launch in world.launches] == [
        (0, 0, [first]),
        (1, 1, [second]),
        (1, 0, [second]),
    ]
    assert world.outcomes(0) == world.outcomes(1) == [Outcome.SERVED]


def test_what_other_models_run_counts_as_busy_until_its_predicted_end() -> None:
    """A policy sees all workers, and when those that run another model's batches are expected to be free."""
    world = World(2, (ONE, "fixed:smallest", "reject"), (SLOW, "fixed:smallest", "reject"))
    world.arrive(1, 0.0, 50.0)
    assert world.schedulers[0].workers == 2
    assert world.shared.commitments.free_sum_ns(0, 2) == 5 * NS_PER_MS


def test_without_a_worker_every_model_refuses() -> None:
    """Workers are shared, and so is their absence."""
    world = World(1, (ONE, "drainfit", "reject"), (SLOW, "drainfit", "reject"))
    world.lose(0)
    for model in (0, 1):
        world.arrive(model, 0.0, 50.0)
        assert [finish.reason for finish in world.ended[model]] == [Reason.NO_WORKER]


def test_a_model_may_count_on_its_share_of_the_workers() -> None:
    """In proportion to what waits and is expected, at the fastest subnet; alone, on all of them."""
    world = World(1, (ONE, "fixed:smallest", "reject"), (SLOW, "fixed:smallest", "reject"))
    first, second = world.schedulers
    assert world.shared.share(0, first) == 1.0, "nothing is known of anybody's needs"
    for number in range(10):
        world.arrive(0, number, 100.0)
        world.arrive(1, number, 100.0)
    shares = [world.shared.share(world.now_ns, each) for each in (first, second)]
    assert sum(shares) == pytest.approx(1.0)
    needs = [each.need_ns(world.now_ns, 100.0 * NS_PER_MS) for each in (first, second)]
    assert shares[1] / shares[0] == pytest.approx(needs[1] / needs[0])
    assert shares[1] > 2 * shares[0], "as many requests, of 5 ms instead of 2 ms"
    world.run(300 * NS_PER_MS)
    world.shared.remove(second)
    assert world.shared.share(world.now_ns, first) == 1.0


def test_two_models_plan_with_the_time_that_there_is() -> None:
    """Half of a load each is served like the whole of it by one model: all in time, as accurate, neither one preferred.

    Planning with all of the workers' time, each would have taken time that the other needs.
    """
    profile = Profile.load("r-profile")
    rate, seconds = 6_000, 0.5
    results = {}
    for models in (1, 2):
        one: tuple[Profile, str, TimeoutAction] = (profile, "drainfit", "reject")
        world = World(8, *[one] * models)
        gaps = np.random.default_rng(0).gamma(0.5, 2.0 / rate, int(rate * seconds))
        for number, at_s in enumerate(np.cumsum(gaps)):
            world.arrive(number % models, 1000 * at_s, 36.0)
        world.run(world.now_ns + NS_PER_S)
        served = [[f for f in ended if f.outcome is Outcome.SERVED] for ended in world.ended]
        accuracies = world.schedulers[0].policy.table.accuracies
        means = [fmean(accuracies[f.launch.subnet] for f in each if f.launch) for each in served]
        results[models] = sum(map(len, served)) / len(gaps), means
    assert results[1][0] > 0.998
    assert results[2][0] > 0.998
    assert results[2][1] == pytest.approx(results[1][1] * 2, abs=0.4)
