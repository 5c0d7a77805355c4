"""Extraction: a subnet as an ordinary module with its own weights."""

import copy

from torch import nn

from superserve.subnet import SubnetSpec
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import KeepSet, NormSlice, SlicedKernelConv2d, Statistics, WeightSlice


def extract(network: ElasticNetwork, spec: SubnetSpec, statistics: Statistics) -> nn.Module:
    """Materialise a subnet from plain torch layers (`nn.Conv2d`, `nn.BatchNorm2d`, `nn.Linear`, ...) of its sizes.

    Shares neither storage nor slots with the network: it is what a static deployment of this subnet would run, the
    oracle of the tests, and ready for export. In evaluation mode; kept blocks are renumbered from 0.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    keep, slices, channels, kernels = network.geometry(spec)
    plain = copy.deepcopy(network).requires_grad_(requires_grad=False)
    for name, (outputs, inputs) in slices.items():
        plain.set_submodule(name, _plain_layer(plain.get_submodule(name), outputs, inputs, kernels.get(name)))
    for name, count in channels.items():
        norm = plain.get_submodule(name)
        assert isinstance(norm, NormSlice)
        plain.set_submodule(name, norm.extract(count, statistics[name]))
    for name, blocks in keep.items():
        select = plain.get_submodule(name)
        assert isinstance(select, KeepSet)
        plain.set_submodule(name, select.extract(blocks))
    return plain.eval()


def _plain_layer(layer: nn.Module, outputs: int, inputs: int, kernel: int | None) -> nn.Module:
    if kernel is not None:
        assert isinstance(layer, SlicedKernelConv2d)
        return layer.extract_kernel(outputs, inputs, kernel)
    assert isinstance(layer, WeightSlice)
    return layer.extract(outputs, inputs)
