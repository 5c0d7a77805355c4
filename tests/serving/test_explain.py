"""Each way in which a request can end is explained by the numbers that it ended by."""

import struct
from typing import Any

import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import UnknownRequestError
from superserve.request import Outcome, Reason
from superserve.scheduling import Bound
from superserve.scheduling.actions import BatchFate
from superserve.serving.dataplane import DataPlane
from superserve.serving.explanation import Explanation
from superserve.serving.fake_pool import FakePool
from superserve.serving.router import Pending
from support.profiles import make_profile
from support.serving import Recorder, make_model, make_router

#: Three subnets (70, 71, 72 %): batch 1 takes 1, 4 or 9 ms, batch 4 takes 2, 8 or 18 ms; half a millisecond around it.
PROFILE = make_profile([[1.0, 2.0], [4.0, 8.0], [9.0, 18.0]], batches=(1, 4), overhead_us=500.0)


class Bench:
    """A model over a fake pool in virtual time; it is asked why."""

    def __init__(self, workers: int = 1, **options: Any) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(workers)
        self.router = make_router(self.pool, self.clock, **{"profile": PROFILE, **options})
        self.plane = DataPlane([make_model(self.router)], version="0")

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def submit(
        self,
        name: str,
        timeout_ms: float = 50.0,
        *,
        rows: int = 1,
        floor: float = 0.0,
        priority: int = 0,
        read_ms: float = 0.0,
    ) -> Pending:
        now_ns = self.clock.now_ns()
        return self.router.submit(
            arrival_ns=now_ns - int(read_ms * NS_PER_MS),
            deadline_ns=now_ns + int((timeout_ms - read_ms) * NS_PER_MS),
            rows=rows,
            min_accuracy=floor,
            priority=priority,
            inputs=[bytes(4 * rows), struct.pack("<f", 0.0) * rows],
            responder=Recorder(),
            request_id=name.encode(),
        )

    def pass_ms(self, ms: float) -> None:
        self.clock.advance(int(ms * NS_PER_MS))

    def finish(self, worker: int = 0, taken_ms: float = 1.0) -> None:
        self.pool.finish(worker, infer_ns=int(taken_ms * NS_PER_MS))

    def why(self, name: str) -> Explanation:
        return self.plane.explain(name)

    def told(self, name: str) -> str:
        """All sentences."""
        explanation = self.why(name)
        return " ".join((*explanation.why, *explanation.would_change))


async def test_served_at_the_best_subnet() -> None:
    """What it was planned with, what it took, and nothing that would have been better."""
    bench = await Bench().started()
    bench.submit("a", rows=2, read_ms=0.25)
    bench.pass_ms(18.5)
    bench.finish(taken_ms=17.5)
    told = bench.why("a")
    assert (told.outcome, told.reason, told.model, told.policy) == (Outcome.SERVED, Reason.ANSWERED, "tiny", "slackfit")
    assert (told.rows, told.deadline_ms, told.read_ms, told.ended_ms) == (2, 50.0, 0.25, 18.75)
    (attempt,) = told.attempts
    assert (attempt.subnet, attempt.accuracy, attempt.bound) == ("s2", 72.0, Bound.NOTHING)
    assert (attempt.launched_ms, attempt.batch_rows, attempt.waiting) == (0.25, 2, 0)
    assert (attempt.idle, attempt.workers, attempt.worker) == (1, 1, 0)
    assert (attempt.head_slack_ms, attempt.planned_ms, attempt.planned_overhead_ms) == (49.25, 18.0, 0.5)
    assert (attempt.fate, attempt.taken_ms, attempt.overhead_ms) == (BatchFate.ANSWERED, 17.5, 1.0)
    assert told.why == [
        "Answered 31.25 ms before its deadline by s2 (72.00 %), the most accurate one that policy slackfit may use."
    ]
    assert told.would_change == []
    assert told.refusal is None


