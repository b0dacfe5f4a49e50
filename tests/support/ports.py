"""Ports for servers of tests."""

import itertools
import os
import secrets
import socket

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 10

FIRST = 10_000 + 1_000 * WORKER
"""Each process of tests has a thousand of its own, which no system gives to a connection."""

_ports = itertools.count(secrets.randbelow(1_000))


def free_tcp_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, and none of the last that were given."""
    while True:
        port = FIRST + next(_ports) % 1_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
