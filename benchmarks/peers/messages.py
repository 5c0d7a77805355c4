"""The bytes of a request to each server, in the fastest form that the server documents."""

import base64
import json
import struct
from collections.abc import Sequence

from peers.jobs import OUTPUT_NAME, Job

#: Literal header fields that are added to no table (RFC 7541, section 6.2.2), so that every request has the same bytes.
_METHOD_POST = b"\x83"
_SCHEME_HTTP = b"\x86"
_PATH = b"\x04"
_AUTHORITY = b"\x01"
_CONTENT_TYPE = b"\x0f\x10"
_NEW_NAME = b"\x00"

V2_SERVICE = "/inference.GRPCInferenceService/ModelInfer"
RAW_SERVICE = "/peers.Raw/Infer"


def _http(path: str, body: bytes, content_type: str, headers: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def raw(job: Job, path: str = "/infer") -> bytes:
    """The tensor alone."""
    return _http(path, job.row().tobytes(), "application/octet-stream")


def base64_json(job: Job, field: str, path: str, *, as_list: bool = False) -> bytes:
    """The tensor as base64 in JSON, for servers that take JSON only."""
    text = base64.b64encode(job.row().tobytes()).decode()
    return _http(path, json.dumps({field: [text] if as_list else text}).encode(), "application/json")


def v2_binary(job: Job, slo_ms: float | None = None) -> bytes:
    """V2 with the binary tensor extension, as tritonclient words it; texts are texts."""
    return _v2_binary(job, job.datatype, job.wire_shape(), job.wire(), slo_ms)


def v2_binary_cells(job: Job) -> bytes:
    """The same, but texts are the cells that servers but ours take."""
    return _v2_binary(job, "UINT8", (1, *job.row_shape), job.row().tobytes())


def _v2_binary(job: Job, datatype: str, shape: Sequence[int], data: bytes, slo_ms: float | None = None) -> bytes:
    tensor = {
        "name": job.input_name,
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}, separators=(",", ":")).encode()
    headers = f"Inference-Header-Content-Length: {len(head)}\r\n"
    headers += "" if slo_ms is None else f"x-slo-ms: {slo_ms:g}\r\n"
    return _http(f"/v2/models/{job.model}/infer", head + data, "application/octet-stream", headers)


def v2_json(job: Job) -> bytes:
    """V2 with the tensor as a flat JSON list."""
    data = job.row().ravel().tolist()
    tensor = {"name": job.input_name, "shape": [1, *job.row_shape], "datatype": "UINT8", "data": data}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": OUTPUT_NAME}]}, separators=(",", ":")).encode()
    return _http(f"/v2/models/{job.model}/infer", body, "application/json")


def grpc_v2(job: Job, timeout_us: int | None = None) -> bytes:
    """V2 over gRPC with raw contents (``ModelInferRequest`` of the protocol's ``grpc_predict_v2.proto``)."""
    shape = b"".join(_varint(size) for size in (1, *job.row_shape))
    tensor = _field(1, job.input_name.encode()) + _field(2, b"UINT8") + _field(3, shape)
    message = _field(1, job.model.encode()) + _field(5, tensor) + _field(7, job.row().tobytes())
    if timeout_us is not None:  # parameters: map<string, InferParameter>, int64_param = 2
        entry = _field(1, b"timeout") + _field(2, b"\x10" + _varint(timeout_us))
        message += _field(4, entry)
    return _grpc(V2_SERVICE, message)


def grpc_raw(job: Job) -> bytes:
    """The tensor alone as the message of a gRPC call."""
    return _grpc(RAW_SERVICE, job.row().tobytes())


def _grpc(path: str, message: bytes) -> bytes:
    """What `loadgen.c` wants: the length of the header block, the block, and the message with its prefix."""
    block = _METHOD_POST + _SCHEME_HTTP + _PATH + _text(path) + _AUTHORITY + _text("127.0.0.1")
    block += _CONTENT_TYPE + _text("application/grpc") + _NEW_NAME + _text("te") + _text("trailers")
    return struct.pack("<I", len(block)) + block + b"\0" + struct.pack(">I", len(message)) + message


def _text(value: str) -> bytes:
    data = value.encode()
    assert len(data) < 127, "longer strings need more than one byte of length"
    return bytes([len(data)]) + data


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
