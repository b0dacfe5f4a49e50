"""Where this Asana agrees to post to.

Asana refuses targets that only its own machine could reach, such as ``localhost``; the local one
posts to nothing else, unless told the names of more hosts, so that a test can never reach a
stranger's server.

Source: https://developers.asana.com/reference/createwebhook
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from yarl import URL

from .answers import Refused

__all__ = ["Targets"]


class Targets:
    """Judges the target of a create call; ``hosts`` are allowed besides loopback.

    Raises ValueError when ``hosts`` is not a collection of bare host names or addresses.
    """

    def __init__(self, *, local: bool, hosts: Iterable[str]) -> None:
        if isinstance(hosts, str):
            msg = f"allow_hosts is a collection of host names; write ({hosts!r},)"
            raise ValueError(msg)
        self._local = local
        self._hosts = frozenset(map(_bare_host, hosts))

    def check(self, target: str) -> None:
        """Return when the target may be called.

        Raises Refused: 400 when it is no URL or a host that is not allowed here, 403 when it is
        one that Asana cannot reach and ``local`` is false.
        """
        host = _host(target)
        if not self._local and _is_local(host):
            raise Refused(403, f"target: The host {host} is not allowed")
        if not _is_loopback(host) and host not in self._hosts:
            raise Refused(
                400, f"target: The local Asana posts to {host} only if allow_hosts has it"
            )


def _bare_host(name: str) -> str:
    try:
        host = URL.build(scheme="http", host=name).host
    except ValueError:
        host = None
    if not host:
        msg = f"allow_hosts takes host names without scheme, port or path, not {name!r}"
        raise ValueError(msg)
    return host.lower()


def _host(target: str) -> str:
    clean = target.isascii() and target.isprintable() and " " not in target
    try:
        url = URL(target, encoded=True)
        usable = clean and url.scheme in ("http", "https") and url.port is not None
    except ValueError:
        usable = False
    if not usable or not url.host:
        raise Refused(400, "target: Not a valid URL")
    return url.host.lower()


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_local(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith((".localhost", ".local"))
    return not address.is_global


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
