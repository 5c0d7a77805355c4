"""Workers that take a batch while they run one: when they get it, and what becomes of both."""

from collections.abc import Sequence

import msgspec
import pytest

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import Action, Finish, Launch, Scheduler, SharedWorkers, create_policy
from superserve.scheduling.workers import Workers
from support.profiles import make_profile

#: 4 ms alone or two together at the one subnet, 8 or 12 ms at the other.
PROFILE = make_profile([[4, 4], [8, 12]], (1, 2))
OVERHEAD_MS = 0.5
#: The dispatch overhead, and a millisecond for the timer.
LEAD_MS = OVERHEAD_MS + 1


def scheduler_of(
    policy: str = "slackfit", workers: int = 1, shared: SharedWorkers | None = None, profile: Profile = PROFILE
) -> Scheduler:
    """One with overlapping workers of its own, or that shares some."""
    scheduler = Scheduler(create_policy(policy, LatencyTable(profile)), overhead_ns=at(OVERHEAD_MS), shared=shared)
    if shared is not None:
        shared.add(scheduler)
        return scheduler
    for worker in range(workers):
        scheduler.on_worker_overlaps(worker, overlaps=True)
        scheduler.on_worker_ready(0, worker)
    return scheduler


def at(ms: float) -> int:
    return round(ms * NS_PER_MS)


def arrive(scheduler: Scheduler, number: int, at_ms: float, slo_ms: float) -> Sequence[Action]:
    return scheduler.on_arrival(at(at_ms), Request(number, at(at_ms), at(at_ms + slo_ms)))


def launches(actions: Sequence[Action]) -> list[tuple[int, list[int]]]:
    """Subnets and requests."""
    return [(one.subnet, [each.id for each in one.requests]) for one in actions if isinstance(one, Launch)]


def finishes(actions: Sequence[Action]) -> list[tuple[int, Outcome, Reason]]:
    return [(one.request.id, one.outcome, one.reason) for one in actions if isinstance(one, Finish)]


def test_the_second_batch_is_launched_just_before_the_first_one_ends() -> None:
    """What comes until then may still be in it, and be more urgent."""
    scheduler = scheduler_of("fixed:smallest")
    assert launches(arrive(scheduler, 0, 0, 60)) == [(0, [0])]
    assert not arrive(scheduler, 1, 1, 60)
    opens_ms = OVERHEAD_MS + 4 - LEAD_MS
    assert scheduler.next_timer() == at(opens_ms)
    assert not arrive(scheduler, 2, 2, 20)
    assert not scheduler.on_timer(at(opens_ms) - 1)
    assert launches(scheduler.on_timer(at(opens_ms))) == [(0, [2, 1])]
    assert not arrive(scheduler, 3, opens_ms, 60), "it has two"
    assert (scheduler.busy, scheduler.in_flight, scheduler.queue_depth, scheduler.unfinished) == (1, 2, 1, 4)


def test_what_comes_when_it_is_time_is_launched_at_once() -> None:
    """As on an idle worker."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    assert launches(arrive(scheduler, 1, 4, 60)) == [(0, [1])]


def test_a_worker_that_does_not_overlap_gets_one_batch_at_a_time() -> None:
    """And one that has done so does it no more when it is told."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    scheduler.on_worker_overlaps(0, overlaps=False)
    assert not arrive(scheduler, 1, 4, 60)
    assert scheduler.next_timer() == at(4 + 60 - OVERHEAD_MS - 4), "its latest start, and nothing before"
    assert launches(scheduler.on_batch_done(at(4.5), 0, at(4))) == [(0, [1])]


def test_a_device_overlaps_as_its_workers_last_said() -> None:
    """They may come to hold a model that is on another engine."""
    workers = Workers(2)
    workers.overlap(3, overlaps=True)
    workers.join(3, 1)
    workers.join(4, 0)
    assert [fleet.overlaps for fleet in workers.fleets] == [False, True]
    workers.overlap(3, overlaps=False)
    workers.overlap(4, overlaps=True)
    assert [fleet.overlaps for fleet in workers.fleets] == [True, False]


