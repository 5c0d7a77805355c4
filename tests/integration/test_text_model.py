"""Clients that send texts, against a server whose workers cut them into pieces and run a network on them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from hypothesis import given, settings
from hypothesis import strategies as st

from superserve.client import Client
from superserve.errors import InvalidRequestError
from superserve.model_folder import ModelFolder, write_json
from superserve.profiler.measure import example_rows
from superserve.supernet.engine import EagerEngine
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving
from support.texts import INPUT, cells, save_texts

pytestmark = pytest.mark.integration

TEXTS = np.array([["How much is my bill?"], ["pay it now " * 5], [""], ["¿qué?"]], object)
SUBNETS = ("s0", "s1", "s2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return save_texts(tmp_path_factory.mktemp("bills"))


@pytest.fixture(scope="module")
def server(folder: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    scratch = tmp_path_factory.mktemp("server")
    write_json(scratch / "guess.json", guessed_profile(folder))
    options = ("--profile", scratch / "guess.json", "--workers", "1", "--slo-ms", "5000")
    with serving(folder.path, *options, scratch=scratch, device="cpu") as running:
        yield running


@pytest.fixture(scope="module")
def direct(folder: ModelFolder) -> EagerEngine:
    return EagerEngine.load(folder)


def expected(direct: EagerEngine, subnet: str, texts: np.ndarray[Any, Any] = TEXTS) -> np.ndarray[Any, Any]:
    (logits,) = direct.run(SUBNETS.index(subnet), [INPUT.packed(texts)])
    return logits


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_over_http(server: ServerProcess, direct: EagerEngine, binary: bool) -> None:
    client = triton_http.InferenceServerClient(server.address)
    assert client.get_model_metadata("bills")["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert client.get_model_config("bills")["input"][0]["data_type"] == "TYPE_STRING"
    tensor = triton_http.InferInput("text", list(TEXTS.shape), "BYTES")
    tensor.set_data_from_numpy(TEXTS, binary_data=binary)
    result = client.infer("bills", [tensor])
    subnet = result.get_response()["parameters"]["superserve_subnet"]
    np.testing.assert_allclose(result.as_numpy("logits"), expected(direct, subnet), atol=1e-5)
    client.close()


def test_tritonclient_over_grpc(server: ServerProcess, direct: EagerEngine) -> None:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        tensor = triton_grpc.InferInput("text", list(TEXTS.shape), "BYTES")
        tensor.set_data_from_numpy(TEXTS)
        result = client.infer("bills", [tensor])
        subnet = result.get_response().parameters["superserve_subnet"].string_param
        np.testing.assert_allclose(result.as_numpy("logits"), expected(direct, subnet), atol=1e-5)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_our_client(server: ServerProcess, direct: EagerEngine, folder: ModelFolder, scheme: str) -> None:
    """Array of text or of bytes; the name of the intent stands in the folder."""
    with Client(server.url if scheme == "http" else f"grpc://{server.grpc}") as client:
        for texts in (TEXTS, TEXTS.astype(np.str_), np.array([[text.encode()] for text in TEXTS[:, 0]])):
            reply = client.infer("bills", {"text": texts})
            logits = expected(direct, reply.parameters.subnet)
            np.testing.assert_allclose(reply.outputs["logits"], logits, atol=1e-5)
            found = [folder.config.labels[place] for place in reply.outputs["logits"].argmax(1)]
            assert found == [folder.config.labels[place] for place in logits.argmax(1)]
        with pytest.raises(InvalidRequestError, match="65 bytes; the model takes 64"):
            client.infer("bills", {"text": np.array([["a" * 65]])})


def test_no_bytes_take_the_worker_down(server: ServerProcess, direct: EagerEngine) -> None:
    """Whatever it is sent, the same worker answers it, and as it should."""
    worker = [child.pid for child in server.children()]
    with Client(server.url) as client:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(st.binary(max_size=64), min_size=1, max_size=8))
        def answers(texts: list[bytes]) -> None:
            reply = client.infer("bills", {"text": np.array(texts, object)[:, None]})
            (logits,) = direct.run(SUBNETS.index(reply.parameters.subnet), [cells(*texts)])
            np.testing.assert_allclose(reply.outputs["logits"], logits, atol=1e-5)

        answers()
    assert [child.pid for child in server.children()] == worker


def test_a_profile_is_measured_on_the_longest_texts(folder: ModelFolder) -> None:
    rows = example_rows(folder, folder.config.inputs, np.random.default_rng(0))
    assert {b"".join(row) for row in rows} == {INPUT.longest(1).tobytes()}
