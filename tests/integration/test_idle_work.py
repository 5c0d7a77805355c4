"""Idle workers of a real server: degraded answers are compared, and a profile is measured again."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.client import Client
from superserve.conditions import Conditions
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import Profile, SubnetProfile
from superserve.serving.choice import choose_engine
from superserve.serving.engines import load_engine
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

REQUESTS = 40


def short_profile() -> Profile:
    """A made-up profile, doubtful, with few cells, all of them short: idle work comes at once."""
    guess = guessed_profile(ModelFolder.resolve("digits"))

    def short(subnet: SubnetProfile, number: int) -> SubnetProfile:
        row = (1000.0 + number, 2000.0 + number)
        return msgspec.structs.replace(subnet, p50_us=row, p95_us=row, p99_us=row)

    subnets = tuple(short(subnet, number) for number, subnet in enumerate(guess.subnets))
    busy = Conditions(worker_waited=0.5)
    return msgspec.structs.replace(guess, batches=(1, 4), subnets=subnets, conditions=busy)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Every request is answered by the smallest subnet, sampled, and has time enough for idle work."""
    scratch = tmp_path_factory.mktemp("idle")
    file = scratch / "short.json"
    write_json(file, short_profile())
    arguments = ["--profile", str(file), "--policy", "fixed:smallest", "--slo-ms", "4000", "--workers", "1"]
    with serving(Path("digits"), *arguments, "--ledger", "1", "--reprofile", scratch=scratch, device="cpu") as ready:
        yield ready


def told(server: ServerProcess, tmp_path: Path, command: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """JSON and text of a command."""
    file = tmp_path / "told.json"
    line = [sys.executable, "-m", "superserve", command, *arguments, "--url", server.url, "--json", str(file)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(file.read_bytes()), ran.stdout


def test_a_doubtful_profile_is_told_of_and_measured_again_unasked(server: ServerProcess) -> None:
    log = server.log.read_text()
    assert "the profile of digits is doubtful" in log
    assert "worker's core 50% of the time" in log
    connection = http.client.HTTPConnection(server.address, timeout=60)
    connection.request("GET", "/v2/models/digits/profile")
    assert json.load(connection.getresponse())["state"] in {"measuring", "measured"}
    connection.close()


def test_agreement_is_what_both_subnets_say(server: ServerProcess, tmp_path: Path) -> None:
    """Against the engine itself, image by image."""
    folder = ModelFolder.resolve("digits")
    images = folder.test_data()[0][:REQUESTS]
    with Client(server.url) as client:
        for image in images:
            client.infer("digits", {"image": image[None]}, slo_ms=4000)
    engine = load_engine(folder, choose_engine(folder, engine="eager"))
    small, large = (engine.run(subnet, [images])[0].argmax(axis=-1) for subnet in (0, len(engine.subnet_ids) - 1))
    for _ in range(300):
        report, text = told(server, tmp_path, "ledger")
        (model,) = report["models"]
        if not model["waiting"]:
            break
        time.sleep(0.1)
    row = model["rows"][0]
    assert (model["dropped"], row["answered"], row["compared"]) == (0, REQUESTS, REQUESTS)
    assert row["agreed"] == int(np.sum(small == large))
    assert row["ci95"][0] <= row["agreement"] <= row["ci95"][1]
    assert (model["reference"], row["subnet"]) == (engine.subnet_ids[-1], engine.subnet_ids[0])
    assert model["reference"] in text


def test_a_profile_is_measured_again(server: ServerProcess, tmp_path: Path) -> None:
    """What is kept fits the model, and is what was measured."""
    report, text = told(server, tmp_path, "reprofile", "digits")
    assert (report["state"], report["cells_left_out"]) == ("measured", 0)
    kept, before = Profile.load(report["kept"]), short_profile()
    assert (kept.model_hash, kept.batches) == (before.model_hash, before.batches)
    measured = {(cell["subnet"], cell["batch"]): cell for cell in report["cells"]}
    assert len(measured) == 2 * len(before.subnets)
    for subnet in kept.subnets:
        for batch, taken_us in zip(kept.batches, subnet.quiet_p50_us, strict=True):
            cell = measured[subnet.id, batch]
            assert cell["samples"]
            assert taken_us == pytest.approx(cell["measured_us"], abs=0.2)
    assert "kept in" in text
    assert "was measured again" in server.log.read_text()
