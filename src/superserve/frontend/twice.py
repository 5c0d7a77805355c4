"""What has come twice is worth remembering."""

from typing import Final

#: Beyond this many the memory of what came once starts anew.
_MAX_SEEN: Final = 1024


class Twice:
    """Tells what comes for the second time from what comes once and never again, at the price of a hash for each.

    Two different things may be taken for one: then something is remembered in vain.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def seen(self, key: object) -> bool:
        """Whether this has come before."""
        code = hash(key)
        if code in self._seen:
            return True
        if len(self._seen) >= _MAX_SEEN:
            self._seen.clear()
        self._seen.add(code)
        return False