async def test_degraded_for_lack_of_slack() -> None:
    """It waited for the worker; what was left holds the middle subnet, and so much more the largest."""
    bench = await Bench(policy="maxacc").started()
    bench.submit("first")
    bench.submit("a", 20.0)
    bench.pass_ms(12.0)
    bench.finish()
    bench.pass_ms(5.0)
    bench.finish()
    told = bench.why("a")
    assert (told.outcome, told.ended_ms) == (Outcome.SERVED, 17.0)
    (attempt,) = told.attempts
    # 20 ms, less 12 of waiting, less the overhead: planned with as observed by then, in grains of 50 us.
    left_ms = 8.0 - attempt.planned_overhead_ms
    assert attempt.head_slack_ms == left_ms
    assert (attempt.subnet, attempt.bound) == ("s1", Bound.SLACK)
    assert [candidate.verdict for candidate in attempt.candidates] == [
        "less accurate",
        "chosen",
        "too slow for the deadline",
    ]
    assert [candidate.head_ms for candidate in attempt.candidates] == [1.0, 4.0, 9.0]
    assert told.why == [
        "Answered 3.00 ms before its deadline by s1 (71.00 %), 1.00 points below s2, the best.",
        (
            "s2, the next better one, is planned with 9.00 ms even for the batch's most urgent request alone, which "
            f"had {left_ms:.2f} ms of slack left."
        ),
    ]
    (remedy,) = told.would_change
    assert remedy.startswith(f"s2: {9.0 - left_ms:.2f} ms more of slack")


async def test_what_would_have_changed_it_does() -> None:
    """The slack that an explanation names, and a nanosecond, gives the better subnet; that much less does not."""
    bench = await Bench(policy="maxacc").started()
    bench.submit("a", 8.0)
    (attempt,) = bench.why("a").attempts
    more_ms = attempt.candidates[2].head_ms - attempt.head_slack_ms
    bench.finish()
    for extra_ns, subnet in ((0, "s1"), (1, "s2")):
        other = await Bench(policy="maxacc").started()
        other.submit("a", 8.0 + more_ms + extra_ns / NS_PER_MS)
        assert other.why("a").attempts[0].subnet == subnet


@pytest.mark.parametrize("bound", [bound for bound in Bound if bound is not Bound.NOTHING])
async def test_every_bound_is_worded(bound: Bound) -> None:
    """Whatever a policy says kept it from a better subnet, there is a reason and a remedy."""
    bench = await Bench(policy="maxacc").started()
    bench.submit("a", 8.0)
    course = bench.router.decisions.find(b"a")
    assert course is not None
    course.launches[0].bound = bound
    bench.finish()
    told = bench.why("a")
    assert len(told.why) == 2
    assert told.would_change[0].startswith("s2: ")


async def test_degraded_by_a_queue() -> None:
    """DrainFit takes a cheaper subnet because of what waits, not for lack of slack, and says how much waited."""
    bench = await Bench(policy="drainfit").started()
    for number in range(40):
        bench.submit(f"r{number}", 100.0)
    bench.pass_ms(9.0)
    bench.finish(taken_ms=8.5)
    (attempt,) = bench.why("r1").attempts
    assert attempt.bound in {Bound.DRAIN, Bound.STANDING, Bound.BURST}
    assert attempt.waiting == 40 - 1 - attempt.batch_requests
    assert attempt.head_slack_ms > attempt.candidates[2].head_ms
    assert f"{attempt.waiting} requests stayed behind" in bench.told("r1")
    assert bench.why("r1").outcome is None
    assert "Worker 0 has run it at s0 since 9.00 ms" in bench.told("r1")


async def test_late_by_a_batch_that_took_too_long() -> None:
    """The numbers say that the worker overran its plan, and by how much."""
    bench = await Bench(policy="maxacc").started()
    bench.submit("a", 10.0)
    bench.pass_ms(12.5)
    bench.finish(taken_ms=11.5)
    told = bench.why("a")
    assert (told.outcome, told.ended_ms) == (Outcome.LATE, 12.5)
    assert told.why[0].startswith("Answered 2.50 ms after its deadline by s2")
    assert told.why[1] == (
        "It was launched with 10.00 ms left. Planned were 9.00 ms in the worker and 0.50 ms around it, and it took "
        "11.50 ms and 1.00 ms."
    )
    assert told.would_change[0] == "In time: a deadline of 12.50 ms instead of 10.00 ms."
    assert "profile again" in told.would_change[1]


