"""The events of this Asana: handed to webhooks, and kept in streams that can be asked for them.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/reference/events, https://developers.asana.com/reference/getevents
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from aiohttp import web

from .filters import part, passes
from .responses import Refused, answer, choose, named_fields, unknown
from .state import State, WebhookRecord

__all__ = ["EventCalls", "EventLog", "PublishedEvent", "Stretch"]

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
        self.position = 0
        """The position in the stream that the next event will have."""

    def publish(self, *events: PublishedEvent) -> None:
        """Tell of what happened in one act: each webhook gets what passes its filters."""
        for happening in events:
            self._entries.append(_Entry(self.position, self._state.now(), happening))
            self.position += 1
        self._forget()
        for webhook in self._state.webhooks.values():
            seen = [event for event, seers in events if webhook.resource in seers]
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


LASTS = timedelta(hours=24)
WATCHED = frozenset({"task", "project", "goal"})

TOO_OLD = (
    "Sync token invalid or too old. If you are attempting to keep resources in sync, you must "
    "fetch the full dataset for this query now and use the new sync token for the next sync."
)


class _Reader(NamedTuple):
    resource: str
    position: int
    ends_at: datetime


class EventCalls:
    """Answers with what happened since a sync token was given out."""

    def __init__(self, state: State, log: EventLog) -> None:
        self._state = state
        self._log = log
        self._readers: dict[str, _Reader] = {}

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.get("/events", self.events),
            web.get("/{kind:tasks|projects}/{gid}/events", self.events),
        ]

    async def events(self, request: web.Request) -> web.Response:
        """Show up to 100 events and the next token; 412 and a fresh token without a good one."""
        resource = self._resource(request)
        reader = self._readers.get(request.query.get("sync", ""))
        if reader is None or reader.resource != resource or reader.ends_at <= self._state.now():
            sync = self._token(resource, self._log.position)
            return answer({"errors": [{"message": TOO_OLD}], "sync": sync}, status=412)
        stretch = self._log.since(resource, reader.position)
        names = named_fields(request)
        events = [self._record(event) for event in stretch.events]
        return answer(
            {
                "data": [choose(event, names or list(event)) for event in events],
                "sync": self._token(resource, stretch.position),
                "has_more": stretch.more,
            }
        )

    def _resource(self, request: web.Request) -> str:
        gid = request.match_info.get("gid") or request.query.get("resource")
        if not gid:
            raise Refused(400, "resource: Missing input")
        thing = self._state.things.get(gid)
        if thing is None:
            raise unknown("resource", gid)
        if thing.resource_type not in WATCHED:
            raise Refused(400, f"resource: There is no stream of events of a {thing.resource_type}")
        return gid

    def _token(self, resource: str, position: int) -> str:
        token, now = secrets.token_hex(16), self._state.now()
        for ended in [key for key, reader in self._readers.items() if reader.ends_at <= now]:
            del self._readers[ended]
        self._readers[token] = _Reader(resource, position, now + LASTS)
        return token

    def _record(self, event: Mapping[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = self._with_links(event)
        kind = part(event, "resource").get("resource_type")
        return shown | ({"type": kind} if kind else {})

    def _with_links(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = {name: self._with_links(each) for name, each in value.items()}
        gid = value.get("gid")
        return self._state.things.get(gid, fields) if isinstance(gid, str) else fields
