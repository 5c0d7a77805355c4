"""The guard in front of engines: their accuracy on labelled examples."""

import re
from pathlib import Path

import numpy as np
import pytest

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.model_folder import TEST_FILE, ModelFolder
from superserve.supernet.hub import save_supernet
from superserve.supernet.points import answers_on, check_points, count, labelled_examples
from superserve.supernet.right_answers import REFERENCE, Runs, counts_path, kept_answers
from support.guesses import Guess, guess_examples, guess_folder
from support.supernets import small_supernet

BFLOAT16 = Runs("eager", "bfloat16")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def unwanted() -> Engine:
    raise AssertionError("it was counted before")


@pytest.mark.parametrize(
    ("examples", "lost", "refused"), [(100, 1, False), (100, 2, True), (2000, 2, False), (2000, 3, True)]
)
@pytest.mark.parametrize(
    "runs", [BFLOAT16, Runs("compiled", "float32"), Runs("compiled", "bfloat16"), Runs("graphs", "float32")]
)
def test_every_engine_that_loses_points_on_the_test_data_is_refused(
    tmp_path: Path, runs: Runs, examples: int, lost: int, *, refused: bool
) -> None:
    """A tenth of a point, but always one example; the message has the engine and the subnets."""
    folder = guess_folder(tmp_path / "small", examples, hard=lost)
    engine = Guess(runs.engine, runs.dtype, errs=[1, 2])
    if refused:
        with pytest.raises(ModelFolderError, match=rf"{re.escape(str(runs))} loses .*: s1 .* points.*, s2 .*: use --"):
            check_points(engine, Guess, folder)
    else:
        check_points(engine, Guess, folder)


def test_it_is_counted_once_for_a_model_and_machine(tmp_path: Path) -> None:
    """Whichever process comes next reads what is kept, and neither engine runs."""
    folder = guess_folder(tmp_path / "small", hard=0)
    check_points(Guess(dtype="bfloat16"), Guess, folder)
    later = Guess(dtype="bfloat16", errs=[0])
    check_points(later, unwanted, ModelFolder(folder.path))
    assert later.ran == 0
    check_points(Guess("compiled"), unwanted, folder)  # of eager float32 all is known


