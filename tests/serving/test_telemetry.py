import hypothesis.strategies as st
from hypothesis import given

from superserve.clock import NS_PER_MS, ManualClock
from superserve.serving.fake_pool import FakePool
from superserve.serving.telemetry import Histogram
from support.serving import Recorder, make_router

BOUNDS = (10, 20, 50)


@given(st.lists(st.integers(-5, 100), min_size=1), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5))))
def test_each_value_belongs_to_the_first_bound_that_is_not_below_it(
    values: list[int], weighted: list[tuple[int, int]]
) -> None:
    """However values come: one by one, several alike, or many at once."""
    histogram = Histogram(BOUNDS)
    histogram.observe_all(values)
    for value, times in weighted:
        histogram.observe(value, times)
    every = values + [value for value, times in weighted for _ in range(times)]
    edges = (-(10**9), *BOUNDS, 10**9)
    for count, low, high in zip(histogram.counts, edges[:-1], edges[1:], strict=True):
        assert count == sum(low < value <= high for value in every)
    assert histogram.total == sum(every)


async def test_a_batch_is_counted_stage_by_stage() -> None:
    """Two requests, one of which was read and checked in no time, in one batch after another one."""
    clock, pool = ManualClock(), FakePool()
    router = make_router(pool, clock)
    await router.start()
    first, second, third = Recorder(), Recorder(), Recorder()

    def submit(recorder: Recorder, *, decode_ms: int) -> None:
        now_ns = clock.now_ns()
        clock.advance(decode_ms * NS_PER_MS)
        router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + 50 * NS_PER_MS,
            rows=1,
            min_accuracy=0,
            priority=0,
            inputs=[bytes(4), bytes(4)],
            responder=recorder,
        )

    submit(first, decode_ms=2)
    submit(second, decode_ms=0)
    submit(third, decode_ms=1)
    pool.finish(0, infer_ns=NS_PER_MS)
    clock.advance(7 * NS_PER_MS)
    pool.finish(0, infer_ns=4 * NS_PER_MS)
    telemetry = router.telemetry
    assert telemetry.decode.total == 3 * NS_PER_MS
    assert telemetry.queue.total == (2 + 1 + 1) * NS_PER_MS
    assert telemetry.wait.total == (0 + 2 * 3) * NS_PER_MS
    assert telemetry.request.total == (3 + 8 + 8) * NS_PER_MS
    assert telemetry.encode.total == 0
    assert sum(histogram.total for histogram in telemetry.inference) == 5 * NS_PER_MS
    assert sum(histogram.total for histogram in telemetry.rows) == 3
    assert sum(telemetry.request.counts) == sum(telemetry.encode.counts) == 3
    told = [recorder.answers[0] for recorder in (first, second, third)]
    assert [(answer.decode_us, answer.queue_us, answer.wait_us) for answer in told] == [
        (2000, 2000, 0),
        (0, 1000, 3000),
        (1000, 1000, 3000),
    ]
