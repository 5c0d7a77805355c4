"""A recorded run beside a simulated one, and what is taken from the recording."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from superserve.cli import app
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import ConfigError, TraceError
from superserve.experiments.setting import Setting, Wishes
from superserve.experiments.what_if import difference, most_changed, with_patience
from superserve.metrics import OUTCOME_CODES, RunLog
from superserve.profile import Profile
from superserve.request import Outcome
from superserve.simulator import Conditions, Recording, simulate
from superserve.traces.recording import BATCH_COLUMNS, Columns, Recorded, RecordedSettings, SegmentWriter, load_recorded
from superserve.traces.trace import Trace
from support.profiles import make_profile

#: Batch 1 takes 2 or 6 ms, batch 4 takes 4 or 12 ms, and 1 ms around it.
PROFILE = make_profile([[2.0, 4.0], [6.0, 12.0]], batches=(1, 4), overhead_us=1000.0)
SETTINGS = RecordedSettings(
    model="tiny",
    policy="drainfit",
    timeout_action="reject",
    slo_ms=40.0,
    max_queued=500,
    workers=2,
    emulated=True,
    profile=PROFILE,
)


def arrivals(rate: float, seconds: float) -> Trace:
    rng = np.random.default_rng(1)
    return Trace("t", np.sort((rng.random(int(rate * seconds)) * seconds * NS_PER_S).astype(np.int64)))


def record(folder: Path, trace: Trace, log: RunLog, batches: Columns, settings: RecordedSettings = SETTINGS) -> Path:
    """Write a recording as a server does."""
    n = len(trace)
    writer = SegmentWriter(folder / settings.model, 1 << 30)
    writer.write_settings(settings)
    requests = {
        "arrival_ns": trace.arrival_ns,
        "slo_ns": np.full(n, 40 * NS_PER_MS) if trace.slo_ns is None else trace.slo_ns,
        "priority": np.zeros(n, np.int32),
        "rows": np.ones(n, np.int32) if trace.rows is None else trace.rows,
        "min_accuracy": np.zeros(n),
        "outcome": log.outcome,
        "end_ns": log.end_ns,
        "subnet": log.subnet,
        "batch_rows": log.batch_rows,
    }
    writer.write(requests, batches, 1 << 62)
    return folder


def run(trace: Trace, profile: Profile = PROFILE, workers: int = 2) -> tuple[RunLog, Columns]:
    """Simulate a server, with what it would record of its batches."""
    recording = Recording()
    log = simulate(
        trace, profile, policy="drainfit", workers=workers, slo_ms=40.0, overhead_ms=1.0, recording=recording
    )
    done = recording.batches
    columns = {
        "launched_ns": np.array([batch.launched_ns for batch in done]),
        "worker": np.array([batch.worker for batch in done], np.int32),
        "subnet": np.array([batch.subnet for batch in done], np.int16),
        "rows": np.array([batch.rows for batch in done], np.int32),
        "taken_ns": np.array([batch.end_ns - batch.launched_ns - NS_PER_MS for batch in done]),
        "overhead_ns": np.full(len(done), NS_PER_MS),
    }
    assert columns.keys() == BATCH_COLUMNS.keys()
    return log, columns


def test_unchanged_settings_give_the_recorded_run_again(tmp_path: Path) -> None:
    """The oracle: what a server that is the simulator has recorded is predicted to the request."""
    trace = arrivals(700, 4)
    log, batches = run(trace)
    folder = record(tmp_path, trace, log, batches)
    found = Setting.of(folder, Wishes())
    assert found.recorded is not None
    assert found.times is not None
    assert (found.policy, found.workers, found.slo_ms, found.limits.max_queued) == ("drainfit", (2,), 40.0, 500)
    again = simulate(
        found.trace,
        found.profiles,
        times=found.times,
        policy=found.policy,
        workers=found.workers,
        slo_ms=found.slo_ms,
        overhead_ms=1.0,
    )
    diff = difference(found.recorded.log, again)
    assert (diff.now_in_time, diff.now_missed, diff.more_accurate, diff.less_accurate) == (0, 0, 0, 0)
    assert most_changed(found.recorded.log, again, PROFILE, 10) == []


def log_of(outcomes: list[Outcome], subnets: list[int]) -> RunLog:
    log = RunLog.empty(np.arange(len(outcomes), dtype=np.int64) * NS_PER_S)
    log.outcome[:] = [OUTCOME_CODES[outcome] for outcome in outcomes]
    log.subnet[:] = subnets
    log.accuracy[:] = [np.nan if subnet < 0 else 70.0 + subnet for subnet in subnets]
    log.end_ns[:] += 5 * NS_PER_MS
    return log


def test_the_difference_is_counted_request_by_request() -> None:
    """Lost, gained, better, worse, and those that stay; the table has the large changes first."""
    served, late, expired = Outcome.SERVED, Outcome.LATE, Outcome.EXPIRED
    was = log_of([served, served, late, expired, served, served], [1, 0, 1, -1, 1, 0])
    would_be = log_of([expired, served, served, rejected := Outcome.REJECTED, served, served], [-1, 1, 0, -1, 1, 0])
    diff = difference(was, would_be)
    assert (diff.requests, diff.in_time_in_both, diff.missed_in_both) == (6, 3, 1)
    assert (diff.now_missed, diff.now_in_time) == (1, 1)
    assert (diff.more_accurate, diff.less_accurate) == (1, 0)
    assert diff.accuracy_change == pytest.approx(1 / 3)
    changed = most_changed(was, would_be, PROFILE, 10)
    assert [(one.arrival_s, one.was, one.would_be, one.accuracy_change) for one in changed] == [
        (0.0, served, expired, -71.0),
        (2.0, late, served, 70.0),
        (1.0, served, served, 1.0),
    ]
    assert (changed[0].was_subnet, changed[0].would_be_subnet, changed[0].was_ms, changed[0].would_be_ms) == (
        "s1",
        None,
        5.0,
        None,
    )
    assert len(most_changed(was, would_be, PROFILE, 2)) == 2
    assert rejected is Outcome.REJECTED


def test_clients_that_gave_up_do_so_again() -> None:
    """As long after their arrival as they did; the others wait."""
    log = log_of([Outcome.SERVED, Outcome.CANCELLED], [1, -1])
    recorded = Recorded(Trace("t", log.arrival_ns), log, {}, SETTINGS)
    patience_ns = with_patience(Conditions(), recorded).patience_ns
    assert patience_ns is not None
    assert patience_ns[1] == 5 * NS_PER_MS
    assert patience_ns[0] > 10**15
    own = Conditions(patience_ns=np.array([1, 1]))
    assert with_patience(own, recorded) is own


def test_another_slo_is_that_of_requests_without_their_own(tmp_path: Path) -> None:
    """Those that had the model's get the new one."""
    trace = Trace("t", np.arange(3) * NS_PER_S, np.array([40, 7, 40]) * NS_PER_MS)
    log, batches = run(trace)
    folder = record(tmp_path, trace, log, batches)
    found = Setting.of(folder, Wishes(slo_ms=20.0)).trace.slo_ns
    assert found is not None
    assert (found / NS_PER_MS).tolist() == [20.0, 7.0, 20.0]


