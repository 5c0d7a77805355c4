"""Texts of each length, to measure with."""

from pathlib import Path

import numpy as np

from superserve.model_folder import ModelFolder
from superserve.profiler.texts import shorter_texts
from support.folders import write_digits_like_folder
from support.texts import INPUT, padded_length, save_texts


def test_each_shorter_length_has_a_text_that_is_padded_to_it(tmp_path: Path) -> None:
    """And the share of the model's three test texts: of 3, 4 and 7 pieces."""
    folder = save_texts(tmp_path)
    found = shorter_texts(folder, folder.config.inputs)
    assert [texts.length for texts in found] == [4, 8]
    for texts in found:
        (cell,) = texts.row
        assert padded_length(np.frombuffer(cell, INPUT.dtype)[:, None].copy()) == texts.length
    assert sum(texts.share for texts in found) == 1.0
    assert all(texts.share > 0 for texts in found)


def test_without_test_texts_all_requests_are_taken_for_the_longest(tmp_path: Path) -> None:
    folder = save_texts(tmp_path)
    (tmp_path / "test.npz").unlink()
    assert [texts.share for texts in shorter_texts(folder, folder.config.inputs)] == [0, 0]


def test_models_that_take_no_texts_have_none(tmp_path: Path) -> None:
    folder = ModelFolder(write_digits_like_folder(tmp_path))
    assert shorter_texts(folder, folder.config.inputs) == []
