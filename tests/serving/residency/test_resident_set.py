"""Which subnets are resident: never beyond the budget, the most used, and not another set every moment."""

from collections.abc import Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from superserve.clock import NS_PER_S
from superserve.serving.residency.resident_set import (
    FIRST_BACKOFF_NS,
    HYSTERESIS,
    INTERVAL_NS,
    ResidentSet,
)

SIZES = (10, 20, 30, 40, 50, 60)


def set_of(budget: int | None, packed: Iterable[int] = range(6)) -> "ResidentSet[int]":
    """Of a front of six, some of which are packed."""
    found: ResidentSet[int] = ResidentSet(budget)
    found.add(range(6), [1.0] * 6)
    for key in packed:
        found.built(key, SIZES[key])
    return found


def used(found: "ResidentSet[int]", second: int, **rows: int) -> None:
    found.observe(second * NS_PER_S, {int(key[1:]): count for key, count in rows.items()})


def test_the_smallest_stays_and_the_most_used_come_with_it() -> None:
    found = set_of(70)
    used(found, 1, s5=100, s2=70, s0=1)
    assert found.wanted(NS_PER_S, ()) == {0, 5}
    used(found, 2, s2=200)
    assert found.wanted(2 * NS_PER_S, {0, 5}) == {0, 2, 1}  # what is left holds an unused one, too


def test_what_nobody_uses_may_fill_the_budget_the_more_accurate_first() -> None:
    assert set_of(120).wanted(0, ()) == {0, 5, 4}
    assert set_of(9).wanted(0, ()) == set()


def test_by_default_the_smallest_and_the_largest_fit() -> None:
    found = set_of(None, packed=[])
    assert found.budget == 0
    found.built(0, 10)
    assert found.budget == 10
    found.built(3, 40)
    assert found.budget == 50
    found.built(5, 60)
    assert found.budget == 70
    used(found, 1, s3=10)
    assert found.wanted(NS_PER_S, ()) == {0, 3}


def test_of_two_that_are_used_alike_neither_gives_way_and_one_that_is_used_more_does_at_once() -> None:
    found = set_of(70)
    used(found, 1, s4=100, s5=int(100 * HYSTERESIS) - 1)
    assert found.wanted(NS_PER_S, {0, 4}) == {0, 4}
    used(found, 1, s5=2)
    assert found.wanted(NS_PER_S, {0, 4}) == {0, 5}


def test_evictions_are_some_time_apart_and_additions_need_not_be() -> None:
    found = set_of(70)
    found.evicted(NS_PER_S)
    used(found, 2, s4=100)
    assert found.wanted(2 * NS_PER_S, {0, 5}) == {0, 5}
    assert found.wanted(2 * NS_PER_S, {0}) == {0, 4}
    assert found.wanted(NS_PER_S + INTERVAL_NS, {0, 5}) == {0, 4}


def test_a_burst_does_not_turn_the_set_around() -> None:
    """Ten seconds of one mix outweigh a second of another."""
    found = set_of(70)
    for second in range(1, 11):
        used(found, second, s5=100)
    used(found, 11, s1=100, s2=100, s3=100)
    assert 5 in found.wanted(11 * NS_PER_S, {0, 5})


def test_the_most_used_is_packed_first_and_the_smallest_before_it() -> None:
    found = set_of(70, packed=[])
    assert found.next_to_pack(0, ()) is None  # nobody has asked for anything
    used(found, 1, s5=100, s4=40, s1=1)
    assert found.next_to_pack(NS_PER_S, ()) == 0
    found.built(0, 10)
    assert found.next_to_pack(NS_PER_S, ()) == 5
    found.built(5, 60)
    assert found.next_to_pack(NS_PER_S, {0, 5}) is None  # nothing else fits, or is used enough


def test_what_could_not_be_packed_is_tried_again_ever_later() -> None:
    found = set_of(70, packed=[0])
    used(found, 1, s5=100)
    at_ns = NS_PER_S
    for attempt in range(3):
        assert found.next_to_pack(at_ns, ()) == 5
        found.failed(5, at_ns)
        wait_ns = FIRST_BACKOFF_NS << attempt
        assert found.next_to_pack(at_ns + wait_ns - 1, ()) is None
        at_ns += wait_ns
    found.built(5, 60)
    found.settled([5])
    found.failed(5, at_ns)
    assert found.wanted(at_ns, {0, 5}) == {0}  # it cannot be mapped: packed anew
    assert found.next_to_pack(at_ns + FIRST_BACKOFF_NS, ()) == 5