def test_deadlines_count_the_time_behind_the_first_batch() -> None:
    """8 ms fit into what an idle worker would have, and not into what is left when the first batch ends."""
    scheduler = scheduler_of("slackfit")
    arrive(scheduler, 0, 0, 60)  # 8 ms: until 8.5
    assert launches(arrive(scheduler, 1, 7, 9.4)) == [(0, [1])]
    (launch,) = (scheduler.launched(0)[1],)
    assert (launch.overhead_ns, launch.behind_ns) == (at(0.5), at(1)), "it begins at 8.5, not at 7.5"
    idle = scheduler_of("slackfit")
    assert launches(arrive(idle, 1, 7, 9.4)) == [(1, [1])]


def test_admission_counts_both_batches() -> None:
    """A third request cannot begin before 8.5 ms at best."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    arrive(scheduler, 1, 4, 60)
    assert scheduler._commitments.end_ns(0) == at(8.5)
    assert finishes(arrive(scheduler, 2, 4, 8.4)) == [(2, Outcome.REJECTED, Reason.PREDICTED_LATE)]
    assert not arrive(scheduler, 3, 4, 8.7)


def test_answers_come_in_order_and_the_second_batch_is_planned_anew() -> None:
    """The first one took 3 ms longer than planned: so will it be for the second."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    arrive(scheduler, 1, 4, 60)
    first = scheduler.on_batch_done(at(7.5), 0, at(7))
    assert finishes(first) == [(0, Outcome.SERVED, Reason.ANSWERED)]
    assert (scheduler.workers, scheduler.busy, list(scheduler._idle)) == (1, 1, [])
    assert scheduler._commitments.end_ns(0) == at(11.5)
    second = scheduler.on_batch_done(at(11), 0, at(3.5), at(3))
    (finish,) = second
    assert isinstance(finish, Finish)
    assert finish.launch is not None
    assert (finish.launch.waited_ns, finish.launch.around_ns) == (at(3), at(0.5))
    assert (scheduler.busy, list(scheduler._idle)) == (0, [0])


def test_a_batch_that_comes_late_is_planned_with_its_way() -> None:
    """The first one is through before the second can have arrived."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    arrive(scheduler, 1, 4, 60)
    scheduler.on_batch_done(at(4.2), 0, at(3.7))
    assert scheduler._commitments.end_ns(0) == at(4 + OVERHEAD_MS + 4)


def test_nobody_is_given_up_before_the_first_batch_has_ended() -> None:
    """It is planned to take 4 ms, and usually takes 3: then there is time."""
    usually = [msgspec.structs.replace(subnet, p50_us=(3000.0, 3000.0)) for subnet in PROFILE.subnets]
    scheduler = scheduler_of("fixed:smallest", profile=msgspec.structs.replace(PROFILE, subnets=tuple(usually)))
    arrive(scheduler, 0, 0, 60)
    assert not arrive(scheduler, 1, 3, 5.2), "by plan it would be answered 5.5 ms after its arrival"
    assert launches(scheduler.on_batch_done(at(3.6), 0, at(3.1))) == [(0, [1])]


@pytest.mark.parametrize("event", ["failed", "done"])
def test_a_batch_that_fails_leaves_the_other_one(event: str) -> None:
    """The worker goes on with it."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 60)
    arrive(scheduler, 1, 4, 60)
    if event == "failed":
        assert finishes(scheduler.on_batch_failed(at(5), 0)) == [(0, Outcome.FAILED, Reason.WORKER_FAILED)]
    else:
        scheduler.on_batch_done(at(5), 0, at(4))
    assert finishes(scheduler.on_batch_done(at(9), 0, at(4))) == [(1, Outcome.SERVED, Reason.ANSWERED)]


