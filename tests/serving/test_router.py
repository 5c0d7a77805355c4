import asyncio
import struct
from typing import Any, cast

import msgspec
import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import (
    CancelledError,
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    WorkerError,
)
from superserve.request import Outcome, Reason
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import Answer
from superserve.serving.router import Pending, Router
from support.serving import PROFILE, Recorder, make_router


class Bench:
    """A router over a fake pool in virtual time, and short ways to drive it."""

    def __init__(self, workers: int = 1, **options: Any) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(workers)
        self.router: Router = make_router(self.pool, self.clock, **options)

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def submit(
        self, responder: Recorder, *, timeout_ms: float = 50.0, rows: int = 1, fill: int = 0, floor: float = 0.0
    ) -> Pending:
        now_ns = self.clock.now_ns()
        return self.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + int(timeout_ms * NS_PER_MS),
            rows=rows,
            min_accuracy=floor,
            priority=0,
            inputs=[bytes([fill]) * 4 * rows, struct.pack("<f", fill) * rows],
            responder=responder,
        )

    def outcomes(self) -> dict[str, int]:
        return {outcome.value: count for outcome, count in self.router.outcomes.items() if count}


async def test_an_answer_carries_what_ran_and_how_long_it_took() -> None:
    """One request on an idle server: the most accurate subnet, no queueing, the worker's own time."""
    bench = await Bench().started()
    recorder = Recorder()
    bench.submit(recorder, rows=2, fill=7)
    bench.clock.advance(3 * NS_PER_MS)
    bench.pool.finish(0, infer_ns=2_500_000)
    (answer,) = recorder.answers
    assert (answer.subnet, answer.batch_rows, answer.rows) == (1, 2, 2)
    assert (answer.queue_us, answer.infer_us, answer.slo_met) == (0, 2500, True)
    assert recorder.outputs == [[bytes([7]) * 8, struct.pack("<f", 7) * 2]]
    assert bench.outcomes() == {"served": 1}
    assert bench.router.unfinished == 0


async def test_batch_mates_get_their_own_rows_and_queueing_times() -> None:
    """Three requests of different sizes wait for the worker, run together, and each gets its slice."""
    bench = await Bench().started()
    first, *others = [Recorder() for _ in range(4)]
    bench.submit(first)
    for number, (recorder, rows) in enumerate(zip(others, (1, 2, 1), strict=True), 1):
        bench.clock.advance(NS_PER_MS)
        bench.submit(recorder, rows=rows, fill=number)
    bench.clock.advance(NS_PER_MS)
    bench.pool.finish(0)
    assert bench.pool.launched[1][1].rows == 4
    bench.pool.finish(0)
    for number, (recorder, rows) in enumerate(zip(others, (1, 2, 1), strict=True), 1):
        assert recorder.outputs == [[bytes([number]) * 4 * rows, struct.pack("<f", number) * rows]]
        assert recorder.answers[0].batch_rows == 4
        assert recorder.answers[0].queue_us == (4 - number) * 1000


async def test_the_worker_gets_its_next_batch_before_answers_are_made() -> None:
    """Encoding answers must not keep the worker idle, and the answers stay right."""
    bench = await Bench().started()
    launched: list[int] = []

    class Looking(Recorder):
        def answered(self, answer: Answer) -> None:
            launched.append(len(bench.pool.launched))
            super().answered(answer)

    first, second = Looking(), Looking()
    bench.submit(first, fill=1)
    bench.submit(second, fill=2)
    bench.pool.finish(0)
    assert launched == [2]
    assert first.outputs[0][0] == bytes([1]) * 4


async def test_a_request_expires_when_that_is_certain() -> None:
    """With its worker busy for ever, a request is told in the first nanosecond at which no subnet can make it."""
    bench = await Bench().started()
    recorder = Recorder()
    bench.submit(Recorder(), timeout_ms=1000)
    bench.submit(recorder, timeout_ms=20)
    last_start_ns = bench.clock.now_ns() + 20 * NS_PER_MS - NS_PER_MS - 1  # the fastest cell takes 1 ms
    bench.clock.advance_to(last_start_ns)
    assert recorder.ended == 0
    bench.clock.advance(1)
    assert isinstance(recorder.errors[0], ExpiredError)
    assert len(bench.pool.launched) == 1
    assert bench.outcomes() == {"expired": 1}


