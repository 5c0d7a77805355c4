"""Failures, slow workers, switching costs, impatient clients: by hand, and never beyond the bound."""

import gc
from itertools import pairwise

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from superserve.bounds.distance import accuracy_bound
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import ConfigError
from superserve.metrics import RunLog, summarise
from superserve.profile import Profile
from superserve.request import Outcome
from superserve.simulator import Conditions, Recording, WorkerEvent, impatient, losses, simulate
from superserve.traces.arrivals import base_plus_gamma, poisson
from superserve.traces.trace import Trace
from support.profiles import make_profile

R_PROFILE = Profile.load("r-profile")


def trace_of(*arrivals_ms: float, slos_ms: tuple[float, ...] = ()) -> Trace:
    slos = np.array([round(value * NS_PER_MS) for value in slos_ms], np.int64) if slos_ms else None
    return Trace("test", np.array([round(value * NS_PER_MS) for value in arrivals_ms], np.int64), slos)


def run(trace: Trace, conditions: Conditions, *, workers: int = 1, slo_ms: float = 10, cell_ms: float = 4.0) -> RunLog:
    profile = make_profile([[cell_ms]], (1,))
    return simulate(
        trace, profile, policy="slackfit", workers=workers, slo_ms=slo_ms, overhead_ms=0, conditions=conditions
    )


def ends_ms(log: RunLog) -> list[float]:
    return [value / NS_PER_MS for value in log.end_ns.tolist()]


def test_a_lost_workers_batch_runs_again_elsewhere() -> None:
    """Of two workers one is lost at 2 ms: its request starts again when the other is free at 4 ms, and ends at 8."""
    log = run(trace_of(0, 0), Conditions(worker_events=[WorkerEvent(2 * NS_PER_MS, 0, alive=False)]), workers=2)
    assert ends_ms(log) == [8.0, 4.0]
    assert log.is_outcome(Outcome.SERVED).all()


def test_a_worker_comes_back() -> None:
    """Lost at 1 ms with its batch and back at 5: what can still be met is served then, later arrivals too."""
    events = [WorkerEvent(5 * NS_PER_MS, 0, alive=True), WorkerEvent(1 * NS_PER_MS, 0, alive=False)]
    log = run(trace_of(0, 4.5, 9.5), Conditions(worker_events=events))
    assert log.is_outcome(Outcome.SERVED).tolist() == [True, False, True]
    assert log.is_outcome(Outcome.REJECTED).tolist() == [False, True, False]  # nobody there at 4.5 ms
    assert ends_ms(log) == [9.0, 4.5, 13.5]


def test_without_workers_everything_ends_all_the_same() -> None:
    """The last worker is lost and none returns: waiting requests expire; those that would wait on have failed."""
    events = Conditions(worker_events=[WorkerEvent(1 * NS_PER_MS, 0, alive=False)])
    assert run(trace_of(0, 0.5), events).is_outcome(Outcome.EXPIRED).all()
    log = simulate(
        trace_of(0, 0.5), make_profile([[4.0]], (1,)), policy="slackfit", workers=1, slo_ms=10, overhead_ms=0,
        timeout_action="delay", conditions=events,
    )  # fmt: skip
    assert log.is_outcome(Outcome.FAILED).all()


def test_slow_workers_take_longer() -> None:
    """A factor of 2 on the second of two: 4 and 8 ms; the overhead is not multiplied."""
    assert ends_ms(run(trace_of(0, 0), Conditions(slowdown=(1.0, 2.0)), workers=2)) == [4.0, 8.0]
    log = simulate(
        trace_of(0), make_profile([[4.0]], (1,)), policy="slackfit", workers=1, slo_ms=20, overhead_ms=1,
        conditions=Conditions(slowdown=(3.0,)),
    )  # fmt: skip
    assert ends_ms(log) == [13.0]


def test_a_change_of_subnet_costs_the_actuation_delay() -> None:
    """Slack 20 takes the big subnet (8 ms), slack 5 the small one (2 ms) after 1 ms; the same again costs nothing."""
    trace = trace_of(0, 30, 50, slos_ms=(20, 5, 5))
    log = simulate(
        trace, make_profile([[2.0], [8.0]], (1,)), policy="maxacc", workers=1, slo_ms=1, overhead_ms=0,
        conditions=Conditions(actuation_ns=NS_PER_MS),
    )  # fmt: skip
    assert ends_ms(log) == [8.0, 33.0, 52.0]


def test_clients_cancel_what_has_no_answer_yet() -> None:
    """Answered at 4 ms, patience 5; cancelled while it waits, at 3; answered at its last instant, at 9."""
    patience_ns = np.array([5, 3, 4], np.int64) * NS_PER_MS
    log = run(trace_of(0, 0, 5), Conditions(patience_ns=patience_ns), cell_ms=4.0, slo_ms=10)
    assert log.is_outcome(Outcome.CANCELLED).tolist() == [False, True, False]
    assert ends_ms(log) == [4.0, 3.0, 9.0]


