"""What the front ends of a server have in common."""

from superserve.frontend.authorization import Access
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
        access: what they ask of those who connect.

    Raises:
        ConfigError: if a file of tokens cannot be used.
    """

    def __init__(self, config: ServerConfig | None = None) -> None:
        self.ids = RequestIds()
        config = config or ServerConfig()
        self.memory = BodyMemory(config.max_body_memory_bytes)
        self.access = Access.of(config)
