"""Where a server listens, as the user writes it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from superserve.errors import ConfigError

HTTP: Final = "http"
GRPC: Final = "grpc"

#: What clients of the protocol assume.
DEFAULT_PORTS: Final = {HTTP: 8000, GRPC: 8001}


@dataclass(frozen=True, slots=True)
class Address:
    """Host, port and protocol of a server."""

    host: str
    port: int
    scheme: str = HTTP

    @classmethod
    def parse(cls, url: str, *schemes: str) -> "Address":
        """Read ``http://host:port``, ``host:port`` or ``host``; without a scheme it is HTTP.

        Args:
            url: as the user wrote it.
            schemes: those that are possible; HTTP if none are given.

        Raises:
            ConfigError: for another scheme, a path, or no host.
        """
        parts = urlsplit(url if "//" in url else f"//{url}")
        scheme = parts.scheme or HTTP
        possible = schemes or (HTTP,)
        if scheme not in possible or not parts.hostname or parts.path.strip("/"):
            forms = " or ".join(f"{known}://host:port" for known in possible)
            raise ConfigError(f"url {url!r}: must have the form {forms}")
        try:
            port = parts.port or DEFAULT_PORTS[scheme]
        except ValueError as error:
            raise ConfigError(f"url {url!r}: {error}") from None
        return cls(parts.hostname, port, scheme)

    @property
    def url(self) -> str:
        """As the user could have written it."""
        return f"{self.scheme}://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
