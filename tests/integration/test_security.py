"""TLS and tokens on real sockets, by our own clients over both protocols."""

import asyncio
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from superserve.client.client import AsyncClient, Client
from superserve.errors import ConfigError, UnauthorizedError, UnavailableError
from superserve.serving.config import ServerConfig
from support.serving import MODEL
from support.transports import Served, served

OPENSSL = shutil.which("openssl")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(OPENSSL is None, reason="makes its certificates with the openssl command"),
]

TOKEN = "a-token-of-the-tests"  # noqa: S105
INPUTS: Mapping[str, npt.NDArray[Any]] = {"image": np.zeros((1, 2, 2), np.uint8), "scale": np.ones(1, np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost with its key, and a file with a token."""
    folder = tmp_path_factory.mktemp("security")
    command = (
        f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext "
        f"subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {folder}/key.pem -out {folder}/cert.pem"
    )
    assert OPENSSL is not None
    subprocess.run([OPENSSL, *command.split()], check=True, capture_output=True)
    (folder / "tokens").write_text(TOKEN)
    (folder / "tokens").chmod(0o600)
    return folder


def config(folder: Path) -> ServerConfig:
    return ServerConfig(
        tls_certificate=str(folder / "cert.pem"), tls_key=str(folder / "key.pem"), tokens=str(folder / "tokens")
    )


def url_of(server: Served, protocol: str) -> str:
    return f"https://localhost:{server.http.port}" if protocol == "http" else f"grpcs://localhost:{server.grpc.port}"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_with_certificate_and_token_a_client_is_served(folder: Path, protocol: str) -> None:
    """Without either it is refused, but hears that the server is ready; nobody speaks without TLS."""
    ca_file = str(folder / "cert.pem")
    async with served(protocol, MODEL, server=config(folder)) as server:
        url = url_of(server, protocol)
        async with AsyncClient(url, token=TOKEN, ca_file=ca_file) as client:
            reply = await client.infer("tiny", INPUTS)
            assert reply.parameters.slo_met
            assert (await client.metadata("tiny")).name == "tiny"
        async with AsyncClient(url, ca_file=ca_file) as client:
            assert await client.ready()
            with pytest.raises(UnauthorizedError, match="a token is needed"):
                await client.infer("tiny", INPUTS)
        async with AsyncClient(url, token="x" * 20, ca_file=ca_file) as client:
            with pytest.raises(UnauthorizedError):
                await client.infer("tiny", INPUTS)
        for stranger in (AsyncClient(url, token=TOKEN), AsyncClient(url.replace("s://", "://", 1), timeout_s=2)):
            async with stranger as client:
                with pytest.raises((UnavailableError, TimeoutError)):
                    await client.infer("tiny", INPUTS)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
async def test_blocking_clients_do_the_same(folder: Path, protocol: str) -> None:
    """Twice over one connection."""
    async with served(protocol, MODEL, server=config(folder)) as server:

        def ask() -> None:
            with Client(url_of(server, protocol), token=TOKEN, ca_file=str(folder / "cert.pem")) as client:
                for _ in range(2):
                    assert client.infer("tiny", INPUTS).parameters.slo_met

        await asyncio.to_thread(ask)


async def test_a_certificate_that_cannot_be_used_is_named(folder: Path) -> None:
    """Before anything is served."""
    broken = ServerConfig(tls_certificate=str(folder / "tokens"), tls_key=str(folder / "key.pem"))
    with pytest.raises(ConfigError, match="tls_certificate"):
        async with served("http", MODEL, server=broken):
            pass


def test_a_token_is_never_sent_in_the_clear_to_another_machine() -> None:
    """Nor shown."""
    with pytest.raises(ConfigError, match="https://"):
        Client("http://example.com", token=TOKEN)
    assert TOKEN not in repr(Client("http://localhost", token=TOKEN)._side.address)
