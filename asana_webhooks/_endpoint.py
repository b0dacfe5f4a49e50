"""Persist, then answer: the one place where a request meets the store."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from ._deadline import Deadline
from ._logging import ThrottledLogger
from .errors import StoreError
from .models import Delivery, Route
from .protocol import (
    ALIVE,
    MAX_BODY,
    NO_MORE_SECRETS,
    NOT_GET,
    NOT_READY,
    PROBES,
    READY,
    UNAVAILABLE,
    UNKNOWN_ROUTE,
    WRONG_SIGNATURE,
    Bury,
    Decision,
    Effect,
    Enqueue,
    NoteHeartbeat,
    Refusal,
    Remember,
    Request,
    Response,
    decide,
    screen,
)
from .stores import Store
from .telemetry import Telemetry

__all__ = ["STORE_TIMEOUT", "Endpoint"]

STORE_TIMEOUT = 4.4
"""Seconds, an eighth more at most, that the store has for a request; Asana waits 10."""

ROUTE_KNOWN_FOR = 1.0
"""Seconds for which a confirmed route is not looked up again; its secret never changes."""

MAX_ROUTES_KNOWN = 10_000

logger = logging.getLogger(__name__)


class _HandshakeAttempt(msgspec.Struct, frozen=True):
    """A request with a handshake's header: when (monotonic seconds), for what, how answered."""

    at: float
    route: str
    status: int


class _CachedRoute(msgspec.Struct, frozen=True, gc=False):
    """A confirmed route, when it was read (monotonic seconds), and if to see whether it changed."""

    route: Route
    read_at: float
    read_again: bool


