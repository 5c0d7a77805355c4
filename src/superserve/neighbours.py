"""Steps from a subnet to its neighbours in a search space.

A lever is what steps together: the depths of all stages, or the widths whose names differ in numbers alone.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeVar

from superserve.subnet import SearchSpace, SubnetSpec

DEPTH: Final = "depth"

_Value = TypeVar("_Value", int, float)


def levers(space: SearchSpace) -> tuple[str, ...]:
    """Those with more than one value somewhere: ``depth`` first, then families of widths, in the order of the space."""
    names = [DEPTH] if any(len(stage.depths) > 1 for stage in space.stages) else []
    return (*names, *dict.fromkeys(_family(width.name) for width in space.widths if len(width.ratios) > 1))


def step_down(space: SearchSpace, spec: SubnetSpec, lever: str) -> SubnetSpec:
    """The subnet with everything of a lever at its next smaller value; what is at its smallest stays."""
    depths = tuple(len(keep) for keep in spec.keep)
    ratios = dict(spec.widths)
    if lever == DEPTH:
        smaller = tuple(_below(stage.depths, depth) for stage, depth in zip(space.stages, depths, strict=True))
        return space.spec(smaller, ratios)
    choices = {width.name: width.ratios for width in space.widths}
    return space.spec(
        depths,
        {name: _below(choices[name], ratio) if _family(name) == lever else ratio for name, ratio in ratios.items()},
    )


def _family(width: str) -> str:
    return re.sub(r"\d+", "*", width)


def _below(values: Sequence[_Value], value: _Value) -> _Value:
    return max((one for one in values if one < value), default=value)
