"""``inference.GRPCInferenceService`` over a `DataPlane`."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import grpc
import msgspec
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from superserve.clock import Clock
from superserve.errors import InvalidRequestError, SuperServeError
from superserve.frontend.common import Common
from superserve.frontend.grpc.answers import REQUEST_ID, Context, answering, metadata_value
from superserve.frontend.grpc.codec import ResponseEncoder, ResponsePlan, decode_infer
from superserve.frontend.grpc.repository import RepositoryCalls
from superserve.frontend.parameters import slo_of_header
from superserve.frontend.per_model import PerModel
from superserve.frontend.repository import ModelRepository
from superserve.frontend.sizes import FREE_BYTES, most_elements
from superserve.protocol import messages
from superserve.protocol.messages import INFERENCE, message
from superserve.serving.dataplane import MAX_TIMEOUT_US, DataPlane, ServedModel
from superserve.serving.inference import Answer
from superserve.serving.metadata import ModelMetadata
from superserve.serving.tracing import GRPC, GRPC_STREAM, Origin

#: Requests of one stream that may wait for their answers; no more are read until the first is answered.
_MAX_STREAMED: Final = 64


class InferenceService:
    """Answers the calls of the service.

    Args:
        plane: what to serve.
        clock: stamps arrivals.
        common: ids of requests, and memory for their messages.
        repository: what can be loaded; None: the calls for it are unknown.
    """

    def __init__(
        self, plane: DataPlane, clock: Clock, common: Common, repository: ModelRepository | None = None
    ) -> None:
        self._memory = common.memory
        self._repository = repository
        self._plane = plane
        self._clock = clock
        self._ids = common.ids
        self._encoders = PerModel(plane, lambda model: ResponseEncoder(model.config, model.subnet_parameters))
        self._most_elements = PerModel(
            plane, lambda model: max(FREE_BYTES, most_elements(model.config, model.max_rows))
        )

    def handlers(self) -> Any:
        """What a gRPC server needs to serve it."""
        told: dict[str, Callable[[Any], Any]] = {
            "ServerLive": lambda _: messages.ServerLiveResponse(live=self._plane.live),
            "ServerReady": lambda _: messages.ServerReadyResponse(ready=self._plane.ready),
            "ModelReady": lambda ask: messages.ModelReadyResponse(
                ready=self._plane.model_ready(ask.name, ask.version or None)
            ),
            "ServerMetadata": lambda _: _filled(messages.ServerMetadataResponse, self._plane.metadata),
            "ModelMetadata": lambda ask: _metadata(self._model(ask.name, ask.version).metadata),
            "ModelConfig": lambda ask: _filled(
                messages.ModelConfigResponse, {"config": self._model(ask.name, ask.version).configuration}
            ),
            "ModelStatistics": lambda ask: _filled(
                messages.ModelStatisticsResponse, self._plane.statistics(ask.name or None, ask.version or None)
            ),
        }
        # Bytes in, bytes out: what is no message gets an answer of ours, and infer responses are bytes already.
        unary = {name: self._unary(_asking(name, answer)) for name, answer in told.items()}
        unary["ModelInfer"] = self._unary(self._infer)
        if self._repository is not None:
            repository = RepositoryCalls(self._repository).calls()
            unary |= {name: self._unary(_asking_later(name, answer)) for name, answer in repository.items()}
        stream = grpc.stream_stream_rpc_method_handler(self._infer_stream)
        return grpc.method_handlers_generic_handler(INFERENCE, {**unary, "ModelStreamInfer": stream})

    def _unary(self, work: Callable[[bytes, Context, str], Awaitable[bytes]]) -> Any:
        return grpc.unary_unary_rpc_method_handler(answering(self._ids, work))

    def _model(self, name: str, version: str | None) -> ServedModel:
        return self._plane.model(name, version or None)

    async def _infer(self, data: bytes, context: Context, request_id: str) -> bytes:
        call = self._submit(data, self._slo_ms(context), request_id, _origin(GRPC, context))
        try:
            return await call.answer
        except asyncio.CancelledError:  # the client has gone, or its deadline has passed
            call.cancel()
            raise

    async def _infer_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answers come in the order of the requests, errors among them: they do not end the stream.

        The requests of the stream ID are known as ID.0, ID.1, and so on.
        """
        origin = _origin(GRPC_STREAM, context)
        stream_id = self._ids.of(metadata_value(context, REQUEST_ID))
        context.set_trailing_metadata(((REQUEST_ID, stream_id),))
        numbers = itertools.count()
        waiting: deque[_Call] = deque()
        room = asyncio.Semaphore(_MAX_STREAMED)
        arrived = asyncio.Event()

        async def read() -> None:
            async for data in requests:
                await room.acquire()
                request_id = f"{stream_id}.{next(numbers)}"
                waiting.append(self._streamed(data, self._slo_ms(context), request_id, origin))
                arrived.set()

        reader = asyncio.ensure_future(read())
        reader.add_done_callback(lambda _: arrived.set())
        try:
            while waiting or not reader.done():
                if not waiting:
                    arrived.clear()
                    await arrived.wait()
                    continue
                yield await _told(waiting[0])
                waiting.popleft()
                room.release()
            reader.result()
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            for call in waiting:
                call.cancel()

    def _streamed(self, data: bytes, slo_ms: float, request_id: str, origin: Origin) -> "_Call":
        try:
            return self._submit(data, slo_ms, request_id, origin)
        except SuperServeError as error:
            refused = _Call(None, "", None)
            refused.refused(error)
            return refused

    def _submit(self, data: bytes, slo_ms: float, request_id: str, origin: Origin) -> "_Call":
        arrival_ns = self._clock.now_ns()
        decoded = decode_infer(data, slo_ms, self._elements_of)
        model = self._plane.model(decoded.model, decoded.version)
        checked = model.check(decoded.request)
        call = _Call(self._encoders.of(model).plan(decoded), decoded.id, model)
        if not self._memory.take(len(data)):
            raise self._memory.refusal()
        call.answer.add_done_callback(lambda _: self._memory.give_back(len(data)))
        call.pending = model.submit(checked, arrival_ns, call, request_id.encode(), origin)
        return call

    def _elements_of(self, name: str) -> int:
        model = self._plane.models.get(name)
        return FREE_BYTES if model is None else self._most_elements.of(model)

    @staticmethod
    def _slo_ms(context: Context) -> float:
        """The deadline that a client gave beside its message: our header, else gRPC's own."""
        header = metadata_value(context, "x-slo-ms")
        if header is not None:
            return slo_of_header(header)
        remaining_s = context.time_remaining()
        if remaining_s is None or remaining_s * 1e6 > MAX_TIMEOUT_US:
            return 0.0
        return float(max(remaining_s * 1000, 1e-3))


