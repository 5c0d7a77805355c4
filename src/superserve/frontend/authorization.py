"""Who may ask what: bearer tokens and TLS, the same for all front ends."""

import hmac
import re
import ssl
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from superserve.errors import ConfigError, ForbiddenError, UnauthorizedError
from superserve.serving.config import ServerConfig

#: Shorter ones can be guessed.
_LEAST_CHARACTERS: Final = 16
_TOKEN: Final = re.compile(rf"[A-Za-z0-9._~+/=-]{{{_LEAST_CHARACTERS},}}")
_HASHED: Final = re.compile(r"sha256:([0-9a-f]{64})")
_SCHEME: Final = b"bearer "

#: What everybody may ask, for load balancers and orchestrators have no tokens, and neither has a browser that loads the
#: live page, which asks for one.
_FREE: Final = frozenset({b"/v2/health/live", b"/v2/health/ready", b"/"})

#: Below it stand the parts of the live page, and nothing else: they are free, too.
PAGE_PARTS: Final = b"/page/"


class Tokens:
    """Bearer tokens that are accepted. Hashes are kept and compared, so that the time it takes tells nothing of them.

    Args:
        digests: SHA-256 of each.
    """

    def __init__(self, digests: Sequence[bytes]) -> None:
        self._digests = tuple(digests)

    @classmethod
    def read(cls, file: Path, key: str) -> "Tokens":
        """Read a file with one token a line, or ``sha256:`` and its hash in hexadecimal; ``#`` begins a comment.

        Args:
            file: nobody but its owner may read it.
            key: of the configuration, for messages.

        Raises:
            ConfigError: if it cannot be used; the message names the line, not its content.
        """
        try:
            mode, lines = file.stat().st_mode, file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{key}: {file}: {error}") from None
        if mode & 0o077:
            raise ConfigError(f"{key}: {file} can be read by others: chmod 600 {file}")
        try:
            return cls.read_lines(lines)
        except ConfigError as error:
            raise ConfigError(f"{key}: {file}{error}") from None

    @classmethod
    def read_lines(cls, lines: Sequence[str]) -> "Tokens":
        """The same from the lines of a file.

        Raises:
            ConfigError: see `read`.
        """
        digests: list[bytes] = []
        for number, line in enumerate(lines, 1):
            token = line.partition("#")[0].strip()
            hashed = _HASHED.fullmatch(token)
            if hashed is not None:
                digests.append(bytes.fromhex(hashed[1]))
            elif _TOKEN.fullmatch(token):
                digests.append(sha256(token.encode()).digest())
            elif token:
                raise ConfigError(
                    f", line {number}: a token has {_LEAST_CHARACTERS} characters or more, out of letters, "
                    "digits and ._~+/=-"
                )
        if not digests:
            raise ConfigError(" holds no token")
        return cls(digests)

    def accept(self, token: bytes) -> bool:
        """Whether it is one of them. All are compared, whichever it is."""
        digest = sha256(token).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class Access:
    """What a server asks of those who connect.

    Args:
        users: tokens for everything but administration; None: no token is asked for.
        admins: tokens for administration, and for everything else; None: whoever is a user may administer.
        certificate: chain in PEM form, with ``key``; None: no TLS.
        key: its private key.
    """

    def __init__(
        self,
        users: Tokens | None = None,
        admins: Tokens | None = None,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._users = users
        self._admins = admins
        self._certificate = certificate
        self._key = key

    @classmethod
    def of(cls, config: ServerConfig) -> "Access":
        """As configured.

        Raises:
            ConfigError: if a file cannot be used, or a certificate comes without a key.
        """
        if (config.tls_certificate is None) != (config.tls_key is None):
            raise ConfigError("server.tls_certificate and server.tls_key belong together: give both or none")
        return cls(
            Tokens.read(Path(config.tokens), "server.tokens") if config.tokens else None,
            Tokens.read(Path(config.admin_tokens), "server.admin_tokens") if config.admin_tokens else None,
            certificate=Path(config.tls_certificate) if config.tls_certificate else None,
            key=Path(config.tls_key) if config.tls_key else None,
        )

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is spoken."""
        return self._certificate is not None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether users need one."""
        return self._users is not None

    def tls(self) -> ssl.SSLContext | None:
        """For the sockets of HTTP; None without TLS.

        Raises:
            ConfigError: if certificate and key cannot be used.
        """
        if self._certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._certificate, self._key)
        except OSError as error:  # an SSLError is one
            raise ConfigError(
                f"server.tls_certificate = {self._certificate}, server.tls_key = {self._key}: {error}"
            ) from None
        return context

    def pem(self) -> tuple[bytes, bytes] | None:
        """Private key and certificate chain, which fit each other; None without TLS.

        Raises:
            ConfigError: if they cannot be used.
        """
        if self.tls() is None:
            return None
        assert self._certificate is not None
        assert self._key is not None
        return self._key.read_bytes(), self._certificate.read_bytes()

    def check_path(self, url: bytes, header: bytes | None) -> None:
        """Whether a path may be asked for, other things being a matter of `check_admin`.

        Raises:
            UnauthorizedError: without one of the tokens.
        """
        if self._users is None or url.partition(b"?")[0] in _FREE or url.startswith(PAGE_PARTS):
            return
        self.check(header)

    def check(self, header: bytes | None) -> None:
        """Whether whoever sends an ``Authorization`` header may use the server.

        Raises:
            UnauthorizedError: without one of the tokens.
        """
        if self._users is None:
            return
        token = _bearer(header)
        if not self._users.accept(token) and not (self._admins is not None and self._admins.accept(token)):
            raise UnauthorizedError("a token is needed: send it as `Authorization: Bearer TOKEN`")

    def check_admin(self, header: bytes | None) -> None:
        """Whether whoever sends an ``Authorization`` header may load and unload models.

        Raises:
            UnauthorizedError: without any token.
            ForbiddenError: with another one.
        """
        self.check(header)
        if self._admins is None or self._admins.accept(_bearer(header)):
            return
        if header is None:
            raise UnauthorizedError("an administrator's token is needed: send it as `Authorization: Bearer TOKEN`")
        raise ForbiddenError("this takes an administrator's token (server.admin_tokens)")


def _bearer(header: bytes | None) -> bytes:
    if header is None or header[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return header[len(_SCHEME) :].strip()
