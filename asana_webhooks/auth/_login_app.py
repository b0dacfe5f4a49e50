"""The routes of a login in a browser, for ASGI and for aiohttp.

Source: https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from aiohttp import web

from ._login import Answer, Logins

__all__ = ["LoginApp"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class LoginApp:
    """An ASGI application that logs users in to Asana, to mount; ``aiohttp_app`` is another."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request, refuse a WebSocket; raises ValueError for anything else."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            msg = f"mount this application below one that handles {scope['type']!r} itself"
            raise ValueError(msg)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        query = scope["query_string"].decode("latin-1")
        cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
        answer = await self._logins.answer(
            scope["method"], path, query, cookies.decode("latin-1"), scope
        )
        with contextlib.suppress(OSError):  # the browser has hung up
            await _send(send, answer)

    def aiohttp_app(self) -> web.Application:
        """Return an aiohttp application for ``add_subapp``."""
        app = web.Application()
        app.router.add_route("*", "", self._handle)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        tail = request.match_info.get("tail")
        path = "" if tail is None else f"/{tail}"
        cookies = "; ".join(request.headers.getall("Cookie", []))
        query = request.rel_url.raw_query_string
        answer = await self._logins.answer(request.method, path, query, cookies, request)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body.encode())


async def _send(send: Send, answer: Answer) -> None:
    body = answer.body.encode()
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
