"""The sandwich rule with in-place distillation: one training step of a supernet.

Source: Yu and Huang, "Universally Slimmable Networks", ICCV 2019 (sandwich rule, in-place distillation); Yu et al.,
"BigNAS", ECCV 2020 (the same over depths and widths at once).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.network import ElasticNetwork

Inputs = Tensor | tuple[Tensor, ...]
"""What a network takes: its one input, or all of them in order."""


def students(space: SearchSpace, rng: np.random.Generator, count: int) -> Iterator[SubnetSpec]:
    """The subnets that learn from the largest in one step: the smallest, and ``count`` drawn at random.

    The largest itself is none of them: what it says it says already, so that its gradient is zero.
    """
    for spec in (space.smallest(), *(space.sample(rng) for _ in range(count))):
        if spec != space.largest():
            yield spec


def accumulate_gradients(
    network: ElasticNetwork,
    x: Inputs,
    labels: Tensor,
    *,
    rng: np.random.Generator,
    random_subnets: int = 2,
    label_smoothing: float = 0.0,
    precision: torch.dtype = torch.float32,
) -> float:
    """Add the gradients of one sandwich step to the parameters.

    The largest subnet learns the labels; the smallest and some random ones learn the largest's class probabilities,
    detached. Gradients are summed over subnets. Every subnet normalises with the statistics of the batch.

    Args:
        network: the supernet; left actuated to the last subnet drawn, without statistics.
        x: network inputs, the rows first; images are float32.
        labels: (rows,) int64.
        rng: draws the random subnets.
        random_subnets: how many.
        label_smoothing: for the largest's labels.
        precision: float32, or bfloat16 to let torch's autocast choose it where it is accurate enough.

    Returns:
        The largest subnet's loss.
    """
    with _plain_attention(labels.device):
        logits = _forward(network, network.space.largest(), x, precision)
        loss = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        _backward(loss)
        soft = logits.detach().softmax(dim=1)
        for spec in students(network.space, rng, random_subnets):
            _backward(functional.cross_entropy(_forward(network, spec, x, precision), soft))
        return float(loss.detach())


def _plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Attention in single steps on CPUs: torch's fused one takes twice as long to train on short texts there.

    188 ms against 95 per step of 64 texts of CLINC150 and Banking77 with the bundled network in bfloat16, one thread.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def run(network: ElasticNetwork, x: Inputs) -> Tensor:
    """The active subnet's logits."""
    logits: Tensor = network(*x) if isinstance(x, tuple) else network(x)
    return logits


def _forward(network: ElasticNetwork, spec: SubnetSpec, x: Inputs, precision: torch.dtype) -> Tensor:
    apply(bind(network, spec, None))
    device = next(network.parameters()).device.type
    with torch.autocast(device, precision, enabled=precision != torch.float32):
        return run(network, x).float()


def _backward(loss: Tensor) -> None:
    torch.autograd.backward(loss)
