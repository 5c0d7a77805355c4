"""Tokens: which are accepted, for what, and what a file of them must look like."""

from hashlib import sha256
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.clock import ManualClock
from superserve.errors import ConfigError, ForbiddenError, UnauthorizedError
from superserve.frontend.authorization import Access, Tokens
from superserve.frontend.common import Common
from superserve.frontend.exchange import Exchange
from superserve.frontend.http_server import HttpServer
from superserve.serving.config import HttpConfig, ServerConfig
from support.transport import FakeTransport

LINES = """
# who may use the server
plain-token-0123456789   # the dashboard's
sha256:DIGEST
"""


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    file = folder / "tokens"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_a_file_of_tokens(tmp_path: Path) -> None:
    """Plain ones and hashes of them, comments and empty lines."""
    digest = sha256(b"hashed-token-0123456789").hexdigest()
    text = LINES.replace("DIGEST", digest)
    tokens = Tokens.read(Path(written(tmp_path, text)), "server.tokens")
    assert tokens.accept(b"plain-token-0123456789")
    assert tokens.accept(b"hashed-token-0123456789")
    assert not tokens.accept(digest.encode())
    assert not tokens.accept(b"")


@pytest.mark.parametrize(
    ("text", "mode", "told"),
    [
        ("plain-token-0123456789", 0o644, "chmod 600"),
        ("short", 0o600, "line 1: a token has 16 characters or more"),
        ("# nothing", 0o600, "holds no token"),
        ("with space in it, and long", 0o600, "line 1"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, mode: int, told: str) -> None:
    """The message names the key and the line, never the token."""
    with pytest.raises(ConfigError, match=told) as caught:
        Access.of(ServerConfig(tokens=written(tmp_path, text, mode)))
    assert "server.tokens" in str(caught.value)
    assert text == "# nothing" or text not in str(caught.value)


def test_a_certificate_has_a_key() -> None:
    with pytest.raises(ConfigError, match="belong together"):
        Access.of(ServerConfig(tls_certificate="cert.pem"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="admin_tokens"):
        Access.of(ServerConfig(admin_tokens=str(tmp_path / "none")))


@given(st.binary(max_size=60))
def test_nothing_else_is_accepted(header: bytes) -> None:
    """Any header at all that is not the token's."""
    access = Access(Tokens.read_lines(["plain-token-0123456789"]))
    if header[:7].lower() != b"bearer " or header[7:].strip() != b"plain-token-0123456789":
        with pytest.raises(UnauthorizedError):
            access.check(header)


def test_administrators_are_users_but_not_the_other_way_round() -> None:
    """Without a token 401, with the wrong kind 403."""
    access = Access(Tokens.read_lines(["user-token-0123456789"]), Tokens.read_lines(["admin-token-0123456789"]))
    user, admin = b"Bearer user-token-0123456789", b"bearer admin-token-0123456789"
    for header in (user, admin):
        access.check(header)
    access.check_admin(admin)
    with pytest.raises(ForbiddenError):
        access.check_admin(user)
    with pytest.raises(UnauthorizedError):
        access.check_admin(None)
    only_admins = Access(None, Tokens.read_lines(["admin-token-0123456789"]))
    only_admins.check(None)
    with pytest.raises(UnauthorizedError):
        only_admins.check_admin(None)


class Paths:
    """Answers everything, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange.url)
        exchange.respond_json(b"{}")


def test_over_http_a_token_is_asked_for_before_a_body_is_taken() -> None:
    """Health is free; so is nothing that only looks like it; and a known head is as good as its token."""
    paths, common = Paths(), Common()
    common.access = Access(Tokens.read_lines(["user-token-0123456789"]))
    server = HttpServer(paths, ManualClock(), HttpConfig(), common)

    def ask(url: str, token: str = "", body: int = 0) -> bytes:
        protocol = server.connection()
        transport = FakeTransport(protocol)
        protocol.connection_made(transport)
        header = f"Authorization: Bearer {token}\r\n" if token else ""
        protocol.data_received(f"POST {url} HTTP/1.1\r\n{header}Content-Length: {body}\r\n\r\n".encode())
        return transport.sent

    assert b"HTTP/1.1 401 Unauthorized" in ask("/v2/models/m/infer", body=1_000_000)
    assert b"WWW-Authenticate: Bearer" in ask("/v2/models/m/infer")
    for url in (
        "/v2/health/live/../../models",
        "/v2/health/%6cive",
        "/v2/health/live2",
        "//v2/health/live",
        "//",
        "/page",
    ):
        assert b" 401 " in ask(url), url
    assert paths.asked == []
    for _ in range(3):  # the second and third time the head is known
        assert b" 200 " in ask("/v2/models/m/infer", "user-token-0123456789")
        assert b" 401 " in ask("/v2/models/m/infer", "user-token-0123456780")
        assert b" 200 " in ask("/v2/health/live?x=1")
    assert len(paths.asked) == 6
