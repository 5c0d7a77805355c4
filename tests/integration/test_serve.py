"""``superserve serve`` as an operator meets it: start, refusals, signals, and nothing left behind."""

import asyncio
import http.client
import json
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from superserve.model_folder import write_json
from superserve.profile import Device, Profile, SubnetProfile
from support.folders import write_digits_like_folder
from support.processes import command_line
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits_like_folder(tmp_path_factory.mktemp("model") / "digits")


def slow_profile(path: Path, milliseconds: float) -> Path:
    """A device with one subnet that takes its time."""
    row = (1000.0 * milliseconds,)
    device = Device(name="slow", kind="fixture", threads=1, engine="none", dtype="float32", torch="none")
    subnet = SubnetProfile(id="only", accuracy=90.0, p50_us=row, p95_us=row, p99_us=row)
    write_json(
        path, Profile(device=device, model_hash="none", batches=(1,), dispatch_overhead_us=0.0, subnets=(subnet,))
    )
    return path


def infer_bytes(path: str = "/v2/models/digits/infer", **parameters: Any) -> bytes:
    """One infer request in JSON, as bytes for a socket."""
    tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    body = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def infer_on(server: ServerProcess, path: str = "/v2/models/digits/infer", **parameters: Any) -> Any:
    """Infer; the JSON of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("POST", path, infer_bytes(**parameters).partition(b"\r\n\r\n")[2])
    response = connection.getresponse()
    answer = json.load(response)
    connection.close()
    assert response.status == 200, answer
    return answer


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a ``serve`` that is expected to end by itself."""
    command = [sys.executable, "-m", "superserve", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_it_serves_and_ends_without_a_trace(folder: Path, tmp_path: Path) -> None:
    """Workers are there while it runs; after SIGTERM process, workers and port are gone, and the exit code is 0."""
    with serving(folder, "--workers", "2", "--slo-ms", "500", scratch=tmp_path) as server:
        workers = server.children()
        answer = infer_on(server)
        assert server.stop() == 0
    assert answer["parameters"]["superserve_emulated"] is True
    assert answer["outputs"][0]["shape"] == [1, 10]
    assert len([worker for worker in workers if not worker.is_running()]) == len(workers) >= 2
    assert f"at {server.url}" in server.log.read_text()
    with pytest.raises(ConnectionRefusedError):
        infer_on(server)


async def test_sigterm_answers_what_is_in_flight(folder: Path, tmp_path: Path) -> None:
    """A request that was launched is answered after the signal; a new one on the same connection gets 503."""
    device = f"emulated:{slow_profile(tmp_path / 'slow.json', 700)}"
    with serving(folder, "--slo-ms", "5000", scratch=tmp_path, device=device) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(infer_bytes())
        await asyncio.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        writer.write(infer_bytes())
        received = await asyncio.wait_for(reader.read(), 8)
        writer.close()
        code = await asyncio.to_thread(server.process.wait, 8)
    assert [received.count(b"HTTP/1.1 %d" % status) for status in (200, 503)] == [1, 1]
    assert received.index(b" 200 ") < received.index(b" 503 ")
    assert code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_does_not_wait(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """With a request that would take half a minute it ends at once, and its workers with it."""
    device = f"emulated:{slow_profile(tmp_path / 'slow.json', 30_000)}"
    with serving(folder, "--slo-ms", "60000", scratch=tmp_path, device=device) as server:
        workers = server.children()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(infer_bytes())
        await asyncio.sleep(0.2)
        for _ in range(2):
            server.process.send_signal(number)
            await asyncio.sleep(0.2)
        code = await asyncio.to_thread(server.process.wait, 8)
        writer.close()
    assert code == 0
    assert not any(worker.is_running() for worker in workers)


def test_without_workers_it_says_so_and_is_back_with_them(folder: Path, tmp_path: Path) -> None:
    """It lives, is not ready, and refuses requests for a while; nobody has to start it again."""
    with serving(folder, "--workers", "2", "--slo-ms", "500", scratch=tmp_path) as server:
        template, *workers = sorted(
            server.children(), key=lambda child: "superserve.serving.worker" in command_line(child)
        )
        template.suspend()  # there will be no others
        for worker in workers:
            worker.kill()
        until = time.monotonic() + 20
        while get(server, "/v2/health/ready").status == 200 and time.monotonic() < until:
            time.sleep(0.01)
        assert get(server, "/v2/health/ready").status == 503
        assert get(server, "/v2/health/live").status == 200
        refused = get(server, "/v2/models/digits/infer", infer_bytes().partition(b"\r\n\r\n")[2])
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "1"
        template.resume()
        while get(server, "/v2/health/ready").status != 200 and time.monotonic() < until:
            time.sleep(0.01)
        assert infer_on(server)["parameters"]["slo_met"] is True


def test_connections_beyond_its_descriptors_are_closed_and_others_served(folder: Path, tmp_path: Path) -> None:
    """It neither stops accepting nor spins meanwhile."""
    with serving(folder, scratch=tmp_path) as server:
        process = psutil.Process(server.process.pid)
        limit = process.num_fds() + 10
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        with ExitStack() as stack:
            opened = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5)) for _ in range(40)
            ]
            before = process.cpu_times()
            time.sleep(0.5)
            after = process.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.25
            assert sum(is_live(connection) for connection in opened) == 10
        until = time.monotonic() + 10
        while not (served := is_served(server)) and time.monotonic() < until:  # it sees the others go one by one
            time.sleep(0.05)
        assert served


