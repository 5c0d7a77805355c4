"""The profiler on real processes: an emulated device gives back the profile that it was made from."""

from pathlib import Path

import numpy as np
import pytest

from superserve.engine import EngineChoice
from superserve.errors import ProfileError, WorkerError
from superserve.model_folder import Front, ModelFolder, SubnetRecord, write_json
from superserve.profiler import Progress, measure
from superserve.profiler.plan import Effort
from superserve.serving.cores import available_cores
from superserve.subnet import SubnetSpec
from support.folders import write_digits_like_folder
from support.processes import children_of_ours
from support.profiles import make_profile

pytestmark = pytest.mark.integration

EFFORT = Effort(seconds=1.5, least=4, most=20, rounds=3)


def emulated(profile: str) -> EngineChoice:
    return EngineChoice(f"emulated:{profile}", "emulated", "none")


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    path = write_digits_like_folder(tmp_path / "model")
    record = SubnetRecord(id="s0", spec=SubnetSpec(((0,),), ()), accuracy=70.0, accuracy_n=1)
    write_json(path / "subnets.json", Front(format=1, measured_on="nothing", subnets=(record,)))
    for name in ("model.safetensors", "norms.safetensors"):
        (path / name).write_bytes(b"never read by emulated workers, but hashed")
    return ModelFolder(path)


def test_an_emulated_device_gives_its_profile_back(folder: ModelFolder, tmp_path: Path) -> None:
    source = make_profile([[2.0, 5.0], [4.0, 12.0]], batches=(1, 4))
    write_json(tmp_path / "source.json", source)
    steps: list[Progress] = []
    before = available_cores()
    found = measure(folder, choice=emulated(str(tmp_path / "source.json")), report=steps.append, effort=EFFORT)
    profile = found.profile
    assert profile.batches == source.batches
    assert profile.model_hash == folder.model_hash
    assert (profile.device.kind, profile.device.engine) == ("fixture", "emulated")
    assert profile.violations() == []
    for ours, theirs in zip(profile.subnets, source.subnets, strict=True):
        assert (ours.id, ours.accuracy) == (theirs.id, theirs.accuracy)
        # The machine may be busy: medians are robust, tails only must not lie below.
        np.testing.assert_allclose(ours.p50_us, theirs.p50_us, rtol=0.2)
        np.testing.assert_allclose(ours.quiet_p50_us, theirs.p50_us, rtol=0.2)
        assert all(a >= 0.98 * b for a, b in zip(ours.p99_us, theirs.p99_us, strict=True))
    assert profile.dispatch_overhead_us > 5
    assert all(count >= EFFORT.least for row in found.samples for count in row)
    assert found.router_share > 0.05
    conditions = profile.conditions
    assert conditions is not None
    for share in (conditions.worker_waited, conditions.stolen, conditions.others):
        assert share is None or 0 <= share < 1
    assert conditions.spread is not None
    assert steps[0] == Progress("start", 0, 1)
    assert steps[-1].done == steps[-1].total
    assert children_of_ours() == []
    assert available_cores() == before


def test_a_worker_that_cannot_start_leaves_nothing(folder: ModelFolder) -> None:
    with pytest.raises(WorkerError, match=r"worker 0 cannot start: .*config\.json"):  # no such family
        measure(folder, choice=EngineChoice("cpu", "eager", "float32"), effort=EFFORT)
    assert children_of_ours() == []


def test_an_unknown_profile_is_refused_before_anything_starts(folder: ModelFolder) -> None:
    with pytest.raises(ProfileError, match="no-such-profile"):
        measure(folder, choice=emulated("no-such-profile"))
