"""Nodes that come and go under a server, with requests under way."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superserve.clock import NS_PER_S
from superserve.serving.ray_cluster import connected
from support.ray_load import SLO_MS, begin, best_rate, on_ray, row_of
from support.ray_nodes import Nodes, says, wait_for


@pytest.fixture(scope="module")
def workers(nodes: Nodes) -> list[Any]:
    """Three nodes for workers."""
    return [nodes.add() for _ in range(3)]


def test_a_killed_node_loses_no_request(nodes: Nodes, workers: list[Any], tmp_path: Path) -> None:
    """At 60 % of what three workers carry at the best subnet; and a node that takes its place gets a worker."""
    with on_ray(nodes.address, tmp_path, "--workers", "3") as server:
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
        wait_for(lambda: cluster.rooms()[0].total == len(workers), "Ray counts the processors of a node that has ended")
    with on_ray(nodes.address, tmp_path) as server:
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
    with on_ray(nodes.address, tmp_path, "--workers", "1") as server:
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
