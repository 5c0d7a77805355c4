"""Learn a vocabulary of word pieces from texts."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import Final

from superserve.tokenizer import INSIDE, PADDING, START, UNKNOWN, words

#: What every vocabulary begins with; padding is number 0.
SPECIAL: Final = (PADDING, UNKNOWN, START)

_Pair = tuple[str, str]


def learn_pieces(texts: Iterable[str], size: int, *, least: int = 2) -> list[str]:
    """A vocabulary: `SPECIAL`, every character, then the pairs of pieces that were merged, the most frequent first.

    Byte-pair encoding of words (Sennrich et al. 2016), as pieces are learnt for greedy matching in Hugging Face's
    ``WordPieceTrainer``. Ties go to the pair that comes first in the alphabet, so that the result is a function of the
    texts alone.

    Args:
        texts: what to learn from.
        size: pieces at most.
        least: a pair that is seen less often is not merged.

    Raises:
        ValueError: if the characters alone are more than ``size``.
    """
    counts = Counter(word for text in texts for word in words(text))
    spelt = {word: [word[0], *(INSIDE + mark for mark in word[1:])] for word in sorted(counts)}
    pieces = [*SPECIAL, *sorted({piece for spelling in spelt.values() for piece in spelling})]
    if len(pieces) > size:
        raise ValueError(f"the texts have {len(pieces)} characters, more than {size}")
    known = set(pieces)
    pairs = _Pairs(spelt, counts)
    while len(pieces) < size and (pair := pairs.most_frequent(least)) is not None:
        merged = pairs.merge(pair)
        if merged not in known:
            known.add(merged)
            pieces.append(merged)
    return pieces


class _Pairs:
    """How often each pair of neighbours is seen, kept up to date while pairs are merged."""

    def __init__(self, spelt: dict[str, list[str]], counts: Counter[str]) -> None:
        self._spelt, self._counts = spelt, counts
        self._seen: Counter[_Pair] = Counter()
        self._where: defaultdict[_Pair, set[str]] = defaultdict(set)
        self._heap: list[tuple[int, _Pair]] = []
        for word in spelt:
            self._count(word, 1)
        self._heap = [(-count, pair) for pair, count in self._seen.items()]
        heapify(self._heap)

    def most_frequent(self, least: int) -> _Pair | None:
        """The pair to merge next; None if all are rarer than ``least``."""
        while self._heap:
            count, pair = self._heap[0]
            if -count == self._seen[pair] and -count >= least:
                return pair
            heappop(self._heap)  # what was true before a merge
        return None

    def merge(self, pair: _Pair) -> str:
        """Make one piece of a pair, in every word that has it; the piece."""
        merged = pair[0] + pair[1].removeprefix(INSIDE)
        changed: set[_Pair] = set()
        for word in sorted(self._where[pair]):
            changed |= self._count(word, -1)
            self._spelt[word] = _joined(self._spelt[word], pair, merged)
            changed |= self._count(word, 1)
        for other in changed:
            heappush(self._heap, (-self._seen[other], other))
        return merged

    def _count(self, word: str, sign: int) -> set[_Pair]:
        """Add a word's pairs, or take them away; the pairs."""
        spelling = self._spelt[word]
        pairs = list(pairwise(spelling))
        for pair in pairs:
            self._seen[pair] += sign * self._counts[word]
            if sign > 0:
                self._where[pair].add(word)
            else:
                self._where[pair].discard(word)
        return set(pairs)


def _joined(spelling: list[str], pair: _Pair, merged: str) -> list[str]:
    result: list[str] = []
    for piece in spelling:
        if result and (result[-1], piece) == pair:
            result[-1] = merged
        else:
            result.append(piece)
    return result
