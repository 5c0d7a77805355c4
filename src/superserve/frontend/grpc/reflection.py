"""gRPC's server reflection: what is served, for clients such as grpcurl that bring no protocol files."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError

from superserve.errors import InvalidRequestError
from superserve.frontend.grpc.answers import Context, fail
from superserve.protocol.messages import (
    HEALTH,
    INFERENCE,
    POOL,
    REFLECTION,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

#: The same messages under the name that older clients ask for.
_ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"

_SERVICES: Final = (INFERENCE, HEALTH, REFLECTION)


def reflection_handlers() -> Iterator[Any]:
    """What a gRPC server needs to serve it."""
    for service in (REFLECTION, _ALPHA):
        handler = grpc.stream_stream_rpc_method_handler(_reflect)
        yield grpc.method_handlers_generic_handler(service, {"ServerReflectionInfo": handler})


async def _reflect(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for data in requests:
        try:
            request = ServerReflectionRequest.FromString(data)
        except DecodeError as error:
            await fail(context, InvalidRequestError(f"not a ServerReflectionRequest: {error}"))
        yield bytes(reflect(request).SerializeToString())


def reflect(request: Any) -> Any:
    """The response to one question of a reflection stream."""
    response = ServerReflectionResponse(valid_host=request.host, original_request=request)
    asked = request.WhichOneof("message_request")
    try:
        _answer(request, asked, response)
    except KeyError as error:
        response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
        response.error_response.error_message = f"not here: {error}"
    return response


def _answer(request: Any, asked: str | None, response: Any) -> None:
    if asked == "list_services":
        for name in _SERVICES:
            response.list_services_response.service.add(name=name)
    elif asked == "file_by_filename":
        _describe(response, POOL.FindFileByName(request.file_by_filename))
    elif asked == "file_containing_symbol":
        _describe(response, POOL.FindFileContainingSymbol(request.file_containing_symbol))
    elif asked == "all_extension_numbers_of_type":  # proto3 has none
        POOL.FindMessageTypeByName(request.all_extension_numbers_of_type)
        response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
    else:
        raise KeyError(asked)


def _describe(response: Any, file: Any) -> None:
    described = FileDescriptorProto()
    file.CopyToProto(described)
    response.file_descriptor_response.file_descriptor_proto.append(described.SerializeToString())
