"""Servers on a Ray cluster, and loads that run beside what happens to it."""

import contextlib
import http.client
import json
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from superserve.client.replay import replay_trace
from superserve.client.result import ReplayResult
from superserve.clock import NS_PER_S
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import write_json
from superserve.profile import LatencyTable, Profile
from superserve.traces.arrivals import gamma
from support.server_process import ServerProcess, serving

DIGITS = "digits"
SECONDS = 10.0
SLOWER = 4.0
#: Ray itself tells of a node that has died after more than three.
SLO_MS = 2_000.0


@dataclass
class Run:
    """A load that runs in a thread of its own."""

    thread: threading.Thread
    results: list[ReplayResult]

    def result(self) -> ReplayResult:
        """Once it has ended."""
        self.thread.join()
        return self.results[0]


def begin(server: ServerProcess, rate: float, slo_ms: float, seconds: float = SECONDS) -> Run:
    """Requests at random times."""
    trace = gamma(rate, 1.0, seconds, np.random.default_rng(3))
    results: list[ReplayResult] = []

    def run() -> None:
        results.append(uvloop.run(replay_trace(trace, server.url, DIGITS, slo_ms=slo_ms, seed=0)))

    thread = threading.Thread(target=run)
    thread.start()
    return Run(thread, results)


def row_of(result: ReplayResult, slo_ms: float) -> ResultRow:
    """What came of a load."""
    return summarise(result.log, policy="live", trace="load", seed=0, workers=3, slo_ms=slo_ms)


def slow_profile() -> Profile:
    """So slow that workers are what there is little of, not the processors of a machine that others use, too."""
    profile = Profile.load("r-profile")

    def slower(row_us: Sequence[float]) -> tuple[float, ...]:
        return tuple(SLOWER * each for each in row_us)

    subnets = [
        msgspec.structs.replace(
            subnet, p50_us=slower(subnet.p50_us), p95_us=slower(subnet.p95_us), p99_us=slower(subnet.p99_us)
        )
        for subnet in profile.subnets
    ]
    return msgspec.structs.replace(profile, subnets=tuple(subnets))


def best_rate() -> float:
    """Requests of one row a second that a worker carries at the best subnet."""
    table = LatencyTable(slow_profile())
    return table.max_rows / (table.latency_ns[-1][table.max_rows] / NS_PER_S)


@contextlib.contextmanager
def on_ray(address: str, scratch: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server of `DIGITS` whose workers emulate `slow_profile`."""
    profile = scratch / "profile.json"
    write_json(profile, slow_profile())
    options = ("--pool", "ray", "--ray-address", address, *arguments)
    with serving(Path(DIGITS), *options, scratch=scratch, device=f"emulated:{profile}", start_s=240) as server:
        yield server


def asked(port: int, method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """The body of an answer with status 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    found = response.read()
    connection.close()
    assert response.status == 200, found
    return found


def attempts_of(server: ServerProcess, requests: int) -> list[dict[str, Any]]:
    """What `superserve why` tells of the batch that answered each of so many requests, of which eight come at once."""
    tensor = {"name": "image", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}

    def attempt(number: int) -> dict[str, Any]:
        sent = {"inputs": [tensor]}
        asked(server.port, "POST", f"/v2/models/{DIGITS}/infer", sent, **{"x-request-id": f"r{number}"})
        told: dict[str, Any] = json.loads(asked(server.port, "GET", f"/v2/decisions/r{number}"))["attempts"][-1]
        return told

    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(attempt, range(requests)))


def places(log: Path) -> dict[int, tuple[str, str]]:
    """By worker: the first characters of the id of the node where it is, and what that calls itself."""
    found = re.findall(r"worker (\d+) is ready on node (\w+) \((.*?)\)", log.read_text())
    return {int(worker): (node, host) for worker, node, host in found}
