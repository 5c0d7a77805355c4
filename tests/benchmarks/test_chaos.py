"""What `make chaos` makes of what it saw."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from chaos.counters import Counters, parse
from chaos.faults import Fault, due_s
from chaos.page import lines, write
from chaos.promises import Promise, promises
from chaos.run import Result, slo_ms_of
from chaos.scenarios import SCENARIOS, Scenario
from chaos.server_log import Event, Replacement, events, replacement
from superserve.metrics import OUTCOME_CODES, ResultRow, RunLog, summarise
from superserve.profile import Profile
from superserve.request import Outcome

SCENARIO = Scenario(name="test", title="A test", device="emulated:r-profile", workers=2, kinds=("kill",), attained=0.75)
KILLED = Fault(kind="kill", at_s=2.5, epoch_s=1000.0, pid=7)
POISON = Fault(kind="poison", at_s=5.0, epoch_s=1002.5, answer="two workers were lost while they ran this input: ...")
LOG = [Event(1000.1, 1, 7), Event(1000.5, 1, None), Event(1003.0, 0, None)]


def log_of(*outcomes: Outcome) -> RunLog:
    n = len(outcomes)
    return RunLog(
        arrival_ns=np.arange(n, dtype=np.int64) * 10**9,
        end_ns=np.arange(n, dtype=np.int64) * 10**9 + 10**6,
        outcome=np.array([OUTCOME_CODES[outcome] for outcome in outcomes], np.uint8),
        subnet=np.zeros(n, np.int16),
        accuracy=np.full(n, 80.0),
        batch_rows=np.ones(n, np.int32),
        correct=np.full(n, -1, np.int8),
    )


LOAD = log_of(Outcome.SERVED, Outcome.SERVED, Outcome.SERVED, Outcome.FAILED)


def row_of(log: RunLog) -> ResultRow:
    return summarise(log, policy="drainfit", trace="t", seed=0, workers=2, slo_ms=36.0)


def counters_of(served: int = 3, failed: int = 1, rescued_failed: int = 0, **rest: Any) -> Counters:
    zeros = dict.fromkeys((outcome.value for outcome in Outcome), 0)
    given = {"launched_too_late": 0, "waiting": 0, "workers": 2} | rest
    return Counters(
        ended=zeros | {"served": served, "failed": failed}, rescued=zeros | {"failed": rescued_failed}, **given
    )


def broken(counters: Counters, *, faults: list[Fault] | None = None, log: list[Event] | None = None) -> list[str]:
    found = promises(
        SCENARIO,
        row_of(LOAD),
        LOAD,
        counters,
        faults=[KILLED] if faults is None else faults,
        log=LOG if log is None else log,
    )
    return [promise.words for promise in found if not promise.kept]


def test_what_has_no_slack_left_may_fail() -> None:
    assert broken(counters_of()) == []


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        (counters_of(rescued_failed=1), "had slack left"),
        (counters_of(served=2), "exactly one end"),
        (counters_of(served=4, failed=0), "its sender hears of it"),
        (counters_of(launched_too_late=1), "expired"),
        (counters_of(workers=1), "in the end"),
        (counters_of(waiting=1), "in the end"),
    ],
)
def test_what_is_broken_is_said(counters: Counters, words: str) -> None:
    (said,) = broken(counters)
    assert words in said


def test_attainment_is_a_promise_where_one_was_made() -> None:
    log = log_of(Outcome.SERVED, Outcome.EXPIRED)
    row = row_of(log)
    counters = msgspec.structs.replace(
        counters_of(served=1, failed=0), ended=dict(counters_of().ended, served=1, failed=0, expired=1)
    )
    for scenario, kept in ((SCENARIO, False), (replace(SCENARIO, attained=None), True)):
        assert all(promise.kept for promise in promises(scenario, row, log, counters, faults=[], log=LOG)) is kept


def test_where_no_rescue_is_promised_it_is_told_what_was_lost() -> None:
    """Neither kept nor broken."""
    scenario = replace(SCENARIO, rescues=False)
    told, *others = promises(scenario, row_of(LOAD), LOAD, counters_of(rescued_failed=1), faults=[KILLED], log=LOG)
    assert (told.kept, "1 lost" in told.seen) == (None, True)
    assert all(promise.kept for promise in others)


@pytest.mark.parametrize(("after", "kept"), [(80.0, True), (79.95, True), (79.0, False)])
def test_accuracy_may_dip_and_has_to_recover(after: float, kept: bool) -> None:
    """In the third second after the kill it is held against the last one before."""
    log = log_of(*[Outcome.SERVED] * 6)
    accuracy = np.array([70.0, 80.0, 75.0, 10.0, after, 10.0])  # one a second; the kill is at 2.0
    log = replace(log, accuracy=accuracy)
    scenario = replace(SCENARIO, recovers=True, attained=None)
    killed = msgspec.structs.replace(KILLED, at_s=2.0)
    found = promises(scenario, row_of(log), log, counters_of(served=6, failed=0), faults=[killed], log=LOG)
    (said,) = [promise for promise in found if "accuracy" in promise.words]
    assert said.kept is kept
    assert said.seen == f"80.00 % in the second before, 75.00 % after it, then {after:.2f} %"


def test_a_poisonous_input_is_to_be_given_up_and_counts_as_nothing_else() -> None:
    """Its own failure is among those that the server counts, and breaks no promise."""
    counters = counters_of(failed=2, rescued_failed=1)
    assert broken(counters, faults=[KILLED, POISON]) == []
    (said,) = broken(counters, faults=[KILLED, msgspec.structs.replace(POISON, answer="an answer")])
    assert "given up" in said


@pytest.mark.parametrize("log", [[], LOG[:1], [Event(1000.1, 1, 7), Event(1003.1, 1, None)]])
def test_a_replacement_that_is_late_or_never_comes_is_said(log: list[Event]) -> None:
    (said,) = broken(counters_of(), log=log)
    assert "another worker" in said


def test_the_log_tells_when_a_worker_was_lost_and_replaced() -> None:
    text = """
