"""Counts of right answers: for what was counted, and for nothing else."""

import os
from pathlib import Path

import msgspec
import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet import right_answers
from superserve.supernet.builds import Target, this_machine
from superserve.supernet.right_answers import (
    REFERENCE,
    Loss,
    RightAnswers,
    Runs,
    counts_path,
    examples_hash,
    keep_answers,
    kept_answers,
    losses,
    refuse_losses,
)
from support.guesses import guess_examples

RUNS = Runs("compiled", "bfloat16")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def answers(right: int, subnet: str = "s0", examples: str = "test", n: int = 1000) -> RightAnswers:
    return RightAnswers(subnet=subnet, examples=examples, n=n, right=right)


def test_what_was_counted_is_found_and_counted_again_replaces_it(folder: ModelFolder, tmp_path: Path) -> None:
    assert kept_answers(folder, RUNS) == ()
    keep_answers(folder, RUNS, [answers(900), answers(950, "s1"), answers(9, examples="other")])
    keep_answers(folder, RUNS, [answers(901)])
    assert kept_answers(folder, RUNS) == (answers(901), answers(950, "s1"), answers(9, examples="other"))
    path = counts_path(folder, RUNS)
    assert path.is_relative_to(tmp_path / "cache")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "other", [Runs("eager", "bfloat16"), Runs("compiled", "float32"), Runs("compiled", "bfloat16", "H200")]
)
def test_every_engine_dtype_and_device_has_counts_of_its_own(folder: ModelFolder, other: Runs) -> None:
    keep_answers(folder, RUNS, [answers(900)])
    assert kept_answers(folder, other) == ()
    assert kept_answers(folder, REFERENCE) == ()


@pytest.mark.parametrize("change", ["torch", "cpu", "superserve"])
def test_counts_of_another_torch_machine_or_version_are_not_used(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    keep_answers(folder, RUNS, [answers(900)])
    before = counts_path(folder, RUNS)

    def elsewhere(dtype: str = "float32") -> Target:
        return msgspec.structs.replace(this_machine(dtype), **{change: "other"})

    monkeypatch.setattr(right_answers, "this_machine", elsewhere)
    assert kept_answers(folder, RUNS) == ()
    # Not by the name of the file alone.
    before.rename(counts_path(folder, RUNS))
    assert kept_answers(folder, RUNS) == ()


def test_counts_of_another_model_are_not_used(folder: ModelFolder) -> None:
    keep_answers(folder, RUNS, [answers(900)])
    content = folder.norms_path.read_bytes()
    folder.norms_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = ModelFolder(folder.path)
    assert kept_answers(changed, RUNS) == ()
    assert kept_answers(folder, RUNS) == (answers(900),)


def spoil(path: Path, how: str) -> None:
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:50])
    else:
        path.chmod(0o666)


@pytest.mark.parametrize("how", ["truncated", "writable by others"])
def test_a_spoilt_file_is_told_ignored_and_written_again(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    keep_answers(folder, RUNS, [answers(900)])
    spoil(counts_path(folder, RUNS), how)
    assert kept_answers(folder, RUNS) == ()
    assert "ignoring counts of right answers" in caplog.text
    keep_answers(folder, RUNS, [answers(901)])
    assert kept_answers(folder, RUNS) == (answers(901),)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    with pytest.raises(ModelFolderError, match="cannot be kept there"):
        keep_answers(folder, RUNS, [answers(900)])


def test_a_cache_that_is_no_folder_is_named(folder: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(ModelFolderError, match="cannot be kept there"):
        keep_answers(folder, RUNS, [answers(900)])


@pytest.mark.parametrize(
    ("n", "lost", "too_much"),
    [
        (100, 1, False),
        (100, 2, True),
        (997, 1, False),
        (997, 2, True),
        (8000, 8, False),
        (8000, 9, True),
        (8, -8, False),
    ],
)
def test_a_tenth_of_a_point_may_be_lost_and_always_one_example(n: int, lost: int, *, too_much: bool) -> None:
    assert Loss("s0", n, lost).is_too_much is too_much


def test_losses_are_against_eager_float32_on_the_same_examples(folder: ModelFolder) -> None:
    keep_answers(folder, REFERENCE, [answers(905), answers(950, "s1"), answers(10, examples="small", n=20)])
    keep_answers(folder, RUNS, [answers(900), answers(951, "s1"), answers(1, "s2"), answers(1, examples="unseen")])
    assert losses(folder, RUNS) == [Loss("s0", 1000, 5), Loss("s1", 1000, -1)]


def test_what_loses_is_refused_by_subnet_loss_and_what_to_do(folder: ModelFolder) -> None:
    keep_answers(folder, REFERENCE, [answers(905), answers(950, "s1"), answers(970, "s2")])
    keep_answers(folder, RUNS, [answers(905), answers(948, "s1"), answers(960, "s2")])
    refuse_losses(folder, RUNS, ["s0"])
    with pytest.raises(ModelFolderError) as refused:
        refuse_losses(folder, RUNS)
    told = str(refused.value)
    assert "engine compiled (bfloat16)" in told
    assert "s1 0.20 points (2 of 1000 examples), s2 1.00 points (10 of 1000 examples): use --dtype float32" in told
    assert str(counts_path(folder, RUNS)) in told
    assert "s0" not in told
    with pytest.raises(ModelFolderError, match=": s2 1"):
        refuse_losses(folder, RUNS, ["s2"])
    for float32, instead in (
        (Runs("compiled", "float32"), "--engine eager"),
        (Runs("graphs", "float32", "a GPU"), "--engine eager"),
        (Runs("eager", "float32", "a GPU"), "--device cpu"),
    ):
        keep_answers(folder, float32, [answers(900)])
        with pytest.raises(ModelFolderError, match=f"use {instead} "):
            refuse_losses(folder, float32)


def test_a_loss_on_any_set_of_examples_is_one(folder: ModelFolder) -> None:
    for examples, right in (("test", 900), ("data", 897)):
        keep_answers(folder, REFERENCE, [answers(900, examples=examples)])
        keep_answers(folder, RUNS, [answers(right, examples=examples)])
    with pytest.raises(ModelFolderError, match="3 of 1000"):
        refuse_losses(folder, RUNS)


def test_sets_of_examples_are_told_apart_by_all_that_is_in_them() -> None:
    one = guess_examples(10, 1)
    names = {
        one.hash,
        examples_hash(one.inputs[:9], one.labels[:9]),
        examples_hash(one.inputs, one.labels + 1),
        examples_hash(one.inputs.astype("u2"), one.labels),
        guess_examples(10, 2).hash,
    }
    assert len(names) == 5
    assert one.hash == guess_examples(10, 1).hash