def test_what_cannot_be_played_is_refused(tmp_path: Path) -> None:
    """No profile, no SLO, several models, settings of another form, more rows than the profile knows."""
    trace = arrivals(50, 1)
    trace.save(tmp_path / "t.npz")
    for wishes, option in ((Wishes(slo_ms=9.0), "--profile"), (Wishes(profiles=("r-profile",)), "--slo-ms")):
        with pytest.raises(ConfigError, match=option):
            Setting.of(tmp_path / "t.npz", wishes)
    log, batches = run(trace)
    folder = record(tmp_path / "a", trace, log, batches)
    (folder / "tiny/settings.json").write_text('{"format": 1}')
    with pytest.raises(TraceError, match=r"settings\.json"):
        load_recorded(folder)
    record(tmp_path / "b", trace, log, batches)
    (tmp_path / "b/tiny").rename(tmp_path / "b/first")
    record(tmp_path / "b", trace, log, batches)
    with pytest.raises(TraceError, match=r"first.*tiny"):
        load_recorded(tmp_path / "b")
    many = Trace("t", np.arange(2), rows=np.array([1, 5], np.int32))
    with pytest.raises(ConfigError, match="5 rows"):
        simulate(many, PROFILE, policy="drainfit", workers=1, slo_ms=40.0)


def test_rows_and_floors_are_played() -> None:
    """A request of four rows fills a batch; one with a floor is answered by the subnet that reaches it."""
    trace = Trace(
        "t",
        np.arange(2) * NS_PER_S,
        rows=np.array([4, 1], np.int32),
        min_accuracy=np.array([0.0, 70.5]),
    )
    log = simulate(trace, PROFILE, policy="fixed:smallest", workers=1, slo_ms=40.0)
    assert log.batch_rows.tolist() == [4, 0]
    assert [list(Outcome)[code] for code in log.outcome] == [Outcome.SERVED, Outcome.REJECTED]
    assert simulate(trace, PROFILE, policy="maxacc", workers=1, slo_ms=40.0).subnet.tolist() == [1, 1]


def test_the_command_needs_nothing_but_the_folder(tmp_path: Path) -> None:
    """As it was, and with another policy: rows, the difference and the most changed requests, in print and as JSON."""
    trace = arrivals(600, 2)
    log, batches = run(trace)
    folder = record(tmp_path / "recorded", trace, log, batches)

    def simulated(*options: str) -> dict[str, Any]:
        file = tmp_path / "rows.json"
        ran = CliRunner().invoke(app, ["simulate", str(folder), "--json", str(file), *options])
        assert ran.exit_code == 0, ran.output
        assert "the most changed" in ran.output
        told: dict[str, Any] = json.loads(file.read_bytes())
        return told

    same = simulated()
    (was,) = same["recorded"]
    assert (same["rows"][0]["workers"], was["policy"]) == (2, "drainfit, as recorded")
    assert was["slo_attainment"] == pytest.approx(same["rows"][0]["slo_attainment"], abs=0.01)
    other = simulated("--policy", "fixed:smallest", "--workers", "1")
    assert other["rows"][0]["mean_serving_accuracy"] == 70.0
    assert other["difference"]["less_accurate"] > 100
    assert len(other["changed"]) == 10
