"""The live page over HTTP: a page, its parts, and what it shows. All of it comes from the package: it works offline."""

import hashlib
from importlib import resources
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec

from superserve.errors import InvalidRequestError, UnknownModelError
from superserve.frontend.authorization import PAGE_PARTS
from superserve.frontend.dashboard.history import History
from superserve.frontend.exchange import Exchange

#: Nothing but our own files runs or is shown, and nobody frames the page.
_SAFETY: Final = (
    b"Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
    b"X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
)
_FRESH: Final = b"Cache-Control: no-cache\r\n"
#: The paths of the parts hold a hash of all of them, so that each stands for the same bytes for ever.
_IMMUTABLE: Final = b"Cache-Control: public, max-age=31536000, immutable\r\n"

_MEDIA_TYPES: Final = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_PAGE: Final = "index.html"
_DIGEST: Final = b"{digest}"

#: Parameters of a query that are looked at.
_MOST_PARAMETERS: Final = 10
#: Of the number of a second.
_MOST_DIGITS: Final = 18


class _Asset(NamedTuple):
    media_type: bytes
    body: bytes


class LivePage:
    """Answers for the page.

    Args:
        history: what it shows.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        files = _files()
        digest = hashlib.sha256(b"".join(files[name].body for name in sorted(files))).hexdigest()[:16]
        self._page = files.pop(_PAGE).body.replace(_DIGEST, digest.encode())
        self._assets = {PAGE_PARTS + f"{digest}/{name}".encode(): asset for name, asset in files.items()}

    def show(self, exchange: Exchange, _: object) -> None:
        """The page."""
        exchange.respond_text(_MEDIA_TYPES["html"], self._page, _SAFETY + _FRESH)

    def asset(self, exchange: Exchange, _: object) -> None:
        """One of its parts.

        Raises:
            UnknownModelError: if there is none of that name; those of other versions have other names.
        """
        found = self._assets.get(exchange.url.partition(b"?")[0])
        if found is None:
            raise UnknownModelError("the live page has no such part: load it again")
        exchange.respond_text(found.media_type, found.body, _SAFETY + _IMMUTABLE)

    def activity(self, exchange: Exchange, _: object) -> None:
        """What happened lately.

        Raises:
            InvalidRequestError: if the query cannot be used.
        """
        run, after = _known(exchange.url)
        exchange.respond_json(msgspec.json.encode(self._history.told(run, after)), extra_headers=_FRESH)


def _files() -> dict[str, _Asset]:
    """By name."""
    folder = resources.files("superserve") / "frontend" / "dashboard" / "assets"
    return {
        file.name: _Asset(_MEDIA_TYPES[file.name.rpartition(".")[2]], file.read_bytes()) for file in folder.iterdir()
    }


def _known(url: bytes) -> tuple[str, int]:
    """The run and the second that a client knows; another run, if it does not say."""
    refusal = InvalidRequestError("query: give run=TEXT and after=INTEGER, as an earlier answer told them")
    text = url.partition(b"?")[2].decode("latin-1")
    try:
        query = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        raise refusal from None
    after = query.get("after", "0")
    # `int` would take more than digits: blanks, underscores, a sign.
    if len(after) > _MOST_DIGITS or not (after.isascii() and after.isdigit()):
        raise refusal
    return query.get("run", ""), int(after)
