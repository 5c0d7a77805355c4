"""Unmodified ``tritonclient``s of gRPC, blocking and aio, and the aio one of HTTP, against a running server."""

from collections.abc import Iterator
from queue import Queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException

from support.folders import write_digits_like_folder
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
    with triton.InferenceServerClient(server.grpc) as connected:
        yield connected


def image(kind: Any = triton, rows: int = 1, dtype: str = "uint8") -> Any:
    array = np.zeros((rows, 8, 8), dtype)
    tensor = kind.InferInput("image", list(array.shape), {"uint8": "UINT8", "float32": "FP32"}[dtype])
    tensor.set_data_from_numpy(array)
    return tensor


def test_health_metadata_configuration_and_statistics(client: Any) -> None:
    """Everything that it asks of a server besides inference."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", "1")
    with pytest.raises(InferenceServerException, match="other"):
        client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata().extensions
    assert list(client.get_model_metadata("digits").inputs[0].shape) == [-1, 8, 8]
    config = client.get_model_config("digits").config
    assert (config.max_batch_size, list(config.input[0].dims), config.backend) == (16, [8, 8], "superserve")
    before = client.get_inference_statistics("digits").model_stats[0].inference_count
    client.infer("digits", [image(rows=2)])
    assert client.get_inference_statistics().model_stats[0].inference_count - before == 2


def test_infer(client: Any) -> None:
    """Id, chosen output, parameters, compression."""
    result = client.infer(
        "digits",
        [image(rows=3)],
        outputs=[triton.InferRequestedOutput("logits")],
        request_id="my-id",
        priority=1,
        timeout=1_000_000,
        compression_algorithm="gzip",
    )
    assert result.as_numpy("logits").shape == (3, 10)
    response = result.get_response()
    assert (response.id, response.model_version) == ("my-id", "1")
    assert response.parameters["superserve_batch_size"].int64_param == 3
    assert response.parameters["slo_met"].bool_param


@pytest.mark.parametrize(
    ("model", "tensor", "options", "status", "pattern"),
    [
        ("other", image(), {}, "StatusCode.NOT_FOUND", "other"),
        ("digits", image(dtype="float32"), {}, "StatusCode.INVALID_ARGUMENT", "datatype must be UINT8"),
        ("digits", image(rows=17), {}, "StatusCode.INVALID_ARGUMENT", "1 to 16 rows"),
        ("digits", image(), {"timeout": 1000}, "StatusCode.DEADLINE_EXCEEDED", "deadline"),
        ("digits", image(), {"client_timeout": 0.001}, "StatusCode.DEADLINE_EXCEEDED", "[Dd]eadline"),
    ],
)
def test_mistakes_are_told_and_hurt_nobody(
    client: Any, model: str, tensor: Any, options: dict[str, Any], status: str, pattern: str
) -> None:
    """Status and message; the next request is served."""
    with pytest.raises(InferenceServerException, match=pattern) as caught:
        client.infer(model, [tensor], **options)
    assert caught.value.status() == status
    assert client.infer("digits", [image()]).as_numpy("logits").shape == (1, 10)


def test_a_stream(client: Any) -> None:
    """Answers come in order."""
    answers: Queue[tuple[Any, Any]] = Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(5):
        client.async_stream_infer("digits", [image()], request_id=str(number))
    found = [answers.get(timeout=8) for _ in range(5)]
    client.stop_stream()
    assert [error for _, error in found] == [None] * 5
    assert [result.get_response().id for result, _ in found] == list("01234")


async def test_the_aio_clients(server: ServerProcess) -> None:
    """Of gRPC and of HTTP, at once."""
    async with (
        triton_aio.InferenceServerClient(server.grpc) as rpc,
        triton_http_aio.InferenceServerClient(server.address) as http,
    ):
        for client, kind in ((rpc, triton_aio), (http, triton_http_aio)):
            assert await client.is_server_live()
            assert await client.is_model_ready("digits")
            result = await client.infer("digits", [image(kind, rows=4)], request_id="x")
            assert result.as_numpy("logits").shape == (4, 10)
