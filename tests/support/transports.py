"""One way to speak the protocol over HTTP and over gRPC, so that a test of it runs over both."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import grpc
import msgspec
import numpy as np
from google.protobuf import json_format

from superserve.clock import MonotonicClock
from superserve.frontend.common import Common
from superserve.frontend.grpc.server import GrpcServer
from superserve.frontend.http_server import HttpServer
from superserve.frontend.routes import V2Routes
from superserve.model_folder import DTYPES, ModelConfig, TensorSpec
from superserve.protocol import messages
from superserve.protocol.byte_strings import join, split
from superserve.protocol.contents import FIELDS
from superserve.serving.config import GrpcConfig, HttpConfig, ServerConfig
from superserve.serving.dataplane import DataPlane
from superserve.serving.fake_pool import FakePool
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from support.serving import PROFILE, make_model, make_router

#: HTTP's statuses by the names of gRPC's that say the same.
NAMES = {
    200: "OK",
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

#: A model with an input and an output of every datatype, two elements a row.
WIDE = ModelConfig(
    format=1,
    name="wide",
    family="none",
    architecture={},
    task="test",
    dataset="none",
    labels=(),
    inputs=(
        *(TensorSpec(f"in_{kind}", kind, (-1, 2)) for kind in DTYPES),
        TensorSpec("in_BYTES", "BYTES", (-1, 2), max_bytes=8),
    ),
    outputs=(
        *(TensorSpec(f"out_{kind}", kind, (-1, 2)) for kind in DTYPES),
        TensorSpec("out_BYTES", "BYTES", (-1, 2), max_bytes=8),
    ),
    preprocessing={},
)


@dataclass
class Tensor:
    """A tensor to send: ``data`` in wire form; ``raw`` says whether it goes as bytes or as single elements."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes
    raw: bool = True

    def elements(self) -> list[Any]:
        """Its elements, flat."""
        if self.datatype == "BYTES":
            return [bytes(element) for element in split(self.data)]
        return list(np.frombuffer(self.data, DTYPES[self.datatype]).tolist())


@dataclass
class Reply:
    """What a server said: a gRPC status name, the message of an error, and an answer's content."""

    status: str
    error: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, bytes] = field(default_factory=dict)
    """In wire form, by name, in the order of the answer."""
    request_id: str = ""
    outcome: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The answer's parameters."""
        return dict(self.content["parameters"])


class Transport(Protocol):
    """A client of one protocol."""

    async def ask(self, what: str, model: str = "", version: str = "") -> Reply:
        """Call what needs no tensors: live, ready, model_ready, metadata, server, config, stats."""

    async def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 8.0,
    ) -> Reply:
        """Infer."""


class HttpTransport:
    """The protocol over HTTP: one connection per call."""

    PATHS: ClassVar = {
        "live": "/v2/health/live",
        "ready": "/v2/health/ready",
        "server": "/v2",
        "model_ready": "/v2/models/{}/ready",
        "metadata": "/v2/models/{}",
        "config": "/v2/models/{}/config",
        "stats": "/v2/models/{}/stats",
    }

    def __init__(self, port: int) -> None:
        self._port = port

    async def ask(self, what: str, model: str = "", version: str = "") -> Reply:
        named = f"{model}/versions/{version}" if version else model
        path = "/v2/models/stats" if what == "stats" and not model else self.PATHS[what].format(named)
        return await self._call("GET", path, b"", {})

    async def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 8.0,
    ) -> Reply:
        raw = all(tensor.raw for tensor in tensors)
        message: dict[str, Any] = {"inputs": [self._input(tensor) for tensor in tensors]}
        message |= {"id": request_id} if request_id else {}
        message["parameters"] = {**(parameters or {}), "binary_data_output": raw}
        message |= {"outputs": [{"name": name} for name in outputs]} if outputs else {}
        text = json.dumps(message).encode()
        body = text + b"".join(tensor.data for tensor in tensors if tensor.raw)
        path = f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
        length = {"Inference-Header-Content-Length": str(len(text))} if raw else {}
        return await asyncio.wait_for(self._call("POST", path, body, {**length, **(headers or {})}), timeout_s)

    @staticmethod
    def _input(tensor: Tensor) -> dict[str, Any]:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if tensor.raw:
            return told | {"parameters": {"binary_data_size": len(tensor.data)}}
        elements = tensor.elements()
        return told | {"data": [item.decode() if isinstance(item, bytes) else item for item in elements]}

    async def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            lines = [f"{method} {path} HTTP/1.1", f"Content-Length: {len(body)}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            writer.write("\r\n".join((*lines, "", "")).encode() + body)
            return self._reply(await reader.read())
        finally:
            writer.close()

    @staticmethod
    def _reply(received: bytes) -> Reply:
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("inference-header-content-length", len(body)))
        content = json.loads(body[:length])
        reply = Reply(NAMES[int(status.split()[1])], content.get("error", ""), content)
        reply.request_id, reply.outcome = headers["x-request-id"], headers.get("x-superserve-outcome", "")
        at = length
        for output in content.get("outputs", []) if reply.status == "OK" and path_is_infer(content) else []:
            size = output.get("parameters", {}).get("binary_data_size")
            if size is not None:
                reply.outputs[output["name"]] = body[at : at + size]
                at += size
            elif output["datatype"] == "BYTES":
                reply.outputs[output["name"]] = join(text.encode() for text in output["data"])
            else:
                reply.outputs[output["name"]] = np.array(output["data"], DTYPES[output["datatype"]]).tobytes()
        return reply