async def test_late_behind_another_batch() -> None:
    """How long that should have kept it, and how long it did."""
    bench = Bench(policy="maxacc")
    bench.pool.overlap(0, overlaps=True)
    await bench.started()
    bench.submit("a", 50.0)
    bench.pass_ms(8.5)
    bench.submit("b", 12.0)
    bench.pass_ms(1.0)
    bench.finish(taken_ms=9.0)
    bench.pass_ms(11.5)
    bench.pool.finish(0, infer_ns=int(11.5 * NS_PER_MS), waited_ns=int(0.6 * NS_PER_MS))
    told = bench.why("b")
    assert told.outcome is Outcome.LATE
    assert told.why[1] == (
        "It was launched with 12.00 ms left. Planned were 9.00 ms in the worker and 0.50 ms around it, and it took "
        "11.50 ms and 0.40 ms. It waited for the batch before it on its worker, too: 0.50 ms were planned, and it was "
        "0.60 ms."
    )
    (attempt,) = told.attempts
    assert (attempt.head_slack_ms, attempt.planned_behind_ms, attempt.waited_ms) == (11.0, 0.5, 0.6)


async def test_late_on_purpose() -> None:
    """Under ``delay`` a hopeless request is launched with its eyes open."""
    bench = await Bench(timeout_action="delay").started()
    bench.submit("a", 1.0)
    bench.pass_ms(3.0)
    bench.finish()
    assert bench.why("a").outcome is Outcome.LATE
    assert "1.00 ms left, where 1.50 ms were planned" in bench.told("a")
    assert "timeout_action is delay" in bench.told("a")
    assert bench.why("a").attempts[0].bound is Bound.OVERLOAD


async def test_refused_on_arrival() -> None:
    """The sum: what was left, what the fastest subnet needs, and the deadline that would have done."""
    bench = await Bench().started()
    bench.submit("a", 1.25, read_ms=0.25)
    told = bench.why("a")
    assert (told.outcome, told.reason, told.attempts) == (Outcome.REJECTED, Reason.INFEASIBLE, [])
    (sentence,) = told.why
    assert sentence == (
        "Refused on arrival. 1.00 ms of its 1.25 ms were left once it had been read, and the fastest subnet, s0, needs "
        "1.00 ms and 0.50 ms for dispatch: 0.50 ms too little."
    )
    assert told.would_change == ["A deadline of more than 1.75 ms."]
    bench.submit("b", 1.75 + 1e-6, read_ms=0.25)
    assert bench.why("b").outcome is None


async def test_refused_for_its_accuracy_floor() -> None:
    """One that no subnet reaches, and one that is reached, but not in time."""
    bench = await Bench().started()
    bench.submit("above", floor=90.0)
    assert "floor is 90 %, and the most accurate subnet that policy slackfit may use has 72 %" in bench.told("above")
    assert bench.why("above").would_change == ["A floor of at most 72 %."]
    bench.submit("slow", 5.0, floor=71.5)
    assert "the fastest subnet at its accuracy floor of 71.5 %, s2, needs 9.00 ms" in bench.told("slow")
    assert "No accuracy floor, or a lower one: the fastest subnet of all needs 1.00 ms only." in bench.told("slow")


async def test_refused_by_a_full_queue() -> None:
    """How many waited, and how many may."""
    bench = await Bench(max_queued=2).started()
    for name in "abcd":
        bench.submit(name)
    assert bench.why("d").reason is Reason.QUEUE_FULL
    assert bench.why("d").why == ["Refused on arrival: 2 requests waited, and no more than 2 may."]


async def test_refused_without_a_worker_and_when_stopping() -> None:
    """Neither needs figures."""
    bench = await Bench().started()
    bench.pool.lose(0)
    bench.submit("a")
    assert "no worker was alive" in bench.told("a")
    await bench.router.stop()
    bench.submit("b")
    assert bench.why("b").reason is Reason.STOPPING


