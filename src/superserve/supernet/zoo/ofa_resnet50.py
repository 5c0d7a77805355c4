"""OFA-ResNet50: the residual supernet of Once-for-All, exactly.

Source: Cai et al., "Once-for-All", ICLR 2020, and its code (mit-han-lab/once-for-all, ``OFAResNets``). Three 3x3
convolutions make the stem, of which the middle one is a residual block that may be skipped; four stages of bottlenecks
follow. Depth counts the blocks beyond each stage's base depth; a stage drops its trailing blocks. Width is elastic for
the stem's middle, the stem and each stage; the expand ratio of each block gives its middle width, from the *active
output* width.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import msgspec
from torch import Tensor, nn

from superserve.errors import IllegalSubnetError
from superserve.subnet import SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, LayerSelect, SlicedConv2d, SlicedLinear, SubnetNorm
from superserve.supernet.zoo.ofa_arguments import per_entry
from superserve.supernet.zoo.ofa_blocks import bottleneck_geometry, bottleneck_stage, make_divisible
from superserve.supernet.zoo.registry import register


class OfaResNet50Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of ``config.json``; the defaults are the published network."""

    classes: int = 1000
    stem_width: int = 64
    stage_widths: tuple[int, ...] = (256, 512, 1024, 2048)
    base_depths: tuple[int, ...] = (2, 2, 4, 2)
    """Blocks of each stage that always run."""
    extra_depths: tuple[int, ...] = (0, 1, 2)
    """How many further blocks may run, in rising order; the last is how many there are."""
    expand_ratios: tuple[float, ...] = (0.2, 0.25, 0.35)
    width_ratios: tuple[float, ...] = (0.65, 0.8, 1.0)
    divisor: int = 8
    """Channel counts are multiples of this."""

    def __post_init__(self) -> None:
        if len(self.stage_widths) != len(self.base_depths) or not self.stage_widths:
            raise ValueError("stage_widths and base_depths must have one entry per stage")
        if min(self.classes, self.stem_width, self.divisor, *self.stage_widths, *self.base_depths) < 1:
            raise ValueError("classes, divisor, widths and base depths must be positive")
        for name in ("extra_depths", "expand_ratios", "width_ratios"):
            values = getattr(self, name)
            if not values or any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"{name} {values} must rise strictly")
        if self.extra_depths[0] < 0 or min(self.expand_ratios[0], self.width_ratios[0]) <= 0:
            raise ValueError("extra_depths must not be negative, ratios must be positive")
        if self.width_ratios[-1] != 1:
            raise ValueError(f"width_ratios {self.width_ratios} must end with 1, the width of the stages as given")


class StemResidual(nn.Module):
    """A 3x3 convolution around an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = SlicedConv2d(width, width, 3)
        self.norm = SubnetNorm(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        y: Tensor = self.relu(self.norm(self.conv(x)))
        return y.add_(x)


class Stem(nn.Module):
    """Image to a quarter of its size: 3x3 with stride 2, the residual block, 3x3, max pooling."""

    def __init__(self, middle: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = SlicedConv2d(3, middle, 3, stride=2)
        self.norm1 = SubnetNorm(middle)
        self.residual = LayerSelect(StemResidual(middle))
        self.conv2 = SlicedConv2d(middle, outputs, 3)
        self.norm2 = SubnetNorm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, 3, h, w) to (rows, outputs, h / 4, w / 4)."""
        x = self.residual(self.relu(self.norm1(self.conv1(x))))
        pooled: Tensor = self.pool(self.relu(self.norm2(self.conv2(x))))
        return pooled


