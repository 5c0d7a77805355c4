"""Predicted ends of running batches, held against the plain arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from superserve.scheduling.commitments import Commitments

WORKERS = 4
#: (worker, how long its next batch is planned to take, time until then, whether anybody asks meanwhile).
STEPS = st.lists(st.tuples(st.integers(0, WORKERS - 1), st.integers(1, 9), st.integers(0, 9), st.booleans()))


@given(STEPS)
def test_the_sum_is_that_of_what_runs(steps: list[tuple[int, int, int, bool]]) -> None:
    """Whatever has ended early or is overdue, and whether or not it was asked for at every step."""
    commitments, running, now_ns = Commitments(), dict[int, int](), 0
    for worker, takes_ns, passes_ns, asks in steps:
        if worker in running:
            commitments.remove(worker)
            del running[worker]
        else:
            running[worker] = now_ns + takes_ns
            commitments.add(worker, running[worker])
        now_ns += passes_ns
        if asks:
            free_ns = [max(now_ns, running.get(each, now_ns)) for each in range(WORKERS)]
            assert commitments.free_sum_ns(now_ns, WORKERS) == sum(free_ns)
            assert commitments.ends_ns(now_ns, WORKERS) == sorted(free_ns)


@given(
    ends=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    idle=st.integers(0, 2),
    now_ns=st.integers(0, 60),
    ahead_ns=st.integers(-5, 100),
    batch_ns=st.integers(1, 30),
)
def test_starts_are_those_of_each_worker(ends: list[int], idle: int, now_ns: int, ahead_ns: int, batch_ns: int) -> None:
    """Each runs batches one after the other: counted worker by worker, batch by batch."""
    commitments, until_ns = Commitments(), now_ns + ahead_ns
    for worker, end_ns in enumerate(ends):
        commitments.add(worker, end_ns)
    workers = len(ends) + idle
    starts = [
        free_ns + number * batch_ns
        for free_ns in (max(now_ns, end_ns) for end_ns in (*ends, *[now_ns] * idle))
        for number in range(200)
    ]
    expected = sum(start_ns <= until_ns for start_ns in starts), min(each for each in starts if each > until_ns)
    assert commitments.starts(now_ns, workers, until_ns, batch_ns) == expected


def test_nothing_is_kept_of_batches_that_have_ended() -> None:
    """Also if nobody ever asks, as under light load."""
    commitments = Commitments()
    for batch in range(1_000):
        commitments.add(batch % WORKERS, 10 * batch + 35)
        if batch >= WORKERS - 1:
            commitments.remove((batch + 1) % WORKERS)
    assert len(commitments._ends) == WORKERS - 1
