"""Persist, then answer: the one place where a request meets the store.

Heads and bodies are read here too, once for all doors: a door hands over a path, the headers as
they came, and what gives the next piece of the body.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeAlias

import msgspec

from ._deadline import Deadline
from ._logging import ThrottledLogger
from ._options import COUNT, SECONDS, check_options
from ._sightings import BODY_LATE, TOO_MANY_BODIES, UNAVAILABLE, Sightings
from .errors import StoreError
from .models import Delivery, Route
from .protocol import (
    ACCEPTED,
    MAX_BODY,
    TOO_LARGE,
    UNKNOWN_ROUTE,
    WRONG_SIGNATURE,
    Bury,
    Decision,
    Effect,
    Enqueue,
    NoteHeartbeat,
    Remember,
    Request,
    Response,
    _Redacted,
    decide,
    judge,
    route_of,
    screen,
)
from .stores import Store
from .telemetry import Telemetry

__all__ = ["STORE_TIMEOUT", "Acceptance", "Endpoint", "Receive", "Refusal", "read_head"]

STORE_TIMEOUT = 4.4
"""Seconds, an eighth more at most, that the store has for a request; Asana waits 10."""

BODY_TIMEOUT = 5.0
"""Seconds, an eighth more at most, in which a body must be complete."""

LINGER = 2.0
"""Seconds for which a door reads the rest of a refused body, so that the answer gets through."""

MAX_BODIES = 64 * 1024 * 1024
"""Bytes that the bodies of requests under way may have together, but never less than one may."""

ROUTE_KNOWN_FOR = 1.0
"""Seconds for which a confirmed route is not looked up again; its secret never changes."""

MAX_ROUTES_KNOWN = 10_000

MAX_CLOCK_ERROR = timedelta(minutes=5)
"""The error of this machine's clock from which on the log names it."""

ALIVE = Response(200, "alive")
READY = Response(200, "ready")
NO_MORE_SECRETS = Response(403, "this route takes no more secrets")
NOT_GET = Response(405, "a probe takes GET only", (("Allow", "GET, HEAD"),))
NOT_READY = Response(503, "not ready")

PROBES = ("healthz", "readyz")

_OPTIONS = {"max_body": COUNT, "body_timeout": SECONDS, "store_timeout": SECONDS}

logger = logging.getLogger(__name__)

Receive: TypeAlias = Callable[[], Awaitable[tuple[bytes, bool]]]
"""Returns the next piece of a body, and whether there may be more; may raise Refusal."""

_PROBE = re.compile(r"[^?#]*/(healthz|readyz)/?(?:\?[^#]*)?\Z")

_LENGTHS = frozenset(
    map(
        len,
        (
            *("x-hook-secret", "x-hook-signature", "content-encoding", "transfer-encoding"),
            "content-length",
        ),
    )
)
"""How long the names of those headers are that are read; most others are not looked at."""


class Refusal(Exception):  # noqa: N818 - not an error: the other way to answer
    """Raised while a body is read; carries the answer."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__(response.status)


def read_head(method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Request:
    """Return the request that has this head; its body is not read yet.

    ``path`` is as it came: its last segment is the route's id, or the name of a probe. ``headers``
    are as they came, in any case, with or without blanks around their values.
    """
    kept = tuple(headers)  # any iterable, says the specification of ASGI
    found: dict[bytes, tuple[str, ...]] = {}
    for name, value in kept:
        if len(name) in _LENGTHS:
            lower = name.lower()
            found[lower] = (*found.get(lower, ()), value.decode("latin-1").strip(" \t"))
    read = found.get
    length = read(b"content-length", ("",))[0]
    return Request(
        method=method,
        route=route_of(path) or _probe_of(path),
        secrets=read(b"x-hook-secret", ()),
        signatures=read(b"x-hook-signature", ()),
        encodings=read(b"content-encoding", ()),
        transfers=read(b"transfer-encoding", ()),
        # 20 digits are too much already, and int() takes no more than 4,300
        length=int(length[:20]) if length.isdecimal() else None,
        headers=kept,
    )


def _probe_of(path: str) -> str:
    match = _PROBE.match(path)
    return match[1] if match else ""


class _CachedRoute(_Redacted, msgspec.Struct, frozen=True, gc=False):
    """A confirmed route, when it was read (monotonic seconds), and if to see whether it changed."""

    route: Route
    read_at: float
    read_again: bool


def machine_time() -> datetime:
    """Return the time that this machine's clock shows."""
    return datetime.now(UTC)


