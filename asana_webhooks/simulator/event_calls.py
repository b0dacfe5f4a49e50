"""The stream of events that can be asked for, with tokens that say how far one has read.

Source: https://developers.asana.com/reference/getevents
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from aiohttp import web

from .answers import Refused, answer, choose, named_fields, unknown
from .feed import Feed
from .filters import part
from .state import State

__all__ = ["EventCalls"]

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

    def __init__(self, state: State, feed: Feed) -> None:
        self._state = state
        self._feed = feed
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
            sync = self._token(resource, self._feed.position)
            return answer({"errors": [{"message": TOO_OLD}], "sync": sync}, status=412)
        stretch = self._feed.since(resource, reader.position)
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
