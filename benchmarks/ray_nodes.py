"""A Ray node that dies and one that joins, under load: what becomes of requests and their accuracy.

Run: ``python benchmarks/ray_nodes.py [--load 0.6] [--figure FILE] [--json FILE]`` in an environment with the extra
``ray`` (`make test-ray` makes one). A minute and a half.

Three emulated workers (R-PROFILE), one on each node; the load is a share of what they carry at the best subnet. All
processes of a node are killed after a third of the time; after two thirds another node joins.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import uvloop

from superserve.client.replay import replay_trace
from superserve.client.result import ReplayResult
from superserve.clock import NS_PER_S
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import write_json
from superserve.plots import NamedRun, dynamics_figure, figure_bytes
from superserve.profile import LatencyTable, Profile
from superserve.traces.arrivals import gamma

NODES: Final = 3
SLO_MS: Final = 2_000.0
SECONDS: Final = 45.0
DEVICE: Final = "emulated:r-profile"
#: Shared memory of a node: all that crosses is small.
_STORE_BYTES: Final = 80 << 20
_READY: Final = "is ready on node"
_START_S: Final = 180.0


class Report(msgspec.Struct):
    """All figures. ``accuracy``: mean, in per cent, with all nodes, with one less, and after another one has joined."""

    load: float
    row: ResultRow
    accuracy: list[float]
    joined_after_s: float
    """From the start of the node's processes to the first batch that its worker could take."""
    asked_twice: int
    """Batches that another worker was asked for as well."""


class Nodes:
    """A head for the server, and nodes of one processor."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster  # noqa: PLC0415  (reads its settings then)

        head = {"num_cpus": 0, "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self._cluster.address)
        self._nodes: list[Any] = []

    def add(self) -> None:
        """One more node."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=_STORE_BYTES))

    def kill(self) -> None:
        """All processes of a node, at once."""
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    def close(self) -> None:
        """End all of them."""
        self._cluster.shutdown()


@contextmanager
def serving(address: str, folder: Path) -> Iterator[str]:
    """``superserve serve`` on the cluster; its URL."""
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "superserve", "serve", "digits", "--device", DEVICE, "--workers", str(NODES)]
    command += ["--pool", "ray", "--ray-address", address, "--ready-file", str(ready)]
    command += [word for port in ("http", "grpc", "metrics") for word in (f"--{port}-port", "0")]
    with _log(folder).open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(lambda: ready.exists() or process.poll() is not None)
        yield str(msgspec.json.decode(ready.read_bytes())["url"])
    finally:
        process.terminate()
        process.wait(_START_S)


def measure(nodes: Nodes, load: float, folder: Path) -> tuple[Report, ReplayResult]:
    """One run."""
    for _ in range(NODES):
        nodes.add()
    table = LatencyTable(Profile.load("r-profile"))
    best_rate = NODES * table.max_rows / (table.latency_ns[-1][table.max_rows] / NS_PER_S)
    trace = gamma(load * best_rate, 1.0, SECONDS, np.random.default_rng(0))
    with serving(nodes.address, folder) as url, ThreadPoolExecutor(1) as thread:
        _wait(lambda: _count(folder, _READY) == NODES)
        replaying = thread.submit(lambda: uvloop.run(replay_trace(trace, url, "digits", slo_ms=SLO_MS, seed=0)))
        time.sleep(SECONDS / 3)
        nodes.kill()
        time.sleep(SECONDS / 3)
        begun_s = time.monotonic()
        nodes.add()
        _wait(lambda: _count(folder, _READY) == NODES + 1)
        joined_after_s = time.monotonic() - begun_s
        result = replaying.result()
    row = summarise(result.log, policy="drainfit", trace=trace.name, seed=0, workers=NODES, slo_ms=SLO_MS)
    at_s = result.log.arrival_ns / NS_PER_S
    third_s = SECONDS / 3
    # Each third's last two thirds: what was under way when a node came or went is of neither.
    accuracy = [
        float(np.nanmean(result.log.accuracy[(at_s > (third + 1 / 3) * third_s) & (at_s < (third + 1) * third_s)]))
        for third in range(3)
    ]
    return Report(load, row, accuracy, joined_after_s, _count(folder, "no answer after")), result


def _wait(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > until_s:
            raise TimeoutError(f"nothing within {_START_S:g} s")
        time.sleep(0.05)


def _log(folder: Path) -> Path:
    return folder / "server.log"


def _count(folder: Path, text: str) -> int:
    return _log(folder).read_text().count(text)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--load", type=float, default=0.6, help="share of what three workers carry at the best subnet")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the run (PNG)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray-nodes-") as folder:
        nodes = Nodes()
        try:
            report, result = measure(nodes, args.load, Path(folder))
        finally:
            nodes.close()
    row = report.row
    print(f"load {report.load:g}: {row.offered} offered, {row.served} in time, {row.failed} failed, {row.late} late")
    print(f"accuracy {', '.join(f'{each:.2f}' for each in report.accuracy)} % with 3, 2 and 3 nodes")
    print(f"batches that two workers were asked for: {report.asked_twice}; joined after {report.joined_after_s:.1f} s")
    print(f"p99 send lateness {result.p99_lateness_ms:.1f} ms")
    if args.json is not None:
        write_json(args.json, report)
    if args.figure is not None:
        title = f"A node dies after {SECONDS / 3:g} s, another one joins after {2 * SECONDS / 3:g} s"
        args.figure.write_bytes(figure_bytes(dynamics_figure([NamedRun("drainfit", result.log)], title=title), "png"))


if __name__ == "__main__":
    main()
