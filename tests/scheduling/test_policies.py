"""The policies, each against what its docstring says."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.profile import LatencyTable, Profile
from superserve.request import Request
from superserve.scheduling import Bound, Decision, EDFQueue, Policy, SchedulerView, Wait, create_policy, policy_names
from support.profiles import make_profile, profiles

R_PROFILE = LatencyTable(Profile.load("r-profile"))


FLOORED = (
    "drainfit", "slackfit", "slackfit-42", "maxacc", "maxbatch", "fixed:largest", "infaas", "coarse", "proteus",
)  # fmt: skip


def decide(policy: Policy, slacks_ms: list[float], rows: int = 1, floor: float = 0.0) -> tuple[str, int, int]:
    """Subnet id, rows and number shed for a queue with these slacks."""
    queue = EDFQueue()
    for number, slack_ms in enumerate(slacks_ms):
        queue.push(Request(number, 0, round(slack_ms * NS_PER_MS), rows, floor))
    view = SchedulerView(policy.table, queue, 0, workers_idle=1, workers_total=1, workers=(0,), idle=(0,))
    decision = policy.decide(view)
    if isinstance(decision, Wait):  # for a fuller batch, until the last moment
        view.now_ns = decision.until_ns
        decision = policy.decide(view)
    assert isinstance(decision, Decision)
    return policy.table.ids[decision.subnet], decision.rows, decision.shed


@pytest.mark.parametrize(
    ("slack_ms", "expected"),
    [
        # Buckets of (30.70 - 1.41) / 8 = 3.66 ms; the tuple with the largest batch of each.
        (36.0, ("r80.16", 16)),
        (30.7, ("r79.44", 16)),  # strictly less than the slack
        (21.0, ("r78.25", 16)),
        (18.0, ("r76.69", 16)),  # 18.06 of r78.25 is what its bucket remembers, and that does not fit
        (12.0, ("r76.69", 16)),
        (8.0, ("r73.82", 16)),
        (5.0, ("r73.82", 8)),
    ],
)
def test_slackfit_on_the_papers_profile(slack_ms: float, expected: tuple[str, int]) -> None:
    """The largest remembered latency below the head's slack, with a long queue behind."""
    subnet, rows, shed = decide(create_policy("slackfit", R_PROFILE), [slack_ms] + [90.0] * 40)
    assert (subnet, rows, shed) == (*expected, 0)


def test_slackfit_sheds_tight_heads_only_under_load() -> None:
    """Below the smallest remembered latency (4.18 ms) a head alone is served, before a queue it is given up."""
    policy = create_policy("slackfit", R_PROFILE)
    assert decide(policy, [2.0]) == ("r73.82", 2, 0)
    assert decide(policy, [2.0] + [30.0] * 20) == ("r79.44", 16, 1)


def test_slackfit_gives_up_what_nothing_can_serve() -> None:
    """1.41 ms is the fastest cell: a head at that slack is shed, and if all are, nothing is run."""
    policy = create_policy("slackfit", R_PROFILE)
    assert decide(policy, [1.41, 1.2]) == ("r73.82", 0, 2)


def test_slackfit_holds_a_head_of_many_rows() -> None:
    """Requests are never split: the remembered batch of 8 does not hold 9 rows, so another subnet is taken."""
    policy = create_policy("slackfit", R_PROFILE)
    assert decide(policy, [7.4], rows=9) == ("r73.82", 16, 0)
    assert decide(policy, [7.3] * 2, rows=9) == ("r73.82", 0, 2)


def test_slackfit_42_remembers_full_batches_above_the_fastest_one() -> None:
    """Its buckets have upper edges only, 3.66 ms apart; 7.35 ms is the fastest full batch."""
    policy = create_policy("slackfit-42", R_PROFILE)
    queue = [90.0] * 40
    assert decide(policy, [7.0, *queue]) == ("r73.82", 8, 0)
    assert decide(policy, [7.4, *queue]) == ("r73.82", 16, 0)
    assert decide(policy, [12.3, *queue]) == ("r76.69", 16, 0)
    # r78.25 takes 18.06 ms: its bucket ends at 19.72, where A.5 has forgotten the 16.83 of r77.64 in the one below.
    assert decide(policy, [17.9, *queue]) == ("r76.69", 16, 0)
    assert decide(policy, [18.1, *queue]) == ("r78.25", 16, 0)
    assert decide(policy, [31.0, *queue]) == ("r80.16", 16, 0)


def test_infaas_takes_the_cheapest_that_is_accurate_enough() -> None:
    """Least accurate without a floor; with one the first above it, of the policy's or the request's."""
    assert decide(create_policy("infaas", R_PROFILE), [36.0] * 20) == ("r73.82", 16, 0)
    assert decide(create_policy("infaas:78", R_PROFILE), [36.0] * 20) == ("r78.25", 16, 0)
    assert decide(create_policy("infaas:75", R_PROFILE), [36.0] * 20, floor=79.0) == ("r79.44", 16, 0)
    assert decide(create_policy("infaas:80", R_PROFILE), [4.0, 36.0]) == ("r80.16", 16, 1)


def test_maxacc_prefers_accuracy_over_batch() -> None:
    """At 5 ms the largest subnet fits alone: it is taken at batch 1."""
    assert decide(create_policy("maxacc", R_PROFILE), [5.0] * 20) == ("r80.16", 1, 0)


def test_maxbatch_prefers_batch_over_accuracy() -> None:
    """At 12 ms the fastest subnet fits 16; the most accurate one that also does is r76.69."""
    assert decide(create_policy("maxbatch", R_PROFILE), [12.0] * 20) == ("r76.69", 16, 0)


