"""Multiply-accumulates of a subnet."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from superserve.subnet import SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.network import ElasticNetwork


def count_macs(network: ElasticNetwork, spec: SubnetSpec, arguments: tuple[Tensor, ...]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products in one forward.

    Leaves the network actuated without statistics.

    Args:
        network: the weight-shared network.
        spec: the subnet.
        arguments: the network's arguments; one row gives the count per row.

    Raises:
        IllegalSubnetError: if the subnet lies outside the network's space.
    """
    apply(bind(network, spec, None))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*arguments)
    return int(counter.get_total_flops()) // 2
