"""The ids that answers carry, whatever the protocol: ``superserve why`` takes them."""

import itertools
import secrets
from typing import Final

#: A client's request id is used if it consists of these, so that it can go into headers, logs and file names.
_ID_CHARACTERS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"
_MAX_ID_BYTES: Final = 128


def is_sane(own: bytes) -> bool:
    """Whether a client's own id can be used."""
    return 0 < len(own) <= _MAX_ID_BYTES and not own.translate(None, _ID_CHARACTERS)


class RequestIds:
    """Makes ids: those of different servers and restarts differ, within one they count."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4).encode()
        self._ids = itertools.count()

    def next(self) -> bytes:
        """A new id."""
        return b"%b-%x" % (self._prefix, next(self._ids))

    def of(self, own: str | None) -> str:
        """The client's own id if it is sane, else a new one."""
        if own and is_sane(own.encode("utf-8", "replace")):
            return own
        return self.next().decode()
