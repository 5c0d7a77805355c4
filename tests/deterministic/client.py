"""One client connection: what it sends when, and what it thinks of the answers."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httptools

from deterministic.asks import Ask, Response, complaint
from deterministic.loop import VirtualLoop
from deterministic.network import Connection, Network


@dataclass(frozen=True)
class Sending:
    """A piece of a stream. ``ask``: whose bytes; ``first`` and ``last``: which of them, as parts of the whole."""

    at_ns: int
    ask: Ask
    first: float = 0.0
    last: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """How a client goes."""

    at_ns: int
    reset: bool


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What a client does; times are relative to the start."""

    at_ns: int
    delay_ns: int
    sendings: Sequence[Sending]
    leaving: Leaving | None = None
    blind: tuple[int, int] | None = None
    """From when to when it reads nothing."""


class Session:
    """A client at work: see `deterministic.network.Peer`.

    Args:
        loop: has the time.
        visit: what it does.
        told: who hears of what happens: an event in words, and a complaint or nothing.
    """

    def __init__(self, loop: VirtualLoop, visit: Visit, name: str, told: Callable[[str, str], None]) -> None:
        self._loop = loop
        self._visit = visit
        self._unsent = deque(visit.sendings)
        self._name = name
        self._told = told
        self._connection: Connection | None = None
        self._sent: deque[tuple[int, Ask]] = deque()
        """What is not there yet: where it ends in the stream."""
        self._open: deque[Ask] = deque()
        """Those that have no response, in the order in which they were sent."""
        self._position = 0
        self._left = False
        self._last = False
        """Whether the server has said that it closes the connection."""
        self._parser = httptools.HttpResponseParser(self)
        self._response = Response()

    def schedule(self, start_ns: int, network: Network, port: int) -> None:
        """Do everything when its time has come."""
        visit, loop = self._visit, self._loop
        loop.at(start_ns + visit.at_ns, self._connect, network, port)
        for sending in visit.sendings:
            loop.at(start_ns + max(sending.at_ns, visit.at_ns + 1), self._send)
        if visit.leaving is not None:
            loop.at(start_ns + visit.leaving.at_ns, self._leave, visit.leaving.reset)
        if visit.blind is not None:
            for at_ns, on in zip(visit.blind, (False, True), strict=True):
                loop.at(start_ns + at_ns, self._read, on)

    def _connect(self, network: Network, port: int) -> None:
        self._connection = network.connect(port, self)
        if self._connection is None:
            self._left = True
            self._told(f"{self._name}: nobody listens", "")

    def _send(self) -> None:
        sending = self._unsent.popleft()  # timers of one instant may come in any order
        if self._connection is None or self._left:
            return
        whole = sending.ask.encode()
        data = whole[int(sending.first * len(whole)) : int(sending.last * len(whole))]
        if sending.first == 0.0:
            self._open.append(sending.ask)
        self._position += len(data)
        if sending.last == 1.0:
            self._sent.append((self._position, sending.ask))
        if data:
            self._connection.send(data, self._visit.delay_ns)

    def _leave(self, reset: bool) -> None:
        if self._connection is not None and not self._left:
            self._left = True
            self._told(f"{self._name} leaves", "")
            self._connection.leave(reset=reset)

    def _read(self, on: bool) -> None:
        if self._connection is not None:
            self._connection.read(on=on)

    # ---- as a `Peer`

    def on_arrival(self, position: int) -> None:
        """See `Peer.on_arrival`."""
        while self._sent and self._sent[0][0] <= position:
            _, ask = self._sent.popleft()
            ask.arrival_ns = self._loop.now_ns
            self._told(f"{self._name}: {ask.tag} is there", "")

    def on_written(self, data: bytes) -> None:
        """See `Peer.on_written`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._told(f"{self._name} cannot read {data!r}", f"no HTTP: {error}")

    def on_closed(self) -> None:
        """See `Peer.on_closed`."""
        blind = self._visit.blind is not None
        for ask in self._open:
            ask.gone_ns = self._loop.now_ns
            unanswered = ask.arrival_ns is not None and not (self._left or self._last or blind)
            self._told(f"{self._name}: closed on {ask.tag}", "closed without an answer" if unanswered else "")
        self._left = True

    # ---- as a parser's handler

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._response.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._response.body += body

    def on_message_complete(self) -> None:
        """A response."""
        response, self._response = self._response, Response()
        response.status = self._parser.get_status_code()
        self._last = response.headers.get(b"connection") == b"close"
        if not self._open:
            self._told(f"{self._name}: {response.status} for nothing that was asked", "" if self._last else "unasked")
            return
        ask = self._open.popleft()
        wrong = complaint(ask, response)
        if ask.status:
            wrong = "answered twice"
        ask.status, ask.body, ask.answered_ns = response.status, response.body, self._loop.now_ns
        ask.outcome = response.headers.get(b"x-superserve-outcome", b"").decode()
        self._told(f"{self._name}: {ask.tag} gets {ask.status} {ask.outcome} {response.body!r}", wrong)
