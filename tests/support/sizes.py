"""Sizes of subnets, counted on networks without memory."""

import torch
from torch import nn

from superserve.subnet import SubnetSpec
from superserve.supernet.extract import extract
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import NormStatistics


def extract_unmeasured(network: ElasticNetwork, spec: SubnetSpec) -> nn.Module:
    """The subnet with statistics of no meaning."""
    sample = next(network.parameters())
    channels = network.geometry(spec).channels
    ones = {name: torch.ones(count, device=sample.device, dtype=sample.dtype) for name, count in channels.items()}
    return extract(network, spec, {name: NormStatistics(one - 1, one) for name, one in ones.items()})


def parameters(network: ElasticNetwork, spec: SubnetSpec) -> int:
    """Parameters of the extracted subnet."""
    return sum(parameter.numel() for parameter in extract_unmeasured(network, spec).parameters())
