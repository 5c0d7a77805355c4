"""``superserve simulate`` on the packed engine: what a budget would give, from a file of what packing came to."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from superserve.cli import app
from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.model_folder import write_json
from superserve.serving.residency.recorded_packs import RecordedPacks
from superserve.traces.trace import Trace
from support.packing import PROFILE, WEIGHTS, record

EAGER = msgspec.structs.replace(PROFILE, device=msgspec.structs.replace(PROFILE.device, engine="eager"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Five seconds of requests that only the largest subnet of three is too slow for unless it is packed."""
    Trace("t", np.arange(1, 501, dtype=np.int64) * 10 * NS_PER_MS, slo_ns=np.full(500, 8 * NS_PER_MS)).save(
        tmp_path / "trace.npz"
    )
    write_json(tmp_path / "eager.json", EAGER)
    packs = RecordedPacks([record(0), record(2)], {"s1": "no space left"}, WEIGHTS)
    write_json(tmp_path / "packs.json", packs)
    return tmp_path


def simulated(files: Path, *arguments: str, profile: str = "eager.json") -> dict[str, Any]:
    command = ["simulate", str(files / "trace.npz"), "--profile", str(files / profile), "--policy", "maxacc"]
    result = CliRunner().invoke(app, [*command, *arguments, "--slo-ms", "8", "--json", str(files / "rows.json")])
    if result.exception is not None:
        raise result.exception
    told: dict[str, Any] = json.loads((files / "rows.json").read_bytes())
    if "packed" in told:
        assert f"of {told['packed']['requests']} requests; " in result.output
    return told


def test_a_budget_buys_accuracy(files: Path) -> None:
    """From the middle subnet to the largest, as soon as that is resident; bytes are those of the file."""
    packs = ("--packs", str(files / "packs.json"))
    without = simulated(files)
    assert "packed" not in without
    assert without["rows"][0]["mean_serving_accuracy"] == 71.0
    for memory, accuracy, nbytes, share in (("1", 71.0, 0, 0.0), ("10", 71.0, 10, 0.0), ("all", 72.0, 40, 1.0)):
        told = simulated(files, *packs, "--engine-memory", memory)
        assert told["rows"][0]["mean_serving_accuracy"] == accuracy
        assert (told["packed"]["nbytes"], told["packed"]["weights"]) == (nbytes, WEIGHTS)
        assert told["packed"]["answered"] / told["packed"]["requests"] == share
    default = simulated(files, *packs)["packed"]
    assert (default["budget"], default["subnets"]) == (40, ["s0", "s2"])


def test_nothing_packed_at_first_is_packed_as_it_is_used(files: Path) -> None:
    """As a server does it: what cannot be packed is told, and the largest, too slow to be used, is not tried."""
    told = simulated(files, "--packs", str(files / "packs.json"), "--unpacked")
    assert told["rows"][0]["mean_serving_accuracy"] == 71.0
    assert [one["state"] for one in told["packed"]["front"]] == ["resident", "refused", "not packed"]
    assert told["packed"]["front"][1]["reason"] == "cannot be packed: no space left"


def test_residents_may_be_named_instead(files: Path) -> None:
    told = simulated(files, "--packs", str(files / "packs.json"), "--resident", "s2")
    assert (told["packed"]["subnets"], told["packed"]["budget"], told["packed"]["failures"]) == (["s2"], 30, 0)
    assert told["rows"][0]["mean_serving_accuracy"] == 72.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"batches": [], "ratios": []},
        {"ratios": [0.5]},
        {"ratios": [0.5, -0.5]},
        {"batches": [4, 1]},
        {"batches": [0, 4]},
        {"runs": ["packed"]},
    ],
)
def test_a_file_that_makes_no_sense_is_refused(files: Path, wrong: dict[str, Any]) -> None:
    told = json.loads((files / "packs.json").read_bytes())
    told["rows"][0] |= wrong
    (files / "packs.json").write_text(json.dumps(told))
    with pytest.raises(ConfigError, match=r"--packs .*subnet s0: .*superserve pack MODEL --json"):
        simulated(files, "--packs", str(files / "packs.json"))


@pytest.mark.parametrize(
    ("arguments", "profile", "complaint"),
    [
        (["--engine-memory", "50MB"], "eager.json", "--packs is missing.*superserve pack MODEL --json"),
        (["--packs", "packs.json", "--engine-memory", "much"], "eager.json", "200MB"),
        (["--packs", "packs.json", "--resident", "s1"], "eager.json", "--resident s1: not in --packs"),
        (["--packs", "packs.json", "--resident", "s0", "--unpacked"], "eager.json", "leave out --engine-memory"),
        (["--packs", "eager.json"], "eager.json", "superserve pack MODEL --json"),
        (["--packs", "nothing.json"], "eager.json", "nothing.json"),
        (["--packs", "packs.json"], "compiled.json", "superserve profile MODEL --engine eager"),
        (["--packs", "packs.json"], "smaller.json", "s2 is not in the profile"),
        (["--packs", "packs.json", "--profile", "eager.json", "--workers", "1", "1"], "eager.json", "one device"),
    ],
)
def test_what_does_not_go_together_is_refused(
    files: Path, arguments: list[str], profile: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    compiled = msgspec.structs.replace(EAGER, device=msgspec.structs.replace(EAGER.device, engine="compiled"))
    write_json(files / "compiled.json", compiled)
    write_json(files / "smaller.json", msgspec.structs.replace(EAGER, subnets=EAGER.subnets[:2]))
    with pytest.raises(ConfigError, match=complaint):
        simulated(files, *arguments, profile=profile)
