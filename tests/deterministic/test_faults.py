"""One fault a life: what the server does about it. ``tests/mutants`` takes each of these away, and the test must fail.

Whatever else is watched for in every life holds in these, too.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from deterministic.asks import Ask
from deterministic.client import Leaving, Sending, Visit
from deterministic.model import POISON
from deterministic.plan import Event, Fault, Plan
from deterministic.scenery import Scenery
from deterministic.trouble import StartTrouble, Trouble
from deterministic.world import Life, World
from superserve.clock import NS_PER_MS, NS_PER_S

Live = Callable[..., Life]

#: Once the clients of a test begin; faults of time 0 are there then.
_BEGIN_NS = NS_PER_MS


@pytest.fixture
def live(scenery: Scenery) -> Live:
    """Lives a life in which nothing happens by chance."""

    def lived(visits: Sequence[Visit], *faults: Fault, span_ns: int = NS_PER_S, **plan: Any) -> Life:
        world = World(Plan(visits=visits, faults=faults, span_ns=span_ns, **plan), np.random.default_rng(0), scenery)
        life = world.live()
        assert not life.broken, "\n".join((*life.log, *life.broken))
        return life

    return lived


def one(ask: Ask, at_ms: float = 0.0, leaving: Leaving | None = None) -> Visit:
    """A client that asks once, so many milliseconds after the others begin."""
    at_ns = _BEGIN_NS + round(at_ms * NS_PER_MS)
    return Visit(at_ns=at_ns, delay_ns=0, sendings=[Sending(at_ns, ask)], leaving=leaving)


def _one_by_one(asks: Sequence[Ask]) -> list[Visit]:
    """Clients that ask a millisecond after each other."""
    return [one(ask, at_ms=1.0 + number) for number, ask in enumerate(asks)]


def half(ask: Ask, at_ms: float = 0.0) -> Visit:
    """A client that sends most of a request, and never the rest."""
    at_ns = _BEGIN_NS + round(at_ms * NS_PER_MS)
    return Visit(at_ns=at_ns, delay_ns=0, sendings=[Sending(at_ns, ask, 0.0, 0.9)])


def trouble(what: Trouble, worker: int = 0) -> Fault:
    """It happens to the worker's first batch."""
    return Fault(0, Event.TROUBLE, worker, trouble=what)


def start_trouble(*what: StartTrouble) -> list[Fault]:
    """Worker 0 dies, and this happens to its next processes."""
    return [Fault(0, Event.START_TROUBLE, 0, start_trouble=each) for each in what]


@pytest.mark.parametrize("what", [Trouble.DIES_BEFORE, Trouble.DIES_AT_ONCE])
def test_the_batch_of_a_lost_worker_runs_on_another(live: Live, what: Trouble) -> None:
    """Under its old deadline, and is answered once."""
    ask = Ask(tag=1, model="one", timeout_us=200_000)
    live([one(ask)], trouble(what), workers=2)
    assert (ask.status, ask.launches, ask.losses) == (200, 2, 1)


def test_what_was_answered_before_its_worker_died_stays_answered(live: Live) -> None:
    ask = Ask(tag=1, model="one", timeout_us=200_000)
    live([one(ask)], trouble(Trouble.DIES_AFTER), workers=2)
    assert (ask.status, ask.launches) == (200, 1)


def test_a_worker_that_hangs_is_found(live: Live) -> None:
    """And its batch runs on what comes in its place."""
    ask = Ask(tag=1, model="one", timeout_us=3_000_000)
    live([one(ask)], trouble(Trouble.HANGS), workers=1, span_ns=4 * NS_PER_S)
    assert (ask.status, ask.losses) == (200, 1)


def test_both_batches_of_a_worker_that_hangs_are_run_again(live: Live) -> None:
    """The second one was given to it when the first one should have ended soon."""
    asks = [Ask(tag=tag, model="one", rows=8, timeout_us=3_500_000) for tag in (1, 2)]
    live(_one_by_one(asks), trouble(Trouble.HANGS), workers=1, overlapping=True, span_ns=4 * NS_PER_S)
    assert [(ask.status, ask.launches, ask.losses) for ask in asks] == [(200, 2, 1)] * 2


def test_a_machine_that_slept_kills_nobody(live: Live) -> None:
    """Its workers have slept, too: time is counted in looks at them."""
    ask = Ask(tag=1, model="one", timeout_us=3_000_000)
    asleep = Fault(5 * NS_PER_MS, Event.STALL, amount=0.99)
    live([one(ask)], *(asleep for _ in range(5)), workers=1)
    assert (ask.status, ask.losses) == (200, 0)


