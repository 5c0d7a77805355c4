"""Architecture families; importing this package registers every one."""

from superserve.supernet.zoo import (
    autoformer,
    converted,
    dynabert,
    dynabert_roberta,
    ofa_mobilenet,
    ofa_proxyless,
    ofa_resnet,
    ofa_resnet50,
)
from superserve.supernet.zoo.registry import build_network, families, register

__all__ = [
    "autoformer",
    "build_network",
    "converted",
    "dynabert",
    "dynabert_roberta",
    "families",
    "ofa_mobilenet",
    "ofa_proxyless",
    "ofa_resnet",
    "ofa_resnet50",
    "register",
]