def test_models_share_the_budget_and_each_keeps_its_smallest() -> None:
    found: ResidentSet[str] = ResidentSet(60)
    found.add(["a0", "a1"], [1.0, 2.0])
    found.add(["b0", "b1"], [1.0, 2.0])
    for key, size in (("a0", 10), ("a1", 40), ("b0", 10), ("b1", 40)):
        found.built(key, size)
    found.observe(NS_PER_S, {"a1": 10, "b1": 1})
    assert found.wanted(NS_PER_S, ()) == {"a0", "b0", "a1"}
    found.remove(["a0", "a1"])
    assert found.wanted(NS_PER_S, {"a0", "a1"}) == {"b0", "b1"}


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 100)), min_size=1, max_size=8),
    st.integers(0, 200) | st.none(),
    st.sets(st.integers(0, 7)),
)
def test_of_a_stationary_mix_the_set_is_constant_in_the_end(
    subnets: list[tuple[int, int]], budget: int | None, before: set[int]
) -> None:
    found: ResidentSet[int] = ResidentSet(budget)
    found.add(range(len(subnets)), [1.0] * len(subnets))
    rows = {}
    for key, (size, count) in enumerate(subnets):
        found.built(key, size)
        rows[key] = count
    found.observe(NS_PER_S, rows)
    resident = frozenset(key for key in before if key < len(subnets))
    changes = 0
    while (after := found.wanted(NS_PER_S + INTERVAL_NS, resident)) != resident:
        resident, changes = after, changes + 1
        assert changes <= 2 * len(subnets), "it turns around and around"


class Machine(RuleBasedStateMachine):
    """Any use, and any fate of what is packed; the set follows as the shell has it do."""

    @initialize(budget=st.integers(0, 150) | st.none())
    def start(self, budget: int | None) -> None:
        self.found = set_of(budget, packed=[])
        self.budget = budget
        self.packed: set[int] = set()
        self.resident: frozenset[int] = frozenset()
        self.now_ns = 0
        self.last_eviction_ns = -INTERVAL_NS

    @rule(rows=st.dictionaries(st.integers(0, 5), st.integers(1, 1000)), seconds=st.floats(0.1, 30))
    def use(self, rows: dict[int, int], seconds: float) -> None:
        self.now_ns += round(seconds * NS_PER_S)
        self.found.observe(self.now_ns, rows)

    @rule(fails=st.booleans())
    def pack(self, fails: bool) -> None:
        key = self.found.next_to_pack(self.now_ns, self.resident)
        if key is None:
            return
        assert key not in self.packed
        if fails:
            self.found.failed(key, self.now_ns)
            assert self.found.next_to_pack(self.now_ns, self.resident) != key
        else:
            self.found.built(key, SIZES[key])
            self.packed.add(key)

    @rule()
    def change(self) -> None:
        wanted = self.found.wanted(self.now_ns, self.resident)
        assert wanted <= self.packed
        if self.resident - wanted:
            assert self.now_ns - self.last_eviction_ns >= INTERVAL_NS or not self.resident <= self.packed
            assert 0 in wanted or 0 not in self.resident
            self.found.evicted(self.now_ns)
            self.last_eviction_ns = self.now_ns
        self.resident = wanted

    @rule(pick=st.integers(0, 5))
    def cannot_be_mapped(self, pick: int) -> None:
        if pick in self.resident:
            self.found.failed(pick, self.now_ns)
            self.packed.discard(pick)
            self.resident -= {pick}

    @invariant()
    def fits(self) -> None:
        if hasattr(self, "found"):
            assert sum(SIZES[key] for key in self.resident) <= self.found.budget


TestMachine = Machine.TestCase


@pytest.mark.parametrize("rows", [{}, {0: 0}])
def test_without_use_nothing_is_packed(rows: dict[int, int]) -> None:
    found = set_of(70, packed=[])
    found.observe(NS_PER_S, rows)
    assert found.next_to_pack(NS_PER_S, ()) is None
