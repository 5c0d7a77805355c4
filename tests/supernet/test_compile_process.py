"""What is checked of a finished build, on engines that stand in for it and for eager float32."""

from pathlib import Path

import pytest

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet import compile_process
from superserve.supernet.compile_process import check_build
from superserve.supernet.compile_task import Task
from superserve.supernet.right_answers import Runs, kept_answers
from support.guesses import Guess, guess_folder


@pytest.fixture
def folder_with_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compile_process, "EagerEngine", lambda _: Guess())
    monkeypatch.setattr(compile_process, "check_subnet", lambda *_: 1e-5)
    return guess_folder(tmp_path / "small")


def checked(folder: ModelFolder, errs: list[int], monkeypatch: pytest.MonkeyPatch) -> list[float]:
    class Build:
        @staticmethod
        def load(_folder: ModelFolder, dtype: str, _path: Path) -> Guess:
            return Guess("compiled", dtype, errs=errs)

    monkeypatch.setattr(compile_process, "CompiledEngine", Build)
    task = Task(folder=str(folder.path), bundled=False, subnet=None, dtype="bfloat16", out="none")
    return [found.error for found in check_build(task)]


def test_a_build_that_loses_points_is_refused(folder_with_data: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelFolderError, match=r"engine compiled \(bfloat16\) loses .*: s1 2\.00 points .*use --dtype"):
        checked(folder_with_data, [1], monkeypatch)


def test_one_that_was_compiled_anew_is_counted_anew(
    folder_with_data: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an earlier one got right."""
    with pytest.raises(ModelFolderError):
        checked(folder_with_data, [1], monkeypatch)
    assert checked(folder_with_data, [], monkeypatch) == [1e-5] * 3
    kept = kept_answers(folder_with_data, Runs("compiled", "bfloat16"))
    assert [(count.subnet, count.right) for count in kept] == [("s0", 100), ("s1", 100), ("s2", 100)]