def path_is_infer(content: dict[str, Any]) -> bool:
    """Whether an answer is one of infer: metadata, too, name outputs."""
    return "model_name" in content


class GrpcTransport:
    """The protocol over gRPC."""

    METHODS: ClassVar = {
        "live": "ServerLive",
        "ready": "ServerReady",
        "server": "ServerMetadata",
        "model_ready": "ModelReady",
        "metadata": "ModelMetadata",
        "config": "ModelConfig",
        "stats": "ModelStatistics",
    }

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def ask(self, what: str, model: str = "", version: str = "") -> Reply:
        method = self.METHODS[what]
        named = {"name": model, "version": version} if "Model" in method else {}
        request = messages.message(f"inference.{method}Request")(**named).SerializeToString()
        reply, data = await self.call(method, request)
        response = messages.message(f"inference.{method}Response").FromString(data)
        reply.content = json_format.MessageToDict(
            response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        if reply.status == "OK" and reply.content.get("ready") is False:
            reply.status = "UNAVAILABLE"  # as HTTP says it
        return reply

    async def infer(
        self,
        model: str,
        tensors: Sequence[Tensor],
        *,
        version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        request = self.request(
            model, tensors, version=version, request_id=request_id, parameters=parameters, outputs=outputs
        )
        reply, data = await self.call("ModelInfer", request, headers, timeout_s)
        response = messages.ModelInferResponse.FromString(data)
        reply.content = json_format.MessageToDict(response, preserving_proto_field_name=True)
        reply.content["parameters"] = {
            name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in response.parameters.items()
        }
        for number, output in enumerate(response.outputs):
            if response.raw_output_contents:
                reply.outputs[output.name] = response.raw_output_contents[number]
            else:
                elements = list(getattr(output.contents, FIELDS[output.datatype]))
                as_bytes = output.datatype == "BYTES"
                dtype = DTYPES.get(output.datatype)
                reply.outputs[output.name] = join(elements) if as_bytes else np.array(elements, dtype).tobytes()
        return reply

    @staticmethod
    def request(
        model: str,
        tensors: Sequence[Tensor],
        *,
        version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Any] | None = None,
        outputs: Sequence[str] = (),
    ) -> bytes:
        """A serialised request."""
        message = messages.ModelInferRequest(model_name=model, model_version=version, id=request_id)
        for name, value in (parameters or {}).items():
            kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
            setattr(message.parameters[name], "uint64_param" if name == "priority" and value >= 0 else kind, value)
        for tensor in tensors:
            told = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if tensor.raw:
                message.raw_input_contents.append(tensor.data)
            else:
                getattr(told.contents, FIELDS[tensor.datatype]).extend(tensor.elements())
        for name in outputs:
            message.outputs.add(name=name)
        return bytes(message.SerializeToString())

    async def call(
        self, method: str, request: bytes, headers: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> tuple[Reply, bytes]:
        """Call a method with the bytes of a message; status and the bytes of the response."""
        call = self._channel.unary_unary(f"/{messages.INFERENCE}/{method}")
        under_way = call(request, metadata=tuple((headers or {}).items()), timeout=timeout_s)
        try:
            data = await under_way
        except grpc.aio.AioRpcError as error:
            reply, data = Reply(error.code().name, error.details() or ""), b""
        else:
            reply = Reply("OK")
        trailing = {key: str(value) for key, value in (await under_way.trailing_metadata()) or ()}
        reply.request_id, reply.outcome = trailing.get("x-request-id", ""), trailing.get("x-superserve-outcome", "")
        return reply, data


TRANSPORTS = ("http", "grpc")


@dataclass
class Served:
    """A server in this process, and a client of it."""

    client: Any
    pool: FakePool
    router: Router
    plane: DataPlane
    common: Common
    http: HttpServer
    grpc: GrpcServer


@asynccontextmanager
async def served(
    transport: str,
    config: ModelConfig,
    *others: ModelConfig,
    pool: FakePool | None = None,
    limits: Mapping[str, int] | None = None,
    server: ServerConfig | None = None,
) -> AsyncIterator[Served]:
    """Models on real sockets behind workers that echo after 2 ms, or behind ``pool``."""
    clock = MonotonicClock(asyncio.get_running_loop())
    workers = pool or FakePool(2, clock=clock, service_ns=lambda _: 2_000_000)
    shared = SharedPool(workers, clock)
    models = []
    for number, model in enumerate((config, *others)):
        router = make_router(shared, clock, profile=PROFILE, max_queued=3, config=model, number=number)
        models.append(make_model(router, config=model, slo_ms=2000.0))
    plane = DataPlane(models, version="9")
    common = Common(server)
    http = HttpServer(V2Routes(plane), clock, msgspec.structs.replace(HttpConfig(), **(limits or {})), common)
    rpc = GrpcServer(plane, clock, GrpcConfig(max_message_bytes=1_000_000), common)
    await http.start("127.0.0.1", 0)
    await rpc.start("127.0.0.1", 0)
    for served_model in models:
        await served_model.router.start()
    try:
        async with asyncio.timeout(60), grpc.aio.insecure_channel(f"127.0.0.1:{rpc.port}") as channel:
            client = GrpcTransport(channel) if transport == "grpc" else HttpTransport(http.port)
            yield Served(client, workers, models[0].router, plane, common, http, rpc)
    finally:
        await rpc.stop(0)
        await http.stop(0.1)
        await shared.stop()
        for served_model in models:
            await served_model.router.stop()
