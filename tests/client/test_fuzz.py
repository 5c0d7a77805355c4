"""Answers of a server that is broken or hostile: an answer or an error of our tree comes of them."""

import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from superserve.client.address import Address
from superserve.client.calls import Ask, Response, Wording
from superserve.client.grpc_wording import GrpcWording
from superserve.client.http import MAX_BODY_BYTES, ResponseReader
from superserve.client.http import Response as HttpResponse
from superserve.client.http_wording import HttpWording
from superserve.client.reply import InferReply, ModelMetadata
from superserve.errors import SuperServeError
from superserve.protocol.messages import ModelInferResponse
from support.fuzzing import spoilt_bytes, spoilt_values

ASK = Ask(model="m", inputs={"x": np.zeros((1, 4), np.uint8)})
ADDRESS = Address("h", 1)
HEADERS = {"retry-after": "1", "x-superserve-outcome": "rejected", "x-request-id": "r"}

TENSORS: dict[str, Any] = {
    "model_name": "m",
    "model_version": "1",
    "parameters": {"superserve_subnet": "s", "superserve_accuracy": 1.5, "slo_met": True},
    "outputs": [
        {"name": "a", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
        {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", "y"]},
    ],
}


def decode_all(wording: Wording, response: Response) -> None:
    with suppress(SuperServeError):
        assert isinstance(wording.infer(ASK).decode(response), InferReply)
    with suppress(SuperServeError):
        assert isinstance(wording.metadata("m", "").decode(response), ModelMetadata)
    with suppress(SuperServeError):
        assert isinstance(wording.ready().decode(response), bool)


@given(st.data(), st.sampled_from([200, 200, 200, 400, 429, 503, 504, 500, 302]))
def test_http_answers(data: st.DataObject, status: int) -> None:
    """Spoilt JSON, spoilt tensors, a length that lies, noise."""
    text = json.dumps(data.draw(spoilt_values(TENSORS))).encode()
    body = data.draw(st.one_of(st.just(text + bytes(8)), spoilt_bytes(text + bytes(8)), st.binary(max_size=30)))
    length = data.draw(st.sampled_from([str(len(text)), "0", "-3", "x", "99999", str(2**70)]))
    decode_all(HttpWording(ADDRESS), Response(status, {"inference-header-content-length": length, **HEADERS}, body))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Almost right messages."""
    message = ModelInferResponse(model_name="m")
    for kind in draw(st.lists(st.sampled_from(["FP32", "BYTES", "INT8", "BF16", "FP16", "NOPE"]), max_size=3)):
        output = message.outputs.add(name=kind, datatype=kind, shape=draw(st.lists(st.integers(-2, 3), max_size=3)))
        if draw(st.booleans()):
            output.contents.int_contents.extend(draw(st.lists(st.integers(-300, 300), max_size=3)))
        if draw(st.booleans()):
            message.raw_output_contents.append(draw(st.binary(max_size=12)))
    message.parameters["superserve_subnet"].bool_param = draw(st.booleans())
    if draw(st.booleans()):
        message.parameters["superserve_subnet"].string_param = "s"
    data: bytes = message.SerializeToString()
    return data


@given(responses() | responses().flatmap(spoilt_bytes), st.sampled_from([200, 200, 200, 503]))
def test_grpc_answers(body: bytes, status: int) -> None:
    """Tensors that do not fit, parameters of another type, noise."""
    decode_all(GrpcWording(ADDRESS), Response(status, HEADERS, body))


class Reader(ResponseReader):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[HttpResponse] = []

    def completed(self, response: HttpResponse, *, keeps_alive: bool) -> None:  # noqa: ARG002
        self.found.append(response)


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx-a: b\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@given(
    st.lists(st.sampled_from([GOOD, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n"]).flatmap(spoilt_bytes), max_size=3),
    st.integers(1, 50),
)
def test_http_bytes(answers: list[bytes], size: int) -> None:
    """Responses, or a reason why there are none; what is kept is what was sent."""
    stream, reader = b"".join(answers), Reader()
    for at in range(0, len(stream), size):
        if not reader.failure:
            reader.feed(stream[at : at + size])
    assert sum(len(response.body) for response in reader.found) <= len(stream)
    assert all(response.status >= 200 for response in reader.found)


def test_an_answer_above_the_limit_is_not_kept() -> None:
    """However it is announced."""
    reader = Reader()
    piece = bytes(1 << 20)
    for data in (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (1 << 40), *[piece] * 300):
        if not reader.failure:
            reader.feed(data)
    assert "above" in reader.failure
    assert sum(map(len, reader._partial.chunks)) <= MAX_BODY_BYTES
    assert not reader.found
