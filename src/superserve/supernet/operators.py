"""SubNetAct's three operators: layers that run one subnet of a weight-shared network at a time.

Each is a thin subclass of an ordinary torch layer with that layer's ``state_dict`` keys. What it runs stands in its
``slot``: weight views for `WeightSlice`, the kept blocks for `LayerSelect`, statistics for `SubnetNorm`. The slot's
content is made by ``bind`` ahead of time, so that actuation is one assignment per operator (`Actuator`). State
lives in instances only: two copies of a network never influence each other.

Source: Khare et al., "SuperServe", NSDI 2025, section 3.1. Two things differ from the paper's text, after the code
that trained the public weights: a LayerSelect takes a keep *set*, not a depth, because families differ in which
blocks a depth keeps; and how widths are rounded is left to each family (`Geometry`).
"""

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

T = TypeVar("T")


class NormStatistics(NamedTuple):
    """Mean and biased variance per channel of one normalisation layer in one subnet, float32 (channels,)."""

    mean: Tensor
    variance: Tensor


Statistics = Mapping[str, NormStatistics]
"""Statistics of one subnet: name of the SubnetNorm to its mean and variance."""


class Geometry(NamedTuple):
    """What a subnet means for each operator that takes part in it, by the operator's module name.

    Operators inside blocks that do not run are absent.
    """

    keep: Mapping[str, tuple[int, ...]]
    """LayerSelect: indices of the blocks that run."""
    slices: Mapping[str, tuple[int, int]]
    """WeightSlice: leading outputs and leading inputs in use."""
    channels: Mapping[str, int]
    """SubnetNorm: leading channels in use."""


class Slot(Generic[T]):
    """The one mutable cell of an operator: what the active subnet makes it run. Empty until a first actuation."""

    __slots__ = ("value",)
    value: T

    def __deepcopy__(self, memo: dict[int, object]) -> "Slot[T]":
        """A copied operator starts empty: what the original runs are views of the original's weights."""
        return Slot()


class LayerSelect(nn.Sequential):
    """A stage of which a set of blocks runs; a block outside it passes its input on unchanged, at no cost."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.slot = Slot[tuple[nn.Module, ...]]()

    def bind(self, keep: tuple[int, ...]) -> tuple[nn.Module, ...]:
        """The blocks of a keep set, in order."""
        return tuple(self[index] for index in keep)

    def forward(self, x: Tensor) -> Tensor:
        """Run the kept blocks; the shape is the blocks' concern."""
        for block in self.slot.value:
            x = block(x)
        return x


class SlicedWeight(NamedTuple):
    """The leading part of a layer's weight and bias, as views."""

    weight: Tensor
    bias: Tensor | None


class SlicedConv2d(nn.Conv2d):
    """WeightSlice for a convolution (groups = 1): the leading output and input channels of one kernel.

    The view is never made contiguous: that would copy weights in every forward (as OFA does).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.slot = Slot[SlicedWeight]()

    def bind(self, outputs: int, inputs: int) -> SlicedWeight:
        """Views of the leading ``outputs`` x ``inputs`` part, (outputs, inputs, kernel, kernel)."""
        return SlicedWeight(self.weight[:outputs, :inputs], None)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, height, width) to (rows, outputs, height / stride, width / stride)."""
        return functional.conv2d(x, self.slot.value.weight, None, self.stride, self.padding)


class SlicedLinear(nn.Linear):
    """WeightSlice for a linear layer: the leading outputs and inputs of one matrix and bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.slot = Slot[SlicedWeight]()

    def bind(self, outputs: int, inputs: int) -> SlicedWeight:
        """Views of the leading ``outputs`` x ``inputs`` part and of the leading ``outputs`` biases."""
        return SlicedWeight(self.weight[:outputs, :inputs], self.bias[:outputs])

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        weight, bias = self.slot.value
        return functional.linear(x, weight, bias)


class SlicedNorm(NamedTuple):
    """Leading scale and shift, as views, and the subnet's own statistics (None: those of the batch)."""

    scale: Tensor
    shift: Tensor
    statistics: NormStatistics | None


class SubnetNorm(nn.BatchNorm2d):
    """Batch normalisation with shared scale and shift and one set of statistics per subnet.

    Statistics are computed ahead on training data (`calibrate`) and never change in a forward. An operator bound
    without statistics normalises with those of the batch itself: what training and calibration do.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)
        self.slot = Slot[SlicedNorm]()

    def bind(self, channels: int, statistics: NormStatistics | None) -> SlicedNorm:
        """Views of the leading ``channels`` scales and shifts, with these statistics."""
        return SlicedNorm(self.weight[:channels], self.bias[:channels], statistics)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (rows, channels, height, width) per channel."""
        scale, shift, statistics = self.slot.value
        if statistics is None:
            return functional.batch_norm(x, None, None, scale, shift, training=True, eps=self.eps)
        return functional.batch_norm(x, *statistics, scale, shift, training=False, eps=self.eps)


def batch_statistics(x: Tensor) -> NormStatistics:
    """Mean and biased variance per channel of one batch (rows, channels, height, width)."""
    variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
    return NormStatistics(mean, variance)