def test_losses_come_one_after_the_other() -> None:
    """The paper's fault test: a worker every 12 s. SlackFit goes on with half of them, less accurately."""
    events = losses([0, 1, 2, 3], every_s=0.4)
    assert [event.at_ns for event in events] == [400_000_000, 800_000_000, 1_200_000_000, 1_600_000_000]
    trace = base_plus_gamma(0, 3500, 2, 2, np.random.default_rng(0))

    def row(conditions: Conditions) -> float:
        log = simulate(trace, R_PROFILE, policy="slackfit", workers=8, slo_ms=36, overhead_ms=1, conditions=conditions)
        result = summarise(log, policy="slackfit", trace="t", seed=0, workers=8, slo_ms=36)
        assert result.slo_attainment > 0.995
        assert result.mean_serving_accuracy is not None
        return result.mean_serving_accuracy

    assert row(Conditions()) > row(Conditions(worker_events=events)) + 0.1


def test_recording_holds_every_batch() -> None:
    """Batches of a worker never overlap, cover the served requests, and become a Chrome trace."""
    trace = base_plus_gamma(500, 12_000, 8, 0.5, np.random.default_rng(0))
    recording = Recording()
    events = (WorkerEvent(100 * NS_PER_MS, 3, alive=False), WorkerEvent(300 * NS_PER_MS, 3, alive=True))
    log = simulate(
        trace, R_PROFILE, policy="slackfit", workers=8, slo_ms=36, recording=recording,
        conditions=Conditions(worker_events=events),
    )  # fmt: skip
    finished = [batch for batch in recording.batches if not batch.lost]
    answered = int(log.is_outcome(Outcome.SERVED, Outcome.LATE).sum())
    assert sum(batch.rows for batch in finished) == answered
    assert [batch.worker for batch in recording.batches if batch.lost] == [3]
    assert sum(batch.shed for batch in recording.batches) > 0
    for worker in range(8):
        of_worker = [batch for batch in recording.batches if batch.worker == worker]
        assert all(a.end_ns <= b.launched_ns for a, b in pairwise(of_worker))
    chrome = msgspec.json.decode(recording.chrome_trace([subnet.id for subnet in R_PROFILE.subnets]))
    kinds = [event["ph"] for event in chrome["traceEvents"]]
    assert kinds.count("X") == kinds.count("C") == len(recording.batches)
    assert kinds.count("i") == 2
    assert all(event["dur"] > 0 for event in chrome["traceEvents"] if event["ph"] == "X")


