"""Observers: they are told of each call, handshake and delivery, and of events that are dropped.

Nothing of it shows a token, a secret or a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["Attempt", "Call", "Dropped", "Handshake", "Traffic", "Watch", "observe_calls"]


class Call(NamedTuple):
    """One call that was answered; ``path`` is percent-encoded as it came, without its query."""

    method: str
    path: str
    status: int


class Handshake(NamedTuple):
    """One genuine handshake for a webhook on ``resource``, whose secret was ``echoed`` or not.

    ``status`` is None when no answer came.
    """

    resource: str
    status: int | None
    echoed: bool


class Attempt(NamedTuple):
    """One signed post: ``status`` is None, and ``error`` not empty, when no answer came."""

    webhook_gid: str
    body: bytes
    signature: str
    status: int | None
    error: str
    number: int

    def __repr__(self) -> str:
        """Return what tells attempts apart; an error's text may hold the target."""
        outcome = self.status or "no answer"
        return f"Attempt({self.webhook_gid}, {len(self.body)} bytes, no. {self.number}, {outcome})"


class Dropped(NamedTuple):
    """One event in Asana's JSON shape that a webhook's target will never be told of."""

    webhook_gid: str
    event: Mapping[str, Any]


Traffic = Call | Handshake | Attempt | Dropped
Watch = Callable[[Traffic], object]


def observe_calls(watch: Watch) -> Middleware:
    """Return the middleware that tells of each call when its answer is known."""

    @web.middleware
    async def tell(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.rel_url.raw_path
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            watch(Call(request.method, path, answer.status))
            raise
        watch(Call(request.method, path, response.status))
        return response

    return tell
