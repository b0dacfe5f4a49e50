"""Ports for servers of tests."""

import secrets
import socket

PORTS = range(10_000, 20_000)
"""Ports that no system gives to a connection by itself, not even while its server is away."""


def free_tcp_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
