"""Word pieces: from a text to the numbers that a text model reads.

Source: the tokeniser of BERT's uncased models (Devlin et al. 2019, ``tokenization.py`` of google-research/bert):
control characters are dropped, letters lowered and stripped of accents, punctuation and CJK characters stand alone, and
every word is cut greedily into the longest pieces of a vocabulary; ``##`` begins a piece that goes on with a word. So a
vocabulary of BERT's can be used as it is, and one learnt from other texts as well.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

PADDING: Final = "[PAD]"
UNKNOWN: Final = "[UNK]"
START: Final = "[CLS]"
END: Final = "[SEP]"

#: How a piece begins that is not the first of its word.
INSIDE: Final = "##"

#: A longer word is unknown, as in BERT's code; it also bounds the work of one word.
_LONGEST_WORD: Final = 100

#: Words whose pieces are remembered.
_REMEMBERED: Final = 1 << 15

#: What a decoder puts in the place of bytes that are no UTF-8: dropped, too.
_REPLACED: Final = "\ufffd"

#: Of ASCII text, lowered: a run of letters and digits, or one punctuation mark.
_ASCII_WORD: Final = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")

#: The same of any text, once `_spaced` has put spaces around what stands alone.
_SPACED_WORD: Final = re.compile(r"\S+")

#: Unified ideographs, as BERT's code lists them: kana and hangul are written in words.
_IDEOGRAPHS: Final = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def words(text: str) -> Iterator[str]:
    """The normalised words of a text, punctuation marks among them, one by one: who has enough, stops."""
    if text.isascii():
        pattern, clean = _ASCII_WORD, _dropped(text).lower()
    else:
        pattern, clean = _SPACED_WORD, _spaced(text)
    return (match.group() for match in pattern.finditer(clean))


class Tokenizer:
    """Cuts texts into the pieces of a vocabulary.

    Args:
        pieces: the vocabulary; a piece's number is its place. Holds at least `PADDING`, `UNKNOWN` and `START`; if it
            holds `END` too, texts end with it.

    Raises:
        ValueError: if one of them is missing, or a piece is empty or there twice.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        if len(self._numbers) != len(pieces) or "" in self._numbers:
            raise ValueError("pieces must be different from each other, and none empty")
        missing = [piece for piece in (PADDING, UNKNOWN, START) if piece not in self._numbers]
        if missing:
            raise ValueError(f"pieces lack {', '.join(missing)}")
        self.padding: Final = self._numbers[PADDING]
        self.unknown: Final = self._numbers[UNKNOWN]
        self._start = (self._numbers[START],)
        self._end = (self._numbers[END],) if END in self._numbers else ()
        self._pieces = tuple(pieces)
        self._longest = max(map(len, pieces))
        self._cut = lru_cache(_REMEMBERED)(self._pieces_of)

    def encode(self, text: str, length: int) -> list[int]:
        """The numbers of a text's pieces, start and end included; what goes beyond ``length`` is cut off."""
        room = length - len(self._end)
        numbers = list(self._start)
        for word in words(text):
            numbers += self._cut(word) if len(word) <= _LONGEST_WORD else (self.unknown,)
            if len(numbers) >= room:
                break
        return numbers[:room] + list(self._end)

    def decode(self, numbers: Sequence[int]) -> list[str]:
        """The words that numbers stand for; start, end and padding are left out."""
        found: list[str] = []
        silent = {self.padding, *self._start, *self._end}
        for piece in (self._pieces[number] for number in numbers if number not in silent):
            if piece.startswith(INSIDE) and found:
                found[-1] += piece.removeprefix(INSIDE)
            else:
                found.append(piece)
        return found

    def _pieces_of(self, word: str) -> tuple[int, ...]:
        """The longest piece that the word begins with, then of the rest; unknown if some rest has none."""
        numbers, at, prefix = [], 0, ""
        while at < len(word):
            for end in range(min(len(word), at + self._longest), at, -1):
                number = self._numbers.get(prefix + word[at:end])
                if number is not None:
                    break
            else:
                return (self.unknown,)
            numbers.append(number)
            at, prefix = end, INSIDE
        return tuple(numbers)


def _dropped(text: str) -> str:
    """Without control characters; all white space is a space."""
    if text.isprintable() and _REPLACED not in text:
        return text
    return "".join(" " if mark.isspace() else mark for mark in text if mark.isspace() or not _is_control(mark))


def _spaced(text: str) -> str:
    """Lowered and stripped, with spaces around everything that is a word of its own."""
    bare = unicodedata.normalize("NFD", _dropped(text).lower())
    return "".join(f" {mark} " if _stands_alone(mark) else mark for mark in bare if unicodedata.category(mark) != "Mn")


def _is_control(mark: str) -> bool:
    return mark == _REPLACED or unicodedata.category(mark).startswith("C")


def _stands_alone(mark: str) -> bool:
    if mark.isascii():
        return not mark.isalnum() and not mark.isspace()
    code = ord(mark)
    return unicodedata.category(mark).startswith("P") or any(low <= code <= high for low, high in _IDEOGRAPHS)
