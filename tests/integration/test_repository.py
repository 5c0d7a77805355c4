"""Models loaded and unloaded in a running server, by an unmodified ``tritonclient`` over either protocol."""

import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from support.folders import write_digits_like_folder
from support.processes import command_line
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    scratch = tmp_path_factory.mktemp("repository")
    repository = scratch / "models"
    write_digits_like_folder(repository / "second", "second")
    write_digits_like_folder(repository / "third" / "1", "third")
    (repository / "broken").mkdir()
    (repository / "broken" / "config.json").write_text("{}")
    first = write_digits_like_folder(scratch / "first", "first")
    with serving(
        first, "--model-repository", repository, "--workers", "2", "--slo-ms", "5000", scratch=scratch
    ) as running:
        yield running


class Client:
    """One of the two clients, with what differs between them ironed out."""

    def __init__(self, transport: str, server: ServerProcess) -> None:
        self.module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[transport]
        self.transport = transport
        # A load takes the time that cores have left over; on a busy machine the usual minute may not be enough.
        patience = {"network_timeout": 300.0} if transport == "http" else {}
        address = server.address if transport == "http" else server.grpc
        self.ask: Any = self.module.InferenceServerClient(address, **patience)

    def index(self) -> dict[str, tuple[str, str]]:
        """State and reason by name."""
        if self.transport == "grpc":
            told = self.ask.get_model_repository_index(as_json=True).get("models", [])
        else:
            told = self.ask.get_model_repository_index()
        return {model["name"]: (model["state"], model.get("reason", "")) for model in told}

    def infer(self, model: str) -> Any:
        tensor = self.module.InferInput("image", [1, 8, 8], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, 8, 8), np.uint8))
        return self.ask.infer(model, [tensor]).as_numpy("logits")

    def version(self, model: str) -> str:
        """The version that answers; over HTTP."""
        tensor = self.module.InferInput("image", [1, 8, 8], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, 8, 8), np.uint8))
        return str(self.ask.infer(model, [tensor]).get_response()["model_version"])


@pytest.fixture(params=["http", "grpc"])
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[Client]:
    connected = Client(request.param, server)
    yield connected
    connected.ask.close()


def test_a_model_comes_and_goes(client: Client, server: ServerProcess) -> None:
    """Ready, served and gone as its calls say; the worker processes are new ones, the old ones end."""
    assert "model_repository" in str(client.ask.get_server_metadata())
    assert client.index() == {
        "first": ("READY", ""),
        "second": ("UNAVAILABLE", client.index()["second"][1]),
        "third": ("UNAVAILABLE", client.index()["third"][1]),
        "broken": ("UNAVAILABLE", client.index()["broken"][1]),
    }
    assert not client.ask.is_model_ready("second")
    client.ask.load_model("second")
    assert client.ask.is_model_ready("second")
    assert client.index()["second"] == ("READY", "")
    assert client.infer("second").shape == (1, 10)
    client.ask.load_model("second")
    client.ask.unload_model("second")
    assert not client.ask.is_model_ready("second")
    assert client.index()["second"] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="not served"):
        client.infer("second")
    assert client.infer("first").shape == (1, 10)
    until = time.monotonic() + 10
    while len(workers(server)) > 2 and time.monotonic() < until:
        time.sleep(0.02)
    assert len(workers(server)) == 2


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("absent", ("404", "NOT_FOUND"), "no model 'absent'"),
        ("broken", ("400", "INVALID_ARGUMENT"), "config.json"),
        ("a b", ("400", "INVALID_ARGUMENT"), "no name of a model"),
    ],
)
def test_what_cannot_be_loaded_is_told(client: Client, name: str, status: tuple[str, str], words: str) -> None:
    """The others are served as before."""
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.ask.load_model(name)
    assert caught.value.status().removeprefix("StatusCode.") in status
    assert client.infer("first").shape == (1, 10)


