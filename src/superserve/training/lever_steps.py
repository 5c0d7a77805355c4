"""Subnets one step away from a front, along the dimensions that pay there.

A dimension that saves much time per point that it loses is where to step down, and one that gains many points for its
time is where to step up: on a front of the best subnets all dimensions would have the same price. Prices differ between
the cheap and the dear end of a front (a small subnet spends its time on launching, whatever its widths), so they are
taken from what was measured near by.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from superserve.subnet import SearchSpace, SubnetSpec
from superserve.training.front import Candidate, pareto
from superserve.training.space import choice_of, dimensions, subnet

Values = npt.NDArray[np.float64]

#: How near is near: candidates count by a normal curve of this width in the logarithm of the cost. A front spans two to
#: three of them on each side of its middle.
_WIDTH: Final = 0.5
#: Of the ridge regression, in steps from the least to the largest value: what few candidates say is not believed.
_RIDGE: Final = 0.3
#: Nothing is taken to cost, or to gain, less than this: the logarithm of a cost, or points.
_LEAST: Final = 1e-3
#: Of the drawn order of dimensions so many are tried, and so many subnets of the front.
_DIMENSIONS: Final = 3
_STARTS: Final = 8


class Prices(NamedTuple):
    """What one step of each dimension does, in the order of `superserve.training.space.dimensions`; positive."""

    cost: Values
    """Logarithm of the cost, by which a step up raises it."""
    points: Values
    """Points of accuracy that a step up gains."""


def prices(space: SearchSpace, found: Sequence[Candidate], cost: float) -> Prices:
    """The prices near a cost, by weighted ridge regression of what was measured."""
    last = _last(space)
    places = np.array([choice_of(space, one.spec) for one in found]) / np.maximum(1, last)
    costs = np.log([one.cost for one in found])
    weights = np.exp(-0.5 * ((costs - np.log(cost)) / _WIDTH) ** 2)
    centred = _centred(places, weights)
    matrix = centred.T @ (weights[:, None] * centred) + _RIDGE * np.eye(len(last))

    def per_step(values: Values) -> Values:
        slopes = np.linalg.solve(matrix, centred.T @ (weights * _centred(values, weights)))
        raised: Values = np.maximum(_LEAST, slopes / np.maximum(1, last))
        return raised

    return Prices(per_step(costs), per_step(np.array([one.accuracy for one in found])))


class LeverSteps:
    """Proposes what to measure next.

    A subnet of the front is drawn, and whether to step up or down. Dimensions are then drawn in an order in which those
    that pay come early: the chances of the first are as one over their ranks by price.

    Args:
        space: the search space.
        rng: draws.
    """

    def __init__(self, space: SearchSpace, rng: np.random.Generator) -> None:
        self._space = space
        self._rng = rng
        self._last = _last(space)

    def propose(self, found: Mapping[SubnetSpec, Candidate]) -> SubnetSpec | None:
        """A subnet that was not measured; None if none comes to mind."""
        candidates = tuple(found.values())
        front = pareto(candidates)
        for _ in range(_STARTS):
            start = front[int(self._rng.integers(len(front)))]
            for neighbour in self._neighbours(start, candidates):
                if neighbour not in found:
                    return neighbour
        return None

    def _neighbours(self, start: Candidate, found: Sequence[Candidate]) -> Iterator[SubnetSpec]:
        choice = np.array(choice_of(self._space, start.spec))
        step = int(self._rng.choice([-1, 1]))
        free = np.flatnonzero((choice + step >= 0) & (choice + step <= self._last))
        if not len(free):
            return
        price = prices(self._space, found, start.cost)
        gain = (price.points / price.cost)[free] * step
        chances = 1 / (1 + np.argsort(np.argsort(-gain)))
        for dimension in self._rng.choice(free, len(free), replace=False, p=chances / chances.sum())[:_DIMENSIONS]:
            stepped = choice.copy()
            stepped[dimension] += step
            yield subnet(self._space, stepped.tolist())


def _last(space: SearchSpace) -> npt.NDArray[np.int64]:
    """The largest choice of each dimension."""
    return np.array([values - 1 for values in dimensions(space).values()])


def _centred(values: npt.NDArray[Any], weights: Values) -> Values:
    centred: Values = values - np.average(values, axis=0, weights=weights)
    return centred
