"""On a landscape whose prices are known: every second dimension costs as much as the others and gains a third."""

import numpy as np
import pytest

from superserve.subnet import SearchSpace, SubnetSpec
from superserve.training.front import Candidate, pareto
from superserve.training.lever_steps import LeverSteps, prices
from superserve.training.space import choice_of, dimensions, subnet
from support.supernets import small_network

SPACE = small_network().space
NAMES = list(dimensions(SPACE))
#: Of a block that every subnet runs, and of no block: they always matter.
PLAIN = [NAMES.index(name) for name in ("depth0", "depth1", "stem", "stage0", "stage0.block0", "stage1")]


def measured(spec: SubnetSpec) -> Candidate:
    choice = choice_of(SPACE, spec)
    useful = sum(value if number % 2 == 0 else value / 3 for number, value in enumerate(choice))
    return Candidate(spec, 70 + useful, float(np.exp(0.1 * sum(choice))))


def sampled(count: int, space: SearchSpace = SPACE) -> dict[SubnetSpec, Candidate]:
    rng = np.random.default_rng(0)
    specs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]
    return {spec: measured(spec) for spec in specs}


def test_prices_are_those_of_the_landscape() -> None:
    """A ridge makes them a little smaller; what matters is that cheap and dear are told apart."""
    found = prices(SPACE, list(sampled(300).values()), cost=3.0)
    ratio = found.points / found.cost
    for dimension in PLAIN:
        assert found.cost[dimension] == pytest.approx(0.1, rel=0.15)
        assert ratio[dimension] == pytest.approx(10 if dimension % 2 == 0 else 10 / 3, rel=0.15)


def test_prices_are_those_near_the_cost_that_is_asked_for() -> None:
    """A dimension that gains much among small subnets and nothing among large ones."""
    stem = NAMES.index("stem")
    samples = []
    for candidate in sampled(400).values():
        step = choice_of(SPACE, candidate.spec)[stem]
        samples.append(candidate._replace(accuracy=candidate.accuracy + (5 * step if candidate.cost < 2.2 else 0)))
    near, far = (prices(SPACE, samples, cost).points[stem] for cost in (1.5, 6.0))
    assert near > 2 * far


def test_few_candidates_give_no_price_that_is_not_positive() -> None:
    for count in (0, 1, 5):
        for values in prices(SPACE, list(sampled(count).values()), cost=2.0):
            assert (values > 0).all()
            assert np.isfinite(values).all()


def test_a_step_is_a_neighbour_of_the_front_that_was_not_measured() -> None:
    found = sampled(40)
    steps = LeverSteps(SPACE, np.random.default_rng(1))
    starts = [choice_of(SPACE, one.spec) for one in pareto(found.values())]
    for _ in range(20):
        proposed = steps.propose(found)
        assert proposed is not None
        assert proposed not in found
        assert any(
            subnet(SPACE, [value + step * (at == number) for at, value in enumerate(start)]) == proposed
            for start in starts
            for number in range(len(NAMES))
            for step in (-1, 1)
            if 0 <= start[number] + step < list(dimensions(SPACE).values())[number]
        )


def test_what_pays_comes_first() -> None:
    """Steps up go along dimensions that gain more, steps down along those that lose less."""
    found = tuple(sampled(300).values())
    middle = [(values - 1) // 2 for values in dimensions(SPACE).values()]
    middle[: len(SPACE.stages)] = [1, 1]  # two blocks of three, four of four
    start = measured(subnet(SPACE, middle))
    steps = LeverSteps(SPACE, np.random.default_rng(2))
    taken = dict.fromkeys([(0, 1), (0, -1), (1, 1), (1, -1)], 0)
    for _ in range(300):
        first = next(steps._neighbours(start, found))
        difference = np.array(choice_of(SPACE, first)) - np.array(choice_of(SPACE, start.spec))
        for number in PLAIN:
            if difference[number]:
                taken[number % 2, int(difference[number])] += 1
    assert taken[0, 1] > 1.5 * taken[1, 1] > 0
    assert taken[1, -1] > 1.5 * taken[0, -1] > 0


def test_where_everything_is_measured_there_is_no_step() -> None:
    small = SearchSpace(SPACE.stages[:1], ())
    specs = [small.spec((depth,), {}) for depth in SPACE.stages[0].depths]
    found = {spec: Candidate(spec, 70.0 + number, 1.0 + number) for number, spec in enumerate(specs)}
    assert LeverSteps(small, np.random.default_rng(0)).propose(found) is None
