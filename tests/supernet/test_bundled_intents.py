"""The bundled intents model is what its own files say, and shows a trade-off worth serving."""

from itertools import pairwise

import numpy as np
import pytest

from superserve.evaluate import evaluate
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.training.intents_corpus import INPUT


@pytest.fixture(scope="module")
def intents() -> ModelFolder:
    return ModelFolder.resolve("intents")


def test_fits_into_the_package(intents: ModelFolder) -> None:
    assert sum(path.stat().st_size for path in intents.path.iterdir()) < 9_000_000


def test_takes_texts_and_gives_logits_of_the_intents_of_both_tasks(intents: ModelFolder) -> None:
    config = intents.config
    assert config.inputs == (INPUT,)
    assert [(t.name, t.datatype, t.shape) for t in config.outputs] == [("logits", "FP32", (-1, 228))]
    assert sum(label.startswith("clinc150:") for label in config.labels) == 151
    assert sum(label.startswith("banking77:") for label in config.labels) == 77


def test_front_is_a_trade_off(intents: ModelFolder) -> None:
    """At least six points; four points of test accuracy, and six times the work, from end to end."""
    subnets = intents.front.subnets
    assert len(subnets) >= 6
    assert all(less.accuracy < more.accuracy for less, more in pairwise(subnets))
    first, last = subnets[0], subnets[-1]
    assert last.macs > 6 * first.macs
    assert first.test_accuracy is not None
    assert last.test_accuracy is not None
    assert last.test_accuracy - first.test_accuracy >= 4


def test_accuracies_are_the_measured_ones(intents: ModelFolder) -> None:
    """Both ends, on all test texts: another machine's rounding may move a few texts, no more."""
    inputs, labels = intents.test_data()
    ends = (intents.front.subnets[0], intents.front.subnets[-1])
    rows = evaluate(EagerEngine.load(intents), INPUT.packed(inputs), labels, subnets=[record.id for record in ends])
    for row, record in zip(rows, ends, strict=True):
        assert row.n == record.test_n == 7_580
        assert row.accuracy == pytest.approx(record.test_accuracy, abs=0.1)


def test_knows_its_own_test_texts(intents: ModelFolder) -> None:
    inputs, labels = intents.test_data()
    assert inputs.dtype.kind == "S"
    assert inputs.shape == (7_580, 1)
    assert len(np.unique(labels)) == 227


def test_the_card_says_what_a_user_has_to_know(intents: ModelFolder) -> None:
    card = (intents.path / "README.md").read_text()
    for said in ("superserve train intents", "CC-BY 3.0", "CC-BY 4.0", "out of scope", "Limits", "AMD EPYC"):
        assert said in card