@pytest.mark.parametrize("what", [Trouble.NONSENSE, Trouble.WRONG_SEQ, Trouble.WRONG_KIND])
def test_a_worker_that_answers_garbage_is_ended(live: Live, what: Trouble) -> None:
    """At once: nobody waits until it counts as hanging."""
    ask = Ask(tag=1, model="one", timeout_us=300_000)
    live([one(ask)], trouble(what), workers=2)
    assert (ask.status, ask.losses) == (200, 1)


def test_an_input_that_kills_is_given_up_after_its_second_victim(live: Live) -> None:
    """Its batch-mates are answered."""
    busy = [Ask(tag=tag, model="one", rows=8, timeout_us=400_000) for tag in (1, 2)]
    poison = Ask(tag=3 | POISON, model="one", timeout_us=900_000)
    others = [Ask(tag=tag, model="one", timeout_us=900_000) for tag in (4, 5)]
    life = live([*map(one, busy), *_one_by_one((poison, *others))], workers=2, policy="maxbatch")
    assert f"[{poison.tag}, 4, 5]" in life.text(), "they were batch-mates"
    assert (poison.status, poison.losses) == (500, 2)
    assert [ask.status for ask in others] == [200, 200]


def test_a_batch_that_raises_fails_alone(live: Live) -> None:
    """The worker lives, and runs the next one."""
    failing, next_one = (Ask(tag=tag, model="one") for tag in (1, 2))
    live([one(failing), one(next_one, at_ms=40.0)], trouble(Trouble.RAISES), workers=1)
    assert (failing.status, failing.losses, next_one.status) == (500, 0, 200)


def test_a_worker_that_does_not_start_is_tried_less_and_less_often(live: Live) -> None:
    life = live([], *start_trouble(*[StartTrouble.DIES] * 9), workers=1, span_ns=3 * NS_PER_S)
    begun = [int(at_ns) for at_ns in re.findall(r"^(\d+) process \d+ of worker 0 begins", life.text(), re.MULTILINE)]
    gaps = np.diff([at_ns for at_ns in begun if life.start_ns < at_ns < life.start_ns + 3 * NS_PER_S])
    assert len(gaps) >= 3
    assert all(later > 1.5 * earlier for earlier, later in pairwise(gaps))


@pytest.mark.parametrize("what", [StartTrouble.REFUSED, StartTrouble.SAYS_WHY, StartTrouble.HANGS])
def test_a_worker_that_could_not_start_is_started_again(live: Live, what: StartTrouble) -> None:
    """Whether the machine refuses, it says so itself, or it never gets ready."""
    ask = Ask(tag=1, model="one")
    live([one(ask, at_ms=3_000.0)], *start_trouble(what), workers=1)
    assert ask.status == 200


def test_without_a_worker_requests_are_refused(live: Live) -> None:
    """And told when to come again; then there is one."""
    early, late = (Ask(tag=tag, model="one") for tag in (1, 2))
    live([one(early), one(late, at_ms=1_000.0)], Fault(0, Event.KILL), workers=1)
    assert (early.status, early.outcome, late.status) == (503, "rejected", 200)


def test_what_cannot_be_in_time_is_refused_when_it_comes(live: Live) -> None:
    """The fastest subnet takes 2 ms."""
    ask = Ask(tag=1, model="one", timeout_us=2_000)
    live([one(ask)], workers=1)
    assert (ask.status, ask.outcome, ask.answered_ns) == (504, "rejected", ask.arrival_ns)


def test_what_waits_in_vain_is_answered_when_that_is_certain(live: Live) -> None:
    """Before its deadline, though the worker that it waits for hangs."""
    hanging = Ask(tag=1, model="one", timeout_us=100_000)
    waiting = Ask(tag=2, model="one", timeout_us=100_000)
    live([one(hanging), one(waiting, at_ms=1.0)], trouble(Trouble.HANGS), workers=1)
    assert (waiting.status, waiting.outcome, waiting.launches) == (504, "expired", 0)
    assert waiting.answered_ns <= waiting.deadline_ns


@pytest.mark.parametrize("reset", [False, True])
def test_what_a_client_has_left_behind_is_not_run(live: Live, reset: bool) -> None:
    busy, left = Ask(tag=1, model="one", rows=8), Ask(tag=2, model="one", timeout_us=400_000)
    leaving = Leaving(at_ns=_BEGIN_NS + 3 * NS_PER_MS, reset=reset)
    live([one(busy), one(left, at_ms=1.0, leaving=leaving)], workers=1)
    assert (busy.status, left.gone_ns is None, left.launches) == (200, False, 0)


def test_the_most_urgent_request_runs_first(live: Live) -> None:
    """Each of eight rows, so that each is a batch."""
    busy = Ask(tag=1, model="one", rows=8)
    asks = [Ask(tag=tag, model="one", rows=8, timeout_us=timeout) for tag, timeout in ((2, 400_000), (3, 200_000))]
    live([one(busy), *_one_by_one(asks)], workers=1)
    assert 0 < asks[1].done_ns < asks[0].done_ns


