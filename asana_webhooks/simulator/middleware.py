"""The checks that every call passes: token, limits; and announced deprecations.

Sources: https://developers.asana.com/docs/authentication,
https://developers.asana.com/docs/rate-limits, https://developers.asana.com/docs/deprecations
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.typedefs import Middleware as AiohttpMiddleware
from yarl import URL

from .caller import CALLER
from .faults import Fault, Faults
from .oauth import Tokens
from .operations import find
from .responses import Refused
from .state import State

__all__ = ["API", "Limits", "Middleware", "announcement", "be_away", "check_host"]

NOT_ITS_NAME = (
    "The local Asana is called by an address or as localhost; start it with host_names to call it"
    " by another name"
)

API = "/api/1.0"
"""The path of the API."""

CORS = {"Access-Control-Allow-Origin": "*"}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "OPTIONS,HEAD,GET,PUT,POST,DELETE",
    "Access-Control-Allow-Headers": "Authorization,Content-Type,Asana-Enable,Asana-Disable",
    "Access-Control-Max-Age": "86400",
}
"""The answer to a browser that asks whether a page of another site may call."""

STATUSES = frozenset(HTTPStatus)

MOST_REFUSED = 10_000
"""How many refused calls are remembered, whose repeats are let in."""


class Middleware:
    """Lets calls in, and turns refusals into answers; ``retry_after`` is in seconds.

    ``changes`` are the announced changes of the API by name. ``state`` tells the time of answers.
    """

    def __init__(
        self,
        state: State,
        faults: Faults,
        tokens: Tokens,
        limits: Limits,
        changes: Mapping[str, str],
        *,
        retry_after: int,
    ) -> None:
        self._state = state
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
        if request.method == "OPTIONS":
            return web.Response(headers=CORS | PREFLIGHT)
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
        response.headers.update(CORS)
        if request.method == "GET":
            response.headers["X-Asana-Api-Version"] = "1.1"
        if value := announcement(self._changes, request.headers):
            response.headers["Asana-Change"] = value
        response.headers["Date"] = format_datetime(self._state.now(), usegmt=True)
        return response

    async def _let_in(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not find(request.rel_url.path_safe.removeprefix(API)):
            raise web.HTTPNotFound  # Asana looks for the route first
        token = token_of(request)
        self._tokens.check(token)
        caller = request[CALLER] = self._tokens.caller(token)
        self._fail_once(request)
        await self._limit_rate(request, token)
        with self._limits.admitted(token, request.method), self._state.acting_as(caller.user):
            return await handler(request)

    def _fail_once(self, request: web.Request) -> None:
        fault = self._faults.take(request.method, request.path.removeprefix(API))
        if fault is None:
            return
        if fault.status is None:
            if request.transport is not None:
                request.transport.abort()
            raise Refused(503, "The connection is cut")
        headers = {"Retry-After": self._retry_after} if fault.status in (429, 503) else None
        message = HTTPStatus(fault.status).phrase if fault.status in STATUSES else "Error"
        phrase = "6 sad squid snuggle softly" if fault.status == 500 else None
        raise Refused(fault.status, message, phrase=phrase, headers=headers)

    async def _limit_rate(self, request: web.Request, token: str) -> None:
        if Fault.RATE_LIMITED not in self._faults:
            return
        call = f"{token} {request.method} {request.path_qs} ".encode() + await request.read()
        digest = hashlib.sha256(call).digest()
        if digest in self._refused:
            self._refused.remove(digest)
            return
        if len(self._refused) >= MOST_REFUSED:
            self._refused.clear()
        self._refused.add(digest)
        message = "You have made too many requests recently."
        raise Refused(429, message, headers={"Retry-After": self._retry_after})


def token_of(request: web.Request) -> str:
    """Return the bearer token of a call; any will do. Raises Refused when there is none."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Refused(401, "Not Authorized")
    return token.strip()


WINDOW = timedelta(minutes=1)

TOO_MANY = (
    "You've made too many requests and hit a rate limit. "
    "Please retry after the given amount of time."
)


class Limits:
    """Lets the calls of each token in, or refuses them with 429; None means no limit.

    ``per_minute`` is how many calls may come within any minute. Refused calls count as well: a
    client that comes back too early is refused for longer. ``gets`` and ``writes`` are calls at
    once; one too many of these is told to wait ``retry_after`` seconds.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        per_minute: int | None,
        gets: int | None,
        writes: int | None,
        retry_after: int,
    ) -> None:
        self._now = now
        self._per_minute = per_minute
        self._at_once = {True: gets, False: writes}
        self._retry_after = retry_after
        self._calls: dict[str, deque[datetime]] = {}
        self._under_way: Counter[tuple[str, bool]] = Counter()

    @contextlib.contextmanager
    def admitted(self, token: str, method: str) -> Iterator[None]:
        """Count a call as under way inside ``with``; raises Refused when it is one too many."""
        self._count(token)
        kind = (token, method == "GET")
        limit = self._at_once[kind[1]]
        if limit is not None and self._under_way[kind] >= limit:
            raise _too_many(self._retry_after)
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1

    def _count(self, token: str) -> None:
        if self._per_minute is None:
            return
        now = self._now()
        last = self._calls.setdefault(token, deque(maxlen=self._per_minute))
        refused = len(last) == self._per_minute and now - last[0] < WINDOW
        last.append(now)
        if refused:
            raise _too_many(math.ceil((last[0] + WINDOW - now).total_seconds()))


def _too_many(seconds: int) -> Refused:
    return Refused(429, TOO_MANY, headers={"Retry-After": str(seconds)})


def announcement(changes: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
    """Return the value of ``Asana-Change`` for a call with these headers, None for no header.

    ``changes`` maps the names of the changes to where they are explained. Those that the call
    names in ``Asana-Enable`` or ``Asana-Disable`` are not announced to it.
    """
    answered = ",".join(headers.get(name, "") for name in ("Asana-Enable", "Asana-Disable"))
    known = {name.strip() for name in answered.split(",")}
    return (
        ", ".join(
            f"name={name};info={info};affected=true"
            for name, info in changes.items()
            if name not in known
        )
        or None
    )


def be_away(faults: Faults, *, but: str) -> AiohttpMiddleware:
    """Return the middleware that cuts calls off in an outage, except those below the path ``but``.

    Nobody is told of a call that is cut off.
    """

    @web.middleware
    async def cut(request: web.Request, handler: Handler) -> web.StreamResponse:
        if Fault.OUTAGE not in faults or request.path.startswith(f"{but}/"):
            return await handler(request)
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)

    return cut


def check_host(names: Collection[str]) -> AiohttpMiddleware:
    """Return the middleware that refuses calls to any host name but ``localhost`` and these.

    A page in a browser calls this machine under a name of its own when that name is bound anew
    (DNS rebinding); the browser says the name in ``Host``. An address cannot be bound anew.
    """
    known = {name.lower() for name in names}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = _host_name(request.host)
        if not (host in known or host == "localhost" or host.endswith(".localhost")):
            try:
                ipaddress.ip_address(host)
            except ValueError:
                return Refused(403, NOT_ITS_NAME).answer()
        return await handler(request)

    return check


def _host_name(host: str) -> str:
    try:
        return (URL.build(scheme="http", authority=host).host or "").lower()
    except ValueError:
        return ""
