"""What gRPC has and HTTP has not: deadlines, streams, health, reflection, its own limits."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from superserve.clock import ManualClock
from superserve.errors import ConfigError
from superserve.frontend.common import Common
from superserve.frontend.grpc.server import GrpcServer
from superserve.protocol import messages
from superserve.request import Outcome
from superserve.serving.config import GrpcConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from support.serving import MODEL, make_model, make_router
from support.transports import GrpcTransport, Served, Tensor, served

pytestmark = pytest.mark.integration

TENSORS = [Tensor("image", "UINT8", [1, 2, 2], bytes(4)), Tensor("scale", "FP32", [1], bytes(4))]
REQUEST = GrpcTransport.request("tiny", TENSORS)


async def until(happened: Any) -> None:
    async with asyncio.timeout(8):
        while not happened():  # noqa: ASYNC110  (a server tells nobody that a client has gone)
            await asyncio.sleep(0.002)


def channel_of(server: Served) -> Any:
    return server.client._channel


async def test_a_calls_deadline_is_the_requests() -> None:
    """Too short: refused before it runs. Longer than a day: the model's own. The parameter comes first."""
    # gRPC rounds deadlines up: a worker that answers soon could be in time.
    async with served("grpc", MODEL, pool=FakePool(2)) as server:
        assert (await server.client.infer("tiny", TENSORS, timeout_s=0.0009)).status == "DEADLINE_EXCEEDED"
    async with served("grpc", MODEL) as server:
        assert (await server.client.infer("tiny", TENSORS, timeout_s=1e6)).status == "OK"
        assert (await server.client.infer("tiny", TENSORS, timeout_s=5)).status == "OK"
        refused = await server.client.infer("tiny", TENSORS, timeout_s=5, parameters={"timeout": 900})
        assert (refused.status, refused.outcome) == ("DEADLINE_EXCEEDED", "rejected")
        assert "no subnet can answer" in refused.error


async def test_a_deadline_that_passes_frees_the_place_in_the_queue() -> None:
    """The waiting request ends with it and is never run."""
    pool = FakePool()
    async with served("grpc", MODEL, pool=pool) as server:
        running = asyncio.ensure_future(server.client.infer("tiny", TENSORS))
        await until(lambda: len(pool.running) == 1)
        # The model's deadline is longer: only the call's own ends it.
        assert (await server.client.infer("tiny", TENSORS, timeout_s=0.05)).status == "DEADLINE_EXCEEDED"
        await until(lambda: server.router.queue_depth == 0)
        ended = server.router.outcomes
        assert ended[Outcome.CANCELLED] + ended[Outcome.EXPIRED] == 1
        pool.finish(0)
        assert (await running).status == "OK"
        assert len(pool.launched) == 1


async def test_a_stream_is_answered_in_order_with_its_errors() -> None:
    """An error is one of its answers; the stream goes on."""
    async with served("grpc", MODEL) as server:
        call = channel_of(server).stream_stream(f"/{messages.INFERENCE}/ModelStreamInfer")()
        sent = [GrpcTransport.request("tiny", TENSORS, request_id=f"r{n}") for n in range(3)]
        sent.insert(1, GrpcTransport.request("huge", TENSORS))
        sent.insert(3, b"\xff\xff")
        for data in sent:
            await call.write(data)
        await call.done_writing()
        answers = [messages.ModelStreamInferResponse.FromString(data) async for data in call]
        assert [answer.infer_response.id for answer in answers] == ["r0", "", "r1", "", "r2"]
        assert "'huge'" in answers[1].error_message
        assert "not a ModelInferRequest" in answers[3].error_message
        assert (await call.code()) == grpc.StatusCode.OK


async def test_the_requests_of_a_stream_are_numbered() -> None:
    """The stream has one id, which the client can choose; its requests are known by it and their number."""
    async with served("grpc", MODEL) as server:
        method = f"/{messages.INFERENCE}/ModelStreamInfer"
        call = channel_of(server).stream_stream(method)(metadata=(("x-request-id", "mine"),))
        for _ in range(2):
            await call.write(REQUEST)
        await call.done_writing()
        assert len([data async for data in call]) == 2
        assert ("x-request-id", "mine") in tuple(await call.trailing_metadata())
        assert [server.router.decisions.find(name) is None for name in (b"mine.0", b"mine.1", b"mine.2")] == [
            False,
            False,
            True,
        ]