async def test_a_request_that_cannot_be_in_time_is_told_why_and_when_to_come_back() -> None:
    """Of twelve due in 6 ms one runs for 4 ms, and what follows takes 2 ms for each four."""
    bench = await Bench().started()
    recorders = [Recorder() for _ in range(12)]
    for recorder in recorders:
        bench.submit(recorder, timeout_ms=6)
    refused = [recorder.errors[0] for recorder in recorders if recorder.errors]
    assert refused
    assert all(isinstance(error, InfeasibleError) for error in refused)
    assert {error.reason for error in refused} == {"predicted_late"}
    assert "rows are to be served before, and 1 worker takes 2.0 ms for each 4 of them" in str(refused[0])
    assert 0 < cast("InfeasibleError", refused[0]).retry_after_s < 0.01
    assert bench.router.unanswered == {(Outcome.REJECTED, Reason.PREDICTED_LATE): len(refused)}
    assert sum(bench.router.telemetry.refusal.counts) == len(refused)


async def test_the_timer_follows_an_earlier_deadline() -> None:
    """A request that expires before the one that the timer was set for is told in time, and then the other."""
    bench = await Bench().started()
    late, early = Recorder(), Recorder()
    bench.submit(Recorder(), timeout_ms=1000)
    bench.submit(late, timeout_ms=40)
    bench.submit(early, timeout_ms=10)
    bench.clock.advance(10 * NS_PER_MS)
    assert (early.ended, late.ended) == (1, 0)
    bench.clock.advance(30 * NS_PER_MS)
    assert late.ended == 1


async def test_delay_serves_late_and_says_so() -> None:
    """Under ``delay`` a hopeless request runs, and its answer says that the deadline was missed."""
    bench = await Bench(timeout_action="delay").started()
    recorder = Recorder()
    bench.submit(recorder, timeout_ms=0.5)
    bench.clock.advance(NS_PER_MS)
    bench.pool.finish(0)
    assert recorder.answers[0].slo_met is False
    assert bench.outcomes() == {"late": 1}


@pytest.mark.parametrize(
    ("options", "timeout_ms", "floor", "error"),
    [
        ({}, 0.5, 0.0, InfeasibleError),
        ({}, 50.0, 99.0, InvalidRequestError),
        ({"policy": "fixed:smallest"}, 50.0, 70.5, InvalidRequestError),
    ],
)
async def test_refused_on_arrival(
    options: dict[str, Any], timeout_ms: float, floor: float, error: type[SuperServeError]
) -> None:
    """What can never be met is refused inside `submit`, and nothing is launched."""
    bench = await Bench(**options).started()
    recorder = Recorder()
    bench.submit(recorder, timeout_ms=timeout_ms, floor=floor)
    assert [type(found) for found in recorder.errors] == [error]
    assert bench.pool.launched == []
    assert bench.outcomes() == {"rejected": 1}


async def test_a_full_queue_says_when_to_come_back() -> None:
    """One request runs, two may wait, the fourth is refused with a time."""
    bench = await Bench(max_queued=2).started()
    recorders = [Recorder() for _ in range(4)]
    for recorder in recorders:
        bench.submit(recorder)
    (error,) = recorders[3].errors
    assert isinstance(error, QueueFullError)
    assert error.retry_after_s == pytest.approx(0.002)  # two rows: one full batch of the fastest subnet


async def test_a_cancelled_request_never_runs() -> None:
    """Cancelling a waiting request takes it out; cancelling a running or ended one changes nothing for the others."""
    bench = await Bench().started()
    running, waiting = Recorder(), Recorder()
    first = bench.submit(running)
    second = bench.submit(waiting)
    bench.router.cancel(second)
    bench.router.cancel(second)
    bench.pool.finish(0)
    bench.router.cancel(first)
    assert isinstance(waiting.errors[0], CancelledError)
    assert (running.ended, waiting.ended) == (1, 1)
    assert len(bench.pool.launched) == 1
    assert bench.outcomes() == {"served": 1, "cancelled": 1}


async def test_rows_behind_a_request_cancelled_in_its_batch_stay_right() -> None:
    """A client that goes while its batch runs leaves a gap in the outputs, not a shift."""
    bench = await Bench().started()
    recorders = [Recorder() for _ in range(4)]
    pending = [bench.submit(recorder, fill=number) for number, recorder in enumerate(recorders)]
    bench.pool.finish(0)
    bench.router.cancel(pending[1])
    bench.pool.finish(0)
    assert recorders[1].answers == []
    assert [recorders[number].outputs[0][0] for number in (2, 3)] == [bytes([2]) * 4, bytes([3]) * 4]


