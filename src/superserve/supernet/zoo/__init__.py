"""Architecture families; importing this package registers every one."""

from superserve.supernet.zoo import ofa_resnet
from superserve.supernet.zoo.registry import build_network, families, register

__all__ = ["build_network", "families", "ofa_resnet", "register"]
