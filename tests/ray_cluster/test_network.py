"""Nodes that are hosts of their own, on a network that is slow, loses packets, and falls apart under a load."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import ray

from superserve.client import Client
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.metrics import ResultRow
from superserve.model_folder import ModelFolder, bundled_models
from superserve.serving.ray_cluster import connected
from support.network import Link, NoNetworkError, Relay
from support.ray_hosts import CLOCK_AHEAD_S, RayHosts
from support.ray_load import DIGITS, SLO_MS, asked, attempts_of, begin, best_rate, on_ray, places, row_of
from support.ray_nodes import says, wait_for
from support.server_process import ServerProcess

HOSTS: Final = 3
LOAD: Final = 0.6 * HOSTS
#: Ray gives a node up that has not been heard of for ten to fifteen seconds, instead of a minute.
PATIENCE: Final = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[RayHosts]:
    """All tests' cluster; each leaves its network as it was."""
    os.environ.update(PATIENCE)
    try:
        with RayHosts(HOSTS) as found:
            yield found
    except NoNetworkError as reason:
        pytest.skip(f"this machine cannot play several hosts: {reason}")
    finally:
        for name in PATIENCE:
            del os.environ[name]


@contextmanager
def three_workers(hosts: RayHosts, scratch: Path) -> Iterator[ServerProcess]:
    """A server with a worker on each host, which ends as it should."""
    with on_ray(hosts.address, scratch, "--workers", str(HOSTS)) as server:
        wait_for(says(server.log, "is ready on node", HOSTS), "three workers")
        for host in range(1, HOSTS + 1):
            assert hosts.name(host) in server.log.read_text()
        yield server
        assert server.stop(60) == 0


def assert_each_answered_once(row: ResultRow, server: ServerProcess) -> None:
    """In time, says the client; and the server counts no more answers than that."""
    assert (row.served, row.failed) == (row.offered, 0)
    (model,) = json.loads(asked(server.port, "GET", f"/v2/models/{DIGITS}/stats"))["model_stats"]
    assert model["inference_stats"]["success"]["count"] == row.offered
    assert model["inference_stats"]["fail"]["count"] == 0


def test_clocks_of_hosts_may_differ_by_weeks(hosts: RayHosts, tmp_path: Path) -> None:
    """What a request is told of its time is a part of the time that it took here, whatever clock its worker has."""
    folder = ModelFolder(bundled_models()[DIGITS], bundled=True)
    images = folder.test_data()[0][:1]
    with connected(hosts.address, "cpu"):

        def now_s() -> float:
            return time.monotonic()

        there: Any = ray.remote(num_cpus=1)(now_s)
        ahead_s = [
            ray.get(there.options(label_selector={"ray.io/node-id": node}).remote()) - time.monotonic()
            for node in hosts.node_ids()
        ]
    assert [round(ahead / CLOCK_AHEAD_S) for ahead in sorted(ahead_s)] == [1, 2, 3]
    with three_workers(hosts, tmp_path) as server, Client(server.url) as client:
        for _ in range(30):
            began_ns = time.monotonic_ns()
            answer = client.infer(DIGITS, {folder.config.inputs[0].name: images}, slo_ms=SLO_MS)
            took_us = (time.monotonic_ns() - began_ns) / 1000
            told = answer.parameters
            parts_us = (told.decode_us, told.queue_us, told.wait_us, told.infer_us)
            assert min(parts_us) >= 0
            assert sum(parts_us) <= took_us
            assert told.slo_met


def test_a_slow_network_that_loses_packets(hosts: RayHosts, tmp_path: Path) -> None:
    """30 ms more to each host and back, and one of fifty packets lost to and from one of them: all is in time."""
    with three_workers(hosts, tmp_path) as server:
        for host in range(1, HOSTS + 1):
            hosts.network.link(host, delay_ms=15.0, loss=0.02 if host == 1 else 0.0)
        load = begin(server, LOAD * best_rate(), SLO_MS)
        row = row_of(load.result(), SLO_MS)
        assert_each_answered_once(row, server)
        assert row.p50_ms is not None
        assert row.p50_ms > 30.0, "nobody was near"
        for host in range(1, HOSTS + 1):
            hosts.network.link(host)


