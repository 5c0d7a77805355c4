"""``superserve serve`` as a child process of a test."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 30.0


@dataclass
class ServerProcess:
    """A server that is ready. ``log`` is its standard error."""

    url: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")

    @property
    def port(self) -> int:
        """The port."""
        return int(self.url.rpartition(":")[2])

    def children(self) -> list[psutil.Process]:
        """Its worker processes."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def stop(self, timeout_s: float = 10.0) -> int:
        """End it as an operator would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


@contextmanager
def serving(
    folder: Path, *arguments: str | Path, scratch: Path, device: str = "emulated:r-profile", start_s: float = START_S
) -> Iterator[ServerProcess]:
    """Serve a model on a free port; ready inside the block, after ``start_s`` at most, and gone after it."""
    command = [sys.executable, "-m", "superserve", "serve", str(folder), "--device", device]
    with running(command, *arguments, scratch=scratch, start_s=start_s) as server:
        yield server


@contextmanager
def running(
    command: Sequence[str | Path],
    *arguments: str | Path,
    scratch: Path,
    start_s: float = START_S,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ServerProcess]:
    """The same for any command that serves; ``environment`` instead of this process's."""
    ready, log = scratch / "ready.json", scratch / "server.log"
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    whole = [*command, *ports, "--ready-file", ready, *arguments]
    with log.open("wb") as file:
        process = subprocess.Popen(list(map(str, whole)), stderr=file, stdout=file, env=environment)
    try:
        url, grpc = _wait(ready, process, log, start_s)
        yield ServerProcess(url, grpc, process, log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(ready: Path, process: subprocess.Popen[bytes], log: Path, start_s: float) -> tuple[str, str]:
    until = time.monotonic() + start_s
    while time.monotonic() < until and process.poll() is None:
        if ready.exists():
            note = json.loads(ready.read_bytes())
            assert note["pid"] == process.pid
            return str(note["url"]), str(note["grpc"])
        time.sleep(0.02)
    raise AssertionError(f"the server is not ready, exit code {process.poll()}:\n{log.read_text()}")
