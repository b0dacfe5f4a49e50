"""The state of this Asana: its objects, its webhooks, its gids and its clock."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, overload

from .clock import Clock
from .faults import WebhookFaults
from .objects import AsanaObject, Kind

__all__ = ["Event", "Filter", "State", "WebhookRecord", "timestamp"]

Filter = dict[str, Any]
"""One filter of a webhook as Asana echoes it: four keys, null where nothing was said."""

Event = dict[str, Any]
"""One event in Asana's JSON shape."""

FIRST_GID = 1_200_000_000_000_001
MILLISECOND = timedelta(milliseconds=1)

ACTING: ContextVar[AsanaObject] = ContextVar("acting")
"""The user who makes the call that is being answered."""


@dataclass(slots=True, kw_only=True, eq=False)
class WebhookRecord:
    """One webhook and how its deliveries go; ``resource`` and ``user`` are gids.

    ``app`` is what made it: a token, or an app in the name of a user.

    ``delivery_retry_count`` counts the retries since the last success, ``deleted`` is set when the
    webhook is gone. ``faults`` are those that are on for this webhook only.

    Source: https://developers.asana.com/reference/webhooks
    """

    gid: str
    resource: str
    target: str = field(repr=False)
    secret: str = field(repr=False)
    app: str = field(repr=False)
    user: str
    filters: list[Filter]
    created_at: datetime
    active: bool = True
    last_success_at: datetime | None = None
    last_failure_at: datetime | None = None
    last_failure_content: str = ""
    delivery_retry_count: int = 0
    next_attempt_after: datetime | None = None
    failure_deletion_timestamp: datetime | None = None
    deleted: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    faults: WebhookFaults = field(default_factory=WebhookFaults)


class State:
    """The objects of one workspace, and the webhooks on them; ``seed.py`` fills it.

    ``things`` keeps deleted objects too: a webhook may still watch one, and it may come back.
    ``tokens`` maps tokens to the users whom they stand for; any other one is the first user's.
    ``webhooks`` holds those that exist; a deleted one can still be found with ``webhook``, because
    a delivery of it may be under way. ``streams`` maps the app and the resource of each stream of
    events to when its last token ends.
    """

    def __init__(self, frozen_at: datetime | None = None) -> None:
        self.clock = Clock(frozen_at)
        self.webhooks: dict[str, WebhookRecord] = {}
        self.streams: dict[tuple[str, str], datetime] = {}
        self._ever: dict[str, WebhookRecord] = {}
        self._gids = itertools.count(FIRST_GID)
        self._last = datetime.min.replace(tzinfo=UTC)
        self.things: dict[str, AsanaObject] = {}
        self._by_type: defaultdict[str, list[AsanaObject]] = defaultdict(list)
        self.tokens: dict[str, AsanaObject] = {}
        self.workspace: AsanaObject
        self.first_user: AsanaObject
        self.project: AsanaObject

    def clear(self) -> None:
        """Forget all objects, tokens and streams, and delete all webhooks."""
        for webhook in [*self.webhooks.values()]:
            self.delete(webhook)
        for kept in (self.things, self._by_type, self.tokens, self.streams, self._ever):
            kept.clear()
        self._gids = itertools.count(FIRST_GID)

    @property
    def user(self) -> AsanaObject:
        """The user who acts: inside ``acting_as`` that one, else the first."""
        return ACTING.get(self.first_user)

    @contextlib.contextmanager
    def acting_as(self, user: AsanaObject) -> Iterator[None]:
        """Make this user the one who acts inside ``with``, and in tasks that are started there."""
        before = ACTING.set(user)
        try:
            yield
        finally:
            ACTING.reset(before)

    def user_of_token(self, token: str) -> AsanaObject:
        """Return the user whom a token stands for, who may be deleted."""
        return self.tokens.get(token, self.first_user)

    def now(self) -> datetime:
        """Return the time in whole milliseconds; no two calls return the same."""
        self._last = max(self.clock.now(), self._last + MILLISECOND)
        return self._last

    def new_gid(self) -> str:
        """Return a gid that nothing has."""
        return str(next(self._gids))

    def new(
        self,
        kind: Kind,
        fields: Mapping[str, Any],
        *,
        gid: str | None = None,
        owner: AsanaObject | None = None,
    ) -> AsanaObject:
        """Return a new object of a kind with these fields, and a gid that nothing has if None."""
        thing = AsanaObject(
            gid=gid or self.new_gid(),
            kind=kind,
            resource_subtype=kind.subtype,
            fields=kind.defaults(),
        )
        thing.keep(fields)
        self.things[thing.gid] = thing
        self._by_type[kind.name].append(thing)
        self.own(thing, owner)
        return thing

    def own(
        self, thing: AsanaObject, owner: AsanaObject | None, *, place: int | None = None
    ) -> None:
        """Make an object a part of another one, or of none; the last, or at a place among all."""
        if thing.owner is not None:
            thing.owner.parts.remove(thing)
        thing.owner = owner
        if owner is not None:
            owner.parts.insert(len(owner.parts) if place is None else place, thing)

    def find(self, gid: str, resource_type: str | None = None) -> AsanaObject | None:
        """Return the object with this gid that users can see, None when there is none."""
        thing = self.things.get(gid)
        found = thing and thing.alive and resource_type in (None, thing.resource_type)
        return thing if found else None

    def thing(self, gid: str, resource_type: str | None = None) -> AsanaObject:
        """Return the object with this gid; ValueError when there is none of this type."""
        thing = self.find(gid, resource_type)
        if thing is None:
            msg = f"there is no {resource_type or 'object'} with gid {gid!r}"
            raise ValueError(msg)
        return thing

    def all(self, resource_type: str) -> list[AsanaObject]:
        """Return the objects of a type that users can see, in the order of their creation."""
        return [each for each in self._by_type[resource_type] if each.alive]

    def event(
        self,
        action: str,
        thing: AsanaObject,
        *,
        parent: AsanaObject | None = None,
        field: str | None = None,
    ) -> Event:
        """Return the event that the user causes now, with the keys in the order of Asana's bodies.

        Source: https://developers.asana.com/reference/events
        """
        event: Event = {
            "user": self.user.reference,
            "created_at": timestamp(self.now()),
            "action": action,
            "resource": thing.reference,
            "parent": parent.reference if parent else None,
        }
        return event | ({"change": {"field": field, "action": "changed"}} if field else {})

    def webhook(self, gid: str) -> WebhookRecord:
        """Return the webhook with this gid, deleted or not; ValueError when there never was one."""
        if gid not in self._ever:
            msg = f"there is no webhook with gid {gid!r}"
            raise ValueError(msg)
        return self._ever[gid]

    def subscriptions(self) -> list[tuple[str, str]]:
        """Return the app and the resource of each webhook, and of each stream that is read."""
        now = self.now()
        for ended in [stream for stream, ends_at in self.streams.items() if ends_at <= now]:
            del self.streams[ended]
        return [*((each.app, each.resource) for each in self.webhooks.values()), *self.streams]

    def keep(self, webhook: WebhookRecord) -> None:
        """Add a webhook."""
        self.webhooks[webhook.gid] = self._ever[webhook.gid] = webhook

    def delete(self, webhook: WebhookRecord) -> None:
        """Remove a webhook; a second call does nothing."""
        self.webhooks.pop(webhook.gid, None)
        webhook.active = False
        webhook.deleted.set()


@overload
def timestamp(moment: datetime) -> str: ...
@overload
def timestamp(moment: None) -> None: ...
def timestamp(moment: datetime | None) -> str | None:
    """Return a time as Asana writes it, in UTC with milliseconds."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
