import json

import msgspec
import numpy as np
import pytest

from superserve.client.address import Address
from superserve.client.wire import (
    InferBody,
    InferTemplate,
    argmax_of_first,
    decode_error,
    decode_infer,
    decode_reply_header,
    model_path,
)

IMAGE = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)


def split(request: bytes) -> tuple[dict[str, str], dict[str, object], bytes]:
    """HTTP headers, JSON and tensor bytes of a request, found by its own lengths."""
    head, _, body = request.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert int(headers["content-length"]) == len(body)
    length = int(headers["inference-header-content-length"])
    return headers, json.loads(body[:length]), body[length:]


def test_encoded_request_follows_the_binary_extension() -> None:
    body = InferBody({"image": IMAGE}, ["logits"], "a1")
    decoded = json.loads(body.header({"timeout": 5}))
    assert decoded["id"] == "a1"
    assert decoded["parameters"] == {"timeout": 5, "binary_data_output": True}
    assert decoded["inputs"] == [
        {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "parameters": {"binary_data_size": 64}}
    ]
    assert decoded["outputs"] == [{"name": "logits"}]
    assert b"".join(body.raws) == IMAGE.tobytes()


def test_paths_quote_what_names_them() -> None:
    assert model_path("a/b", "infer", "1 2") == "/v2/models/a%2Fb/versions/1%202/infer"


@pytest.mark.parametrize(("timeout_us", "priority"), [(1, 0), (50_000, 3), (9_999_999_999, 2**31 - 1)])
def test_template_renders_valid_requests_of_one_length(timeout_us: int, priority: int) -> None:
    template = InferTemplate(Address("h", 1), "m x", {"image": IMAGE}, with_timeout=True)
    request = template.render(timeout_us, priority)
    headers, decoded, raw = split(request)
    assert request.startswith(b"POST /v2/models/m%20x/infer HTTP/1.1\r\n")
    assert headers["host"] == "h:1"
    assert decoded["parameters"] == {"timeout": timeout_us, "priority": priority, "binary_data_output": True}
    assert raw == IMAGE.tobytes()


def test_template_never_sends_a_timeout_that_means_default() -> None:
    template = InferTemplate(Address("h", 1), "m", {"image": IMAGE}, with_timeout=True)
    decoded = split(template.render(-5))[1]
    assert decoded["parameters"] == {"timeout": 1, "priority": 0, "binary_data_output": True}


def test_template_without_timeout_leaves_the_deadline_to_the_server() -> None:
    template = InferTemplate(Address("h", 1), "m", {"image": IMAGE}, with_timeout=False)
    assert "timeout" not in str(split(template.render(5))[1])


def reply(outputs: list[dict[str, object]], **parameters: object) -> bytes:
    return msgspec.json.encode({"model_name": "m", "model_version": "1", "outputs": outputs, "parameters": parameters})


def test_decoding_reads_binary_and_json_outputs_and_parameters() -> None:
    logits = np.array([[0.0, 3.0, 1.0]], "<f4")
    header = reply(
        [
            {"name": "logits", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}},
            {"name": "other", "datatype": "INT64", "shape": [2], "data": [7, 8]},
        ],
        superserve_subnet="s3",
        superserve_accuracy=97.5,
        superserve_batch_size=4,
        slo_met=False,
        something_else=1,
    )
    body = header + logits.tobytes()
    decoded = decode_infer(body, len(header))
    assert np.array_equal(decoded.outputs["logits"], logits)
    assert decoded.outputs["other"].tolist() == [7, 8]
    said = decoded.parameters
    assert (said.subnet, said.accuracy, said.batch_size, said.slo_met, said.emulated) == ("s3", 97.5, 4, False, False)
    assert argmax_of_first(body, len(header), decode_reply_header(body, len(header)).outputs) == 1


@pytest.mark.parametrize(
    "output",
    [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 8}},
        {"name": "x", "datatype": "FP32", "shape": [1, 9], "parameters": {"binary_data_size": 36}},
        {"name": "x", "datatype": "NOPE", "shape": [1], "data": [1]},
        {"name": "x", "datatype": "INT8", "shape": [2], "data": [1]},
        {"name": "x", "datatype": "INT8", "shape": [1], "data": [1000]},
        {"name": "x", "datatype": "INT8", "shape": [1], "data": [None]},
        {"name": "x", "datatype": "INT8", "shape": [-1, -1], "parameters": {"binary_data_size": 1}},
        {"name": "x", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 3}},
    ],
)
def test_decoding_refuses_what_does_not_fit(output: dict[str, object]) -> None:
    header = reply([output])
    with pytest.raises(ValueError, match=r".+"):
        decode_infer(header + bytes(12), len(header))


def test_error_message_is_read_or_shown_as_it_is() -> None:
    assert decode_error(b'{"error":"no such model"}') == "no such model"
    assert decode_error(b"<html>") == "<html>"
