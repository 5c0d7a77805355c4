"""What Ray itself does for the pool, and what is said where it cannot."""

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import ray

from superserve.client import Client
from superserve.clock import MonotonicClock
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder, bundled_models
from superserve.serving.choice import choose_engine
from superserve.serving.devices import workers_for
from superserve.serving.engines import load_engine
from superserve.serving.ipc import Setup
from superserve.serving.pool import Batch, BatchResult
from superserve.serving.ray_cluster import connected
from superserve.serving.ray_messages import HELLO, LOAD_ANSWER, Load, Loaded, Missing, encode
from superserve.serving.ray_models import source_of
from superserve.serving.ray_pool import RayPool
from support.ray_nodes import Nodes
from support.server_process import serving


@pytest.fixture(scope="module", autouse=True)
def _workers(nodes: Nodes) -> Iterator[None]:
    """Two nodes for workers."""
    found = [nodes.add() for _ in range(2)]
    yield
    for node in found:
        nodes.kill(node)


def test_answers_are_those_of_local_workers(nodes: Nodes, tmp_path: Path) -> None:
    """On real workers of two nodes; to rounding, for they run on one thread."""
    folder = ModelFolder(bundled_models()["digits"], bundled=True)
    images = folder.test_data()[0][:8]
    engine = load_engine(folder, choose_engine(folder, engine="eager"))
    expected = engine.run(len(engine.subnet_ids) - 1, [images])[0].copy()
    options = ("--pool", "ray", "--ray-address", nodes.address, "--policy", "fixed:largest", "--workers", "2")
    with serving(Path("digits"), *options, scratch=tmp_path, device="cpu", start_s=240) as server:
        with Client(server.url) as client:
            spec = folder.config.inputs[0]
            answers = [client.infer("digits", {spec.name: images}, slo_ms=10_000) for _ in range(4)]
        assert server.stop(60) == 0
    for answer in answers:
        np.testing.assert_allclose(answer.outputs[folder.config.outputs[0].name], expected, rtol=1e-5)


def test_a_node_that_lacks_the_model_gets_it_once(nodes: Nodes, tmp_path: Path) -> None:
    """Through Ray's object store, into a folder of its own; the next worker there finds it."""
    shutil.copytree(bundled_models()["digits"], tmp_path / "router")
    folder = ModelFolder(tmp_path / "router")
    spec = workers_for(folder, choose_engine(folder, engine="eager"))
    source = source_of(spec)
    assert source is not None
    elsewhere = msgspec.structs.replace(source, path="/nowhere")
    request = encode(Load((Setup(0, spec),), {0: elsewhere}))
    with connected(nodes.address, "cpu") as cluster:
        first = cluster.create(0)
        assert LOAD_ANSWER.decode(first.call("load", request).result(120)) == Missing((0,))
        loaded = LOAD_ANSWER.decode(first.call("load", request, (0,), cluster.put(source)).result(120))
        assert isinstance(loaded, Loaded)
        second = cluster.create(0)
        assert isinstance(LOAD_ANSWER.decode(second.call("load", request).result(120)), Loaded)
        for actor in (first, second):
            actor.kill()


def test_a_refused_node_is_left_out(nodes: Nodes) -> None:
    """What is created next is placed elsewhere."""
    with connected(nodes.address, "cpu") as cluster:
        first = cluster.create(0)
        refused = HELLO.decode(first.call("hello").result(60)).node
        first.kill()
        cluster.refuse(refused, 0)
        for _ in range(2):
            actor = cluster.create(0)
            assert HELLO.decode(actor.call("hello").result(60)).node != refused
            actor.kill()


class Listener:
    """Hears of one batch."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_worker_ready(self, worker: int) -> None:
        assert worker == 0

    def on_worker_overlaps(self, worker: int, *, overlaps: bool) -> None:
        raise AssertionError(f"worker {worker} overlaps batches: {overlaps}")

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        assert worker == 0
        self.answer.set_result(bytes(result.outputs[0]))

    def on_batch_failed(self, worker: int, message: str) -> None:
        raise AssertionError(f"worker {worker}: {message}")

    def on_batch_overdue(self, worker: int) -> None:
        raise AssertionError(f"worker {worker}: nobody said when it is due")

    def on_worker_lost(self, worker: int, reason: str) -> None:
        raise AssertionError(f"worker {worker}: {reason}")


async def test_batches_of_any_size(nodes: Nodes) -> None:
    """Those that the loop hands to Ray, those that a thread does, and those that go through Ray's object store."""
    folder = ModelFolder(bundled_models()["digits"], bundled=True)
    spec = workers_for(folder, choose_engine(folder, "emulated:r-profile"))
    large = msgspec.structs.replace(spec.inputs[0], shape=(-1, 200, 400))
    spec = msgspec.structs.replace(spec, inputs=(large,))
    with connected(nodes.address, "cpu") as cluster:
        pool = RayPool([spec], cluster, MonotonicClock(asyncio.get_running_loop()), 1)
        listener = Listener()
        await pool.start(listener)
        for rows in (1, 2, 16):  # 80 KB, 160 KB, 1.3 MB
            listener.answer = asyncio.get_running_loop().create_future()
            worker = 0
            pool.launch(worker, Batch(0, rows, [[bytes(large.row_bytes)]] * rows))
            assert len(await listener.answer) == rows * spec.outputs[0].row_bytes
        await pool.stop()


def serve(*arguments: str) -> tuple[int, str]:
    """A server that cannot start: its exit code and what it says."""
    command = [sys.executable, "-m", "superserve", "serve", "digits", "--device", "emulated:r-profile", "--pool", "ray"]
    done = subprocess.run(
        [*command, "--http-port", "0", *arguments], check=False, capture_output=True, text=True, timeout=200
    )
    return done.returncode, done.stderr


def test_nobody_listens() -> None:
    """Within seconds, with what would help."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    status, error = serve("--ray-address", f"127.0.0.1:{port}")
    assert (status, "Traceback" in error) == (2, False)
    assert f"127.0.0.1:{port}" in error
    assert "ray start --head" in error


@pytest.mark.parametrize(
    ("address", "named"), [("ray://127.0.0.1:10001", "on a node"), ("127.0.0.1", "host:port"), ("a:b", "host:port")]
)
def test_an_address_that_is_none(address: str, named: str) -> None:
    """What it has to look like."""
    with pytest.raises(ConfigError, match=named), connected(address, "cpu"):
        pass


def test_another_version_of_ray(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both versions are named."""
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with pytest.raises(ConfigError, match=r"Version mismatch.*2\.0\.0"), connected(nodes.address, "cpu"):
        pass


async def test_a_gpu_where_there_is_none(nodes: Nodes) -> None:
    """At once: no worker waits for what does not exist."""
    folder = ModelFolder(bundled_models()["digits"], bundled=True)
    spec = workers_for(folder, choose_engine(folder, engine="eager"))
    with connected(nodes.address, "cuda") as cluster:
        pool = RayPool([spec], cluster, MonotonicClock(asyncio.get_running_loop()))
        with pytest.raises(ConfigError, match=r"on cuda needs CPU: 1, GPU: 1.*GPU: 0.*--device"):
            await pool.start(_nobody())


def _nobody() -> Any:
    return None
