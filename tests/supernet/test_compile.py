"""Compiling a model: what is asked for, what is kept, what is left behind. What the code computes: test_compiled.py."""

from pathlib import Path
from typing import NoReturn

import pytest

from superserve.errors import ConfigError, ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet import compile as compiling
from superserve.supernet.builds import builds_path
from superserve.supernet.compile import compile_model, find_compiler
from superserve.supernet.compile_jobs import Jobs
from superserve.supernet.compile_task import Task
from support.builds import write_build


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))


def refuse(*_: object) -> NoReturn:
    raise AssertionError("not to be called")


def test_a_kept_build_is_taken_as_it_is(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without even a compiler."""
    path = write_build(folder)
    monkeypatch.setattr(compiling, "find_compiler", refuse)
    found = compile_model(folder)
    assert (found.path, found.fresh) == (path, False)


def test_nothing_is_left_of_this_or_of_an_earlier_failure(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compilation that was killed leaves its folder: the next one removes it, and its own if it fails."""
    killed = builds_path(folder) / ".building-killed" / "build"
    killed.mkdir(parents=True)
    (killed / "0.so").write_bytes(b"half a library")

    def fail(*_: object) -> NoReturn:
        assert not killed.exists()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiling, "_build", fail)
    with pytest.raises(ModelFolderError, match=r"cannot be kept there: .*No space left"):
        compile_model(folder)
    assert [left.name for left in builds_path(folder).iterdir()] == [".lock"]


def test_an_unknown_dtype_is_refused(folder: ModelFolder) -> None:
    for dtype in ("int4", "int8"):
        with pytest.raises(ConfigError, match=f"dtype '{dtype}' is not one of float32, bfloat16"):
            compile_model(folder, dtype=dtype)


@pytest.mark.parametrize(("wanted", "named"), [(None, r"g\+\+ and clang\+\+"), ("nothing++", r"nothing\+\+")])
def test_a_missing_compiler_is_named(
    wanted: str | None, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    if wanted:
        monkeypatch.setenv("CXX", wanted)
    with pytest.raises(ConfigError, match=f"{named} cannot be found"):
        find_compiler()


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    task = Task(folder=str(tmp_path / "gone"), bundled=False, subnet=3, dtype="float32", out=str(tmp_path))
    with Jobs({}) as jobs, pytest.raises(ModelFolderError, match=r"subnet 3 cannot be compiled.*--engine eager.*gone"):
        jobs.run(task, float)


def test_after_the_end_nothing_is_started(tmp_path: Path) -> None:
    task = Task(folder=str(tmp_path), bundled=False, subnet=0, dtype="float32", out=str(tmp_path))
    with Jobs({}) as jobs:
        pass
    with pytest.raises(ModelFolderError, match="stopped"):
        jobs.run(task, float)