def test_fixed_takes_the_largest_batch_that_fits() -> None:
    """One subnet, slack-limited batch; named by role or by id."""
    assert decide(create_policy("fixed:r78.25", R_PROFILE), [10.0] * 20) == ("r78.25", 8, 0)
    assert decide(create_policy("fixed:middle", R_PROFILE), [10.0] * 20) == ("r78.25", 8, 0)
    assert decide(create_policy("fixed:largest", R_PROFILE), [4.0, 36.0]) == ("r80.16", 16, 1)


@pytest.mark.parametrize(
    ("name", "slack_ms", "bound"),
    [
        ("slackfit", 36.0, Bound.NOTHING),
        ("slackfit", 18.0, Bound.RULE),  # a small batch of a better one would fit: it wants large ones
        ("maxacc", 4.0, Bound.SLACK),
        ("slackfit", 1.0, Bound.OVERLOAD),
        ("fixed:middle", 18.1, Bound.NOTHING),  # no more accurate one that it may use
        ("infaas", 36.0, Bound.RULE),
    ],
)
def test_a_decision_says_what_kept_it_from_more_accuracy(name: str, slack_ms: float, bound: Bound) -> None:
    queue = EDFQueue()
    for number in range(20):
        queue.push(Request(number, 0, round(slack_ms * NS_PER_MS)))
    view = SchedulerView(R_PROFILE, queue, 0, workers_idle=1, workers_total=1, workers=(0,), idle=(0,))
    decision = create_policy(name, R_PROFILE).decide(view)
    assert isinstance(decision, Decision)
    assert decision.bound is bound


@given(profiles(), st.sampled_from(policy_names()), st.floats(0.1, 50.0), st.integers(1, 30), st.integers(0, 4))
def test_more_slack_never_lowers_latency(profile: Profile, name: str, slack_ms: float, depth: int, extra: int) -> None:
    """Every policy uses at least as much of a larger slack (or sheds fewer requests)."""
    table = LatencyTable(profile)
    policy = create_policy("fixed:smallest" if name == "fixed" else name, table)

    def latency(slack: float) -> tuple[int, int]:
        subnet, rows, shed = decide(policy, [slack] * depth)
        return -shed, table.latency_ns[table.index(subnet)][rows] if rows else 0

    # The rows that SlackFit runs below its smallest bucket are cut to the queue, which its table's are not.
    # DrainFit lowers accuracy for work in sight that more slack on all of it may bring into a fuller batch.
    if name not in {"slackfit", "drainfit"}:
        assert latency(slack_ms) <= latency(slack_ms + extra)
    else:
        assert latency(slack_ms)[0] <= latency(slack_ms + extra)[0]


@given(profiles(), st.sampled_from(FLOORED), st.floats(0.1, 50.0))
def test_floor_is_respected(profile: Profile, name: str, slack_ms: float) -> None:
    """A subnet below the head's accuracy floor is never chosen."""
    table = LatencyTable(profile)
    floor = table.accuracies[-1]
    subnet, rows, _ = decide(create_policy(name, table), [slack_ms], floor=floor)
    assert rows == 0 or table.accuracies[table.index(subnet)] >= floor


@given(
    profiles(),
    st.sampled_from(FLOORED),
    st.lists(st.tuples(st.floats(0.1, 60.0), st.integers(1, 16), st.sampled_from([0.0, 0.0, 70.5, 72.5])), min_size=1),
    st.integers(0, 200),
)
def test_a_batch_holds_the_request_that_leads_it(
    profile: Profile, name: str, waiting: list[tuple[float, int, float]], busy_ms: int
) -> None:
    """Its rows, its floor and its deadline, however mixed requests wait, and however long the other worker is busy."""
    table = LatencyTable(profile)
    queue = EDFQueue()
    for number, (slack_ms, rows, floor) in enumerate(waiting):
        if floor <= table.accuracies[-1]:
            deadline_ns = round(slack_ms * NS_PER_MS)
            queue.push(Request(number, 0, deadline_ns, min(rows, table.max_rows), floor))
    assume(queue)
    view = SchedulerView(table, queue, 0, workers_idle=1, workers_total=2, workers=(0, 1), idle=(0,))
    view.commitments.add(1, busy_ms * NS_PER_MS)
    decision = create_policy(name, table).decide(view)
    if isinstance(decision, Decision) and decision.rows:
        head = queue.peek(decision.shed)
        assert head.rows <= decision.rows
        assert head.min_accuracy <= table.accuracies[decision.subnet]
        assert table.latency_ns[decision.subnet][head.rows] < head.deadline_ns


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nope", "slackfit"),
        ("fixed", "smallest"),
        ("fixed:huge", "r80.16"),
        ("slackfit:0", "buckets"),
        ("slackfit:x", "buckets"),
        ("maxacc:1", "maxacc"),
        ("infaas:x", "per cent"),
        ("infaas:81", "80.16"),
        ("slackfit-42:0", "slackfit-42:0"),
        ("coarse:-1", "milliseconds"),
        ("proteus:often", "seconds"),
    ],
)
def test_unknown_policy_is_refused_with_the_choices(name: str, named: str) -> None:
    """The message names what would have been valid."""
    with pytest.raises(ConfigError, match=named):
        create_policy(name, R_PROFILE)


def test_single_cell_profile() -> None:
    """One subnet, one batch size: every policy still works."""
    table = LatencyTable(make_profile([[3.0]], (1,)))
    for name in ("drainfit", "slackfit", "maxacc", "maxbatch", "fixed:middle"):
        assert decide(create_policy(name, table), [4.0, 4.0]) == ("s0", 1, 0)
