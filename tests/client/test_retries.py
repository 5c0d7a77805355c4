import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.client.deadline import Deadline
from superserve.client.retries import Attempts, Retries, RetryBudget
from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import (
    ConfigError,
    ExpiredError,
    InfeasibleError,
    InvalidRequestError,
    QueueFullError,
    SuperServeError,
    UnavailableError,
    UnreachableError,
    WorkerError,
)

NEVER_SENT = [
    QueueFullError("full", 0.02),
    InfeasibleError("too much is ahead", 0.02),
    UnavailableError("stopping", 0.02),
    UnreachableError("nobody there"),
]
MAY_HAVE_RUN = [UnavailableError("connection lost")]
SETTLED = [
    QueueFullError("full, for how long it does not say", 0.0),
    WorkerError("it crashed"),
    InfeasibleError("too short"),
    ExpiredError("too late"),
    InvalidRequestError("wrong"),
    SuperServeError("defect"),
]


class Bench:
    """The attempts at one request, with a clock that moves by hand."""

    def __init__(
        self, *, slo_ms: float | None = 1000.0, is_idempotent: bool = False, retries: Retries | None = None
    ) -> None:
        self.clock = ManualClock()
        self.retries = retries or Retries()
        self.budget = RetryBudget(self.retries)
        deadline = Deadline.start(self.clock.now_ns, slo_ms, None, 1000.0)
        rng = np.random.default_rng(1)
        self.attempts = Attempts(self.retries, self.budget, rng, deadline, is_idempotent=is_idempotent)

    def pause_ms(self, error: SuperServeError) -> float:
        return (self.attempts.again_ns(error) - self.clock.now_ns()) / NS_PER_MS


@pytest.mark.parametrize("error", NEVER_SENT)
def test_what_was_not_executed_is_asked_again(error: SuperServeError) -> None:
    """Not before the server said, and not all at the same instant."""
    told_ms = 1000 * getattr(error, "retry_after_s", 0.0)
    pauses = [Bench().pause_ms(error), Bench().pause_ms(error)]
    assert pauses[0] == pauses[1]  # the seed is
    assert told_ms < pauses[0] <= told_ms + Retries().first_pause_ms


@pytest.mark.parametrize("error", MAY_HAVE_RUN)
def test_what_may_have_run_is_asked_again_only_if_the_caller_says_so(error: SuperServeError) -> None:
    with pytest.raises(type(error)):
        Bench().attempts.again_ns(error)
    assert Bench(is_idempotent=True).pause_ms(error) >= 0


@pytest.mark.parametrize("error", SETTLED)
@pytest.mark.parametrize("is_idempotent", [False, True])
def test_what_another_attempt_would_not_change_is_final(error: SuperServeError, is_idempotent: bool) -> None:
    """A worker that a request made crash is not given it again."""
    with pytest.raises(type(error)) as caught:
        Bench(is_idempotent=is_idempotent).attempts.again_ns(error)
    assert caught.value is error


@pytest.mark.parametrize("after_s", [0.04, 10.0, 1e300, float("inf")])
@pytest.mark.parametrize("slo_ms", [40.0, None])
def test_nothing_is_asked_behind_the_deadline(slo_ms: float | None, after_s: float) -> None:
    """Nor does anybody sleep until then: the error is there at once, with the time to come back."""
    bench = Bench(slo_ms=slo_ms, retries=Retries(first_pause_ms=0.0))
    error = QueueFullError("full", after_s)
    if slo_ms is None and after_s < 1:
        assert bench.pause_ms(error) == 40.0
    else:
        with pytest.raises(QueueFullError) as caught:
            bench.attempts.again_ns(error)
        assert caught.value is error


def test_a_request_has_three_attempts_and_pauses_grow() -> None:
    bench = Bench(retries=Retries(first_pause_ms=10.0, max_pause_ms=15.0))
    longest = [bench.retries.longest_pause_ns(made) / NS_PER_MS for made in (1, 2, 3)]
    assert longest == [10.0, 15.0, 15.0]
    for _ in range(2):
        assert bench.pause_ms(UnreachableError("x")) <= 15.0
    with pytest.raises(UnreachableError):
        bench.attempts.again_ns(UnreachableError("x"))


@given(st.integers(0, 400), st.sampled_from([0.0, 0.1, 0.25, 1.0]), st.sampled_from([0.0, 1.0, 10.0]))
def test_repetitions_stay_below_the_share(requests: int, share: float, burst: float) -> None:
    """However many fail: the burst, and the share of the requests."""
    budget = RetryBudget(Retries(share=share, burst=burst))
    repeated = 0
    for _ in range(requests):
        budget.deposit()
        repeated += budget.withdraw() + budget.withdraw()
    assert repeated <= burst + share * requests + 1e-6
    if burst >= 1:
        assert repeated >= min(2 * requests, int(share * requests))


def test_saving_up_has_a_bound() -> None:
    """A quiet day does not pay for a storm."""
    budget = RetryBudget(Retries(share=0.1, burst=3.0))
    for _ in range(1000):
        budget.deposit()
    assert [budget.withdraw() for _ in range(4)] == [True, True, True, False]


def test_an_empty_budget_ends_a_request() -> None:
    bench = Bench(retries=Retries(burst=0.0))
    with pytest.raises(UnreachableError):
        bench.attempts.again_ns(UnreachableError("x"))


@pytest.mark.parametrize(
    "settings",
    [{"max_attempts": 0}, {"share": 1.5}, {"burst": -1.0}, {"burst": float("nan")}, {"first_pause_ms": 2000.0}],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Retries(**settings)  # type: ignore[arg-type]
