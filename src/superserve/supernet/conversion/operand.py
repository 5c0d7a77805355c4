"""What a trace knows of tensors and of calls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from superserve.supernet.conversion.groups import Group

Dims = list[Group | None]
"""The channel group of each dimension of a tensor; None where it has none and is never sliced."""


@dataclass(eq=False)
class Frame:
    """One call of a module, while it runs."""

    module: str
    keyword: str | None
    """Name of the argument that holds the first tensor; None if it is positional."""


@dataclass(eq=False)
class Info:
    """What is known of one tensor."""

    dims: Dims
    paths: dict[Frame, bool] = field(default_factory=dict)
    """Calls whose first tensor reached this one unchanged (False) or with something added to it (True)."""
    tainted: bool = False
    """Whether its values depend on the model's input."""


class Owner(NamedTuple):
    """Where a parameter or buffer belongs."""

    module: str
    name: str


@dataclass(eq=False)
class Operand:
    """A tensor among a call's arguments, as it was before the call."""

    shape: tuple[int, ...]
    info: Info
    owner: Owner | None
    """Set for parameters and buffers of the model."""
    claimed: bool = False
    """Whether a rule understood this use of a parameter."""

    @property
    def dims(self) -> Dims:
        """The group of each dimension."""
        return self.info.dims

    def fix(self, reason: str, dims: Sequence[int] | None = None) -> None:
        """Fix the groups of some dimensions, or of all."""
        for dim in range(len(self.dims)) if dims is None else dims:
            group = self.dims[dim]
            if group is not None:
                group.fix(reason)


@dataclass(frozen=True)
class Call:
    """One torch function call: its arguments with operands in place of tensors, and the shapes of its results."""

    name: str
    where: str
    """Module that made it."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def place(self) -> str:
        """The module that made it, in words."""
        return self.where or "the model itself"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only, or first, result."""
        return self.shapes[0]

    @property
    def operands(self) -> list[Operand]:
        """Every tensor among the arguments."""
        return list(_operands((self.args, dict(self.kwargs))))

    def argument(self, position: int, name: str, default: Any = None) -> Any:  # noqa: ANN401 (any argument)
        """An argument by position or name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def operand(self, position: int, name: str) -> Operand | None:
        """A tensor argument, or None if it is absent."""
        found = self.argument(position, name)
        return found if isinstance(found, Operand) else None

    @property
    def first(self) -> Operand:
        """The first tensor."""
        return self.operands[0]


def _operands(tree: object) -> Iterator[Operand]:
    if isinstance(tree, Operand):
        yield tree
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from _operands(item)
    elif isinstance(tree, Mapping):
        yield from _operands(tuple(tree.values()))


def index(dim: int, rank: int) -> int:
    """A dimension counted from the front."""
    return dim % rank if rank else 0
