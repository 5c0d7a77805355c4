"""The client's half of the Open Inference Protocol V2 over HTTP with binary tensors: bytes only, no I/O.

**arrays** ``->`` `encode_infer` ``->`` **request body** ... **response body** ``->`` `decode_infer` ``->`` `InferReply`

The body of the binary-tensor extension is a JSON header followed by the tensors' raw bytes, little-endian and
row-major; the HTTP header ``Inference-Header-Content-Length`` says where the JSON ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.errors import ConfigError, InvalidRequestError
from superserve.model_folder import DTYPES

JSON_LENGTH_HEADER: Final = "inference-header-content-length"
OUTCOME_HEADER: Final = "x-superserve-outcome"
REASON_HEADER: Final = "x-superserve-reason"

DEFAULT_PORT: Final = 8000

_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read ``http://host:port``, ``host:port`` or ``host``.

        Raises:
            ConfigError: for another scheme, a path, or no host.
        """
        parts = urlsplit(url if "//" in url else f"//{url}")
        try:
            port = parts.port or DEFAULT_PORT
        except ValueError as error:
            raise ConfigError(f"url {url!r}: {error}") from None
        if parts.scheme not in {"", "http"} or not parts.hostname or parts.path.strip("/"):
            raise ConfigError(f"url {url!r}: must have the form http://host:port")
        return cls(parts.hostname, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class ReplyParameters(
    msgspec.Struct,
    frozen=True,
    rename={
        "subnet": "superserve_subnet",
        "accuracy": "superserve_accuracy",
        "batch_size": "superserve_batch_size",
        "queue_us": "superserve_queue_us",
        "infer_us": "superserve_infer_us",
        "emulated": "superserve_emulated",
    },
):
    """What a server says of how it answered. Servers other than SuperServe leave it all at the defaults."""

    subnet: str = ""
    """Id of the subnet that answered."""
    accuracy: float = float("nan")
    """Its profiled accuracy, in per cent."""
    batch_size: int = 0
    """Rows of the batch that the request ran in."""
    queue_us: float = 0.0
    infer_us: float = 0.0
    slo_met: bool = True
    emulated: bool = False
    """Whether an emulated worker answered: its outputs mean nothing."""


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


@dataclass(frozen=True, slots=True)
class InferReply:
    """A decoded infer response. ``outputs`` are views into the response's bytes where these were binary."""

    header: ReplyHeader
    outputs: dict[str, _Array]

    @property
    def parameters(self) -> ReplyParameters:
        """How the server answered."""
        return self.header.parameters


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a model's tensor; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What ``GET /v2/models/M`` says."""

    name: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    platform: str = ""
    versions: tuple[str, ...] = ()


class _ErrorBody(msgspec.Struct, frozen=True):
    error: str


_decode_header = msgspec.json.Decoder(ReplyHeader).decode
_decode_metadata = msgspec.json.Decoder(ModelMetadata).decode
_decode_error = msgspec.json.Decoder(_ErrorBody).decode
_NAME_OF_DTYPE: Final = {dtype.newbyteorder("<"): name for name, dtype in DTYPES.items()}


def model_path(model: str, verb: str = "") -> str:
    """The URL path of a model, or of one of its verbs (``"infer"``, ``"ready"``)."""
    return f"/v2/models/{quote(model, safe='')}" + (f"/{verb}" if verb else "")


def datatype_of(array: _Array) -> str:
    """The protocol's name of an array's dtype.

    Raises:
        InvalidRequestError: for a dtype that the protocol does not have.
    """
    name = _NAME_OF_DTYPE.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise InvalidRequestError(f"dtype {array.dtype} has no V2 datatype; use one of {', '.join(DTYPES)}")
    return name


def raw_bytes(array: _Array) -> bytes:
    """An array as the protocol sends it: little-endian, row-major."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def encode_infer(
    inputs: Mapping[str, _Array], parameters: Mapping[str, str | float | bool], request_id: str = ""
) -> tuple[bytes, bytes]:
    """The body of an infer request, as its JSON header and its tensors' bytes.

    Args:
        inputs: by tensor name; the leading dimension is rows.
        parameters: request parameters; ``binary_data_output`` is added.
        request_id: echoed by the server; none if empty.

    Raises:
        InvalidRequestError: for a dtype that the protocol does not have.
    """
    raws = [raw_bytes(array) for array in inputs.values()]
    header: dict[str, Any] = {"id": request_id} if request_id else {}
    header["parameters"] = {**parameters, "binary_data_output": True}
    header["inputs"] = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": datatype_of(array),
            "parameters": {"binary_data_size": len(raw)},
        }
        for (name, array), raw in zip(inputs.items(), raws, strict=True)
    ]
    return msgspec.json.encode(header), b"".join(raws)


def slo_parameters(slo_ms: float | None, min_accuracy: float = 0.0, priority: int = 0) -> dict[str, float]:
    """Request parameters that carry a deadline, an accuracy floor and a priority; what is not asked for is left out.

    Raises:
        InvalidRequestError: for an SLO that is not positive.
    """
    parameters: dict[str, float] = {}
    if slo_ms is not None:
        if not slo_ms > 0:
            raise InvalidRequestError(f"slo_ms = {slo_ms}: must be a number of milliseconds above 0")
        parameters["timeout"] = max(1, round(slo_ms * NS_PER_MS / NS_PER_US))
    if min_accuracy:
        parameters["superserve_min_accuracy"] = min_accuracy
    if priority:
        parameters["priority"] = priority
    return parameters


def request_head(method: str, path: str, address: Address, *, json_length: int = 0, body_length: int = 0) -> bytes:
    """Request line and headers of an HTTP/1.1 request, the empty line included."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address}"]
    if body_length:
        lines += ["Content-Type: application/octet-stream", f"Content-Length: {body_length}"]
    if json_length:
        lines.append(f"Inference-Header-Content-Length: {json_length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def decode_reply_header(body: bytes, json_length: int) -> ReplyHeader:
    """The JSON part of an infer response; ``json_length`` 0 means that all of it is JSON.

    Raises:
        ValueError: if it is not an infer response.
    """
    return _decode_header(memoryview(body)[:json_length] if json_length else body)


def decode_infer(body: bytes, json_length: int) -> InferReply:
    """A whole infer response.

    Raises:
        ValueError: if it is not one, or a tensor's size does not fit its shape.
    """
    header = decode_reply_header(body, json_length)
    outputs: dict[str, _Array] = {}
    offset = json_length
    for tensor in header.outputs:
        outputs[tensor.name] = _tensor(tensor, body, offset)
        offset += tensor.parameters.binary_data_size or 0
    return InferReply(header, outputs)


def _tensor(tensor: TensorHeader, body: bytes, offset: int) -> _Array:
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise ValueError(f"output {tensor.name!r} has unknown datatype {tensor.datatype!r}")
    if tensor.parameters.binary_data_size is None:
        return np.array(tensor.data or [], dtype).reshape(tensor.shape)
    if tensor.parameters.binary_data_size != dtype.itemsize * prod(tensor.shape):
        raise ValueError(
            f"output {tensor.name!r} has {tensor.parameters.binary_data_size} bytes for shape {tensor.shape}"
        )
    return np.frombuffer(body, dtype, prod(tensor.shape), offset).reshape(tensor.shape)


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

    def __init__(self, address: Address, model: str, inputs: Mapping[str, _Array], *, with_timeout: bool) -> None:
        self._with_timeout = with_timeout
        header, raw = encode_infer(inputs, {})
        opening = b'{"parameters":{'
        assert header.startswith(opening), "parameters must come first for the slot to be in a known place"
        rest = header[len(opening) :]
        json_length = len(b'{"parameters":') + len(self._slot(0, 0)) + 1 + len(rest)
        http = request_head(
            "POST", model_path(model, "infer"), address, json_length=json_length, body_length=json_length + len(raw)
        )
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
