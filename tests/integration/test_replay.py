"""The generator against a server that runs no model, over real sockets."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import uvloop

from superserve.client.examples import Examples
from superserve.client.replay import replay, replay_trace
from superserve.client.result import Progress
from superserve.clock import NS_PER_MS
from superserve.errors import TraceError, UnavailableError
from superserve.metrics import OUTCOME_CODES, summarise
from superserve.request import Outcome
from superserve.traces.trace import Trace
from support.v2_echo_server import EchoServer, Heard, http, logits_reply

pytestmark = pytest.mark.integration


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Runs a coroutine on each kind of loop that the client supports."""
    return uvloop.run if request.param == "uvloop" else asyncio.run


def examples(count: int = 10) -> Examples:
    """Example i is a row of bytes i, its label i."""
    return Examples(tuple({"x": np.full((1, 4), i, np.uint8)} for i in range(count)), np.arange(count))


def every(ms: float, count: int) -> Trace:
    return Trace("even", (np.arange(count) * ms * NS_PER_MS).astype(np.int64))


def knows_all(heard: Heard) -> bytes:
    return logits_reply(heard.raw[0])


def names(outcomes: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> list[str]:
    return [list(Outcome)[code].value for code in outcomes]


def test_every_request_is_sent_at_its_instant_and_recorded(run: Callable[..., object]) -> None:
    async def scenario() -> None:
        server = EchoServer(lambda heard: logits_reply(0, subnet="s1") if heard.raw[0] % 2 else knows_all(heard))
        seen: list[Progress] = []
        async with server as url:
            trace = every(3.0, 100)
            result = await replay(trace, url, "m", examples(), slo_ms=200.0, seed=1, on_progress=seen.append)
        log = result.log
        assert len(server.heard) == 100
        assert log.arrival_ns.tolist() == trace.arrival_ns.tolist()
        assert set(names(log.outcome)) == {"served"}
        assert result.subnet_ids == ("s0", "s1")
        assert ((log.subnet == 1) == (log.correct == 0)).all()
        assert 0 < (log.subnet == 1).sum() < 100
        assert (log.end_ns >= log.arrival_ns + result.lateness_ns).all()
        assert (result.lateness_ns >= 0).all()
        assert result.void_reason is None
        assert (seen[-1].offered, seen[-1].finished, seen[-1].served, seen[-1].attainment) == (100, 100, 100, 1.0)
        assert seen[0].offered < 100
        row = summarise(log, policy="p", trace=trace.name, seed=1, workers=1, slo_ms=200.0)
        assert (row.slo_attainment, row.mean_serving_accuracy, row.mean_batch) == (1.0, 90.0, 2.0)

    run(scenario())


def test_timeout_is_what_is_left_from_the_scheduled_instant(run: Callable[..., object]) -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all)
        async with server as url:
            result = await replay(every(5.0, 20), url, "m", examples(), slo_ms=80.0, seed=1)
        sent = [heard.json["parameters"]["timeout"] for heard in server.heard]
        expected = [(80 * NS_PER_MS - late) // 1000 for late in result.lateness_ns.tolist()]
        assert sent == expected

    run(scenario())


def test_traces_slos_and_priorities_hold_request_by_request() -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all, delay_s=0.05)
        slo_ns = np.array([10, 1000], np.int64) * NS_PER_MS
        trace = Trace("two", np.array([0, 5 * NS_PER_MS]), slo_ns, np.array([2, 7], np.int32))
        async with server as url:
            result = await replay(trace, url, "m", examples(), slo_ms=500.0, seed=1)
        assert names(result.log.outcome) == ["late", "served"]
        assert [heard.json["parameters"]["priority"] for heard in server.heard] == [2, 7]
        assert server.heard[0].json["parameters"]["timeout"] <= 10_000

    uvloop.run(scenario())


def test_without_an_slo_the_server_decides() -> None:
    async def scenario() -> None:
        server = EchoServer(lambda heard: logits_reply(1, slo_met=heard.raw[0] != 0))
        async with server as url:
            result = await replay(every(1.0, 60), url, "m", examples(2), slo_ms=None, seed=1)
        assert all("timeout" not in heard.json["parameters"] for heard in server.heard)
        assert set(names(result.log.outcome)) == {"served", "late"}
        assert result.void_reason is None

    uvloop.run(scenario())


def test_slow_answers_hold_nothing_back_and_the_pool_grows_to_need() -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all, delay_s=0.3)
        async with server as url:
            result = await replay(every(1.0, 150), url, "m", examples(), slo_ms=20.0, seed=1)
        assert server.connections > 100
        assert result.p99_lateness_ms < 250  # an answer takes 300
        assert (result.log.end_ns - result.log.arrival_ns >= 290 * NS_PER_MS).all()
        assert set(names(result.log.outcome)) == {"late"}

    uvloop.run(scenario())


