"""Runs `loadgen.c` and reads what it recorded."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from peers.catalog import Peer
from peers.jobs import Job
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.serving.cores import available_cores, pinned

SOURCE: Final = Path(__file__).with_name("loadgen.c")
#: Beyond the length of a run: connecting, writing the records.
_MARGIN_S: Final = 15.0
_RECORD: Final = np.dtype(
    [(name, np.int64) for name in ("scheduled", "ready", "sent", "done")] + [("status", np.int32), ("bytes", np.int32)]
)
_OK: Final = 200


class GeneratorError(Exception):
    """The generator could not do its work."""


@dataclass(frozen=True)
class Run:
    """What came of one run: ``records`` as in `loadgen.c`, in nanoseconds from its start; ``body`` the last answer."""

    records: "np.ndarray[Any, Any]"
    elapsed_s: float
    reconnects: int
    body: bytes

    @property
    def ok(self) -> "np.ndarray[Any, np.dtype[np.bool_]]":
        """Which requests were answered with success."""
        good: np.ndarray[Any, np.dtype[np.bool_]] = self.records["status"] == _OK
        return good

    @property
    def latency_ms(self) -> "np.ndarray[Any, np.dtype[np.float64]]":
        """Of those: from the scheduled time to the whole answer."""
        done = self.records[self.ok]
        latency: np.ndarray[Any, np.dtype[np.float64]] = (done["done"] - done["scheduled"]) / NS_PER_MS
        return latency

    def rate(self) -> float:
        """Successful answers per second, the first fifth of the run left out."""
        done = self.records["done"][self.ok] / NS_PER_S
        begin_s = self.elapsed_s / 5
        return float(np.count_nonzero((done >= begin_s) & (done <= self.elapsed_s)) / (self.elapsed_s - begin_s))

    def quantile_ms(self, quantile: float) -> float:
        """Of the latency; NaN if nothing was answered."""
        return float(np.quantile(self.latency_ms, quantile)) if self.ok.any() else float("nan")

    def goodput(self, deadline_ms: float) -> float:
        """The share of all requests that were answered within a deadline."""
        return float(np.count_nonzero(self.latency_ms <= deadline_ms) / len(self.records))

    def lateness_ms(self) -> float:
        """How late the generator itself sent, p99."""
        sent = self.records[self.records["sent"] > 0]
        return float(np.quantile(sent["sent"] - sent["ready"], 0.99) / NS_PER_MS) if len(sent) else 0.0


def build() -> Path:
    """Compile the generator if its source is newer than it.

    Raises:
        GeneratorError: if there is no compiler, or it fails.
    """
    binary = Path(tempfile.gettempdir()) / f"peers-loadgen-{SOURCE.stat().st_mtime_ns}"
    if not binary.exists():
        with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:  # another process may be about to run it
            built = Path(scratch) / binary.name
            try:
                subprocess.run(["cc", "-O2", "-o", str(built), str(SOURCE)], check=True)  # noqa: S607  (the system's)
            except (OSError, subprocess.CalledProcessError) as error:
                raise GeneratorError(f"cc cannot build {SOURCE}: {error}") from error
            built.replace(binary)
    return binary


def run(
    peer: Peer,
    port: int,
    request: bytes,
    schedule_ns: "np.ndarray[Any, Any] | None",
    *,
    connections: int,
    seconds: float,
) -> Run:
    """Send requests from the last core.

    Args:
        peer: says which protocol.
        port: where it listens.
        request: the bytes of every request.
        schedule_ns: arrivals from the start, int64; None: closed loop.
        connections: how many.
        seconds: length of a closed loop; how long to wait for the last answers of a schedule.

    Raises:
        GeneratorError: if the generator fails.
    """
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        (folder / "request").write_bytes(request)
        (folder / "schedule").write_bytes(b"" if schedule_ns is None else schedule_ns.astype(np.int64).tobytes())
        files = [str(folder / part) for part in ("request", "schedule", "records", "body")]
        command = [str(build()), peer.protocol, str(port), str(connections), *files[:2], str(seconds), *files[2:]]
        length_s = seconds + (0.0 if schedule_ns is None else float(schedule_ns[-1]) / NS_PER_S)
        with pinned(available_cores()[-1]):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, timeout=length_s + _MARGIN_S
                )
            except subprocess.TimeoutExpired:
                raise GeneratorError(f"the generator did not end within {length_s + _MARGIN_S:.0f} s") from None
        if done.returncode:
            raise GeneratorError(done.stderr.strip())
        elapsed_ns, reconnects = (int(word) for word in done.stdout.split())
        records = np.fromfile(folder / "records", _RECORD)
        return Run(records, elapsed_ns / NS_PER_S, reconnects, (folder / "body").read_bytes())


def ask_once(peer: Peer, job: Job, port: int) -> bool:
    """Whether a server answers one request.

    Raises:
        GeneratorError: if nobody listens.
    """
    answer = run(peer, port, peer.message(job), np.zeros(1, np.int64), connections=1, seconds=5.0)
    return bool(answer.ok.all())
