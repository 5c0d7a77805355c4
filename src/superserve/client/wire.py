"""The client's half of the Open Inference Protocol V2 over HTTP with binary tensors: bytes only, no I/O.

**arrays** ``->`` `InferBody` ``->`` **request body** ... **response body** ``->`` `decode_infer` ``->`` `InferReply`

The body of the binary-tensor extension is a JSON header followed by the tensors' raw bytes, little-endian and
row-major; the HTTP header ``Inference-Header-Content-Length`` says where the JSON ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import msgspec

from superserve.client.address import Address
from superserve.client.reply import InferReply, ModelMetadata, ReplyParameters
from superserve.client.tensors import Array, Buffer, datatype_of, from_elements, from_wire, to_wire

JSON_LENGTH_NAME: Final = "Inference-Header-Content-Length"
JSON_LENGTH_HEADER: Final = JSON_LENGTH_NAME.lower()
OUTCOME_HEADER: Final = "x-superserve-outcome"
REQUEST_ID_HEADER: Final = "x-request-id"


class TensorParameters(msgspec.Struct, frozen=True):
    """Of an output tensor: how many raw bytes it has behind the JSON; None if its data stands in the JSON."""

    binary_data_size: int | None = None


class TensorHeader(msgspec.Struct, frozen=True):
    """One output tensor of a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: TensorParameters = TensorParameters()
    data: list[Any] | None = None


class ReplyHeader(msgspec.Struct, frozen=True):
    """The JSON part of an infer response."""

    model_name: str
    outputs: tuple[TensorHeader, ...]
    parameters: ReplyParameters = ReplyParameters()
    model_version: str = ""
    id: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    error: str


_decode_header = msgspec.json.Decoder(ReplyHeader).decode
_decode_metadata = msgspec.json.Decoder(ModelMetadata).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def model_path(model: str, verb: str = "", version: str = "") -> str:
    """The URL path of a model, or of one of its verbs (``"infer"``, ``"ready"``)."""
    path = f"/v2/models/{quote(model, safe='')}"
    if version:
        path += f"/versions/{quote(version, safe='')}"
    return f"{path}/{verb}" if verb else path


class InferBody:
    """The tensors of an infer request, encoded once; what differs between attempts is encoded with `header`.

    Args:
        inputs: by tensor name; the leading dimension is rows.
        outputs: the names of those that are wanted; all if empty.
        request_id: echoed by the server; none if empty.

    Attributes:
        raws: the tensors' bytes, views of the arrays where these lie as the protocol wants them.

    Raises:
        InvalidRequestError: for a dtype that the protocol does not have.
    """

    def __init__(self, inputs: Mapping[str, Array], outputs: Sequence[str] = (), request_id: str = "") -> None:
        self.raws: list[Buffer] = [to_wire(array) for array in inputs.values()]
        self._told: dict[str, Any] = {"id": request_id} if request_id else {}
        self._told["inputs"] = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": datatype_of(array),
                "parameters": {"binary_data_size": len(raw)},
            }
            for (name, array), raw in zip(inputs.items(), self.raws, strict=True)
        ]
        if outputs:
            self._told["outputs"] = [{"name": name} for name in outputs]

    def header(self, parameters: Mapping[str, str | float | bool]) -> bytes:
        """The JSON with these request parameters first, and with ``binary_data_output``."""
        return msgspec.json.encode({"parameters": {**parameters, "binary_data_output": True}, **self._told})


