import base64
import json
import struct

import numpy as np
import pytest

from peers import messages
from peers.catalog import PEERS
from peers.jobs import CNN, JOBS, NOOP, Job, job_named
from peers.model import load_model
from peers.subnet_jobs import subnet_job
from superserve.frontend.v2 import decode_infer
from superserve.model_folder import ModelFolder
from superserve.serving.byte_strings import to_cells


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("word", [messages.v2_binary, messages.v2_binary_cells, messages.v2_json])
def test_v2_requests_are_what_our_own_codec_reads(job: Job, word: object) -> None:
    """The same tensor comes out, whichever of the two forms it went in as."""
    assert callable(word)
    headers, body = _split(word(job))
    decoded = decode_infer(body, headers.get("inference-header-content-length", "").encode() or None)
    (tensor,) = decoded.request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == (job.input_name, "UINT8", [1, *job.row_shape])
    assert bytes(tensor.data) == job.row().tobytes()


def test_a_text_is_on_the_wire_what_our_workers_find_in_its_cell() -> None:
    """Servers but ours are sent the cell; its model answers with all of the model's classes."""
    job = subnet_job("intents", "s0", "what is my balance")
    assert job_named(job.name) == job
    headers, body = _split(messages.v2_binary(job))
    (tensor,) = decode_infer(body, headers["inference-header-content-length"].encode()).request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("text", "BYTES", [1, 1])
    (spec,) = ModelFolder.resolve("intents").config.inputs
    assert bytes(to_cells(tensor.data, 1, spec)) == job.row().tobytes()
    assert load_model(job)(job.row().copy()).shape == (1, 228)
    headers, body = _split(PEERS["triton"].message(job))
    (cell,) = decode_infer(body, headers["inference-header-content-length"].encode()).request.inputs
    assert (cell.datatype, list(cell.shape), bytes(cell.data)) == ("UINT8", [1, *job.row_shape], job.row().tobytes())


def test_a_deadline_goes_into_a_header() -> None:
    headers, _ = _split(messages.v2_binary(CNN, slo_ms=50))
    assert headers["x-slo-ms"] == "50"


@pytest.mark.parametrize("as_list", [False, True])
def test_base64_comes_back_as_the_tensor(*, as_list: bool) -> None:
    _, body = _split(messages.base64_json(NOOP, "image", "/predict", as_list=as_list))
    value = json.loads(body)["image"]
    assert base64.b64decode(value[0] if as_list else value) == NOOP.row().tobytes()


def test_a_grpc_message_has_its_parts_where_the_generator_looks_for_them() -> None:
    """Header block behind its length, then the message behind the gRPC prefix; raw contents are its last field."""
    request = messages.grpc_v2(NOOP)
    (block,) = struct.unpack_from("<I", request)
    assert messages.V2_SERVICE.encode() in request[4 : 4 + block]
    compressed, length = struct.unpack_from(">BI", request, 4 + block)
    message = request[4 + block + 5 :]
    assert (compressed, length) == (0, len(message))
    assert message.endswith(NOOP.row().tobytes())


def test_varints_of_a_v2_message_are_those_of_protobuf() -> None:
    """Field 7 (raw_input_contents), wire type 2, 3072 = 0x18 << 7 | 0."""
    assert b"\x3a\x80\x18" + NOOP.row().tobytes() in messages.grpc_v2(NOOP)


def test_rows_differ_in_their_values() -> None:
    assert len(np.unique(CNN.row())) > 4, "a row of one value would hide a tensor that arrives mixed up"


def _split(request: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    headers = {}
    for line in head.decode().split("\r\n")[1:]:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    assert int(headers["content-length"]) == len(body)
    return headers, body
