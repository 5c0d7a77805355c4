"""LayerSelect: run a set of a stage's blocks."""

from typing import TypeVar

from torch import nn

from superserve.supernet.operators.slot import Slot

X = TypeVar("X")


class LayerSelect(nn.Sequential):
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
