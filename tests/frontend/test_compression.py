import gzip
import zlib
from contextlib import suppress

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from superserve.errors import InvalidRequestError, PayloadTooLargeError
from superserve.frontend.compression import Inflater, choose, deflate

LIMIT = 1_000_000


def expand(body: bytes, coding: bytes, limit: int = LIMIT) -> bytes:
    """All steps of an `Inflater`."""
    inflater = Inflater(body, coding, limit)
    while (expanded := inflater.step()) is None:
        pass
    return expanded


def raw_deflate(body: bytes) -> bytes:
    """Deflate without its zlib header, as some clients send it."""
    return zlib.compress(body)[2:-4]


@given(st.binary(max_size=5000))
def test_every_spelling_comes_out(body: bytes) -> None:
    """gzip, gzip of two members, zlib, and deflate without a header."""
    assert expand(gzip.compress(body), b"gzip") == body
    assert expand(gzip.compress(body) * 2, b"x-gzip") == body * 2
    assert expand(zlib.compress(body), b"deflate") == body
    assert expand(raw_deflate(body), b"deflate") == body


def test_steps_are_small_whatever_the_body_is_made_of() -> None:
    """A million members of nothing, or of a little: each step looks at a small part of them, and copies no more."""
    for member in (gzip.compress(b""), gzip.compress(b"x" * 100)):
        body = member * 20_000
        inflater = Inflater(body, b"gzip", 10 * LIMIT)
        steps = 1
        while (expanded := inflater.step()) is None:
            steps += 1
        assert expanded == gzip.decompress(member) * 20_000
        assert len(body) / 10_000 < steps < len(body) / 1000


def test_a_slice_may_end_anywhere() -> None:
    """Within a member or between two, with output left in the stream or none."""
    for size in (255, 256, 257, 512):
        noise = np.random.default_rng(size).bytes(size * 1024)
        for body in (noise, bytes(size * 1024)):
            assert expand(gzip.compress(body) * 2, b"gzip", 10 * LIMIT) == body * 2
            assert expand(zlib.compress(body, 0), b"deflate", 10 * LIMIT) == body


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_the_limit_is_exact(coding: bytes) -> None:
    """As many bytes as the limit pass, one more does not, and what is behind it is never expanded."""
    for size, fits in ((LIMIT, True), (LIMIT + 1, False), (100 * LIMIT, False)):
        body = deflate(bytes(size), coding)
        if fits:
            assert expand(body, coding) == bytes(size)
            continue
        with pytest.raises(PayloadTooLargeError, match=str(LIMIT)):
            expand(body, coding)


@given(st.binary(max_size=300), st.sampled_from([b"gzip", b"deflate"]))
def test_noise_is_refused_or_expanded(body: bytes, coding: bytes) -> None:
    """Nothing else is raised, and it always ends."""
    with suppress(InvalidRequestError, PayloadTooLargeError):
        expand(body, coding)


@given(st.binary(min_size=1, max_size=300), st.data(), st.sampled_from([b"gzip", b"deflate"]))
def test_a_body_cut_short_is_refused(body: bytes, data: st.DataObject, coding: bytes) -> None:
    """Wherever the cut is."""
    whole = deflate(body, coding)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(InvalidRequestError, match="Content-Encoding"):
        expand(whole[:cut], coding)


@pytest.mark.parametrize(
    ("accepted", "size", "coding"),
    [
        (b"gzip", 300, b"gzip"),
        (b"deflate", 300, b"deflate"),
        (b"GZIP;q=0.5", 300, b"gzip"),
        (b"gzip, deflate", 300, None),
        (b"gzip, deflate", 5000, b"gzip"),
        (b"gzip;q=0.1, deflate;q=0.9", 5000, b"deflate"),
        (b"gzip;q=0, deflate;q=0", 5000, None),
        (b"br, zstd", 5000, None),
        (b"gzip;q=nonsense", 5000, None),
        (b"identity", 5000, None),
        (b"", 5000, None),
        (b"gzip", 1_000_000, None),
    ],
)
def test_when_a_response_is_compressed(accepted: bytes, size: int, coding: bytes | None) -> None:
    """By preference; not where it gains nothing, nor where it would hold up others."""
    assert choose(accepted, size) == coding
