"""The plan of a conversion: which modules become which operators, and what each subnet means for them.

A plan is a plain value. It is what a model folder keeps of a conversion, so that loading one needs neither the
example input nor a trace.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from math import ceil
from typing import Literal

import msgspec

from superserve.subnet import KeepRule, SearchSpace, Stage, SubnetSpec, Width
from superserve.supernet.conversion.adaptations import Projection
from superserve.supernet.operators import Geometry

Kind = Literal["channels", "neurons", "heads"]


class GroupPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Units that are kept from the first on: an elastic width, or what is left of a concatenation."""

    name: str
    """Of the width in the search space: the first module that produces its channels; of a concatenation, its module."""
    kind: Kind
    units: int
    choices: tuple[tuple[float, int], ...]
    """Ratio and number of units kept, in rising order; the last keeps all."""
    stage: int | None = None
    block: int | None = None
    parts: dict[str, int] = {}
    """Of a concatenation: how many units each block adds. Which of them run says how many units there are."""

    def kept(self, ratio: float) -> int:
        """The number of units kept at a ratio."""
        return dict(self.choices)[ratio]


class LayerPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A layer with sliced weights: its full sizes, and the groups that narrow them (None: that size is fixed)."""

    module: str
    outputs: int
    inputs: int
    out_group: int | None
    in_group: int | None
    copies: int = 1
    """How many projections its outputs consist of."""
    projection: Projection | None = None
    """What an adapter says of a layer that torch does not know."""

    @property
    def weight_dims(self) -> tuple[int, int]:
        """The dimensions of the weight that count outputs and inputs."""
        return (1, 0) if self.projection is not None and self.projection.transposed else (0, 1)


class NormPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch normalisation."""

    module: str
    channels: int
    group: int | None


class CounterPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A module with attributes that count units."""

    module: str
    group: int
    attributes: dict[str, int]


class BlockPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One block of a stage."""

    module: str
    skippable: bool
    keyword: str | None = None
    """Name of the argument that holds its input; None if it is the first."""
    answers: int = 0
    """Length of the tuple that it answers with, of which the first is the output; 0 for a tensor alone."""
    alone: bool = True
    """Whether it is called with its input and nothing else, and answers with a tensor."""
    joins: int | None = None
    """Dimension along which its output is concatenated with others'; None if it is a residual block."""


class StagePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run of blocks of which some may be skipped."""

    blocks: tuple[BlockPlan, ...]
    depths: tuple[int, ...]
    rule: KeepRule

    @property
    def choice(self) -> Stage:
        """The stage of the search space."""
        return Stage(len(self.blocks), self.depths, self.rule)


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """Everything that a conversion found out about a model; see `GroupPlan` and its like for the parts."""

    groups: tuple[GroupPlan, ...]
    layers: tuple[LayerPlan, ...]
    norms: tuple[NormPlan, ...]
    counters: tuple[CounterPlan, ...]
    stages: tuple[StagePlan, ...]

    @cached_property
    def space(self) -> SearchSpace:
        """The search space that the plan offers."""
        stages = tuple(stage.choice for stage in self.stages)
        widths = tuple(
            Width(group.name, tuple(ratio for ratio, _ in group.choices), stage=group.stage, block=group.block)
            for group in self.groups
            if not group.parts
        )
        return SearchSpace(stages, widths)

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        self.space.validate(spec)
        ratios = dict(spec.widths)
        kept = [group.kept(ratios.get(group.name, group.choices[-1][0])) for group in self.groups]
        return self.geometry_of(kept, set(self._dropped(spec)))

    def least(self, number: int) -> tuple[int, set[str]]:
        """How few units of a group may be kept, and, of a concatenation, the blocks that do not run then."""
        group = self.groups[number]
        dropped = {
            block.module
            for stage in self.stages
            for place, block in enumerate(stage.blocks)
            if block.module in group.parts and place not in stage.choice.keep(stage.depths[0])
        }
        return group.choices[0][1], dropped

    def left(self, kept: Sequence[int], dropped: Collection[str]) -> list[int]:
        """How many units of each group there are without these blocks, of those to keep where blocks add none."""
        return [
            group.units - sum(size for block, size in group.parts.items() if block in dropped) if group.parts else count
            for group, count in zip(self.groups, kept, strict=True)
        ]

    def geometry_of(self, kept: Sequence[int], dropped: Collection[str]) -> Geometry:
        """What it means to keep so many units of each group and to drop these blocks."""
        kept = self.left(kept, dropped)

        def size(full: int, group: int | None) -> int:
            return full if group is None else full * kept[group] // self.groups[group].units

        def runs(module: str) -> bool:
            return not any(module == block or module.startswith(f"{block}.") for block in dropped)

        keep = {
            block.module: () if block.module in dropped else (0,)
            for stage in self.stages
            for block in stage.blocks
            if block.skippable
        }
        slices = {
            layer.module: (size(layer.outputs, layer.out_group), size(layer.inputs, layer.in_group))
            for layer in self.layers
            if runs(layer.module)
        }
        slices |= {
            counter.module: (kept[counter.group], self.groups[counter.group].units)
            for counter in self.counters
            if runs(counter.module)
        }
        channels = {norm.module: size(norm.channels, norm.group) for norm in self.norms if runs(norm.module)}
        return Geometry(keep, slices, channels)

    def _dropped(self, spec: SubnetSpec) -> Iterator[str]:
        for stage, kept in zip(self.stages, spec.keep, strict=True):
            for number, block in enumerate(stage.blocks):
                if number not in kept:
                    yield block.module


def choices(units: int, ratios: tuple[float, ...], divisor: int) -> tuple[tuple[float, int], ...]:
    """How many units each ratio keeps: rounded up to a multiple of the divisor, each number once.

    The paper's ceil, on multiples: where two ratios keep the same number the larger ratio stands for it.
    """
    step = divisor if units % divisor == 0 and units > divisor else 1
    kept: Mapping[int, float] = {min(units, step * ceil(units * ratio / step - 1e-9)): ratio for ratio in ratios}
    return tuple(sorted((ratio, count) for count, ratio in kept.items()))
