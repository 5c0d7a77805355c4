"""What --device names."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from superserve.engine import EngineChoice
from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder, write_json
from superserve.processor import cpu_name
from superserve.serving.choice import choose_engine
from superserve.serving.devices import (
    CPU,
    CUDA,
    batch_grid,
    device_of,
    emulated_profile,
    emulated_sources,
    on_device,
    single_devices,
    workers_for,
)
from superserve.serving.emulated import SEPARATOR
from superserve.serving.ipc import Setup, WorkerSpec
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
        "fallback": "",
    }  # fmt: skip
    assert (spec.inputs, spec.outputs) == (MODEL.inputs, MODEL.outputs)
    assert (spec.max_rows, spec.warm_batches) == (16, (1, 2, 4, 8, 16))


def test_an_emulated_device_runs_its_profile(folder: ModelFolder) -> None:
    spec = workers_for(folder, choose_engine(folder, "emulated:r-profile"), seed=3)
    assert spec.options == {"profiles": "r-profile", "seed": 3}


def test_a_profile_file_is_found_from_wherever_the_worker_runs(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from superserve.profile import Profile  # noqa: PLC0415

    write_json(tmp_path / "p.json", Profile.load("r-profile"))
    monkeypatch.chdir(tmp_path)
    assert workers_for(folder, choose_engine(folder, "emulated:p.json")).options["profiles"] == str(tmp_path / "p.json")


def test_the_profile_of_an_emulated_device() -> None:
    assert emulated_profile("emulated:a/b.json") == "a/b.json"
    assert emulated_profile("cpu") is None


def test_workers_emulate_several_devices_in_turns(folder: ModelFolder) -> None:
    """And tell which; a file by its absolute path, as the server knows it."""
    sources = emulated_sources("emulated:r-profile,/p/slow.json")
    assert sources == ["r-profile", "/p/slow.json"]
    setups = [Setup(worker, emulated_spec(folder, sources)) for worker in range(3)]
    assert [device_of(setup) for setup in setups] == ["r-profile", "/p/slow.json", "r-profile"]
    with pytest.raises(ConfigError, match="twice"):
        emulated_sources("emulated:r-profile,r-profile")


def test_workers_of_several_devices_are_each_on_one(folder: ModelFolder) -> None:
    """In the order of ``--device``; nothing else of what they run changes, and what has no device stays as it is."""
    assert single_devices("cuda,cpu") == ["cuda", "cpu"]
    assert single_devices("emulated:r-profile,/p/slow.json") == ["emulated:r-profile", "emulated:/p/slow.json"]
    real = workers_for(folder, EngineChoice(CPU, "eager", "float32"))
    assert on_device(real, CUDA).options == {**real.options, "device": CUDA}
    emulated = emulated_spec(folder, ["r-profile", "/p/slow.json"])
    one = on_device(emulated, "emulated:/p/slow.json")
    assert [device_of(Setup(worker, one)) for worker in range(2)] == ["/p/slow.json"] * 2
    plain = msgspec.structs.replace(real, options={})
    assert on_device(plain, CUDA) == plain


def emulated_spec(folder: ModelFolder, sources: Sequence[str]) -> WorkerSpec:
    spec = workers_for(folder, choose_engine(folder, "emulated:r-profile"))
    return msgspec.structs.replace(spec, options={"profiles": SEPARATOR.join(sources), "seed": 0})


def test_a_worker_tells_the_device_as_profiles_do(folder: ModelFolder) -> None:
    assert device_of(Setup(0, workers_for(folder, EngineChoice(CPU, "eager", "float32")))) == cpu_name()


@pytest.mark.parametrize(("largest", "grid"), [(1, (1,)), (2, (1, 2)), (16, (1, 2, 4, 8, 16)), (12, (1, 2, 4, 8, 12))])
def test_batches_are_powers_of_two_and_the_largest(largest: int, grid: tuple[int, ...]) -> None:
    assert batch_grid(largest) == grid
