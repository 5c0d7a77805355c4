"""The command's own decisions: what it measures, what it draws, and what it says of a doubtful profile."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from superserve import profiler
from superserve.cli import app
from superserve.cli.profiling import _wants_levers
from superserve.conditions import Conditions
from superserve.errors import ConfigError
from superserve.levers import BATCH, LeverReport, LeverStep, Machine, Stream, Work, costs
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.profiler import levers
from support.profiles import guessed_profile

MACHINE = Machine(macs_per_s=1e9, launch_us=10.0, streams=(Stream(bytes=1000, bytes_per_s=1e9),))
WORK = Work(operators=10, weight_bytes=1000, activation_bytes=1000, macs=1_000_000)
FIGURE = Path("levers.svg")


@pytest.mark.parametrize(
    ("asked", "device", "quick", "figure", "wanted"),
    [
        (None, "cpu", False, None, True),
        (None, "cpu", True, None, False),
        (None, "cpu", True, FIGURE, True),
        (None, "cuda", False, None, False),
        (None, "emulated:r-profile", False, None, False),
        (True, "cpu", True, None, True),
        (False, "cpu", False, None, False),
    ],
)
def test_levers_are_measured_unless_it_has_to_be_quick(
    asked: bool | None, device: str, quick: bool, figure: Path | None, wanted: bool
) -> None:
    assert _wants_levers(asked, device, "auto", quick, figure) is wanted


def test_levers_are_no_matter_of_int8() -> None:
    assert _wants_levers(None, "cpu", "int8", quick=False, figure=None) is False
    with pytest.raises(ConfigError, match="--levers: measured in floating point only"):
        _wants_levers(asked=True, device="cpu", dtype="int8", quick=False, figure=None)


@pytest.mark.parametrize(
    ("asked", "device", "figure", "message"),
    [
        (True, "cuda", None, "--levers: measured on the CPU only"),
        (False, "cpu", FIGURE, "--figure levers.svg"),
        (None, "cuda", FIGURE, "--figure levers.svg"),
        (None, "cpu", Path("levers.pdf"), "--figure levers.pdf: a .png or .svg file"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    asked: bool | None, device: str, figure: Path | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _wants_levers(asked, device, "auto", quick=False, figure=figure)


def report_of(profile: Profile, examples: int) -> LeverReport:
    ids = [subnet.id for subnet in profile.subnets]
    cells = [costs(one.id, profile.batches, one.p50_us, WORK, MACHINE) for one in profile.subnets]
    steps = (
        LeverStep(subnet=ids[0], batch=1, lever=BATCH, saved_us=50.0, saved_share=0.5, error_us=1.0, lost=0.0),
        LeverStep(subnet=ids[0], batch=1, lever="depth", saved_us=1.0, saved_share=0.01, error_us=1.0, lost=None),
    )
    return LeverReport(
        machine=MACHINE,
        work=dict.fromkeys(ids, WORK),
        cells=tuple(cell for row in cells for cell in row),
        steps=steps,
        examples=examples,
    )


@pytest.mark.usefixtures("wide_terminal")
def test_what_was_measured_is_told_kept_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    profile = replace(guessed_profile(ModelFolder.resolve("digits")), conditions=Conditions(worker_waited=0.4))

    def measure(*_: Any, report: Callable[..., None], **__: Any) -> SimpleNamespace:
        return SimpleNamespace(profile=profile, violations=[])

    monkeypatch.setattr(profiler, "measure", measure)
    monkeypatch.setattr(levers, "measure_levers", lambda *_, **__: report_of(profile, 0))
    files = [tmp_path / "levers.svg", tmp_path / "profile.json"]
    ran = CliRunner().invoke(
        app, ["profile", "digits", "--quick", "--levers", "--figure", str(files[0]), "--json", str(files[1])]
    )
    assert ran.exit_code == 0, ran.output
    told = " ".join(ran.output.split())
    assert "worker's core 40% of the time" in told
    assert "measure again when the machine is idle" in told
    assert "what a step loses is not known" in told
    kept = Profile.load(files[1])
    assert kept.levers == report_of(profile, 0)
    assert b"<svg" in files[0].read_bytes()
    assert list((tmp_path / "cache").rglob("*.json"))
