import json
from contextlib import suppress

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import InvalidRequestError, PayloadTooLargeError
from superserve.frontend.grpc.codec import decode_infer as decode_message
from superserve.frontend.sizes import FREE_BYTES, check_infer_message, json_limit, most_elements
from superserve.frontend.v2 import decode_infer
from superserve.model_folder import TensorSpec
from superserve.protocol.contents import RAW_INPUT, fields, raw_parts
from superserve.protocol.messages import ModelInferRequest
from support.serving import MODEL

PICTURES = msgspec.structs.replace(
    MODEL,
    inputs=(TensorSpec("x", "FP64", (-1, 40, 3, 7)), TensorSpec("text", "BYTES", (-1, 2), max_bytes=500)),
)


def largest(rows: int, indent: int | None) -> bytes:
    """Numbers of the most digits, strings of the longest spelling."""
    numbers = np.full((rows, 40, 3, 7), -1.2345678901234567e-300)
    texts = [["\x01" * 500] * 2] * rows
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": numbers.shape, "data": numbers.tolist()},
        {"name": "text", "datatype": "BYTES", "shape": [rows, 2], "data": texts},
    ]
    return json.dumps({"inputs": inputs}, indent=indent).encode()


@pytest.mark.parametrize("indent", [None, 2, 4])
def test_the_largest_request_fits_however_it_is_written(indent: int | None) -> None:
    """Also with every number on a line of its own; three times as many rows do not."""
    limit = json_limit(PICTURES, 16)
    assert len(decode_infer(largest(16, indent), json_limit=limit).request.inputs) == 2
    with pytest.raises(PayloadTooLargeError, match="send fewer rows"):
        decode_infer(largest(48, indent), json_limit=limit)


def test_binary_tensors_are_not_counted() -> None:
    """They cost their bytes once."""
    tensor = {"name": "x", "datatype": "UINT8", "shape": [1 << 20], "parameters": {"binary_data_size": 1 << 20}}
    text = json.dumps({"inputs": [tensor]}).encode()
    assert len(decode_infer(text + bytes(1 << 20), str(len(text)).encode()).request.inputs[0].data) == 1 << 20


@st.composite
def messages(draw: st.DrawFn) -> ModelInferRequest:
    message = ModelInferRequest(model_name=draw(st.text(max_size=5)), id=draw(st.text(max_size=200)))
    for name in draw(st.lists(st.text(max_size=5), max_size=3)):
        tensor = message.inputs.add(
            name=name, datatype="FP32", shape=draw(st.lists(st.integers(-9, 2**62), max_size=3))
        )
        tensor.contents.fp32_contents.extend([1.0] * draw(st.sampled_from([0, 3, 20_000])))
        tensor.parameters["p"].int64_param = draw(st.integers(-5, 2**62))
    message.raw_input_contents.extend(
        bytes(size) for size in draw(st.lists(st.sampled_from([0, 5, 300_000]), max_size=3))
    )
    return message


@given(messages())
def test_fields_are_those_of_the_parser(message: ModelInferRequest) -> None:
    """Every byte belongs to one, in order; a message that is large through its tensors alone passes."""
    data = message.SerializeToString()
    found = list(fields(memoryview(data)))
    assert sum(head + len(payload) for _, head, payload in found) == len(data)
    raw = [bytes(payload) for number, _, payload in found if number == RAW_INPUT]
    assert raw == list(message.raw_input_contents)
    check_infer_message(data)


@given(st.binary(max_size=30).map(lambda noise: noise * 5000) | st.binary(max_size=100))
def test_noise_is_refused_or_left_to_the_parser(data: bytes) -> None:
    """It always ends."""
    with suppress(PayloadTooLargeError):
        check_infer_message(data)
    assert sum(head + len(payload) for _, head, payload in fields(memoryview(data))) <= len(data)


@pytest.mark.parametrize(
    "wide",
    [b"\x32\x00", b"\x2a\x00", b"\x3a\x00", b"\x22\x02\x0a\x00", b"\x0a\x01x", b"\x33\x34", b"\x2a\x02\x1a\x00"],
    ids=["outputs", "inputs", "raw contents", "parameters", "names", "groups", "shapes"],
)
def test_a_message_that_is_large_without_its_tensors_is_refused_unparsed(wide: bytes) -> None:
    """Two bytes may stand for an object of a hundred: a few megabytes would fill the memory and take seconds."""
    assert len(wide * 100) < FREE_BYTES
    check_infer_message(wide * 100)
    for data in (wide * FREE_BYTES, b"".join(raw_parts(RAW_INPUT, [bytes(1 << 20)])) + wide * FREE_BYTES):
        with pytest.raises(PayloadTooLargeError, match="names, shapes and parameters"):
            decode_message(data, 0.0)


def test_typed_contents_beyond_the_model_are_refused_unread() -> None:
    """By their shape, before one element of them is looked at; each model has its own limit."""
    limits = {"large": 1000, "small": 999}
    message = ModelInferRequest(model_name="large")
    message.inputs.add(name="x", datatype="BYTES", shape=[1000]).contents.bytes_contents.extend([b""] * 1000)
    assert most_elements(PICTURES, 16) == 16 * 40 * 3 * 7
    assert len(decode_message(message.SerializeToString(), 0.0, limits.__getitem__).request.inputs) == 1
    message.model_name = "small"
    with pytest.raises(InvalidRequestError, match=r"more elements than the model takes \(999\)"):
        decode_message(message.SerializeToString(), 0.0, limits.__getitem__)