def is_live(connection: socket.socket) -> bool:
    """Whether the server answers on a connection."""
    with suppress(ConnectionError):
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    return False


def is_served(server: ServerProcess) -> bool:
    """Whether the server answers on a new connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        return is_live(connection)


def get(server: ServerProcess, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
    """Ask it something on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET" if body is None else "POST", path, body)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def test_a_signal_while_workers_start_ends_it(folder: Path) -> None:
    """Nothing stays behind of a server that was never ready."""
    command = [sys.executable, "-m", "superserve", "serve", str(folder), "--http-port", "0", "--grpc-port", "0"]
    command += ["--metrics-port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "emulated:r-profile", "--workers", "2"], stderr=subprocess.PIPE, text=True
    )
    handle = psutil.Process(process.pid)
    until = time.monotonic() + 20
    while not (workers := handle.children(recursive=True)) and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not any(worker.is_running() for worker in workers)


def test_a_port_in_use_is_named(folder: Path, tmp_path: Path) -> None:
    """With the flag that changes it, as a usage error; the server that has the port goes on."""
    with serving(folder, scratch=tmp_path) as server:
        second = run(str(folder), "--device", "emulated:r-profile", "--http-port", str(server.port))
        assert infer_on(server, timeout=1_000_000)["parameters"]["slo_met"] is True
    assert second.returncode == 2
    assert f"port {server.port}" in second.stderr
    assert "--http-port" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-model"], ["no-such-model", "digits"]),
        (["FOLDER", "--policy", "slackfitt"], ["--policy", "slackfitt", "slackfit"]),
        (["FOLDER", "--policy", "fixed:huge", "--device", "emulated:r-profile"], ["fixed:huge", "largest"]),
        (["FOLDER", "--device", "gpu"], ["--device", "gpu", "emulated:PROFILE"]),
        (["FOLDER", "--device", "emulated:absent.json"], ["absent.json"]),
        (["FOLDER", "--config", "absent.toml"], ["absent.toml"]),
        (["FOLDER", "--workers", "0"], ["--workers", "workers.count"]),
        (["digits", "--profile", "PROFILE"], ["another model", "superserve profile"]),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    """Exit code 2, the name of what is wrong, and no traceback."""
    known = {"FOLDER": str(folder), "PROFILE": str(slow_profile(tmp_path / "other.json", 1))}
    ended = run(*(known.get(argument, argument) for argument in arguments))
    assert ended.returncode == 2, ended.stderr
    flat = " ".join(ended.stderr.split())
    assert all(word in flat for word in words), ended.stderr
    assert "Traceback" not in ended.stderr
