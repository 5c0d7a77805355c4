"""What OFA's mobile supernets share: a fixed first convolution and block, then stages of elastic blocks.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all). A stage keeps its first d
blocks; each block has an elastic expand ratio, of its *input* width, and an elastic kernel size. First convolution,
first block and head are fixed, but their normalisation is calibrated per subnet like every other.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Final, NamedTuple

import msgspec
from torch import Tensor, nn

from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, LayerSelect, SubnetNorm
from superserve.supernet.zoo.ofa_arguments import per_entry
from superserve.supernet.zoo.ofa_blocks import make_divisible
from superserve.supernet.zoo.ofa_inverted import Activation, InvertedGeometry, InvertedResidual, Sizes

#: Channels are squeezed by this much in a squeeze-and-excite block.
_REDUCTION: Final = 4


class StageShape(NamedTuple):
    """What an architecture fixes for a stage."""

    width: int
    stride: int
    activation: Activation
    squeezes: bool = False
    single: bool = False
    """Whether it has one block, at every depth."""


class Backbone(NamedTuple):
    """What an architecture fixes for all that comes before its head."""

    stem_width: int
    activation: Activation
    """Of the stem and the head."""
    norm_eps: float
    """Added to the variance by every normalisation of the network."""
    stages: tuple[StageShape, ...]
    """From the first block on, which is not elastic."""


class OfaMobileConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``."""

    classes: int = 1000
    width_mult: float = 1.0
    """Scales every fixed width."""
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


class OfaMobile(ElasticNetwork):
    """An image classifier up to its head, which a subclass adds."""

    backbone: ClassVar[Backbone]

    def __init__(self, config: OfaMobileConfig) -> None:
        super().__init__()
        self.config = config
        width, stages = self.width(self.backbone.stem_width), self.backbone.stages
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.stem_norm = self.norm(width)
        self.first = self._block(width, stages[0], kernels=(3,), expand=1.0)
        self.stages = nn.ModuleList(
            LayerSelect(*self._blocks(before, shape, stage.blocks))
            for (before, shape), stage in zip(pairwise(stages), self.space.stages, strict=True)
        )
        self.activation = self.backbone.activation(inplace=True)

    @cached_property
    def space(self) -> SearchSpace:
        """The elastic stages; widths ``stageI.blockJ`` (expand ratio) and ``stageI.blockJ.kernel`` (size in pixels)."""
        config = self.config
        depths = [(1,) if shape.single else config.depths for shape in self.backbone.stages[1:]]
        stages = tuple(Stage(options[-1], options) for options in depths)
        kernels, widths = tuple(float(kernel) for kernel in config.kernels), []
        for i, stage in enumerate(stages):
            for j in range(stage.blocks):
                widths.append(Width(f"stage{i}.block{j}", config.expand_ratios, stage=i, block=j))
                widths.append(Width(f"stage{i}.block{j}.kernel", kernels, stage=i, block=j))
        return SearchSpace(stages, tuple(widths))

    def ofa_spec(self, ks: int | Sequence[int], e: float | Sequence[float], d: int | Sequence[int]) -> SubnetSpec:
        """The subnet that the ``set_active_subnet(ks, e, d)`` of OFA's class makes active.

        Args:
            ks: kernel size of each block at full depth.
            e: expand ratio of each.
            d: blocks kept per stage; a stage of one block takes any number for 1, as in OFA.

        A scalar stands for all entries.

        Raises:
            IllegalSubnetError: for a value outside the space, or a wrong number of them.
        """
        stages = self.space.stages
        names = [f"stage{i}.block{j}" for i, stage in enumerate(stages) for j in range(stage.blocks)]
        ratios = dict(zip(names, per_entry("e", e, len(names)), strict=True))
        kernels = per_entry("ks", ks, len(names))
        ratios |= {f"{name}.kernel": kernel for name, kernel in zip(names, kernels, strict=True)}
        depths = zip(per_entry("d", d, len(stages)), stages, strict=True)
        return self.space.spec(
            tuple(min(int(depth), 1) if stage.blocks == 1 else int(depth) for depth, stage in depths), ratios
        )

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        ratios, geometry, stages = dict(spec.widths), InvertedGeometry(), self.backbone.stages
        width = self.width(self.backbone.stem_width)
        geometry.channels["stem_norm"] = width
        geometry.block("first", self._sizes(width, stages[0], 1.0), kernel=3, expands=False)
        for i, (before, shape) in enumerate(pairwise(stages)):
            geometry.keep[f"stages.{i}"] = spec.keep[i]
            for j in spec.keep[i]:
                inputs = self.width(before.width if j == 0 else shape.width)
                name = f"stage{i}.block{j}"
                sizes = self._sizes(inputs, shape, ratios[name])
                geometry.block(f"stages.{i}.{j}", sizes, kernel=int(ratios[f"{name}.kernel"]), expands=True)
        geometry.channels |= self.head_channels()
        return geometry.collected()

    @abstractmethod
    def head_channels(self) -> Mapping[str, int]:
        """Channels of each normalisation of the head, by its name."""

    def features(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width), float32, to what the last stage makes of them."""
        x = self.first(self.activation(self.stem_norm(self.stem(x))))
        for stage in self.stages:
            x = stage(x)
        return x

    def width(self, full: int) -> int:
        """A width of the architecture at this network's multiplier."""
        return make_divisible(full * self.config.width_mult, self.config.divisor)

    def norm(self, channels: int) -> SubnetNorm:
        """A normalisation as all of the network are."""
        return SubnetNorm(channels, eps=self.backbone.norm_eps)

    def _sizes(self, inputs: int, shape: StageShape, expand: float) -> Sizes:
        divisor = self.config.divisor
        middle = inputs if expand == 1 else make_divisible(round(inputs * expand), divisor)
        squeezed = make_divisible(middle // _REDUCTION, divisor) if shape.squeezes else 0
        return Sizes(inputs, middle, self.width(shape.width), squeezed)

    def _blocks(self, before: StageShape, shape: StageShape, count: int) -> Iterator[InvertedResidual]:
        kernels, expand = self.config.kernels, self.config.expand_ratios[-1]
        yield self._block(self.width(before.width), shape, kernels, expand)
        for _ in range(count - 1):
            yield self._block(self.width(shape.width), shape._replace(stride=1), kernels, expand)

    def _block(self, inputs: int, shape: StageShape, kernels: Sequence[int], expand: float) -> InvertedResidual:
        return InvertedResidual(
            self._sizes(inputs, shape, expand),
            kernels,
            stride=shape.stride,
            activation=shape.activation,
            norm_eps=self.backbone.norm_eps,
            expands=expand > 1,
        )
