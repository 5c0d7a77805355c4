"""What the live check says of pairs; tests/integration has a real one."""

from pathlib import Path

from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.live_check import Pair, finding
from superserve.profile import Profile


def pair(number: int, attainment: float, accuracy: float, void: str = "") -> Pair:
    return Pair(number, "gamma", attainment, 0.98, accuracy, 95.0, void)


def holds(folder: Path, *pairs: Pair) -> list[bool]:
    lab = Lab(folder, Profile.load("r-profile"), seeds=2)
    found = finding(lab, pairs)
    assert found.table is not None
    assert len(found.table.rows) == len(pairs)
    assert (folder / found.figures[0]).exists()
    return [check.holds for check in found.checks]


def test_the_furthest_run_decides(tmp_path: Path) -> None:
    """Not the mean: one run beyond the tolerance is enough, on either side."""
    assert holds(tmp_path, pair(0, 0.96, 95.4), pair(1, 1.0, 94.6)) == [True, True]
    assert holds(tmp_path, pair(0, 0.94, 95.4), pair(1, 1.0, 95.6)) == [False, False]


def test_void_runs_count_for_nothing_and_are_named(tmp_path: Path) -> None:
    """And where all are void nothing holds."""
    assert holds(tmp_path, pair(0, 0.5, 90.0, "late"), pair(1, 0.98, 95.0)) == [True, True]
    assert holds(tmp_path, pair(0, 0.98, 95.0, "late")) == [False, False]
    found = finding(Lab(tmp_path, Profile.load("r-profile")), [pair(0, 0.5, 90.0, "sent too late")])
    assert "sent too late" in found.differences[0]
