"""Residual supernets in the manner of OFA-ResNet.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``OFAResNets``): bottleneck
blocks with elastic depth per stage, elastic width per stage (stem included) and elastic expand ratio per block. The
bottleneck's middle width follows from the *active output* width; a stage drops its trailing blocks; the first block
of a stage always runs, because it changes the shape and holds the shortcut's projection (ResNet-D: average pooling,
then 1x1 convolution). Unlike OFA's, the stem is one 3x3 convolution: these nets are for small images.
"""

from functools import cached_property
from itertools import pairwise

import msgspec
from torch import Tensor, nn

from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, LayerSelect, SlicedConv2d, SlicedLinear, SubnetNorm
from superserve.supernet.zoo.ofa_blocks import Bottleneck, bottleneck_geometry, bottleneck_stage, make_divisible
from superserve.supernet.zoo.registry import register


class StageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage at its full size."""

    width: int
    """Output channels."""
    stride: int
    """Of its first block."""
    depths: tuple[int, ...]
    """How many blocks may run, in rising order; the last is how many there are."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.stride not in {1, 2}:
            raise ValueError(f"width {self.width} must be positive and stride {self.stride} 1 or 2")
        if not self.depths or self.depths[0] < 1 or any(a >= b for a, b in pairwise(self.depths)):
            raise ValueError(f"depths {self.depths} must rise strictly from at least 1")


class OfaResNetConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that sizes the network: ``architecture`` of ``config.json``."""

    in_channels: int
    classes: int
    stem_width: int
    stages: tuple[StageConfig, ...]
    width_ratios: tuple[float, ...]
    """Of the stem and of each stage, in rising order; the last is 1."""
    expand_ratios: tuple[float, ...]
    """Middle width over output width of a block, in rising order."""
    divisor: int = 8
    """Channel counts are multiples of this."""

    def __post_init__(self) -> None:
        if not self.stages or min(self.in_channels, self.classes, self.stem_width, self.divisor) < 1:
            raise ValueError("in_channels, classes, stem_width, divisor and the number of stages must be positive")
        for name, ratios in (("width_ratios", self.width_ratios), ("expand_ratios", self.expand_ratios)):
            if not ratios or ratios[0] <= 0 or any(a >= b for a, b in pairwise(ratios)):
                raise ValueError(f"{name} {ratios} must rise strictly from above 0")
        if self.width_ratios[-1] != 1:
            raise ValueError(f"width_ratios {self.width_ratios} must end with 1, the width of the stages as given")


class OfaResNet(ElasticNetwork):
    """An image classifier: stem, stages of bottlenecks, global average, linear."""

    def __init__(self, config: OfaResNetConfig) -> None:
        super().__init__()
        self.config = config
        stem = self._width(config.stem_width, 1.0)
        self.stem = SlicedConv2d(config.in_channels, stem, 3)
        self.stem_norm = SubnetNorm(stem)
        self.relu = nn.ReLU(inplace=True)
        self.stages = nn.ModuleList()
        inputs = stem
        for stage in config.stages:
            self.stages.append(self._stage(inputs, stage))
            inputs = self._width(stage.width, 1.0)
        self.classifier = SlicedLinear(inputs, config.classes)
        self._initialise()

    @cached_property
    def space(self) -> SearchSpace:
        """Depth per stage; widths ``stem``, ``stageI`` and ``stageI.blockJ``."""
        stages = tuple(Stage(stage.depths[-1], stage.depths) for stage in self.config.stages)
        widths = [Width("stem", self.config.width_ratios)]
        for i, stage in enumerate(stages):
            widths.append(Width(f"stage{i}", self.config.width_ratios))
            widths += [
                Width(f"stage{i}.block{j}", self.config.expand_ratios, stage=i, block=j) for j in range(stage.blocks)
            ]
        return SearchSpace(stages, tuple(widths))

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        ratios = dict(spec.widths)
        width = self._width(self.config.stem_width, ratios["stem"])
        slices, channels = {"stem": (width, self.config.in_channels)}, {"stem_norm": width}
        keep: dict[str, tuple[int, ...]] = {}
        for i, blocks in enumerate(spec.keep):
            keep[f"stages.{i}"] = blocks
            outputs = self._width(self.config.stages[i].width, ratios[f"stage{i}"])
            for j in blocks:
                middle = self._middle(outputs, ratios[f"stage{i}.block{j}"])
                bottleneck_geometry(f"stages.{i}.{j}", (width, middle, outputs), slices, channels)
                width = outputs
        slices["classifier"] = (self.config.classes, width)
        return Geometry(keep, slices, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, in_channels, height, width), float32, to logits (rows, classes)."""
        x = self.relu(self.stem_norm(self.stem(x)))
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def _width(self, full: int, ratio: float) -> int:
        return make_divisible(full * ratio, self.config.divisor)

    def _middle(self, outputs: int, expand: float) -> int:
        return make_divisible(round(outputs * expand), self.config.divisor)

    def _stage(self, inputs: int, stage: StageConfig) -> LayerSelect:
        outputs = self._width(stage.width, 1.0)
        middle = self._middle(outputs, self.config.expand_ratios[-1])
        return LayerSelect(*bottleneck_stage(inputs, middle, outputs, blocks=stage.depths[-1], stride=stage.stride))

    def _initialise(self) -> None:
        """He initialisation; each block starts as its shortcut (Goyal et al. 2017: zero scale of the last norm)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.norm3.weight)


@register("ofa_resnet", OfaResNetConfig)
def ofa_resnet(config: OfaResNetConfig) -> OfaResNet:
    """Build an OFA-style residual supernet."""
    return OfaResNet(config)
