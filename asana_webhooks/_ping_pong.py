"""The end of a ping-pong: two programs that answer each other's writes without end."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from .models import Event

__all__ = ["PingPong"]

FLIPS = 6
"""So many times a field goes to the other writer before the handlers are paused."""

WITHIN = timedelta(minutes=1)
"""The time within which it goes so often."""

PAUSE = 60.0
"""Seconds for which the handlers of the resource are paused."""

MAX_FIELDS = 10_000
"""Of so many fields of resources it is known who changed them, the latest of all."""

OURSELVES = "this program"
SOMEBODY = "somebody"

logger = logging.getLogger(__name__)


class _Change(NamedTuple):
    at: datetime
    writer: str


class PingPong:
    """Counts how often a field of a resource goes from this program to another writer, and back.

    An event must have been judged: what is an echo is this program's. Each process counts what it
    handles.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes: dict[tuple[str, str, str], deque[_Change]] = {}
        self._paused: dict[tuple[str, str], float] = {}  # resources, and until when

    def pause_of(self, event: Event) -> float:
        """Return for how many seconds the handlers of an event are paused; 0.0 for not."""
        until = self._paused.get(resource := (event.source.account, event.resource.gid))
        if until is None:
            return 0.0
        left = until - self._clock()
        if left <= 0.0:
            del self._paused[resource]
        return max(left, 0.0)

    def note(self, event: Event) -> float:
        """Note an event; return for how many seconds its handlers are paused, if it is too much."""
        field = _field_of(event)
        if not field:
            return 0.0
        account, gid = event.source.account, event.resource.gid
        change = _Change(event.created_at, _writer_of(event))
        changes = self._changes.pop((account, gid, field), None) or deque()
        self._changes[account, gid, field] = changes  # the latest is the last of all
        if len(self._changes) > MAX_FIELDS:
            del self._changes[next(iter(self._changes))]
        if change in changes:
            return 0.0  # it is told by another webhook too, or tried again
        if event.echo and not changes:  # what it answers came before there was a write
            changes.append(_Change(change.at, SOMEBODY))
        changes.append(change)
        while changes[0].at < change.at - WITHIN:
            changes.popleft()
        if _flips(changes) < FLIPS:
            return 0.0
        return self._pause(event, field, changes)

    def _pause(self, event: Event, field: str, changes: deque[_Change]) -> float:
        writers = dict.fromkeys(each.writer for each in changes)
        logger.warning(
            "%s and %s answer each other: %.50r of %.50r %.50s went to and fro %d times in a"
            " minute; its handlers are paused for %.0f s",
            *(OURSELVES, ", ".join(each for each in writers if each not in (OURSELVES, SOMEBODY))),
            *(field, event.resource.resource_type, event.resource.gid, FLIPS, PAUSE),
        )
        changes.clear()
        self._paused[event.source.account, event.resource.gid] = self._clock() + PAUSE
        return PAUSE


def _field_of(event: Event) -> str:
    """Return what an event changes of its resource; "" when that cannot go to and fro."""
    if event.change is not None:
        return event.change.field or ""
    if event.action in ("added", "removed") and event.parent is not None:
        return event.parent.resource_type or ""
    return ""


def _writer_of(event: Event) -> str:
    if event.echo:
        return OURSELVES
    return "Asana itself" if event.user is None else f"user {event.user.gid}"


def _flips(changes: deque[_Change]) -> int:
    """Return how often the writer alternated between this program and another one."""
    writers = [each.writer for each in changes]
    return sum((one == OURSELVES) != (other == OURSELVES) for one, other in pairwise(writers))