def _is_replay(decision: Decision) -> bool:
    return isinstance(decision.effect, Bury) and decision.effect.replay


class Endpoint:
    """Answers requests for routes; it does not know how they came.

    ``on_arrival`` is called, on the loop, after a delivery was stored. ``accepting`` is what the
    readiness probe tells, while the store answers. ``max_body`` is in bytes, ``body_timeout`` and
    ``store_timeout`` are in seconds. ``now`` returns the time (aware) by which the age of events is
    judged: Asana's where it is known; ``learn_time`` asks Asana for it when all events of one body
    look old, as they do by a clock that is ahead. ``telemetry`` is told of each request and of what
    becomes of deliveries, and ``on_mangled`` as ``Sightings`` say. ``machine_time`` is the wall
    clock by which receipts are dated.

    Raises ValueError for a limit that is not positive, TypeError for one that is no number.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_arrival: Callable[[], None],
        max_body: int = MAX_BODY,
        answer_gone: bool = False,
        body_timeout: float = BODY_TIMEOUT,
        store_timeout: float = STORE_TIMEOUT,
        now: Callable[[], datetime] = machine_time,
        learn_time: Callable[[], Awaitable[None]] | None = None,
        telemetry: Telemetry | None = None,
        on_mangled: Callable[[Route, str], None] | None = None,
        machine_time: Callable[[], datetime] = machine_time,
    ) -> None:
        check_options(_OPTIONS, locals())
        self.accepting = False
        self._store = store
        self._on_arrival = on_arrival
        self.max_body = max_body
        self._answer_gone = answer_gone
        self._now = now
        self._learn_time = learn_time
        self._telemetry = telemetry or Telemetry()
        self._machine_time = machine_time
        self._clock_is_wrong = False
        self._store_deadline = Deadline(store_timeout)
        self._body_deadline = Deadline(body_timeout)
        self._bodies = 0  # bytes
        self._max_bodies = max(MAX_BODIES, max_body)
        self._known: dict[str, _CachedRoute] = {}
        self._sightings = Sightings(on_mangled)
        self._log = ThrottledLogger(logger)

    async def handle(self, request: Request, receive: Receive) -> Response:
        """Return the answer, after its effect is durable.

        ``receive`` gives the raw body, and is called only when the body matters and the request
        has none: a door that holds all of it already may give it there. A store that fails, or is
        too slow, is answered 503: Asana sends it again.
        """
        if request.route in PROBES:
            return await self._probe(request)
        with self._telemetry.receiving(request):
            response = await self._handle(request, receive)
            self._telemetry.answered(response)
        return response

    def accept(
        self, request: Request, answer: Callable[[Response | BaseException], None]
    ) -> Acceptance | None:
        """Begin to store a request that has its body, without a task, if nothing else is to do.

        That is so for a delivery of a route that is remembered. ``answer`` is called once, after
        the effect is durable, perhaps before this returns: with what ``handle`` would return or
        raise. None, and nothing is done, when ``handle`` is needed.
        """
        route = self._remembered(request.route, time.monotonic())
        if route is None or self._bodies + len(request.body) > self._max_bodies:
            return None
        if screen(request, route, max_body=self.max_body) is not None:
            return None
        received_at, now = self._machine_time(), self._now()
        effect = judge(request, route, now=now).effect
        if not isinstance(effect, Enqueue):
            return None
        self._check_clock(received_at - now)
        steps = self._accepting(request, effect.digest, received_at)
        return Acceptance(steps, self._store_deadline, answer)

    def _accepting(
        self, request: Request, digest: bytes, received_at: datetime
    ) -> Generator[asyncio.Future[bool], None, Response]:
        """Return the answer; yield what is to be waited for, for as long as the store may take."""
        size = len(request.body)
        self._bodies += size
        try:
            with self._telemetry.receiving(request):
                try:
                    delivery = self._delivery(request, digest, received_at)
                    stored = asyncio.ensure_future(self._store.put(delivery))
                    if not stored.done():
                        yield stored
                    self._enqueued(delivery, is_new=stored.result())
                    response = ACCEPTED
                except (StoreError, TimeoutError) as error:
                    response = self._unavailable(error)
                    self._note(request, response)
                self._telemetry.answered(response)
            return response
        finally:
            self._bodies -= size

    async def _handle(self, request: Request, receive: Receive) -> Response:
        try:
            response = await self._answer(request, receive)
        except Refusal as refusal:
            response = refusal.response
        except (StoreError, TimeoutError) as error:
            response = self._unavailable(error)
        if request.secrets or response.reason:
            self._note(request, response)
        return response

    def _unavailable(self, error: StoreError | TimeoutError) -> Response:
        reason = str(error) or "the store is too slow"
        self._log.log(logging.ERROR, "store", "answered 503: %s", reason, exc_info=error)
        return UNAVAILABLE

    def _note(self, request: Request, response: Response) -> None:
        known = self._known.get(request.route)
        self._sightings.note(request, response, None if known is None else known.route)

    def seen(self, route: str, since: float) -> tuple[str, ...]:
        """Return what ``Sightings.seen`` returns."""
        return self._sightings.seen(route, since)

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
            await self._store_deadline.wait_for(self._store.get_route(request.route))
        except (StoreError, TimeoutError):
            return False
        return True

    async def _answer(self, request: Request, receive: Receive) -> Response:
        started, spent = time.monotonic(), 0.0
        route = self._remembered(request.route, started)
        if route is None and request.route:
            route = await self._look_up(request.route)
            spent = time.monotonic() - started
        if route is None:
            return UNKNOWN_ROUTE
        refusal = screen(request, route, max_body=self.max_body, answer_gone=self._answer_gone)
        if refusal is not None:
            return refusal
        if request.body:
            self._bodies += len(request.body)
        else:
            request.body = await self._read(receive)
        try:
            if self._bodies > self._max_bodies:
                return TOO_MANY_BODIES
            return await self._judge(request, route, started, spent=spent)
        finally:
            self._bodies -= len(request.body)

    async def _read(self, receive: Receive) -> bytes:
        """Return the body. Raises Refusal when it is too large, too late, cut, or one too many."""
        try:
            return await self._body_deadline.wait_for(self._collect(receive))
        except TimeoutError:
            raise Refusal(BODY_LATE) from None

    async def _collect(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        try:
            while more:
                piece, more = await receive()
                self._bodies += len(piece)
                body += piece
                if len(body) > self.max_body:
                    raise Refusal(TOO_LARGE)
                if self._bodies > self._max_bodies:
                    raise Refusal(TOO_MANY_BODIES)
        except BaseException:
            self._bodies -= len(body)
            raise
        return bytes(body)

    async def _judge(
        self, request: Request, route: Route, started: float, *, spent: float
    ) -> Response:
        """Return the answer to a request whose body is read, after its effect is durable."""
        received_at, now = self._machine_time(), self._now()
        self._check_clock(received_at - now)
        decision = judge(request, route, now=now)
        if self._learn_time is not None and _is_replay(decision):
            await self._learn_time()
            now = self._now()
            self._check_clock(received_at - now)
            decision = judge(request, route, now=now)
        if decision.response is WRONG_SIGNATURE and self._may_have_changed(request.route, started):
            started = time.monotonic()
            decision = await self._decide_again(request, now, spent=spent)
            spent += time.monotonic() - started
        if decision.effect is None:
            return decision.response
        return await self._store_deadline.wait_for(
            self._perform(decision.effect, request, decision.response, received_at), spent=spent
        )

    def _check_clock(self, ahead: timedelta) -> None:
        """Say once that this machine's clock is wrong, for as long as it is."""
        is_wrong = not -MAX_CLOCK_ERROR <= ahead <= MAX_CLOCK_ERROR
        was_wrong, self._clock_is_wrong = self._clock_is_wrong, is_wrong
        if is_wrong and not was_wrong:
            logger.error(
                "this machine's clock is %s %s Asana's: set it right",
                timedelta(seconds=round(abs(ahead).total_seconds())),
                "ahead of" if ahead > timedelta() else "behind",
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

    def _remembered(self, route_id: str, now: float) -> Route | None:
        known = self._known.get(route_id)
        if known is None:
            return None
        if now < known.read_at + ROUTE_KNOWN_FOR:
            return known.route
        del self._known[route_id]
        return None

    async def _look_up(
        self, route_id: str, *, again: bool = False, spent: float = 0.0
    ) -> Route | None:
        now = time.monotonic()
        route = await self._store_deadline.wait_for(self._store.get_route(route_id), spent=spent)
        if route is None or route.state != "confirmed":
            self._known.pop(route_id, None)
            return route
        if len(self._known) >= MAX_ROUTES_KNOWN:
            self._known.clear()
        self._known[route_id] = _CachedRoute(route, now, again)
        return route

    async def _perform(
        self, effect: Effect, request: Request, response: Response, received_at: datetime
    ) -> Response:
        if isinstance(effect, Enqueue):
            await self._enqueue(effect, request, received_at)
        elif isinstance(effect, NoteHeartbeat):
            await self._store.note_heartbeat(request.route, received_at)
        elif isinstance(effect, Remember):
            if not await self._store.add_candidate(request.route, effect.secret):
                return NO_MORE_SECRETS
        else:
            await self._bury(effect, request, received_at)
        return response

    async def _enqueue(self, effect: Enqueue, request: Request, received_at: datetime) -> None:
        delivery = self._delivery(request, effect.digest, received_at)
        is_new = await self._store.put(delivery, candidate=effect.candidate)
        self._enqueued(delivery, is_new=is_new)

    def _enqueued(self, delivery: Delivery, *, is_new: bool) -> None:
        self._telemetry.became(delivery, "stored" if is_new else "duplicate")
        if is_new:
            self._on_arrival()

    async def _bury(self, effect: Bury, request: Request, received_at: datetime) -> None:
        delivery = self._delivery(request, effect.digest, received_at)
        if await self._store.put(delivery, reason=effect.reason):
            self._telemetry.became(delivery, "dead", effect.reason)
            level = logging.WARNING if effect.replay else logging.ERROR
            kind = "replay" if effect.replay else "unreadable"
            self._log.log(level, kind, "a signed delivery became a dead letter: %s", effect.reason)
        else:
            self._telemetry.became(delivery, "duplicate")

    def _delivery(self, request: Request, digest: bytes, received_at: datetime) -> Delivery:
        return Delivery(
            route=request.route,
            body=request.body,
            digest=digest,
            received_at=received_at,
            trace=self._telemetry.traceparent(),
        )


class Acceptance:
    """One delivery on its way into the store, in callbacks instead of a task.

    They run in one context, as a task would, so that the telemetry finds its own there.
    """

    __slots__ = ("_answer", "_context", "_deadline", "_steps", "stored")

    def __init__(
        self,
        steps: Generator[asyncio.Future[bool], None, Response],
        deadline: Deadline,
        answer: Callable[[Response | BaseException], None],
    ) -> None:
        self._steps = steps
        self._deadline = deadline
        self._answer = answer
        self._context = copy_context()
        self._context.run(self._begin)

    def cancel(self) -> None:
        """Give it up, if it has not ended; ``answer`` is given a CancelledError."""
        self.stored.cancel()

    def _begin(self) -> None:
        if self._goes_on(self._steps.__next__):
            self._deadline.begin(self, self._give_up)
            self.stored.add_done_callback(self._end, context=self._context)

    def _end(self, _: asyncio.Future[bool]) -> None:
        self._deadline.end(self)
        self._goes_on(self._steps.__next__)

    def _give_up(self) -> None:
        self.stored.remove_done_callback(self._end)
        self.stored.cancel()
        self._context.run(self._goes_on, partial(self._steps.throw, TimeoutError()))

    def _goes_on(self, step: Callable[[], asyncio.Future[bool]]) -> bool:
        """Make a step; return whether there is something to wait for. Else it is answered."""
        try:
            self.stored = step()
        except StopIteration as end:
            self._answer(end.value)
        except BaseException as error:  # noqa: BLE001 - who answers raises it where it is logged
            self._answer(error)
        else:
            return True
        return False
