"""Blocking and asyncio client, over HTTP and gRPC: the same program against the same server."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import numpy as np
import pytest

from superserve.client import AsyncClient, Client, Retries
from superserve.errors import (
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    PayloadTooLargeError,
    QueueFullError,
    UnavailableError,
    UnknownModelError,
    UnreachableError,
    WorkerError,
)
from superserve.request import Outcome
from superserve.serving.fake_pool import FakePool
from support.folders import write_digits_like_folder
from support.server_process import ServerProcess, serving
from support.serving import MODEL
from support.transports import WIDE, Served, served

pytestmark = pytest.mark.integration

IMAGE = {"image": np.zeros((3, 8, 8), np.uint8)}
TINY: dict[str, Any] = {"image": np.arange(4, dtype=np.uint8).reshape(1, 2, 2), "scale": np.full(1, 0.5, np.float32)}

four = pytest.mark.parametrize("kind", [Client, AsyncClient]), pytest.mark.parametrize("scheme", ["http", "grpc"])


def on_all_four(test: Any) -> Any:
    """Each client over each protocol."""
    for mark in four:
        test = mark(test)
    return test


class Either:
    """Calls a method of either client in the same way; each blocking call has a thread of its own."""

    def __init__(self, kind: type[Client] | type[AsyncClient], url: str, **options: Any) -> None:
        self.client = kind(url, **options)

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        bound = getattr(self.client, method)
        if inspect.iscoroutinefunction(bound):
            return await bound(*args, **kwargs)
        return await asyncio.to_thread(bound, *args, **kwargs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self("close")


def url_of(scheme: str, server: Served) -> str:
    return f"{scheme}://127.0.0.1:{server.grpc.port if scheme == 'grpc' else server.http.port}"


async def until(happened: Any) -> None:
    async with asyncio.timeout(8):
        while not happened():  # noqa: ASYNC110  (a server tells nobody that a client has gone)
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own with emulated workers."""
    scratch = tmp_path_factory.mktemp("server")
    folder = write_digits_like_folder(scratch / "digits")
    with serving(folder, "--workers", "2", "--slo-ms", "2000", scratch=scratch) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(request: pytest.FixtureRequest, process: ServerProcess) -> str:
    return process.url if request.param == "http" else f"grpc://{process.grpc}"


@pytest.fixture(params=[Client, AsyncClient])
async def client(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Either]:
    async with Either(request.param, url) as either:
        yield either


async def test_a_server_is_asked_what_it_is_and_does_it(client: Either) -> None:
    """Readiness, metadata, inference under a deadline and a floor."""
    assert await client("ready")
    metadata = await client("metadata", "digits")
    assert (metadata.name, metadata.versions) == ("digits", ("1",))
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in metadata.inputs] == [
        ("image", "UINT8", (-1, 8, 8))
    ]
    reply = await client("infer", "digits", IMAGE, slo_ms=2000, min_accuracy=1.0, request_id="mine")
    assert reply.outputs["logits"].shape == (3, 10)
    assert (reply.id, reply.request_id) == ("mine", "mine")
    said = reply.parameters
    assert (said.emulated, said.slo_met, said.batch_size >= 3, said.infer_us > 0) == (True, True, True, True)
    assert said.accuracy >= 1.0


async def test_a_server_says_no_in_its_own_exceptions(client: Either) -> None:
    """And goes on."""
    for expected, words, call in (
        (UnknownModelError, "'other'", client("infer", "other", IMAGE)),
        (UnknownModelError, "'9'", client("metadata", "digits", "9")),
        (InvalidRequestError, "missing", client("infer", "digits", {})),
        (InvalidRequestError, "datatype", client("infer", "digits", {"image": np.zeros((1, 8, 8))})),
        (InvalidRequestError, "100 is above", client("infer", "digits", IMAGE, min_accuracy=100.0)),
    ):
        with pytest.raises(expected, match=words):
            await call
    # Too short even for the way there may be told by either side.
    with pytest.raises((InfeasibleError, ExpiredError)):
        await client("infer", "digits", IMAGE, slo_ms=0.5)
    assert (await client("infer", "digits", IMAGE)).outputs["logits"].shape == (3, 10)


async def test_many_at_once(client: Either) -> None:
    """From as many threads or tasks."""
    replies = await asyncio.gather(*(client("infer", "digits", IMAGE, request_id=f"r{n}") for n in range(24)))
    assert [reply.id for reply in replies] == [f"r{n}" for n in range(24)]


@on_all_four
async def test_every_datatype_goes_there_and_back(kind: Any, scheme: str) -> None:
    """numpy in and out; BF16 comes back as float32, BYTES as objects."""
    rng = np.random.default_rng(5)
    inputs: dict[str, Any] = {}
    for spec in WIDE.inputs:
        if spec.datatype == "BYTES":
            inputs[spec.name] = np.array([["a", "bc"], ["", "\u00e4"]], object)
        elif spec.datatype == "BF16":
            import ml_dtypes  # noqa: PLC0415  (only here)

            inputs[spec.name] = rng.standard_normal((2, 2)).astype(ml_dtypes.bfloat16)
        else:
            inputs[spec.name] = rng.integers(0, 2, (2, 2)).astype(spec.dtype)
    async with served("http", WIDE) as server, Either(kind, url_of(scheme, server)) as client:
        reply = await client("infer", "wide", inputs)
    for name, sent in inputs.items():
        came = reply.outputs[name.replace("in_", "out_")]
        if sent.dtype == object:
            assert came.tolist() == [[text.encode() for text in row] for row in sent.tolist()]
        else:
            np.testing.assert_array_equal(came, sent.astype(came.dtype))


