from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import InvalidRequestError
from superserve.frontend.grpc.codec import ResponseEncoder, decode_infer
from superserve.frontend.grpc.tensors import from_contents
from superserve.protocol.messages import ModelInferRequest, ModelInferResponse
from superserve.serving.inference import Answer
from support.serving import MODEL

SUBNETS: list[dict[str, str | float | bool]] = [
    {"superserve_subnet": "s0", "superserve_accuracy": 70.0, "superserve_emulated": True}
] * 2


def request(**changes: Any) -> Any:
    """A small valid one."""
    message = ModelInferRequest(model_name="m", id="me", raw_input_contents=[bytes(8)])
    message.inputs.add(name="x", datatype="INT32", shape=[2])
    for name, value in changes.items():
        getattr(message, name).extend(value)
    return message


def decode(message: Any) -> Any:
    return decode_infer(message.SerializeToString(), 0.0)


def test_a_request_is_read() -> None:
    """Names, version, id, deadline and tensor."""
    decoded = decode_infer(request().SerializeToString(), 12.5)
    assert (decoded.model, decoded.version, decoded.id, decoded.typed) == ("m", None, "me", False)
    (tensor,) = decoded.request.inputs
    assert (tensor.name, tensor.datatype, tensor.shape, tensor.data) == ("x", "INT32", [2], bytes(8))
    assert (decoded.request.outputs, decoded.request.slo_ms) == (None, 12.5)


def test_contradictions_are_refused_by_name() -> None:
    """Raw and typed at once, counts that differ, parameters without a value, classification."""
    both = request()
    both.inputs[0].contents.int_contents.extend([1, 2])
    two = request(raw_input_contents=[b""])
    empty = request()
    empty.parameters["timeout"].SetInParent()
    classified = request()
    classified.outputs.add(name="y").parameters["classification"].int64_param = 3
    negative = request()
    negative.inputs[0].shape[:] = [-2]
    endless = request()
    endless.inputs[0].shape[:] = [2**62] * 300
    for message, pattern in (
        (both, "'x'.*both"),
        (two, "2 entries for 1 inputs"),
        (empty, "parameters.timeout has no value"),
        (classified, "classification"),
        (negative, "'x'.*negative"),
        (endless, "'x'.*more than 32 dimensions"),
    ):
        with pytest.raises(InvalidRequestError, match=pattern):
            decode(message)


@pytest.mark.parametrize(
    ("datatype", "fields", "pattern"),
    [
        ("INT8", {"int_contents": [1, 128]}, "-128 to 127"),
        ("UINT8", {"uint_contents": [1, 256]}, "0 to 255"),
        ("INT16", {"int_contents": [-32769, 0]}, "-32768"),
        ("INT32", {"int64_contents": [1, 2]}, "int_contents, not in int64_contents"),
        ("INT32", {"int_contents": [1, 2], "fp32_contents": [1.0]}, "fp32_contents"),
        ("INT32", {"int_contents": [1]}, "1 elements in int_contents, but its shape says 2"),
        ("INT32", {}, "0 elements"),
        ("FP16", {"fp32_contents": [1.0, 2.0]}, "raw_input_contents"),
        ("BF16", {}, "raw_input_contents"),
        ("FLOAT", {}, "'FLOAT' is not one of"),
    ],
)
def test_typed_contents_must_fit(datatype: str, fields: dict[str, Any], pattern: str) -> None:
    """The message names the field."""
    message = ModelInferRequest()
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[2])
    for field, values in fields.items():
        getattr(tensor.contents, field).extend(values)
    with pytest.raises(InvalidRequestError, match=pattern):
        decode(message)


def test_a_shape_that_overflows_needs_no_memory() -> None:
    """Sizes are compared before anything is made."""
    message = ModelInferRequest()
    message.inputs.add(name="x", datatype="INT64", shape=[2**62, 2**62]).contents.int64_contents.append(1)
    with pytest.raises(InvalidRequestError, match="more elements"):
        decode(message)
    with pytest.raises(InvalidRequestError, match="0 elements"):
        from_contents("x", "BYTES", 2**62, message.inputs[0].contents.__class__())


@given(st.binary(max_size=200))
def test_noise_does_no_worse_than_a_refusal(data: bytes) -> None:
    """It is a request, if a strange one, or it is refused."""
    try:
        decode_infer(data, 0.0)
    except InvalidRequestError:
        return
    ModelInferRequest.FromString(data)


VALID = request().SerializeToString()


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_a_flipped_byte_does_no_worse_than_a_refusal(position: int, value: int) -> None:
    """Almost valid requests are decoded or refused."""
    broken = VALID[:position] + bytes([value]) + VALID[position + 1 :]
    with suppress(InvalidRequestError):
        decode_infer(broken, 0.0)


@given(st.text(max_size=20), st.integers(1, 400), st.booleans())
def test_responses_put_together_from_parts_are_whole(request_id: str, rows: int, typed: bool) -> None:
    """Lengths beyond one byte of a varint, ids of any text, and both forms of tensors."""
    pixels = np.arange(4 * rows).astype("u1").tobytes()
    factors = np.arange(rows).astype("<f4").tobytes()
    outputs = [memoryview(pixels), memoryview(factors)]
    answer = Answer(1, 4, rows, 12, 34, slo_met=False, decode_us=5, wait_us=6, outputs=outputs)
    wanted = decode(request())._replace(typed=typed)
    encoder = ResponseEncoder(MODEL, SUBNETS)
    first, second = (encoder.plan(wanted).encode(request_id, answer) for _ in range(2))
    assert first == second
    message = ModelInferResponse.FromString(first)
    assert (message.model_name, message.model_version, message.id) == ("tiny", "1", request_id)
    told = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()}
    assert told == {
        **SUBNETS[0],
        "superserve_batch_size": 4,
        "superserve_decode_us": 5,
        "superserve_queue_us": 12,
        "superserve_wait_us": 6,
        "superserve_infer_us": 34,
        "slo_met": False,
    }
    assert [list(output.shape) for output in message.outputs] == [[rows, 2, 2], [rows]]
    if typed:
        assert list(message.outputs[0].contents.uint_contents) == list(pixels)
        assert list(message.raw_output_contents) == []
    else:
        assert list(message.raw_output_contents) == [pixels, factors]
