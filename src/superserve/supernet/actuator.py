"""Actuation: make a subnet the active one by swapping references that were made ahead."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from superserve.subnet import SubnetSpec
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import (
    HalfStatistics,
    KeepSet,
    NormSlice,
    NormStatistics,
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
    return _Binder(network, small_kernels).bind(spec, statistics)


class _Binder:
    """Binds subnets of one network; what two of them have in common is made once.

    A view takes more memory than one would think (some 400 bytes), and a front of hundreds of subnets would need some
    hundred thousand of them; but a layer has few sizes, so that hardly any of them differ.
    """

    def __init__(self, network: ElasticNetwork, small_kernels: SmallKernels | None = None) -> None:
        self._network = network
        self._modules = dict(network.named_modules())
        self._small_kernels: SmallKernels = {} if small_kernels is None else small_kernels
        self._parts: dict[tuple[Any, ...], tuple[Slot[Any], Any]] = {}
        self._sets: list[NormStatistics | HalfStatistics] = []

    def bind(self, spec: SubnetSpec, statistics: Statistics | None) -> Binding:
        """See the function `bind`."""
        keep, slices, channels, kernels = self._network.geometry(spec)
        return (
            *(self._shared(self._keep, name, blocks) for name, blocks in keep.items()),
            *(self._shared(self._slice, name, sizes, kernels.get(name)) for name, sizes in slices.items()),
            *(self._norm(name, count, statistics) for name, count in channels.items()),
        )

    def _shared(self, make: Callable[..., tuple[Slot[Any], Any]], *key: Any) -> tuple[Slot[Any], Any]:  # noqa: ANN401 (a key of any parts)
        if key not in self._parts:
            self._parts[key] = make(*key)
        return self._parts[key]

    def _keep(self, name: str, blocks: tuple[int, ...]) -> tuple[Slot[Any], Any]:
        select = self._modules[name]
        assert isinstance(select, KeepSet)
        return select.slot, select.bind(blocks)

    def _slice(self, name: str, sizes: tuple[int, int], kernel: int | None) -> tuple[Slot[Any], Any]:
        layer = self._modules[name]
        assert isinstance(layer, WeightSlice)
        if kernel is None:
            return layer.slot, layer.bind(*sizes)
        assert isinstance(layer, SlicedKernelConv2d)
        return layer.slot, layer.bind_kernel(*sizes, self._small_kernel(layer, (name, kernel)))

    def _small_kernel(self, layer: SlicedKernelConv2d, key: tuple[str, int]) -> Tensor:
        if key[1] == layer.kernels[-1]:
            return layer.weight
        if key not in self._small_kernels:
            self._small_kernels[key] = layer.small_kernel(key[1])
        return self._small_kernels[key]

    def _norm(self, name: str, count: int, statistics: Statistics | None) -> tuple[Slot[Any], Any]:
        bound = self._shared(self._norm_views, name, count)
        if statistics is None:
            return bound
        found = statistics[name]
        # By identity: a set that subnets share is one object. Held, so that no other one gets its identity.
        key = (name, count, id(found))
        if key not in self._parts:
            norm = self._modules[name]
            assert isinstance(norm, NormSlice)
            self._sets.append(found)
            self._parts[key] = bound[0], norm.with_statistics(bound[1], found)
        return self._parts[key]

    def _norm_views(self, name: str, count: int) -> tuple[Slot[Any], Any]:
        norm = self._modules[name]
        assert isinstance(norm, NormSlice)
        return norm.slot, norm.bind(count, None)


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
        binder = _Binder(network, self._small_kernels)
        with torch.inference_mode():
            self._bindings = {index: binder.bind(spec, statistics) for index, (spec, statistics) in subnets.items()}

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
