"""OFA-MobileNetV3: the mobile supernet of Once-for-All, exactly, at any width multiplier.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``OFAMobileNetV3``). Five stages
of inverted residual blocks keep their first d blocks; each block has an elastic expand ratio, of its *input* width,
and an elastic kernel size. First convolution, first block and head are fixed, but their normalisation is calibrated
per subnet like every other.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec
from torch import Tensor, nn

from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, LayerSelect, SlicedConv2d, SlicedKernelConv2d, SubnetNorm
from superserve.supernet.zoo.ofa_arguments import per_entry
from superserve.supernet.zoo.ofa_blocks import make_divisible
from superserve.supernet.zoo.registry import register

#: Channels are squeezed by this much in a squeeze-and-excite block.
_REDUCTION: Final = 4


class StageShape(NamedTuple):
    """What MobileNetV3 fixes for a stage."""

    width: int
    stride: int
    hard_swish: bool
    squeezes: bool


#: MobileNetV3-Large, from its first block on (that block is not elastic).
_STAGES: Final = (
    StageShape(16, 1, hard_swish=False, squeezes=False),
    StageShape(24, 2, hard_swish=False, squeezes=False),
    StageShape(40, 2, hard_swish=False, squeezes=True),
    StageShape(80, 2, hard_swish=True, squeezes=False),
    StageShape(112, 1, hard_swish=True, squeezes=True),
    StageShape(160, 2, hard_swish=True, squeezes=True),
)
_STEM_WIDTH: Final = 16
_EXPANDED_WIDTH: Final = 960
_FEATURES: Final = 1280


class OfaMobileNetV3Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are the published network of width 1.0."""

    classes: int = 1000
    width_mult: float = 1.0
    """Scales every fixed width; the published networks have 1.0 and 1.2."""
    kernels: tuple[int, ...] = (3, 5, 7)
    expand_ratios: tuple[float, ...] = (3, 4, 6)
    """Middle width over input width of a block, in rising order."""
    depths: tuple[int, ...] = (2, 3, 4)
    divisor: int = 8
    """Channel counts are multiples of this."""

    def __post_init__(self) -> None:
        if min(self.classes, self.divisor) < 1 or self.width_mult <= 0:
            raise ValueError("classes, divisor and width_mult must be positive")
        for name in ("kernels", "expand_ratios", "depths"):
            values = getattr(self, name)
            if not values or values[0] < 1 or any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"{name} {values} must rise strictly from at least 1")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels {self.kernels} must be odd")
        if self.expand_ratios[0] == 1:
            raise ValueError("expand_ratios must be above 1: a block that does not expand has no first convolution")


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


class Sizes(NamedTuple):
    """Channels of an inverted residual block; ``squeezed`` is 0 where it has no squeeze-and-excite."""

    inputs: int
    middle: int
    outputs: int
    squeezed: int