def _origin(call: Origin, context: Context) -> Origin:
    return call.within(metadata_value(context, "traceparent"))


class _Call:
    """An inference under way: the future of its serialised response."""

    __slots__ = ("_model", "_plan", "_request_id", "answer", "pending")

    def __init__(self, plan: ResponsePlan | None, request_id: str, model: ServedModel | None) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._plan = plan
        self._request_id = request_id
        self._model = model
        self.pending: Any = None

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""
        assert self._plan is not None
        if not self.answer.done():
            self.answer.set_result(self._plan.encode(self._request_id, answer))

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def cancel(self) -> None:
        """The client does not wait any more."""
        self.answer.cancel()
        if self.pending is not None and self._model is not None:
            self._model.cancel(self.pending)


async def _told(call: _Call) -> bytes:
    try:
        data = await call.answer
    except SuperServeError as error:
        return bytes(messages.ModelStreamInferResponse(error_message=str(error)).SerializeToString())
    response = messages.ModelInferResponse.FromString(data)
    return bytes(messages.ModelStreamInferResponse(infer_response=response).SerializeToString())


def _filled(kind: Any, value: msgspec.Struct | Mapping[str, msgspec.Struct]) -> Any:
    """A message with the content of a value whose fields are named like the message's."""
    return json_format.ParseDict(msgspec.to_builtins(value), kind())


def _metadata(value: ModelMetadata) -> Any:
    """Without our parameters: Triton's message has no field for them, and other servers' use its number differently."""
    return _filled(messages.ModelMetadataResponse, msgspec.structs.replace(value, parameters={}))


def _asking(method: str, answer: Callable[[Any], Any]) -> Callable[[bytes, Context, str], Awaitable[bytes]]:
    """A call that is answered at once from its request message."""

    async def later(asked: Any) -> Any:
        return answer(asked)

    return _asking_later(method, later)


def _asking_later(
    method: str, answer: Callable[[Any], Awaitable[Any]]
) -> Callable[[bytes, Context, str], Awaitable[bytes]]:
    """A call that is answered from its request message."""
    request = message(f"inference.{method}Request")

    async def work(data: bytes, _: Context, _id: str) -> bytes:
        try:
            asked = request.FromString(data)
        except DecodeError as error:
            raise InvalidRequestError(f"not a {method}Request: {error}") from None
        return bytes((await answer(asked)).SerializeToString())

    return work
