"""Text preprocessing: from BYTES tensors to token numbers, inside the worker.

A batch is padded to the smallest of the lengths in ``config.json`` that its longest text fits into, so that short
texts cost little and the network meets a handful of shapes. A text is cut off at the greatest of them, whatever its
bytes are: what is no UTF-8 is read as unknown characters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from superserve.protocol.byte_strings import LENGTH
from superserve.text_lengths import TEXT, TextLengths


class TextPreprocessing(TextLengths, frozen=True, kw_only=True, forbid_unknown_fields=True, tag=TEXT):
    """Cut texts into word pieces and pad them."""

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

    def tokens(self, texts: Sequence[bytes]) -> tuple[Tensor, Tensor]:
        """Numbers of each text's pieces and a mask (1: text, 0: padding), (rows, length) int64 each."""
        config = self._config
        encoded = [config.encode(text) for text in texts]
        length = config.lengths[config.bucket(max(map(len, encoded)))]
        numbers = np.full((len(encoded), length), config.tokenizer.padding, np.int64)
        mask = np.zeros((len(encoded), length), np.int64)
        for row, found in enumerate(encoded):
            numbers[row, : len(found)] = found
            mask[row, : len(found)] = 1
        return torch.from_numpy(numbers).to(self._device), torch.from_numpy(mask).to(self._device)


def _text(cell: bytes) -> bytes:
    (size,) = LENGTH.unpack_from(cell)
    return cell[LENGTH.size : LENGTH.size + size]
