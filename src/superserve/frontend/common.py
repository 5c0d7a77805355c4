"""What the front ends of a server have in common."""

from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.request_ids import RequestIds
from superserve.serving.config import ServerConfig


class Common:
    """One for all front ends of a server.

    Args:
        config: limits that hold for all of them together.

    Attributes:
        ids: of requests.
        memory: of the bodies of requests.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.ids = RequestIds()
        self.memory = BodyMemory((config or ServerConfig()).max_body_memory_bytes)
