"""Ports for servers whose port has to be known before they start."""

import socket


def free_port() -> int:
    """A port of the loopback address that nobody listens on at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