def test_what_a_far_host_costs_is_planned_for_it_alone(hosts: RayHosts, tmp_path: Path) -> None:
    """80 ms there and back; the others are as near as before."""
    with three_workers(hosts, tmp_path) as server:
        hosts.network.link(1, delay_ms=40.0)
        attempts_of(server, 300)
        planned_ms: dict[int, float] = {
            told["worker"]: told["planned_overhead_ms"] for told in attempts_of(server, 100)
        }
        hosts.network.link(1)
        (far,) = [worker for worker, (_, host) in places(server.log).items() if host == hosts.name(1)]
    assert planned_ms.pop(far) >= 80.0
    assert max(planned_ms.values()) < 40.0


def test_a_partition_under_load_and_its_healing(hosts: RayHosts, tmp_path: Path) -> None:
    """A host is out of reach for four seconds: its batch is run elsewhere in time, and it serves again afterwards."""
    with three_workers(hosts, tmp_path) as server:
        load = begin(server, LOAD * best_rate(), SLO_MS)
        threading.Event().wait(3)
        hosts.network.link(1, loss=1.0)
        wait_for(says(server.log, "did not answer within"), "the worker out of reach is given up")
        threading.Event().wait(1)
        hosts.network.link(1)
        assert_each_answered_once(row_of(load.result(), SLO_MS), server)
        assert "go to another worker as well" in server.log.read_text(), "nobody waited for Ray"
        wait_for(says(server.log, "is ready on node", HOSTS + 1), "the host serves again")


def test_a_host_that_ray_has_given_up_joins_again(hosts: RayHosts, tmp_path: Path) -> None:
    """So long a partition ends Ray's processes there, once they hear of it; the rest serves without a pause."""
    with three_workers(hosts, tmp_path) as server:
        load = begin(server, LOAD * best_rate(), SLO_MS, 25.0)
        threading.Event().wait(2)
        hosts.network.link(1, loss=1.0)
        wait_for(lambda: hosts.nodes.alive() == HOSTS, "Ray gives the host up")
        hosts.network.link(1)
        hosts.join(1)
        assert_each_answered_once(row_of(load.result(), SLO_MS), server)
        wait_for(says(server.log, "is ready on node", HOSTS + 1), "the host serves again")


def test_the_network_itself() -> None:
    """A packet takes the delays of both its links, arrives in order of time, and is lost by either."""
    here, there, nowhere = (IPv4Address(f"198.18.0.{number}").packed for number in (1, 2, 3))
    relay = Relay({here: Link(7), there: Link(8)}, np.random.default_rng(0))
    relay.change("198.18.0.1 2 0")
    relay.change("198.18.0.2 3 0")
    relay.take(0, to_there := packet(here, there))
    relay.take(NS_PER_MS, packet(here, nowhere))
    relay.change("198.18.0.2 0 0")
    relay.take(2 * NS_PER_MS, to_here := packet(there, here))
    assert relay.arrived(4 * NS_PER_MS - 1) == []
    assert relay.wait_s(0) == pytest.approx(4 * NS_PER_MS / NS_PER_S)
    assert relay.arrived(5 * NS_PER_MS) == [(7, to_here), (8, to_there)]
    relay.change("198.18.0.1 0 1")
    for source, destination in ((here, there), (there, here)):
        relay.take(0, packet(source, destination))
    assert relay.wait_s(0) is None
    relay.change("198.18.0.1 0 0.25")
    for _ in range(4000):
        relay.take(0, to_there)
    assert len(relay.arrived(0)) == pytest.approx(3000, abs=150)


def packet(source: bytes, destination: bytes) -> bytes:
    """As far as anybody looks."""
    return bytes([0x45, *bytes(11), *source, *destination])
