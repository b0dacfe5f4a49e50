"""Streams of events: the calls that ask for what happened since a sync token was given out.

A token is good for 24 hours, or less. Whether a stream and a webhook say one change alike is not
documented; faults make them differ.

Sources: https://developers.asana.com/reference/events,
https://developers.asana.com/reference/getevents
"""

from __future__ import annotations

import asyncio
import secrets
import zlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from ..access import check_access
from ..call import ApiCall, Operation
from ..deliveries import Start
from ..events import EventLog
from ..faults import Fault, Faults
from ..filters import part
from ..objects import Field, Kind, choose
from ..responses import Refused, answer, unknown
from ..state import State, timestamp
from ..subscriptions import check_room

__all__ = ["EventCalls"]

CHANGE = ("field", "action", "new_value", "added_value", "removed_value")
EVENT = Kind(
    name="event",
    fields={
        "user": Field(of="user"),
        "created_at": Field(),
        "action": Field(),
        "resource": Field(),
        "parent": Field(),
        "change": Field(of=dict.fromkeys(CHANGE, "")),
        "type": Field(),
    },
)
"""The record of an event, as the stream shows it."""

WATCHED = frozenset({"task", "project", "goal"})
VALUES = frozenset({"new_value", "added_value", "removed_value"})

TOO_OLD = (
    "Sync token invalid or too old. If you are attempting to keep resources in sync, you must "
    "fetch the full dataset for this query now and use the new sync token for the next sync."
)


class _Reader(NamedTuple):
    """A stream and a position in it; ``before`` is the token that the call for it had, if any."""

    resource: str
    position: int
    ends_at: datetime
    before: str


class EventCalls:
    """Answers with what happened since a sync token was given out.

    Tokens last for ``lasts``, events are in the stream ``lag`` after they happened. ``release`` is
    what calls wait for that the fault ``slow-stream`` holds up.
    """

    def __init__(
        self,
        state: State,
        log: EventLog,
        faults: Faults,
        start: Start,
        *,
        lasts: timedelta,
        lag: timedelta,
        release: asyncio.Event,
    ) -> None:
        self._state = state
        self._log = log
        self._faults = faults
        self._start = start
        self._lasts = lasts
        self._lag = lag
        self._release = release
        self._readers: dict[str, _Reader] = {}  # the first to end first

    def clear(self) -> None:
        """Forget all sync tokens."""
        self._readers.clear()

    def operations(self) -> Mapping[str, Operation]:
        """Return what is served, by the names of Asana's operations."""
        return {"getEvents": Operation(self.events, ["resource", "sync"], EVENT)}

    async def events(self, call: ApiCall) -> web.Response:
        """Show up to 100 events and the next token; 412 and a fresh token without a good one."""
        if Fault.SLOW_STREAM in self._faults:
            await self._start(self._release.wait(), "call for events")
        resource, sync = self._resource(call), str(call.given.get("sync", ""))
        reader = self._reader(sync, resource)
        if reader is None:
            token = self._first_token(call.caller.app, resource)
            return answer({"errors": [{"message": TOO_OLD}], "sync": token}, status=412)
        stretch = self._log.since(resource, reader.position, lag=self._lag)
        if Fault.SYNC_FORWARD_ONLY in self._faults:
            self._readers.pop(reader.before, None)
        names, app = call.names, call.caller.app
        events = [self._record(event) for event in stretch.events]
        return answer(
            {
                "data": [choose(event, names or list(event)) for event in events],
                "sync": self._token(app, resource, stretch.position, before=sync),
                "has_more": stretch.more,
            }
        )

    def _resource(self, call: ApiCall) -> str:
        gid = next(iter(call.gids.values()), None) or call.given.get("resource")
        if not gid:
            raise Refused(400, "resource: Missing input")
        thing = self._state.things.get(gid)
        if thing is None:
            raise unknown("resource", gid)
        if thing.resource_type not in WATCHED:
            raise Refused(400, f"resource: There is no stream of events of a {thing.resource_type}")
        return check_access(self._state, "resource", thing).gid

    def _reader(self, sync: str, resource: str) -> _Reader | None:
        """Return who reads on with a token, None when it is not good for this resource now."""
        reader = self._readers.get(sync)
        good = (
            reader is not None
            and reader.resource == resource
            and reader.ends_at > self._state.now()
            and Fault.SYNC_EXPIRED not in self._faults
        )
        return reader if good else None

    def _first_token(self, app: str, resource: str) -> str:
        subscriptions = self._state.subscriptions()  # which forgets the streams that ended
        if (app, resource) not in self._state.streams:
            check_room(subscriptions, app, resource)
        return self._token(app, resource, self._log.position, before="")

    def _token(self, app: str, resource: str, position: int, *, before: str) -> str:
        token, now = f"{secrets.token_hex(16)}:0", self._state.now()
        ended = takewhile(lambda each: each[1].ends_at <= now, self._readers.items())
        for key, _ in [*ended]:
            del self._readers[key]
        self._readers[token] = _Reader(resource, position, now + self._lasts, before)
        self._state.streams[app, resource] = now + self._lasts
        return token

    def _record(self, event: Mapping[str, Any]) -> dict[str, Any]:
        shown: dict[str, Any] = self._with_links(self._differing(event))
        kind = part(event, "resource").get("resource_type")
        return shown | ({"type": kind} if kind else {})

    def _differing(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the event as the stream says it, which faults make another than the webhook's."""
        said = dict(event)
        if Fault.STREAM_TIMES in self._faults and "created_at" in event:
            said["created_at"] = _shifted(event)
        if Fault.STREAM_PARENTS in self._faults and "parent" in event:
            said["parent"] = None
        if Fault.STREAM_VALUES in self._faults and part(event, "change"):
            change = part(event, "change")
            said["change"] = {name: change[name] for name in change if name not in VALUES}
        return said

    def _with_links(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        fields = {name: self._with_links(each) for name, each in value.items()}
        gid = value.get("gid")
        return self._state.things.get(gid, fields) if isinstance(gid, str) else fields


def _shifted(event: Mapping[str, Any]) -> Any:
    """Return another time than the event's, always the same; as it is when it is no time."""
    try:
        moment = datetime.fromisoformat(event["created_at"])
    except (TypeError, ValueError):
        return event["created_at"]
    milliseconds = zlib.crc32(msgspec.json.encode(event)) % 2_000 - 1_000
    return timestamp(moment + timedelta(milliseconds=milliseconds or 1_000))
