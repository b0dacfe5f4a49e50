"""Where events go: to the webhooks that see them, and into the stream that can be asked for them.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/reference/events
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from .filters import passes
from .state import State, WebhookRecord

__all__ = ["Feed", "Happening", "Stretch"]

KEPT = timedelta(hours=24)
PAGE = 100

Json = Mapping[str, Any]


class Happening(NamedTuple):
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
    happening: Happening


class Feed:
    """Hands events over to webhooks by ``send``, and keeps them for 24 hours."""

    def __init__(self, state: State, send: Callable[[WebhookRecord, list[Json]], None]) -> None:
        self._state = state
        self._send = send
        self._entries: deque[_Entry] = deque()
        self.position = 0
        """The position in the stream that the next event will have."""

    def publish(self, *happenings: Happening) -> None:
        """Tell of what happened in one act: each webhook gets what passes its filters."""
        for happening in happenings:
            self._entries.append(_Entry(self.position, self._state.now(), happening))
            self.position += 1
        self._forget()
        for webhook in self._state.webhooks.values():
            seen = [event for event, seers in happenings if webhook.resource in seers]
            passing = [event for event in seen if passes(event, webhook.filters)]
            if passing:
                self._send(webhook, passing)

    def since(self, resource: str, position: int) -> Stretch:
        """Return at most 100 of the events on a resource from a position on."""
        self._forget()
        seen = [
            entry
            for entry in self._entries
            if entry.position >= position and resource in entry.happening.seers
        ]
        if len(seen) <= PAGE:
            return Stretch([each.happening.event for each in seen], self.position, more=False)
        events = [each.happening.event for each in seen[:PAGE]]
        return Stretch(events, seen[PAGE].position, more=True)

    def _forget(self) -> None:
        limit = self._state.now() - KEPT
        while self._entries and self._entries[0].at <= limit:
            self._entries.popleft()
