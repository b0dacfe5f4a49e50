"""The events of this Asana: handed to webhooks, and kept for streams that can be asked for them.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/reference/events
"""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

from .access import may_see
from .filters import passes
from .state import State, WebhookRecord

__all__ = ["EventLog", "PublishedEvent", "Stretch"]

KEPT = timedelta(hours=24)
PAGE = 100

Json = Mapping[str, Any]


class PublishedEvent(NamedTuple):
    """One event in Asana's JSON shape, and the gids of the objects that see it."""

    event: Json
    seers: Collection[str]


class Stretch(NamedTuple):
    """Some events of a stream, the position after them, and whether there are more."""

    events: list[Json]
    position: int
    more: bool


class _Entry(NamedTuple):
    position: int
    at: datetime
    happening: PublishedEvent


class EventLog:
    """Hands events over to webhooks by ``send``, and keeps them for 24 hours."""

    def __init__(self, state: State, send: Callable[[WebhookRecord, list[Json]], None]) -> None:
        self._state = state
        self._send = send
        self._entries: deque[_Entry] = deque()
        self._seen_by: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        self._silent = False
        self.position = 0
        """The position in the stream that the next event will have."""

    def publish(self, *events: PublishedEvent) -> None:
        """Tell of what happened in one act: each webhook gets what passes its filters.

        One whose user may see its resource no longer gets nothing.
        """
        if self._silent:
            return
        for happening in events:
            entry = _Entry(self.position, self._state.now(), happening)
            for kept in (self._entries, *(self._seen_by[gid] for gid in happening.seers)):
                kept.append(entry)
            self.position += 1
        self._forget()
        for webhook in self._state.webhooks.values():
            seen = [event for event, seers in events if webhook.resource in seers]
            if not (seen and self._has_access(webhook)):
                continue
            passing = [event for event in seen if passes(event, webhook.filters)]
            if passing:
                self._send(webhook, passing)

    def _has_access(self, webhook: WebhookRecord) -> bool:
        things = self._state.things
        return may_see(things[webhook.user], things[webhook.resource])

    @contextlib.contextmanager
    def silenced(self) -> Iterator[None]:
        """Tell nobody of what happens inside ``with``, and forget it."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def clear(self) -> None:
        """Forget all events; positions go on."""
        self._entries.clear()
        self._seen_by.clear()

    def since(self, resource: str, position: int, *, lag: timedelta = timedelta()) -> Stretch:
        """Return at most 100 of the events on a resource from a position on.

        Those that are younger than ``lag`` are not there yet, nor are those behind them.
        """
        self._forget()
        limit = self._state.now() - lag
        seen = reversed(self._seen_by.get(resource, ()))
        asked = [*takewhile(lambda entry: entry.position >= position, seen)][::-1]
        there = [*takewhile(lambda entry: entry.at <= limit, asked)]
        page, behind = there[:PAGE], asked[min(len(there), PAGE) :]
        following = behind[0].position if behind else self.position
        events = [entry.happening.event for entry in page]
        return Stretch(events, following, more=len(there) > PAGE)

    def _forget(self) -> None:
        limit = self._state.now() - KEPT
        while self._entries and self._entries[0].at <= limit:
            for gid in self._entries.popleft().happening.seers:
                self._seen_by[gid].popleft()
                if not self._seen_by[gid]:
                    del self._seen_by[gid]
