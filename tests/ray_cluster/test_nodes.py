"""Nodes that come and go under a server, with requests under way."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop

from superserve.client.replay import replay_trace
from superserve.client.result import ReplayResult
from superserve.clock import NS_PER_S
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import write_json
from superserve.profile import LatencyTable, Profile
from superserve.serving.ray_cluster import connected
from superserve.traces.arrivals import gamma
from support.ray_nodes import Nodes, says, wait_for
from support.server_process import ServerProcess, serving

DIGITS = "digits"
SECONDS = 10.0
SLOWER = 4.0
#: Ray itself tells of a node that has died after more than three.
SLO_MS = 2_000.0


@pytest.fixture(scope="module")
def workers(nodes: Nodes) -> list[Any]:
    """Three nodes for workers."""
    return [nodes.add() for _ in range(3)]


@dataclass
class Run:
    """A load that runs in a thread of its own."""

    thread: threading.Thread
    results: list[ReplayResult]

    def result(self) -> ReplayResult:
        self.thread.join()
        return self.results[0]


def begin(server: ServerProcess, rate: float, slo_ms: float, seconds: float = SECONDS) -> Run:
    trace = gamma(rate, 1.0, seconds, np.random.default_rng(3))
    results: list[ReplayResult] = []

    def run() -> None:
        results.append(uvloop.run(replay_trace(trace, server.url, DIGITS, slo_ms=slo_ms, seed=0)))

    thread = threading.Thread(target=run)
    thread.start()
    return Run(thread, results)


def row_of(result: ReplayResult, slo_ms: float) -> ResultRow:
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
def on_ray(nodes: Nodes, scratch: Path, *arguments: str) -> Iterator[ServerProcess]:
    profile = scratch / "profile.json"
    write_json(profile, slow_profile())
    options = ("--pool", "ray", "--ray-address", nodes.address, *arguments)
    with serving(Path(DIGITS), *options, scratch=scratch, device=f"emulated:{profile}", start_s=240) as server:
        yield server


def test_a_killed_node_loses_no_request(nodes: Nodes, workers: list[Any], tmp_path: Path) -> None:
    """At 60 % of what three workers carry at the best subnet; and a node that takes its place gets a worker."""
    with on_ray(nodes, tmp_path, "--workers", "3") as server:
        wait_for(says(server.log, "is ready on node", 3), "three workers")
        load = begin(server, 0.6 * 3 * best_rate(), SLO_MS)
        threading.Event().wait(3)
        nodes.kill(workers.pop())
        row = row_of(load.result(), SLO_MS)
        assert "no answer after" in server.log.read_text(), "nobody waited for Ray"
        workers.append(nodes.add())
        wait_for(says(server.log, "is ready on node", 4), "a worker on the new node")
        again = row_of(begin(server, 100.0, SLO_MS, 2.0).result(), SLO_MS)
        assert server.stop(60) == 0
    assert (row.served, row.failed) == (row.offered, 0)
    assert again.served == again.offered


def test_a_node_that_joins_raises_accuracy(nodes: Nodes, workers: list[Any], tmp_path: Path) -> None:
    """As many workers as there is room for: with one more, the same load gets better answers within seconds."""
    slo_ms = 500.0
    nodes.remove(workers.pop())
    with connected(nodes.address, "cpu") as cluster:
        wait_for(lambda: cluster.room().total == len(workers), "Ray counts the processors of a node that has ended")
    with on_ray(nodes, tmp_path) as server:
        wait_for(says(server.log, "is ready on node"), "a worker")
        load = begin(server, 1.6 * best_rate(), slo_ms, 30.0)
        threading.Event().wait(3)
        workers.append(nodes.add())
        result = load.result()
        assert "has room for worker" in server.log.read_text()
        assert server.stop(60) == 0
    log, second = result.log, result.log.arrival_ns // NS_PER_S
    before, after = (
        np.nanmean(log.accuracy[(second >= first) & (second < last)]) for first, last in ((1, 3), (25, 30))
    )
    assert after > before + 0.5
    assert row_of(result, slo_ms).failed == 0


def test_a_node_that_is_drained_is_left_in_time(nodes: Nodes, workers: list[Any], tmp_path: Path) -> None:
    """Its worker moves to the node that is free, and nothing fails meanwhile."""
    with on_ray(nodes, tmp_path, "--workers", "1") as server:
        load = begin(server, 50.0, SLO_MS)
        log = server.log.read_text()
        (busy,) = [node for node in workers if f"on node {node.node_id[:8]}" in log]
        with connected(nodes.address, "cpu") as cluster:
            accepted, _ = cluster._ray._raylet.GcsClient(address=nodes.address).drain_node(
                busy.node_id, 2, "maintenance, says the test", 0
            )
            assert accepted
        wait_for(says(server.log, "is being drained"), "the worker is told")
        wait_for(says(server.log, "is ready on node", 2), "a worker elsewhere")
        row = row_of(load.result(), SLO_MS)
        assert server.stop(60) == 0
    assert (row.served, row.failed) == (row.offered, 0)
    workers.remove(busy)
    nodes.kill(busy)