def request_head(address: Address, path: str, body_length: int = 0, headers: Mapping[str, str] | None = None) -> bytes:
    """Request line and headers of an HTTP/1.1 request, the empty line included: a POST if it has a body."""
    lines = [f"{'POST' if body_length else 'GET'} {path} HTTP/1.1", f"Host: {address}"]
    if body_length:
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {body_length}"]
    if address.token:
        lines.append(f"Authorization: Bearer {address.token}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def decode_reply_header(body: bytes, json_length: int) -> ReplyHeader:
    """The JSON part of an infer response; ``json_length`` 0 means that all of it is JSON.

    Raises:
        ValueError: if it is not an infer response.
    """
    return _decode_header(memoryview(body)[:json_length] if json_length else body)


def decode_infer(body: bytes, json_length: int, request_id: str = "") -> InferReply:
    """A whole infer response.

    Raises:
        ValueError: if it is not one, or a tensor's size does not fit its shape.
    """
    header = decode_reply_header(body, json_length)
    outputs: dict[str, Array] = {}
    offset = json_length
    for tensor in header.outputs:
        outputs[tensor.name] = _tensor(tensor, body, offset)
        offset += tensor.parameters.binary_data_size or 0
    return InferReply(
        outputs=outputs,
        parameters=header.parameters,
        model_name=header.model_name,
        model_version=header.model_version,
        id=header.id,
        request_id=request_id,
    )


def _tensor(tensor: TensorHeader, body: bytes, offset: int) -> Array:
    size = tensor.parameters.binary_data_size
    if size is None:
        return from_elements(tensor.name, tensor.datatype, tensor.shape, tensor.data or [])
    return from_wire(tensor.name, tensor.datatype, tensor.shape, memoryview(body)[offset : offset + size])


def decode_metadata(body: bytes) -> ModelMetadata:
    """A model metadata response.

    Raises:
        ValueError: if it is not one.
    """
    return _decode_metadata(body)


def decode_error(body: bytes) -> str:
    """The message of an error response, or its bytes as text if it does not follow the protocol."""
    try:
        return _decode_error(body).error
    except msgspec.MsgspecError:
        return body[:200].decode("utf-8", "replace")


def parse_length(value: bytes | str | None) -> int:
    """The value of an ``Inference-Header-Content-Length`` header; 0 if there is none.

    Raises:
        ValueError: if it is no number.
    """
    return int(value) if value else 0


class InferTemplate:
    """The bytes of an infer request, encoded once, with room for what differs from one sending to the next.

    Timeout and priority stand in fields of fixed width, padded with the blanks that JSON allows, so that nothing else
    changes with them.

    Args:
        address, model: where it goes.
        inputs: by tensor name.
        with_timeout: whether `render` writes a timeout; if not, the server's default SLO holds.
    """

    __slots__ = ("_head", "_tail", "_with_timeout")

    _SLOT: Final = b'{"timeout":%10d,"priority":%10d'
    _SLOT_WITHOUT: Final = b'{"priority":%10d'

    def __init__(self, address: Address, model: str, inputs: Mapping[str, Array], *, with_timeout: bool) -> None:
        self._with_timeout = with_timeout
        body = InferBody(inputs)
        header, raw = body.header({}), b"".join(body.raws)
        opening = b'{"parameters":{'
        assert header.startswith(opening), "parameters must come first for the slot to be in a known place"
        rest = header[len(opening) :]
        json_length = len(b'{"parameters":') + len(self._slot(0, 0)) + 1 + len(rest)
        length = {JSON_LENGTH_NAME: str(json_length)}
        http = request_head(address, model_path(model, "infer"), json_length + len(raw), length)
        self._head = http + b'{"parameters":'
        self._tail = b"," + rest + raw

    def render(self, timeout_us: int, priority: int = 0) -> bytes:
        """The request, with this timeout (at least 1 microsecond) if the template has one."""
        return self._head + self._slot(timeout_us, priority) + self._tail

    def _slot(self, timeout_us: int, priority: int) -> bytes:
        if self._with_timeout:
            return self._SLOT % (max(1, timeout_us), priority)
        return self._SLOT_WITHOUT % priority


def argmax_of_first(body: bytes, json_length: int, outputs: Sequence[TensorHeader]) -> int | None:
    """Index of the largest value of the first output (one row); None if it is not binary.

    This is the label of a classifier that answers with logits.
    """
    if not outputs or outputs[0].parameters.binary_data_size is None:
        return None
    return int(_tensor(outputs[0], body, json_length).argmax())
