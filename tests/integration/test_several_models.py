"""Several models behind one ``superserve serve``, asked by an unmodified ``tritonclient``."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from support.folders import write_digits_like_folder
from support.processes import command_line
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

CONFIG = """
[models.second]
policy = "fixed:smallest"
slo_ms = 700

[models.third]
source = "{third}"
timeout_action = "delay"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    scratch = tmp_path_factory.mktemp("several")
    first, second, third = (write_digits_like_folder(scratch / name, name) for name in ("first", "second", "third"))
    config = scratch / "server.toml"
    config.write_text(CONFIG.format(third=third))
    with serving(first, second, "--config", config, "--workers", "2", "--slo-ms", "1000", scratch=scratch) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(server: ServerProcess, request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """A client's module, and a client of it."""
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    connected = module.InferenceServerClient(server.address if request.param == "http" else server.grpc)
    yield module, connected
    connected.close()


def image(module: Any) -> Any:
    tensor = module.InferInput("image", [1, 8, 8], "UINT8")
    tensor.set_data_from_numpy(np.zeros((1, 8, 8), np.uint8))
    return tensor


def test_each_model_answers_under_its_own_settings(client: tuple[Any, Any]) -> None:
    """Policy and SLO by name; a flag holds for all of them."""
    module, ask = client
    for name in ("first", "second", "third"):
        assert ask.is_model_ready(name)
        answer = ask.infer(name, [image(module)])
        assert answer.as_numpy("logits").shape == (1, 10)
    assert ask.is_server_ready()


def test_configurations_differ(server: ServerProcess) -> None:
    """The flag ``--slo-ms`` beats what the file says of a model."""
    ask = tritonclient.http.InferenceServerClient(server.address)
    policies = {
        name: ask.get_model_config(name)["dynamic_batching"]["default_queue_policy"]
        for name in ("first", "second", "third")
    }
    assert {policy["default_timeout_microseconds"] for policy in policies.values()} == {1_000_000}
    assert [policies[name]["timeout_action"] for name in policies] == ["REJECT", "REJECT", "DELAY"]
    subnets = {
        name: ask.infer(name, [image(tritonclient.http)]).get_response()["parameters"]["superserve_subnet"]
        for name in ("first", "second")
    }
    assert subnets["first"] != subnets["second"], "one has the default policy, one the smallest subnet"
    ask.close()


def test_a_killed_worker_comes_back_with_every_model(server: ServerProcess) -> None:
    """No request is lost by it."""
    ask = tritonclient.http.InferenceServerClient(server.address, concurrency=8)
    calls = [ask.async_infer(name, [image(tritonclient.http)]) for name in ("first", "second", "third") * 10]
    victim = next(child for child in server.children() if "superserve.serving.worker" in command_line(child))
    victim.kill()
    assert all(call.get_result().as_numpy("logits").shape == (1, 10) for call in calls)
    until = time.monotonic() + 20
    while len(server.children()) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    for name in ("first", "second", "third") * 5:
        ask.infer(name, [image(tritonclient.http)])
    ask.close()


def test_what_is_wrong_with_one_of_them_is_told_at_the_start(tmp_path: Path) -> None:
    """Two models of one name cannot be served."""
    folders = [write_digits_like_folder(tmp_path / name) for name in ("one", "two")]
    with (
        pytest.raises(AssertionError, match="exit code 2"),
        serving(*folders, scratch=tmp_path),
    ):
        pass
    assert "both hold a model 'digits'" in " ".join((tmp_path / "server.log").read_text().split())
