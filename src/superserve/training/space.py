"""A search space as numbers: how many subnets it has, all of them, and a subnet from one choice per dimension."""

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod

from superserve.subnet import SearchSpace, SubnetSpec


def dimensions(space: SearchSpace) -> dict[str, int]:
    """How many values each dimension may take: ``depth0``, ``depth1``, ..., then the widths by name."""
    depths = {f"depth{number}": len(stage.depths) for number, stage in enumerate(space.stages)}
    return depths | {width.name: len(width.ratios) for width in space.widths}


def subnet(space: SearchSpace, choice: Sequence[int]) -> SubnetSpec:
    """The subnet that takes these values (indices, in the order of `dimensions`).

    Choices for blocks that do not run make no difference: several choices may give one subnet.
    """
    stages = len(space.stages)
    depths = tuple(stage.depths[index] for stage, index in zip(space.stages, choice[:stages], strict=True))
    ratios = {width.name: width.ratios[index] for width, index in zip(space.widths, choice[stages:], strict=True)}
    return space.spec(depths, ratios)


def choice_of(space: SearchSpace, spec: SubnetSpec) -> list[int]:
    """A choice that gives this subnet; 0 for what does not matter."""
    ratios = dict(spec.widths)
    depths = [stage.depths.index(len(keep)) for stage, keep in zip(space.stages, spec.keep, strict=True)]
    return depths + [width.ratios.index(ratios.get(width.name, width.ratios[0])) for width in space.widths]


def count(space: SearchSpace) -> int:
    """How many different subnets there are."""
    free = prod(len(width.ratios) for width in space.widths if width.stage is None or width.block is None)
    return free * prod(
        sum(_inside(space, number, stage.keep(depth)) for depth in stage.depths)
        for number, stage in enumerate(space.stages)
    )


def every(space: SearchSpace) -> Iterator[SubnetSpec]:
    """All of them, each once, starting with the smallest."""
    seen: set[SubnetSpec] = set()
    for choice in product(*(range(values) for values in dimensions(space).values())):
        spec = subnet(space, choice)
        if spec not in seen:
            seen.add(spec)
            yield spec


def _inside(space: SearchSpace, stage: int, keep: Sequence[int]) -> int:
    """How many choices the blocks kept in a stage have."""
    return prod(len(width.ratios) for width in space.widths if width.stage == stage and width.block in keep)
