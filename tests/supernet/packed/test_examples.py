"""Examples: what integers are fitted to is never what their accuracy is reported on."""

from pathlib import Path

import numpy as np
import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.packed.examples import fitting_examples, keep_examples, reported
from support.supernets import TINY, pixels, small_supernet

ROWS = 600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """A model with test data, all of it different."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return save_supernet(small_supernet(2, TINY), tmp_path / "tiny", test=(pixels(ROWS), np.arange(ROWS)))


def kinds(inputs: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> set[bytes]:
    return {row.tobytes() for row in inputs}


def test_test_data_is_parted(folder: ModelFolder) -> None:
    found = fitting_examples(folder)
    assert (len(found.fitted), len(found.checked.inputs), len(found.checked.labels)) == (128, ROWS - 128, ROWS - 128)
    assert not kinds(found.fitted) & kinds(found.checked.inputs)
    whole, _ = folder.test_data()
    np.testing.assert_array_equal(found.checked.inputs, whole[found.checked.labels])  # the label of each is its place
    np.testing.assert_array_equal(fitting_examples(folder).fitted, found.fitted)


def test_what_was_fitted_to_is_not_reported_on(folder: ModelFolder) -> None:
    assert not kinds(reported(folder).inputs) & kinds(fitting_examples(folder).fitted)
    assert len(reported(folder).labels) == ROWS - 128


def test_what_was_kept_takes_the_place_of_test_data(folder: ModelFolder) -> None:
    keep_examples(folder, pixels(40, seed=1), np.zeros(40, np.int64))
    found = fitting_examples(folder)
    assert (len(found.fitted), len(found.checked.inputs)) == (10, 30)
    assert kinds(found.fitted) <= kinds(pixels(40, seed=1))
    assert len(reported(folder).labels) == ROWS


def test_too_few_and_unlabelled_ones_are_refused(folder: ModelFolder) -> None:
    with pytest.raises(ModelFolderError, match="give one for each"):
        keep_examples(folder, pixels(4), np.zeros(3, np.int64))
    keep_examples(folder, pixels(3), np.zeros(3, np.int64))
    with pytest.raises(ModelFolderError, match="3 examples are too few"):
        fitting_examples(folder)
