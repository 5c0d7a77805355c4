"""What commands say when a server does not answer as one of ours."""

import io
import socket

import pytest

from superserve.cli.asking import ask
from superserve.errors import SuperServeError


class Connection:
    """A socket whose other end says something, whatever it is asked."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def sendall(self, data: bytes) -> None:
        pass

    def setsockopt(self, *option: int) -> None:
        pass

    def makefile(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self._answer)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "http://127.0.0.1:8000 does not tell: SSH-2.0"),
        (b"", "does not tell: .*without response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "does not tell: .*1 bytes read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "does not tell: JSON is malformed"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>", "answers 404 Not Found"),
    ],
)
def test_what_is_no_server_of_ours_is_told(answer: bytes, complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: Connection(answer))
    with pytest.raises(SuperServeError, match=complaint):
        ask("http://127.0.0.1:8000", "/v2/activity", dict[str, str])
