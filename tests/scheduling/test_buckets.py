"""Which bucket a batch is planned for, and where it ends. What always holds is tested in ``test_scheduler.py``."""

import hypothesis.strategies as st
from hypothesis import given

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Decision, EDFQueue, SchedulerView, create_policies
from superserve.scheduling.buckets import ByBucket
from support.profiles import bucketed_profiles, make_profile, profiles, with_shorter

#: The longest texts take 8 ms alone and 32 ms four at a time at the better subnet; the shortest a quarter of that.
PROFILE = with_shorter(make_profile([[2.0, 8.0], [8.0, 32.0]], (1, 4)), (8, 0.5, 0.25), (16, 0.3, 0.5))
SHORT, MEDIUM, LONG = range(3)


def view_of(profile: Profile, *texts: tuple[float, int], overhead_ns: int = 0) -> SchedulerView:
    """One idle worker, and texts that wait: (milliseconds until they are due, bucket)."""
    queue = EDFQueue()
    for number, (due_ms, bucket) in enumerate(texts):
        queue.push(Request(number, 0, round(due_ms * NS_PER_MS), bucket=bucket))
    table = LatencyTable(profile)
    return SchedulerView(table, queue, overhead_ns, workers_idle=1, workers_total=1, workers=(0,), idle=(0,))


def decide(policy: str, *texts: tuple[float, int], overhead_ns: int = 0) -> Decision:
    decision = ByBucket(create_policies(policy, PROFILE)).decide(view_of(PROFILE, *texts, overhead_ns=overhead_ns))
    assert isinstance(decision, Decision)
    return decision


def test_a_short_text_alone_gets_the_subnet_that_it_has_the_time_for() -> None:
    """Within 5 ms: the better one takes 8 ms for the longest text, 4 ms and 2 ms for shorter ones."""
    assert [decide("drainfit", (5, bucket)).subnet for bucket in (SHORT, MEDIUM, LONG)] == [1, 1, 0]


def test_the_longest_text_of_a_batch_counts() -> None:
    """Four within 12 ms: short ones run at the better subnet, with a long one at their head at the lesser."""
    assert decide("slackfit", *[(12, SHORT)] * 4) == decide("slackfit", *[(12, SHORT)] * 4, (12, LONG))
    assert decide("slackfit", *[(12, SHORT)] * 4).subnet == 1
    assert decide("maxbatch", (12, LONG), *[(12, SHORT)] * 3).subnet == 0


def test_a_batch_ends_before_a_text_that_would_make_its_rows_dearer() -> None:
    """Three short ones take 8 ms at the better subnet, with a long one 32 ms, unless dispatches cost more than that."""
    texts = [*[(1000, SHORT)] * 3, (1000, LONG)]
    assert decide("fixed:largest", *texts).rows == 3
    assert decide("fixed:largest", *texts, overhead_ns=80 * NS_PER_MS).rows == 4


def test_a_batch_that_ends_before_a_long_text_gets_the_subnet_that_it_then_has_the_time_for() -> None:
    """Four with a long one take 8 ms of 9 at the lesser subnet; the three short ones as long at the better."""
    decision = decide("slackfit", *[(9, SHORT)] * 3, (9, LONG))
    assert (decision.rows, decision.subnet) == (3, 1)


def test_what_waits_before_a_long_text_runs_without_it_rather_than_not_at_all() -> None:
    """Due before any batch with a long one could be done."""
    decision = decide("fixed:largest", (5, SHORT), (5, LONG))
    assert (decision.shed, decision.rows) == (0, 1)


def test_a_batch_begins_behind_those_that_are_given_up() -> None:
    """The head has no time left; the bucket is that of the next one."""
    decision = decide("fixed:largest", (1, SHORT), (100, LONG), (100, SHORT))
    assert (decision.shed, decision.rows) == (1, 2)


def test_a_policy_that_holds_state_is_asked_for_the_longest_alone() -> None:
    assert [len(create_policies(name, PROFILE)) for name in ("drainfit", "coarse", "proteus")] == [3, 1, 1]


@given(
    bucketed_profiles(profiles()),
    st.sampled_from(["drainfit", "slackfit", "maxacc", "maxbatch", "fixed:largest"]),
    st.lists(st.tuples(st.floats(0.1, 60.0), st.integers(0, 2)), min_size=1, max_size=20),
)
def test_a_batch_is_planned_with_the_largest_bucket_in_it(
    profile: Profile, name: str, texts: list[tuple[float, int]]
) -> None:
    """Its head is in time by the table of that; of requests that are given up it is not known who follows."""
    policies = create_policies(name, profile)
    texts = [(due_ms, min(bucket, len(policies) - 1)) for due_ms, bucket in texts]
    view = view_of(profile, *texts)
    decision = ByBucket(policies).decide(view)
    assert isinstance(decision, Decision)
    if decision.rows:
        requests = list(view.queue)[decision.shed :][: decision.rows]
        bucket = max(request.bucket for request in requests)
        planned_ns = policies[bucket].table.latency_ns[decision.subnet][len(requests)]
        assert planned_ns < requests[0].deadline_ns
        if not decision.shed:
            assert view.table is policies[bucket].table
    else:
        assert decision.shed, "nothing is done"
