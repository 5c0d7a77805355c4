import json
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from superserve.clock import ManualClock
from superserve.errors import InvalidRequestError
from superserve.frontend.v2 import Decoded, decode_infer
from superserve.frontend.v2_response import ResponseEncoder
from superserve.model_folder import DTYPES, TensorSpec
from superserve.protocol.byte_strings import join
from superserve.serving.byte_strings import to_cells
from superserve.serving.fake_pool import FakePool
from superserve.serving.inference import Answer, InferRequest
from support.serving import MODEL, make_model, make_router

JSON_DATATYPES = sorted(set(DTYPES) - {"FP16", "BF16"})


def body(**changes: Any) -> dict[str, Any]:
    """A small valid request, with changes."""
    tensor = {"name": "x", "shape": [2, 2], "datatype": "INT32", "data": [1, 2, 3, 4]}
    return {"inputs": [tensor | changes.pop("tensor", {})], **changes}


def decode(message: object, tensors: bytes = b"", *, header: bytes | None = None) -> Decoded:
    """Decode a JSON value, with a binary part if there is one."""
    text = json.dumps(message).encode()
    if header is None and tensors:
        header = str(len(text)).encode()
    return decode_infer(text + tensors, header)


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str]) -> tuple[str, np.ndarray[Any, Any]]:
    """A datatype and an array of it, of any shape up to 4 dimensions."""
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if DTYPES[datatype].kind == "f" else None
    return datatype, draw(hnp.arrays(DTYPES[datatype], shape, elements=elements))


@given(arrays(JSON_DATATYPES), st.booleans())
def test_json_tensors_arrive_bit_by_bit(tensor: tuple[str, np.ndarray[Any, Any]], flat: bool) -> None:
    """Nested or flat, every datatype with a JSON form comes out as the bytes of the array."""
    datatype, array = tensor
    data = (array.ravel() if flat else array).tolist()
    decoded = decode({"inputs": [{"name": "x", "shape": list(array.shape), "datatype": datatype, "data": data}]})
    (found,) = decoded.request.inputs
    assert bytes(found.data) == array.tobytes()
    assert (found.name, found.datatype, list(found.shape)) == ("x", datatype, list(array.shape))


@given(st.lists(arrays(sorted(DTYPES)), min_size=1, max_size=4))
def test_binary_tensors_are_views_of_the_body(tensors: list[tuple[str, np.ndarray[Any, Any]]]) -> None:
    """Several binary tensors are found in order, without a copy."""
    inputs = [
        {"name": str(n), "shape": array.shape, "datatype": kind, "parameters": {"binary_data_size": array.nbytes}}
        for n, (kind, array) in enumerate(tensors)
    ]
    text = json.dumps({"inputs": inputs}).encode()
    whole = text + b"".join(array.tobytes() for _, array in tensors)
    decoded = decode_infer(whole, str(len(text)).encode())
    for found, (_, array) in zip(decoded.request.inputs, tensors, strict=True):
        assert isinstance(found.data, memoryview)
        assert found.data.obj is whole
        assert bytes(found.data) == array.tobytes()


@given(st.lists(st.text(max_size=10), min_size=4, max_size=4), st.booleans())
def test_texts_arrive_as_bytes(texts: list[str], nested: bool) -> None:
    """In UTF-8, each behind its length, as in binary data."""
    expected = join(text.encode() for text in texts)
    data = [texts[:2], texts[2:]] if nested else texts
    tensor = {"name": "x", "shape": [2, 2], "datatype": "BYTES"}
    assert decode({"inputs": [tensor | {"data": data}]}).request.inputs[0].data == expected
    binary = decode({"inputs": [tensor | {"parameters": {"binary_data_size": len(expected)}}]}, expected)
    assert bytes(binary.request.inputs[0].data) == expected


