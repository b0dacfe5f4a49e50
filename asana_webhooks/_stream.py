"""Asana's stream of a resource's events: its pages, and events as a webhook delivers them.

Source: https://developers.asana.com/reference/getevents
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from ._asana_responses import StaleSyncError, StreamPage, decode_events
from ._clock import Clock
from ._logging import ThrottledLogger
from .api import WebhooksApi
from .errors import DecodeError
from .models import Event, read_event

__all__ = ["STREAM_LASTS", "Part", "Stream", "compact", "stream_event"]

STREAM_LASTS = timedelta(hours=24)
"""For how long Asana keeps events in its stream, and sync tokens good."""

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """A page of a stream, from ``cursor`` on to what ``sync`` stands for.

    ``at`` is the time up to which it is read. ``is_end`` is true at the end of the stream, whose
    reading began at ``began_at``. ``odd`` events could not be read. ``stale`` is why the token was
    not taken any more, and ``sync`` is a fresh one then, of the time ``now``.
    """

    cursor: str
    events: list[Event]
    sync: str
    at: datetime
    began_at: datetime
    now: datetime
    is_end: bool = True
    odd: int = 0
    stale: str = ""


class Stream:
    """Reads events streams with one token; times are by Asana's clock."""

    def __init__(self, api: WebhooksApi, clock: Clock, log: ThrottledLogger) -> None:
        self._transport = api._transport
        self._clock = clock
        self._log = log

    async def first_token(self, resource: str) -> str:
        """Return a token for what comes from now on, '' when Asana gave none.

        Raises what a call raises: a BadRequestError where there is no stream of the resource.
        """
        try:
            return (await self._page(resource, "")).sync
        except StaleSyncError as error:
            return error.sync

    async def read(
        self, resource: str, cursor: str, at: datetime, *, began_at: datetime, is_first: bool
    ) -> Part:
        """Read the page that begins at a token, before whose time all was read.

        Raises what a call raises.
        """
        asked_at = self._transport.clock.now()
        try:
            page = await self._page(resource, cursor)
        except StaleSyncError as error:
            now = self._transport.clock.now()
            why = _why_stale(now - at, is_first=is_first)
            return Part(cursor, [], error.sync, at, began_at, now, stale=why)
        found = [self._read_event(raw, resource) for raw in page.events]
        events = [event for event in found if event is not None]
        return Part(
            cursor,
            events,
            page.sync,
            at=_reached(events, at) if page.has_more else asked_at,
            began_at=began_at,
            now=self._transport.clock.now(),
            is_end=not page.has_more,
            odd=len(found) - len(events),
        )

    async def _page(self, resource: str, sync: str) -> StreamPage:
        query = {"resource": resource} | ({"sync": sync} if sync else {})
        return decode_events(await self._transport.call("GET", "/events", query))

    def _read_event(self, raw: msgspec.Raw, resource: str) -> Event | None:
        try:
            return stream_event(raw, received_at=self._clock.now())
        except DecodeError as error:
            text = "an event of the stream of %s cannot be read: %s"
            self._log.log(logging.WARNING, "odd", text, resource, error)
            return None


def _reached(events: list[Event], before: datetime) -> datetime:
    """Return the time up to which a page of this stream has it all."""
    return max((event.created_at for event in events), default=before)


def _why_stale(age: timedelta, *, is_first: bool) -> str:
    if not is_first:
        return "reading it took longer than the token for it lived"
    if age >= STREAM_LASTS:
        return f"it was not read for {age}, and Asana keeps it for 24 hours"
    return f"Asana ended the token for it after {age}, before its 24 hours"


def stream_event(raw: bytes | msgspec.Raw, *, received_at: datetime) -> Event:
    """Return an event of the stream, in the shape in which a webhook delivers it.

    Raises DecodeError when it is none.
    """
    return read_event(compact(bytes(raw)), received_at=received_at)


def compact(raw: bytes) -> bytes:
    """Return an event's JSON with each object cut to gid, type and subtype, as webhooks have it.

    Values that are no objects are left out. Raises DecodeError when it is no JSON object.
    """
    try:
        whole = msgspec.json.decode(raw, type=dict[str, Any])
        return msgspec.json.encode(_cut_event(whole))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        msg = f"not an event: {error}"
        raise DecodeError(msg) from None


_PLAIN = ("created_at", "action", "type")
_OBJECTS = ("user", "resource", "parent")
_VALUES = ("new_value", "added_value", "removed_value")
_NAMES = ("gid", "resource_type", "resource_subtype")


def _cut_event(whole: dict[str, Any]) -> dict[str, Any]:
    event = {name: _cut(whole[name]) for name in _OBJECTS if name in whole}
    event |= {name: whole[name] for name in _PLAIN if isinstance(whole.get(name), str)}
    change = whole.get("change")
    if isinstance(change, dict):
        cut = {name: change[name] for name in ("field", "action") if name in change}
        values = {
            name: _cut(change[name]) for name in _VALUES if isinstance(change.get(name), dict)
        }
        event["change"] = cut | values
    return event


def _cut(value: Any) -> Any:
    if not isinstance(value, dict):
        return None
    cut = {name: value[name] for name in _NAMES if value.get(name) is not None}
    return cut | {name: _cut(each) for name, each in value.items() if isinstance(each, dict)}
