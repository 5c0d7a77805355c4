"""Open Inference Protocol V2 over HTTP: bodies to requests (answers: ``v2_response.py``). No I/O.

The protocol: https://github.com/kserve/open-inference-protocol; tensors beside the JSON follow Triton's binary
tensor data extension (``docs/protocol/extension_binary_data.md`` of triton-inference-server/server): the JSON comes
first, its length in the header ``Inference-Header-Content-Length``, then the tensors in the order of the JSON.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Final

import msgspec

from superserve.errors import InvalidRequestError, PayloadTooLargeError
from superserve.frontend.parameters import Parameter, boolean, infer_request, refuse_classification, slo_of_header
from superserve.frontend.sizes import FREE_BYTES
from superserve.frontend.v2_tensors import MAX_DIMENSIONS, dtype_of, from_json
from superserve.serving.inference import InferRequest, InputTensor
from superserve.serving.pool import Buffer

_NO_PARAMETERS: Final[dict[str, Parameter]] = {}

_INT64_MAX: Final = 2**63 - 1


class _Input(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=_INT64_MAX)]], msgspec.Meta(max_length=MAX_DIMENSIONS)]
    parameters: dict[str, Parameter] = msgspec.field(default_factory=dict)
    data: msgspec.Raw = msgspec.Raw()


class _Output(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Parameter] = msgspec.field(default_factory=dict)


class _Body(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Parameter] | None = None
    outputs: list[_Output] | None = None


_DECODER: Final = msgspec.json.Decoder(_Body)


class Decoded(msgspec.Struct):
    """An inference request, and what of its wire form the response depends on.

    ``binary`` says per requested output, or for all outputs if none were named, whether it goes beside the JSON.
    """

    request: InferRequest
    id: str
    binary: tuple[bool, ...]


def decode_infer(
    body: bytes, header_length: bytes | None = None, slo_ms: bytes | None = None, *, json_limit: int = FREE_BYTES
) -> Decoded:
    """Read the body of an infer call.

    Binary tensors of the result are views of ``body``. Tensors given as JSON are converted.

    Args:
        body: what the client sent.
        header_length: the value of ``Inference-Header-Content-Length``, if sent.
        slo_ms: the value of ``x-slo-ms``, if sent.
        json_limit: how many bytes of JSON the model can have a use for.

    Raises:
        InvalidRequestError: if it is not an infer request; the message names the field.
        PayloadTooLargeError: if its JSON is longer than that.
    """
    length = len(body) if header_length is None else json_length(header_length, len(body))
    if length > json_limit:
        raise PayloadTooLargeError(
            f"request JSON: {length} bytes; {json_limit} hold the largest request of this model: "
            "send fewer rows at once, or tensors as binary data"
        )
    message = _parse(body if length == len(body) else memoryview(body)[:length])
    parameters = message.parameters or _NO_PARAMETERS
    outputs = message.outputs or None
    request = infer_request(
        _tensors(message.inputs, memoryview(body)[length:], has_binary_part=header_length is not None),
        None if outputs is None else [output.name for output in outputs],
        parameters,
        0.0 if slo_ms is None else slo_of_header(slo_ms),
    )
    return Decoded(request, message.id, _binary(outputs, boolean(parameters, "binary_data_output", default=False)))


def json_length(header: bytes, body_length: int) -> int:
    """How many bytes at the start of a body are its JSON.

    Args:
        header: the value of ``Inference-Header-Content-Length``.
        body_length: bytes of the body.

    Raises:
        InvalidRequestError: if the header is no number, or says more.
    """
    if not header.isdigit() or len(header) > 18 or int(header) > body_length:
        text = header[:32].decode("latin-1")
        raise InvalidRequestError(
            f"Inference-Header-Content-Length must be the number of JSON bytes at the start of the body "
            f"(0 to {body_length}), not {text!r}"
        )
    return int(header)


def _parse(data: Buffer) -> _Body:
    try:
        return _DECODER.decode(data)
    except RecursionError:
        raise InvalidRequestError("request JSON: nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"request JSON: {error}") from None


def _binary(outputs: Sequence[_Output] | None, default: bool) -> tuple[bool, ...]:  # noqa: FBT001  (one caller)
    if outputs is None:
        return (default,)
    for output in outputs:
        refuse_classification(output.name, output.parameters)
    return tuple(boolean(output.parameters, "binary_data", default=default) for output in outputs)


def _tensors(inputs: Sequence[_Input], rest: memoryview, *, has_binary_part: bool) -> list[InputTensor]:
    tensors: list[InputTensor] = []
    offset = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            data = from_json(tensor.name, tensor.datatype, tensor.shape, tensor.data)
        else:
            if not has_binary_part:
                raise InvalidRequestError(
                    f"input {tensor.name!r}: parameters.binary_data_size needs the header "
                    "Inference-Header-Content-Length, the number of JSON bytes"
                )
            data = _from_binary(tensor, size, rest[offset:])
            offset += len(data)
        tensors.append(InputTensor(tensor.name, tensor.datatype, tensor.shape, data))
    if offset != len(rest):
        raise InvalidRequestError(
            f"the body has {len(rest)} bytes behind its JSON, but parameters.binary_data_size of the inputs add up "
            f"to {offset}"
        )
    return tensors


def _from_binary(tensor: _Input, size: Parameter, rest: memoryview) -> memoryview:
    where = f"input {tensor.name!r}: parameters.binary_data_size"
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"{where} must be a number of bytes, not {size!r}")
    if memoryview(tensor.data).nbytes:
        raise InvalidRequestError(f"{where} and data must not both be given")
    expected = _size(tensor)
    if expected not in {None, size}:
        raise InvalidRequestError(
            f"{where} is {size}, but shape {tensor.shape} of {tensor.datatype} has {expected} bytes"
        )
    if size > len(rest):
        raise InvalidRequestError(f"{where} is {size}, but only {len(rest)} bytes are left in the body")
    return rest[:size]


def _size(tensor: _Input) -> int | None:
    """Bytes of its data; None if that depends on the elements."""
    dtype = dtype_of(tensor.name, tensor.datatype)
    return None if dtype is None else prod(tensor.shape) * dtype.itemsize
