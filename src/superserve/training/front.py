"""From a trained supernet to the Pareto front that a model folder serves."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from superserve.clock import NS_PER_MS, process_cpu_ns
from superserve.engine import Engine
from superserve.model_folder import TensorSpec
from superserve.subnet import SubnetSpec
from superserve.supernet.single_thread import single_thread

Cost = Callable[[Engine, int], float]
"""What a subnet of an engine costs: a latency, or anything that ranks like one."""


class Candidate(NamedTuple):
    """A measured subnet."""

    spec: SubnetSpec
    accuracy: float
    """Top-1 on validation data, in per cent."""
    cost: float
    """Rises with latency."""


def pareto(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates that no other beats in both accuracy and cost: both rise strictly along the result."""
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.cost, -c.accuracy)):
        if not front or candidate.accuracy > front[-1].accuracy:
            front.append(candidate)
    return front


def spread(front: Sequence[Candidate], count: int) -> list[Candidate]:
    """At most ``count`` points of a front: its ends, and in between those closest to an even spacing in cost.

    Closest by the sum of squared distances, over all choices: fronts of uniform subnets are short.
    """
    if len(front) <= count:
        return list(front)
    targets = np.linspace(front[0].cost, front[-1].cost, count)[1:-1]
    between = combinations(front[1:-1], count - 2)

    def distance(choice: tuple[Candidate, ...]) -> float:
        return float(sum((one.cost - target) ** 2 for one, target in zip(choice, targets, strict=True)))

    return [front[0], *min(between, key=distance), front[-1]]


def batch_latency_ms(tensor: TensorSpec, *, rows: int = 16) -> Cost:
    """A cost: the latency of one batch of the longest rows on one core to itself, in ms."""
    return latency_ms(tensor.longest(rows))


def latency_ms(batch: np.ndarray[Any, Any], *, repeats: int = 7) -> Cost:
    """A cost: the latency of a batch (rows, *row_shape) on one core to itself, in ms.

    Measured as the least processor time of some runs on one thread: what else the machine does can only add to it,
    and waiting for a core is not counted.
    """

    def cost(engine: Engine, subnet: int) -> float:
        with single_thread():
            engine.run(subnet, [batch])
            return min(_cpu_ns(engine, subnet, [batch]) for _ in range(repeats)) / NS_PER_MS

    return cost


def _cpu_ns(engine: Engine, subnet: int, batch: list[np.ndarray[Any, Any]]) -> int:
    start = process_cpu_ns()
    engine.run(subnet, batch)
    return process_cpu_ns() - start