async def test_expired_says_what_ran_meanwhile() -> None:
    """How long it waited, what it would have needed, and whose turn it was instead."""
    bench = await Bench().started()
    bench.submit("running", 40.0)
    bench.submit("urgent", 14.0, rows=4)
    bench.submit("a", 15.0)
    bench.pass_ms(11.0)  # planned were 9.5
    bench.finish(taken_ms=9.0)
    bench.pass_ms(4.0)
    told = bench.why("a")
    assert (told.outcome, told.reason) == (Outcome.EXPIRED, Reason.EXPIRED)
    assert told.refusal is not None
    assert (told.refusal.batches_meanwhile, told.refusal.requests_meanwhile) == (2, 2)
    assert told.refusal.more_urgent_meanwhile == 1
    assert "needs 1.00 ms" in told.why[0]
    assert told.ended_ms is not None
    assert told.ended_ms + told.refusal.left_ms == 15.0


async def test_behind_what_waits_it_would_be_late() -> None:
    """Refused on arrival with the arithmetic, and when to come back."""
    bench = await Bench().started()
    bench.submit("running", 40.0)
    bench.submit("a", 10.0)
    told = bench.why("a")
    assert (told.outcome, told.reason) == (Outcome.REJECTED, Reason.PREDICTED_LATE)
    assert told.refusal is not None
    assert told.why[0] == f"Refused on arrival: {told.refusal.prediction}."
    assert f"{told.refusal.retry_after_ms:.2f} ms later" in told.would_change[0]


async def test_shed_by_priority() -> None:
    """Of two that cannot both be in time, the one of lower priority goes; its priority is named."""
    bench = await Bench(policy="drainfit").started()
    bench.submit("running")
    for number in range(3):
        bench.submit(f"high{number}", 20.0, rows=4, priority=1)
    bench.submit("low", 19.0, rows=4, priority=5)
    bench.pass_ms(12.0)  # planned were 9.5
    bench.finish(taken_ms=11.5)
    told = bench.why("low")
    assert told.reason is Reason.SHED
    assert "Its priority is 5" in told.why[0]


async def test_answered_by_the_first_of_two_workers() -> None:
    """The batch that answered counts, whichever was launched last; that the other worker was asked is said, too."""
    bench = await Bench(workers=2, policy="maxacc").started()
    bench.submit("a", 30.0)
    bench.pass_ms(12.0)
    bench.pool.overdue(0)
    bench.pass_ms(1.0)
    bench.finish(0, taken_ms=12.5)
    bench.pass_ms(5.0)
    bench.finish(1, taken_ms=5.5)
    told = bench.why("a")
    assert (told.outcome, told.ended_ms) == (Outcome.SERVED, 13.0)
    overdue, second = told.attempts
    assert (overdue.worker, overdue.fate, overdue.overdue, overdue.ended_ms) == (0, BatchFate.ANSWERED, True, 13.0)
    assert (second.worker, second.overdue, second.ended_ms) == (1, False, 18.0)
    assert told.why[-1].startswith("Worker 0 did not answer its batch at s2 in time")


async def test_redispatched_after_its_worker_was_lost() -> None:
    """Both batches, the loss between them, and the end."""
    bench = await Bench(workers=2, policy="maxacc").started()
    bench.submit("a", 20.0)
    bench.pass_ms(6.0)
    bench.pool.lose(0)
    bench.pass_ms(10.0)
    bench.finish(1, taken_ms=9.0)
    told = bench.why("a")
    assert (told.outcome, told.ended_ms) == (Outcome.SERVED, 16.0)
    lost, answered = told.attempts
    assert (lost.worker, lost.fate, lost.subnet, lost.ended_ms) == (0, BatchFate.LOST, "s2", 6.0)
    assert (lost.taken_ms, lost.overhead_ms) == (None, None)
    assert (answered.worker, answered.fate, answered.launched_ms) == (1, BatchFate.ANSWERED, 6.0)
    assert told.why[-1] == (
        "Worker 0 was lost 6.00 ms after the launch of its batch at s2, with 14.00 ms left until the deadline."
    )


