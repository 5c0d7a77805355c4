"""Requests on which workers die: found, given up, and nobody else with them."""

from collections.abc import Set as AbstractSet
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable
from superserve.request import Outcome, Reason, Request
from superserve.scheduling import Action, Finish, Launch, Scheduler, create_policy
from superserve.scheduling.poison import is_poison, separate
from support.profiles import make_profile

#: Batch 1 takes 1 ms or 4, batch 16 takes 4 ms or 16.
TABLE = LatencyTable(make_profile([[1, 2, 4], [4, 8, 16]], (1, 4, 16)))


def request_of(number: int, slo_ms: float = 10_000.0, rows: int = 1) -> Request:
    return Request(number, 0, round(slo_ms * NS_PER_MS), rows)


class Cluster:
    """Workers that die a millisecond after they got a poisonous request, and are back ten later; all in one place."""

    def __init__(
        self, workers: int, poisonous: AbstractSet[int], action: Any = "reject", policy: str = "drainfit"
    ) -> None:
        self.scheduler = Scheduler(create_policy(policy, TABLE, action), overhead_ns=0)
        self.poisonous = poisonous
        self.victims: dict[int, int] = dict.fromkeys(poisonous, 0)
        self.ends: dict[int, Finish] = {}
        self.now_ns = 0
        self.due: list[tuple[int, int, int, Launch | None]] = []
        self.seq = 0
        for worker in range(workers):
            self.apply(self.scheduler.on_worker_ready(0, worker))

    def apply(self, actions: Any) -> None:
        action: Action
        for action in actions:
            if isinstance(action, Finish):
                assert action.request.id not in self.ends
                self.ends[action.request.id] = action
                continue
            dies = any(request.id in self.poisonous for request in action.requests)
            taken_ns = NS_PER_MS if dies else TABLE.latency_ns[action.subnet][action.rows]
            self.at(taken_ns, action.worker, action)

    def at(self, delay_ns: int, worker: int, launch: Launch | None) -> None:
        self.seq += 1
        self.due.append((self.now_ns + delay_ns, self.seq, worker, launch))

    def run(self) -> None:
        while self.due:
            event = min(self.due)
            self.due.remove(event)
            while (timer_ns := self.scheduler.next_timer()) is not None and timer_ns <= event[0]:
                self.now_ns = max(self.now_ns, timer_ns)
                self.apply(self.scheduler.on_timer(self.now_ns))
            self.now_ns, _, worker, launch = event
            self.happen(worker, launch)

    def happen(self, worker: int, launch: Launch | None) -> None:
        scheduler, now_ns = self.scheduler, self.now_ns
        if launch is None:
            self.apply(scheduler.on_worker_ready(now_ns, worker))
            return
        culprits = [request.id for request in launch.requests if request.id in self.poisonous]
        if culprits:
            for culprit in culprits:
                self.victims[culprit] += 1
            self.apply(scheduler.on_worker_lost(now_ns, worker))
            self.at(10 * NS_PER_MS, worker, None)
        else:
            self.apply(scheduler.on_batch_done(now_ns, worker, TABLE.latency_ns[launch.subnet][launch.rows]))


@given(
    workers=st.integers(1, 3),
    rows=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    marks=st.sets(st.integers(0, 39), max_size=4),
    action=st.sampled_from(["reject", "delay"]),
    policy=st.sampled_from(["drainfit", "slackfit", "maxbatch", "fixed:largest"]),
)
def test_the_culprits_end_after_two_victims_and_everybody_else_is_answered(
    workers: int, rows: list[int], marks: set[int], action: Any, policy: str
) -> None:
    cluster = Cluster(workers, poisonous := {mark for mark in marks if mark < len(rows)}, action, policy)
    for number, count in enumerate(rows):
        cluster.apply(cluster.scheduler.on_arrival(0, request_of(number, rows=count)))
    cluster.run()
    assert len(cluster.ends) == len(rows)
    for number, end in cluster.ends.items():
        expected = (Outcome.FAILED, Reason.POISON) if number in poisonous else (Outcome.SERVED, Reason.ANSWERED)
        assert (end.outcome, end.reason) == expected
    assert set(cluster.victims.values()) <= {2}


def test_a_late_request_is_not_run_for_ever() -> None:
    """Where nothing expires, a request without any slack is tried alone, too, and given up."""
    cluster = Cluster(1, {0}, action="delay")
    for number in range(3):
        cluster.apply(cluster.scheduler.on_arrival(0, request_of(number, slo_ms=0.5)))
    cluster.run()
    assert {number: end.outcome for number, end in cluster.ends.items()} == {
        0: Outcome.FAILED,
        1: Outcome.LATE,
        2: Outcome.LATE,
    }


@pytest.mark.parametrize(("slo_ms", "alone"), [(4.1, True), (3.9, False)])
def test_without_the_time_for_it_they_run_together_again(slo_ms: float, alone: bool) -> None:
    """Four requests of a millisecond each, one after the other."""
    requests = [request_of(number, slo_ms) for number in range(4)]
    for request in requests:
        request.latest_start_ns = request.deadline_ns - NS_PER_MS - 1
    separate(requests, 0, expire=True)
    assert [request.alone for request in requests] == [alone] * 4


def test_one_death_is_nobodys_fault() -> None:
    """Nor is a second one with others in the batch."""
    first, second = request_of(0), request_of(1)
    assert not is_poison([first])
    first.losses = second.losses = 1
    assert is_poison([first])
    assert not is_poison([first, second])
