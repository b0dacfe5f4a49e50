"""Observers: they are told of each call, handshake and delivery, and of events that are dropped.

No ``repr`` of it shows a token, a secret or a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from .caller import CALLER

__all__ = ["Attempt", "Call", "Dropped", "Handshake", "Traffic", "Watch", "observe_calls"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was answered; ``path`` and ``query`` are percent-encoded as they came.

    ``token`` is the caller's and ``user`` the gid of the user whom it stands for; both are empty
    when the call was refused before anybody asked for them. Calls are equal when their method,
    path and status are.
    """

    method: str
    path: str
    status: int
    query: str = field(default="", compare=False)
    token: str = field(default="", repr=False, compare=False)
    user: str = field(default="", compare=False)


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
        try:
            response = await handler(request)
        except web.HTTPException as answer:
            watch(_call(request, answer.status))
            raise
        watch(_call(request, response.status))
        return response

    return tell


def _call(request: web.Request, status: int) -> Call:
    url, caller = request.rel_url, request.get(CALLER)
    token, user = (caller.token, caller.user.gid) if caller else ("", "")
    return Call(request.method, url.raw_path, status, url.raw_query_string, token, user)
