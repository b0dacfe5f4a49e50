"""The objects that events name: where each type is found, and one call for all who ask at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import NamedTuple

from ._asana_transport import AsanaTransport
from ._budget import Kind
from .models import Event, Resource, check_gid

__all__ = ["PLACES", "Fetches", "path_of"]

KEPT = 10.0
"""Seconds for which an answer may serve who asks later."""

MAX_KEPT = 64 * 1024
"""Bytes of an answer that is kept; a larger one serves those who ask before it comes."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TYPES = _words(
    """
    agent allocation attachment budget custom_field custom_type goal goal_relationship job
    membership ooo_entry organization_export portfolio portfolio_membership project project_brief
    project_membership project_portfolio_setting project_status project_template rate role section
    status_update story tag task task_template team team_membership time_period
    time_tracking_category time_tracking_entry timesheet_approval_status user user_task_list webhook
    workspace workspace_membership
    """
)
"""The types that have a path of their own, which is their plural."""


def _plural(word: str) -> str:
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("s") else f"{word}s"


PLACES = {name: f"/{_plural(name)}" for name in _TYPES} | {
    f"{name}_membership": "/memberships" for name in ("custom_field", "custom_type", "goal")
}
"""Below which path an object is found by its gid, by its type.

Source: Asana's OpenAPI description
"""


def path_of(resource: Resource) -> str:
    """Return the path of an object. Raises ValueError for a type that is unknown or has none."""
    place = PLACES.get(resource.resource_type or "")
    gid = check_gid("gid", resource.gid)
    if place is not None:
        return f"{place}/{gid}"
    if resource.resource_type is None:
        msg = f"what {gid} is must be told: give it its resource_type"
    else:
        msg = (
            f"where an object of the type {resource.resource_type!r} is found is not known: ask"
            " with request()"
        )
    raise ValueError(msg)


class _Moment(NamedTuple):
    """One moment by three clocks: this machine's, Asana's at the latest, and a monotonic one."""

    here: datetime
    there: datetime
    monotonic: float


class _Call:
    """A call for an object; ``began`` is None until it has a slot."""

    def __init__(self) -> None:
        self.began: _Moment | None = None
        self.callers = 0
        self.task: asyncio.Task[bytes]

    def serves(self, event: Event | None, now: float, written_at: float) -> bool:
        """Return whether its answer is not older than an event, nor than what was written here.

        It is not when the event was received before the call began. The times of another machine
        may be wrong, so Asana's time has to say so too. Without an event nothing older than this
        moment will do.
        """
        if self.began is None:
            return True
        is_kept = not self.task.done() or now - self.began.monotonic <= KEPT
        if event is None or not is_kept or self.began.monotonic < written_at:
            return False
        received_at = event.source.received_at
        was_received = received_at is not None and received_at <= self.began.here
        return was_received and event.created_at <= self.began.there


class Fetches:
    """Asks for objects by one token, once for all who ask at once.

    An answer serves all events that were received before its call began, until a call of this
    token changes anything, and for ten seconds at most.
    """

    def __init__(self, transport: AsanaTransport) -> None:
        self._transport = transport
        self._calls: dict[Hashable, _Call] = {}  # the last of each object and fields

    async def get(self, path: str, query: dict[str, str], event: Event | None) -> bytes:
        """Return Asana's answer, which is not older than the event; None: than this moment.

        A caller that is cancelled disturbs no other. Raises what a call raises.
        """
        key = path, *sorted(query.items())
        call = self._calls.get(key)
        if call is None or not call.serves(event, time.monotonic(), self._transport.written_at):
            call = self._start(key, path, query)
        call.callers += 1
        try:
            await asyncio.wait([call.task])
        finally:
            call.callers -= 1
            if not (call.callers or call.task.done()):
                call.task.cancel()
                self._forget(key, call)
        error = call.task.exception()
        if error is not None:
            raise error.with_traceback(None)
        return call.task.result()

    def _start(self, key: Hashable, path: str, query: dict[str, str]) -> _Call:
        self._calls[key] = call = _Call()
        name = f"asana-webhooks fetching {path}"
        call.task = asyncio.create_task(self._ask(key, call, path, query), name=name)
        return call

    async def _ask(self, key: Hashable, call: _Call, path: str, query: dict[str, str]) -> bytes:
        """Return Asana's answer, which is kept; an error is not."""
        keep_for = 0.0
        try:
            body = await self._call(call, path, query)
            keep_for = KEPT if len(body) <= MAX_KEPT else 0.0
            return body
        finally:
            asyncio.get_running_loop().call_later(keep_for, self._forget, key, call)

    async def _call(self, call: _Call, path: str, query: dict[str, str]) -> bytes:
        transport = await self._transport.take_slot(Kind.READ)
        try:
            _, there = self._transport.clock.span()
            call.began = _Moment(datetime.now(UTC), there, time.monotonic())
            return await transport.call("GET", path, query)
        finally:
            transport.leave_slot()

    def _forget(self, key: Hashable, call: _Call) -> None:
        if self._calls.get(key) is call:
            del self._calls[key]
