from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import ConfigError, UsageError
from superserve.evaluate import accuracy_row, evaluate


class FakeEngine:
    """Subnet ``bad`` always says class 0; ``good`` reads the class off the input."""

    name, dtype, subnet_ids = "fake", "float32", ("bad", "good")

    def __init__(self) -> None:
        self.rows: list[int] = []

    def actuate(self, subnet: int) -> None:
        """Nothing to do."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        self.rows.append(len(inputs[0]))
        return [np.eye(10)[inputs[0] * subnet]]


DIGITS = np.arange(100) % 10


def test_accuracy_by_subnet() -> None:
    bad, good = evaluate(FakeEngine(), DIGITS, DIGITS)
    assert (bad.subnet, bad.accuracy, bad.n) == ("bad", 10.0, 100)
    assert (good.subnet, good.accuracy, good.n) == ("good", 100.0, 100)
    assert bad.ci95[0] < 10 < bad.ci95[1]


def test_chosen_subnets_in_batches_with_progress() -> None:
    engine, seen = FakeEngine(), []
    (row,) = evaluate(engine, DIGITS, DIGITS, subnets=["good"], batch_size=40, report=lambda *done: seen.append(done))
    assert row.accuracy == 100
    assert engine.rows == [40, 40, 20]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_unknown_subnet() -> None:
    with pytest.raises(ConfigError, match="'best' is not one of bad, good"):
        evaluate(FakeEngine(), DIGITS, DIGITS, subnets=["best"])


@pytest.mark.parametrize(("inputs", "labels"), [(DIGITS[:0], DIGITS[:0]), (DIGITS, DIGITS[:5])])
def test_examples_need_labels(inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UsageError, match="one label per example"):
        evaluate(FakeEngine(), inputs, labels)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_holds_the_accuracy(count: tuple[int, int]) -> None:
    row = accuracy_row("s0", *count)
    assert 0 <= row.ci95[0] <= row.accuracy + 1e-9
    assert row.accuracy - 1e-9 <= row.ci95[1] <= 100
