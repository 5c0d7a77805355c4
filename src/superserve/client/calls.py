"""What a client asks for, between the protocol that words it and the transport that carries it.

A *call* is one question, ready to be asked several times: `Call.render` words an attempt, `Call.decode` reads what
came back. gRPC travels as HTTP does, with a path, headers and a body each way, so one pair of values serves both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy.typing as npt

from superserve.client.deadline import Deadline
from superserve.client.reply import InferReply, ModelMetadata
from superserve.client.wire import REQUEST_ID_HEADER

T = TypeVar("T")

Part = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt, in the words of the protocol. ``parts``: the body, in pieces that nobody has joined yet."""

    path: str
    parts: Sequence[Part] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    is_bounded: bool = True
    """gRPC: whether the server may be told how long the client waits; it would take that for the deadline."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back. ``status`` is HTTP's, also over gRPC; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One question.

    ``render`` makes an attempt of it, given how many microseconds are left of the deadline (None: the server's own).
    ``is_idempotent``: whether it may be asked again although it may have been answered.
    """

    render: Callable[[int | None], Request]
    decode: Callable[[Response], T]
    is_idempotent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What an inference is asked for; see `superserve.client.client.Client.infer`."""

    model: str
    inputs: Mapping[str, npt.NDArray[Any]]
    version: str = ""
    outputs: Sequence[str] = ()
    min_accuracy: float = 0.0
    priority: int = 0
    request_id: str = ""
    is_idempotent: bool = False

    def parameters(self, timeout_us: int | None) -> dict[str, float]:
        """Request parameters that carry deadline, accuracy floor and priority; what is not asked for is left out."""
        parameters: dict[str, float] = {}
        if timeout_us is not None:
            parameters["timeout"] = max(1, timeout_us)
        if self.min_accuracy:
            parameters["superserve_min_accuracy"] = self.min_accuracy
        if self.priority:
            parameters["priority"] = self.priority
        return parameters

    @property
    def headers(self) -> dict[str, str]:
        """The request's id as a header, so that the server's log has it, if it can stand in one."""
        fits = self.request_id.isascii() and self.request_id.isprintable() and " " not in self.request_id
        return {REQUEST_ID_HEADER: self.request_id} if self.request_id and fits else {}


class Wording(Protocol):
    """The wording of calls."""

    def ready(self) -> Call[bool]:
        """Whether the server is ready."""

    def metadata(self, model: str, version: str) -> Call[ModelMetadata]:
        """What a model's tensors are."""

    def infer(self, ask: Ask) -> Call[InferReply]:
        """An inference."""


class BlockingTransport(Protocol):
    """Carries calls for `Client`; thread-safe."""

    def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """Ask the server once. ``render`` is called when the request can be sent.

        Raises:
            TimeoutError: if the deadline passes; the server is told that nobody waits any more.
            UnreachableError: if there is no connection: nothing was sent.
            UnavailableError: if no answer came of what was sent.
        """

    def close(self) -> None:
        """Let go of connections; idempotent, and they are made anew where another call needs them."""


class AsyncTransport(Protocol):
    """Carries calls for `AsyncClient`, within one event loop."""

    async def exchange(self, render: Callable[[], Request], deadline: Deadline) -> Response:
        """See `BlockingTransport.exchange`. Cancelling it tells the server that nobody waits any more."""

    async def close(self) -> None:
        """See `BlockingTransport.close`."""
