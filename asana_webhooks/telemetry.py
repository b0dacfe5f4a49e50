"""What happened since this process began: counted, told in a snapshot, shown to telemetry."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Protocol

import msgspec

from .models import Counts, Delivery, Route

__all__ = ["SILENT", "Counters", "Stats", "Telemetry", "WebhookStats"]


class WebhookStats(msgspec.Struct, frozen=True, kw_only=True):
    """How long one webhook has been silent, in seconds.

    ``gid`` is None until the webhook is established. ``since_delivery`` is of deliveries with
    events that this process received, None before the first; ``since_heartbeat`` is of heartbeats
    at whatever process, which Asana sends at the handshake and every eight hours: one that is
    older than that is a webhook to look after.
    """

    gid: str | None
    resource: str
    since_delivery: float | None
    since_heartbeat: float | None


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of the inbox, which processes share, and of what this process has done.

    ``waiting`` and ``dead_letters`` are how many there are in the store, ``oldest_age`` is in
    seconds, None when nothing is in line. Counted since this process began: deliveries that were
    ``stored``; ``duplicates``, known already and answered 200; ``handled``; failed attempts that
    are ``retried``; deliveries that became ``dead`` letters; requests ``refused``, by reason.
    """

    waiting: int
    oldest_age: float | None
    dead_letters: int
    stored: int
    duplicates: int
    handled: int
    retried: int
    dead: int
    refused: dict[str, int]
    webhooks: tuple[WebhookStats, ...]


class Counters:
    """Counts; one object for all rooms of a client."""

    def __init__(self) -> None:
        self.stored = self.duplicates = self.handled = self.retried = self.dead = 0
        self.refused: Counter[str] = Counter()
        self._delivered: dict[str, float] = {}

    def note_delivery(self, route: str) -> None:
        """Keep that a delivery of this route was verified now."""
        self._delivered[route] = time.monotonic()

    def snapshot(self, counts: Counts, routes: Iterable[Route]) -> Stats:
        """Return what is counted here together with what a store has told."""
        now = datetime.now(UTC)
        return Stats(
            waiting=counts.waiting,
            oldest_age=_age(counts.oldest_at, now),
            dead_letters=counts.dead_letters,
            stored=self.stored,
            duplicates=self.duplicates,
            handled=self.handled,
            retried=self.retried,
            dead=self.dead,
            refused=dict(self.refused),
            webhooks=tuple(self._silence(route, now) for route in routes),
        )

    def _silence(self, route: Route, now: datetime) -> WebhookStats:
        delivered = self._delivered.get(route.id)
        return WebhookStats(
            gid=route.gid,
            resource=route.resource,
            since_delivery=None if delivered is None else time.monotonic() - delivered,
            since_heartbeat=_age(route.heartbeat_at, now),
        )


def _age(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())


class Telemetry(Protocol):
    """Told of each request and of each attempt to handle a delivery; it raises nothing.

    It is given no secret, route, gid or body to pass on.
    """

    def receiving(self) -> AbstractContextManager[object]:
        """Surround the work on one request."""
        ...

    def answered(self, status: int, reason: str) -> None:
        """Note inside ``receiving`` how the request was answered; no reason is success."""
        ...

    def traceparent(self) -> str:
        """Return the ``traceparent`` of what is under way, to be kept with a delivery, or ''."""
        ...

    def processing(self, delivery: Delivery) -> AbstractContextManager[object]:
        """Surround one attempt to handle a delivery; an exception that passes means it failed."""
        ...

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Ask for a snapshot now and then, until cancelled."""
        ...


class _Silent:
    def receiving(self) -> AbstractContextManager[object]:
        return _NOTHING

    def answered(self, status: int, reason: str) -> None:
        pass

    def traceparent(self) -> str:
        return ""

    def processing(self, delivery: Delivery) -> AbstractContextManager[object]:
        return _NOTHING

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        pass


_NOTHING = nullcontext()
SILENT: Telemetry = _Silent()
"""Telemetry that nobody asked for."""
