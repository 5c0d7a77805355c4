"""Examples: what integers are fitted to is never what their accuracy is reported on."""

from pathlib import Path

import numpy as np
import pytest

from superserve.engine import INT8, PACKED
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.packed.examples import fitting_examples, keep_examples, reported, without_fitted
from superserve.supernet.packed_store import packs_path
from superserve.supernet.points import LabelledExamples
from superserve.supernet.right_answers import RightAnswers, Runs, keep_answers, kept_answers
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
    with pytest.raises(ModelFolderError, match="a label for each"):
        keep_examples(folder, pixels(4), np.zeros(3, np.int64))
    keep_examples(folder, pixels(3), np.zeros(3, np.int64))
    with pytest.raises(ModelFolderError, match="3 examples are too few"):
        fitting_examples(folder)


def test_what_the_model_does_not_take_is_not_kept(folder: ModelFolder) -> None:
    for wrong in (pixels(40).astype(np.float64), pixels(40)[:, :-1]):
        with pytest.raises(ModelFolderError, match=r"examples for int8: inputs .* are not rows of UINT8"):
            keep_examples(folder, wrong, np.zeros(40, np.int64))
    assert len(fitting_examples(folder).fitted) == 128  # of the test data, still


def test_packs_and_counts_of_what_was_fitted_to_others_are_not_used(folder: ModelFolder) -> None:
    """Other examples make another pack: it is packed anew, and what the first one got wrong is not held against it."""
    runs, before = Runs(PACKED, INT8), packs_path(folder, INT8)
    keep_answers(folder, runs, [RightAnswers(subnet="s0", examples="theirs", n=100, right=0)])
    keep_examples(folder, pixels(40, seed=1), np.zeros(40, np.int64))
    assert packs_path(folder, INT8) != before
    assert kept_answers(folder, runs) == ()
    floats = packs_path(folder, "float32")
    keep_examples(folder, pixels(40, seed=2), np.zeros(40, np.int64))
    assert packs_path(folder, "float32") == floats


def test_examples_that_were_all_fitted_to_say_nothing(folder: ModelFolder) -> None:
    fitted = fitting_examples(folder).fitted
    with pytest.raises(ModelFolderError, match="fitted to all of these examples: measure on others"):
        without_fitted(folder, LabelledExamples(fitted, np.zeros(len(fitted), np.int64)))
