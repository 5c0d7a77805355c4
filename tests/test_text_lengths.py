"""The router's reckoning of lengths is the worker's."""

from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from superserve.text_lengths import TextLengths
from support.texts import PREPROCESSING, cells, padded_length

LENGTHS = TextLengths.of(msgspec.to_builtins(PREPROCESSING))


@given(st.lists(st.one_of(st.binary(max_size=64), st.text("how much?ß ", max_size=30).map(str.encode)), min_size=1))
def test_a_bucket_is_the_length_that_the_worker_pads_to(texts: list[bytes]) -> None:
    assert LENGTHS is not None
    assert LENGTHS.lengths[LENGTHS.bucket_of(texts)] == padded_length(cells(*texts))


@pytest.mark.parametrize("preprocessing", [{}, {"type": "none"}, {"type": "image", "layout": "HW"}])
def test_other_models_have_no_lengths(preprocessing: dict[str, Any]) -> None:
    assert TextLengths.of(preprocessing) is None
