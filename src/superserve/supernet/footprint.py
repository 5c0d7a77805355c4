"""What SubNetAct saves and costs: memory against separate models, and the time of an actuation.

Measured on OFA-ResNet50 (Cai et al., ICLR 2020), the family of the paper's convolutional supernet, with random weights:
neither figure depends on what the weights are.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from superserve.clock import NS_PER_US, monotonic_ns
from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import Actuator
from superserve.supernet.extract import extract
from superserve.supernet.operators import NormStatistics, Statistics
from superserve.supernet.zoo.ofa_resnet50 import OfaResNet50, OfaResNet50Config

#: As many as the paper's figure compares with.
SUBNETS: Final = 6
_ACTUATIONS: Final = 3000
_WARM_UP: Final = 100

_Option = TypeVar("_Option", int, float)


@dataclass(frozen=True)
class Footprint:
    """Bytes and microseconds.

    ``supernet_bytes``: the one copy of the weights. ``statistics_bytes``: SubnetNorm statistics of all subnets.
    ``models_bytes``: of each subnet as a model of its own, smallest first. ``actuation_us``: p50 and p99 of switching
    to another of them.
    """

    supernet_bytes: int
    statistics_bytes: int
    models_bytes: tuple[int, ...]
    actuation_us: tuple[float, float]

    @property
    def saving(self) -> float:
        """Bytes of the separate models over those of the supernet with its statistics."""
        return sum(self.models_bytes) / (self.supernet_bytes + self.statistics_bytes)


def measure_footprint(seed: int = 0) -> Footprint:
    """Measure with `SUBNETS` subnets whose depths and widths are spread evenly from the smallest to the largest."""
    network = OfaResNet50(OfaResNet50Config()).requires_grad_(requires_grad=False).eval()
    specs = [_spread(network, number / (SUBNETS - 1)) for number in range(SUBNETS)]
    statistics = [_statistics(network, spec) for spec in specs]
    with torch.device("meta"):
        shapes = OfaResNet50(OfaResNet50Config())
        models = [extract(shapes, spec, found) for spec, found in zip(specs, statistics, strict=True)]
    return Footprint(
        supernet_bytes=_bytes(network),
        statistics_bytes=sum(one.nbytes for found in statistics for one in found.values()),
        models_bytes=tuple(_bytes(model) for model in models),
        actuation_us=_time(Actuator(network, dict(enumerate(zip(specs, statistics, strict=True)))), seed),
    )


def _spread(network: OfaResNet50, share: float) -> SubnetSpec:
    """The subnet ``share`` of the way from the smallest to the largest; its dimensions go up one after another."""

    def pick(options: tuple[_Option, ...], number: int) -> _Option:
        ahead = (number % 4 - 1.5) / 4
        return options[min(len(options) - 1, max(0, round(share * (len(options) - 1) + ahead)))]

    space = network.space
    depths = tuple(pick(stage.depths, number) for number, stage in enumerate(space.stages))
    ratios = {width.name: pick(width.ratios, number) for number, width in enumerate(space.widths)}
    return space.spec(depths, ratios)


def _statistics(network: OfaResNet50, spec: SubnetSpec) -> Statistics:
    channels = network.geometry(spec).channels
    return {name: NormStatistics(torch.zeros(count), torch.ones(count)) for name, count in channels.items()}


def _bytes(module: nn.Module) -> int:
    tensors: dict[str, Tensor] = module.state_dict()
    return sum(tensor.nbytes for tensor in tensors.values())


def _time(actuator: Actuator, seed: int) -> tuple[float, float]:
    drawn = np.random.default_rng(seed).integers(1, SUBNETS, _WARM_UP + _ACTUATIONS)
    taken, subnet = [], 0
    for step in drawn.tolist():
        subnet = (subnet + step) % SUBNETS  # never the one that is active already
        start_ns = monotonic_ns()
        actuator.actuate(subnet)
        taken.append(monotonic_ns() - start_ns)
    median, high = np.quantile(np.array(taken[_WARM_UP:]) / NS_PER_US, [0.5, 0.99])
    return float(median), float(high)
