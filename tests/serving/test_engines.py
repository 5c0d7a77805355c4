"""The engines of workers: what loses accuracy is refused when it is loaded."""

from pathlib import Path

import pytest

from superserve.engine import PACKED, EngineChoice
from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.serving import engines
from superserve.serving.devices import workers_for
from superserve.serving.ipc import Setup
from support.guesses import Guess, guess_folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines, "eager_float32", lambda _: Guess())


def setup(folder: ModelFolder, choice: EngineChoice) -> Setup:
    return Setup(worker=0, model=0, spec=workers_for(folder, choice))


def load(monkeypatch: pytest.MonkeyPatch, errs: list[int]) -> list[Guess]:
    """Have every choice load a guess; returns those that were loaded."""
    loaded: list[Guess] = []

    def load_engine(_: ModelFolder, choice: EngineChoice) -> Guess:
        loaded.append(Guess(choice.engine, choice.dtype, errs=errs))
        return loaded[-1]

    monkeypatch.setattr(engines, "load_engine", load_engine)
    return loaded


@pytest.mark.parametrize(
    "choice",
    [
        EngineChoice("cpu", "eager", "bfloat16"),
        EngineChoice("cpu", "compiled", "float32"),
        EngineChoice("cpu", "compiled", "bfloat16"),
        EngineChoice("cuda", "graphs", "float32"),
        EngineChoice("cuda", "eager", "float32"),
        EngineChoice("cpu", PACKED, "bfloat16", fallback="eager"),
    ],
)
def test_every_engine_that_loses_points_is_refused_and_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: EngineChoice
) -> None:
    """Of the packed engine, the one behind: packed subnets are checked when they are packed."""
    folder, loaded = guess_folder(tmp_path / "small"), load(monkeypatch, [0, 2])
    for _ in range(2):
        with pytest.raises(
            ModelFolderError, match=r"s0 2\.00 points .*, s2 2\.00 points .*: use --(dtype|engine|device)"
        ):
            engines.create(setup(folder, choice))
    assert loaded[0].ran > 0
    assert loaded[1].ran == 0


def test_what_loses_nothing_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loaded = guess_folder(tmp_path / "small"), load(monkeypatch, [])
    choice = EngineChoice("cpu", "eager", "bfloat16")
    assert engines.create(setup(folder, choice)) is loaded[0]


def test_eager_float32_runs_nothing_when_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loaded = guess_folder(tmp_path / "small"), load(monkeypatch, [0])
    engines.create(setup(folder, EngineChoice("cpu", "eager", "float32")))
    assert loaded[0].ran == 0
    assert not (tmp_path / "cache").exists()
