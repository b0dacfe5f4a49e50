"""A client of a local Asana, for one test: on a port that nobody else gets, and in memory."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .client import WebhooksClient

__all__ = ["LocalClient", "local_client"]

HOST = "127.0.0.1"
CAN_SHARE = hasattr(socket, "SO_REUSEPORT")

NOT_ASYNC = (
    "the client lives in an event loop: enter it with `async with`, in an async test (which needs"
    " pytest-asyncio or the plugin of anyio) or in a coroutine that is given to asyncio.run()"
)


class LocalClient(WebhooksClient):
    """A ``WebhooksClient`` that says what to do in a synchronous test."""

    def __enter__(self) -> NoReturn:
        raise TypeError(NOT_ASYNC)

    def __exit__(self, *exc: object) -> None:
        """Never called; without it Python would not get as far as the message above."""


@contextmanager
def local_client(base_url: str, **options: Any) -> Iterator[LocalClient]:
    """Yield a client, not entered yet, of the local Asana under this URL.

    ``options`` are those of ``WebhooksClient``. Unless they name a port, the client has one that is
    kept for it until the end.
    """
    with _free_port() as free:
        port = options.pop("port", 0) or free
        defaults: dict[str, Any] = {
            "token": "a-token",
            "public_url": f"http://{HOST}:{port}/asana",
            "reuse_port": CAN_SHARE,
            "store": "memory:",
        }
        yield LocalClient(base_url=base_url, port=port, **(defaults | options))


@contextmanager
def _free_port() -> Iterator[int]:
    # A socket that is bound, but does not listen, keeps the port from every process that asks for
    # a free one. The receiver may listen on it all the same, where a port can be shared at all.
    with socket.socket() as holder:
        if CAN_SHARE:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        if not CAN_SHARE:
            holder.close()
        yield port
