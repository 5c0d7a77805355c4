"""An unmodified ``tritonclient`` against a running server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from superserve.model_folder import ModelFolder, write_json
from support.folders import write_digits_like_folder
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    scratch = tmp_path_factory.mktemp("server")
    folder = write_digits_like_folder(scratch / "digits")
    with serving(folder, "--workers", "2", "--slo-ms", "1000", scratch=scratch) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Any]:
    connected = triton.InferenceServerClient(server.address, concurrency=4)
    yield connected
    connected.close()


def image(rows: int = 1, *, binary: bool = True, name: str = "image", dtype: str = "uint8") -> Any:
    array = np.zeros((rows, 8, 8), dtype)
    tensor = triton.InferInput(name, list(array.shape), {"uint8": "UINT8", "float32": "FP32"}[dtype])
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_health_and_metadata(client: Any) -> None:
    """Everything that it asks of a server before it infers."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8]}]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_infer(client: Any, binary_in: bool, binary_out: bool) -> None:
    """Every mix of binary and JSON tensors, with an id and the response parameters."""
    result = client.infer(
        "digits",
        [image(3, binary=binary_in)],
        outputs=[triton.InferRequestedOutput("logits", binary_data=binary_out)],
        request_id="my-id",
    )
    assert result.as_numpy("logits").shape == (3, 10)
    response = result.get_response()
    assert response["id"] == "my-id"
    parameters = response["parameters"]
    assert (parameters["superserve_emulated"], parameters["slo_met"]) == (True, True)
    assert parameters["superserve_batch_size"] == 3
    assert parameters["superserve_infer_us"] > 1000


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    """Of request and response."""
    result = client.infer(
        "digits", [image(4)], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    assert result.as_numpy("logits").shape == (4, 10)


def test_configuration_and_statistics(client: Any) -> None:
    """What its load generator reads before and after a run."""
    config = client.get_model_config("digits")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (16, [8, 8])
    before = client.get_inference_statistics("digits")["model_stats"][0]
    client.infer("digits", [image(2)])
    after = client.get_inference_statistics()["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1


def test_defaults_timeout_and_priority(client: Any) -> None:
    """Without outputs it asks for binary data; a timeout of a millisecond cannot be met, one of a second can."""
    assert client.infer("digits", [image()], timeout=1_000_000, priority=1).as_numpy("logits").shape == (1, 10)
    with pytest.raises(InferenceServerException, match="deadline") as caught:
        client.infer("digits", [image()], timeout=1000)
    assert caught.value.status() == "504"


def test_many_at_once_share_batches(client: Any) -> None:
    """Concurrent requests are answered each, some of them from one batch."""
    calls = [client.async_infer("digits", [image()]) for _ in range(40)]
    results = [call.get_result() for call in calls]
    assert all(result.as_numpy("logits").shape == (1, 10) for result in results)


@pytest.mark.parametrize(
    ("model", "tensor", "status", "pattern"),
    [
        ("other", image(), "404", "other"),
        ("digits", image(name="picture"), "400", "picture"),
        ("digits", image(dtype="float32"), "400", "datatype must be UINT8"),
        ("digits", image(17), "400", "1 to 16 rows"),
    ],
)
def test_mistakes_are_told_and_hurt_nobody(client: Any, model: str, tensor: Any, status: str, pattern: str) -> None:
    """The client sees status and message; the next request on the same connection is served."""
    with pytest.raises(InferenceServerException, match=pattern) as caught:
        client.infer(model, [tensor])
    assert caught.value.status() == status
    assert client.infer("digits", [image()]).as_numpy("logits").shape == (1, 10)


def test_the_bundled_digits_are_recognised(tmp_path: Path) -> None:
    """The real model behind the real server: most of 48 test digits are right, and the answers name a subnet."""
    folder = ModelFolder.resolve("digits")
    write_json(tmp_path / "guess.json", guessed_profile(folder))
    images, labels = folder.test_data()
    spec, output = folder.config.inputs[0], folder.config.outputs[0]
    options = ("--profile", str(tmp_path / "guess.json"), "--slo-ms", "5000", "--workers", "1")
    with serving(Path("digits"), *options, scratch=tmp_path, device="cpu") as server:
        client = triton.InferenceServerClient(server.address)
        right = 0
        for start in range(0, 48, 16):
            rows = np.ascontiguousarray(images[start : start + 16], spec.dtype)
            tensor = triton.InferInput(spec.name, list(rows.shape), spec.datatype)
            tensor.set_data_from_numpy(rows)
            result = client.infer("digits", [tensor])
            right += int((result.as_numpy(output.name).argmax(1) == labels[start : start + 16]).sum())
            parameters = result.get_response()["parameters"]
            assert parameters["superserve_subnet"] in {record.id for record in folder.front.subnets}
            assert "superserve_emulated" not in parameters
        client.close()
        assert server.stop() == 0
    assert right >= 38
