from pathlib import Path

import msgspec
import pytest

from superserve.errors import ConfigError
from superserve.training.front import Candidate
from superserve.training.journal import Conditions, Journal
from support.supernets import small_network

CONDITIONS = Conditions(
    weights_sha256="00", calibration_images=1, validation_images=2, seed=0, rows=16, machine="m", torch="t"
)
SPACE = small_network().space
SMALLEST = Candidate(SPACE.smallest(), 70.25, 1.5)
LARGEST = Candidate(SPACE.largest(), 80.0, 12.0)


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    for candidate in (LARGEST, SMALLEST):
        Journal(path, CONDITIONS).add(candidate)
    journal = Journal(path, CONDITIONS)
    assert journal.candidates == (LARGEST, SMALLEST)
    assert SMALLEST.spec in journal
    assert journal[LARGEST.spec] == LARGEST


def test_half_a_line_is_measured_again(tmp_path: Path) -> None:
    """What a kill in the middle of writing leaves."""
    path = tmp_path / "journal"
    journal = Journal(path, CONDITIONS)
    journal.add(SMALLEST)
    journal.add(LARGEST)
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal(path, CONDITIONS)
    assert again.candidates == (SMALLEST,)
    again.add(LARGEST)
    assert Journal(path, CONDITIONS).candidates == (SMALLEST, LARGEST)


def test_other_conditions_are_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "journal", CONDITIONS)
    with pytest.raises(ConfigError, match=r"journal.*another --out"):
        Journal(tmp_path / "journal", msgspec.structs.replace(CONDITIONS, weights_sha256="11"))


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("notes\n")
    with pytest.raises(ConfigError, match="not the journal"):
        Journal(tmp_path / "journal", CONDITIONS)