def test_what_was_counted_needs_no_cache_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose image has it."""
    folder = guess_folder(tmp_path / "small", hard=0)
    check_points(Guess(dtype="bfloat16"), Guess, folder)

    def read_only(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("superserve.supernet.right_answers.alone", read_only)
    check_points(Guess(dtype="bfloat16"), unwanted, folder)
    with pytest.raises(ModelFolderError, match="Read-only file system"):
        check_points(Guess("compiled"), unwanted, folder)


def test_nothing_is_counted_that_nobody_would_read(tmp_path: Path) -> None:
    """Where others may write counts are ignored: what loses would be served."""
    folder = guess_folder(tmp_path / "small")
    where = counts_path(folder, BFLOAT16).parent
    where.mkdir(parents=True)
    where.chmod(0o777)
    engine = Guess(dtype="bfloat16", errs=[1])
    with pytest.raises(ModelFolderError, match="chmod -R go-w"):
        check_points(engine, Guess, folder)
    assert engine.ran == 0
    where.chmod(0o700)
    with pytest.raises(ModelFolderError, match="s1 "):
        check_points(engine, Guess, folder)


def test_a_refusal_is_kept_too(tmp_path: Path) -> None:
    folder = guess_folder(tmp_path / "small")
    for errs in ([1], []):
        engine = Guess(dtype="bfloat16", errs=errs)
        with pytest.raises(ModelFolderError, match=r"s1 2\.00 points"):
            check_points(engine, Guess, folder)
    assert engine.ran == 0


def test_what_was_counted_is_kept_whatever_ends_the_counting(tmp_path: Path) -> None:
    """A worker that must not take longer to start goes on the next time."""
    folder, told = guess_folder(tmp_path / "small"), list[tuple[int, int]]()
    examples = labelled_examples(folder)
    assert examples is not None

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if 3 * done > 2 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count(Guess, folder, REFERENCE, examples, ["s0", "s1", "s2"], report=stop)
    assert [kept.subnet for kept in kept_answers(folder, REFERENCE)] == ["s0", "s1"]
    batches = len(told) - 1
    assert told == [(done, batches // 2 * 3) for done in range(1, batches + 2)]
    later = Guess()
    count(lambda: later, folder, REFERENCE, examples, ["s0", "s1", "s2"])
    assert later.ran == batches // 2


def test_what_was_made_anew_is_counted_anew(tmp_path: Path) -> None:
    folder = guess_folder(tmp_path / "small")
    with pytest.raises(ModelFolderError):
        check_points(Guess("packed", errs=[1]), Guess, folder, subnets=[1], again=True)
    check_points(Guess("packed"), unwanted, folder, subnets=[1], again=True)
    assert [kept.subnet for kept in kept_answers(folder, Runs("packed", "float32"))] == ["s1"]


def test_only_the_subnets_that_are_asked_for_are_checked(tmp_path: Path) -> None:
    folder = guess_folder(tmp_path / "small")
    check_points(Guess("packed", errs=[1]), Guess, folder, subnets=[0, 2])
    assert {kept.subnet for kept in kept_answers(folder, REFERENCE)} == {"s0", "s2"}


def test_other_test_data_is_counted_again(tmp_path: Path) -> None:
    folder = guess_folder(tmp_path / "small", hard=0)
    check_points(Guess(dtype="bfloat16"), Guess, folder)
    examples = guess_examples(100, hard=3)
    np.savez(folder.path / TEST_FILE, inputs=examples.inputs, labels=examples.labels)
    with pytest.raises(ModelFolderError, match=r"s0 3\.00 points"):
        check_points(Guess(dtype="bfloat16", errs=[0]), Guess, ModelFolder(folder.path))


def test_what_was_counted_on_other_data_counts(tmp_path: Path) -> None:
    """As `superserve evaluate` does, for folders without test data."""
    folder = save_supernet(small_supernet(), tmp_path / "small")
    check_points(Guess(dtype="bfloat16", errs=[0]), unwanted, folder)
    examples = guess_examples(1000, hard=2)
    count(lambda: Guess(dtype="bfloat16", errs=[0]), folder, BFLOAT16, examples, ["s0"])
    check_points(Guess(dtype="bfloat16"), unwanted, folder)
    count(Guess, folder, REFERENCE, examples, ["s0"])
    with pytest.raises(ModelFolderError, match=r"s0 0\.20 points"):
        check_points(Guess(dtype="bfloat16"), unwanted, folder)
    assert [(kept.right, kept.n) for kept in answers_on(folder, BFLOAT16, examples)] == [(998, 1000)]


def test_other_examples_than_the_folders_may_be_given(tmp_path: Path) -> None:
    """The folder's own are not looked at then."""
    folder = guess_folder(tmp_path / "small", hard=50)
    engine, given = Guess("packed", errs=[0]), guess_examples(100, hard=1)
    check_points(engine, Guess, folder, subnets=[0], examples=given)
    assert [(kept.examples, kept.right) for kept in kept_answers(folder, Runs("packed", "float32"))] == [
        (given.hash, 99)
    ]
    with pytest.raises(ModelFolderError, match=r"s0 50\.00 points"):
        check_points(engine, Guess, folder, subnets=[0])


def test_eager_float32_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what the others are held against: no file is read for it, least of all the test data."""
    folder = guess_folder(tmp_path / "small")
    monkeypatch.setattr(ModelFolder, "test_data", unwanted)
    engine = Guess()
    check_points(engine, unwanted, folder)
    assert engine.ran == 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("what", ["shape", "dtype", "labels"])
def test_test_data_that_the_model_does_not_take_is_named(tmp_path: Path, what: str) -> None:
    folder = guess_folder(tmp_path / "small")
    examples = guess_examples(10, 0)
    inputs = {"shape": examples.inputs[:, :8], "dtype": examples.inputs.astype("f4")}.get(what, examples.inputs)
    labels = examples.labels[:9] if what == "labels" else examples.labels
    np.savez(folder.path / TEST_FILE, inputs=inputs, labels=labels)
    with pytest.raises(ModelFolderError, match=r"test\.npz: inputs .* labels .* correct the file, or remove it"):
        labelled_examples(folder)
