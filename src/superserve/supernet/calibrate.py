"""Calibration: the SubnetNorm statistics of a subnet, from training data."""

from collections.abc import Iterable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import NormStatistics, Statistics, batch_statistics


class _Average:
    """Row-weighted average of batch statistics."""

    def __init__(self) -> None:
        self._rows = 0
        self._dtype = torch.float32
        self._mean: Tensor | float = 0.0
        self._variance: Tensor | float = 0.0

    def __call__(self, _module: nn.Module, arguments: tuple[Tensor]) -> None:
        """Add the input of a layer: a forward pre-hook."""
        (x,) = arguments
        mean, variance = batch_statistics(x)
        self._mean = self._mean + mean.double() * len(x)
        self._variance = self._variance + variance.double() * len(x)
        self._rows += len(x)
        self._dtype = torch.promote_types(x.dtype, torch.float32)

    def result(self) -> NormStatistics:
        """The average so far, float32 (float64 for a network in float64)."""
        assert isinstance(self._mean, Tensor)
        assert isinstance(self._variance, Tensor)
        return NormStatistics((self._mean / self._rows).to(self._dtype), (self._variance / self._rows).to(self._dtype))


def calibrate(network: ElasticNetwork, spec: SubnetSpec, batches: Iterable[Tensor | tuple[Tensor, ...]]) -> Statistics:
    """Compute a subnet's statistics by forward passes over training data.

    OFA's recipe (``set_running_statistics``): every layer normalises with the statistics of the batch at hand; per
    channel, batch means and biased batch variances are averaged over batches, weighted by rows. That is the mean of
    the batch variances, not the variance of the pooled data. OFA uses 2,000 images in batches of 200. Leaves the
    network actuated without statistics; changes no parameter. A subnet without SubnetNorm has none: no forward is run.

    Args:
        network: the weight-shared network.
        spec: the subnet.
        batches: network inputs, float32, preprocessed as for serving, for example images (rows, channels, height,
            width), or tuples of a network's several inputs; at least one batch.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    averages = {name: _Average() for name in network.geometry(spec).channels}
    if not averages:
        return {}
    with torch.no_grad(), ExitStack() as hooks:
        apply(bind(network, spec, None))
        for name, average in averages.items():
            handle = network.get_submodule(name).register_forward_pre_hook(average)
            hooks.callback(handle.remove)
        for batch in batches:
            network(*batch if isinstance(batch, tuple) else (batch,))
        return {name: average.result() for name, average in averages.items()}
