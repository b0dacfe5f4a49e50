"""The receiver as an ASGI application, to mount in Starlette, FastAPI or Litestar.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from ._endpoint import Endpoint
from .protocol import (
    BAD_REQUEST,
    BODY_DEADLINE,
    BODY_TIMEOUT,
    LINGER,
    MUST_CLOSE,
    TOO_LARGE,
    Refusal,
    Request,
    Response,
    route_of,
)

__all__ = ["AsgiApp"]

Scope: TypeAlias = MutableMapping[str, Any]
Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
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
        headers: Headers = tuple(scope["headers"])  # any iterable, says the specification
        request = Request(
            method=scope["method"],
            route=route_of(_raw_path(scope)),
            secrets=_values(headers, b"x-hook-secret"),
            signatures=_values(headers, b"x-hook-signature"),
            encodings=_values(headers, b"content-encoding"),
            length=_length(headers),
            headers=headers,
        )
        body = _Body(receive, self._endpoint.max_body)
        response = await self._endpoint.handle(request, body.read)
        # HTTP/2 has no header to end a connection, and ends a request without one
        closing = response in MUST_CLOSE and scope["http_version"] in ("1.0", "1.1")
        with contextlib.suppress(OSError):  # the client has hung up
            await _send(send, response, unread=body if closing else None)


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    return path


def _values(headers: Headers, wanted: bytes) -> tuple[str, ...]:
    # the blanks that HTTP allows around a value are left by some servers
    return tuple(
        value.decode("latin-1").strip(" \t") for name, value in headers if name.lower() == wanted
    )


def _length(headers: Headers) -> int | None:
    lengths = _values(headers, b"content-length")
    # 20 digits are too much already, and int() takes no more than 4,300
    return int(lengths[0][:20]) if lengths and lengths[0].isdecimal() else None


class _Body:
    """The body of one request as the server hands it over."""

    def __init__(self, receive: Receive, max_body: int) -> None:
        self._receive = receive
        self._max_body = max_body
        self._more = True

    async def read(self) -> bytes:
        """Return all of it; raises Refusal when it is too large, too late, or cut."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                while self._more:
                    body += await self._next()
                    if len(body) > self._max_body:
                        raise Refusal(TOO_LARGE)
        except TimeoutError:
            raise Refusal(BODY_TIMEOUT) from None
        return bytes(body)

    async def drop(self) -> None:
        """Read what is left of it, for a short time."""
        with contextlib.suppress(TimeoutError, Refusal):
            async with asyncio.timeout(LINGER):
                while self._more:
                    await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        self._more = message.get("more_body", False)
        if message["type"] != "http.request":  # the client has hung up
            raise Refusal(BAD_REQUEST)
        piece: bytes = message.get("body", b"")
        return piece


async def _send(send: Send, response: Response, *, unread: _Body | None) -> None:
    """Send the answer; close the connection behind it when a body is left unread."""
    text = f"{response.reason}\n".encode() if response.reason else b""
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
