"""Extraction: a subnet as an ordinary module with its own weights."""

import copy

import torch
from torch import Tensor, nn

from superserve.subnet import SubnetSpec
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import (
    LayerSelect,
    NormStatistics,
    SlicedConv2d,
    SlicedLinear,
    Statistics,
    SubnetNorm,
)


def extract(network: ElasticNetwork, spec: SubnetSpec, statistics: Statistics) -> nn.Module:
    """Materialise a subnet from plain `nn.Conv2d`, `nn.BatchNorm2d`, `nn.Linear` and `nn.Sequential` of its sizes.

    Shares neither storage nor slots with the network: it is what a static deployment of this subnet would run, the
    oracle of the tests, and ready for export. In evaluation mode; kept blocks are renumbered from 0.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    keep, slices, channels = network.geometry(spec)
    plain = copy.deepcopy(network).requires_grad_(requires_grad=False)
    for name, (outputs, inputs) in slices.items():
        plain.set_submodule(name, _plain_layer(plain.get_submodule(name), outputs, inputs))
    for name, count in channels.items():
        plain.set_submodule(name, _plain_norm(plain.get_submodule(name), count, statistics[name]))
    for name, blocks in keep.items():
        select = plain.get_submodule(name)
        assert isinstance(select, LayerSelect)
        plain.set_submodule(name, nn.Sequential(*(select[index] for index in blocks)))
    return plain.eval()


def _plain_layer(layer: nn.Module, outputs: int, inputs: int) -> nn.Conv2d | nn.Linear:
    if isinstance(layer, SlicedConv2d):
        kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
        conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        _own(conv.weight, layer.weight[:outputs, :inputs])
        return conv
    assert isinstance(layer, SlicedLinear)
    linear = nn.Linear(inputs, outputs)
    _own(linear.weight, layer.weight[:outputs, :inputs])
    _own(linear.bias, layer.bias[:outputs])
    return linear


def _plain_norm(norm: nn.Module, channels: int, statistics: NormStatistics) -> nn.BatchNorm2d:
    assert isinstance(norm, SubnetNorm)
    plain = nn.BatchNorm2d(channels, eps=norm.eps)
    _own(plain.weight, norm.weight[:channels])
    _own(plain.bias, norm.bias[:channels])
    assert plain.running_mean is not None
    assert plain.running_var is not None
    _own(plain.running_mean, statistics.mean)
    _own(plain.running_var, statistics.variance)
    return plain


def _own(target: Tensor, source: Tensor) -> None:
    with torch.no_grad():
        target.requires_grad_(False).copy_(source)  # noqa: FBT003 (torch's stub has no keyword)
