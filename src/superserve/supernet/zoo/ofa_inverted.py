"""The block of OFA's mobile networks: an inverted residual, elastic in width and kernel size.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``DynamicMBConvLayer``).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from superserve.supernet.operators import Geometry, SlicedConv2d, SlicedKernelConv2d, SubnetNorm

Activation = Callable[..., nn.Module]
"""A class of activations, such as `nn.ReLU`."""


class Sizes(NamedTuple):
    """Channels of an inverted residual block; ``squeezed`` is 0 where it has no squeeze-and-excite."""

    inputs: int
    middle: int
    outputs: int
    squeezed: int


class SqueezeExcite(nn.Module):
    """Scale channels by a function of their averages."""

    def __init__(self, channels: int, middle: int) -> None:
        super().__init__()
        self.reduce = SlicedConv2d(channels, middle, 1, bias=True)
        self.relu = nn.ReLU(inplace=True)
        self.expand = SlicedConv2d(middle, channels, 1, bias=True)
        self.gate = nn.Hardsigmoid(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        y = self.relu(self.reduce(x.mean((2, 3), keepdim=True)))
        gate: Tensor = self.gate(self.expand(y))
        return x * gate


class InvertedResidual(nn.Module):
    """1x1 expanding, depthwise, squeeze-and-excite, 1x1 projecting.

    Where the middle is as wide as the input nothing expands.
    """

    def __init__(
        self,
        sizes: Sizes,
        kernels: Sequence[int],
        *,
        stride: int,
        activation: Activation,
        norm_eps: float,
        expands: bool,
    ) -> None:
        super().__init__()
        inputs, middle, outputs, squeezed = sizes
        self.activation = activation(inplace=True)
        self.expands = expands
        if expands:
            self.expand = SlicedConv2d(inputs, middle, 1)
            self.expand_norm = SubnetNorm(middle, eps=norm_eps)
        self.depthwise = SlicedKernelConv2d(middle, middle, kernels, stride=stride, groups=middle)
        self.depthwise_norm = SubnetNorm(middle, eps=norm_eps)
        self.squeeze_excite = SqueezeExcite(middle, squeezed) if squeezed else nn.Identity()
        self.project = SlicedConv2d(middle, outputs, 1)
        self.project_norm = SubnetNorm(outputs, eps=norm_eps)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, h, w) to (rows, outputs, h / stride, w / stride)."""
        y = self.activation(self.expand_norm(self.expand(x))) if self.expands else x
        y = self.squeeze_excite(self.activation(self.depthwise_norm(self.depthwise(y))))
        out: Tensor = self.project_norm(self.project(y))
        return out.add_(x) if self.shortcut else out


class InvertedGeometry:
    """Collects what a subnet means for the operators of inverted residual blocks, and of what stands around them."""

    def __init__(self) -> None:
        self.keep: dict[str, tuple[int, ...]] = {}
        self.slices: dict[str, tuple[int, int]] = {}
        self.channels: dict[str, int] = {}
        self.kernels: dict[str, int] = {}

    def block(self, name: str, sizes: Sizes, *, kernel: int, expands: bool) -> None:
        """Add a block."""
        inputs, middle, outputs, squeezed = sizes
        if expands:
            self.slices[f"{name}.expand"] = (middle, inputs)
            self.channels[f"{name}.expand_norm"] = middle
        self.slices[f"{name}.depthwise"] = (middle, middle)
        self.kernels[f"{name}.depthwise"] = kernel
        self.channels[f"{name}.depthwise_norm"] = middle
        if squeezed:
            self.slices[f"{name}.squeeze_excite.reduce"] = (squeezed, middle)
            self.slices[f"{name}.squeeze_excite.expand"] = (middle, squeezed)
        self.slices[f"{name}.project"] = (outputs, middle)
        self.channels[f"{name}.project_norm"] = outputs

    def collected(self) -> Geometry:
        """All of it."""
        return Geometry(self.keep, self.slices, self.channels, self.kernels)
