"""What one watched forward has shown."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from superserve.supernet.conversion.adaptations import Adaptation, Projection, Units
from superserve.supernet.conversion.groups import Group, Join
from superserve.supernet.conversion.layers import Layers
from superserve.supernet.conversion.operand import Owner


@dataclass(frozen=True)
class Candidate:
    """A module whose output is its input plus something."""

    module: str
    keyword: str | None
    answers: int
    """Length of the tuple that it answers with, of which the first is the tensor; 0 for a tensor alone."""
    alone: bool
    """Whether it is called with its input and nothing else, and answers with a tensor."""
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A place where the model asked for the truth of a tensor that depends on its input."""

    outcome: bool
    where: str


@dataclass
class Trace:
    """What one forward showed."""

    layers: Layers = field(default_factory=Layers)
    candidates: list[Candidate] = field(default_factory=list)
    calls: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    """Modules with parameters, in the order in which they were called, with their input's rank."""
    adaptations: dict[str, Adaptation] = field(default_factory=dict)
    """What adapters say, by module."""
    units: dict[str, Units] = field(default_factory=dict)
    """Of these, the modules with units that ran, except inside of one another."""
    joins: dict[str, Join] = field(default_factory=dict)
    """What modules with the adaptation `Concatenation` have put together."""
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the outputs of their parts."""
    branches: list[Branch] = field(default_factory=list)
    foreign: dict[Owner, str] = field(default_factory=dict)
    """Parameters used by something else than their own layer."""
    unknown: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Modules whose weight takes part in a product that no rule knows for a layer: what it is, and why it stays."""
    reshapes: list[tuple[Group, str, int]] = field(default_factory=list)
    """Groups that a module's forward reshaped, with the size of the group's dimension afterwards."""
    output: Any = None

    def projection(self, layer: str) -> Projection | None:
        """What an adapter says of a layer that is a projection."""
        said = self.adaptations.get(layer)
        return said if isinstance(said, Projection) else None


def repeated_calls(found: Trace) -> set[str]:
    """Modules that were called more than once."""
    return {name for name, count in Counter(name for name, _ in found.calls).items() if count > 1}
