"""What `superserve evaluate` finds out of an engine, and what is remembered of it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from superserve.engine import PACKED, Engine, EngineChoice
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.serving import evaluation
from superserve.serving.evaluation import evaluate_choice
from superserve.serving.points_ahead import runs_of
from superserve.supernet.points import answers_on
from superserve.supernet.right_answers import REFERENCE
from support.guesses import Guess, guess_examples, guess_folder

EXAMPLES = guess_examples(1000, hard=3, seed=1)
BFLOAT16 = EngineChoice("cpu", "eager", "bfloat16")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return guess_folder(tmp_path / "small")


class Loaded:
    """Engines that are loaded, each of which errs on the same subnets; subnets that are packed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, errs: Sequence[int] = (), packed: Sequence[int] = ()) -> None:
        self.references = 0
        self._errs = errs
        monkeypatch.setattr(evaluation, "load_engine", self.load)
        monkeypatch.setattr(evaluation, "eager_float32", self.reference)
        monkeypatch.setattr(
            evaluation, "packed_subnets", lambda _folder, choice, _report: packed if choice.engine == PACKED else ()
        )

    def load(self, _: ModelFolder, choice: EngineChoice, resident: Sequence[int]) -> Engine:
        assert bool(resident) == (choice.engine == PACKED)
        return Guess(choice.engine, choice.dtype, errs=self._errs)

    def reference(self, _: ModelFolder) -> Engine:
        self.references += 1
        return Guess()


def untold(*_: object) -> None:
    pass


def test_rows_say_how_accurate_a_subnet_is_and_what_is_lost(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Loaded(monkeypatch, errs=[1])
    found = evaluate_choice(folder, BFLOAT16, EXAMPLES, report=untold)
    assert [(row.subnet, row.accuracy, row.n, row.lost_points) for row in found.rows] == [
        ("s0", 100.0, 1000, 0.0),
        ("s1", pytest.approx(99.7), 1000, pytest.approx(0.3)),
        ("s2", 100.0, 1000, 0.0),
    ]
    assert found.rows[1].ci95[0] < 99.7 < found.rows[1].ci95[1]
    (refused,) = found.refused
    assert "s1 0.30 points" in refused


def test_the_engine_is_measured_each_time_and_eager_float32_once(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Loaded(monkeypatch, errs=[1])
    evaluate_choice(folder, BFLOAT16, EXAMPLES, report=untold)
    Loaded(monkeypatch)
    found = evaluate_choice(folder, BFLOAT16, EXAMPLES, report=untold)
    assert found.refused == ()
    assert [kept.right for kept in answers_on(folder, runs_of(BFLOAT16), EXAMPLES)] == [1000, 1000, 1000]
    assert loaded.references == 1


def test_of_eager_float32_nothing_is_loaded_twice(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = Loaded(monkeypatch)
    found = evaluate_choice(folder, EngineChoice("cpu", "eager", "float32"), EXAMPLES, report=untold)
    assert loaded.references == 0
    assert [row.lost_points for row in found.rows] == [0.0, 0.0, 0.0]
    assert len(answers_on(folder, REFERENCE, EXAMPLES)) == 3


def test_subnets_that_are_asked_for_are_measured_in_their_order(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Loaded(monkeypatch)
    found = evaluate_choice(folder, BFLOAT16, EXAMPLES, subnets=["s2", "s0"], report=untold)
    assert [row.subnet for row in found.rows] == ["s2", "s0"]
    assert {kept.subnet for kept in answers_on(folder, REFERENCE, EXAMPLES)} == {"s0", "s2"}
    with pytest.raises(ConfigError, match="'s9' is not one of s0, s1, s2"):
        evaluate_choice(folder, BFLOAT16, EXAMPLES, subnets=["s9"], report=untold)


def test_what_cannot_be_packed_counts_for_the_engine_that_runs_it(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    Loaded(monkeypatch, errs=[0, 1], packed=[1, 2])
    choice = EngineChoice("cpu", PACKED, "bfloat16", fallback="eager")
    found = evaluate_choice(folder, choice, EXAMPLES, report=untold)
    assert [row.subnet for row in found.rows] == ["s0", "s1", "s2"]
    assert [kept.subnet for kept in answers_on(folder, runs_of(choice), EXAMPLES)] == ["s1", "s2"]
    assert [kept.subnet for kept in answers_on(folder, runs_of(choice.behind), EXAMPLES)] == ["s0"]
    assert ["engine packed (bfloat16)" in refused for refused in found.refused] == [True, False]