def test_recording_changes_nothing() -> None:
    """Nor do conditions that are all ordinary."""
    trace = poisson(6000, 0.5, np.random.default_rng(0))

    def ends(**rest: Recording | Conditions) -> bytes:
        return simulate(trace, R_PROFILE, policy="slackfit", workers=8, slo_ms=36, **rest).end_ns.tobytes()  # type: ignore[arg-type]

    assert ends() == ends(recording=Recording()) == ends(conditions=Conditions(slowdown=(1.0,) * 8))


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        (lambda: Conditions(slowdown=(1.0, 0.0)), "slowdown"),
        (lambda: Conditions(actuation_ns=-1), "actuation_ns"),
        (lambda: Conditions(slowdown=(1.0,)), "1 factors for 2"),
        (lambda: Conditions(patience_ns=np.zeros(3, np.int64)), "3 values for 1"),
        (lambda: Conditions(worker_events=[WorkerEvent(0, 7, alive=False)]), "worker 7 is not there"),
        (lambda: Conditions(worker_events=[WorkerEvent(5, 1, alive=True)]), "worker 1 is there already"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(conditions: object, named: str) -> None:
    """Before anything runs; the message says what."""
    with pytest.raises(ConfigError, match=named):
        run(trace_of(0), conditions(), workers=2)  # type: ignore[operator]


@given(
    st.integers(0, 1000),
    st.lists(st.floats(0.5, 3.0), min_size=3, max_size=3),
    st.integers(0, 2),
    st.floats(500, 12_000),
    st.sampled_from(["slackfit", "drainfit", "maxbatch", "proteus"]),
)
@settings(max_examples=40)
def test_no_run_passes_its_bound(seed: int, factors: list[float], lost: int, rate: float, policy: str) -> None:
    """Workers of different speeds, losses, overhead, mixed deadlines and switching costs."""
    rng = np.random.default_rng(seed)
    trace = base_plus_gamma(0, rate, 8, 0.3, rng)
    if not len(trace):
        return
    trace = Trace("t", trace.arrival_ns, rng.choice([20, 36, 90], len(trace)) * NS_PER_MS)
    events = tuple(WorkerEvent((100 + 50 * worker) * NS_PER_MS, worker, alive=False) for worker in range(lost))
    conditions = Conditions(slowdown=tuple(factors), worker_events=events, actuation_ns=seed % 2 * NS_PER_MS)
    log = simulate(trace, R_PROFILE, policy=policy, workers=3, slo_ms=36, overhead_ms=1, conditions=conditions)
    row = summarise(log, policy=policy, trace="t", seed=0, workers=3, slo_ms=36)
    bound = accuracy_bound(trace, R_PROFILE, workers=3, slo_ms=36, overhead_ms=1, conditions=conditions)
    assert row.goodput_weighted_accuracy <= bound + 1e-9


def test_lost_and_slow_workers_lower_the_bound() -> None:
    """Half the workers, and half the speed without overhead, are the same loss."""
    trace = poisson(6000, 1.0, np.random.default_rng(0))

    def bound(conditions: Conditions) -> float:
        return accuracy_bound(trace, R_PROFILE, workers=8, slo_ms=200, overhead_ms=0, conditions=conditions)

    halved = bound(Conditions(worker_events=[WorkerEvent(0, worker, alive=False) for worker in range(4)]))
    assert halved < bound(Conditions()) - 1
    assert bound(Conditions(slowdown=(2.0,) * 8)) == pytest.approx(halved, abs=0.01)


@pytest.mark.parametrize("policy", ["drainfit", "slackfit", "maxacc", "maxbatch"])
def test_policies_learn_that_all_workers_are_slow(policy: str) -> None:
    """At 1.25 times the profile, what was planned to end within the last fifth of the slack is late, at first only."""
    trace = poisson(4000, 6.0, np.random.default_rng(1))
    slow = Conditions(slowdown=(1.25,) * 8)
    log = simulate(trace, R_PROFILE, policy=policy, workers=8, slo_ms=36, overhead_ms=0, conditions=slow)
    learned = trace.arrival_ns > NS_PER_S
    late = log.is_outcome(Outcome.LATE)
    assert late[~learned].any()
    assert late[learned].mean() <= 0.005


def test_a_client_may_cancel_while_its_batch_runs() -> None:
    """The batch goes on and the worker is busy until its end: the next request starts there."""
    log = run(trace_of(0, 1), Conditions(patience_ns=np.array([2, 50], np.int64) * NS_PER_MS))
    assert log.is_outcome(Outcome.CANCELLED).tolist() == [True, False]
    assert ends_ms(log) == [2.0, 8.0]


def test_impatience_is_exponential_and_keeps_what_else_holds() -> None:
    """Mean and standard deviation are the same; equal seeds wait alike."""
    slow = Conditions(slowdown=(2.0,))
    made = impatient(slow, 50.0, 20_000, np.random.default_rng(3))
    assert made.slowdown == (2.0,)
    assert made.patience_ns is not None
    assert made.patience_ns.mean() == pytest.approx(50 * NS_PER_MS, rel=0.03)
    assert made.patience_ns.std() == pytest.approx(50 * NS_PER_MS, rel=0.05)
    again = impatient(slow, 50.0, 20_000, np.random.default_rng(3)).patience_ns
    assert again is not None
    assert (again == made.patience_ns).all()


def test_progress_counts_arrivals_and_leaves_the_collector_as_it_was() -> None:
    """A report per block of requests; the collector is turned down during the run only."""
    seen: list[tuple[int, int, int]] = []
    trace = poisson(50_000, 1.0, np.random.default_rng(0))
    usual = gc.get_threshold()
    simulate(
        trace, R_PROFILE, policy="fixed:smallest", workers=40, slo_ms=36,
        on_progress=lambda done, total: seen.append((done, total, gc.get_threshold()[0])),
    )  # fmt: skip
    assert [(done, total) for done, total, _ in seen] == [(0, len(trace)), (32_768, len(trace))]
    assert all(threshold >= 100_000 for _, _, threshold in seen)
    assert gc.get_threshold() == usual


def test_one_slow_worker_makes_nothing_late_but_its_first_batches() -> None:
    """Of four workers one takes three times as long. Every fifth request was late when all were planned alike."""
    trace = base_plus_gamma(1_000.0, 1_500.0, 2.0, 4.0, np.random.default_rng(0))
    slow = Conditions(slowdown=(3.0, 1.0, 1.0, 1.0))
    log = simulate(trace, R_PROFILE, policy="drainfit", workers=4, slo_ms=36.0, conditions=slow)
    assert log.is_outcome(Outcome.SERVED).mean() > 0.99