class Endpoint:
    """Answers requests for routes; it does not know how they came.

    ``on_arrival`` is called, on the loop, after a delivery was stored. ``accepting`` is what the
    readiness probe tells, while the store answers. ``telemetry`` is told of each request and of
    what becomes of deliveries.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_arrival: Callable[[], None],
        max_body: int = MAX_BODY,
        answer_gone: bool = False,
        store_timeout: float = STORE_TIMEOUT,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._telemetry = telemetry or Telemetry()
        self.max_body = max_body
        self.accepting = False
        self._sightings: deque[_HandshakeAttempt] = deque(maxlen=100)
        self._store = store
        self._on_arrival = on_arrival
        self._answer_gone = answer_gone
        self._deadline = Deadline(store_timeout)
        self._known: dict[str, _CachedRoute] = {}
        self._log = ThrottledLogger(logger)

    async def handle(self, request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
        """Return the answer, after its effect is durable.

        ``read`` gives the raw body and is called only when the body matters; it may raise Refusal.
        A store that fails, or is too slow, is answered 503: Asana sends it again.
        """
        if request.route in PROBES:
            return await self._probe(request)
        with self._telemetry.receiving(request):
            response = await self._handle(request, read)
            self._telemetry.answered(response)
        return response

    async def _handle(self, request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
        try:
            response = await self._answer(request, read)
        except Refusal as refusal:
            response = refusal.response
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "the store is too slow"
            self._log.log(logging.ERROR, "store", "answered 503: %s", reason, exc_info=True)
            response = UNAVAILABLE
        if request.secrets:
            self._sightings.append(
                _HandshakeAttempt(time.monotonic(), request.route, response.status)
            )
        if response.reason and response is not UNAVAILABLE:
            self._log.log(
                logging.INFO, response.reason, "answered %d: %s", response.status, response.reason
            )
        return response

    def seen(self, route: str, since: float) -> tuple[str, ...]:
        """Return a line for each request with a handshake's header since then (monotonic).

        Those for other routes are left out; those for no route at all may have been meant.
        """
        return tuple(
            f"a handshake for {'this route' if sighting.route == route else 'an unknown path'},"
            f" answered {sighting.status}"
            for sighting in self._sightings
            if sighting.at >= since and (sighting.route == route or sighting.status == 404)
        )

    def forget(self, route: str) -> None:
        """Look this route up again at its next request: it has changed."""
        self._known.pop(route, None)

    async def _probe(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return NOT_GET
        if request.route == "healthz":
            return ALIVE
        return READY if self.accepting and await self._store_answers(request) else NOT_READY

    async def _store_answers(self, request: Request) -> bool:
        try:
            await self._deadline.wait_for(self._store.get_route(request.route))
        except (StoreError, TimeoutError):
            return False
        return True

    async def _answer(self, request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
        started = time.monotonic()
        route = await self._find(request.route)
        spent = time.monotonic() - started
        if route is None:
            return UNKNOWN_ROUTE
        refusal = screen(request, route, max_body=self.max_body, answer_gone=self._answer_gone)
        if refusal is not None:
            return refusal
        request.body = await read()
        now = datetime.now(UTC)
        decision = decide(request, route, now=now, max_body=self.max_body)
        if decision.response is WRONG_SIGNATURE and self._may_have_changed(request.route, started):
            started = time.monotonic()
            decision = await self._decide_again(request, now, spent=spent)
            spent += time.monotonic() - started
        if decision.effect is None:
            return decision.response
        return await self._deadline.wait_for(
            self._perform(decision.effect, request, decision.response, now), spent=spent
        )

    def _may_have_changed(self, route_id: str, since: float) -> bool:
        """Return whether a route was remembered for this request, and may be looked up again.

        Once in a second at most: a stranger who guesses signatures costs no more look-ups.
        """
        known = self._known.get(route_id)
        return known is not None and known.read_at < since and not known.read_again

    async def _decide_again(self, request: Request, now: datetime, *, spent: float) -> Decision:
        """Return the decision by what the store says now."""
        known = self._known[request.route]
        self._known[request.route] = msgspec.structs.replace(known, read_again=True)
        route = await self._look_up(request.route, again=True, spent=spent)
        return decide(
            request, route, now=now, max_body=self.max_body, answer_gone=self._answer_gone
        )

    async def _find(self, route_id: str) -> Route | None:
        known = self._known.get(route_id)
        if known is not None:
            if time.monotonic() < known.read_at + ROUTE_KNOWN_FOR:
                return known.route
            del self._known[route_id]
        return await self._look_up(route_id) if route_id else None

    async def _look_up(
        self, route_id: str, *, again: bool = False, spent: float = 0.0
    ) -> Route | None:
        now = time.monotonic()
        route = await self._deadline.wait_for(self._store.get_route(route_id), spent=spent)
        if route is None or route.state != "confirmed":
            self._known.pop(route_id, None)
            return route
        if len(self._known) >= MAX_ROUTES_KNOWN:
            self._known.clear()
        self._known[route_id] = _CachedRoute(route, now, again)
        return route

    async def _perform(
        self, effect: Effect, request: Request, response: Response, now: datetime
    ) -> Response:
        if isinstance(effect, Enqueue):
            await self._enqueue(effect, request, now)
        elif isinstance(effect, NoteHeartbeat):
            await self._store.note_heartbeat(request.route, now)
        elif isinstance(effect, Remember):
            if not await self._store.add_candidate(request.route, effect.secret):
                return NO_MORE_SECRETS
        else:
            await self._bury(effect, request, now)
        return response

    async def _enqueue(self, effect: Enqueue, request: Request, now: datetime) -> None:
        delivery = self._delivery(request, effect.digest, now)
        if await self._store.put(delivery, candidate=effect.candidate):
            self._telemetry.became(delivery, "stored")
            self._on_arrival()
        else:
            self._telemetry.became(delivery, "duplicate")

    async def _bury(self, effect: Bury, request: Request, now: datetime) -> None:
        delivery = self._delivery(request, effect.digest, now)
        if await self._store.put(delivery, reason=effect.reason):
            self._telemetry.became(delivery, "dead", effect.reason)
            level = logging.WARNING if effect.replay else logging.ERROR
            kind = "replay" if effect.replay else "unreadable"
            self._log.log(level, kind, "a signed delivery became a dead letter: %s", effect.reason)
        else:
            self._telemetry.became(delivery, "duplicate")

    def _delivery(self, request: Request, digest: bytes, now: datetime) -> Delivery:
        return Delivery(
            route=request.route,
            body=request.body,
            digest=digest,
            received_at=now,
            trace=self._telemetry.traceparent(),
        )
