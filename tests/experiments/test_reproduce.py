import gzip
from pathlib import Path

import numpy as np
import pytest

from superserve.errors import ConfigError
from superserve.experiments.reproduce import reproduce
from superserve.experiments.reproduction.against_fixed import (
    gain_at_equal_attainment,
    gain_over_smallest,
    ratio_at_equal_accuracy,
)
from superserve.experiments.reproduction.finding import NAMES, Check, Claim, Finding, Verdict
from superserve.experiments.reproduction.lab import ELASTIC, Lab, Results
from superserve.experiments.reproduction.loads import Bursty, Ramp
from superserve.experiments.reproduction.monotone import falls
from superserve.experiments.reproduction.page import reproduction_page
from superserve.experiments.reproduction.transformer import TRANSFORMER_RATE, transformer_profile
from superserve.metrics import ResultRow
from superserve.profile import LatencyTable, Profile
from support.rows import make_row

#: Every trace is so much shorter than in the real runs.
SHORT = 0.005
#: E7 and the live check start servers: tests/integration.
SIMULATED = [name for name in NAMES if name not in {"E7", "live"}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a day like the Azure sample's: a slow wave with spikes at every full hour."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "traces").mkdir()
    minutes = np.arange(1440)
    counts = 1000 + 200 * np.sin(minutes / 229) + 400 * (minutes % 60 == 0)
    lines = ["minute_of_day,sum14d_9027f", *(f"{minute + 1},{count:.0f}" for minute, count in enumerate(counts))]
    with gzip.open(folder / "traces/maf2019_per_minute.csv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def page(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    reproduce(SIMULATED, out=out, data=data, seeds=2, seconds_factor=SHORT, processes=1)
    return out


def test_page_has_every_experiment_with_claims_and_figures(page: Path) -> None:
    text = (page / "reproduction.md").read_text()
    for name in SIMULATED:
        assert f"\n## {name}: " in text
    figures = sorted((page / "images/reproduction").glob("*.png"))
    assert len(figures) == 13
    assert all(f"(images/reproduction/{figure.name})" in text for figure in figures)
    assert "Not run yet: E7, live." in text
    rows = [line for line in text.splitlines() if line.endswith("| yes |")]
    assert len(rows) > 10


def test_a_second_run_replaces_only_what_is_run_again(page: Path) -> None:
    files = [*(page / "reproduction").iterdir(), *(page / "images/reproduction").iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    (found,) = reproduce(["E8"], out=page, seeds=1, seconds_factor=SHORT, processes=1)
    changed = {file.name for file in files if file.stat().st_mtime_ns != before[file]}
    assert changed == {"E8.json", "E8.png"}
    assert "1 seed." in found.setting
    assert "\n## E1: " in (page / "reproduction.md").read_text()


def test_what_has_not_run_is_named(tmp_path: Path) -> None:
    reproduce(["E9"], out=tmp_path, seconds_factor=SHORT, processes=1)
    assert "Not run yet: E1, E2, E3, E4, E5, E6, E7, E8, E10, E11, live." in (tmp_path / "reproduction.md").read_text()


def test_unknown_names_and_missing_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="E12"):
        reproduce(["E12"], out=tmp_path)
    with pytest.raises(ConfigError, match="--data"):
        reproduce(["E1"], out=tmp_path)


def test_claims_that_do_not_hold_stand_on_the_page() -> None:
    claim = Claim("the moon is cheese", "it is not", Verdict.of(holds=False))
    finding = Finding(name="E1", title="Moon (Fig. 1)", setting="At night.", claims=(claim,), differences=("Rock.",))
    text = reproduction_page([finding], [], "folder")
    assert "| the moon is cheese | it is not | **no** |" in text
    assert "[E1: Moon (Fig. 1)](#e1-moon-fig-1) |  |  | 1 |  |" in text
    assert "- Rock." in text


def test_thresholds_stand_on_top_with_an_answer_each() -> None:
    checks = (Check("attainment at least 0.9", "0.95", holds=True), Check("gain at least 4", "3.9", holds=False))
    finding = Finding(name="E1", title="Moon (Fig. 1)", setting="At night.", claims=(), checks=checks)
    text = reproduction_page([finding], [], "folder")
    assert "| [E1](#e1-moon-fig-1) | attainment at least 0.9 | 0.95 | holds |" in text
    assert "| [E1](#e1-moon-fig-1) | gain at least 4 | 3.9 | **does not hold** |" in text
    assert text.index("does not hold") < text.index("At night.")


def test_a_killed_command_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    """What the file has is not run again, another seed is; a line cut off by the kill is left out."""
    runs = tmp_path / "runs.jsonl"
    reproduce(["E8"], out=tmp_path, seeds=1, seconds_factor=SHORT, processes=1, runs=runs)
    first = runs.read_bytes()
    assert first.count(b"\n") == 3 * (len(ELASTIC) + 2) + 3
    runs.write_bytes(first + first[:50])
    seen: list[int] = []

    def note(done: int, total: int, label: str) -> None:
        seen.append(done)

    reproduce(["E8"], out=tmp_path, seeds=1, seconds_factor=SHORT, processes=1, runs=runs, on_progress=note)
    assert seen == [first.count(b"\n")]
    before = (tmp_path / "reproduction/E8.json").read_bytes()
    reproduce(["E8"], out=tmp_path, seeds=1, seconds_factor=SHORT, processes=1)
    assert (tmp_path / "reproduction/E8.json").read_bytes() == before
    reproduce(["E8"], out=tmp_path, seeds=2, seconds_factor=SHORT, processes=1, runs=runs)
    assert runs.read_bytes().count(b"\n") == 2 * first.count(b"\n")


def results(**rows: tuple[float, float | None]) -> Results:
    """Attainment and accuracy by name, on a trace t."""
    made: dict[tuple[str, str], list[ResultRow]] = {}
    for name, (attainment, accuracy) in rows.items():
        made["t", name.replace("_", " ").replace("p", ".")] = [make_row("x", attainment, accuracy)]
    return Results(made)


def test_comparisons_with_fixed_models() -> None:
    profile = Profile.load("r-profile")
    found = results(
        ours=(1.0, 78.0),
        fixed_73p82=(1.0, 73.82),
        fixed_76p69=(1.0, 76.69),
        fixed_77p64=(0.5, 77.64),
        fixed_78p25=(0.25, 78.25),
        fixed_79p44=(0.2, 79.44),
        fixed_80p16=(0.0, None),
    )
    assert gain_over_smallest(found, "t", "ours", profile) == pytest.approx(4.18)
    gain, model = gain_at_equal_attainment(found, "t", "ours", profile)
    assert gain == pytest.approx(1.31)
    assert model == "fixed 76.69"
    assert ratio_at_equal_accuracy(found, "t", "ours", profile, "") == (4.0, "fixed 78.25")


def test_falling_accuracy_tolerates_noise_only() -> None:
    def claim(second: float) -> Claim:
        rows = {("a", "x"): [make_row("x", 1.0, 79.0)], ("b", "x"): [make_row("x", 1.0, second)]}
        return falls(Results(rows), "x", [["a", "b"]], "b")

    assert claim(79.04).verdict is Verdict.REPRODUCED
    assert claim(79.06).verdict is Verdict.NOT_REPRODUCED


def test_transformer_load_stands_where_the_convolutional_one_does() -> None:
    """0.9 of what eight workers carry at the fourth subnet, at full batches."""
    table = LatencyTable(transformer_profile())
    assert 8 * 16 / table.latency_ns[3][16] * 1e9 == pytest.approx(TRANSFORMER_RATE / 0.9, rel=0.01)
    assert "transformer" in transformer_profile().device.name


def test_loads_are_the_papers() -> None:
    assert Bursty(1500, 5550, 8, 20).trace(0).mean_rate == pytest.approx(7050, rel=0.03)
    climbing = Ramp(2500, 7500, 250, 8, 30, 5).trace(0)
    counts = np.histogram(climbing.arrival_ns / 1e9, [0, 5, 14, 16, 25, 30])[0]
    assert counts / [5, 9, 2, 9, 5] == pytest.approx([2500, 3625, 5000, 6375, 7500], rel=0.05)


def test_lab_needs_the_data_folder_for_recordings(tmp_path: Path) -> None:
    assert Lab(tmp_path, Profile.load("r-profile"), tmp_path).recordings() == tmp_path
