"""The recipe with a tiny network on made-up images; how well the real one does is in its card."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from superserve.errors import ConfigError
from superserve.evaluate import evaluate
from superserve.intervals import wilson95
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.supernet.macs import count_macs
from superserve.supernet.zoo.ofa_resnet import OfaResNet
from superserve.training import cifar10
from superserve.training.augment import CropFlip
from superserve.training.cifar10 import ARCHITECTURE, PREPROCESSING, Augment, Served, load_parts, train_cifar10
from superserve.training.data import Split
from superserve.training.options import TrainOptions
from superserve.training.progress import Progress
from superserve.training.recipes import RECIPES, examples_of, recipe
from support.training import TINY, by_flops, coloured


def large(n: int, seed: int) -> Split:
    """32x32 images in ten classes, of which three occur."""
    small = coloured(n, seed)
    return Split(np.kron(small.inputs, np.ones((1, 4, 4, 1), np.uint8)), small.labels)


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred images, a tiny network, and a cost that no clock has a part in."""
    parts = {"train": large(300, 1), "test": large(90, 2)}
    monkeypatch.setattr(cifar10, "load_cifar10", lambda _data, which: parts[which])
    monkeypatch.setattr(cifar10, "VALIDATION", 100)
    monkeypatch.setattr(cifar10, "ARCHITECTURE", msgspec.structs.replace(TINY, classes=10))
    monkeypatch.setattr(cifar10, "batch_latency_ms", by_flops)


def test_sized_as_the_recipe_says() -> None:
    network = OfaResNet(ARCHITECTURE)
    assert sum(parameter.numel() for parameter in network.parameters()) == 937_258
    row = torch.zeros(1, 3, 32, 32)
    smallest, largest = (
        count_macs(network, spec, (row,)) / 1e6 for spec in (network.space.smallest(), network.space.largest())
    )
    assert smallest == pytest.approx(1.51, abs=0.01)
    assert largest == pytest.approx(41.5, abs=0.1)


def test_parts_are_disjoint_and_seeded(small_recipe: None) -> None:
    first, again, other = load_parts(Path(), 0), load_parts(Path(), 0), load_parts(Path(), 1)
    assert [len(part) for part in first] == [200, 100, 90]
    everything = np.concatenate([first.train.inputs, first.validate.inputs])
    assert len(np.unique(everything.reshape(300, -1), axis=0)) == 300
    assert np.array_equal(first.validate.inputs, again.validate.inputs)
    assert not np.array_equal(first.validate.inputs, other.validate.inputs)


def test_augmented_images_are_normalised_as_served_and_blank_where_cut_out() -> None:
    images = torch.from_numpy(large(8, 3).inputs)
    still = Augment(PREPROCESSING, CropFlip(padding=0, flip=False, cutout=0))
    served = Served(PREPROCESSING)(images)
    assert torch.equal(still(images, torch.Generator()), served)
    assert served.is_contiguous(memory_format=torch.channels_last)
    cut = Augment(PREPROCESSING, CropFlip(padding=0, flip=False, cutout=8))(images, torch.Generator())
    blank = cut == 0
    assert torch.equal(cut[~blank], served[~blank])
    assert 0.01 < blank.float().mean() < 0.07


def test_a_job_can_be_sent_to_processes() -> None:
    job = cifar10.training_job(Path("data"), None, cifar10.default_plan(TrainOptions(out=Path())))
    assert ForkingPickler.dumps(job)


def test_writes_a_folder_that_serves_with_its_card(
    small_recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Progress] = []
    options = TrainOptions(out=tmp_path, data=tmp_path, epochs=3, processes=1, seed=4)
    trained = train_cifar10(options, seen.append)
    folder = ModelFolder(trained.path)
    assert [tensor.row_shape for tensor in (*folder.config.inputs, *folder.config.outputs)] == [(32, 32, 3), (10,)]
    assert not folder.carries_test_data

    test = large(90, 2)
    rows = evaluate(EagerEngine.load(folder), test.inputs, test.labels)
    for row, record in zip(rows, folder.front.subnets, strict=True):
        assert (row.n, record.accuracy_n) == (record.test_n, 100)
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=0.01)

    card = (tmp_path / "README.md").read_text()
    for record in folder.front.subnets:
        assert record.test_accuracy is not None
        low, high = wilson95(round(record.test_accuracy * 0.9), 90)
        assert f"{record.test_accuracy:.2f} ({low:.1f}-{high:.1f})" in card
    assert "superserve train cifar10 --data DIR --out DIR --epochs 3 --seed 4" in card
    notes = [step.note for step in seen if step.note]
    assert len(notes) == 3
    assert notes[-1].endswith("done in 0 s")
    assert {step.phase for step in seen} == {"train", "measure", "test"}


def test_resumes_from_the_model_folder(small_recipe: None, tmp_path: Path) -> None:
    """Finished training is not repeated: only the front is measured again."""
    options = TrainOptions(out=tmp_path, data=tmp_path, epochs=1, processes=1)
    train_cifar10(options)
    seen: list[Progress] = []
    train_cifar10(msgspec.structs.replace(options, resume=True), seen.append)
    assert {step.phase for step in seen} == {"measure", "test"}


def test_needs_data() -> None:
    with pytest.raises(ConfigError, match="SUPERSERVE_DATA"):
        train_cifar10(TrainOptions(out=Path("unused")))


def test_recipes_by_name() -> None:
    assert list(RECIPES) == ["digits", "cifar10", "intents"]
    with pytest.raises(ConfigError, match=r"imagenet.*digits, cifar10, intents"):
        recipe("imagenet")


@pytest.mark.parametrize("option", [{"resume": True}, {"processes": 2}])
def test_digits_refuses_what_it_cannot_honour(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(option))}"):
        recipe("digits").train(TrainOptions(out=Path("unused"), **option), lambda _step: None)  # type: ignore[arg-type]


def test_only_recipes_with_data_folders_have_test_examples_there(tmp_path: Path) -> None:
    for name in ("digits", "my-own"):
        with pytest.raises(ConfigError, match=name):
            examples_of(name, tmp_path)
    with pytest.raises(ConfigError, match="cifar10_test"):
        examples_of("cifar10", tmp_path)
