"""What every call must bring, and what may happen to any of them before it is looked at.

Sources: https://developers.asana.com/docs/authentication,
https://developers.asana.com/docs/inputoutput-options, https://developers.asana.com/docs/rate-limits
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from .answers import Refused
from .faults import Fault, Faults
from .limits import Limits
from .notices import announcement
from .scopes import required_scope
from .tokens import Tokens

__all__ = ["Door", "app_of", "input_fields"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

APP = web.RequestKey("app", str)


class Door:
    """Lets calls in, and turns refusals into answers; ``retry_after`` is in seconds.

    ``changes`` are the announced changes of the API by name.
    """

    def __init__(
        self,
        faults: Faults,
        tokens: Tokens,
        limits: Limits,
        changes: Mapping[str, str],
        *,
        retry_after: int,
    ) -> None:
        self._faults = faults
        self._tokens = tokens
        self._limits = limits
        self._changes = changes
        self._retry_after = str(retry_after)
        self._refused: set[bytes] = set()

    @web.middleware
    async def pass_through(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer the call, or refuse it in Asana's shape."""
        response: web.StreamResponse
        if Fault.UNAVAILABLE in self._faults:
            html = "<html><body><h1>503 Service Unavailable</h1></body></html>"
            return web.Response(status=503, text=html, content_type="text/html")
        try:
            response = await self._let_in(request, handler)
        except Refused as refusal:
            response = refusal.answer()
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
            response = Refused(404, "No matching route for request").answer()
        pretty = request.query.get("opt_pretty", "false").lower() != "false"
        if pretty and isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = msgspec.json.format(response.body, indent=2)
        if value := announcement(self._changes, request.headers):
            response.headers["Asana-Change"] = value
        return response

    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = token_of(request)
        self._tokens.check(token, required_scope(request.method, request.path))
        request[APP] = self._tokens.app(token)
        await self._limit_rate(request, token)
        with self._limits.admitted(token, request.method):
            return await handler(request)

    async def _limit_rate(self, request: web.Request, token: str) -> None:
        if Fault.RATE_LIMITED not in self._faults:
            return
        call = f"{token} {request.method} {request.path_qs} ".encode() + await request.read()
        digest = hashlib.sha256(call).digest()
        if digest in self._refused:
            self._refused.remove(digest)
            return
        self._refused.add(digest)
        message = "You have made too many requests recently."
        raise Refused(429, message, headers={"Retry-After": self._retry_after})


def token_of(request: web.Request) -> str:
    """Return the bearer token of a call; any will do. Raises Refused when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(401, "Not Authorized")
    return token.strip()


def app_of(request: web.Request) -> str:
    """Return what stands for the app that makes a call; it sees only webhooks of its own."""
    return request[APP]


async def input_fields(request: web.Request) -> Mapping[str, Any]:
    """Return the fields of a call's body: what is under ``data`` in JSON, or a form as it is.

    Raises Refused when the body is not what it says it is, or is JSON and holds no such object.
    """
    if request.content_type != "application/json":
        return await _form(request)
    try:
        body = msgspec.json.decode(await request.read())
    except (ValueError, RecursionError):
        raise Refused(400, "Could not parse request data, invalid JSON") from None
    fields = body.get("data") if isinstance(body, dict) else None
    if not isinstance(fields, dict):
        raise Refused(400, "data: Missing input")
    return fields


async def _form(request: web.Request) -> Mapping[str, Any]:
    try:
        return dict(await request.post())
    except (ValueError, LookupError):  # what aiohttp lets out: bytes, a charset, a missing boundary
        raise Refused(400, "Could not parse request data, invalid form") from None
