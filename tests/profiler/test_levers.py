"""From a folder and its profile to the levers that pay, on a small network."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from superserve.errors import ConfigError
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.profiler.levers import _compared, _Plan, _plan, _Step, _step, measure_levers
from superserve.serving.cores import available_cores
from superserve.subnet import SubnetSpec
from superserve.supernet import machine, probes
from superserve.supernet.hub import save_supernet
from support.profiles import guessed_profile
from support.supernets import pixels, small_supernet


def folder_with(path: Path, *, test: bool) -> ModelFolder:
    examples = (pixels(40), np.arange(40) % 5)
    return save_supernet(small_supernet(), path, test=examples if test else None)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the machine sustains does not matter here, nor do small errors."""
    monkeypatch.setattr(machine, "_LONG_NS", 1_000_000)
    monkeypatch.setattr(probes, "_MOST_ROUNDS", 4)


@pytest.mark.parametrize("test", [True, False])
def test_every_lever_is_tried_from_the_ends_and_the_middle(tmp_path: Path, *, test: bool) -> None:
    """At one row and at half of the largest batch; what it loses is known where there are examples."""
    folder = folder_with(tmp_path, test=test)
    profile = guessed_profile(folder)
    cores = available_cores()
    seen: list[str] = []
    report = measure_levers(folder, profile, seconds=10.0, report=lambda _done, _total, what: seen.append(what))
    assert available_cores() == cores
    ids = [record.id for record in folder.front.subnets]
    assert list(report.work) == ids
    assert [(cell.subnet, cell.batch) for cell in report.cells] == [
        (one, size) for one in ids for size in profile.batches
    ]
    whole = {"batch", "depth", "stem", "stage*", "stage*.block*"}
    assert {step.lever for step in report.steps if step.subnet == ids[-1]} == whole
    assert {step.lever for step in report.steps if step.subnet == ids[0]} == {"batch"}, "the smallest has no steps"
    assert {step.batch for step in report.steps} == {1, profile.batches[-1] // 2}
    assert report.examples == (20 if test else 0)
    assert all((step.lost is not None) == (test or step.lever == "batch") for step in report.steps)
    assert {"levers: calibrate", "levers: time"} <= set(seen)
    kept = msgspec.structs.replace(profile, levers=report)
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Profile) == kept


def test_a_model_that_takes_one_row_at_a_time_has_no_batch_to_double(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, test=True)
    profile = guessed_profile(folder)
    alone = msgspec.structs.replace(
        profile,
        batches=(1,),
        subnets=tuple(
            msgspec.structs.replace(one, p50_us=one.p50_us[:1], p95_us=one.p95_us[:1], p99_us=one.p99_us[:1])
            for one in profile.subnets
        ),
    )
    report = measure_levers(folder, alone, seconds=0.0)
    assert "batch" not in {step.lever for step in report.steps}
    assert {step.batch for step in report.steps} == {1}


def test_each_step_is_held_against_its_own_base_at_its_own_size() -> None:
    """Per row; a doubled batch against the same subnet."""
    spec = SubnetSpec(((0,),), ())
    step = _Step("b", "depth", spec)
    plan = _Plan(rows=8, bases={"a": spec, "b": spec}, steps=[step], sizes=[1, 4], doubled=[4])
    times = {
        ("a", 1): 10.0, ("a", 4): 20.0, ("a", 8): 32.0, ("b", 1): 100.0, ("b", 4): 200.0, ("b", 8): 320.0,
        (step.name, 1): 70.0, (step.name, 4): 80.0,
    }  # fmt: skip
    hits = {"a": np.zeros(4), "b": np.ones(4), step.name: np.array([1.0, 1.0, 0.0, 1.0])}
    found = _compared(plan, {run: np.full(3, taken) for run, taken in times.items()}, hits)
    assert [(one.subnet, one.batch, one.lever, one.saved_us, one.lost) for one in found] == [
        ("a", 4, "batch", 1.0, 0.0),
        ("b", 1, "depth", 30.0, 25.0),
        ("b", 4, "batch", 10.0, 0.0),
        ("b", 4, "depth", 30.0, 25.0),
    ]


def test_a_slow_model_gets_what_there_is_time_for(tmp_path: Path) -> None:
    """Fewer rows to calibrate with, and no steps at large batches."""
    folder = folder_with(tmp_path, test=True)
    supernet, profile = small_supernet(), guessed_profile(folder)
    quick, slow = (_plan(supernet, profile, seconds) for seconds in (100.0, 0.1))
    assert (quick.rows, quick.sizes, quick.doubled) == (64, [1, 8], [1, 8])
    assert (slow.rows, slow.sizes, slow.doubled) == (8, [1], [1])
    assert quick.specs == slow.specs


def test_a_step_is_told_from_pairs() -> None:
    """A round that was slow for both is not in its error; examples that both get wrong are not in its loss."""
    before, after = np.array([10.0, 12.0, 90.0, 11.0]), np.array([8.0, 10.0, 88.0, 9.0])
    step = _step(("s", 4, "depth"), before, after, np.array([1.0, 0.0, 0.0, 0.0]))
    assert (step.saved_us, step.error_us, step.saved_share) == (2.0, 0.0, round(2 / 11.5, 4))
    assert (step.lost, step.lost_error) == (25.0, round(100 * np.sqrt(3 / 16) / 2, 2))
    assert step.pays
    assert step.price == 12.5


def test_other_devices_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, test=False)
    profile = guessed_profile(folder)
    cuda = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, kind="cuda"))
    with pytest.raises(ConfigError, match="CPU only"):
        measure_levers(folder, cuda)
