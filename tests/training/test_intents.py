"""The recipe in small: a tiny network, on texts that single words tell apart."""

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
from superserve.supernet.hub import empty_network
from superserve.training import intents, intents_model
from superserve.training.intents import default_plan, load_test, scratch_config, train_intents
from superserve.training.intents_corpus import INPUT, load_corpus
from superserve.training.intents_model import training_job
from superserve.training.options import TrainOptions
from superserve.training.progress import Progress
from superserve.training.recipes import examples_of, has_examples, recipe
from superserve.training.trainer import Job, alike, train
from superserve.training.trainer import Progress as Step
from support.bert_folder import PIECES, write_bert
from support.intents import write_packed


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in {"HIDDEN": 16, "LAYERS": 2, "HEADS": 2, "WIDTHS": (0.5, 1.0), "LENGTHS": (4, 8)}.items():
        monkeypatch.setattr(intents_model, name, value)
    for name, value in {"VOCABULARY": 120, "LEARNING_RATE": 0.02, "BACKBONE_LEARNING_RATE": 0.02}.items():
        monkeypatch.setattr(intents, name, value)
    write_packed(tmp_path / "text", per_intent=40)
    return tmp_path


def small_job(data: Path, folder: Path | None) -> Job:
    options = TrainOptions(out=Path(), epochs=6, processes=1, seed=2)
    return training_job(data, folder, default_plan(options), scratch_config(load_corpus(data, 2)))


def test_learns_chooses_and_writes_a_folder_that_serves_with_its_card(data: Path) -> None:
    seen: list[Progress] = []
    out = data / "model"
    options = TrainOptions(out=out, data=data, epochs=75, processes=1, seed=4)
    folder = ModelFolder(train_intents(options, seen.append).path)
    assert folder.config.labels[-1] == "banking77:exchange_rate"
    assert folder.config.inputs == (INPUT,)

    test = load_test(data)
    rows = evaluate(EagerEngine.load(folder), test.inputs, test.labels)
    for row, record in zip(rows, folder.front.subnets, strict=True):
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=0.01)
        assert (row.n, record.accuracy_n) == (160, 1080)
    assert rows[-1].accuracy > 60  # one in four by chance

    inputs, labels = folder.test_data()
    assert np.array_equal(INPUT.packed(inputs), test.inputs)
    assert np.array_equal(labels, test.labels)
    card = (out / "README.md").read_text()
    low, high = wilson95(round(rows[-1].accuracy * 1.6), 160)
    assert f"{rows[-1].accuracy:.2f} ({low:.1f}-{high:.1f})" in card
    assert "superserve train intents --data DIR --out DIR --epochs 75 --seed 4" in card
    assert "out-of-scope" in card
    assert "| subnet | 4 | 8 |" in card
    assert {step.phase for step in seen} == {"train", "measure", "test"}


class KilledError(Exception):
    """Stands for a signal."""


def test_the_same_seed_and_a_killed_run_give_the_same_weights(data: Path) -> None:
    """To the bit, word pieces included."""
    whole, again = (train(small_job(data, None)).network.state_dict() for _ in range(2))

    def stop(step: Step) -> None:
        if step.step == 4:
            raise KilledError

    job = small_job(data, data / "run")
    with pytest.raises(KilledError):
        train(job, report=stop)
    resumed = train(small_job(data, data / "run"), resume=True).network.state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, resumed[name])


def test_a_job_can_be_sent_to_processes(data: Path) -> None:
    assert ForkingPickler.dumps(small_job(data, None))


def test_steps_hold_texts_of_like_size_and_every_text_once() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 30, 2_000)
    order = rng.permutation(2_000).reshape(40, 50)
    mixed = alike(order, sizes, np.random.default_rng(1))
    assert mixed.shape == order.shape
    assert sorted(mixed.ravel()) == list(range(2_000))
    for start in (0, 16, 32):  # never beyond its few steps, so that no epoch is sorted as a whole
        assert set(mixed[start : start + 16].ravel()) == set(order[start : start + 16].ravel())
    assert np.ptp(sizes[mixed], axis=1).mean() < 0.2 * np.ptp(sizes[order], axis=1).mean()
    assert np.array_equal(mixed, alike(order, sizes, np.random.default_rng(1)))


def test_size_of_the_bundled_network() -> None:
    """A head for each eighth of the width."""
    network = empty_network("dynabert", msgspec.to_builtins(intents_model.architecture(4_000, 228)))
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_752_036
    slices = network.geometry(network.space.smallest()).slices
    assert slices["bert.encoder.layer.0.attention.self.query"] == (16, 128)
    assert slices["bert.encoder.layer.0.intermediate.dense"] == (64, 128)


def test_needs_data() -> None:
    with pytest.raises(ConfigError, match="SUPERSERVE_DATA"):
        train_intents(TrainOptions(out=Path("unused")))


def test_test_texts_are_found_in_a_data_folder(data: Path) -> None:
    assert has_examples("intents")
    assert not has_examples("digits")
    inputs, labels = examples_of("intents", data)
    assert len(inputs) == len(labels) == 160
    parts = recipe("intents").parts(data, 0)
    assert np.array_equal(parts.test.inputs, inputs)


@pytest.mark.slow
def test_starts_from_a_backbone(data: Path) -> None:
    """Its vocabulary and sizes are the model's; what was trained alone, then as a supernet, is served."""
    bert = write_bert(data / "bert")
    options = TrainOptions(out=data / "model", data=data, epochs=50, processes=1, backbone=bert)
    folder = ModelFolder(train_intents(options).path)
    assert folder.config.preprocessing["pieces"] == " ".join(PIECES)
    assert folder.config.preprocessing["lengths"] == [4, 8]
    assert folder.config.architecture["layers"] == 4
    assert folder.front.subnets[-1].test_accuracy is not None
    assert folder.front.subnets[-1].test_accuracy > 40  # one in four by chance
    card = (folder.path / "README.md").read_text()
    assert "--backbone DIR --epochs 50" in card
    assert "license: other" in card
    seen: list[Progress] = []
    again = train_intents(msgspec.structs.replace(options, resume=True), seen.append)
    assert ModelFolder(again.path).weights_hash == folder.weights_hash
    assert {step.phase for step in seen} == {"measure", "test"}


def test_a_backbone_that_reads_too_little_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = write_bert(data / "bert")
    monkeypatch.setattr(intents_model, "LENGTHS", (16, 32))
    with pytest.raises(ConfigError, match="reads 12 pieces at most, and texts are padded to 16"):
        train_intents(TrainOptions(out=data / "model", data=data, epochs=1, processes=1, backbone=bert))


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_models_of_images_take_no_backbone(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--backbone: {name}"):
        recipe(name).train(TrainOptions(out=Path("unused"), backbone=Path("bert")), lambda _step: None)