class InvertedResidual(nn.Module):
    """1x1 expanding, depthwise, squeeze-and-excite, 1x1 projecting.

    Where the middle is as wide as the input nothing expands.
    """

    def __init__(self, sizes: Sizes, kernels: Sequence[int], *, stride: int, hard_swish: bool, expands: bool) -> None:
        super().__init__()
        inputs, middle, outputs, squeezed = sizes
        self.activation: nn.Module = nn.Hardswish(inplace=True) if hard_swish else nn.ReLU(inplace=True)
        self.expands = expands
        if expands:
            self.expand = SlicedConv2d(inputs, middle, 1)
            self.expand_norm = SubnetNorm(middle)
        self.depthwise = SlicedKernelConv2d(middle, middle, kernels, stride=stride, groups=middle)
        self.depthwise_norm = SubnetNorm(middle)
        self.squeeze_excite = SqueezeExcite(middle, squeezed) if squeezed else nn.Identity()
        self.project = SlicedConv2d(middle, outputs, 1)
        self.project_norm = SubnetNorm(outputs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(rows, inputs, h, w) to (rows, outputs, h / stride, w / stride)."""
        y = self.activation(self.expand_norm(self.expand(x))) if self.expands else x
        y = self.squeeze_excite(self.activation(self.depthwise_norm(self.depthwise(y))))
        out: Tensor = self.project_norm(self.project(y))
        return out.add_(x) if self.shortcut else out


class OfaMobileNetV3(ElasticNetwork):
    """An image classifier: first convolution and block, five elastic stages, head."""

    def __init__(self, config: OfaMobileNetV3Config) -> None:
        super().__init__()
        self.config = config
        width = self._width(_STEM_WIDTH)
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.stem_norm = SubnetNorm(width)
        self.first = self._block(width, _STAGES[0], kernels=(3,), expand=1.0)
        self.stages = nn.ModuleList()
        for before, shape in pairwise(_STAGES):
            first = self._block(self._width(before.width), shape, config.kernels, config.expand_ratios[-1])
            rest = shape._replace(stride=1)
            self.stages.append(
                LayerSelect(
                    first,
                    *(
                        self._block(self._width(shape.width), rest, config.kernels, config.expand_ratios[-1])
                        for _ in range(config.depths[-1] - 1)
                    ),
                )
            )
        expanded, features = self._width(_EXPANDED_WIDTH), self._width(_FEATURES)
        self.final = nn.Conv2d(self._width(_STAGES[-1].width), expanded, 1, bias=False)
        self.final_norm = SubnetNorm(expanded)
        self.mix = nn.Conv2d(expanded, features, 1, bias=False)
        self.activation = nn.Hardswish(inplace=True)
        self.classifier = nn.Linear(features, config.classes)

    @cached_property
    def space(self) -> SearchSpace:
        """Five stages; widths ``stageI.blockJ`` (expand ratio) and ``stageI.blockJ.kernel`` (size in pixels)."""
        config = self.config
        widths = []
        for i in range(len(_STAGES) - 1):
            for j in range(config.depths[-1]):
                kernels = tuple(float(kernel) for kernel in config.kernels)
                widths.append(Width(f"stage{i}.block{j}", config.expand_ratios, stage=i, block=j))
                widths.append(Width(f"stage{i}.block{j}.kernel", kernels, stage=i, block=j))
        return SearchSpace((Stage(config.depths[-1], config.depths),) * (len(_STAGES) - 1), tuple(widths))

    def ofa_spec(self, ks: int | Sequence[int], e: float | Sequence[float], d: int | Sequence[int]) -> SubnetSpec:
        """The subnet that ``OFAMobileNetV3.set_active_subnet(ks, e, d)`` makes active.

        Args:
            ks: kernel size of each block at full depth.
            e: expand ratio of each.
            d: blocks kept per stage.

        A scalar stands for all entries.

        Raises:
            IllegalSubnetError: for a value outside the space, or a wrong number of them.
        """
        stages, blocks = len(_STAGES) - 1, self.config.depths[-1]
        kernels, expand = per_entry("ks", ks, stages * blocks), per_entry("e", e, stages * blocks)
        names = [f"stage{i}.block{j}" for i in range(stages) for j in range(blocks)]
        ratios = dict(zip(names, expand, strict=True))
        ratios |= {f"{name}.kernel": kernel for name, kernel in zip(names, kernels, strict=True)}
        return self.space.spec(tuple(int(depth) for depth in per_entry("d", d, stages)), ratios)

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        ratios = dict(spec.widths)
        geometry = _Builder()
        width = self._width(_STEM_WIDTH)
        geometry.channels["stem_norm"] = width
        geometry.block("first", self._sizes(width, _STAGES[0], 1.0), kernel=3, expands=False)
        for i, (before, shape) in enumerate(pairwise(_STAGES)):
            geometry.keep[f"stages.{i}"] = spec.keep[i]
            for j in spec.keep[i]:
                inputs = self._width(before.width if j == 0 else shape.width)
                name = f"stage{i}.block{j}"
                sizes = self._sizes(inputs, shape, ratios[name])
                geometry.block(f"stages.{i}.{j}", sizes, kernel=int(ratios[f"{name}.kernel"]), expands=True)
        geometry.channels["final_norm"] = self._width(_EXPANDED_WIDTH)
        return Geometry(geometry.keep, geometry.slices, geometry.channels, geometry.kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width), float32, to logits (rows, classes)."""
        x = self.first(self.activation(self.stem_norm(self.stem(x))))
        for stage in self.stages:
            x = stage(x)
        x = self.activation(self.final_norm(self.final(x)))
        x = self.activation(self.mix(x.mean((2, 3), keepdim=True)))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits

    def _width(self, full: int) -> int:
        return make_divisible(full * self.config.width_mult, self.config.divisor)

    def _sizes(self, inputs: int, shape: StageShape, expand: float) -> Sizes:
        divisor = self.config.divisor
        middle = inputs if expand == 1 else make_divisible(round(inputs * expand), divisor)
        squeezed = make_divisible(middle // _REDUCTION, divisor) if shape.squeezes else 0
        return Sizes(inputs, middle, self._width(shape.width), squeezed)

    def _block(self, inputs: int, shape: StageShape, kernels: Sequence[int], expand: float) -> InvertedResidual:
        return InvertedResidual(
            self._sizes(inputs, shape, expand),
            kernels,
            stride=shape.stride,
            hard_swish=shape.hard_swish,
            expands=expand > 1,
        )


class _Builder:
    """Collects the geometry of blocks."""

    def __init__(self) -> None:
        self.keep: dict[str, tuple[int, ...]] = {}
        self.slices: dict[str, tuple[int, int]] = {}
        self.channels: dict[str, int] = {}
        self.kernels: dict[str, int] = {}

    def block(self, name: str, sizes: Sizes, *, kernel: int, expands: bool) -> None:
        """Add an inverted residual block."""
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


@register("ofa_mobilenet_v3", OfaMobileNetV3Config)
def ofa_mobilenet_v3(config: OfaMobileNetV3Config) -> OfaMobileNetV3:
    """Build OFA-MobileNetV3."""
    return OfaMobileNetV3(config)
