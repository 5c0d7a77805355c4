"""Both clients without sockets: what they do around the transport."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from superserve.client import AsyncClient, Client, InferReply, Retries
from superserve.client.calls import Request, Response
from superserve.client.deadline import Deadline
from superserve.clock import NS_PER_MS, NS_PER_S, ManualClock, Timer
from superserve.errors import (
    ConfigError,
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    UnknownModelError,
    UnreachableError,
)
from superserve.protocol.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ServerReadyResponse,
)

INPUTS = {"x": np.arange(4, dtype=np.uint8).reshape(1, 4)}
LOGITS = np.arange(3, dtype="<f4")


def http_answer() -> Response:
    tensor = {"name": "logits", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}
    said = {"superserve_subnet": "s1", "superserve_accuracy": 91.5, "superserve_queue_us": 7, "slo_met": True}
    text = {"model_name": "m", "model_version": "1", "id": "me", "parameters": said, "outputs": [tensor]}
    head = json.dumps(text).encode()
    headers = {"inference-header-content-length": str(len(head)), "x-request-id": "r-1"}
    return Response(200, headers, head + LOGITS.tobytes())


def grpc_answer() -> Response:
    message = ModelInferResponse(model_name="m", model_version="1", id="me", raw_output_contents=[LOGITS.tobytes()])
    message.outputs.add(name="logits", datatype="FP32", shape=[3])
    message.parameters["superserve_subnet"].string_param = "s1"
    message.parameters["superserve_accuracy"].double_param = 91.5
    message.parameters["superserve_queue_us"].int64_param = 7
    message.parameters["slo_met"].bool_param = True
    return Response(200, {"x-request-id": "r-1"}, message.SerializeToString())


ANSWERS = {"http": http_answer, "grpc": grpc_answer}


class JumpingClock(ManualClock):
    """Time jumps to the next timer as soon as everybody waits."""

    def call_at(self, when_ns: int, callback: Callable[[], object]) -> Timer:
        timer = super().call_at(when_ns, callback)
        asyncio.get_running_loop().call_soon(lambda: self.advance_to(max(self.now_ns(), when_ns)))
        return timer


class Line:
    """A transport that does what it was told, attempt by attempt; each takes ``takes_ms``."""

    def __init__(self, clock: ManualClock, script: list[Response | BaseException], takes_ms: float = 0.0) -> None:
        self.clock = clock
        self.script = script
        self.takes_ms = takes_ms
        self.requests: list[Request] = []
        self.sent_ns: list[int] = []
        self.closed = 0

    def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        self.requests.append(render())
        self.sent_ns.append(self.clock.now_ns())
        self.clock.advance(round(self.takes_ms * NS_PER_MS))
        deadline.left_s()
        step = self.script.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    def close(self) -> None:
        self.closed += 1


class AsyncLine(Line):
    """The same for the other client."""

    async def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:  # type: ignore[override]
        return super().exchange(render, deadline)

    async def close(self) -> None:  # type: ignore[override]
        super().close()


class Bench:
    """Either client over a scripted line."""

    def __init__(self, kind: type[Client] | type[AsyncClient], scheme: str) -> None:
        self.kind, self.scheme = kind, scheme
        self.clock = JumpingClock()
        self.line: Any = (Line if kind is Client else AsyncLine)(self.clock, [])
        self.client: Any = None
        self.answer = ANSWERS[scheme]()

    async def __call__(self, *script: Response | BaseException, method: str = "infer", **options: Any) -> Any:
        self.line.script[:] = script
        if self.client is None:
            rng = np.random.default_rng(0)
            self.client = self.kind(
                f"{self.scheme}://h",
                transport=self.line,
                clock=self.clock,
                rng=rng,
                timeout_s=30.0,
            )
        arguments = ("m", INPUTS) if method == "infer" else ("m",) if method == "metadata" else ()
        result = getattr(self.client, method)(*arguments, **options)
        return await result if self.kind is AsyncClient else result

    def refusal(self, status: int, text: str, **headers: str) -> Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        body = json.dumps({"error": text}).encode() if self.scheme == "http" else text.encode()
        return Response(status, named, body)

    def sent(self, attempt: int) -> dict[str, Any]:
        """Parameters of an attempt."""
        request = self.line.requests[attempt]
        if self.scheme == "http":
            parameters: dict[str, Any] = json.loads(bytes(request.parts[0]))["parameters"]
            return parameters
        message = ModelInferRequest.FromString(b"".join(request.parts))
        return {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()
        }


@pytest.fixture(params=[Client, AsyncClient])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["http", "grpc"])
def bench(request: pytest.FixtureRequest, kind: Any) -> Bench:
    return Bench(kind, request.param)


async def test_an_answer_says_how_it_came_about(bench: Bench) -> None:
    """The same reply, whatever the protocol."""
    reply: InferReply = await bench(bench.answer, request_id="me")
    np.testing.assert_array_equal(reply.outputs["logits"], LOGITS)
    assert (reply.model_name, reply.model_version, reply.id, reply.request_id) == ("m", "1", "me", "r-1")
    said = reply.parameters
    assert (said.subnet, said.accuracy, said.queue_us, said.slo_met, said.emulated) == ("s1", 91.5, 7.0, True, False)


async def test_what_is_asked_stands_in_the_request(bench: Bench) -> None:
    """Deadline, floor, priority, outputs, version, id; and nothing that was not asked for."""
    await bench(bench.answer, slo_ms=40, min_accuracy=95, priority=2, request_id="me", outputs=["a"], version="7")
    request = bench.line.requests[0]
    expected = {"timeout": 40_000, "superserve_min_accuracy": 95, "priority": 2}
    assert {name: value for name, value in bench.sent(0).items() if name != "binary_data_output"} == expected
    assert request.headers["x-request-id"] == "me"
    assert request.is_bounded
    if bench.scheme == "grpc":
        message = ModelInferRequest.FromString(b"".join(request.parts))
        assert (message.model_name, message.model_version, message.id) == ("m", "7", "me")
        assert [output.name for output in message.outputs] == ["a"]
        (tensor,) = message.inputs
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "UINT8", [1, 4])
        assert list(message.raw_input_contents) == [INPUTS["x"].tobytes()]
        assert message.parameters["priority"].WhichOneof("parameter_choice") == "uint64_param"
    else:
        assert request.path == "/v2/models/m/versions/7/infer"
        assert bytes(request.parts[1]) == INPUTS["x"].tobytes()
    await bench(bench.answer)
    assert not bench.sent(1).keys() - {"binary_data_output"}
    assert bench.scheme == "http" or not bench.line.requests[1].is_bounded, "a gRPC deadline would become the SLO"


@pytest.mark.parametrize("own", ["two words", "line\r\nx-evil: 1", "\u00e4"])
async def test_an_id_that_fits_no_header_stays_out_of_them(bench: Bench, own: str) -> None:
    await bench(bench.answer, request_id=own)
    assert "x-request-id" not in bench.line.requests[0].headers


async def test_a_refusal_is_asked_again_with_what_is_left_of_the_deadline(bench: Bench) -> None:
    """After the time that the server gave, within the deadline, which does not start anew."""
    full = bench.refusal(429, "full", retry_after="1", x_superserve_outcome="rejected")
    bench.line.takes_ms = 5.0
    await bench(full, bench.answer, slo_ms=1500)
    first, second = bench.line.sent_ns
    assert NS_PER_S <= second - first - 5 * NS_PER_MS <= NS_PER_S + 20 * NS_PER_MS
    left_us = (1500 * NS_PER_MS - second) // 1000
    assert (bench.sent(0)["timeout"], bench.sent(1)["timeout"]) == (1_500_000, left_us)


async def test_a_deadline_that_is_too_near_leaves_no_second_attempt(bench: Bench) -> None:
    """The error comes at once and says when to come back."""
    full = bench.refusal(429, "full", retry_after="1", x_superserve_outcome="rejected")
    with pytest.raises(QueueFullError, match="full") as caught:
        await bench(full, slo_ms=200)
    assert caught.value.retry_after_s == 1.0
    assert bench.clock.now_ns() == 0


async def test_no_connection_is_tried_again(bench: Bench) -> None:
    """Three times in all; then it is told."""
    await bench(UnreachableError("nobody"), bench.answer, slo_ms=500)
    assert len(bench.line.requests) == 2
    with pytest.raises(UnreachableError):
        await bench(*[UnreachableError("nobody")] * 3, slo_ms=500)
    assert len(bench.line.requests) == 5


async def test_what_may_have_run_is_not_repeated_unless_allowed(bench: Bench) -> None:
    """A lost connection, and a server's 503 that says nothing of coming back."""
    for lost in (UnavailableError("lost"), bench.refusal(503, "gone")):
        with pytest.raises(UnavailableError):
            await bench(lost)
        await bench(lost, bench.answer, idempotent=True)


