"""LayerSelect: run a set of a stage's blocks."""

from abc import abstractmethod
from typing import Generic, TypeVar

from torch import nn

from superserve.supernet.operators.slot import Slot

T = TypeVar("T")
X = TypeVar("X")


class KeepSet(Generic[T]):
    """A module that runs a set of blocks: all of a stage (`LayerSelect`), or one that runs or does not.

    Laid out like `WeightSlice`, for the same reason.
    """

    __slots__ = ()
    slot: Slot[T]

    @abstractmethod
    def bind(self, keep: tuple[int, ...]) -> T:
        """What goes into the slot to run the blocks of these indices."""

    @abstractmethod
    def extract(self, keep: tuple[int, ...]) -> nn.Module:
        """What those blocks compute as a plain module; made of the operator's own parts, not of copies."""


class LayerSelect(nn.Sequential, KeepSet[tuple[nn.Module, ...]]):
    """A stage of which a set of blocks runs; a block outside it passes its input on unchanged, at no cost."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.slot = Slot[tuple[nn.Module, ...]]()

    def bind(self, keep: tuple[int, ...]) -> tuple[nn.Module, ...]:
        """The blocks of a keep set, in order."""
        return tuple(self[index] for index in keep)

    def extract(self, keep: tuple[int, ...]) -> nn.Sequential:
        """The kept blocks alone, renumbered from 0; the blocks are the operator's own, not copies."""
        return nn.Sequential(*self.bind(keep))

    def forward(self, x: X) -> X:
        """Run the kept blocks, each on what the one before it returned; types and shapes are the blocks' concern."""
        for block in self.slot.value:
            x = block(x)
        return x
