"""SubNetAct's three operators: layers that run one subnet of a weight-shared network at a time.

Each is a thin subclass of an ordinary torch layer with that layer's ``state_dict`` keys. What it runs stands in its
``slot``: weight views for `WeightSlice`, the kept blocks for `LayerSelect`, statistics for `SubnetNorm`. The slot's
content is made by ``bind`` ahead of time, so that actuation is one assignment per operator (`Actuator`). State
lives in instances only: two copies of a network never influence each other. ``extract`` gives the same part as a
plain torch layer; `adopt` makes a plain layer of somebody's model an operator in place.

Source: Khare et al., "SuperServe", NSDI 2025, section 3.1. Two things differ from the paper's text, after the code
that trained the public weights: a LayerSelect takes a keep *set*, not a depth, because families differ in which
blocks a depth keeps; and how widths are rounded is left to each family (`Geometry`).
"""

from superserve.supernet.operators.adopt import OPERATORS, adopt, obstacle
from superserve.supernet.operators.conv import SlicedConv2d, SlicedFilter
from superserve.supernet.operators.geometry import Geometry
from superserve.supernet.operators.kernel import SlicedKernelConv2d
from superserve.supernet.operators.linear import SlicedEmbedding, SlicedLayerNorm, SlicedLinear, SlicedWeight
from superserve.supernet.operators.norm import (
    AnySubnetNorm,
    HalfStatistics,
    NormSlice,
    NormStatistics,
    SlicedNorm,
    Statistics,
    SubnetNorm,
    SubnetNorm1d,
    batch_statistics,
)
from superserve.supernet.operators.select import KeepSet, LayerSelect
from superserve.supernet.operators.slot import Slot, WeightSlice

__all__ = [
    "OPERATORS",
    "AnySubnetNorm",
    "Geometry",
    "HalfStatistics",
    "KeepSet",
    "LayerSelect",
    "NormSlice",
    "NormStatistics",
    "SlicedConv2d",
    "SlicedEmbedding",
    "SlicedFilter",
    "SlicedKernelConv2d",
    "SlicedLayerNorm",
    "SlicedLinear",
    "SlicedNorm",
    "SlicedWeight",
    "Slot",
    "Statistics",
    "SubnetNorm",
    "SubnetNorm1d",
    "WeightSlice",
    "adopt",
    "batch_statistics",
    "obstacle",
]