async def test_lost_with_too_little_time_left() -> None:
    """It cannot run again: the fastest subnet takes 1 ms, and half a millisecond around it."""
    bench = await Bench().started()
    bench.submit("a", 20.0)
    bench.pass_ms(19.0)
    bench.pool.lose(0)
    told = bench.why("a")
    assert (told.outcome, told.reason, len(told.attempts)) == (Outcome.FAILED, Reason.WORKER_LOST, 1)
    assert told.why[0].startswith("Its worker was lost, and it could not run again: 1.00 ms were left")


async def test_waits_again_and_then_found_to_be_poison() -> None:
    """Between two batches it waits; alone with a worker that is lost, for the second time, it is given up."""
    bench = await Bench().started()
    bench.submit("a", 20.0)
    bench.pass_ms(1.0)
    bench.pool.lose(0)
    assert "It waits again." in bench.told("a")
    bench.pool.revive(0)
    bench.pass_ms(1.0)
    bench.pool.lose(0)
    told = bench.why("a")
    assert (told.outcome, told.reason, len(told.attempts)) == (Outcome.FAILED, Reason.POISON, 2)
    assert told.why[0].startswith("Two workers were lost while they ran it, the second time alone")


async def test_failed_and_cancelled() -> None:
    """A batch that the worker cannot run; clients that leave while they wait and while they run."""
    bench = await Bench().started()
    running, waiting = bench.submit("running"), bench.submit("waiting")
    bench.pass_ms(1.0)
    bench.router.cancel(waiting)
    bench.router.cancel(running)
    assert bench.told("waiting") == "The client gave up 1.00 ms after it had asked, while it waited."
    assert "while its batch was running" in bench.told("running")
    bench.finish()
    assert bench.why("running").outcome is Outcome.CANCELLED
    bench.submit("failing")
    bench.pool.fail(0)
    told = bench.why("failing")
    assert (told.outcome, told.attempts[0].fate) == (Outcome.FAILED, BatchFate.FAILED)


async def test_the_list_of_the_latest() -> None:
    """The latest first, however they ended."""
    bench = await Bench().started()
    for name, timeout_ms in (("a", 50.0), ("b", 0.1), ("c", 50.0)):
        bench.submit(name, timeout_ms)
        if bench.pool.running:
            bench.pass_ms(1.0)
            bench.finish()
    told = bench.plane.latest(2)
    assert [(summary.request_id, summary.outcome, summary.subnet) for summary in told] == [
        ("c", Outcome.SERVED, "s2"),
        ("b", Outcome.REJECTED, None),
    ]
    assert [summary.request_id for summary in bench.plane.latest(10)] == ["c", "b", "a"]


async def test_only_so_many_are_kept() -> None:
    """The oldest batches are forgotten, and the oldest refusals; with 0, all of them."""
    bench = await Bench(decisions=3).started()
    for name in "abcdef":
        bench.submit(name)
        bench.finish()
        bench.submit(name.upper(), 0.1)
    assert [bench.why(name).request_id for name in "defDEF"] == list("defDEF")
    for name in "cC":
        with pytest.raises(UnknownRequestError, match=f"'{name}'"):
            bench.why(name)
    nothing = await Bench(decisions=0).started()
    nothing.submit("a")
    nothing.finish()
    nothing.submit("b", 0.1)
    assert nothing.plane.latest(10) == []


async def test_an_id_that_came_twice_is_the_later_ones() -> None:
    """Clients may choose their ids badly."""
    bench = await Bench().started()
    bench.submit("a", 40.0)
    bench.finish()
    bench.submit("a", 0.5)
    assert bench.why("a").deadline_ms == 0.5
    bench.submit("a", 30.0)
    assert bench.why("a").deadline_ms == 30.0


async def test_what_is_kept_holds_no_tensors() -> None:
    """A record is small: the request's buffers are given up when it ends."""
    bench = await Bench().started()
    answered = bench.submit("a")
    bench.finish()
    refused = bench.submit("b", 0.1)
    assert (answered.inputs, refused.inputs) == ((), ())
