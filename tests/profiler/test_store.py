"""Keeping profiles, and finding the one that fits."""

import logging
import os
from pathlib import Path

import msgspec
import pytest

from superserve.engine import EngineChoice
from superserve.errors import ProfileError
from superserve.model_folder import Front, ModelFolder, SubnetRecord, write_json
from superserve.processor import cpu_name
from superserve.profile import Device, Profile
from superserve.profiler.store import file_name, find_profile, save_profile
from superserve.serving.devices import device_name
from superserve.subnet import SubnetSpec
from support.folders import write_digits_like_folder
from support.profiles import make_profile

HERE = Device(name=cpu_name(), kind="cpu", threads=1, engine="eager", dtype="float32", torch="2.13.0")

EAGER = EngineChoice("cpu", "eager", "float32")


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    path = write_digits_like_folder(tmp_path / "model")
    record = SubnetRecord(id="s0", spec=SubnetSpec(((0,),), ()), accuracy=70.0, accuracy_n=1)
    write_json(path / "subnets.json", Front(format=1, measured_on="nothing", subnets=(record,)))
    for name in ("model.safetensors", "norms.safetensors"):
        (path / name).write_bytes(b"weights")
    return ModelFolder(path)


def profile_of(folder: ModelFolder, **device: object) -> Profile:
    return msgspec.structs.replace(
        make_profile([[1.0]], batches=(1,)),
        device=msgspec.structs.replace(HERE, **device),
        model_hash=folder.model_hash,
    )


def test_what_is_kept_is_found(folder: ModelFolder) -> None:
    assert find_profile(folder, EAGER) is None
    path = save_profile(folder, profile_of(folder))
    assert path.parent == folder.path / "profiles"
    assert find_profile(folder, EAGER) == profile_of(folder)


def test_of_a_folder_that_cannot_be_written_the_cache_keeps_them(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a volume that is mounted read-only; those that came with it are found as well."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    came_along = profile_of(folder)
    save_profile(folder, came_along)
    monkeypatch.setattr(os, "access", lambda path, _mode: not Path(path).is_relative_to(folder.path))
    assert find_profile(folder, EAGER) == came_along
    measured = msgspec.structs.replace(came_along, dispatch_overhead_us=came_along.dispatch_overhead_us + 1)
    path = save_profile(folder, measured)
    assert path.is_relative_to(tmp_path / "cache")
    assert find_profile(folder, EAGER) == measured


@pytest.mark.parametrize("other", [{"name": "another"}, {"kind": "cuda"}, {"threads": 2}, {"engine": "packed"}])
def test_profiles_of_other_devices_are_left_alone(
    folder: ModelFolder, other: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    save_profile(folder, profile_of(folder, **other))
    assert find_profile(folder, EAGER) is None
    assert not caplog.records


def test_every_engine_and_dtype_has_a_profile_of_its_own(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    compiled = profile_of(folder, engine="compiled")
    paths = {save_profile(folder, profile) for profile in (compiled, profile_of(folder, dtype="bfloat16"))}
    with caplog.at_level(logging.INFO):
        assert find_profile(folder, EAGER) is None
    assert all(f"not planning with {path}: workers run eager float32 on cpu" in caplog.text for path in paths)
    assert find_profile(folder, EngineChoice("cpu", "compiled", "float32")) == compiled


def test_a_gpu_is_named_by_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("superserve.serving.devices._GPUS", tmp_path)
    assert device_name("cuda") == "cuda"
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H100\nIRQ:   16\n")
    assert device_name("cuda") == "NVIDIA H100"


def test_a_profile_of_the_model_before_it_changed_is_ignored_and_said_so(
    folder: ModelFolder, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_profile(folder, profile_of(folder))
    (folder.path / "model.safetensors").write_bytes(b"other weights")
    changed = ModelFolder(folder.path)
    with caplog.at_level(logging.WARNING):
        assert find_profile(changed, EAGER) is None
    assert str(path) in caplog.text
    with pytest.raises(ProfileError, match="measured on another model"):
        save_profile(changed, profile_of(folder))


def test_an_unreadable_profile_is_ignored_and_said_so(folder: ModelFolder, caplog: pytest.LogCaptureFixture) -> None:
    save_profile(folder, profile_of(folder)).write_text("{")
    assert find_profile(folder, EAGER) is None
    assert "ignoring a profile" in caplog.text


def test_bundled_models_keep_theirs_in_the_users_cache(
    folder: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    bundled = ModelFolder(folder.path, bundled=True)
    path = save_profile(bundled, profile_of(bundled))
    assert path.is_relative_to(tmp_path / "cache")
    assert find_profile(bundled, EAGER) is not None


def test_file_names_say_what_was_measured() -> None:
    device = msgspec.structs.replace(HERE, name="Intel(R) Xeon(R) @ 2.20GHz")
    assert file_name(device) == "intel-r-xeon-r-2-20ghz-1t-eager-float32.json"
    assert cpu_name().strip()