@on_all_four
async def test_a_deadline_that_passes_here_frees_the_place_there(kind: Any, scheme: str) -> None:
    """The client is told in time, the server at once; what waited is never run."""
    pool = FakePool()
    async with served("http", MODEL, pool=pool) as server, Either(kind, url_of(scheme, server)) as client:
        running = asyncio.ensure_future(client("infer", "tiny", TINY))
        await until(lambda: len(pool.running) == 1)
        with pytest.raises(ExpiredError):
            await client("infer", "tiny", TINY, slo_ms=100)
        await until(lambda: server.router.queue_depth == 0)
        ended = server.router.outcomes
        assert ended[Outcome.CANCELLED] + ended[Outcome.EXPIRED] == 1
        with pytest.raises(UnavailableError, match="timed out"):
            await client("infer", "tiny", TINY, wait_ms=100)
        await until(lambda: ended[Outcome.CANCELLED] + ended[Outcome.EXPIRED] == 2)
        pool.finish(0)
        assert (await running).parameters.subnet == "s1"
        assert len(pool.launched) == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_cancelling_frees_the_place(scheme: str) -> None:
    """A task that is cancelled takes its request along."""
    pool = FakePool()
    async with served("http", MODEL, pool=pool) as server, AsyncClient(url_of(scheme, server)) as client:
        tasks = [asyncio.ensure_future(client.infer("tiny", TINY))]
        await until(lambda: len(pool.running) == 1)
        tasks.append(asyncio.ensure_future(client.infer("tiny", TINY)))
        await until(lambda: server.router.queue_depth == 1)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        await until(lambda: server.router.outcomes[Outcome.CANCELLED] == 1)
        pool.finish(0)
        assert (await tasks[0]).outputs["factor"] == 0.5


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_closing_tells_those_who_wait(scheme: str) -> None:
    """With an error, not as if their task had been cancelled; and a client may be used again."""
    pool = FakePool()
    async with served("http", MODEL, pool=pool) as server, AsyncClient(url_of(scheme, server)) as client:
        waiting = asyncio.ensure_future(client.infer("tiny", TINY))
        await until(lambda: len(pool.running) == 1)
        await client.close()
        with pytest.raises(UnavailableError):
            await waiting
        assert await client.ready()


@on_all_four
async def test_what_the_scheduler_refuses_is_told_and_asked_again_in_time(kind: Any, scheme: str) -> None:
    """A full queue: when to ask again is told in milliseconds; some attempts are made, and later there is room."""
    pool = FakePool()
    async with served("http", MODEL, pool=pool) as server, Either(kind, url_of(scheme, server)) as client:
        first = [asyncio.ensure_future(client("infer", "tiny", TINY, slo_ms=8000)) for _ in range(4)]
        await until(lambda: server.router.unfinished == 4)
        with pytest.raises(QueueFullError) as caught:
            await client("infer", "tiny", TINY, slo_ms=900)
        assert 0 < caught.value.retry_after_s < 0.1
        refused = server.router.outcomes[Outcome.REJECTED]
        assert refused > 1
        again = asyncio.ensure_future(client("infer", "tiny", TINY, slo_ms=6000))
        await until(lambda: server.router.outcomes[Outcome.REJECTED] > refused)
        while pool.running:
            pool.finish(0)
        assert len(await asyncio.gather(*first)) == 4
        await until(lambda: len(pool.running) == 1)
        pool.finish(0)
        assert (await again).parameters.slo_met
        failing = asyncio.ensure_future(client("infer", "tiny", TINY, idempotent=True))
        await until(lambda: len(pool.running) == 1)
        pool.fail(0)
        with pytest.raises(WorkerError):
            await failing


@on_all_four
async def test_a_body_above_the_limit_is_told_apart(kind: Any, scheme: str) -> None:
    """From a full queue, which over gRPC has the same status."""
    limits = {"max_body_bytes": 1_000_000}
    async with served("http", MODEL, limits=limits) as server, Either(kind, url_of(scheme, server)) as client:
        with pytest.raises(PayloadTooLargeError):
            await client("infer", "tiny", {"image": np.zeros((300_000, 2, 2), np.uint8)})
        assert await client("ready")


@on_all_four
async def test_nobody_there_is_told_soon(kind: Any, scheme: str) -> None:
    """Well before the deadline, and as what it is: nothing was sent."""
    async with Either(kind, f"{scheme}://127.0.0.1:9") as client:
        assert not await client("ready")
        with pytest.raises(UnreachableError, match="is the server running there"):
            await client("infer", "tiny", TINY, slo_ms=20_000)


@on_all_four
async def test_a_server_that_comes_back_is_found_again(kind: Any, scheme: str) -> None:
    """On the same port: attempts that find no connection wait for it."""
    retries = Retries(max_attempts=20, first_pause_ms=100.0, max_pause_ms=400.0, burst=20.0)
    async with served("http", MODEL) as server, Either(kind, url_of(scheme, server), retries=retries) as client:
        assert (await client("infer", "tiny", TINY)).outputs["factor"] == 0.5
        part: Any = server.grpc if scheme == "grpc" else server.http
        port = part.port
        await part.stop(0.1)
        asking = asyncio.ensure_future(client("infer", "tiny", TINY, slo_ms=20_000, idempotent=True))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await part.start("127.0.0.1", port)
        assert (await asking).outputs["factor"] == 0.5