async def test_a_lost_workers_requests_run_elsewhere() -> None:
    """With slack left they are launched again on the other worker, and answered from there."""
    bench = await Bench(workers=2).started()
    recorder = Recorder()
    bench.submit(recorder, fill=9)
    bench.clock.advance(5 * NS_PER_MS)
    bench.pool.lose(0)
    assert [worker for worker, _ in bench.pool.launched] == [0, 1]
    bench.pool.finish(1)
    assert recorder.outputs[0][0] == bytes([9]) * 4
    assert recorder.answers[0].queue_us == 5000
    assert bench.outcomes() == {"served": 1}


async def test_a_lost_workers_requests_fail_without_slack() -> None:
    """Too late to run again: the client is told at once."""
    bench = await Bench().started()
    recorder = Recorder()
    bench.submit(recorder, timeout_ms=10)
    bench.clock.advance(9 * NS_PER_MS + 1)
    bench.pool.lose(0)
    assert isinstance(recorder.errors[0], WorkerError)
    assert bench.outcomes() == {"failed": 1}


async def test_without_workers_requests_are_refused_until_one_is_back() -> None:
    """Readiness and admission follow the workers."""
    bench = await Bench().started()
    bench.pool.lose(0)
    refused, served = Recorder(), Recorder()
    ready = [bench.router.ready]
    bench.submit(refused)
    bench.pool.revive(0)
    assert [*ready, bench.router.ready] == [False, True]
    bench.submit(served)
    bench.pool.finish(0)
    assert isinstance(refused.errors[0], UnavailableError)
    assert served.answers


async def test_a_failed_batch_fails_its_requests_only() -> None:
    """The worker lives on and serves the next one; what it said stays in the server's log."""
    bench = await Bench().started()
    failed, served = Recorder(), Recorder()
    bench.submit(failed)
    bench.submit(served)
    bench.pool.fail(0, "secret detail")
    bench.pool.finish(0)
    assert isinstance(failed.errors[0], WorkerError)
    assert "secret" not in str(failed.errors[0])
    assert served.answers
    assert bench.outcomes() == {"failed": 1, "served": 1}


