"""Asking a running server for what it knows of itself, over HTTP."""

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Final, TypeVar

import msgspec

from superserve.errors import SuperServeError

_TIMEOUT_S: Final = 10.0

T = TypeVar("T")


def ask(url: str, path: str, kind: type[T], *, method: str = "GET", ca_file: str = "") -> T:
    """Ask a server; a bearer token is taken from the environment, SUPERSERVE_TOKEN.

    Raises:
        ConfigError: if ``url`` is none, or the token would be sent to another machine in the clear.
        SuperServeError: if it does not answer, or not with what was asked for.
    """
    from superserve.client.address import HTTP, HTTPS, Address

    token = os.environ.get("SUPERSERVE_TOKEN", "")
    address = Address.parse(url, HTTP, HTTPS, token=token, ca_file=ca_file)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address.url + path, headers=headers, method=method)  # noqa: S310  (by `parse`)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=address.tls()) as response:  # noqa: S310
            return msgspec.json.decode(response.read(), type=kind)
    except urllib.error.HTTPError as error:
        raise SuperServeError(_message(error)) from None
    except (OSError, HTTPException, msgspec.MsgspecError) as error:  # the second is of what speaks no HTTP
        raise SuperServeError(f"{address.url} does not tell: {error}") from None


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(msgspec.json.decode(error.read(), type=dict[str, str])["error"])
    except (msgspec.MsgspecError, KeyError):
        return f"{error.url} answers {error.code} {error.reason}"
