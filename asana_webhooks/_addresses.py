"""Local or public: read from a host's name or address, without a look-up."""

from __future__ import annotations

import ipaddress

__all__ = ["is_loopback", "is_public"]


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine."""
    host = _undotted(host)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(host: str) -> bool:
    """Return whether the host may be on the public internet: its name is not resolved."""
    host = _undotted(host)
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))


def _undotted(host: str) -> str:
    return host.removesuffix(".")  # with the dot of the root it is the same host
