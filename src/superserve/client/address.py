"""Where a server listens, as the user writes it."""

import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from superserve.errors import ConfigError
from superserve.loopback import is_loopback

HTTP: Final = "http"
GRPC: Final = "grpc"
HTTPS: Final = "https"
GRPCS: Final = "grpcs"

#: What clients of the protocol assume.
DEFAULT_PORTS: Final = {HTTP: 8000, GRPC: 8001, HTTPS: 8000, GRPCS: 8001}


@dataclass(frozen=True, slots=True)
class Address:
    """Host, port and protocol of a server, and what it asks of clients.

    ``token`` is the bearer token. ``ca_file`` holds the certificates (PEM) that are trusted; empty: the system's are.
    """

    host: str
    port: int
    scheme: str = HTTP
    token: str = field(default="", repr=False)
    ca_file: str = ""

    @classmethod
    def parse(cls, url: str, *schemes: str, token: str = "", ca_file: str = "") -> "Address":
        """Read ``http://host:port``, ``host:port`` or ``host``; without a scheme it is HTTP.

        Args:
            url: as the user wrote it.
            schemes: those that are possible; HTTP if none are given.
            token: what the server asks for.
            ca_file: see `Address`.

        Raises:
            ConfigError: for another scheme, a path, or no host; for a token that would be sent in the clear to another
                machine, or is none.
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
        if any(not " " < character <= "~" for character in token):
            raise ConfigError("token: must be visible ASCII characters")
        if token and scheme in {HTTP, GRPC} and not is_loopback(parts.hostname):
            raise ConfigError(f"url {url!r}: a token is sent over TLS only: use {scheme}s://")
        return cls(parts.hostname, port, scheme, token, ca_file)

    def tls(self) -> ssl.SSLContext | None:
        """To connect with; None without TLS.

        Raises:
            ConfigError: if ``ca_file`` cannot be used.
        """
        if self.scheme not in {HTTPS, GRPCS}:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except OSError as error:
            raise ConfigError(f"ca_file {self.ca_file!r}: {error}") from None

    @property
    def url(self) -> str:
        """As the user could have written it."""
        return f"{self.scheme}://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