def test_json_and_binary_tensors_mix() -> None:
    """The second tensor is binary, the first and third are not."""
    inputs = [
        {"name": "a", "shape": [1], "datatype": "FP32", "data": [1.5]},
        {"name": "b", "shape": [1, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 3}},
        {"name": "c", "shape": [1], "datatype": "BOOL", "data": [True]},
    ]
    decoded = decode({"inputs": inputs}, b"\1\2\3")
    assert [bytes(tensor.data) for tensor in decoded.request.inputs] == [np.float32(1.5).tobytes(), b"\1\2\3", b"\1"]


def test_parameters_and_outputs_are_understood() -> None:
    """Timeout, priority, floor and id, and per output where its data goes."""
    message = body(
        id="me",
        parameters={
            "timeout": 1500,
            "priority": 2,
            "superserve_min_accuracy": 71,
            "binary_data_output": True,
            "other": "x",
        },
        outputs=[{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
    )
    decoded = decode_infer(json.dumps(message).encode(), None, b"12.5")
    request = decoded.request
    assert (request.timeout_us, request.priority, request.min_accuracy, request.slo_ms) == (1500, 2, 71, 12.5)
    assert (decoded.id, request.outputs, decoded.binary) == ("me", ["a", "b"], (False, True))


def test_by_default_everything_comes_back_as_json() -> None:
    """As the protocol says; an empty list of outputs asks for all of them, too."""
    for message in (body(), body(outputs=[])):
        decoded = decode(message)
        assert decoded.request.outputs is None
        assert decoded.binary == (False,)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": None}, "inputs"),
    "no name": ({"inputs": [{"shape": [1], "datatype": "INT8", "data": [1]}]}, "name"),
    "shape of text": (body(tensor={"shape": ["two"]}), r"\$.inputs\[0\].shape\[0\]"),
    "negative shape": (body(tensor={"shape": [-2, -2]}), "shape"),
    "datatype": (body(tensor={"datatype": "FLOAT"}), "'x'.*'FLOAT'.*FP32"),
    "bytes of numbers": (body(tensor={"datatype": "BYTES", "data": [1, 2, 3, 4]}), "'x'.*data.*str"),
    "ragged bytes": (body(tensor={"datatype": "BYTES", "data": [["a"], ["b", "c", "d"]]}), "'x'"),
    "too few bytes": (body(tensor={"datatype": "BYTES", "data": ["a"]}), r"'x'.*\[1\].*\[2, 2\]"),
    "half a character": (body(tensor={"datatype": "BYTES", "data": ["\ud800", "", "", ""]}), "request JSON|data"),
    "BF16 as JSON": (body(tensor={"datatype": "BF16", "data": [1, 2, 3, 4]}), "'x'.*BF16.*binary"),
    "too few elements": (body(tensor={"data": [1, 2, 3]}), r"'x'.*\[3\].*\[2, 2\]"),
    "too many elements": (body(tensor={"data": [1, 2, 3, 4, 5]}), r"'x'.*\[5\].*\[2, 2\]"),
    "ragged": (body(tensor={"data": [[1, 2], [3]]}), "'x'"),
    "transposed": (body(tensor={"shape": [1, 4], "data": [[1], [2], [3], [4]]}), r"'x'.*\[4, 1\].*\[1, 4\]"),
    "too deep": (body(tensor={"data": [[[1, 2], [3, 4]]]}), "'x'.*3 deep"),
    "data of text": (body(tensor={"data": "abcd"}), "'x'.*data"),
    "text elements": (body(tensor={"data": ["1", "2", "3", "4"]}), "'x'.*data.*int"),
    "fractions": (body(tensor={"data": [1.5, 2, 3, 4]}), "'x'.*data"),
    "null element": (body(tensor={"data": [None, 2, 3, 4]}), "'x'.*data"),
    "out of range": (body(tensor={"data": [2**31, 2, 3, 4]}), "'x'.*2147483647"),
    "out of 64 bits": (body(tensor={"datatype": "UINT64", "data": [2**64, 2, 3, 4]}), "'x'.*UINT64"),
    "out of float": (body(tensor={"datatype": "FP32", "data": [1e39, 2, 3, 4]}), "'x'.*FP32"),
    "FP16 as JSON": (body(tensor={"datatype": "FP16", "data": [1, 2, 3, 4]}), "'x'.*FP16.*binary"),
    "size without header": (
        {"inputs": [{"name": "x", "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}}]},
        "'x'.*Inference-Header-Content-Length",
    ),
    "missing data": ({"inputs": [{"name": "x", "shape": [2], "datatype": "INT8"}]}, "'x'.*data is missing"),
    "timeout of text": (body(parameters={"timeout": "1"}), "parameters.timeout"),
    "timeout true": (body(parameters={"timeout": True}), "parameters.timeout"),
    "priority fraction": (body(parameters={"priority": 1.5}), "parameters.priority"),
    "floor of text": (body(parameters={"superserve_min_accuracy": "high"}), "superserve_min_accuracy"),
    "misspelt floor": (body(parameters={"superserve_min_acuracy": 70}), "superserve_min_acuracy.*min_accuracy"),
    "binary_data_output": (body(parameters={"binary_data_output": 1}), "binary_data_output"),
    "binary_data": (body(outputs=[{"name": "a", "parameters": {"binary_data": "yes"}}]), "binary_data"),
    "classification": (body(outputs=[{"name": "a", "parameters": {"classification": 3}}]), "classification"),
    "dimensions without end": (
        {"inputs": [{"name": "x", "shape": [2**62] * 300, "datatype": "INT8", "parameters": {"binary_data_size": 1}}]},
        r"length <= 32 - at `\$.inputs\[0\].shape`",
    ),
    "nested parameters": (body(parameters={"timeout": {"a": 1}}), "parameters"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_by_name(case: str) -> None:
    """The message names the field."""
    message, pattern = BAD[case]
    with pytest.raises(InvalidRequestError, match=pattern):
        decode(message)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"inputs": [}', b'"\xff"', b'{"id":"\xff","inputs":[]}', b"[" * 50_000, b"\0" * 100]
)
def test_malformed_json_is_refused(text: bytes) -> None:
    """Whatever the bytes are."""
    with pytest.raises(InvalidRequestError, match="request JSON"):
        decode_infer(text)


def binary_input(size: object, shape: tuple[int, ...] = (2, 2)) -> dict[str, Any]:
    """A request with one binary tensor of 4 bytes per element."""
    tensor = {"name": "x", "shape": shape, "datatype": "INT32", "parameters": {"binary_data_size": size}}
    return {"inputs": [tensor]}


@pytest.mark.parametrize(
    ("size", "tensors", "pattern"),
    [
        (16, bytes(15), "'x'.*16, but only 15 bytes are left"),
        (16, bytes(17), "17 bytes behind its JSON.*add up to 16"),
        (12, bytes(12), r"'x'.*is 12, but shape \[2, 2\] of INT32 has 16 bytes"),
        (-4, bytes(4), "'x'.*number of bytes"),
        ("16", bytes(16), "'x'.*number of bytes"),
        (True, bytes(1), "'x'.*number of bytes"),
        (2**70, bytes(16), "'x'"),
    ],
)
def test_binary_lengths_must_fit(size: object, tensors: bytes, pattern: str) -> None:
    """Against shape and datatype, and against the body."""
    with pytest.raises(InvalidRequestError, match=pattern):
        decode(binary_input(size), tensors)


@pytest.mark.parametrize("header", [b"9999", b"-1", b"abc", b"", b"1" * 5000, b" 5", b"1_0", "²".encode()])
def test_a_header_length_must_be_a_length(header: bytes) -> None:
    """Not beyond the body, and not in any other notation."""
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length"):
        decode(binary_input(16), bytes(16), header=header)


def test_data_and_binary_data_contradict() -> None:
    """Both at once is one too many."""
    message = binary_input(16)
    message["inputs"][0]["data"] = [1, 2, 3, 4]
    with pytest.raises(InvalidRequestError, match="both"):
        decode(message, bytes(16))


@pytest.mark.parametrize("header", [b"abc", b"", b"0"])
def test_a_deadline_header_must_be_a_number(header: bytes) -> None:
    """The data plane checks its range."""
    with pytest.raises(InvalidRequestError, match="x-slo-ms"):
        decode_infer(json.dumps(body()).encode(), None, header)


@given(st.binary(max_size=200), st.none() | st.binary(max_size=4))
def test_no_bytes_do_worse_than_a_refusal(data: bytes, header: bytes | None) -> None:
    """Noise is refused; nothing else is raised."""
    with pytest.raises(InvalidRequestError):
        decode_infer(data, header)


VALID = json.dumps(body(parameters={"timeout": 5}, outputs=[{"name": "a"}])).encode()


@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_a_flipped_byte_does_no_worse_than_a_refusal(position: int, value: int) -> None:
    """Almost valid requests are decoded or refused."""
    broken = VALID[:position] + bytes([value]) + VALID[position + 1 :]
    with suppress(InvalidRequestError):
        decode_infer(broken)


# ---- responses

IDS = ("small", 'lar"ge')


def subnets(*, emulated: bool = False) -> list[dict[str, str | float | bool]]:
    """What answers say of the two subnets."""
    model = make_model(make_router(FakePool(), ManualClock()), emulated=emulated)
    return [
        told | {"superserve_subnet": name, "superserve_accuracy": accuracy}
        for told, name, accuracy in zip(model.subnet_parameters, IDS, (70.25, 71.0), strict=True)
    ]


def encoder(*, emulated: bool = False) -> ResponseEncoder:
    """Of `MODEL`: outputs ``pixels`` (UINT8, 2 x 2) and ``factor`` (FP32)."""
    return ResponseEncoder(MODEL, subnets(emulated=emulated))


def wish(outputs: list[str] | None = None, binary: tuple[bool, ...] = (True,), request_id: str = "") -> Decoded:
    """What a client asked for."""
    return Decoded(InferRequest(inputs=[], outputs=outputs), request_id, binary)


def answer(rows: int = 2, *, slo_met: bool = True) -> Answer:
    """Subnet 1, batch of 4, pixels 0, 1, 2, ... and factors 0, 0.5, 1, ..."""
    pixels = np.arange(4 * rows, dtype="u1").tobytes()
    factors = (np.arange(rows, dtype="<f4") / 2).tobytes()
    return Answer(1, 4, rows, 123, 4567, slo_met, 12, 34, [memoryview(pixels), memoryview(factors)])


def encode(decoded: Decoded, result: Answer, *, emulated: bool = False) -> tuple[dict[str, Any], list[bytes]]:
    """The JSON as a value, and the tensors behind it."""
    encoded = encoder(emulated=emulated).plan(decoded).encode(decoded.id, result)
    value: dict[str, Any] = json.loads(encoded.json)
    return value, [bytes(tensor) for tensor in encoded.tensors]


def test_a_binary_response() -> None:
    """Model, parameters, outputs with their sizes; the tensors are the answer's own views."""
    result = answer()
    value, tensors = encode(wish(), result)
    assert value == {
        "model_name": "tiny",
        "model_version": "1",
        "parameters": {
            "superserve_subnet": 'lar"ge',
            "superserve_accuracy": 71.0,
            "superserve_batch_size": 4,
            "superserve_decode_us": 12,
            "superserve_queue_us": 123,
            "superserve_wait_us": 34,
            "superserve_infer_us": 4567,
            "slo_met": True,
        },
        "outputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [2, 2, 2], "parameters": {"binary_data_size": 8}},
            {"name": "factor", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}},
        ],
    }
    assert tensors == [bytes(range(8)), np.array([0, 0.5], "<f4").tobytes()]
    assert encoder().plan(wish()).encode("", result).tensors[0] is result.outputs[0]


def test_a_json_response() -> None:
    """Data stands flat in the JSON, and nothing follows."""
    value, tensors = encode(wish(binary=(False,)), answer())
    assert value["outputs"][0] == {"name": "pixels", "datatype": "UINT8", "shape": [2, 2, 2], "data": list(range(8))}
    assert value["outputs"][1]["data"] == [0.0, 0.5]
    assert tensors == []


def test_wanted_outputs_come_in_their_order_and_form() -> None:
    """The second output first, as JSON, then the first, beside it."""
    value, tensors = encode(wish(["factor", "pixels"], (False, True)), answer())
    assert [output["name"] for output in value["outputs"]] == ["factor", "pixels"]
    assert "data" in value["outputs"][0]
    assert tensors == [bytes(range(8))]


def test_marks_of_late_and_emulated_answers() -> None:
    """``slo_met`` is false for late ones; ``superserve_emulated`` is there only where it is true."""
    value, _ = encode(wish(), answer(slo_met=False), emulated=True)
    assert value["parameters"]["slo_met"] is False
    assert value["parameters"]["superserve_emulated"] is True
    assert "superserve_emulated" not in encode(wish(), answer())[0]["parameters"]


@given(st.text())
def test_the_id_comes_back(request_id: str) -> None:
    """Whatever its characters; it is left out if none was sent."""
    value, _ = encode(wish(request_id=request_id), answer())
    assert value.get("id", "") == request_id


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_sizes_follow_the_rows(sizes: list[int]) -> None:
    """Parts of a response are remembered by rows; each answer gets its own."""
    same = encoder()
    for rows in sizes:
        value = json.loads(same.plan(wish()).encode("", answer(rows)).json)
        assert value["outputs"][0]["shape"][0] == rows
        assert value["outputs"][0]["parameters"]["binary_data_size"] == 4 * rows


def test_forms_of_responses_do_not_mix() -> None:
    """One encoder, in turns: binary, JSON, and JSON of other data with as many rows."""
    same = encoder()
    other = answer()
    other.outputs = [memoryview(bytes(range(8, 16))), other.outputs[1]]
    found = []
    for form, result in ((True, answer()), (False, answer()), (False, other), (True, other)):
        decoded = wish(binary=(form,))
        output = json.loads(same.plan(decoded).encode("", result).json)["outputs"][0]
        found.append(output.get("data"))
    assert found == [None, list(range(8)), list(range(8, 16)), None]


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_never_json(datatype: str) -> None:
    """Refused before it runs, with what to set; as binary data it is fine."""
    config = msgspec.structs.replace(MODEL, outputs=(TensorSpec("half", datatype, (-1,)),))
    half = ResponseEncoder(config, subnets())
    with pytest.raises(InvalidRequestError, match=r"'half'.*binary_data"):
        half.plan(wish(binary=(False,)))
    half.plan(wish())


def test_ever_new_forms_of_responses_do_not_fill_the_memory() -> None:
    """The plans that an encoder remembers are bounded, and forgotten ones are made again."""
    same = encoder()
    for number in range(1000):
        flags = tuple(bool(number >> bit & 1) for bit in range(10))
        same.plan(wish(["pixels"] * 10, flags))
    assert len(same._plans) <= 256


@given(st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2), min_size=1, max_size=3))
def test_texts_come_back(rows: list[list[str]]) -> None:
    """As strings in JSON, behind their lengths as binary data; the same rows may have other sizes next time."""
    spec = TensorSpec("text", "BYTES", (-1, 2), max_bytes=12)
    same = ResponseEncoder(msgspec.structs.replace(MODEL, outputs=(spec,)), subnets())
    for texts in (rows, [["", "x"] for _ in rows]):
        flat = [text for row in texts for text in row]
        cells = to_cells(join(text.encode() for text in flat), len(rows), spec)
        result = Answer(1, 4, len(rows), 123, 4567, slo_met=True, decode_us=12, wait_us=34, outputs=[memoryview(cells)])
        assert json.loads(same.plan(wish(binary=(False,))).encode("", result).json)["outputs"][0]["data"] == flat
        encoded = same.plan(wish()).encode("", result)
        assert list(encoded.tensors) == [join(text.encode() for text in flat)]
        size = json.loads(encoded.json)["outputs"][0]["parameters"]["binary_data_size"]
        assert size == len(encoded.tensors[0])
