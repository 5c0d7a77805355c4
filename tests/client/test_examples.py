from pathlib import Path

import numpy as np
import pytest

from superserve.client.examples import Examples, examples_from_folder, random_examples
from superserve.client.reply import ModelMetadata, TensorMetadata
from superserve.errors import UsageError
from superserve.metrics import UNLABELLED
from superserve.model_folder import ModelConfig, ModelFolder, TensorSpec, write_json


def metadata(*inputs: TensorMetadata) -> ModelMetadata:
    return ModelMetadata(name="m", inputs=inputs, outputs=())


def test_random_examples_fit_the_declared_inputs() -> None:
    declared = metadata(
        TensorMetadata("image", "UINT8", (-1, 8, 8)),
        TensorMetadata("mask", "BOOL", (-1, -1)),
        TensorMetadata("x", "FP16", (-1, 3)),
    )
    examples = random_examples(declared, np.random.default_rng(0), 5)
    assert len(examples) == 5
    assert (examples.labels == UNLABELLED).all()
    first = examples.inputs[0]
    assert {name: (array.shape, array.dtype.str) for name, array in first.items()} == {
        "image": ((1, 8, 8), "|u1"),
        "mask": ((1, 1), "|b1"),
        "x": ((1, 3), "<f2"),
    }
    again = random_examples(declared, np.random.default_rng(0), 5)
    assert all(np.array_equal(again.inputs[0][name], first[name]) for name in first)


def test_text_inputs_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"'text'.*BYTES"):
        random_examples(metadata(TensorMetadata("text", "BYTES", (-1,))), np.random.default_rng(0))


def test_examples_need_one_label_each() -> None:
    with pytest.raises(UsageError, match="label"):
        Examples(({"x": np.zeros((1, 1))},), np.zeros(2, np.int64))
    with pytest.raises(UsageError, match="at least one"):
        Examples((), np.zeros(0, np.int64))


def test_folder_examples_are_distinct_seeded_and_labelled(tmp_path: Path) -> None:
    rows = np.arange(10 * 4, dtype=np.uint8).reshape(10, 2, 2)
    np.savez(tmp_path / "test.npz", inputs=rows, labels=np.arange(10))
    image, logits = TensorSpec("image", "UINT8", (-1, 2, 2)), TensorSpec("logits", "FP32", (-1, 10))
    config = ModelConfig(
        format=1,
        name="t",
        family="f",
        architecture={},
        task="t",
        dataset="d",
        labels=(),
        inputs=(image,),
        outputs=(logits,),
        preprocessing={},
    )
    write_json(tmp_path / "config.json", config)
    examples = examples_from_folder(ModelFolder(tmp_path), np.random.default_rng(3), 6)
    assert len(set(examples.labels.tolist())) == 6
    for inputs, label in zip(examples.inputs, examples.labels, strict=True):
        assert np.array_equal(inputs["image"], rows[label : label + 1])
    again = examples_from_folder(ModelFolder(tmp_path), np.random.default_rng(3), 6)
    assert examples.labels.tolist() == again.labels.tolist()
