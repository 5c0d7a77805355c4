"""What --device names."""

from pathlib import Path

import pytest

from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder, write_json
from superserve.serving.choice import choose_engine
from superserve.serving.devices import batch_grid, emulated_profile, workers_for
from support.serving import MODEL


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    write_json(tmp_path / "config.json", MODEL)
    return ModelFolder(tmp_path)


def test_the_cpu_runs_the_folder_itself(folder: ModelFolder) -> None:
    spec = workers_for(folder, EngineChoice("cpu", "compiled", "bfloat16"))
    assert spec.engine == "superserve.serving.engines:create"
    assert spec.options == {
        "folder": str(folder.path), "bundled": False, "device": "cpu", "engine": "compiled", "dtype": "bfloat16",
    }  # fmt: skip
    assert (spec.inputs, spec.outputs) == (MODEL.inputs, MODEL.outputs)
    assert (spec.max_rows, spec.warm_batches) == (16, (1, 2, 4, 8, 16))


def test_an_emulated_device_runs_its_profile(folder: ModelFolder) -> None:
    spec = workers_for(folder, choose_engine(folder, "emulated:r-profile"), seed=3)
    assert spec.options == {"profile": "r-profile", "seed": 3}


def test_a_profile_file_is_found_from_wherever_the_worker_runs(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from superserve.profile import Profile  # noqa: PLC0415

    write_json(tmp_path / "p.json", Profile.load("r-profile"))
    monkeypatch.chdir(tmp_path)
    assert workers_for(folder, choose_engine(folder, "emulated:p.json")).options["profile"] == str(tmp_path / "p.json")


def test_the_profile_of_an_emulated_device() -> None:
    assert emulated_profile("emulated:a/b.json") == "a/b.json"
    assert emulated_profile("cpu") is None


@pytest.mark.parametrize(("largest", "grid"), [(1, (1,)), (2, (1, 2)), (16, (1, 2, 4, 8, 16)), (12, (1, 2, 4, 8, 12))])
def test_batches_are_powers_of_two_and_the_largest(largest: int, grid: tuple[int, ...]) -> None:
    assert batch_grid(largest) == grid
