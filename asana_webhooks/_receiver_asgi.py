"""The receiver as an ASGI application, to mount in Starlette, FastAPI or Litestar.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ._endpoint import LINGER, Endpoint, Refusal, read_head
from ._sightings import BAD_REQUEST
from .protocol import Response

__all__ = ["AsgiApp"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class AsgiApp:
    """Gives the same answers as the receiver on aiohttp; reads the raw body once."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, refuse a WebSocket; raises ValueError for anything else."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            msg = f"mount this application below one that handles {scope['type']!r} itself"
            raise ValueError(msg)
        head = read_head(scope["method"], _raw_path(scope), scope["headers"])
        body = _Body(receive)
        response = await self._endpoint.handle(head, body.receive)
        # HTTP/2 has no header to end a connection, and ends a request without one
        closing = response.closes and scope["http_version"] in ("1.0", "1.1")
        with contextlib.suppress(OSError):  # the client has hung up
            await _send(send, response, unread=body if closing else None)


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    return path


class _Body:
    """The body of one request as the server hands it over."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def receive(self) -> tuple[bytes, bool]:
        """Return the next piece, and whether there are more; raises Refusal when it is cut."""
        message = await self._receive()
        self._more = message.get("more_body", False)
        if message["type"] != "http.request":  # the client has hung up
            raise Refusal(BAD_REQUEST)
        return message.get("body", b""), self._more

    async def drop(self) -> None:
        """Read what is left of it, for a short time."""
        with contextlib.suppress(TimeoutError, Refusal):
            async with asyncio.timeout(LINGER):
                while self._more:
                    await self.receive()


async def _send(send: Send, response: Response, *, unread: _Body | None) -> None:
    """Send the answer; close the connection behind it when a body is left unread."""
    text = response.body
    headers = [
        (b"content-length", str(len(text)).encode()),
        (b"content-type", b"text/plain; charset=utf-8"),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in response.headers]
    if unread is not None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": unread is not None})
    if unread is not None:
        await unread.drop()  # a connection that is closed before may take the answer with it
        await send({"type": "http.response.body"})