async def test_a_responder_that_raises_costs_its_batch_mates_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The defect is logged, everyone else is answered."""

    class Broken(Recorder):
        def answered(self, answer: Answer) -> None:
            raise RuntimeError(f"broken on purpose at subnet {answer.subnet}")

    bench = await Bench().started()
    recorders = [Recorder(), Broken(), Recorder()]
    for recorder in recorders:
        bench.submit(recorder)
    bench.pool.finish(0)
    bench.pool.finish(0)
    assert [recorder.ended for recorder in recorders] == [1, 0, 1]
    assert "broken on purpose" in caplog.text


async def test_nothing_is_admitted_before_the_start() -> None:
    """A request that comes while workers warm up is refused, not lost."""
    bench = Bench()
    recorder = Recorder()
    bench.submit(recorder)
    assert isinstance(recorder.errors[0], UnavailableError)
    assert not bench.router.ready


async def test_drain_answers_what_was_admitted_and_refuses_the_rest() -> None:
    """Running and waiting requests are answered, new ones are not, and then the drain ends."""
    bench = await Bench().started()
    running, waiting, late = Recorder(), Recorder(), Recorder()
    bench.submit(running)
    bench.submit(waiting)
    drain = asyncio.create_task(bench.router.drain(10.0))
    await asyncio.sleep(0)
    bench.submit(late)
    assert isinstance(late.errors[0], UnavailableError)
    bench.pool.finish(0)
    await asyncio.sleep(0)
    assert not drain.done()
    bench.pool.finish(0)
    await drain
    assert running.answers
    assert waiting.answers
    await bench.router.stop()
    assert bench.pool.stopped


async def test_drain_is_bounded() -> None:
    """A worker that never answers holds the drain for its timeout and no longer; its request fails, once."""
    bench = await Bench().started()
    recorder = Recorder()
    bench.submit(recorder, timeout_ms=60_000)
    drain = asyncio.create_task(bench.router.drain(10.0))
    await asyncio.sleep(0)
    bench.clock.advance(9_999 * NS_PER_MS)
    await asyncio.sleep(0)
    assert not drain.done()
    bench.clock.advance(NS_PER_MS)
    await drain
    assert isinstance(recorder.errors[0], UnavailableError)
    bench.pool.finish(0)
    assert recorder.ended == 1
    assert bench.outcomes() == {"failed": 1}


async def test_a_drain_ends_when_waiting_requests_expire() -> None:
    """Their deadlines bound the wait, however long the drain may take."""
    bench = await Bench().started()
    waiting = Recorder()
    bench.submit(Recorder(), timeout_ms=5)
    bench.submit(waiting, timeout_ms=30)
    drain = asyncio.create_task(bench.router.drain(3600.0))
    await asyncio.sleep(0)
    bench.clock.advance(30 * NS_PER_MS)
    assert isinstance(waiting.errors[0], ExpiredError)
    bench.pool.finish(0)
    await drain


async def test_stop_cuts_a_drain_short() -> None:
    """The second signal does not wait."""
    bench = await Bench().started()
    recorder = Recorder()
    bench.submit(recorder)
    drain = asyncio.create_task(bench.router.drain(3600.0))
    await asyncio.sleep(0)
    await bench.router.stop()
    await drain
    assert isinstance(recorder.errors[0], UnavailableError)


async def test_the_profiles_dispatch_overhead_is_taken_off_slacks() -> None:
    """2 ms of overhead and 1 ms of work do not fit into 2.5 ms, and do without the overhead."""
    slow = msgspec.structs.replace(PROFILE, dispatch_overhead_us=2000.0)
    for profile, ended in ((PROFILE, 0), (slow, 1)):
        bench = await Bench(profile=profile).started()
        recorder = Recorder()
        bench.submit(recorder, timeout_ms=2.5)
        assert recorder.ended == ended


async def test_outcomes_count_every_request_once() -> None:
    """Whatever happens to 200 requests, the counts add up and nothing is told twice."""
    bench = await Bench(workers=2, max_queued=8).started()
    recorders = [Recorder() for _ in range(200)]
    for number, recorder in enumerate(recorders):
        pending = bench.submit(recorder, timeout_ms=1 + number % 23, rows=1 + number % 3)
        if number % 7 == 0:
            bench.router.cancel(pending)
        bench.clock.advance(NS_PER_MS // 3)
        if number % 5 == 0 and bench.pool.running:
            bench.pool.finish(min(bench.pool.running))
        if number == 100:
            bench.pool.lose(1)
    await bench.router.stop()
    assert sum(bench.router.outcomes.values()) == len(recorders)
    assert {recorder.ended for recorder in recorders} == {1}
    assert bench.router.outcomes[Outcome.SERVED] > 0
    assert bench.router.unfinished == 0


async def test_what_became_of_requests_of_lost_workers_is_counted() -> None:
    """Those with slack left, by how they ended: run again in time, given up as poison, or not counted: no slack."""
    bench = await Bench(workers=1, policy="fixed:smallest").started()
    recorders = [Recorder() for _ in range(4)]
    bench.submit(recorders[0])
    bench.submit(recorders[1], timeout_ms=1_000.0)
    bench.submit(recorders[2], timeout_ms=1_000.0, rows=3)
    bench.pool.finish(0)
    bench.clock.advance(NS_PER_MS)
    bench.pool.lose(0)  # with two of them
    bench.pool.revive(0)
    bench.pool.finish(0)  # the first of them, alone
    bench.pool.lose(0)
    bench.pool.revive(0)
    bench.submit(recorders[3], timeout_ms=5.0)
    bench.clock.advance(4 * NS_PER_MS)
    bench.pool.lose(0)
    assert bench.outcomes() == {"served": 2, "failed": 2}
    assert {outcome: count for outcome, count in bench.router.rescued.items() if count} == {
        Outcome.SERVED: 1,
        Outcome.FAILED: 1,
    }
    assert "two workers were lost" in str(recorders[2].errors[0])
    assert isinstance(recorders[2].errors[0], WorkerError)
    assert "too little time left" in str(recorders[3].errors[0])
    assert bench.router.launched_too_late == 0


async def test_a_request_that_is_launched_after_its_end_is_counted() -> None:
    """As by a scheduler that had lost track of it; ours does not."""
    bench = await Bench().started()
    ended = bench.submit(Recorder())
    bench.pool.finish(0)
    bench.router.act(bench.router.scheduler.on_arrival(bench.clock.now_ns(), ended))
    assert bench.router.launched_too_late == 1


async def test_a_request_that_is_launched_too_late_is_counted() -> None:
    """Where late ones are to be served."""
    bench = await Bench(timeout_action="delay").started()
    bench.submit(Recorder())
    bench.submit(Recorder(), timeout_ms=2.0)
    bench.clock.advance(3 * NS_PER_MS)
    bench.pool.finish(0)
    assert bench.router.launched_too_late == 1
