"""The bundled cifar10 model is what its own files say, and shows a trade-off worth serving."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.training.recipes import examples_of


@pytest.fixture(scope="module")
def cifar10() -> ModelFolder:
    return ModelFolder.resolve("cifar10")


def test_fits_into_the_package(cifar10: ModelFolder) -> None:
    """Without the photographs, which are not ours to distribute."""
    assert not cifar10.carries_test_data
    assert sum(path.stat().st_size for path in cifar10.path.iterdir()) < 5_000_000


def test_front_is_a_trade_off(cifar10: ModelFolder) -> None:
    """At least eight points of rising accuracy, ten points and twenty times the work from end to end."""
    subnets = cifar10.front.subnets
    assert len(subnets) >= 8
    assert all(less.accuracy < more.accuracy for less, more in pairwise(subnets))
    first, last = subnets[0], subnets[-1]
    assert last.macs > 20 * first.macs
    assert first.test_accuracy is not None
    assert last.test_accuracy is not None
    assert last.test_accuracy - first.test_accuracy >= 10


def test_every_subnet_answers_photographs(cifar10: ModelFolder) -> None:
    """Different ones differently."""
    engine = EagerEngine.load(cifar10)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    answers = [engine.run(subnet, [images])[0].copy() for subnet in range(len(engine.subnet_ids))]
    assert all(answer.shape == (4, 10) and np.isfinite(answer).all() for answer in answers)
    assert not any(np.array_equal(*pair) for pair in pairwise(answers))


@pytest.mark.skipif("SUPERSERVE_DATA" not in os.environ, reason="the test images are in SUPERSERVE_DATA, if anywhere")
def test_accuracies_are_the_measured_ones(cifar10: ModelFolder) -> None:
    """Both ends: another machine's rounding, or the original images, may move some, no more than the interval."""
    inputs, labels = examples_of("cifar10", Path(os.environ["SUPERSERVE_DATA"]))
    ends = (cifar10.front.subnets[0], cifar10.front.subnets[-1])
    packed = cifar10.config.inputs[0].packed(inputs)
    for row, record in zip(
        evaluate(EagerEngine.load(cifar10), packed, labels, subnets=[record.id for record in ends]), ends, strict=True
    ):
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=1.0)


def test_the_card_says_what_a_user_has_to_know(cifar10: ModelFolder) -> None:
    card = (cifar10.path / "README.md").read_text()
    for said in ("superserve train cifar10", "JPEG at quality 75", "Limits", "AMD EPYC"):
        assert said in card
