"""Listening, and accepting connections a few at a time, also when no descriptors are left.

asyncio's own servers accept up to the whole backlog at once, before any limit can act, and log each
failure while no descriptors are left, tens of thousands in a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

if sys.platform != "win32":  # where sockets are no descriptors
    import resource

__all__ = ["Listener", "bind", "bind_unix", "connections_within", "raise_descriptor_limit"]

AT_ONCE = 16
"""Connections that are accepted before the loop does something else."""

PAUSE = 0.01
"""Seconds without accepting when no descriptors are left."""

POLL = 0.05
"""Seconds between looks for connections where a loop has no readers."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_listening: WeakSet[socket.socket] = WeakSet()


def _close_in_child() -> None:
    for listening in list(_listening):
        listening.close()


if hasattr(os, "register_at_fork"):
    # A child that a handler forked must not keep the port when this process is killed.
    os.register_at_fork(after_in_child=_close_in_child)


def raise_descriptor_limit() -> None:
    """Raise the limit of open files and connections to what the system permits this process."""
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(OSError, ValueError):  # macOS: "unlimited" is more than it permits
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connections_within(wanted: int) -> int:
    """Return how many connections there may be: three quarters of the descriptors at most."""
    if sys.platform == "win32":
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft * 3 // 4))


async def bind(host: str, port: int, *, reuse_port: bool, backlog: int) -> list[socket.socket]:
    """Return a listening socket for each address of the host. Raises OSError."""
    found = await _find(host or None, port)
    with contextlib.ExitStack() as stack:
        bound = []
        for family, _, _, _, address in dict.fromkeys(found):
            listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if os.name == "posix":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.append(_listen(listening, address, backlog))
        stack.pop_all()
    return bound


async def _find(host: str | None, port: int) -> list[Any]:
    loop, flags, kind = asyncio.get_running_loop(), socket.AI_PASSIVE, socket.SOCK_STREAM
    try:  # an address needs no look-up, and so no thread
        return socket.getaddrinfo(host, port, type=kind, flags=flags | socket.AI_NUMERICHOST)
    except socket.gaierror:
        return await loop.getaddrinfo(host, port, type=kind, flags=flags)


def bind_unix(path: str, *, backlog: int) -> list[socket.socket]:
    """Return a socket that listens at a path, in place of one that was left there."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.remove(path)
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound = _listen(listening, path, backlog)
        stack.pop_all()
    return [bound]


def _listen(listening: socket.socket, address: Any, backlog: int) -> socket.socket:
    try:
        listening.bind(address)
        listening.listen(backlog)
    except OSError as error:
        msg = f"cannot listen on {address!r}: {(error.strerror or 'refused').lower()}"
        raise OSError(error.errno, msg) from None
    listening.settimeout(0)
    _listening.add(listening)
    return listening


class Listener:
    """Accepts connections of listening sockets until it is closed, and hands them to ``take``.

    ``make_room`` is called with an error when no descriptors are left; then accepting pauses.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        *,
        take: Callable[[socket.socket], None],
        make_room: Callable[[OSError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._take = take
        self._make_room = make_room
        self._polling: asyncio.Task[None] | None = None
        try:
            for listening in sockets:
                self._loop.add_reader(listening, self._accept, listening)
        except NotImplementedError:  # of the proactor, on Windows
            self._polling = self._loop.create_task(self._poll(), name="asana-webhooks listener")

    def close(self) -> None:
        """Accept no more."""
        if self._polling is not None:
            self._polling.cancel()
        for listening in self._sockets:
            if self._polling is None:
                self._loop.remove_reader(listening)
            listening.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._make_room(error)
                    self._pause(listening)
                return  # or the client is gone already
            connection.settimeout(0)
            self._take(connection)

    def _pause(self, listening: socket.socket) -> None:
        if self._polling is None:
            self._loop.remove_reader(listening)
            self._loop.call_later(PAUSE, self._go_on, listening)

    def _go_on(self, listening: socket.socket) -> None:
        if listening.fileno() != -1:  # else it was closed meanwhile
            self._loop.add_reader(listening, self._accept, listening)

    async def _poll(self) -> None:
        while True:
            for listening in self._sockets:
                self._accept(listening)
            await asyncio.sleep(POLL)
