"""Heads of requests that come again and again, byte for byte: what the parser made of them is kept.

Clients of an inference server send the same request line and headers with every request. Parsing them, with a call for
each header, takes 3.4 µs longer than finding them here (``benchmarks/request_stages.py``).
"""

from typing import Final, NamedTuple

from superserve.frontend.twice import Twice

_END: Final = b"\r\n\r\n"

#: Longer heads are parsed each time, and those beyond the number make the memory start anew: clients that send ever
#: new ones fill no more than 128 KiB.
_MAX_HEAD_BYTES: Final = 1024
_MAX_HEADS: Final = 128

#: With one of these the bytes behind the head are more than a body, or something is to be said before they come.
_NEVER: Final = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class Head(NamedTuple):
    """What a parser made of the head of a request whose connection stays open; ``headers`` are not to be changed."""

    method: bytes
    url: bytes
    headers: dict[bytes, bytes]
    body_bytes: int


class KnownHeads:
    """Remembers heads. One head means the same on every connection of a server, between two requests."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}
        self._twice = Twice()
        self._start = b""
        self._latest = Head(b"", b"", {}, 0), 0
        """What `match` gave last: most often it is the next one, too."""
        self._latest_bytes, self._latest_start = -1, b""

    def __len__(self) -> int:
        return len(self._heads)

    def match(self, data: bytes) -> tuple[Head, int] | None:
        """The head of ``data`` and its length, if that is known and ``data`` is one whole request and nothing else."""
        if len(data) == self._latest_bytes and data.startswith(self._latest_start):
            return self._latest
        end = data.find(_END, 0, _MAX_HEAD_BYTES) + len(_END)
        self._start = start = data[:end]
        head = self._heads.get(start)
        if head is None or len(data) != end + head.body_bytes:
            return None
        self._latest = head, end
        self._latest_bytes, self._latest_start = len(data), start
        return self._latest

    def learn(self, size: int, head: Head) -> None:
        """The parser found this head in what `match` did not know, and took all ``size`` bytes for one request."""
        start = self._start
        # The parser may see the end of a head elsewhere, behind empty lines for example: then the lengths differ.
        if size != len(start) + head.body_bytes or not self._twice.seen(start) or not _NEVER.isdisjoint(head.headers):
            return
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[start] = head