2026-11-30 12:00:00,100 ERROR superserve.serving.supervisor: worker 1 is lost: process 7 killed by SIGKILL; closed
2026-11-30 12:00:00,200 ERROR superserve.serving.shared_pool: worker 1 is lost: process 7 killed by SIGKILL; closed
2026-11-30 12:00:00,300 INFO superserve.serving.supervisor: worker 0 is ready on core 1: process 8, 1 models
2026-11-30 12:00:00,350 INFO superserve.serving.supervisor: worker 1: process 9 says something
2026-11-30 12:00:00,500 INFO superserve.serving.supervisor: worker 1 is ready on core 1: process 9, 1 models
"""
    found = events(text.splitlines())
    assert [(event.worker, event.lost_pid) for event in found] == [(1, 7), (0, None), (1, None)]
    noon = datetime(2026, 11, 30, 12).timestamp()  # noqa: DTZ001  (logs show local time)
    taken = replacement(msgspec.structs.replace(KILLED, epoch_s=noon), found)
    assert list(taken) == pytest.approx([0.1, 0.5], abs=1e-3)
    assert replacement(msgspec.structs.replace(KILLED, pid=99), found) == Replacement(None, None)


def test_counters_are_read_from_the_page_of_metrics() -> None:
    page = """# TYPE superserve_requests counter
superserve_requests_total{model="m",outcome="served"} 3.0
superserve_requests_total{model="m",outcome="failed"} 1.0
# TYPE superserve_rescued_requests counter
superserve_rescued_requests_total{model="m",outcome="served"} 2.0
# TYPE superserve_launched_too_late counter
superserve_launched_too_late_total{model="m"} 4.0
# TYPE superserve_queue_depth gauge
superserve_queue_depth{model="m"} 5.0
# TYPE superserve_workers gauge
superserve_workers{state="busy"} 1.0
superserve_workers{state="idle"} 6.0
"""
    assert parse(page) == Counters(
        ended={"served": 3, "failed": 1}, rescued={"served": 2}, launched_too_late=4, waiting=5, workers=7
    )


def test_faults_leave_time_to_recover_from_the_last_one() -> None:
    assert list(due_s(30.0, 5.0)) == [2.5, 7.5, 12.5, 17.5]
    assert len(list(due_s(180.0, 5.0))) == 34


def test_workers_on_one_core_are_given_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    profile = Profile.load("r-profile")
    monkeypatch.setattr("chaos.run.available_cores", lambda: (0, 1))
    assert slo_ms_of(profile, 2) == 2 * slo_ms_of(profile, 1) == 8 * profile.largest_cell_ms("p50")


def test_the_page_keeps_one_run_of_each_scenario(tmp_path: Path) -> None:
    result = Result(
        scenario="real",
        title=SCENARIOS[0].title,
        seconds=4.0,
        rate=1.0,
        slo_ms=36.0,
        row=row_of(LOAD),
        counters=counters_of(),
        faults=[KILLED],
        promises=[Promise("something", "1 of 2", kept=False)],
        p99_lateness_ms=0.5,
        void=None,
    )
    assert not result.kept
    assert any("BROKEN  something: 1 of 2" in line for line in lines(result))
    other = msgspec.structs.replace(result, scenario="mixed", title="Mixed")
    for each in (result, other, msgspec.structs.replace(result, promises=[Promise("something", "2 of 2", kept=True)])):
        write(tmp_path, each, LOAD)
    page = (tmp_path / "chaos.md").read_text()
    assert page.count("## ") == 2
    assert "| something | 2 of 2 | yes |" in page
    assert page.count("| something |") == 2
    assert (tmp_path / "images" / "chaos-real.png").stat().st_size > 1000
