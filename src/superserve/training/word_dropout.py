"""Augmentation of texts: pieces made unknown, and pieces left out."""

from dataclasses import dataclass

import torch
from torch import Tensor

#: The number of padding in vocabularies learnt here.
PADDING: int = 0


@dataclass(frozen=True)
class WordDropout:
    """Changes each piece of a text by a draw of its own; the first one, which stands for the whole text, stays.

    Source: Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods", ACL 2015 (leaving words out).
    """

    unknown: int
    """The number of the unknown piece."""
    make_unknown: float = 0.1
    leave_out: float = 0.1

    def __call__(self, numbers: Tensor, generator: torch.Generator, /) -> tuple[Tensor, Tensor]:
        """Piece numbers (rows, pieces), padded with `PADDING`, to network inputs as `trimmed` gives them."""
        draw = torch.rand(numbers.shape, generator=generator)
        draw[:, 0] = 1.0
        drawn_unknown = draw < self.make_unknown
        stays = (numbers != PADDING) & (drawn_unknown | (draw >= self.make_unknown + self.leave_out))
        changed = torch.where(stays, torch.where(drawn_unknown, self.unknown, numbers), PADDING)
        # What stays moves to the front, in its order.
        order = (~stays).to(torch.int8).argsort(dim=1, stable=True)
        return trimmed(changed.gather(1, order))


def trimmed(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Piece numbers (rows, pieces), padded with `PADDING`, cut to the longest row; and their mask, int64 both."""
    mask = numbers != PADDING
    length = int(mask.sum(1).max())
    return numbers[:, :length], mask[:, :length].long()
