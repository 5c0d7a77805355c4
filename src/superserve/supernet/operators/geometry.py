"""What a subnet means for each operator of a network."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Geometry(NamedTuple):
    """What a subnet means for each operator that takes part in it, by the operator's module name.

    Operators inside blocks that do not run are absent.
    """

    keep: Mapping[str, tuple[int, ...]]
    """LayerSelect: indices of the blocks that run."""
    slices: Mapping[str, tuple[int, int]]
    """WeightSlice: leading outputs and leading inputs in use.

    For an embedding: width and number of symbols; for a LayerNorm: its width, twice.
    """
    channels: Mapping[str, int]
    """SubnetNorm: leading channels in use."""
    kernels: Mapping[str, int] = MappingProxyType({})
    """Kernel size of each `SlicedKernelConv2d`; such a layer stands in ``slices`` too."""