async def test_metadata_is_asked_again_and_readiness_is_not(bench: Bench) -> None:
    """Nothing is executed by the one; the other asks about now."""
    lost = UnavailableError("lost")
    if bench.scheme == "grpc":
        message = ModelMetadataResponse(name="m", platform="p", versions=["1"])
        message.inputs.add(name="x", datatype="UINT8", shape=[-1, 4])
        told, yes = message.SerializeToString(), ServerReadyResponse(ready=True).SerializeToString()
        no = Response(200, {}, ServerReadyResponse(ready=False).SerializeToString())
    else:
        text: dict[str, Any] = {"name": "m", "platform": "p", "versions": ["1"], "outputs": []}
        text["inputs"] = [{"name": "x", "datatype": "UINT8", "shape": [-1, 4]}]
        told, yes, no = json.dumps(text).encode(), b"", bench.refusal(503, "starting", retry_after="1")
    metadata = await bench(lost, Response(200, {}, told), method="metadata")
    assert (metadata.name, metadata.versions, metadata.inputs[0].shape) == ("m", ("1",), (-1, 4))
    assert await bench(Response(200, {}, yes), method="ready")
    assert not await bench(no, method="ready")
    assert not await bench(lost, method="ready")
    assert not bench.line.script


async def test_the_deadline_holds_on_this_side_too(bench: Bench) -> None:
    """An answer behind it is none; with a longer wait it is one."""
    bench.line.takes_ms = 60.0
    with pytest.raises(ExpiredError, match=r"h:800. within the deadline"):
        await bench(bench.answer, slo_ms=50)
    assert (await bench(bench.answer, slo_ms=50, wait_ms=100)).parameters.subnet == "s1"
    with pytest.raises(UnavailableError, match="timed out"):
        await bench(bench.answer, slo_ms=50, wait_ms=20)


