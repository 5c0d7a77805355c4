"""Sizes of memory as people write them."""

import re
import sys
from typing import Final

from superserve.errors import ConfigError

#: A size without an end.
ALL: Final = "all"

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(|[kMGT]i?)B?", re.IGNORECASE)
_POWERS: Final = {prefix: power for power, prefix in enumerate(("", "k", "m", "g", "t"))}


def bytes_of(size: str) -> int:
    """The bytes that ``1000000``, ``200MB``, ``1.5GiB`` or ``all`` stand for; at least 1.

    Raises:
        ConfigError: for anything else.
    """
    if size.lower() == ALL:
        return sys.maxsize
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ConfigError(f"{size!r} is no size: a number of bytes, one with a unit (200MB, 1.5GiB), or all")
    number, unit = float(found[1]), found[2].lower()
    base = 1024 if unit.endswith("i") else 1000
    nbytes = round(number * float(base) ** _POWERS[unit[:1]])
    if nbytes < 1:
        raise ConfigError(f"{size!r} is no memory at all")
    return nbytes


def told(nbytes: int) -> str:
    """A size as tables have it."""
    return f"{nbytes / 1e6:,.1f} MB"