class OfaResNet50(ElasticNetwork):
    """An image classifier: stem, stages of bottlenecks, global average, linear."""

    def __init__(self, config: OfaResNet50Config) -> None:
        super().__init__()
        self.config = config
        inputs = self._width(config.stem_width, 1.0)
        self.stem = Stem(self._stem_middle(1.0), inputs)
        self.stages = nn.ModuleList()
        for number, (full, stage) in enumerate(zip(config.stage_widths, self.space.stages[1:], strict=True)):
            outputs = self._width(full, 1.0)
            middle = self._middle(outputs, config.expand_ratios[-1])
            stride = 1 if number == 0 else 2
            blocks = bottleneck_stage(inputs, middle, outputs, blocks=stage.blocks, stride=stride)
            self.stages.append(LayerSelect(*blocks))
            inputs = outputs
        self.classifier = SlicedLinear(inputs, config.classes)

    @cached_property
    def space(self) -> SearchSpace:
        """Stage 0 is the stem's residual block, the others are numbered from 1 as in OFA's ``d``.

        Widths ``stem.middle``, ``stem``, ``stageI``, and ``stageI.blockJ`` for the expand ratios.
        """
        extra = self.config.extra_depths
        depths = [tuple(base + more for more in extra) for base in self.config.base_depths]
        stages = (Stage(1, (0, 1)), *(Stage(options[-1], options) for options in depths))
        ratios, expand = self.config.width_ratios, self.config.expand_ratios
        widths = [Width("stem.middle", ratios), Width("stem", ratios)]
        for i, stage in enumerate(stages[1:], start=1):
            widths.append(Width(f"stage{i}", ratios))
            widths += [Width(f"stage{i}.block{j}", expand, stage=i, block=j) for j in range(stage.blocks)]
        return SearchSpace(stages, tuple(widths))

    def ofa_spec(self, d: int | Sequence[int], e: float | Sequence[float], w: int | Sequence[int]) -> SubnetSpec:
        """The subnet that ``OFAResNets.set_active_subnet(d, e, w)`` makes active.

        Args:
            d: extra blocks: of the stem (its residual block runs exactly at the greatest value), then per stage.
            e: expand ratio of each block at full depth.
            w: *index* into the width ratios: stem middle, stem, then per stage.

        A scalar stands for all entries.

        Raises:
            IllegalSubnetError: for a value outside the space, or a wrong number of them.
        """
        stages, options = len(self.config.stage_widths), self.config.width_ratios
        blocks = sum(stage.blocks for stage in self.space.stages[1:])
        extra = per_entry("d", d, stages + 1)
        expand = iter(per_entry("e", e, blocks))
        indices = per_entry("w", w, stages + 2)
        if not all(0 <= index < len(options) for index in indices):
            raise IllegalSubnetError(f"w {list(indices)} must hold indices into {options}")
        names = ("stem.middle", "stem", *(f"stage{i}" for i in range(1, stages + 1)))
        ratios = {name: options[int(index)] for name, index in zip(names, indices, strict=True)}
        for i, stage in enumerate(self.space.stages[1:], start=1):
            ratios |= {f"stage{i}.block{j}": next(expand) for j in range(stage.blocks)}
        kept = [base + int(more) for base, more in zip(self.config.base_depths, extra[1:], strict=True)]
        return self.space.spec((int(extra[0] == self.config.extra_depths[-1]), *kept), ratios)

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        ratios = dict(spec.widths)
        middle, width = self._stem_middle(ratios["stem.middle"]), self._width(self.config.stem_width, ratios["stem"])
        slices = {"stem.conv1": (middle, 3), "stem.conv2": (width, middle)}
        channels = {"stem.norm1": middle, "stem.norm2": width}
        keep: dict[str, tuple[int, ...]] = {"stem.residual": spec.keep[0]}
        if spec.keep[0]:
            slices["stem.residual.0.conv"] = (middle, middle)
            channels["stem.residual.0.norm"] = middle
        for i, (full, blocks) in enumerate(zip(self.config.stage_widths, spec.keep[1:], strict=True)):
            keep[f"stages.{i}"] = blocks
            outputs = self._width(full, ratios[f"stage{i + 1}"])
            for j in blocks:
                expanded = self._middle(outputs, ratios[f"stage{i + 1}.block{j}"])
                bottleneck_geometry(f"stages.{i}.{j}", (width, expanded, outputs), slices, channels)
                width = outputs
        slices["classifier"] = (self.config.classes, width)
        return Geometry(keep, slices, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images (rows, 3, height, width), float32, to logits (rows, classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def _width(self, full: int, ratio: float) -> int:
        return make_divisible(full * ratio, self.config.divisor)

    def _stem_middle(self, ratio: float) -> int:
        return make_divisible(self._width(self.config.stem_width, ratio) // 2, self.config.divisor)

    def _middle(self, outputs: int, expand: float) -> int:
        return make_divisible(round(outputs * expand), self.config.divisor)


@register("ofa_resnet50", OfaResNet50Config)
def ofa_resnet50(config: OfaResNet50Config) -> OfaResNet50:
    """Build OFA-ResNet50."""
    return OfaResNet50(config)
