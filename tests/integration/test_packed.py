"""A real server on the packed engine: what is resident changes under its requests, and none of them notices."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from superserve.client import Client
from superserve.model_folder import ModelFolder, write_json
from superserve.serving.choice import choose_engine
from superserve.serving.engines import load_engine
from superserve.serving.residency.pack_process import pack
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packer import MODULE
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.hub import save_supernet
from superserve.supernet.packed.program import WEIGHTS_FILE
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving
from support.supernets import TINY, pixels, small_supernet

# torch's tracer warns about parts of torch.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

IMAGES = pixels(16)
PATIENCE_S = 60.0
QUANTILES = ("p50_us", "p95_us", "p99_us")


@dataclass
class Packed:
    """A server of four subnets, of which the smallest and one other fit into the budget; the third is not packed."""

    folder: ModelFolder
    server: ServerProcess
    budget: int
    expected: list[np.ndarray[Any, Any]]

    def ask(self, client: Client, subnet: int) -> None:
        """Have a subnet answer, and see that it is right."""
        for row in range(len(IMAGES)):
            image = IMAGES[row : row + 1]
            reply = client.infer(
                "small", {"image": image}, slo_ms=60_000, min_accuracy=self.folder.front.subnets[subnet].accuracy
            )
            assert reply.parameters.subnet == f"s{subnet}"
            found, wanted = reply.outputs["logits"], self.expected[subnet][row : row + 1]
            assert relative_error([found], [wanted]) <= TOLERANCE["float32"]

    def told(self) -> dict[str, float]:
        """The metrics of packed subnets; at no time is there more than the budget."""
        with urlopen(self.metrics_url) as page:  # noqa: S310  (our own server)
            text = page.read().decode()
        found = {
            sample.name.removeprefix("superserve_"): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if "pack" in sample.name
        }
        assert found["packed_bytes"] <= found["packed_budget_bytes"] == self.budget
        return found

    def ask_until(self, client: Client, subnet: int, name: str, value: float) -> None:
        """Ask until a metric has a value."""
        until = time.monotonic() + PATIENCE_S
        while self.told()[name] != value:
            assert time.monotonic() < until, self.server.log.read_text()
            self.ask(client, subnet)

    def mapped(self) -> set[int]:
        """The packed subnets that the worker has mapped."""
        (worker,) = (each for each in self.server.children() if "superserve.serving.worker" in each.cmdline())
        places = {Path(region.path).parent for region in worker.memory_maps() if region.path.endswith(WEIGHTS_FILE)}
        return {int(place.name) for place in places}

    @property
    def metrics_url(self) -> str:
        note = msgspec.json.decode((self.server.log.parent / "ready.json").read_bytes())
        return str(note["metrics"])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    scratch = tmp_path_factory.mktemp("packed")
    folder = save_supernet(small_supernet(4, TINY), scratch / "small")
    engine = load_engine(folder, choose_engine(folder, engine="eager"))
    expected = [engine.run(subnet, [IMAGES])[0].copy() for subnet in range(4)]
    task = PackTask.of(folder, choose_engine(folder, engine="packed"))
    sizes = {subnet: pack(msgspec.structs.replace(task, subnet=subnet)).nbytes for subnet in (0, 1, 3)}
    budget = sizes[0] + max(sizes[1], sizes[3])
    guess = guessed_profile(folder)
    # So steep that no subnet is faster packed than a smaller one is without.
    steep = [
        msgspec.structs.replace(
            subnet, **{name: tuple(4**number * cell for cell in subnet.p50_us) for name in QUANTILES}
        )
        for number, subnet in enumerate(guess.subnets)
    ]
    write_json(scratch / "profile.json", msgspec.structs.replace(guess, subnets=tuple(steep)))
    arguments = ["--engine", "packed", "--engine-memory", str(budget), "--policy", "infaas", "--workers", "1"]
    with serving(
        folder.path, *arguments, "--profile", scratch / "profile.json", scratch=scratch, device="cpu"
    ) as server:
        yield Packed(folder, server, budget, expected)


def test_what_is_used_takes_the_place_of_what_is_not(packed: Packed) -> None:
    """The more accurate one first; then the one that is asked for, and every answer is eager's meanwhile."""
    with Client(packed.server.url) as client:
        assert packed.told()["packed_subnets"] == 2
        packed.ask(client, 3)
        packed.ask_until(client, 1, "packed_evictions_total", 1)
        packed.ask_until(client, 1, "packed_subnets", 2)
        before = packed.told()["packed_requests_total"]
        packed.ask(client, 1)
        assert packed.told()["packed_requests_total"] == before + len(IMAGES)
        assert packed.mapped() == {0, 1}  # no worker holds what was evicted
        packed.ask(client, 3)


def test_a_packer_that_is_killed_is_no_request_of_anybody(packed: Packed) -> None:
    with Client(packed.server.url) as client:
        until = time.monotonic() + PATIENCE_S
        while not (packing := [each for each in packed.server.children() if MODULE in each.cmdline()]):
            assert time.monotonic() < until, packed.server.log.read_text()
            packed.ask(client, 2)
        packing[0].kill()
        packed.ask_until(client, 2, "pack_failures_total", 1)
        assert "killed by signal 9" in packed.server.log.read_text()
        assert psutil.pid_exists(packed.server.process.pid)
        with urlopen(f"{packed.server.url}/v2/models/small") as page:  # noqa: S310  (our own server)
            parameters = msgspec.json.decode(page.read())["parameters"]
        assert parameters["superserve_subnets_refused"] == "s2"
        assert parameters["superserve_weights_bytes"] == packed.folder.weights_path.stat().st_size
        assert parameters["superserve_packed_budget_bytes"] == packed.budget


def test_at_its_end_it_says_what_packed_subnets_came_to(packed: Packed) -> None:
    packed.server.process.terminate()
    packed.server.process.wait(PATIENCE_S)
    assert "small: packed subnets answered" in packed.server.log.read_text()
