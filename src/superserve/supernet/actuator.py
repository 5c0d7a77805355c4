"""Actuation: make a subnet the active one by swapping references that were made ahead."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from superserve.subnet import SubnetSpec
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import (
    KeepSet,
    NormSlice,
    SlicedKernelConv2d,
    Slot,
    Statistics,
    WeightSlice,
)

Binding = tuple[tuple[Slot[Any], Any], ...]
"""For each operator that takes part in a subnet: its slot, and what to put there."""

SmallKernels = dict[tuple[str, int], Tensor]
"""Kernels that were made from larger ones, at full width, by layer name and kernel size."""


def bind(
    network: ElasticNetwork,
    spec: SubnetSpec,
    statistics: Statistics | None,
    small_kernels: SmallKernels | None = None,
) -> Binding:
    """Make every weight view, norm view and keep set of a subnet.

    No weight is copied; kernels below a layer's largest are computed (`SlicedKernelConv2d`). Under autograd the views
    carry gradients to the shared parameters, so a binding for training is good for one backward.

    Args:
        network: the weight-shared network.
        spec: the subnet.
        statistics: its SubnetNorm statistics, or None to normalise with those of each batch.
        small_kernels: computed kernels to use, to which this adds what it had to compute: bindings that share one
            share that memory. None keeps them to this binding.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    modules = dict(network.named_modules())
    keep, slices, channels, kernels = network.geometry(spec)
    small_kernels = {} if small_kernels is None else small_kernels
    binding: list[tuple[Slot[Any], Any]] = []
    for name, blocks in keep.items():
        select = modules[name]
        assert isinstance(select, KeepSet)
        binding.append((select.slot, select.bind(blocks)))
    for name, (outputs, inputs) in slices.items():
        layer = modules[name]
        assert isinstance(layer, WeightSlice)
        if name in kernels:
            assert isinstance(layer, SlicedKernelConv2d)
            weight = _small_kernel(layer, (name, kernels[name]), small_kernels)
            binding.append((layer.slot, layer.bind_kernel(outputs, inputs, weight)))
        else:
            binding.append((layer.slot, layer.bind(outputs, inputs)))
    for name, count in channels.items():
        norm = modules[name]
        assert isinstance(norm, NormSlice)
        binding.append((norm.slot, norm.bind(count, None if statistics is None else statistics[name])))
    return tuple(binding)


def _small_kernel(layer: SlicedKernelConv2d, key: tuple[str, int], known: SmallKernels) -> Tensor:
    if key[1] == layer.kernels[-1]:
        return layer.weight
    if key not in known:
        known[key] = layer.small_kernel(key[1])
    return known[key]


def apply(binding: Binding) -> None:
    """Make the bound subnet the active one."""
    for slot, value in binding:
        slot.value = value


class Actuator:
    """Switches a network between subnets that were bound when it was made.

    Args:
        network: the weight-shared network.
        subnets: each subnet with its statistics, by index.

    Raises:
        IllegalSubnetError: if a subnet lies outside the network's space.
    """

    def __init__(self, network: ElasticNetwork, subnets: Mapping[int, tuple[SubnetSpec, Statistics]]) -> None:
        self._small_kernels: SmallKernels = {}
        with torch.inference_mode():
            self._bindings = {
                index: bind(network, spec, statistics, self._small_kernels)
                for index, (spec, statistics) in subnets.items()
            }

    @classmethod
    def of_front(cls, supernet: Supernet) -> "Actuator":
        """An actuator for a supernet's front, by index in front order."""
        records = supernet.front.subnets
        return cls(
            supernet.network,
            {index: (record.spec, supernet.statistics[record.id]) for index, record in enumerate(records)},
        )

    @property
    def small_kernel_bytes(self) -> int:
        """Bytes of computed kernels, beside the one copy of the weights; all subnets share them."""
        return sum(kernel.nbytes for kernel in self._small_kernels.values())

    def actuate(self, subnet: int) -> None:
        """Make a subnet the active one; about a microsecond, no allocation, no copy.

        It is done even if this subnet was the last one: another actuator of the network may have run since.
        """
        apply(self._bindings[subnet])
