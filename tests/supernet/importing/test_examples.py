"""Data for calibration and accuracy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from superserve.errors import CheckpointError
from superserve.model_folder import FORMAT, ModelConfig, TensorSpec
from superserve.supernet.importing.examples import batches, load_examples


def _config(*inputs: TensorSpec, classes: int = 3) -> ModelConfig:
    return ModelConfig(
        format=FORMAT,
        name="m",
        family="f",
        architecture={},
        task="t",
        dataset="d",
        labels=tuple(str(number) for number in range(classes)),
        inputs=inputs,
        outputs=(TensorSpec("logits", "FP32", (-1, classes)),),
        preprocessing={},
    )


IMAGES = _config(TensorSpec("image", "UINT8", (-1, 8, 8, 3)))
TEXTS = _config(TensorSpec("input_ids", "INT64", (-1, 4)), TensorSpec("attention_mask", "INT64", (-1, 4)))


def _archive(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_reads_an_archive_by_input_names(tmp_path: Path) -> None:
    ids, mask = np.arange(20).reshape(5, 4), np.ones((5, 4), np.int64)
    found = load_examples(_archive(tmp_path, input_ids=ids, attention_mask=mask, labels=np.arange(5) % 3), TEXTS)
    assert [array.tolist() for array in found.inputs] == [ids.tolist(), mask.tolist()]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 0, 1]


def test_a_limit_draws_rows_that_stay_together(tmp_path: Path) -> None:
    ids = np.repeat(np.arange(50)[:, None], 4, axis=1)
    path = _archive(tmp_path, input_ids=ids, attention_mask=ids, labels=np.zeros(50, np.int64))
    drawn = [load_examples(path, TEXTS, limit=10, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0].rows == 10
    assert (drawn[0].inputs[0] == drawn[0].inputs[1]).all()
    assert (drawn[0].inputs[0] == drawn[1].inputs[0]).all()
    assert (drawn[0].inputs[0] != drawn[2].inputs[0]).any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"input_ids": np.ones((5, 4), np.int64)}, "'attention_mask' is missing; found"),
        ({"input_ids": np.ones((5, 3), np.int64)}, r"'input_ids' is int64 \(5, 3\), but the model takes int64"),
        ({"input_ids": np.ones((5, 4), np.int32)}, "is int32"),
        ({"input_ids": np.ones((0, 4), np.int64)}, r"\(0, 4\)"),
        ({"input_ids": np.ones((6, 4), np.int64), "attention_mask": np.ones((5, 4), np.int64)}, "numbers of rows"),
        ({"labels": np.array([0, 1, 2, 3, 0])}, "from 0 to 2"),
        ({"labels": np.zeros(5)}, "integers"),
        ({"labels": np.zeros(4, np.int64)}, "numbers of rows"),
    ],
)
def test_unfit_archives_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    whole = {"input_ids": np.ones((5, 4), np.int64), "attention_mask": np.ones((5, 4), np.int64)}
    path = _archive(tmp_path, **(arrays if "missing" in message else whole | arrays))
    with pytest.raises(CheckpointError, match=rf"data.npz: .*{message}"):
        load_examples(path, TEXTS)


def test_pickled_archives_are_not_opened(tmp_path: Path) -> None:
    path = _archive(tmp_path, inputs=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="plain arrays"):
        load_examples(path, IMAGES)
    (tmp_path / "torn.npz").write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"torn.npz: not a readable .npz"):
        load_examples(tmp_path / "torn.npz", IMAGES)


def _images(folder: Path, *classes: str, size: tuple[int, int] = (20, 10)) -> Path:
    """Two images per class, all of whose pixels are of one colour but for a black frame that cropping removes."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for copy in range(2):
            image = Image.new("RGB", size, (10 * number + copy, 100, 200))
            image.save(folder / name / f"{copy}.png")
    return folder


def test_folders_are_classes_in_alphabetical_order(tmp_path: Path) -> None:
    found = load_examples(_images(tmp_path, "cat", "bee", "ant"), IMAGES)
    assert found.inputs[0].shape == (6, 8, 8, 3)
    assert found.inputs[0][:, 4, 4, 0].tolist() == [20, 21, 10, 11, 0, 1]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_folders_without_classes_have_no_labels(tmp_path: Path) -> None:
    assert load_examples(_images(tmp_path / "flat", "."), IMAGES).labels is None
    assert load_examples(_images(tmp_path / "two", "a", "b"), IMAGES).labels is None


def test_images_for_float_models_are_channels_first(tmp_path: Path) -> None:
    config = _config(TensorSpec("image", "FP32", (-1, 3, 8, 6)))
    found = load_examples(_images(tmp_path, "a"), config)
    assert found.inputs[0].shape == (2, 3, 8, 6)
    assert found.inputs[0].dtype == np.float32
    assert found.inputs[0][1, :, 0, 0].tolist() == pytest.approx([1 / 255, 100 / 255, 200 / 255])


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    """An image 8 / 0.875 pixels high, whose middle 8x8 is white, comes out white."""
    image = Image.new("RGB", (20, 10))
    image.paste((255, 255, 255), (6, 1, 14, 9))
    image.save(tmp_path / "a.png")
    assert (load_examples(tmp_path, IMAGES).inputs[0] == 255).all()


def test_unreadable_images_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no JPEG or PNG"):
        load_examples(tmp_path, IMAGES)
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(CheckpointError, match=r"a.jpg: not a readable image"):
        load_examples(tmp_path, IMAGES)
    with pytest.raises(CheckpointError, match=r"give an .npz archive"):
        load_examples(tmp_path, TEXTS)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_examples(tmp_path / "nowhere", IMAGES)


def test_batches_cover_every_row() -> None:
    found = batches([np.arange(5), np.arange(5) * 2], 2)
    assert [[array.tolist() for array in batch] for batch in found] == [
        [[0, 1], [0, 2]],
        [[2, 3], [4, 6]],
        [[4], [8]],
    ]
