"""Strategies for input that is almost right, and for what must never come of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis.strategies as st

#: Any JSON value, small.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def spoilt_values(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with some parts of it replaced, left out or doubled."""
    if draw(st.integers(0, 11)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        kept = {name: draw(spoilt_values(inner)) for name, inner in value.items() if draw(st.integers(0, 15))}
        return kept | (draw(st.dictionaries(st.text(max_size=8), JSON, max_size=1)) if draw(st.booleans()) else {})
    if isinstance(value, list) and len(value) < 20:
        items = [
            draw(spoilt_values(inner)) for inner in value for _ in range(draw(st.sampled_from([0, 1, 1, 1, 1, 2])))
        ]
        return items if draw(st.booleans()) else value
    return value


@st.composite
def spoilt_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few places changed, cut out, doubled or filled with noise."""
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.integers(0, 8))
        how = draw(st.sampled_from(["cut", "change", "insert", "double", "end"]))
        noise = draw(st.binary(min_size=size, max_size=size))
        if how == "end":
            data = data[:at]
        elif how == "double":
            data = data[: at + size] + data[at:]
        else:
            data = data[:at] + (b"" if how == "cut" else noise) + data[at if how == "insert" else at + size :]
    return data


class _Defects(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@contextmanager
def no_defects() -> Iterator[None]:
    """Nothing is logged as an error inside: what a client sends is never a defect of ours."""
    handler, logger = _Defects(), logging.getLogger("superserve")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not handler.found, handler.found[0]
