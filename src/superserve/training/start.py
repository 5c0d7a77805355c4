"""What every training run starts with: weights, groups of parameters, the course of the learning rate."""

from collections.abc import Mapping
from math import cos, pi
from typing import Any, Literal

import torch
from torch import nn

from superserve.processor import has_bfloat16
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.zoo import build_network


def fastest_precision() -> Literal["float32", "bfloat16"]:
    """bfloat16 where the processor multiplies it, else float32: without such instructions it is slower."""
    return "bfloat16" if has_bfloat16() else "float32"


def initial_network(family: str, architecture: Mapping[str, Any], seed: int) -> ElasticNetwork:
    """A network whose weights are a function of the seed.

    Raises:
        ConfigError: for an unknown family or an impossible architecture.
    """
    # Layers initialise themselves from torch's global generator: seed it here and give it back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(family, architecture)


def decaying(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: matrices and filters decay, scales and shifts do not."""
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def one_cycle(step: int, steps: int, *, warm_up: float = 0.1) -> float:
    """Linear warm-up, then cosine annealing to 0: the factor of the learning rate at a step.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017 (cosine); Goyal et al. 2017 (warm-up).

    Args:
        step: from 0.
        steps: in all.
        warm_up: share of the steps that warm up, at least one step.
    """
    rising = max(1, int(steps * warm_up))
    if step < rising:
        return (step + 1) / rising
    return (1 + cos(pi * (step - rising) / max(1, steps - rising))) / 2