def test_what_is_not_loaded_cannot_be_unloaded(client: Client) -> None:
    """Whether it could be loaded or not."""
    for name in ("second", "absent"):
        with pytest.raises(InferenceServerException, match="not served"):
            client.ask.unload_model(name)


def test_a_model_comes_from_the_repository_alone(client: Client) -> None:
    """Neither its files nor its configuration can be sent along."""
    with pytest.raises(InferenceServerException, match="config"):
        client.ask.load_model("second", config="{}")
    with pytest.raises(InferenceServerException, match="file:1/model"):
        client.ask.load_model("second", config="{}", files={"file:1/model": b"x"})
    assert not client.ask.is_model_ready("second")


def test_others_are_served_while_a_model_loads(client: Client, server: ServerProcess) -> None:
    """No request of theirs fails."""
    failures: list[Exception] = []
    done = threading.Event()
    client_of_thread = Client(client.transport, server)

    def ask() -> None:
        try:
            while not done.is_set():
                client_of_thread.infer("first")
        except Exception as error:  # noqa: BLE001  (told below)
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    client.ask.load_model("second")
    client.ask.unload_model("second")
    done.set()
    thread.join()
    client_of_thread.ask.close()
    assert not failures


def test_bodies_that_make_no_sense(server: ServerProcess) -> None:
    """Over HTTP; a method that is none of a path's."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    told = []
    for method, path, body in (
        ("POST", "/v2/repository/index", "["),
        ("POST", "/v2/repository/models/second/load", '{"parameters": 3}'),
        ("POST", "/v2/repository/models/..%2Fsecond/load", "{}"),
        ("GET", "/v2/repository/index", ""),
        ("POST", "/v2/repository/index", '{"ready": true}'),
    ):
        connection.request(method, path, body)
        response = connection.getresponse()
        told.append((response.status, json.load(response)))
    connection.close()
    assert [status for status, _ in told] == [400, 400, 400, 405, 200]
    assert told[-1][1] == [{"name": "first", "version": "1", "state": "READY"}]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_without_a_repository_it_is_off(tmp_path: Path, transport: str) -> None:
    """The error names the flag."""
    with serving(write_digits_like_folder(tmp_path / "first"), scratch=tmp_path) as running:
        off = Client(transport, running)
        for call in (off.ask.get_model_repository_index, lambda: off.ask.load_model("digits")):
            with pytest.raises(InferenceServerException, match="--model-repository") as caught:
                call()
            assert caught.value.status().removeprefix("StatusCode.") in {"501", "UNIMPLEMENTED"}
        assert "model_repository" not in str(off.ask.get_server_metadata())
        off.ask.close()


def test_a_new_version_takes_over_while_requests_come(server: ServerProcess) -> None:
    """Each is answered by one of the two, the old one before the new one, and none fails."""
    folder = server.log.parent / "models" / "rolling"
    client, asking = Client("http", server), Client("http", server)
    write_version(folder, "1")
    client.ask.load_model("rolling")
    versions: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            versions.append(asking.version("rolling"))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        write_version(folder, "2")
        client.ask.load_model("rolling")
        assert client.version("rolling") == "2"
    finally:
        stop.set()
        thread.join()
    assert versions == sorted(versions)
    assert set(versions) <= {"1", "2"}
    assert "1" in versions
    client.ask.unload_model("rolling")
    shutil.rmtree(folder)
    client.ask.close()
    asking.ask.close()


def write_version(folder: Path, version: str) -> None:
    """A model that says which version it is."""
    written = write_digits_like_folder(folder / version, folder.name)
    config = json.loads((written / "config.json").read_text())
    (written / "config.json").write_text(json.dumps(config | {"version": version}))


def workers(server: ServerProcess) -> list[Any]:
    """Its worker processes, those that are ending among them."""
    return [child for child in server.children() if "superserve.serving.worker" in command_line(child)]
