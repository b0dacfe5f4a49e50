"""The programs that open a tunnel: what they are told, and how their address is read.

What they print is read for it:

cloudflared, on standard error, in a box of plus signs and dashes; ready some lines later
  https://developers.cloudflare.com/cloudflare-one/connections/connect-networks/do-more-with-tunnels/trycloudflare/
ngrok, as one of its log lines in JSON
  https://ngrok.com/docs/agent/cli#ngrok-http
tailscale, below the words "Available on the internet"
  https://tailscale.com/docs/reference/tailscale-cli/funnel
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

__all__ = ["PROGRAMS", "Program", "Reader"]

Reader: TypeAlias = Callable[[str], str | None]
"""Given one line of output after the other; returns the address when it is known and usable."""


def _cloudflared() -> Reader:
    # The name of its own API may be in an error; the address is of use when a connection stands.
    address = re.compile(r"https://(?!api\.)[a-z0-9-]+\.trycloudflare\.com")
    connected = re.compile(r"\bRegistered tunnel connection|\bConnection \S+ registered")
    found: list[str] = []

    def read(line: str) -> str | None:
        found.extend(address.findall(line))
        return found[0] if found and connected.search(line) else None

    return read


def _ngrok() -> Reader:
    def read(line: str) -> str | None:
        try:
            fields = json.loads(line)
        except ValueError:
            return None
        if not isinstance(fields, dict) or fields.get("msg") != "started tunnel":
            return None
        url = str(fields.get("url", ""))
        return url if url.startswith("https://") else None

    return read


def _tailscale() -> Reader:
    address = re.compile(r"^\s*(https://[a-z0-9.-]+\.ts\.net(?::\d+)?)/?\s*$")

    def read(line: str) -> str | None:
        found = address.match(line)
        return found[1] if found else None

    return read


class Program(NamedTuple):
    """The arguments that lead to a port, and what reads the output."""

    arguments: Callable[[int], Sequence[str]]
    reader: Callable[[], Reader]


PROGRAMS = {
    "cloudflared": Program(
        lambda port: ("tunnel", "--no-autoupdate", "--url", f"http://127.0.0.1:{port}"),
        _cloudflared,
    ),
    "ngrok": Program(lambda port: ("http", str(port), "--log=stdout", "--log-format=json"), _ngrok),
    "tailscale": Program(lambda port: ("funnel", str(port)), _tailscale),
}
