"""The bundled digits model is what its own files say, and shows a trade-off worth serving."""

from itertools import pairwise

import numpy as np
import pytest

from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine


@pytest.fixture(scope="module")
def digits() -> ModelFolder:
    return ModelFolder.resolve("digits")


def test_fits_into_the_package(digits: ModelFolder) -> None:
    assert sum(path.stat().st_size for path in digits.path.iterdir()) < 4_000_000


def test_takes_raw_pixels_and_gives_logits_of_ten_labels(digits: ModelFolder) -> None:
    config = digits.config
    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in config.inputs] == [
        ("image", "UINT8", (-1, 8, 8))
    ]
    assert [(t.name, t.datatype, t.shape) for t in config.outputs] == [("logits", "FP32", (-1, 10))]
    assert config.labels == tuple("0123456789")
    assert config.task == "image-classification"


def test_front_is_a_trade_off(digits: ModelFolder) -> None:
    """At least six points; an order of magnitude in work and four points of test accuracy from end to end."""
    subnets = digits.front.subnets
    assert [record.id for record in subnets] == [f"s{number}" for number in range(len(subnets))]
    assert len(subnets) >= 6
    assert all(less.accuracy < more.accuracy for less, more in pairwise(subnets))
    first, last = subnets[0], subnets[-1]
    assert last.macs > 10 * first.macs
    assert first.test_accuracy is not None
    assert last.test_accuracy is not None
    assert last.test_accuracy - first.test_accuracy >= 4


def test_accuracies_are_the_measured_ones(digits: ModelFolder) -> None:
    """Both ends, on all test images: another machine's rounding may move one image, no more."""
    inputs, labels = digits.test_data()
    ends = (digits.front.subnets[0], digits.front.subnets[-1])
    rows = evaluate(EagerEngine.load(digits), inputs, labels, subnets=[record.id for record in ends])
    for row, record in zip(rows, ends, strict=True):
        assert row.n == record.test_n
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=0.15)


def test_test_images_are_of_the_input_tensor(digits: ModelFolder) -> None:
    inputs, labels = digits.test_data()
    assert inputs.dtype == np.uint8
    assert inputs.shape == (997, 8, 8)
    assert sorted(set(labels.tolist())) == list(range(10))
