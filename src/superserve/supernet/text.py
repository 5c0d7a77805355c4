"""Text preprocessing: from BYTES tensors to token numbers, inside the worker.

A batch is padded to the smallest of the lengths in ``config.json`` that its longest text fits into, so that short
texts cost little and the network meets a handful of shapes. A text is cut off at the greatest of them, whatever its
bytes are: what is no UTF-8 is read as unknown characters.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import msgspec
import numpy as np
import torch
from torch import Tensor

from superserve.protocol.byte_strings import LENGTH
from superserve.supernet.tokenizer import Tokenizer


class TextPreprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="text", dict=True):
    """Cut texts into word pieces and pad them."""

    pieces: str
    """The vocabulary, separated by spaces; a piece's number is its place. See `Tokenizer`."""
    lengths: tuple[int, ...]
    """Lengths to pad to, rising, in pieces; the last one is the longest text."""

    def __post_init__(self) -> None:
        if not self.lengths or self.lengths[0] < 2 or any(a >= b for a, b in pairwise(self.lengths)):
            raise ValueError(f"lengths {self.lengths} must rise from at least 2")
        Tokenizer(self.pieces.split(" "))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What cuts texts."""
        return Tokenizer(self.pieces.split(" "))

    def build(self, device: str = "cpu") -> "TextToTokens":
        """What runs it, on a device."""
        return TextToTokens(self, device)


class TextToTokens:
    """See `Preprocessor`: one tensor of cells in, token numbers and mask out."""

    def __init__(self, config: TextPreprocessing, device: str) -> None:
        self._config = config
        self._device = device

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Cells (rows, ..., 4 + max_bytes) uint8, one per row, to numbers and mask (rows, length) int64."""
        (cells,) = inputs
        rows = cells.cpu().numpy().reshape(len(cells), -1)
        return self.tokens([_text(row.tobytes()) for row in rows])

    def tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Numbers of each text's pieces and a mask (1: text, 0: padding), (rows, length) int64 each."""
        tokenizer, lengths = self._config.tokenizer, self._config.lengths
        encoded = [tokenizer.encode(text, lengths[-1]) for text in texts]
        longest = max(map(len, encoded))
        length = next(length for length in lengths if length >= longest)
        numbers = np.full((len(encoded), length), tokenizer.padding, np.int64)
        mask = np.zeros((len(encoded), length), np.int64)
        for row, found in enumerate(encoded):
            numbers[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return torch.from_numpy(numbers).to(self._device), torch.from_numpy(mask).to(self._device)


def _text(cell: bytes) -> str:
    (size,) = LENGTH.unpack_from(cell)
    return cell[LENGTH.size : LENGTH.size + size].decode("utf-8", errors="replace")
