from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from superserve.supernet.engine import EagerEngine
from superserve.supernet.single_thread import single_thread
from superserve.training.front import (
    Candidate,
    latency_ms,
    pareto,
    spread,
)
from support.supernets import small_network, small_supernet

SPEC = small_network().space.smallest()


def candidates(*points: tuple[float, float]) -> list[Candidate]:
    return [Candidate(SPEC, accuracy, cost) for accuracy, cost in points]


points = st.lists(st.builds(Candidate, st.just(SPEC), st.integers(80, 90), st.integers(1, 10)), min_size=1)


@given(points)
def test_pareto_holds_exactly_what_nothing_beats(found: list[Candidate]) -> None:
    front = pareto(found)
    for one in found:
        beaten = any(
            other.accuracy >= one.accuracy
            and other.cost <= one.cost
            and (other.accuracy, other.cost) != (one.accuracy, one.cost)
            for other in found
        )
        assert ((one.accuracy, one.cost) in [(c.accuracy, c.cost) for c in front]) is not beaten


@given(points)
def test_pareto_rises_strictly(found: list[Candidate]) -> None:
    front = pareto(found)
    for less, more in pairwise(front):
        assert less.accuracy < more.accuracy
        assert less.cost < more.cost


def test_spread_keeps_the_ends_and_an_even_spacing() -> None:
    front = candidates((80, 1), (81, 1.5), (82, 2), (83, 5.2), (84, 5.5), (85, 9))
    assert [c.cost for c in spread(front, 3)] == [1, 5.2, 9]
    assert [c.cost for c in spread(front, 5)] == [1, 2, 5.2, 5.5, 9]  # not nearest to one target at a time
    assert spread(front, 6) == front
    assert spread(front, 9) == front


def test_latency_is_positive_and_on_one_thread() -> None:
    supernet = small_supernet()
    seen: list[int] = []
    supernet.network.register_forward_pre_hook(lambda _module, _inputs: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    assert latency_ms(supernet.config.inputs[0].longest(2), repeats=2)(EagerEngine(supernet), 0) > 0
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == before


def test_threads_are_given_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), single_thread():
        raise KeyError
    assert torch.get_num_threads() == before
