"""What a router tells of single requests where these are traced; ``frontend/spans.py`` makes spans of it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from superserve.errors import SuperServeError
from superserve.request import Outcome
from superserve.scheduling.actions import Launch

if TYPE_CHECKING:
    from superserve.serving.router import Pending


class Call(StrEnum):
    """The call that a request came with."""

    HTTP = "http"
    GRPC = "grpc"
    GRPC_STREAM = "grpc-stream"


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a request came from: its call, and ``traceparent`` (W3C Trace Context) if its client told one."""

    call: Call
    traceparent: str = ""

    def within(self, traceparent: str | None) -> "Origin":
        """The same call in a client's trace, if in any."""
        return self if traceparent is None else Origin(self.call, traceparent)


#: Shared by all requests whose clients do not trace.
HTTP: Final = Origin(Call.HTTP)
GRPC: Final = Origin(Call.GRPC)
GRPC_STREAM: Final = Origin(Call.GRPC_STREAM)


class RequestTracer(Protocol):
    """Who is told of each request of a model when it has ended, with the times that were taken on its way."""

    def answered(self, launch: Launch, requests: "Sequence[Pending]", ended_ns: int) -> None:
        """A batch has answered these of its requests, the last of them at an instant."""

    def refused(self, request: "Pending", outcome: Outcome, error: SuperServeError, ended_ns: int) -> None:
        """A request ended without an answer; ``error`` is what its client was told."""
