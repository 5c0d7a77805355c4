from pathlib import Path

import pytest

from superserve.clock import ManualClock
from superserve.engine import EngineChoice
from superserve.errors import ConfigError
from superserve.frontend.deployment import Deployment
from superserve.frontend.server import Server
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.config import resolve
from superserve.serving.dataplane import ServedModel
from superserve.serving.fake_pool import FakePool
from support.folders import write_digits_like_folder

EAGER = EngineChoice("cpu", "eager", "float32")
PROFILE = Profile.load("r-profile")


def test_a_server_is_assembled_as_configured(tmp_path: Path) -> None:
    """Policy, SLO (by default the profile's), row limit and mark reach the model."""
    folder = ModelFolder(write_digits_like_folder(tmp_path))

    def model_of(choice: EngineChoice = EAGER, **flags: object) -> ServedModel:
        config = resolve({f"model.{key}": value for key, value in flags.items()}, {}).config
        (model,) = Server(config, [Deployment(folder, choice, PROFILE)], FakePool(), ManualClock()).models
        return model

    model = model_of()
    assert (model.slo_ms, model.max_rows, model.emulated) == (PROFILE.default_slo_ms(), 16, False)
    assert model.router.policy_name == DEFAULT_POLICY
    other = model_of(EngineChoice("emulated:r-profile", "emulated", "none"), policy="maxacc", slo_ms=7.5)
    assert (other.router.policy_name, other.slo_ms, other.emulated) == ("maxacc", 7.5, True)
    with pytest.raises(ConfigError, match="fixed:huge"):
        model_of(policy="fixed:huge")


def test_each_model_is_scheduled_by_its_own_settings(tmp_path: Path) -> None:
    """Policy, SLO, timeout action and queue of its own; the workers are everybody's."""
    environ = {
        "SUPERSERVE_MODELS__ONE__POLICY": "maxacc",
        "SUPERSERVE_MODELS__ONE__SLO_MS": "20",
        "SUPERSERVE_MODELS__TWO__TIMEOUT_ACTION": "delay",
        "SUPERSERVE_MODELS__TWO__MAX_QUEUED": "5",
    }
    models = [
        Deployment(ModelFolder(write_digits_like_folder(tmp_path / name, name)), EAGER, PROFILE)
        for name in ("one", "two")
    ]
    one, two = Server(resolve({}, environ).config, models, FakePool(), ManualClock()).models
    assert (one.router.policy_name, one.slo_ms, one.router.timeout_action) == ("maxacc", 20.0, "reject")
    assert (two.router.policy_name, two.router.timeout_action, two.router.max_queued) == (DEFAULT_POLICY, "delay", 5)
