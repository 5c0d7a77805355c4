"""What commands measure on, and what they fit 8-bit integers to."""

from pathlib import Path

import numpy as np
import pytest

from superserve.cli.examples import fitted_to, keep_for_int8, keep_if_there_are_none, measured_on
from superserve.errors import UsageError
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.packed.examples import fitting_examples, keep_examples
from superserve.supernet.packed.fitting_source import kept_path
from superserve.training.data import Parts, Split
from superserve.training.recipes import RECIPES, Recipe
from support.supernets import TINY, pixels, small_supernet

ROWS = 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return save_supernet(small_supernet(2, TINY), tmp_path / "tiny", test=(pixels(ROWS), np.arange(ROWS)))


def test_bundled_data_is_reported_whole_unless_something_was_fitted_to_it(folder: ModelFolder) -> None:
    assert len(measured_on(folder, None, "float32").labels) == ROWS
    assert len(measured_on(folder, None, "int8").labels) == 30


def test_a_file_is_kept_for_int8_only(folder: ModelFolder, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", inputs=pixels(8), labels=np.zeros(8, np.int64))
    with pytest.raises(UsageError, match=r"--data: nothing of float32 is fitted .* add --dtype int8"):
        keep_for_int8(folder, tmp_path / "mine.npz", "float32")
    assert not kept_path(folder).exists()
    assert fitted_to(folder).startswith("fitted to 10 examples and checked on 30 others: the model's test data")
    keep_for_int8(folder, tmp_path / "mine.npz", "int8")
    assert f"fitted to 2 examples and checked on 6 others: those kept in {kept_path(folder)}" in fitted_to(folder)
    assert len(fitting_examples(folder).checked.labels) == 6


def test_an_evaluation_fits_to_what_the_front_was_chosen_by(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a data folder, the validation split: neither what was learnt nor what is reported."""
    splits = [Split(pixels(20, seed=part), np.full(20, part)) for part in range(3)]
    fake = Recipe(lambda *_: folder, lambda _data: splits[2], lambda _data, _seed: Parts(*splits))
    monkeypatch.setitem(RECIPES, "small", fake)
    for dtype in ("float32", "int8"):
        keep_if_there_are_none(folder, tmp_path, dtype)
        assert kept_path(folder).exists() == (dtype == "int8")
    assert set(fitting_examples(folder).checked.labels) == {1}
    assert set(measured_on(folder, tmp_path, "int8").labels) == {2}
    keep_examples(folder, pixels(8), np.full(8, 9))
    keep_if_there_are_none(folder, tmp_path, "int8")
    assert set(fitting_examples(folder).checked.labels) == {9}


def test_a_file_is_reported_on_without_what_was_fitted_to(folder: ModelFolder, tmp_path: Path) -> None:
    """The very examples that were kept, and test data from elsewhere that the folder carries a part of."""
    inputs, _ = folder.test_data()
    np.savez(tmp_path / "whole.npz", inputs=np.concatenate([pixels(5, seed=1), inputs]), labels=np.arange(ROWS + 5))
    assert len(measured_on(folder, tmp_path / "whole.npz", "float32").labels) == ROWS + 5
    assert len(measured_on(folder, tmp_path / "whole.npz", "int8").labels) == ROWS + 5 - 10
    keep_for_int8(folder, tmp_path / "whole.npz", "int8")
    found = measured_on(folder, tmp_path / "whole.npz", "int8")
    assert not {row.tobytes() for row in found.inputs} & {row.tobytes() for row in fitting_examples(folder).fitted}
    assert len(found.labels) == ROWS + 5 - 11
