"""Tokens of gRPC calls: checked on their metadata, before any message of theirs is looked at."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from superserve.errors import SuperServeError
from superserve.frontend.authorization import Access
from superserve.frontend.grpc.answers import fail
from superserve.protocol.messages import INFERENCE

_FREE: Final = frozenset({f"/{INFERENCE}/ServerLive", f"/{INFERENCE}/ServerReady"})
_FREE_SERVICE: Final = "/grpc.health.v1.Health/"
_ADMIN: Final = frozenset({f"/{INFERENCE}/RepositoryModelLoad", f"/{INFERENCE}/RepositoryModelUnload"})


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Refuses calls that `Access` does not allow.

    Args:
        access: says which.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """See `grpc.aio.ServerInterceptor`."""
        handler = await continuation(details)
        if handler is None or details.method in _FREE or details.method.startswith(_FREE_SERVICE):
            return handler
        header = next((value for name, value in details.invocation_metadata if name == "authorization"), None)
        told = header.encode() if isinstance(header, str) else header
        try:
            if details.method in _ADMIN:
                self._access.check_admin(told)
            else:
                self._access.check(told)
        except SuperServeError as error:
            return _refusing(handler, error)
        return handler


def _refusing(handler: Any, error: SuperServeError) -> Any:
    """A handler of the same kind that ends every call with an error."""

    async def refuse(_: Any, context: Any) -> None:
        await fail(context, error)

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)
