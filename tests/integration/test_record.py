"""``serve --record`` and what ``simulate`` makes of it, with a real server and a replayed load."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superserve.traces.arrivals import base_plus_gamma
from superserve.traces.recording import load_recorded
from support.folders import write_digits_like_folder
from support.server_process import serving

pytestmark = pytest.mark.integration


def told(command: str, *arguments: str | Path) -> dict[str, Any]:
    """The JSON of a command, which may call a run void: the machine may be busy."""
    file = Path(arguments[0]).with_name(f"{command}.json")
    line = [sys.executable, "-m", "superserve", command, *map(str, arguments), "--json", str(file)]
    ran = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert file.exists(), ran.stderr
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content


def test_a_recorded_run_is_played_again(tmp_path: Path) -> None:
    """Each request that a client sent is there, ended as the client saw it, and is simulated without another option."""
    trace = base_plus_gamma(100.0, 200.0, 8.0, 2.0, np.random.default_rng(5))
    trace.save(tmp_path / "load.npz")
    folder = write_digits_like_folder(tmp_path / "digits")
    recorded = tmp_path / "recorded"
    options = ("--workers", "2", "--slo-ms", "60", "--policy", "slackfit", "--record", recorded)
    with serving(folder, *options, scratch=tmp_path) as server:
        (client,) = told("replay", tmp_path / "load.npz", "--url", server.url, "--model", "digits")["rows"]
        assert server.stop() == 0
    found = load_recorded(recorded)
    assert found is not None
    settings = found.settings
    assert (settings.policy, settings.workers, settings.slo_ms, settings.emulated) == ("slackfit", 2, 60.0, True)
    assert len(found.trace) == len(trace)
    names = ("served", "late", "expired", "rejected", "cancelled", "failed")
    again = told("simulate", recorded)
    (was,), (row,) = again["recorded"], again["rows"]
    assert [was[name] for name in names] == [client[name] for name in names]
    assert was["mean_serving_accuracy"] == pytest.approx(client["mean_serving_accuracy"], abs=0.01)
    assert (row["offered"], row["policy"], row["workers"]) == (len(trace), "slackfit", 2)
    difference = again["difference"]
    assert difference["in_time_in_both"] + difference["now_missed"] == was["served"]
    (best,) = told("simulate", recorded, "--policy", "fixed:largest", "--workers", "8")["rows"]
    (least,) = told("simulate", recorded, "--policy", "fixed:smallest")["rows"]
    assert (best["workers"], least["workers"]) == (8, 2)
    assert best["mean_serving_accuracy"] > least["mean_serving_accuracy"]