def test_a_lost_worker_gives_back_both_batches_and_each_is_run_alone() -> None:
    """Nobody knows which of them it died of: so from now on none of them has another one behind or before it."""
    scheduler = scheduler_of("fixed:smallest")
    arrive(scheduler, 0, 0, 90)
    arrive(scheduler, 1, 4, 60)
    assert not finishes(scheduler.on_worker_lost(at(4.2), 0))
    assert scheduler.queue_depth == 2
    scheduler.on_worker_overlaps(1, overlaps=True)
    again = scheduler.on_worker_ready(at(5), 1)
    assert launches(again) == [(0, [1])]
    assert not scheduler.on_timer(at(9)), "the other one waits for its end"
    assert launches(scheduler.on_batch_done(at(9.5), 1, at(4))) == [(0, [0])]
    assert not arrive(scheduler, 2, 13, 60), "an innocent one would be taken for the reason"
    poison = scheduler.on_worker_lost(at(13.5), 1)
    assert finishes(poison) == [(0, Outcome.FAILED, Reason.POISON)]


def test_an_overdue_worker_gives_back_both_batches() -> None:
    """Another one runs them, and the first answers count, whoever gives them."""
    scheduler = scheduler_of("fixed:smallest", workers=2)
    for number in range(4):
        arrive(scheduler, number, 0 if number < 2 else 4, 60)
    assert scheduler.in_flight == 4
    assert not scheduler.on_batch_overdue(at(5), 0)
    assert (scheduler.workers, scheduler.queue_depth, scheduler.busy, scheduler.in_flight) == (1, 2, 2, 4)
    assert finishes(scheduler.on_batch_done(at(20), 0, at(19))) == [(0, Outcome.SERVED, Reason.ANSWERED)]
    assert scheduler.workers == 1, "it has not answered the other one"
    assert finishes(scheduler.on_batch_done(at(21), 0, at(1))) == [(2, Outcome.SERVED, Reason.ANSWERED)]
    assert (scheduler.workers, scheduler.queue_depth, scheduler.in_flight) == (2, 0, 2)


def two_models() -> tuple[SharedWorkers, Scheduler, Scheduler]:
    """On one worker that overlaps batches, and runs one of the first."""
    shared = SharedWorkers()
    one, other = scheduler_of("fixed:smallest", shared=shared), scheduler_of("fixed:smallest", shared=shared)
    shared.overlap(0, overlaps=True)
    shared.on_worker_ready(0, 0)
    one.admit(0, Request(0, 0, at(60)))
    shared.offer(0)
    return shared, one, other


def test_the_most_urgent_model_has_the_place_behind_a_batch() -> None:
    """And each model's answers are its own."""
    shared, one, other = two_models()
    one.admit(at(1), Request(1, at(1), at(60)))
    other.admit(at(1), Request(0, at(1), at(40)))
    shared.offer(at(1))
    assert one.next_timer() == other.next_timer() == at(3)
    assert not one.on_timer(at(3)), "the other one is more urgent"
    assert launches(other.on_timer(at(3))) == [(0, [0])]
    assert (one.running(0) is not None, other.running(0)) == (True, None)
    assert (one.busy, other.busy, other.in_flight) == (1, 0, 1)
    told = shared.on_batch_done(at(4.5), 0, at(4))
    assert [(scheduler is one, finishes(actions)) for scheduler, actions in told if finishes(actions)] == [
        (True, [(0, Outcome.SERVED, Reason.ANSWERED)])
    ]
    assert (one.busy, other.busy) == (0, 1)
    lost = dict(shared.on_worker_lost(at(5), 0))
    assert (one.queue_depth, other.queue_depth, lost[other]) == (1, 1, [])


def test_a_lost_worker_gives_each_model_its_own() -> None:
    """Of two batches on it one was the other model's."""
    shared, one, other = two_models()
    other.admit(at(4), Request(0, at(4), at(60)))
    shared.offer(at(4))
    assert (one.in_flight, other.in_flight) == (1, 1)
    shared.on_worker_lost(at(4.2), 0)
    assert (one.in_flight, other.in_flight, one.queue_depth, other.queue_depth) == (0, 0, 1, 1)
