"""Nodes that have different devices: each gets workers on what it has, and each worker is planned with that."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from superserve.client import Client
from superserve.model_folder import ModelFolder, bundled_models, write_json
from superserve.processor import cpu_name
from superserve.profile import Profile
from superserve.serving.devices import CPU, CUDA, device_name
from support.profiles import guessed_profile, with_factors
from support.ray_load import asked, attempts_of, places
from support.ray_nodes import Nodes, says, wait_for
from support.server_process import ServerProcess, serving

DIGITS = Path("digits")
SLOWER = 10.0


@contextmanager
def having(nodes: Nodes, *resources: dict[str, Any]) -> Iterator[list[str]]:
    """Nodes with these beside their processor; their ids."""
    added = [nodes.add(**each) for each in resources]
    try:
        yield [node.node_id for node in added]
    finally:
        for node in added:
            nodes.remove(node)


def test_a_node_has_workers_on_the_devices_that_it_has(nodes: Nodes, tmp_path: Path) -> None:
    """Emulated ones, which its resources name; each batch is planned with the times of its worker's device."""
    fast = Profile.load("r-profile")
    factors = [SLOWER] * len(fast.batches)
    slow = msgspec.structs.replace(fast, subnets=tuple(with_factors(subnet, factors) for subnet in fast.subnets))
    write_json(file := tmp_path / "slow.json", slow)
    has: tuple[dict[str, Any], ...] = (
        {"resources": {"r-profile": 1}},
        {"resources": {"slow": 1}},
        {"resources": {"slow": 1}},
        {},
    )
    options = ("--pool", "ray", "--ray-address", nodes.address, "--slo-ms", "2000", "--policy", "fixed:smallest")
    with having(nodes, *has) as ids:
        device = f"emulated:r-profile,{file}"
        with serving(DIGITS, *options, scratch=tmp_path, device=device, start_s=240) as server:
            wait_for(says(server.log, "is ready on node", 3), "a worker for each device")
            told = attempts_of(server, 60)
            where = {worker: node for worker, (node, _) in places(server.log).items()}
            assert server.stop(60) == 0
    assert sorted(where.values()) == sorted(node[:8] for node in ids[:3]), "who has no device gets no worker"
    planned = {"r-profile": fast.subnets[0].p99_us, str(file): slow.subnets[0].p99_us}
    assert {attempt["device"] for attempt in told} == planned.keys()
    for attempt in told:
        assert (where[attempt["worker"]] == ids[0][:8]) == (attempt["device"] == "r-profile")
        times_us = planned[attempt["device"]]
        size = next(index for index, batch in enumerate(fast.batches) if batch >= attempt["batch_rows"])
        assert attempt["planned_ms"] == pytest.approx(attempt["drift"] * times_us[size] / 1000, rel=1e-3)


def test_a_gpu_that_torch_cannot_use_leaves_the_processors(nodes: Nodes, tmp_path: Path) -> None:
    """Of a node that says it has one: its worker on the GPU says why it cannot start, those on processors serve."""
    if device_name(CUDA) != CUDA:
        pytest.skip("there is a GPU here")
    profiles = two_profiles(tmp_path)
    options = ("--pool", "ray", "--ray-address", nodes.address, *profiles, "--slo-ms", "2000")
    images = ModelFolder(bundled_models()["digits"], bundled=True).test_data()[0][:1]
    with (
        having(nodes, {"num_gpus": 1}, {}, {}) as (with_gpu, *without),
        serving(DIGITS, *options, scratch=tmp_path, device="cuda,cpu", start_s=240) as server,
    ):
        wait_for(says(server.log, "no GPU here that torch can use"), "the worker on the GPU says why not")
        with Client(server.url) as client:
            assert client.infer("digits", {"image": images}).parameters.slo_met
        assert workers_by_device(server) == {CUDA: 0, cpu_name(): 1}
        assert server.stop(60) == 0
    told = next(line for line in server.log.read_text().splitlines() if "no GPU here" in line)
    assert f"node {with_gpu[:8]}" in told
    assert {node for node, _ in places(server.log).values()} <= {each[:8] for each in without}


def test_both_devices_want_a_profile(nodes: Nodes, tmp_path: Path) -> None:
    """Before anything is started; the message has the command that makes the one that is missing."""
    _, only, *_ = two_profiles(tmp_path)
    options = ("--pool", "ray", "--ray-address", nodes.address, "--profile", only)
    with (
        pytest.raises(AssertionError, match=r"exit code 2(?s:.*)no --profile is of 'cpu'(?s:.*)superserve profile"),
        serving(DIGITS, *options, scratch=tmp_path, device="cuda,cpu", start_s=60),
    ):
        pass


def two_profiles(folder: Path) -> tuple[str, ...]:
    """Options: of a GPU, and of this machine's processor."""
    guessed = guessed_profile(ModelFolder(bundled_models()["digits"], bundled=True))
    options: list[str] = []
    for kind, name in ((CUDA, CUDA), (CPU, cpu_name())):
        device = msgspec.structs.replace(guessed.device, kind=kind, name=name)
        write_json(folder / f"{kind}.json", msgspec.structs.replace(guessed, device=device))
        options += ["--profile", str(folder / f"{kind}.json")]
    return tuple(options)


def workers_by_device(server: ServerProcess) -> Counter[str]:
    page = asked(int(re.findall(r"http://[\d.]+:(\d+)/metrics", server.log.read_text())[0]), "GET", "/metrics")
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(page.decode()):
        if family.name == "superserve_device_workers":
            found.update({sample.labels["device"]: int(sample.value) for sample in family.samples})
    return found
