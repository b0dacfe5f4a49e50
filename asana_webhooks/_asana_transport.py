"""The way of calls to Asana: token, address, proxy, connections, and which calls are repeated.

=====================  ==========================================================================
operation              is repeated after
=====================  ==========================================================================
GET, PUT, DELETE       no answer, 429, 500, 502, 503, 504
POST                   429 only: it was refused, so it had no effect; after any other failure it
                       may have had one, and Asana takes no key that would make a repeat harmless
=====================  ==========================================================================

Up to 5 tries, with exponential back-off and jitter; none follows a failure that comes later than
45 seconds after the start of the first, without what was waited for Asana's permission. A
``Retry-After`` of up to a minute is waited for, by all calls of the token. A longer one is the
caller's to wait: the error is raised at once, as it is when a timeout of anyio around the call
would end before the next try. Before all that a call waits for its place in the token's budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import os
import random
import re
import time
from collections.abc import AsyncIterable, Callable, Generator
from typing import Any, Self
from urllib.parse import urlencode

import aiohttp
import anyio
import httpx
import msgspec

from ._asana_connections import Connections, heads
from ._asana_http import CALL_SECONDS, CONNECT_SECONDS, BearerAuth
from ._asana_responses import accept, is_untrusted, unanswered
from ._budget import LONG_WAIT, Budget, Kind, Priority, Slot, budget_of
from ._options import Rule, optional
from .errors import (
    AsanaWebhooksError,
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
)
from .models import BudgetState

__all__ = ["HTTP_CLIENT", "TOKEN_VARIABLES", "AsanaTransport", "NoToken", "find_auth", "kind_of"]

TOKEN_VARIABLES = ("ASANA_ACCESS_TOKEN", "ASANA_PAT", "ASANA_PERSONAL_ACCESS_TOKEN")
ASK_SECONDS, ASK_AFTER = 2.0, 60.0
"""Seconds that a question for the time may take, and between two of them."""

MAX_ANSWER = 10 * 1024 * 1024

MAX_TRIES = 5
RETRY_SECONDS = 45.0
"""No try follows a failure that comes so many seconds after the start of the first."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
JITTER = 1.0
LONGEST_RETRY_AFTER = 60.0

LIMITED = (
    "calls wait for more than a minute: they are more than Asana's limits, or calls_per_minute, let"
    " the token make"
)

QUIET_SECONDS = 5.0
"""A call that waits for its next try beyond so many seconds says so, once."""

logger = logging.getLogger(__name__)


def _is_client(value: object) -> bool:
    methods = ("build_request", "send")
    return not isinstance(value, httpx.Client) and all(hasattr(value, name) for name in methods)


HTTP_CLIENT = optional(Rule((object,), "an httpx.AsyncClient, or what is used as one", _is_client))

_TOKEN = re.compile(r"[!-~]+")


class NoToken(httpx.Auth):
    """The authentication of a client that has no token of its own, but accounts that have."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Raise RuntimeError instead of a call."""
        msg = "this client has no token of its own: call by one of its accounts"
        raise RuntimeError(msg)


class _LongWaits:
    """Tells once that calls wait for longer than a minute, and again when that had ended."""

    def __init__(self) -> None:
        self._are = False
        self.tell: Callable[[str], None] = lambda detail: None

    def begin(self) -> None:
        if not self._are:
            self._are = True
            self.tell(LIMITED)

    def over(self) -> None:
        if self._are:
            self._are = False
            self.tell("")


