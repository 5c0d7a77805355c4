"""How much memory the bodies of all clients together may take."""

from superserve.errors import UnavailableError


class BodyMemory:
    """Counts bytes of request bodies that are in memory, over all connections and protocols.

    Beyond the limit bodies are refused, not left unread for a while: were several half-received ones to wait for room,
    none of them might ever end. What counts are bytes that came, not bytes that were announced, so that a client has to
    send what it wants to take from the others.

    Args:
        limit: the most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes in memory now."""

    def take(self, size: int) -> bool:
        """So many bytes more came; False, and nothing is counted, if they are too many."""
        if self.held + size > self.limit:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """So many bytes are needed no more."""
        self.held -= size

    def refusal(self) -> UnavailableError:
        """What to answer if there is no room."""
        return UnavailableError(
            f"requests of {self.limit} bytes are being answered already (max_body_memory_bytes): try again later"
        )
