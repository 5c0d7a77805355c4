"""Attention with relative positions on a square grid of patches, a class token before them.

AutoFormer adds to the score of a query for a key, and to the value that is taken from there, an embedding of the way
from patch to patch: an entry of a vertical table, by the distance in rows, plus one of a horizontal table. Written out
that is a tensor (tokens, tokens, head width), 10 MB at 224 pixels, which its code makes anew in every layer. But where
a way ends matters only through the *lines* that the token there lies on: a row and a column of the grid, or the class
token. So a query's products with the embeddings of the ways to 2 * side + 1 lines are all that its scores need: they
become further channels of the query, where each key says on which lines it lies, and attention is one fused operation.
Values come back likewise: how much of the attention went to each line, times the embedding of the way there.

At 14 x 14 patches and 4 heads of 64, on one thread, a layer's attention takes 1.8 ms instead of 17 or more for one
image and 12 instead of 30 or more for eight; without relative positions 0.6 and 5.4 (benchmarks/relative_position.py).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Lines(NamedTuple):
    """The lines of a grid: the class token by itself, ``side`` rows, ``side`` columns."""

    entries: Tensor
    """Which embedding of `RelativePosition.table` leads from a token to a line, (rows, 1, tokens, lines), int64."""
    members: Tensor
    """1 where a token lies on a line, else 0: (rows, 1, tokens, lines), of the activations' dtype."""


def lines_of(side: int, reach: int, like: Tensor) -> Lines:
    """The lines of a grid of ``side * side`` patches.

    Args:
        side: patches in a row.
        reach: the largest distance that has an embedding of its own; those beyond share it.
        like: activations (rows, ...) of the network, also for their device and dtype.
    """
    line = torch.arange(side, device=like.device)
    entries_per_table = 2 * reach + 2
    to_class, nothing = 2 * entries_per_table, 2 * entries_per_table + 1
    # Of each patch, row by row.
    places = torch.stack((line.repeat_interleave(side), line.repeat(side)))[..., None]
    rows, columns = ((line - places).clamp(-reach, reach) + reach + 1).unbind()
    entries = functional.pad(torch.cat((rows, columns + entries_per_table), 1), (1, 0), value=to_class)
    # From the class token it is the same way to every patch; it has to be counted once, for the patch's row.
    first = functional.pad(torch.full_like(line, nothing), (1 + side, 0), value=to_class)
    on_rows, on_columns = (line == places).to(like.dtype).unbind()
    members = functional.pad(torch.cat((on_rows, on_columns), 1), (1, 0))
    itself = functional.pad(torch.ones_like(members[:1, :1]), (0, 2 * side))
    per_token = torch.cat((first[None], entries)), torch.cat((itself, members))
    return Lines(*(x.expand(like.size(0), 1, -1, -1) for x in per_token))


class RelativePosition(nn.Module):
    """Embeddings of the ways between tokens: of a distance in rows, and of one in columns.

    Args:
        width: of a head.
        reach: the largest distance that has an embedding of its own.
    """

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        # Entry 0 of both is for the class token, entry reach + 1 for distance 0.
        self.embeddings_table_v = nn.Parameter(torch.empty(2 * reach + 2, width))
        self.embeddings_table_h = nn.Parameter(torch.empty(2 * reach + 2, width))

    def table(self) -> Tensor:
        """Vertical entries, horizontal ones, their sum for the class token, and zero: (entries, width)."""
        vertical, horizontal = self.embeddings_table_v, self.embeddings_table_h
        to_class = vertical[:1] + horizontal[:1]
        return torch.cat((vertical, horizontal, to_class, torch.zeros_like(to_class)))

    def scores(self, query: Tensor, lines: Lines) -> Tensor:
        """Products of queries (rows, heads, tokens, width) with the ways to each line: (rows, heads, tokens, lines)."""
        products = query @ self.table().T
        return products.gather(-1, _for_heads(lines.entries, query))

    def values(self, shares: Tensor, lines: Lines) -> Tensor:
        """What shares of attention per line, (rows, heads, tokens, lines), bring: (rows, heads, tokens, width)."""
        table = self.table()
        spread = shares.new_zeros(shares.size(0), shares.size(1), shares.size(2), len(table))
        return spread.scatter_add(-1, _for_heads(lines.entries, shares), shares) @ table


def attend(heads: Tensor, to_keys: RelativePosition, to_values: RelativePosition, lines: Lines, scale: float) -> Tensor:
    """Attention with relative positions.

    Args:
        heads: queries, keys and values, (3, rows, heads, tokens, width).
        to_keys: what keys have in addition, as each query sees them.
        to_values: likewise, what values have.
        lines: of the grid.
        scale: of all scores.

    Returns:
        (rows, heads, tokens, width).
    """
    query, key, value = heads.unbind()
    members = _for_heads(lines.members, query)
    attended = functional.scaled_dot_product_attention(
        torch.cat((query, to_keys.scores(query, lines)), -1),
        torch.cat((key, members), -1),
        torch.cat((value, members), -1),
        scale=scale,
    )
    width = query.size(-1)
    return attended[..., :width] + to_values.values(attended[..., width:], lines)


def _for_heads(per_token: Tensor, like: Tensor) -> Tensor:
    """(rows, 1, tokens, lines) for every head of ``like`` (rows, heads, ...)."""
    return per_token.expand(-1, like.size(1), -1, -1)
