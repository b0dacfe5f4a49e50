"""The events that the program itself has caused, told from those of people and other programs.

A write may have caused an event when the event is one of its effects, the user is its token's, and
the time is within its call. Each part of a write causes one event at most, and the store keeps
which: so every worker judges alike, also after a crash. What cannot be decided is no echo.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec.structs import force_setattr

from ._logging import ThrottledLogger
from ._ping_pong import PingPong
from ._writes import MADE, Effect, Written
from .errors import DecodeError
from .models import Delivery, Event, event_digest
from .stores import Store

__all__ = ["ClaimEchoes", "Echoes", "Suspect", "suspects"]

MARGIN = timedelta(seconds=0.25)
"""By how much an event may be dated before or behind its call: Asana has many clocks."""

LONGEST_CALL = timedelta(minutes=2)
"""A call is over by then, with all of its tries; one without a result has lost its process."""

LONGEST_WAIT = 10.0
"""Seconds that an event waits for the result of a call that may have caused it."""

LOOK_AGAIN = 0.25
"""Seconds between looks for that result."""

logger = logging.getLogger(__name__)

_GID = re.compile(rb'"gid"\s*:\s*"([0-9]+)"')


class Suspect(NamedTuple):
    """A part of a write that may have caused an event; ``is_open`` without a result."""

    write: str
    part: str
    is_open: bool


def suspects(event: Event, writes: Mapping[str, Written], now: datetime) -> list[Suspect]:
    """Return what may have caused an event, the likeliest first; ``now`` is Asana's time."""
    found = []
    for write, written in writes.items():
        if not _is_in_time(event.created_at, written, now) or not _is_by(event, written):
            continue
        for number, effect in enumerate(written.effects):
            if _may_be(effect, written, event):
                suspect = Suspect(write, _part_of(number, event), written.ended is None)
                found.append((_distance(event.created_at, written), suspect))
    return [suspect for _, suspect in sorted(found, key=lambda each: each[0])]


def _is_in_time(at: datetime, written: Written, now: datetime) -> bool:
    if written.ended is not None:
        return written.started - MARGIN <= at <= written.ended + MARGIN
    over = written.started + LONGEST_CALL
    return written.started - MARGIN <= at <= over and now <= over


def _is_by(event: Event, written: Written) -> bool:
    """Return whether the user fits; stories come without one at times."""
    if event.user is None:
        return event.resource.resource_type == "story"
    return event.user.gid == written.user


def _may_be(effect: Effect, written: Written, event: Event) -> bool:
    if written.made or not effect.needs_made:
        return effect.fits(event, written.made)
    is_addition = effect.resource == MADE and effect.action == "added"
    return written.ended is None and is_addition and effect.fits(event)


def _part_of(number: int, event: Event) -> str:
    """Return the name of a part: one effect may be several events, of fields or parents."""
    parent = "" if event.parent is None else event.parent.gid
    field = "" if event.change is None else event.change.field or ""
    return f"{number} {parent} {field}"


def _distance(at: datetime, written: Written) -> timedelta:
    """Return how far an event is from the middle of a call."""
    ended = written.ended or written.started
    return abs(at - written.started - (ended - written.started) / 2)


class Echoes:
    """Tells echoes, with what the store knows of writes; ``now`` is the time by Asana's clock."""

    def __init__(
        self, store: Store, now: Callable[[], datetime], *, ping_pong: PingPong | None
    ) -> None:
        self.store = store
        self.now = now
        self.ping_pong = ping_pong
        self._log = ThrottledLogger(logger)

    def of_claim(self) -> ClaimEchoes:
        """Return what judges the events of a claim."""
        return ClaimEchoes(self)

    async def read(self, gids: Iterable[str]) -> dict[str, Written]:
        """Return the writes that may have caused events of these gids, by their ids."""
        writes = {}
        for each in await self.store.list_writes({*gids, MADE}):
            try:
                writes[each.id] = Written.decode(each.text)
            except DecodeError as error:
                text = "the record of a call is damaged, its events are taken for others': %s"
                self._log.log(logging.WARNING, "damaged", text, error)
        return writes


class ClaimEchoes:
    """Judges the events of one claim. The writes are read once for all deliveries that are added.

    Whatever caused one of them was kept before it: what the store has when they are claimed is
    all that there is, but for the results of calls that are under way.
    """

    def __init__(self, echoes: Echoes) -> None:
        self._echoes = echoes
        self._unread: list[bytes] = []
        self._writes: dict[str, dict[str, Written]] = {}  # by the gids of their resources
        self._reading = asyncio.Lock()

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Judge these deliveries' events too."""
        self._unread += [each.body for each in deliveries]

    async def judge(self, event: Event, waits_since: float) -> float:
        """Set whether an event is an echo; returns 0.0, or for how many seconds it is to wait.

        ``waits_since`` is the monotonic time at which it was judged first. Raises StoreError.
        """
        ping_pong = self._echoes.ping_pong
        if ping_pong is not None and (pause := ping_pong.pause_of(event)):
            return pause
        if self._unread:
            await self._read()
        writes = self._about(event)
        is_echo = await self._judge(event, writes, waits_since) if writes else False
        if is_echo is None:
            return LOOK_AGAIN
        force_setattr(event, "echo", is_echo)
        return ping_pong.note(event) if ping_pong is not None else 0.0

    async def _judge(
        self, event: Event, writes: dict[str, Written], waits_since: float
    ) -> bool | None:
        """Return whether an event is an echo; None while it is to wait for the end of a call."""
        found = suspects(event, writes, self._echoes.now())
        if any(each.is_open for each in found):
            writes = await self._echoes.read(_gids_of(event))
            self._keep(writes)
            found = suspects(event, writes, self._echoes.now())
        if not found:
            return False
        key = event_digest(event)
        for each in found:
            if not each.is_open and await self._echoes.store.take_write(each.write, each.part, key):
                return True
        is_late = time.monotonic() - waits_since >= LONGEST_WAIT
        return None if any(each.is_open for each in found) and not is_late else False

    async def _read(self) -> None:
        async with self._reading:
            bodies = list(self._unread)
            if not bodies:
                return  # another event's judge has read them
            gids = {gid.decode() for body in bodies for gid in _GID.findall(body)}
            self._keep(await self._echoes.read(gids))
            del self._unread[: len(bodies)]

    def _keep(self, writes: Mapping[str, Written]) -> None:
        for write, written in writes.items():
            self._writes.get(MADE, {}).pop(write, None)  # what it made may be known by now
            for gid in written.resources():
                self._writes.setdefault(gid, {})[write] = written

    def _about(self, event: Event) -> dict[str, Written]:
        """Return the writes that may have caused an event, by their ids."""
        found = dict(self._writes.get(MADE, ()))
        for gid in _gids_of(event):
            found |= self._writes.get(gid, {})
        return found


def _gids_of(event: Event) -> list[str]:
    return [event.resource.gid, *([event.parent.gid] if event.parent else [])]
