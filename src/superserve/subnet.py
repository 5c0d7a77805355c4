"""A supernet's search space and the subnets in it, as plain values.

Nothing here imports torch: model folders, profiles and the scheduler name subnets without running them.
"""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Literal

import msgspec
import numpy as np

from superserve.errors import IllegalSubnetError

KeepRule = Literal["first", "spread"]


class SubnetSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """One choice of depths and widths inside a supernet; immutable and hashable.

    ``keep`` holds, per stage, the indices of the blocks that run: a keep *set*, since families differ in which blocks
    a given depth keeps. ``widths`` holds, per elastic width that takes part, its name and its value as a ratio.
    Build one with `SearchSpace.spec`, which leaves out the widths of blocks that do not run, so that two specs are
    equal exactly if they run the same network.
    """

    keep: tuple[tuple[int, ...], ...]
    widths: tuple[tuple[str, float], ...]

    def width(self, name: str) -> float:
        """The ratio of one elastic width.

        Raises:
            IllegalSubnetError: if the subnet has no such width.
        """
        for key, value in self.widths:
            if key == name:
                return value
        raise IllegalSubnetError(f"subnet has no width {name!r}; it has {[key for key, _ in self.widths]}")


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run of ``blocks`` blocks of which any number in ``depths`` may be kept.

    ``rule`` says which ones: ``"first"`` keeps the leading blocks (OFA), ``"spread"`` keeps block floor(i * L / D)
    for i < D of L (DynaBERT).
    """

    blocks: int
    depths: tuple[int, ...]
    rule: KeepRule = "first"

    def keep(self, depth: int) -> tuple[int, ...]:
        """The blocks that run at a depth."""
        if self.rule == "first":
            return tuple(range(depth))
        return tuple(i * self.blocks // depth for i in range(depth))


class Width(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An elastic width and the ratios it may take, in rising order.

    A width that lives inside one block names it (``stage``, ``block``); it matters only if that block runs.
    """

    name: str
    ratios: tuple[float, ...]
    stage: int | None = None
    block: int | None = None


class SearchSpace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The elastic dimensions of a supernet and the values each may take."""

    stages: tuple[Stage, ...]
    widths: tuple[Width, ...]

    def spec(self, depths: tuple[int, ...], ratios: Mapping[str, float]) -> SubnetSpec:
        """The subnet of these depths (one per stage) and width ratios (by name).

        Raises:
            IllegalSubnetError: for a depth or ratio outside the space, or one that is missing or unknown.
        """
        if len(depths) != len(self.stages):
            raise IllegalSubnetError(f"depths {depths} must give one value for each of {len(self.stages)} stages")
        unknown = set(ratios) - {width.name for width in self.widths}
        if unknown:
            raise IllegalSubnetError(f"unknown widths {sorted(unknown)}")
        for number, (stage, depth) in enumerate(zip(self.stages, depths, strict=True)):
            if depth not in stage.depths:
                raise IllegalSubnetError(f"depth {depth} of stage {number} is not one of {stage.depths}")
        keep = tuple(stage.keep(depth) for stage, depth in zip(self.stages, depths, strict=True))
        return SubnetSpec(keep, tuple(self._ratio(width, keep, ratios) for width in self._active(keep)))

    def validate(self, spec: SubnetSpec) -> None:
        """Check that a subnet lies in the space.

        Raises:
            IllegalSubnetError: naming the first dimension that does not fit and what it may be.
        """
        if self.spec(tuple(len(keep) for keep in spec.keep), dict(spec.widths)) != spec:
            raise IllegalSubnetError(
                f"keep set {spec.keep} or widths {spec.widths} are not in the canonical form of this space"
            )

    def smallest(self) -> SubnetSpec:
        """The least depth and the least of every width."""
        depths = tuple(min(stage.depths) for stage in self.stages)
        return self.spec(depths, {width.name: min(width.ratios) for width in self.widths})

    def largest(self) -> SubnetSpec:
        """The greatest depth and the greatest of every width."""
        depths = tuple(max(stage.depths) for stage in self.stages)
        return self.spec(depths, {width.name: max(width.ratios) for width in self.widths})

    def sample(self, rng: np.random.Generator) -> SubnetSpec:
        """A subnet with every dimension drawn uniformly and independently."""
        depths = tuple(int(rng.choice(stage.depths)) for stage in self.stages)
        return self.spec(depths, {width.name: float(rng.choice(width.ratios)) for width in self.widths})

    def uniform(self) -> Iterator[SubnetSpec]:
        """Subnets with the n-th depth in every stage, and one ratio for all widths that have the same choice.

        A few dozen that span the space, from the smallest to the largest.
        """
        kinds = tuple(dict.fromkeys(width.ratios for width in self.widths))
        for level in range(max(len(stage.depths) for stage in self.stages)):
            depths = tuple(stage.depths[min(level, len(stage.depths) - 1)] for stage in self.stages)
            for choice in product(*kinds):
                ratio = dict(zip(kinds, choice, strict=True))
                yield self.spec(depths, {width.name: ratio[width.ratios] for width in self.widths})

    def _active(self, keep: tuple[tuple[int, ...], ...]) -> list[Width]:
        return [
            width
            for width in self.widths
            if width.stage is None or width.block is None or width.block in keep[width.stage]
        ]

    @staticmethod
    def _ratio(width: Width, keep: tuple[tuple[int, ...], ...], ratios: Mapping[str, float]) -> tuple[str, float]:
        if width.name not in ratios:
            raise IllegalSubnetError(f"width {width.name!r} is missing (blocks kept: {keep})")
        if ratios[width.name] not in width.ratios:
            raise IllegalSubnetError(f"width {width.name!r} = {ratios[width.name]} is not one of {width.ratios}")
        return width.name, ratios[width.name]