def test_the_most_urgent_request_of_all_models_runs_first(live: Live) -> None:
    """Whichever model's turn it would be."""
    busy = Ask(tag=1, model="one", rows=8)
    asks = [
        Ask(tag=tag, model=model, rows=8, timeout_us=timeout)
        for tag, model, timeout in ((2, "one", 400_000), (3, "two", 200_000), (4, "one", 300_000), (5, "two", 500_000))
    ]
    live([one(busy), *_one_by_one(asks)], workers=1, models=2)
    assert [ask.tag for ask in sorted(asks, key=lambda ask: ask.done_ns)] == [3, 4, 2, 5]


def test_no_more_than_so_many_requests_wait(live: Live) -> None:
    """One more is told when to come again."""
    asks = [Ask(tag=tag, model="one", rows=8, timeout_us=900_000) for tag in range(1, 8)]
    live([one(ask) for ask in asks], workers=1, max_queued=3)
    assert sorted(ask.status for ask in asks) == [200] * 4 + [429] * 3


def test_a_body_is_no_larger_than_it_may_be(live: Live) -> None:
    ask = Ask(tag=1, model="one", padding=20_000)
    live([one(ask)])
    assert ask.status == 413


def test_all_bodies_together_are_no_larger_than_they_may_be(live: Live) -> None:
    """Not even if their ends never come; those that have room are told so when their time is over."""
    asks = [Ask(tag=tag, model="one", padding=6_000) for tag in (1, 2, 3, 4)]
    live([half(ask, at_ms=float(number)) for number, ask in enumerate(asks)])
    assert [ask.status for ask in asks] == [408, 408, 503, 503]


def test_no_more_than_so_many_clients_are_connected(live: Live) -> None:
    life = live([], Fault(0, Event.FLOOD, amount=1.0))
    assert life.text().count("503 for nothing") == 10


def test_a_client_that_does_not_read_is_cut_off(live: Live) -> None:
    """What it would have been answered is not kept for it."""
    asks = [Ask(tag=tag, model="one", timeout_us=400_000) for tag in range(1, 31)]
    sendings = [Sending(_BEGIN_NS + number * NS_PER_MS, ask) for number, ask in enumerate(asks)]
    live(
        [Visit(at_ns=_BEGIN_NS, delay_ns=0, sendings=sendings, blind=(2 * NS_PER_MS, 2 * NS_PER_S))],
        span_ns=3 * NS_PER_S,
    )
    assert asks[0].status == 200
    assert asks[-1].gone_ns is not None
    assert asks[-1].gone_ns < _BEGIN_NS + NS_PER_S + (asks[0].arrival_ns or 0)


def test_what_was_admitted_is_answered_before_the_end(live: Live) -> None:
    """What comes behind it is refused."""
    life = live([one(Ask(tag=1, model="one"))], workers=1)
    last = [ask for ask in life.asks.values() if ask.tag > 1_999_999 and ask.arrival_ns is not None]
    before = [ask.status for ask in last if (ask.arrival_ns or 0) < life.stop_ns]
    assert before
    assert set(before) == {200}
    assert {ask.status for ask in last} == {200, 503}


def test_a_model_comes_and_goes_while_others_are_served(live: Live) -> None:
    """The others hear nothing of it."""
    others = [Ask(tag=tag, model="one") for tag in range(1, 41)]
    theirs = [Ask(tag=tag, model="three") for tag in (101, 102, 103)]
    visits = [one(ask, at_ms=20.0 * number) for number, ask in enumerate(others)]
    visits += [one(ask, at_ms=at_ms) for ask, at_ms in zip(theirs, (0.0, 300.0, 700.0), strict=True)]
    live(visits, Fault(NS_PER_MS, Event.LOAD), Fault(500 * NS_PER_MS, Event.UNLOAD))
    assert {ask.status for ask in others} == {200}
    assert [ask.status for ask in theirs] == [404, 200, 404]


def test_a_model_leaves_with_a_batch_under_way(live: Live) -> None:
    """Its client has left, so that nobody is to be waited for but the worker."""
    ask = Ask(tag=1, model="three", rows=8, timeout_us=400_000)
    leaving = Leaving(at_ns=_BEGIN_NS + 303 * NS_PER_MS, reset=True)
    unload = Fault(_BEGIN_NS + 304 * NS_PER_MS, Event.UNLOAD)
    life = live([one(ask, at_ms=300.0, leaving=leaving)], Fault(0, Event.LOAD), unload)
    assert (ask.launches, ask.status) == (1, 0)
    assert " unloaded" in life.text()
