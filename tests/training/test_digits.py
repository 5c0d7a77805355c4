"""The pipeline at a size that trains in a second; how well the real one does is in the bundled model's tests."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from superserve.engine import Engine
from superserve.errors import ConfigError
from superserve.evaluate import AccuracyRow, evaluate
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.engine import EagerEngine
from superserve.supernet.zoo.ofa_resnet import OfaResNetConfig, StageConfig
from superserve.training import publish
from superserve.training.digits import load_digits, train_digits
from superserve.training.progress import Progress
from support.training import by_flops

TINY = OfaResNetConfig(
    in_channels=1,
    classes=10,
    stem_width=8,
    stages=(StageConfig(width=8, stride=2, depths=(1, 2)), StageConfig(width=16, stride=2, depths=(1,))),
    width_ratios=(0.5, 1.0),
    expand_ratios=(0.5,),
    divisor=4,
)


by_size = by_flops(TensorSpec("image", "UINT8", (-1, 8, 8)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelFolder, list[Progress]]:
    seen: list[Progress] = []
    path = tmp_path_factory.mktemp("digits")
    return train_digits(path, seed=3, epochs=2, report=seen.append, architecture=TINY, cost=by_size), seen


def test_parts_are_disjoint_and_seeded() -> None:
    first, again, other = load_digits(0), load_digits(0), load_digits(1)
    assert [len(part.labels) for part in first] == [500, 300, 997]
    everything = np.concatenate([part.inputs for part in first])
    assert everything.dtype == np.uint8
    assert everything.max() == 16
    assert everything.sum() == np.concatenate([part.inputs for part in other]).sum()
    assert np.array_equal(first.test.inputs, again.test.inputs)
    assert not np.array_equal(first.test.inputs, other.test.inputs)


def test_writes_a_folder_that_serves(trained: tuple[ModelFolder, list[Progress]]) -> None:
    folder, _ = trained
    assert folder.config.labels == tuple("0123456789")
    assert [tensor.shape for tensor in (*folder.config.inputs, *folder.config.outputs)] == [(-1, 8, 8), (-1, 10)]
    inputs, labels = folder.test_data()
    rows = evaluate(EagerEngine.load(ModelFolder(folder.path)), inputs, labels)
    for row, record in zip(rows, folder.front.subnets, strict=True):
        assert (row.subnet, row.n) == (record.id, record.test_n) == (record.id, 997)
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=0.01)
        assert record.accuracy_n == 300
    macs = [record.macs for record in folder.front.subnets]
    assert macs == sorted(macs)


def test_test_examples_are_the_ones_held_back(trained: tuple[ModelFolder, list[Progress]]) -> None:
    inputs, labels = trained[0].test_data()
    held_back = load_digits(3).test
    assert np.array_equal(inputs, held_back.inputs)
    assert np.array_equal(labels, held_back.labels)


def test_the_front_is_chosen_on_validation_images_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The test images are looked at once, when nothing is left to choose."""
    data, seen = load_digits(5), []

    def spy(engine: Engine, inputs: np.ndarray[Any, Any], *arguments: Any, **options: Any) -> list[AccuracyRow]:
        seen.append(inputs)
        return evaluate(engine, inputs, *arguments, **options)

    monkeypatch.setattr(publish, "evaluate", spy)
    train_digits(tmp_path, seed=5, epochs=1, architecture=TINY, cost=by_size)
    *choosing, testing = seen
    assert len(choosing) == 4
    assert all(np.array_equal(inputs, data.validate.inputs) for inputs in choosing)
    assert np.array_equal(testing, data.test.inputs)


def test_reports_every_step(trained: tuple[ModelFolder, list[Progress]]) -> None:
    _, seen = trained
    assert [(p.done, p.total) for p in seen if p.phase == "train"] == [(1, 2), (2, 2)]
    assert [(p.done, p.total) for p in seen if p.phase == "measure"] == [(n, 4) for n in range(1, 5)]
    last = seen[-1]
    assert (last.phase, last.done) == ("test", last.total)
    assert all((p.loss is not None) == (p.phase == "train") for p in seen)


def test_same_seed_gives_the_same_files(trained: tuple[ModelFolder, list[Progress]], tmp_path: Path) -> None:
    torch.manual_seed(99)  # the global generator has no say
    again = train_digits(tmp_path, seed=3, epochs=2, architecture=TINY, cost=by_size)
    assert again.model_hash == trained[0].model_hash


def test_other_seed_gives_another_model(trained: tuple[ModelFolder, list[Progress]], tmp_path: Path) -> None:
    other = train_digits(tmp_path, seed=4, epochs=1, architecture=TINY, cost=by_size)
    assert other.model_hash != trained[0].model_hash


def test_training_needs_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs = 0"):
        train_digits(tmp_path, epochs=0)


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"superserve\[train\]"):
        load_digits(0)