def test_a_bounded_pool_shows_as_lateness_and_voids_the_run() -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all, delay_s=0.05)
        async with server as url:
            result = await replay(every(1.0, 20), url, "m", examples(), slo_ms=100.0, seed=1, max_connections=2)
        assert server.connections == 2
        assert result.p99_lateness_ms > 300
        assert "lateness" in str(result.void_reason)

    uvloop.run(scenario())


def test_refusals_and_dropped_connections_keep_their_names() -> None:
    answers = [
        http(504, b'{"error":"x"}', "x-superserve-outcome: expired\r\n"),
        http(504, b'{"error":"x"}', "x-superserve-outcome: rejected\r\n"),
        http(429, b'{"error":"x"}', "x-superserve-outcome: rejected\r\nretry-after: 1\r\n"),
        http(503, b'{"error":"x"}', "x-superserve-outcome: failed\r\n"),
        None,
        b"SSH-2.0-nonsense\r\n\r\n",
        http(200, b"", "connection: close\r\n"),
        logits_reply(1, superserve_emulated=True),
    ]

    async def scenario() -> None:
        server = EchoServer(lambda _: answers[len(server.heard) - 1])
        async with server as url:
            result = await replay(every(10.0, len(answers)), url, "m", examples(), slo_ms=500.0, seed=1)
        expected = ["expired", "rejected", "rejected", "failed", "failed", "failed", "failed", "served"]
        assert names(result.log.outcome) == expected
        assert result.emulated
        assert (result.log.correct == -1).all()

    uvloop.run(scenario())


def test_a_server_that_never_answers_fails_what_it_owes() -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all, delay_s=60.0)
        async with server as url:
            result = await replay(every(1.0, 5), url, "m", examples(), slo_ms=20.0, seed=1, drain_s=0.1)
        assert set(names(result.log.outcome)) == {"failed"}
        assert (result.log.end_ns > 100 * NS_PER_MS).all()

    uvloop.run(scenario())


def test_a_server_that_dies_under_load_fails_the_rest_and_ends_the_run() -> None:
    async def scenario() -> None:
        server = EchoServer(knows_all)

        def die(progress: Progress) -> None:
            server.shut()

        async with server as url:
            result = await replay(every(2.0, 300), url, "m", examples(), slo_ms=50.0, seed=1, on_progress=die)
        counts = {outcome: int((result.log.outcome == OUTCOME_CODES[outcome]).sum()) for outcome in Outcome}
        assert counts[Outcome.SERVED] > 20
        assert counts[Outcome.FAILED] > 20
        assert counts[Outcome.SERVED] + counts[Outcome.FAILED] == 300

    uvloop.run(scenario())


def test_no_server_and_no_requests_are_said_plainly() -> None:
    async def scenario() -> None:
        with pytest.raises(UnavailableError, match="is the server running"):
            await replay(every(1.0, 3), "http://127.0.0.1:9", "m", examples(), slo_ms=1.0, seed=1)
        with pytest.raises(TraceError, match="no requests"):
            await replay(every(1.0, 0), "http://127.0.0.1:9", "m", examples(), slo_ms=1.0, seed=1)

    uvloop.run(scenario())


def test_the_seed_decides_what_is_sent() -> None:
    async def sent(seed: int) -> list[bytes]:
        server = EchoServer(knows_all)
        async with server as url:
            await replay(every(2.0, 40), url, "m", examples(), slo_ms=500.0, seed=seed, max_connections=1)
        return [heard.raw for heard in server.heard]

    first, again, other = (uvloop.run(sent(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_replay_trace_asks_the_server_what_to_send() -> None:
    metadata = b'{"name":"m","inputs":[{"name":"x","datatype":"INT16","shape":[-1,5]}],"outputs":[]}'

    def answer(heard: Heard) -> bytes:
        return logits_reply(1) if heard.body else http(200, metadata)

    async def scenario() -> None:
        server, seen = EchoServer(answer), list[tuple[float, float]]()
        async with server as url:
            result = await replay_trace(
                every(2.0, 10), url, "m", slo_ms=50.0, seed=1, on_progress=lambda done, all_: seen.append((done, all_))
            )
        assert set(names(result.log.outcome)) == {"served"}
        assert (result.log.correct == -1).all()
        assert server.heard[0].path == "/v2/models/m"
        assert server.heard[1].json["inputs"][0]["shape"] == [1, 5]
        assert seen[-1] == (0.018, 0.018)

    uvloop.run(scenario())


def test_replay_trace_needs_no_running_server_to_fail_plainly() -> None:
    with pytest.raises(UnavailableError, match="no connection"):
        asyncio.run(replay_trace(every(1.0, 3), "http://127.0.0.1:9", "m", slo_ms=1.0, seed=1))
