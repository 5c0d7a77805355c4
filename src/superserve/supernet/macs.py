"""Multiply-accumulates of a subnet."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import NormStatistics


def count_macs(network: ElasticNetwork, spec: SubnetSpec, arguments: tuple[Tensor, ...]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products in one forward.

    Leaves the network actuated with statistics of no meaning. Fused attention is counted on the ``meta`` device only.

    Args:
        network: the weight-shared network.
        spec: the subnet.
        arguments: the network's arguments; one row gives the count per row.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    # Those of the batch need more than one value per channel, which one row of a small image does not have.
    sample = next(network.parameters())
    statistics = {
        name: NormStatistics(sample.new_zeros(count), sample.new_ones(count))
        for name, count in network.geometry(spec).channels.items()
    }
    apply(bind(network, spec, statistics))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return int(counter.get_total_flops()) // 2