async def test_refusals_are_the_servers_exceptions(bench: Bench) -> None:
    """With its words."""
    for refusal, expected in (
        (bench.refusal(404, "no such model"), UnknownModelError),
        (bench.refusal(400, "wrong"), InvalidRequestError),
        (bench.refusal(504, "too short", x_superserve_outcome="rejected"), InfeasibleError),
        (bench.refusal(504, "too late", x_superserve_outcome="expired"), ExpiredError),
    ):
        with pytest.raises(expected, match=r"no such model|wrong|too"):
            await bench(refusal)
    assert len(bench.line.requests) == 4


@pytest.mark.parametrize("body", [b"<html>", b"\xff\xff", b"[" * 100_000])
async def test_an_answer_that_is_none_is_told_as_such(bench: Bench, body: bytes) -> None:
    for method in ("infer", "metadata"):
        with pytest.raises(SuperServeError, match="V2 server"):
            await bench(Response(200, {}, body), method=method)


async def test_bad_arguments_never_reach_the_server(bench: Bench) -> None:
    with pytest.raises(InvalidRequestError, match="slo_ms"):
        await bench(slo_ms=0)
    with pytest.raises(InvalidRequestError, match="wait_ms"):
        await bench(wait_ms=-1)
    assert not bench.line.requests


async def test_closing_closes_the_transport(kind: Any) -> None:
    bench = Bench(kind, "http")
    await bench(bench.answer)
    await bench(method="close")
    assert bench.line.closed == 1


def test_settings_that_cannot_be_are_refused(kind: Any) -> None:
    for options in ({"url": "ftp://h"}, {"url": "h", "timeout_s": 0}):
        with pytest.raises(ConfigError, match=r"url|timeout_s"):
            kind(**options)
    with pytest.raises(ConfigError, match="max_connections"):
        AsyncClient("h", max_connections=0)


async def test_a_budget_is_the_clients_not_the_requests(bench: Bench) -> None:
    """A storm of failures is not answered with a storm of attempts."""
    bench.client = bench.kind(
        "http://h" if bench.scheme == "http" else "grpc://h",
        transport=bench.line,
        clock=bench.clock,
        retries=Retries(burst=4.0, share=0.1),
    )
    for _ in range(100):
        with pytest.raises(UnreachableError):
            await bench(*[UnreachableError("nobody")] * 3)
    assert 100 < len(bench.line.requests) <= 100 + 4 + 10
