"""Calls in the words of gRPC: ``inference.GRPCInferenceService``, with raw contents both ways."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from superserve.client.address import Address
from superserve.client.calls import Ask, Call, Request, Response
from superserve.client.refusals import GRPC_STATUS, error_of
from superserve.client.reply import InferReply, ModelMetadata, ReplyParameters, TensorMetadata
from superserve.client.tensors import Array, datatype_of, from_elements, from_wire, to_wire
from superserve.client.wire import REQUEST_ID_HEADER
from superserve.errors import SuperServeError
from superserve.protocol.contents import FIELDS, RAW_INPUT, raw_parts
from superserve.protocol.messages import (
    INFERENCE,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
    ServerReadyResponse,
    message,
)

T = TypeVar("T")

_Messages = Any  # protobuf makes its classes at run time

_ModelMetadataRequest: Final = message("inference.ModelMetadataRequest")


class GrpcWording:
    """See `Wording`.

    Args:
        address: of the server, for messages.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    def ready(self) -> Call[bool]:
        """See `Wording.ready`."""

        def read(response: Response) -> bool:
            return response.status == 200 and self._read("answer", _ready, response)

        return Call(lambda _: Request(_path("ServerReady")), read)

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]:
        """See `Wording.metadata`."""
        asked = _ModelMetadataRequest(name=model, version=version).SerializeToString()
        request = Request(_path("ModelMetadata"), (asked,))
        return Call(lambda _: request, partial(self._read, "model metadata", _metadata))

    def infer(self, ask: Ask) -> Call[InferReply]:
        """See `Wording.infer`."""
        fixed = _fixed(ask)

        def render(timeout_us: int | None) -> Request:
            parameters = _parameters(ask.parameters(timeout_us))
            return Request(_path("ModelInfer"), (parameters, *fixed), ask.headers, is_bounded=timeout_us is not None)

        return Call(render, partial(self._read, "infer response", _inferred), ask.is_idempotent)

    def _read(self, what: str, decode: Callable[[Response], T], response: Response) -> T:
        if response.status != 200:
            name = response.headers.get(GRPC_STATUS, "")
            raise error_of(response.status, response.headers, response.body.decode("utf-8", "replace"), f"gRPC {name}")
        try:
            return decode(response)
        except (DecodeError, ValueError) as error:
            raise SuperServeError(
                f"{self._address.url} sent no {what} ({error}): is this an Open Inference Protocol V2 server?"
            ) from error


def _path(method: str) -> str:
    return f"/{INFERENCE}/{method}"


def _fixed(ask: Ask) -> list[bytes | bytearray | memoryview]:
    """What all attempts have in common; fields of a message may come in any order and pieces."""
    request = ModelInferRequest(model_name=ask.model, model_version=ask.version, id=ask.request_id)
    for name, array in ask.inputs.items():
        request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
    for name in ask.outputs:
        request.outputs.add(name=name)
    raws = [to_wire(array) for array in ask.inputs.values()]
    return [request.SerializeToString(), *raw_parts(RAW_INPUT, raws)]


def _parameters(values: Mapping[str, float]) -> bytes:
    request = ModelInferRequest()
    for name, value in values.items():
        if isinstance(value, int):
            # Triton's type of it is unsigned; a negative one is the server's to refuse.
            field = "uint64_param" if name == "priority" and value >= 0 else "int64_param"
            setattr(request.parameters[name], field, value)
        else:
            request.parameters[name].double_param = value
    return bytes(request.SerializeToString())


def _ready(response: Response) -> bool:
    return bool(ServerReadyResponse.FromString(response.body).ready)


def _metadata(response: Response) -> ModelMetadata:
    told = ModelMetadataResponse.FromString(response.body)
    inputs, outputs = (
        tuple(TensorMetadata(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in tensors)
        for tensors in (told.inputs, told.outputs)
    )
    return ModelMetadata(told.name, inputs, outputs, told.platform, tuple(told.versions))


def _inferred(response: Response) -> InferReply:
    told = ModelInferResponse.FromString(response.body)
    said = {name: _value(parameter) for name, parameter in told.parameters.items()}
    return InferReply(
        outputs=_outputs(told),
        parameters=msgspec.convert(said, ReplyParameters),
        model_name=told.model_name,
        model_version=told.model_version,
        id=told.id,
        request_id=response.headers.get(REQUEST_ID_HEADER, ""),
    )


def _value(parameter: _Messages) -> object:
    choice = parameter.WhichOneof("parameter_choice")
    return None if choice is None else getattr(parameter, choice)


def _outputs(told: _Messages) -> dict[str, Array]:
    raws = told.raw_output_contents
    if raws and len(raws) != len(told.outputs):
        raise ValueError(f"{len(raws)} raw contents for {len(told.outputs)} outputs")
    outputs: dict[str, Array] = {}
    for number, tensor in enumerate(told.outputs):
        name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
        if raws:
            outputs[name] = from_wire(name, datatype, shape, raws[number])
        else:
            outputs[name] = from_elements(name, datatype, shape, getattr(tensor.contents, FIELDS.get(datatype, ""), ()))
    return outputs
