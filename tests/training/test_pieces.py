from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.tokenizer import INSIDE, Tokenizer, words
from superserve.training.pieces import SPECIAL, learn_pieces


def slowly(texts: list[str], size: int, least: int) -> list[str]:
    """Byte-pair encoding as it is defined: count all pairs, merge the most frequent one, begin again."""
    counts = Counter(word for text in texts for word in words(text))
    spelt = {word: [word[0], *(INSIDE + mark for mark in word[1:])] for word in counts}
    pieces = [*SPECIAL, *sorted({piece for spelling in spelt.values() for piece in spelling})]
    while len(pieces) < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, spelling in spelt.items():
            for pair in pairwise(spelling):
                pairs[pair] += counts[word]
        if not pairs or max(pairs.values()) < least:
            break
        first, second = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = first + second.removeprefix(INSIDE)
        for word, spelling in spelt.items():
            after: list[str] = []
            for piece in spelling:
                if after and (after[-1], piece) == (first, second):
                    after[-1] = merged
                else:
                    after.append(piece)
            spelt[word] = after
        if merged not in pieces:
            pieces.append(merged)
    return pieces


TEXTS = st.lists(st.text("abc é", max_size=12), max_size=8)


@given(TEXTS, st.integers(12, 25), st.integers(1, 3))
def test_pieces_are_those_of_the_plain_algorithm(texts: list[str], size: int, least: int) -> None:
    assert learn_pieces(texts, size, least=least) == slowly(texts, size, least)


@given(TEXTS)
def test_no_training_text_holds_anything_unknown(texts: list[str]) -> None:
    tokenizer = Tokenizer(learn_pieces(texts, 20))
    for text in texts:
        numbers = tokenizer.encode(text, 1000)
        assert tokenizer.unknown not in numbers
        assert tokenizer.decode(numbers) == list(words(text))


def test_frequent_words_become_one_piece() -> None:
    pieces = learn_pieces(["card card cards", "my card is lost"], 40)
    assert "card" in pieces
    assert "lost" not in pieces  # seen once


def test_too_many_characters_are_refused() -> None:
    with pytest.raises(ValueError, match="7 characters, more than 6"):
        learn_pieces(["a b c d"], 6)
