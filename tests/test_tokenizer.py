from itertools import chain

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.tokenizer import Tokenizer, words

PIECES = ("[PAD]", "[UNK]", "[CLS]", "what", "##s", "is", "the", "rate", "un", "##a", "##ff", "##able", "?", "'", "s")
BERT_LIKE = (*PIECES, "[SEP]")


def shown(tokenizer: Tokenizer, pieces: tuple[str, ...], text: str, length: int = 32) -> list[str]:
    return [pieces[number] for number in tokenizer.encode(text, length)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What's the RATE?", ["what", "'", "s", "the", "rate", "?"]),
        ("unaffable", ["un", "##a", "##ff", "##able"]),  # the example of BERT's own tests
        ("unaffableness", ["[UNK]"]),
        ("thé rate", ["the", "rate"]),
        ("the\u4e00rate", ["the", "[UNK]", "rate"]),
        ("what\x00s\tis", ["what", "##s", "is"]),
        ("ra\ufffdte", ["rate"]),
        ("", []),
        (" \n", []),
        ("a" * 101, ["[UNK]"]),
    ],
)
def test_texts_in_pieces(text: str, expected: list[str]) -> None:
    assert shown(Tokenizer(PIECES), PIECES, text) == ["[CLS]", *expected]
    assert shown(Tokenizer(BERT_LIKE), BERT_LIKE, text) == ["[CLS]", *expected, "[SEP]"]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_long_texts_are_cut_off(length: int) -> None:
    assert (
        shown(Tokenizer(PIECES), PIECES, "the rate is " * 9, length) == ["[CLS]", "the", "rate", "is", "the"][:length]
    )
    assert shown(Tokenizer(BERT_LIKE), BERT_LIKE, "the rate is " * 9, length)[-1] == "[SEP]"
    assert len(Tokenizer(BERT_LIKE).encode("the rate is " * 9, length)) == length


@given(st.text())
def test_the_words_of_any_text_hold_no_space_and_nothing_twice_lowered(text: str) -> None:
    found = list(words(text))
    assert all(word and not any(mark.isspace() for mark in word) for word in found)
    assert list(chain.from_iterable(map(words, found))) == found


@given(st.lists(st.sampled_from(["what", "whats", "is", "the", "rate", "unaffable", "?", "'", "s"]), max_size=9))
def test_words_come_back(found: list[str]) -> None:
    tokenizer = Tokenizer(BERT_LIKE)
    assert tokenizer.decode(tokenizer.encode(" ".join(found), 100)) == found


@given(st.text(max_size=300), st.integers(2, 40))
def test_any_text_fits_and_has_known_numbers(text: str, length: int) -> None:
    numbers = Tokenizer(BERT_LIKE).encode(text, length)
    assert 2 <= len(numbers) <= length
    assert all(0 < number < len(BERT_LIKE) for number in numbers)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (("[PAD]", "[CLS]", "a"), r"lack \[UNK\]"),
        ((*PIECES, "the"), "different"),
        ((*PIECES, ""), "none empty"),
    ],
)
def test_impossible_vocabularies(pieces: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer(pieces)
