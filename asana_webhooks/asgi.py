"""The receiver as an ASGI application, to mount in Starlette, FastAPI or Litestar.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from .endpoint import Endpoint
from .protocol import (
    BAD_REQUEST,
    BODY_DEADLINE,
    BODY_TIMEOUT,
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
        max_body = self._endpoint.max_body
        response = await self._endpoint.handle(request, lambda: _read(receive, max_body))
        with contextlib.suppress(OSError):  # the client has hung up
            await _send(send, response)


def _raw_path(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path: str = scope["path"] if raw is None else raw.decode("latin-1")
    return path


def _values(headers: Headers, wanted: bytes) -> tuple[str, ...]:
    return tuple(value.decode("latin-1") for name, value in headers if name.lower() == wanted)


def _length(headers: Headers) -> int | None:
    lengths = _values(headers, b"content-length")
    # 20 digits are too much already, and int() takes no more than 4,300
    return int(lengths[0][:20]) if lengths and lengths[0].isdecimal() else None


async def _read(receive: Receive, max_body: int) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            while True:
                message = await receive()
                if message["type"] != "http.request":  # the client has hung up
                    raise Refusal(BAD_REQUEST)
                body += message.get("body", b"")
                if len(body) > max_body:
                    raise Refusal(TOO_LARGE)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(BODY_TIMEOUT) from None


async def _send(send: Send, response: Response) -> None:
    body = f"{response.reason}\n".encode() if response.reason else b""
    headers = [
        (b"content-length", str(len(body)).encode()),
        (b"content-type", b"text/plain; charset=utf-8"),
    ]
    headers += [(name.lower().encode(), value.encode()) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