class AsanaTransport:
    """Sends calls to the Asana at ``base_url``, and repeats those that may be repeated.

    Calls may run concurrently, in one event loop. Raises ValueError for a token or a base URL that
    cannot work, before any I/O. ``calls_per_minute`` limits how many calls a token makes; None:
    Asana's refusals alone do.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None,
        *,
        base_url: str | None,
        http_client: httpx.AsyncClient | None,
        calls_per_minute: int | None = None,
    ) -> None:
        self._connections = Connections(base_url, http_client)
        self._auth = find_auth(token, http_client)
        self._is_shared = False  # whether the connections are another transport's, to be closed
        self._closed = False
        self._asked_at = -ASK_AFTER  # for the time, by the monotonic clock
        self._asking = anyio.Lock()
        self._priority = Priority.PROGRAM
        self._slot: Slot | None = None  # in which the calls are made
        self._budgets: tuple[asyncio.AbstractEventLoop, Budget] | None = None
        self._waits = _LongWaits()
        self.calls_per_minute = calls_per_minute
        self.base_url = self._connections.base_url
        self.clock = self._connections.clock

    def for_token(self, token: str | httpx.Auth) -> Self:
        """Return calls with this token, and never another, over the same connections and clock.

        To close it ends its calls alone; the connections end with the transport that it is made of.
        Raises ValueError for a token that cannot work.
        """
        other = copy.copy(self)
        other._auth = token if isinstance(token, httpx.Auth) else _bearer("token", token)
        other._is_shared, other._closed = True, False
        other._budgets, other._waits = None, _LongWaits()
        return other

    async def aclose(self) -> None:
        """Allow no calls, and close connections of its own. May be called twice."""
        self._closed = True
        if not self._is_shared:
            await self._connections.aclose()

    def reopen(self) -> None:
        """Allow calls again after ``aclose``, in whichever event loop makes the first."""
        self._closed = False
        if not self._is_shared:
            self._connections.reopen()

    def check_not_closed(self) -> None:
        """Raise RuntimeError after ``aclose``."""
        if self._closed:
            msg = "this client was closed; enter it again with `async with`"
            raise RuntimeError(msg)
        self._connections.check_not_closed()

    async def learn_time(self) -> None:
        """Ask Asana for the time, unless an answer told it before; once a minute at the most.

        It fails in silence: then nothing but our clock is known.
        """
        if self.clock.is_set or isinstance(self._auth, NoToken):
            return
        async with self._asking:  # who comes second waits for the answer too
            asked = time.monotonic()
            if self.clock.is_set or asked < self._asked_at + ASK_AFTER:
                return
            self._asked_at = asked
            with contextlib.suppress(AsanaWebhooksError), anyio.move_on_after(ASK_SECONDS):
                await self.call("GET", "/users/me", {"opt_fields": "gid"}, seconds=ASK_SECONDS)

    def at(self, priority: Priority) -> Self:
        """Return the same calls, which wait for those of a higher priority."""
        other = copy.copy(self)
        other._priority = priority
        return other

    async def take_slot(self, kind: Kind) -> Self:
        """Return the same calls, in one slot of the budget that is taken now: see ``leave_slot``.

        They are made one after the other, and wait for no other call. Raises what ``call`` raises
        before a call is made.
        """
        self.check_not_closed()
        slot = await self._enter(kind)
        other = copy.copy(self)
        other._slot = slot
        return other

    def leave_slot(self) -> None:
        """Give back the slot that was taken; may be called twice."""
        if self._slot is not None:
            self._slot.leave()

    async def call(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        *,
        content: dict[str, Any] | None = None,
        seconds: float | None = None,
        within: float | None = None,
    ) -> bytes:
        """Return the body of Asana's answer.

        Each try ends after ``seconds``; None: after 30, or earlier by the client's own timeouts.
        All of them end ``within`` so many seconds from when the budget has room for the call.
        Raises the ApiError of the last refusal, ConnectionFailedError when no answer came.
        """
        request = self._prepared(method, path, query, content)
        if seconds is not None:
            request["timeout"] = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        self.check_not_closed()
        slot = self._slot or await self._enter(kind_of(method, path))
        try:
            if within is None:
                return await self._tries(slot, request, seconds or CALL_SECONDS)
            return await self._tries_within(within, slot, request, seconds or CALL_SECONDS)
        finally:
            if slot is not self._slot:
                slot.leave()

    async def _tries_within(
        self, within: float, slot: Slot, request: dict[str, Any], seconds: float
    ) -> bytes:
        try:
            with anyio.fail_after(within):
                return await self._tries(slot, request, seconds)
        except TimeoutError:
            msg = f"no complete answer from {self._connections.host} within {within:g} s"
            raise ConnectionFailedError(msg) from None

    async def _tries(self, slot: Slot, request: dict[str, Any], seconds: float) -> bytes:
        started, waited, quiet, tries = time.monotonic(), 0.0, True, 0
        while True:
            waited += await slot.turn()
            tries += 1
            try:
                return await self._try(request, seconds)
            except AsanaWebhooksError as error:
                spent = time.monotonic() - started - waited
                pause = _pause_after(error, method=request["method"], tries=tries, spent=spent)
                if isinstance(error, RateLimitedError):
                    self._hold(error, pause)
                if pause is None:
                    raise
                if quiet and spent + waited + pause > QUIET_SECONDS:
                    quiet = False
                    text = "%s %s waits for Asana, the next try follows in %.0f s: %s"
                    path = request["url"].removeprefix(self.base_url).partition("?")[0]
                    logger.info(text, request["method"], path, pause, error)
                if isinstance(error, RateLimitedError):
                    continue
            await asyncio.sleep(pause)

    # The budget

    @property
    def holder(self) -> str:
        """The name of the token's budget among those of other processes."""
        return self._budget().holder

    @property
    def calls_made(self) -> int:
        """The number of calls that this process made by the token, in this event loop."""
        return self._budget().calls_made

    @property
    def written_at(self) -> float:
        """The monotonic time at which the last call ended that may have changed something."""
        return self._budget().written_at

    def share(self, holders: int) -> None:
        """Take one part of the token's slots, of as many as processes share it."""
        self._budget().share(holders)

    def budget_state(self, account: str = "") -> BudgetState:
        """Return what is under way by this token, and what waits."""
        return self._budget().state(account)

    def tell_long_waits(self, tell: Callable[[str], None]) -> None:
        """Call ``tell`` with a line when calls wait for more than a minute, with '' at the end."""
        self._waits.tell = tell

    def _budget(self) -> Budget:
        """Return the budget of this token in the event loop that runs."""
        loop = asyncio.get_running_loop()
        if self._budgets is None or self._budgets[0] is not loop:
            budget = budget_of(self._whose(), self.base_url)
            budget.limit_rate(self.calls_per_minute)
            self._budgets = loop, budget
        return self._budgets[1]

    def _whose(self) -> object:
        """Return by what the token is known in this process."""
        if isinstance(self._auth, BearerAuth):
            return self._auth.digest
        return self._connections.client() if self._auth is None else self._auth

    async def _enter(self, kind: Kind) -> Slot:
        budget = self._budget()
        if budget.is_idle:
            self._waits.over()
        return await budget.enter(kind, self._priority, on_long_wait=self._waits.begin)

    def _hold(self, error: RateLimitedError, pause: float | None) -> None:
        """Have all calls of the token wait, after one was refused."""
        self._budget().hold(error.retry_after or 0.0 if pause is None else pause)
        if pause is not None and pause >= LONG_WAIT:
            self._waits.begin()

    def _prepared(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        content: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Return what httpx makes the request of, anew for each try."""
        url = f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json"}
        request: dict[str, Any] = {"method": method, "url": url, "headers": headers}
        if content is not None:
            request["content"] = msgspec.json.encode({"data": content})
            headers["Content-Type"] = "application/json"
        return request

    async def _try(self, prepared: dict[str, Any], seconds: float) -> bytes:
        self.check_not_closed()
        client = self._connections.client()
        auth = {} if self._auth is None else {"auth": self._auth}
        asked_at = self.clock.uptime()
        try:
            request = client.build_request(**prepared)
            if self._is_shared:
                _forget_who_calls(request)
            # httpx limits each read; this limits the whole, however slowly it drips.
            async with asyncio.timeout(seconds):
                response = await client.send(request, stream=True, follow_redirects=False, **auth)
                try:
                    body = await _read(self._connections.chunks(response))
                finally:
                    await response.aclose()
        except (httpx.RequestError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            host = self._connections.host
            raise unanswered(error, method=prepared["method"], host=host) from error
        status, headers = response.status_code, heads(response.headers)
        logger.debug("%s %s: %d", request.method, prepared["url"], status)
        self._connections.announce(headers.get("asana-change", ""))
        content = accept(status, headers.get("retry-after"), body)
        self.clock.note(headers, asked_at)
        return content


def _forget_who_calls(request: httpx.Request) -> None:
    """Take from a request what a given client adds of its own, which may be another's."""
    for name in ("Authorization", "Cookie"):
        request.headers.pop(name, None)


async def _read(chunks: AsyncIterable[bytes]) -> bytes | None:
    """Return the body, None when it is larger than MAX_ANSWER or badly compressed."""
    body = bytearray()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_ANSWER:
                return None
    except httpx.DecodingError:
        return None
    return bytes(body)


def kind_of(method: str, path: str) -> Kind:
    """Return of which kind a call is."""
    if method == "GET":
        return Kind.READ
    return Kind.CREATE if (method, path) == ("POST", "/webhooks") else Kind.WRITE


def _pause_after(
    error: AsanaWebhooksError, *, method: str, tries: int, spent: float
) -> float | None:
    """Return for how many seconds to wait for the next try after this error, None for no more."""
    if tries >= MAX_TRIES or spent > RETRY_SECONDS:
        return None
    jitter = random.uniform(0.0, JITTER)  # noqa: S311 - nothing to be guessed
    if isinstance(error, RateLimitedError) and error.retry_after is not None:
        # Processes that were refused hear the same number; jitter keeps them from coming as one.
        pause = error.retry_after
        is_worth_it = pause <= LONGEST_RETRY_AFTER
    else:
        pause = min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE)
        is_refused = isinstance(error, RateLimitedError)
        is_worth_it = is_refused or (method != "POST" and _is_transient(error))
    left = anyio.current_effective_deadline() - anyio.current_time()
    return pause + jitter if is_worth_it and pause + jitter < left else None


def _is_transient(error: AsanaWebhooksError) -> bool:
    if isinstance(error, ServerError):
        return error.status in (500, 502, 503, 504)
    return isinstance(error, ConnectionFailedError) and not is_untrusted(error)


def find_auth(
    token: str | httpx.Auth | None, http_client: httpx.AsyncClient | None
) -> httpx.Auth | None:
    """Return what authenticates each call, None when the given client does so by itself."""
    if isinstance(token, httpx.Auth):
        return token
    if token is not None:
        return _bearer("token", token)
    for name in TOKEN_VARIABLES:
        if value := os.environ.get(name):
            return _bearer(name, value)
    if http_client is not None and (http_client.auth or "Authorization" in http_client.headers):
        return None
    msg = f"no access token: pass token=, or set one of {', '.join(TOKEN_VARIABLES)}"
    raise ValueError(msg)


def _bearer(name: str, token: str) -> BearerAuth:
    # Of another type or with another character, it would fail later, in errors that quote it.
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return BearerAuth(token)
    msg = (
        f"{name} is no access token: it must be text of visible ASCII characters, without blanks"
        " or a line break at the end, and without the word Bearer"
    )
    raise ValueError(msg)
