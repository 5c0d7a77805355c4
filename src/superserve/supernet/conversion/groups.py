"""Channel groups: tensor dimensions that can only be made narrower together.

A group is a set of dimensions (of parameters and of activations) tied by the operations between them. Its *units*
are the pieces that are kept or dropped as one: single channels, whole heads, whole groups of a convolution. A
dimension of size ``s`` in a group of ``U`` units holds unit ``i`` at indices ``[i * s / U, (i + 1) * s / U)``, so that
keeping the first ``u`` units keeps its first ``s * u / U`` indices. That is all that prefix slicing needs to know
about a dimension, whether it counts channels, heads, or channels times positions.
"""

from dataclasses import dataclass, field
from math import gcd
from typing import Literal

#: ``out``: the layer produces the channels; ``in``: it consumes them, linearly; ``through``: it treats each alone.
Role = Literal["out", "in", "through"]


@dataclass(frozen=True)
class Member:
    """One dimension of one parameter or buffer in a group."""

    module: str
    parameter: str
    dim: int
    """As torch lays layers out: 0 are the outputs, 1 the inputs, also of a layer whose weight is transposed."""
    size: int
    role: Role
    copies: int = 1
    """How many equal runs the dimension consists of, each of which is narrowed: 3 in a fused qkv projection."""


@dataclass(frozen=True)
class Follower:
    """An attribute of a module that counts units, so that its value must shrink with the group."""

    module: str
    attribute: str
    value: int


@dataclass(eq=False)
class Group:
    """A node of the union-find forest; ask `find` for the root before reading anything else."""

    units: int
    members: list[Member] = field(default_factory=list)
    followers: list[Follower] = field(default_factory=list)
    fixed: str | None = None
    """Why it cannot be made narrower; None if it can."""
    stream: bool = False
    """Whether it was tied by additions of layers' outputs: a residual stream."""
    split: bool = False
    """Whether units are larger than single channels because a reshape made them so: heads."""
    _parent: "Group | None" = None

    def find(self) -> "Group":
        """The group's root."""
        root = self
        while root._parent is not None:
            root = root._parent
        if root is not self:
            self._parent = root
        return root

    def fix(self, reason: str) -> None:
        """Say that the group cannot be made narrower; the first reason stays."""
        root = self.find()
        root.fixed = root.fixed or reason

    def divide(self, size: int) -> None:
        """Tie a dimension of this size to the group: its units must divide it."""
        root = self.find()
        root.units = gcd(root.units, size)
        if root.units == 1:
            root.fix("there is a single unit")

    def add(self, member: Member) -> None:
        """Add a parameter's dimension."""
        root = self.find()
        root.divide(member.size // member.copies)
        if member not in root.members:
            root.members.append(member)


@dataclass(frozen=True, eq=False)
class Join:
    """What a module has concatenated: something of its own, then the outputs of its parts."""

    group: Group
    """Of the concatenated dimension."""
    dim: int
    size: int
    parts: dict[str, int]
    """How much each part adds, by its module, in order."""


def union(first: Group, second: Group) -> Group:
    """Tie two groups; returns their common root."""
    first, second = first.find(), second.find()
    if first is second:
        return first
    first.members += [member for member in second.members if member not in first.members]
    first.followers += [follower for follower in second.followers if follower not in first.followers]
    first.stream |= second.stream
    first.split |= second.split
    first.fixed = first.fixed or second.fixed
    second._parent = first  # noqa: SLF001 (the same class)
    first.divide(second.units)
    return first
