"""Idle workers of a real server: degraded answers are compared, and a profile is measured again."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superserve.client import Client
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import Profile
from superserve.serving.choice import choose_engine
from superserve.serving.engines import load_engine
from support.profiles import guessed_profile
from support.server_process import ServerProcess, serving

pytestmark = pytest.mark.integration

REQUESTS = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Every request is answered by the smallest subnet, sampled, and has time enough for idle work."""
    scratch = tmp_path_factory.mktemp("idle")
    file = scratch / "guess.json"
    write_json(file, guessed_profile(ModelFolder.resolve("digits")))
    arguments = ["--profile", file, "--policy", "fixed:smallest", "--slo-ms", "4000", "--workers", "1"]
    with serving(Path("digits"), *arguments, "--ledger", "1", "--reprofile", scratch=scratch, device="cpu") as ready:
        yield ready


def told(server: ServerProcess, tmp_path: Path, command: str, *arguments: str) -> tuple[dict[str, Any], str]:
    """JSON and text of a command."""
    file = tmp_path / "told.json"
    line = [sys.executable, "-m", "superserve", command, *arguments, "--url", server.url, "--json", str(file)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(file.read_bytes()), ran.stdout


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
    """The guess was far too generous, which shows; what is kept fits the model."""
    report, text = told(server, tmp_path, "reprofile", "digits")
    assert report["state"] == "measured"
    assert all(cell["ratio"] < 1 and cell["samples"] for cell in report["cells"])
    kept = Profile.load(report["kept"])
    folder = ModelFolder.resolve("digits")
    guess = guessed_profile(folder)
    assert (kept.model_hash, kept.batches) == (guess.model_hash, guess.batches)
    assert kept.subnets[-1].p99_us[0] < guess.subnets[-1].p99_us[0]
    assert "kept in" in text
    assert "was measured again" in server.log.read_text()
