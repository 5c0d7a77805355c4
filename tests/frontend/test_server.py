from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from superserve import profiler
from superserve.clock import ManualClock
from superserve.engine import EngineChoice
from superserve.errors import ConfigError, ProfileError
from superserve.frontend.server import Server, choose_profile
from superserve.model_folder import ModelFolder, write_json
from superserve.processor import cpu_name
from superserve.profile import Device, Profile, SubnetProfile
from superserve.profiler import Progress, save_profile
from superserve.profiler.store import THREADS
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.config import resolve
from superserve.serving.fake_pool import FakePool

EAGER = EngineChoice("cpu", "eager", "float32")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFolder:
    """The bundled digits, with an empty cache."""
    monkeypatch.setenv("SUPERSERVE_CACHE", str(tmp_path / "cache"))
    return ModelFolder.resolve("digits")


def profile_of(folder: ModelFolder, batches: tuple[int, ...] = (1, 16)) -> Profile:
    """A profile that fits a model on this machine."""
    row = tuple(1000.0 * batch for batch in batches)
    return Profile(
        device=Device(name=cpu_name(), kind="cpu", threads=THREADS, engine="eager", dtype="float32", torch="none"),
        model_hash=folder.model_hash,
        batches=batches,
        dispatch_overhead_us=500.0,
        subnets=tuple(
            SubnetProfile(id=record.id, accuracy=record.accuracy, p50_us=row, p95_us=row, p99_us=row)
            for record in folder.front.subnets
        ),
    )


def write(path: Path, profile: Profile) -> Path:
    write_json(path, profile)
    return path


def test_an_emulated_device_plans_with_its_own_profile(folder: ModelFolder) -> None:
    """Whatever the model's subnets are."""
    choice = EngineChoice("emulated:r-profile", "emulated", "none")
    assert choose_profile(folder, choice) == Profile.load("r-profile")


def test_a_given_profile_comes_before_the_kept_one(folder: ModelFolder, tmp_path: Path) -> None:
    """The kept one is found without being named."""
    kept = profile_of(folder)
    given = msgspec.structs.replace(kept, dispatch_overhead_us=1.0)
    save_profile(folder, kept)
    assert choose_profile(folder, EAGER) == kept
    assert choose_profile(folder, EAGER, write(tmp_path / "given.json", given)) == given


def test_without_any_profile_one_is_measured_and_kept(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quickly, telling of progress; the next start finds it."""
    steps: list[tuple[float, float, str]] = []

    def measure(
        model: ModelFolder, *, quick: bool, choice: EngineChoice, report: Callable[[Progress], None]
    ) -> SimpleNamespace:
        assert (quick, choice) == (True, EAGER)
        report(Progress("scan", 3, 7))
        return SimpleNamespace(profile=profile_of(model))

    monkeypatch.setattr(profiler, "measure", measure)
    measured = choose_profile(folder, EAGER, report=lambda *step: steps.append(step))
    assert steps == [(3, 7, "profile: scan")]
    monkeypatch.setattr(profiler, "measure", None)
    assert choose_profile(folder, EAGER) == measured == profile_of(folder)


def test_a_given_profile_of_another_engine_is_used_with_a_warning(
    folder: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = profile_of(folder)
    compiled = EngineChoice("cpu", "compiled", "bfloat16")
    assert choose_profile(folder, compiled, write(tmp_path / "given.json", given)) == given
    assert "measured on engine eager float32, but workers run compiled bfloat16 on cpu" in caplog.text


@pytest.mark.parametrize("wrong", ["hash", "subnets", "order", "batches"])
def test_a_profile_of_another_model_is_refused(folder: ModelFolder, tmp_path: Path, wrong: str) -> None:
    """Its subnets are named by position when a batch is launched, so they must be the model's."""
    good = profile_of(folder)
    bad = {
        "hash": msgspec.structs.replace(good, model_hash="0" * 64),
        "subnets": msgspec.structs.replace(good, subnets=good.subnets[1:]),
        "order": msgspec.structs.replace(good, subnets=good.subnets[::-1]),
        "batches": profile_of(folder, (1, 16, 32)),
    }[wrong]
    with pytest.raises(ProfileError, match=r"superserve profile"):
        choose_profile(folder, EAGER, write(tmp_path / "bad.json", bad))


def test_a_server_is_assembled_as_configured(folder: ModelFolder) -> None:
    """Policy, SLO (by default the profile's), row limit and mark reach the model."""
    profile = profile_of(folder)

    def model_of(**flags: object) -> Server:
        config = resolve({key.replace("__", "."): value for key, value in flags.items()}, {}).config
        return Server(config, folder, profile, FakePool(), ManualClock())

    server = model_of()
    assert (server.model.slo_ms, server.model.max_rows, server.model.emulated) == (50.0, 16, False)
    assert server.router.policy_name == DEFAULT_POLICY
    other = model_of(model__policy="maxacc", model__slo_ms=7.5, workers__device="emulated:r-profile")
    assert (other.router.policy_name, other.model.slo_ms, other.model.emulated) == ("maxacc", 7.5, True)
    with pytest.raises(ConfigError, match="fixed:huge"):
        model_of(model__policy="fixed:huge")
