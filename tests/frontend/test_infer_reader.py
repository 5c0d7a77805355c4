"""A request whose JSON has been seen before is understood as it would be for the first time."""

import json
import struct
from typing import Any

import msgspec
import pytest

from superserve.clock import ManualClock
from superserve.errors import SuperServeError
from superserve.frontend.infer_reader import InferReader, Understood
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.serving.fake_pool import FakePool
from support.serving import MODEL, make_model, make_router

IMAGE: dict[str, Any] = {"name": "image", "shape": [1, 2, 2], "datatype": "UINT8"}
SCALE: dict[str, Any] = {"name": "scale", "shape": [1], "datatype": "FP32"}
BINARY: dict[str, Any] = {
    "inputs": [
        SCALE | {"parameters": {"binary_data_size": 4}},
        IMAGE | {"parameters": {"binary_data_size": 4}},
    ],
    "parameters": {"binary_data_output": True, "timeout": 9_000, "priority": 2, "superserve_min_accuracy": 70.5},
}
TENSORS = struct.pack("<f", 0.5) + b"\x01\x02\x03\x04"
OTHERS = struct.pack("<f", 7.5) + b"\x05\x06\x07\x08"

RANGED = msgspec.structs.replace(
    MODEL, inputs=(TensorSpec("image", "UINT8", (-1, 2, 2), range=(0, 7)), MODEL.inputs[1])
)
STRINGS = msgspec.structs.replace(MODEL, inputs=(TensorSpec("text", "BYTES", (-1,), max_bytes=8),))


def reader(config: ModelConfig = MODEL) -> InferReader:
    return InferReader(make_model(make_router(FakePool(), ManualClock(), config=config), config=config))


def read(given: InferReader, message: dict[str, Any], tensors: bytes, slo_ms: bytes | None = None) -> Understood:
    text = json.dumps(message).encode()
    headers = {b"inference-header-content-length": str(len(text)).encode()}
    return given.read(text + tensors, headers if slo_ms is None else headers | {b"x-slo-ms": slo_ms})


def outcome(given: InferReader, message: dict[str, Any], tensors: bytes, slo_ms: bytes | None = None) -> object:
    """All of what comes of a request, to be compared between readers."""
    try:
        checked, plan, request_id = read(given, message, tensors, slo_ms)
    except SuperServeError as error:
        return type(error), str(error)
    return checked._replace(inputs=[bytes(data) for data in checked.inputs]), vars(plan)["_wanted"], request_id


CHANGES: dict[str, tuple[dict[str, Any], bytes, bytes | None]] = {
    "other elements": (BINARY, OTHERS, None),
    "another deadline": (BINARY | {"parameters": {}}, TENSORS, b"3.5"),
    "a bad deadline": (BINARY, TENSORS, b"soon"),
    "an id": (BINARY | {"id": "mine"}, TENSORS, None),
    "one output": (BINARY | {"outputs": [{"name": "factor"}]}, TENSORS, None),
    "tensors cut short": (BINARY, TENSORS[:-1], None),
    "no tensors": (BINARY, b"", None),
    "something behind the tensors": (BINARY, TENSORS + b"!", None),
    "a tensor in the JSON": ({"inputs": [SCALE | {"data": [1.0]}, BINARY["inputs"][1]]}, TENSORS[4:], None),
    "all tensors in the JSON": ({"inputs": [SCALE | {"data": [1.0]}, IMAGE | {"data": [1, 2, 3, 4]}]}, b"", None),
    "an output that is none": (BINARY | {"outputs": [{"name": "logits"}]}, TENSORS, None),
    "long JSON": (BINARY | {"id": "x" * 2000}, TENSORS, None),
}


@pytest.mark.parametrize(("message", "tensors", "slo_ms"), CHANGES.values(), ids=CHANGES.keys())
def test_what_was_read_before_changes_nothing(message: dict[str, Any], tensors: bytes, slo_ms: bytes | None) -> None:
    """A reader that knows a request like it, or this very one, finds what a new reader finds."""
    fresh = outcome(reader(), message, tensors, slo_ms)
    known = reader()
    for _ in range(2):
        read(known, BINARY, TENSORS)
    for _ in range(4):
        assert outcome(known, message, tensors, slo_ms) == fresh


def test_known_requests_are_not_decoded_again() -> None:
    """Same plan, same numbers; tensors are views of the new body, in the model's order."""
    known = reader()
    for _ in range(2):
        first = read(known, BINARY, TENSORS)
    assert len(known) == 1
    second = read(known, BINARY, OTHERS)
    assert second.plan is first.plan
    assert second.checked._replace(inputs=()) == first.checked._replace(inputs=())
    assert [bytes(data) for data in second.checked.inputs] == [OTHERS[4:], OTHERS[:4]]
    assert (second.checked.timeout_ns, second.checked.priority, second.checked.min_accuracy) == (9_000_000, 2, 70.5)


def test_values_are_checked_each_time() -> None:
    """They are no part of what is known."""
    known = reader(RANGED)
    for _ in range(4):
        assert outcome(known, BINARY, TENSORS) == outcome(reader(RANGED), BINARY, TENSORS)
        assert "row 0 holds 8, outside of 0 to 7" in str(outcome(known, BINARY, OTHERS))


def test_strings_of_different_lengths_are_understood() -> None:
    """The same number of bytes may be other elements, so nothing of them is kept."""
    known = reader(STRINGS)
    text = {"name": "text", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}
    for words in ((b"a", b"bc"), (b"a", b"bc"), (b"ab", b"c"), (b"abc", b"")):
        tensors = b"".join(struct.pack("<I", len(word)) + word for word in words)
        assert outcome(known, {"inputs": [text]}, tensors) == outcome(reader(STRINGS), {"inputs": [text]}, tensors)


@pytest.mark.parametrize("times", [1, 3])
def test_ever_new_requests_fill_no_memory(times: int) -> None:
    """As with clients that number theirs; only what comes twice is remembered at all."""
    known = reader()
    for number in range(3000):
        read(known, BINARY | {"id": str(number // times)}, TENSORS)
    assert (len(known) > 0, len(known) <= 256) == (times > 1, True)