async def test_a_stream_that_is_cancelled_takes_its_requests_along() -> None:
    """None of what waits is run; more requests than may wait are not read."""
    pool = FakePool()
    async with served("grpc", MODEL, pool=pool) as server:
        call = channel_of(server).stream_stream(f"/{messages.INFERENCE}/ModelStreamInfer")()
        for _ in range(4):
            await call.write(REQUEST)
        await until(lambda: server.router.unfinished == 4)
        call.cancel()
        await until(lambda: server.router.queue_depth == 0)
        assert server.router.outcomes[Outcome.CANCELLED] == 4
        pool.finish(0)
        assert len(pool.launched) == 1


async def test_health_follows_readiness() -> None:
    """Check and Watch, for the server and its service; another service is unknown."""
    async with served("grpc", MODEL) as server:
        watch = channel_of(server).unary_stream(f"/{messages.HEALTH}/Watch")(b"")
        assert status(await watch.read()) == "SERVING"
        for service in ("", messages.INFERENCE):
            assert status(await check(server, service)) == "SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(server, "other.Service")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        await server.router.drain(0)
        assert status(await watch.read()) == "NOT_SERVING"
        assert status(await check(server, "")) == "NOT_SERVING"
        watch.cancel()
        await until(lambda: not server.plane.watchers)


async def check(server: Served, service: str) -> bytes:
    request = messages.HealthCheckRequest(service=service).SerializeToString()
    data: bytes = await channel_of(server).unary_unary(f"/{messages.HEALTH}/Check")(request)
    return data


def status(data: bytes) -> str:
    value = messages.HealthCheckResponse.FromString(data).status
    return str(messages.HealthCheckResponse.ServingStatus.Name(value))


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_describes_what_is_served(version: str) -> None:
    """Services, files by symbol and by name; what is not there is an answer, too."""
    async with served("grpc", MODEL) as server:
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        call = channel_of(server).stream_stream(method)()

        async def ask(**question: str) -> Any:
            await call.write(messages.ServerReflectionRequest(**question).SerializeToString())
            return messages.ServerReflectionResponse.FromString(await call.read())

        services = [item.name for item in (await ask(list_services="")).list_services_response.service]
        assert services == [messages.INFERENCE, messages.HEALTH, messages.REFLECTION]
        for question in ({"file_containing_symbol": messages.INFERENCE}, {"file_by_filename": "inference.proto"}):
            (data,) = (await ask(**question)).file_descriptor_response.file_descriptor_proto
            assert FileDescriptorProto.FromString(data).service[0].name == "GRPCInferenceService"
        missing = (await ask(file_containing_symbol="no.such.Thing")).error_response
        assert (missing.error_code, "no.such.Thing" in missing.error_message) == (5, True)
        assert (await ask()).error_response.error_code == 5
        await call.done_writing()


@pytest.mark.parametrize(
    ("method", "request_bytes", "code"),
    [
        ("ModelInfer", bytes(1_100_000), "RESOURCE_EXHAUSTED"),
        ("ModelInfer", b"\xff\xff\xff", "INVALID_ARGUMENT"),
        ("ModelMetadata", b"\x0a\xff", "INVALID_ARGUMENT"),
        ("ModelInfer", b"", "NOT_FOUND"),
        ("NoSuchMethod", b"", "UNIMPLEMENTED"),
        ("SystemSharedMemoryStatus", b"", "UNIMPLEMENTED"),
    ],
)
async def test_what_is_no_message_hurts_nobody(method: str, request_bytes: bytes, code: str) -> None:
    """A status for each, and the next call is served."""
    async with served("grpc", MODEL) as server:
        reply, _ = await server.client.call(method, request_bytes)
        assert reply.status == code
        assert (await server.client.infer("tiny", TENSORS)).status == "OK"


async def test_a_message_that_quotes_what_was_sent_reaches_the_client() -> None:
    """However long that is: headers that are too large would end the call with another status."""
    async with served("grpc", MODEL) as server:
        reply = await server.client.infer("tiny", [Tensor("\u00e4" * 20_000, "FP32", [1], bytes(4))])
        assert reply.status == "INVALID_ARGUMENT"
        assert "\u00e4" in reply.error


async def test_a_defect_of_ours_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """INTERNAL, with nothing of our insides, and a request id to look for in the log."""
    async with served("grpc", MODEL) as server:
        monkeypatch.setattr(server.plane, "model", None)
        reply = await server.client.infer("tiny", TENSORS)
        assert (reply.status, bool(reply.request_id)) == ("INTERNAL", True)
        assert "NoneType" not in reply.error


async def test_a_port_in_use_is_refused() -> None:
    """Two servers never share one."""
    async with served("grpc", MODEL) as server:
        plane = DataPlane([make_model(make_router(FakePool(), ManualClock()))], version="9")
        second = GrpcServer(plane, ManualClock(), GrpcConfig(), Common())
        with pytest.raises(ConfigError, match="--grpc-port"):
            await second.start("127.0.0.1", server.grpc.port)
