"""Server processes: all of them on one core, and none of them left behind."""

import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from peers.catalog import Peer, Tuning
from peers.environments import ROOT, python_of
from peers.generator import GeneratorError, ask_once
from peers.jobs import Job
from superserve.serving.cores import available_cores, pinned
from superserve.serving.worker_environment import MALLOC_ENVIRONMENT, THREAD_ENVIRONMENT

READY_LIMIT_S: Final = 180.0
GRACE_S: Final = 8.0
#: Names every process of a server, whatever it does to its session, its parent or its title; and of a folder of runs.
_MARK: Final = "PEERS_RUN"
_FOLDER: Final = "PEERS_FOLDER"
_LAST_LINES: Final = 15
#: A server may want the ports behind its own for what it serves besides.
_PORTS: Final = 3
#: Below those that Linux gives to connections: a server may bind its ports only after half a minute.
_FIRST_PORT: Final = 20_000
_LAST_PORT: Final = 32_000


class ServerError(Exception):
    """A server did not start; the message has the end of its log."""


@dataclass(eq=False)
class RunningServer:
    """A server that answers. ``port`` is where."""

    peer: Peer
    job: Job
    port: int
    mark: str

    def cpu_s(self) -> float:
        """CPU time that its processes have used so far."""
        total = 0.0
        for pid in _marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        return total

    def pause(self) -> None:
        """Take the core from it while another server is measured."""
        if self.peer.pausable:
            _signal_all(self.mark, signal.SIGSTOP)

    def resume(self) -> None:
        """Give it back."""
        _signal_all(self.mark, signal.SIGCONT)


@contextmanager
def running(peer: Peer, job: Job, log: Path, tuning: Tuning | None = None) -> Iterator[RunningServer]:
    """A server of a job on the first core, from its first answer to the end of its last process.

    Raises:
        NotInstallableError: if its environment cannot be made.
        ServerError: if it gives no answer in time.
    """
    mark, port = secrets.token_hex(8), _free_ports()
    tuning = tuning or peer.tuning[job.name]
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as scratch:
        process = _start(peer, job, port=port, mark=mark, log=log, tuning=tuning, scratch=scratch)
        try:
            _wait(peer, job, port, process, log)
            yield RunningServer(peer, job, port, mark)
        finally:
            _end(process, mark)


def end_leftovers(folder: Path) -> None:
    """End the servers of an earlier run with this folder, which was killed before it could end them."""
    _kill(_FOLDER, str(folder.resolve()))


def _start(
    peer: Peer, job: Job, *, port: int, mark: str, log: Path, tuning: Tuning, scratch: str
) -> "subprocess.Popen[bytes]":
    command = [str(python_of(peer)), "-m", f"peers.servers.{peer.module}", "--job", job.name, "--port", str(port)]
    command += ["--rows", str(tuning.rows), "--wait-us", str(tuning.wait_us)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])
    environment = os.environ | MALLOC_ENVIRONMENT | THREAD_ENVIRONMENT | dict(peer.environ)
    environment |= {"PYTHONPATH": path, _MARK: mark, "PATH": f"{python_of(peer).parent}:{os.environ['PATH']}"}
    environment[_FOLDER] = str(log.parent.resolve())
    environment["TMPDIR"] = scratch  # servers that are killed leave their files behind
    with log.open("wb") as output, pinned(available_cores()[0]):
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _wait(peer: Peer, job: Job, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Ask until it answers."""
    give_up_s = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < give_up_s and process.poll() is None:
        with suppress(GeneratorError):
            if ask_once(peer, job, port):
                return
        time.sleep(0.3)
    tail = log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
    raise ServerError("\n".join([f"{peer.name} gave no answer", *tail]))


def _end(process: "subprocess.Popen[bytes]", mark: str) -> None:
    _signal_all(mark, signal.SIGCONT)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _kill(_MARK, mark)
    process.wait()


def _kill(name: str, value: str) -> None:
    until_s = time.monotonic() + 2.0
    while _marked(value, name) and time.monotonic() < until_s:
        _signal_all(value, signal.SIGKILL, name)
        time.sleep(0.05)


def _marked(mark: str, name: str = _MARK) -> list[int]:
    wanted = f"{name}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
    return found


def _signal_all(mark: str, number: signal.Signals, name: str = _MARK) -> None:
    for pid in _marked(mark, name):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _free_ports() -> int:
    """The first of a few free ports in a row."""
    while True:
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        if all(_is_free(port + offset) for offset in range(_PORTS)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
