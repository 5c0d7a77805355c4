"""Compressed bodies, both ways: gzip and deflate (RFC 9110, section 8.4.1). No I/O.

A small body can stand for an enormous one. So a request is expanded in slices, up to the limit that holds for plain
bodies, and other requests are served between the slices.
"""

import zlib
from functools import lru_cache
from typing import Final

from superserve.errors import InvalidRequestError, PayloadTooLargeError

#: What a request's Content-Encoding may say, besides ``identity``.
CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})

#: A slice takes about half a millisecond, and so do the smallest members that fit into this many bytes of input.
_SLICE_BYTES: Final = 256 * 1024
_INPUT_BYTES: Final = 8 * 1024

#: Bodies below gain nothing; a client that names one coding only has asked for it, though, and gets it.
_WORTHWHILE_BYTES: Final = 1024
#: Bodies above would keep the router for longer than other requests can wait: about 3 ms.
_AFFORDABLE_BYTES: Final = 256 * 1024

_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_FASTEST: Final = 1


class Inflater:
    """Expands one body.

    Args:
        body: as received.
        coding: its Content-Encoding, one of `CODINGS`.
        limit: the most bytes that it may stand for.
    """

    def __init__(self, body: bytes, coding: bytes, limit: int) -> None:
        self.size = 0
        """Bytes expanded so far."""
        self._window = _window(body, coding)
        self._body = memoryview(body)
        self._limit = limit
        self._slices: list[bytes] = []
        self._stream = zlib.decompressobj(self._window)

    def step(self) -> bytes | None:
        """Expand one slice more; the whole body once it is complete.

        Raises:
            InvalidRequestError: if the body is damaged, cut short, or followed by something else.
            PayloadTooLargeError: if it expands beyond the limit.
        """
        # zlib hands back what it has not used, so it gets no more than a slice at once: a body of many small members
        # would be copied for each of them.
        left = bytes(self._body[:_INPUT_BYTES])
        taken = len(left)
        room = _SLICE_BYTES
        while True:
            room -= self._expand(left, room)
            left = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if not self._stream.eof or not left or not room:
                break
            self._next_member()
        self._body = self._body[taken - len(left) :]
        return self._ended(full=not room)

    def _expand(self, data: bytes, room: int) -> int:
        try:
            expanded = self._stream.decompress(data, min(room, self._limit + 1 - self.size))
        except zlib.error as error:
            raise InvalidRequestError(f"Content-Encoding: the body cannot be expanded: {error}") from None
        self.size += len(expanded)
        if self.size > self._limit:
            raise PayloadTooLargeError(f"the body expands to more than {self._limit} bytes (max_body_bytes)")
        if expanded:
            self._slices.append(expanded)
        return len(expanded)

    def _ended(self, *, full: bool) -> bytes | None:
        """The whole body if this was its end; ``full`` says that there may be more behind what has been taken."""
        if not self._stream.eof:
            if not self._body and not full:
                raise InvalidRequestError("Content-Encoding: the body ends too early")
            return None
        if not self._body:
            return b"".join(self._slices)
        self._next_member()
        return None

    def _next_member(self) -> None:
        """A gzip file may have several members (RFC 1952, section 2.2)."""
        if self._window != _GZIP_WINDOW:
            raise InvalidRequestError("Content-Encoding: something follows the end of the compressed body")
        self._stream = zlib.decompressobj(self._window)


def _window(body: bytes, coding: bytes) -> int:
    if coding != b"deflate":
        return _GZIP_WINDOW
    # "deflate" means the zlib format, but some senders leave its two bytes of header away.
    wrapped = len(body) >= 2 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    return zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS


def choose(accepted: bytes, size: int) -> bytes | None:
    """The coding for a response of ``size`` bytes to a client with this Accept-Encoding; None for none.

    The header permits compression without asking for it (RFC 9110, section 12.5.3).
    """
    coding, is_only = _preference(accepted)
    if coding is None or size > _AFFORDABLE_BYTES or (size < _WORTHWHILE_BYTES and not is_only):
        return None
    return coding


def deflate(body: bytes, coding: bytes) -> bytes:
    """Compress a body with a coding that `choose` gave."""
    return zlib.compress(body, _FASTEST, _GZIP_WINDOW if coding == b"gzip" else zlib.MAX_WBITS)


@lru_cache(maxsize=256)
def _preference(accepted: bytes) -> tuple[bytes | None, bool]:
    """The coding that a client likes best of those that we have, and whether it named that one only."""
    offers = [offer.strip().lower().partition(b";") for offer in accepted[:1024].split(b",")]
    weighted = [(name.strip(), _weight(parameters)) for name, _, parameters in offers]
    liked = [(weight, name == b"gzip", name) for name, weight in weighted if name in {b"gzip", b"deflate"} and weight]
    return (max(liked)[2], len(offers) == 1) if liked else (None, False)


def _weight(parameters: bytes) -> float:
    name, _, value = parameters.partition(b"=")
    try:
        return float(value) if name.strip() == b"q" else 1.0
    except ValueError:
        return 0.0
