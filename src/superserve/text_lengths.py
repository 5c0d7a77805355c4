"""Which length a text is padded to.

Workers pad by it (``supernet/text.py``), and the router plans with it: it knows no torch.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Self

import msgspec

from superserve.tokenizer import Tokenizer

#: The ``type`` that ``preprocessing`` has in the ``config.json`` of a text model.
TEXT: Final = "text"


class TextLengths(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """How texts are cut into word pieces, and the lengths that batches of them are padded to."""

    pieces: str
    """The vocabulary, separated by spaces; a piece's number is its place. See `Tokenizer`."""
    lengths: tuple[int, ...]
    """Lengths to pad to, rising, in pieces; the last one is the longest text."""

    def __post_init__(self) -> None:
        if not self.lengths or self.lengths[0] < 2 or any(a >= b for a, b in pairwise(self.lengths)):
            raise ValueError(f"lengths {self.lengths} must rise from at least 2")
        Tokenizer(self.pieces.split(" "))

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> Self | None:
        """Those of a ``config.json``, which ``supernet/preprocess.py`` has checked; None unless it takes texts."""
        return msgspec.convert(preprocessing, cls) if preprocessing.get("type") == TEXT else None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What cuts texts."""
        return Tokenizer(self.pieces.split(" "))

    def encode(self, text: bytes) -> list[int]:
        """The numbers of a text's pieces, no more than the longest length; bytes that are no UTF-8 are dropped."""
        return self.tokenizer.encode(text.decode("utf-8", errors="replace"), self.lengths[-1])

    def bucket(self, pieces: int) -> int:
        """The place of the least length that so many pieces fit into."""
        return bisect_left(self.lengths, pieces)

    def bucket_of(self, texts: Iterable[bytes]) -> int:
        """The same of the longest of some texts."""
        return self.bucket(max(len(self.encode(text)) for text in texts))
