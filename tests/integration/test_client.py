"""Both clients over HTTP against a server that runs no model: connections, and what a server may do to them."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.client import AsyncClient, Client, InferReply
from superserve.errors import ExpiredError, InvalidRequestError, SuperServeError, UnavailableError, UnknownModelError
from support.v2_echo_server import EchoServer, Heard, http, logits_reply

pytestmark = pytest.mark.integration

INPUT = {"x": np.full((1, 4), 7, np.uint8)}
METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "p",
    "inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 4]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}],
}


def answer(heard: Heard) -> bytes | None:
    """What the test server says, by path."""
    answers: dict[str, Callable[[], bytes | None]] = {
        "/v2/health/ready": lambda: http(200, b""),
        "/v2/models/m": lambda: http(200, msgspec.json.encode(METADATA)),
        "/v2/models/m/infer": lambda: logits_reply(heard.raw[0]),
        "/v2/models/late/infer": lambda: http(504, b'{"error":"too late"}', "x-superserve-outcome: expired\r\n"),
        "/v2/models/odd/infer": lambda: http(200, b"<html>"),
        "/v2/models/odd": lambda: http(200, b"<html>"),
        "/v2/models/gone/infer": lambda: None,
        "/v2/models/once/infer": lambda: (
            logits_reply(1)[:-40].replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + bytes(40)
        ),
    }
    return answers.get(heard.path, lambda: http(404, b'{"error":"no such model"}'))()


class Both:
    """Calls a method of either client in the same way."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        bound = getattr(self._client, method)
        if inspect.iscoroutinefunction(bound):
            return await bound(*args, **kwargs)
        return await asyncio.to_thread(bound, *args, **kwargs)


@pytest.fixture
async def server() -> AsyncIterator[EchoServer]:
    echo = EchoServer(answer)
    async with echo:
        yield echo


@pytest.fixture(params=[Client, AsyncClient])
async def call(request: pytest.FixtureRequest, server: EchoServer) -> AsyncIterator[Both]:
    client = request.param(f"http://127.0.0.1:{server.port}", timeout_s=2.0)
    both = Both(client)
    yield both
    await both("close")


async def test_infer_carries_arrays_deadline_floor_and_priority(call: Both, server: EchoServer) -> None:
    reply: InferReply = await call("infer", "m", INPUT, slo_ms=2000, min_accuracy=91.5, priority=2, request_id="r1")
    assert reply.outputs["logits"].shape == (1, 10)
    assert reply.outputs["logits"].argmax() == 7
    assert (reply.parameters.subnet, reply.parameters.accuracy, reply.parameters.slo_met) == ("s0", 90.0, True)
    sent = server.heard[0]
    assert sent.raw == INPUT["x"].tobytes()
    assert sent.json["id"] == "r1"
    parameters = sent.json["parameters"]
    assert 0 < parameters.pop("timeout") <= 2_000_000
    assert parameters == {
        "superserve_min_accuracy": 91.5,
        "priority": 2,
        "binary_data_output": True,
    }


async def test_metadata_and_readiness(call: Both) -> None:
    metadata = await call("metadata", "m")
    assert (metadata.inputs[0].name, metadata.inputs[0].shape) == ("x", (-1, 4))
    assert await call("ready")


async def test_connection_is_kept_and_renewed(call: Both, server: EchoServer) -> None:
    for _ in range(3):
        await call("infer", "m", INPUT)
    assert server.connections == 1
    await call("infer", "once", INPUT)
    await call("infer", "m", INPUT)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("nope", UnknownModelError, "no such model"),
        ("late", ExpiredError, "too late"),
        ("odd", SuperServeError, "no infer response"),
        ("gone", UnavailableError, "no answer"),
    ],
)
async def test_refusals_are_typed_and_the_client_goes_on(
    call: Both, model: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await call("infer", model, INPUT)
    assert (await call("infer", "m", INPUT)).outputs["logits"].argmax() == 7


async def test_bad_arguments_never_reach_the_server(call: Both, server: EchoServer) -> None:
    with pytest.raises(InvalidRequestError, match="slo_ms"):
        await call("infer", "m", INPUT, slo_ms=0)
    with pytest.raises(SuperServeError, match="no model metadata"):
        await call("metadata", "odd")
    assert len(server.heard) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_no_server_and_no_answer_in_time_are_unavailable(kind: type[Client] | type[AsyncClient]) -> None:
    nobody = Both(kind("http://127.0.0.1:9"))
    assert not await nobody("ready")
    echo = EchoServer(answer, delay_s=60.0)
    async with echo as url:
        slow = Both(kind(url, timeout_s=0.1))
        with pytest.raises(UnavailableError, match="timed out"):
            await slow("infer", "m", INPUT)
        await slow("close")


async def test_many_at_once_share_the_pool(server: EchoServer) -> None:
    server.delay_s = 0.02
    async with AsyncClient(f"127.0.0.1:{server.port}", max_connections=4) as client:
        inputs = [{"x": np.full((1, 4), i % 10, np.uint8)} for i in range(20)]
        replies = await asyncio.gather(*(client.infer("m", one) for one in inputs))
        assert [int(reply.outputs["logits"].argmax()) for reply in replies] == [i % 10 for i in range(20)]
    assert server.connections == 4
    assert threading.active_count() < 40


async def test_cancelling_drops_the_connection_and_frees_its_turn() -> None:
    heard = asyncio.Event()

    def hear(request: Heard) -> bytes | None:
        heard.set()
        return answer(request)

    server = EchoServer(hear, delay_s=0.2)
    async with server as url, AsyncClient(url, max_connections=1) as client:
        task = asyncio.create_task(client.infer("m", INPUT))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.05)
        assert not server.peers, "the server must learn that nobody waits"
        server.delay_s = 0.0
        assert (await client.infer("m", INPUT)).outputs["logits"].argmax() == 7
    assert server.connections == 2
