"""Before workers start: what was never compared is counted, what loses is refused, eager float32 passes at once."""

from pathlib import Path

import pytest

from superserve.engine import PACKED, EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving import points_ahead
from superserve.serving.points_ahead import Report, require_points, runs_of, tell_never_compared
from superserve.supernet.hub import save_supernet
from superserve.supernet.points import count, labelled_examples
from superserve.supernet.right_answers import REFERENCE
from support.guesses import Guess, guess_examples, guess_folder
from support.supernets import small_supernet

BFLOAT16 = EngineChoice("cpu", "eager", "bfloat16")
FLOAT32 = EngineChoice("cpu", "eager", "float32")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


class Counting:
    """Stands in for the process that counts: every engine errs on one subnet."""

    def __init__(self, errs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted: list[EngineChoice] = []
        self._errs = errs
        monkeypatch.setattr(points_ahead, "_count", self.count)

    def count(self, folder: ModelFolder, choice: EngineChoice, told: Report) -> None:
        self.counted.append(choice)
        told(1, 2, "compare accuracy")
        examples = labelled_examples(folder)
        assert examples is not None
        engine = Guess(choice.engine, choice.dtype, errs=self._errs)
        count(lambda: engine, folder, runs_of(choice), examples, Guess.subnet_ids)
        count(Guess, folder, REFERENCE, examples, Guess.subnet_ids)


@pytest.mark.parametrize(
    "choice",
    [BFLOAT16, EngineChoice("cpu", "compiled", "float32"), EngineChoice("cpu", PACKED, "bfloat16", fallback="eager")],
)
def test_it_is_counted_once_and_refused_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: EngineChoice
) -> None:
    """Of the packed engine, what is behind it."""
    folder, counting = guess_folder(tmp_path / "small"), Counting([1], monkeypatch)
    steps: list[tuple[int, int, str]] = []
    for _ in range(2):
        with pytest.raises(ModelFolderError, match=r"loses more than 0\.1 points .*: s1 2\.00 points"):
            require_points(folder, choice, lambda *step: steps.append(step))
    assert counting.counted == [choice.behind]
    assert steps == [(1, 2, "compare accuracy")]


def test_what_loses_nothing_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, counting = guess_folder(tmp_path / "small"), Counting([], monkeypatch)
    require_points(folder, BFLOAT16)
    require_points(folder, BFLOAT16, may_count=False)
    assert counting.counted == [BFLOAT16]


@pytest.mark.parametrize(
    "choice",
    [FLOAT32, EngineChoice("cpu", PACKED, "float32", fallback="eager"), EngineChoice("emulated:r", "emulated", "none")],
)
def test_eager_float32_and_what_computes_nothing_pass_without_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: EngineChoice
) -> None:
    folder, counting = guess_folder(tmp_path / "small"), Counting([0], monkeypatch)
    monkeypatch.setattr(ModelFolder, "test_data", None)
    monkeypatch.setattr(ModelFolder, "model_hash", None)
    require_points(folder, choice)
    assert counting.counted == []


def test_where_nothing_may_be_counted_what_was_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, counting = guess_folder(tmp_path / "small"), Counting([], monkeypatch)
    with pytest.raises(ModelFolderError, match=r"run `superserve profile \S* .*--dtype bfloat16` first"):
        require_points(folder, BFLOAT16, may_count=False)
    assert counting.counted == []


def test_without_test_data_it_is_served_with_a_warning_until_it_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And refused if that showed a loss."""
    folder, counting = save_supernet(small_supernet(), tmp_path / "small"), Counting([], monkeypatch)
    require_points(folder, BFLOAT16)
    tell_never_compared(folder, EngineChoice("cpu", "compiled", "float32"))
    assert not caplog.records
    tell_never_compared(folder, BFLOAT16)
    assert "--engine eager --dtype bfloat16 --data PATH` does so" in caplog.text
    caplog.clear()
    examples = guess_examples(100, hard=2)
    count(Guess, folder, REFERENCE, examples, Guess.subnet_ids)
    count(lambda: Guess(dtype="bfloat16"), folder, runs_of(BFLOAT16), examples, Guess.subnet_ids)
    require_points(folder, BFLOAT16)
    tell_never_compared(folder, BFLOAT16)
    assert not caplog.records
    lossy = Guess(dtype="bfloat16", errs=[2])
    count(lambda: lossy, folder, runs_of(BFLOAT16), examples, Guess.subnet_ids, again=True)
    with pytest.raises(ModelFolderError, match="s2"):
        require_points(folder, BFLOAT16)
    assert counting.counted == []


def test_packed_subnets_and_what_is_behind_them_are_told_of_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = EngineChoice("cpu", PACKED, "bfloat16", fallback="eager")
    tell_never_compared(guess_folder(tmp_path / "labelled"), packed)
    assert not caplog.records
    tell_never_compared(save_supernet(small_supernet(), tmp_path / "small"), packed)
    assert ["packed (bfloat16)" in record.getMessage() for record in caplog.records] == [True, False]


def test_a_gpu_has_counts_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_ahead, "device_name", {"cuda": "H200"}.__getitem__)
    assert runs_of(EngineChoice("cuda", "eager", "float32")) not in {REFERENCE, runs_of(FLOAT32)}
    assert runs_of(EngineChoice("cuda", "graphs", "bfloat16")).device == "H200"
    assert runs_of(FLOAT32) == REFERENCE
