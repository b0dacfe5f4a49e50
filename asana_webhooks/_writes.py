"""The calls of a program that change something at Asana, and the events that each may cause.

Each is kept in the store before it is made, and again with its times when it has ended: so every
worker that shares the store can tell the events that the program itself has caused.

Sources: https://developers.asana.com/reference/events, and what was seen of real events.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Self

import anyio
import msgspec
from msgspec.structs import replace

from ._logging import ThrottledLogger
from .errors import DecodeError, StoreError
from .models import Change, Event, Resource, Write
from .stores import Store

__all__ = ["MADE", "Call", "Effect", "Writes", "Written", "effects_of"]

MADE = "+"
"""Stands for the gid of the object that a call makes, while that is not known."""

CREATED = 201

RESULT_TIMEOUT = 5.0
"""Seconds that the store has to keep the result of a call."""

logger = logging.getLogger(__name__)


class Effect(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event that a call may cause; what is None fits any event.

    ``resource`` and ``parent`` are gids, or MADE. ``kind`` and ``parent_kind`` are their types.
    ``value`` is the gid that the change names if it names any; "" when it must name none. A story
    has one of the ``subtypes``.
    """

    action: str
    resource: str | None = None
    kind: str | None = None
    field: str | None = None
    parent: str | None = None
    parent_kind: str | None = None
    value: str | None = None
    subtypes: tuple[str, ...] = ()

    def fits(self, event: Event, made: Sequence[str] = ()) -> bool:
        """Return whether it may be this event; ``made`` is what the call made, if that is known."""
        change = event.change
        return (
            self.action == event.action
            and self.field in (None, change and change.field)
            and self.kind in (None, event.resource.resource_type)
            and _is(self.resource, event.resource, made)
            and _is(self.parent, event.parent, made)
            and self.parent_kind in (None, event.parent and event.parent.resource_type)
            and (not self.subtypes or event.resource.resource_subtype in self.subtypes)
            and (self.value is None or change is None or _named(change) in (None, self.value))
        )

    @property
    def needs_made(self) -> bool:
        """Whether it is only known once the gid is that the call made."""
        return MADE in (self.resource, self.parent)


def _is(wanted: str | None, resource: Resource | None, made: Sequence[str]) -> bool:
    if wanted is None:
        return True
    if resource is None:
        return False
    if wanted == MADE:
        return not made or resource.gid in made
    return resource.gid == wanted


def _named(change: Change) -> str | None:
    """Return the gid of the value that a change names."""
    for value in (change.new_value, change.added_value, change.removed_value):
        if isinstance(value, dict) and isinstance(gid := value.get("gid"), str):
            return gid
    return None


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a call: whose it was, what it may cause, when it was, what it made.

    The times are by Asana's clock; ``ended`` is None while the call is under way, and for ever when
    its process ended in between.
    """

    user: str
    effects: tuple[Effect, ...]
    started: datetime
    ended: datetime | None = None
    made: tuple[str, ...] = ()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return what a text of ``encode`` says. Raises DecodeError when it is damaged."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, ValueError) as error:
            msg = f"not a write: {error}"
            raise DecodeError(msg) from None

    def encode(self) -> str:
        """Return it as a text."""
        return msgspec.json.encode(self).decode()

    def resources(self) -> tuple[str, ...]:
        """Return the gids by which it is found; MADE among them while one is not known."""
        gids = dict.fromkeys(
            gid for each in self.effects for gid in (each.resource, each.parent) if gid
        )
        if self.made and gids.pop(MADE, MADE) is None:
            gids |= dict.fromkeys(self.made)
        return tuple(gids)


class Call:
    """A call under way; it is told what Asana answered."""

    def __init__(self) -> None:
        self.made: tuple[str, ...] = ()

    def answered(self, data: object) -> None:
        """Note the decoded ``data`` of Asana's answer, which names what the call made.

        That of a batch is a list of answers, each with the status and the body of its own.
        """
        answers = [data]
        if isinstance(data, list):
            whole = [each for each in data if isinstance(each, dict)]
            bodies = [each.get("body") for each in whole if each.get("status_code") == CREATED]
            answers = [each.get("data") for each in bodies if isinstance(each, dict)]
        gids = [each.get("gid") for each in answers if isinstance(each, dict)]
        self.made = tuple(gid for gid in gids if isinstance(gid, str))


class Writes:
    """Keeps the calls of an account that change something.

    ``times`` returns between which times it is now, by Asana's clock.
    """

    def __init__(
        self, store: Store, times: Callable[[], tuple[datetime, datetime]], *, account: str = ""
    ) -> None:
        self._store = store
        self._times = times
        self._account = account
        self._log = ThrottledLogger(logger)

    def of(self, account: str) -> Writes:
        """Return what keeps the calls of another account."""
        return Writes(self._store, self._times, account=account)

    @asynccontextmanager
    async def note(
        self, *, user: str | None, method: str, path: str, data: Mapping[str, Any] | None
    ) -> AsyncGenerator[Call, None]:
        """Keep a call that is made within this context, all of its tries together.

        ``user`` is the gid of the token's user: without it no event can be told to be the call's,
        and nothing is kept. Nor is it of a call that causes no events. Tell the ``Call`` what Asana
        answered. The shorter the context, the surer it is which events are the call's: wait for a
        slot before it.

        Raises StoreError before the call when it cannot be kept. When its result cannot be, that
        is logged: the call is made, and must not be made again for it.
        """
        call, effects = Call(), effects_of(method, path, data)
        if not user or not effects:
            yield call
            return
        write_id, began = secrets.token_hex(16), time.monotonic()
        written = Written(user=user, effects=effects, started=self._times()[0])
        await self._put(write_id, written)
        try:
            yield call
        finally:
            ended = self._times()  # which the answer may have told
            started = ended[0] - timedelta(seconds=time.monotonic() - began)
            written = replace(written, started=started, ended=ended[1], made=call.made)
            with anyio.move_on_after(RESULT_TIMEOUT, shield=True):
                await self._keep_result(write_id, written)

    async def _put(self, write_id: str, written: Written) -> None:
        await self._store.put_write(
            Write(
                id=write_id,
                account=self._account,
                resources=written.resources(),
                text=written.encode(),
            )
        )

    async def _keep_result(self, write_id: str, written: Written) -> None:
        try:
            await self._put(write_id, written)
        except StoreError as error:
            text = "the events that a call causes may be taken for others' events: %s"
            self._log.log(logging.WARNING, "result", text, error)


# Which events a call causes


KINDS = {
    "allocations": "allocation",
    "attachments": "attachment",
    "budgets": "budget",
    "custom_fields": "custom_field",
    "goal_relationships": "goal_relationship",
    "goals": "goal",
    "memberships": None,  # of whatever the call names
    "portfolios": "portfolio",
    "project_briefs": "project_brief",
    "project_statuses": "project_status",
    "projects": "project",
    "sections": "section",
    "status_updates": "status_update",
    "stories": "story",
    "subtasks": "task",
    "tags": "tag",
    "tasks": "task",
    "teams": "team",
    "time_tracking_entries": "time_tracking_entry",
    "workspaces": "workspace",
}
"""The types of the objects whose changes are events, by the segment of a path that names them."""

ALSO = {
    "approval_status": ("completed", "completed_at"),
    "assignee": ("assignee_status", "assignee_section"),
    "completed": ("completed_at", "completed_by", "approval_status"),
    "due_at": ("due_on",),
    "due_on": ("due_at",),
    "html_notes": ("notes",),
    "html_text": ("text",),
    "notes": ("html_notes",),
    "start_at": ("start_on",),
    "start_on": ("start_at",),
    "text": ("html_text",),
}
"""Fields that change with a field."""

_DATES = ("due_date_changed", "start_date_changed")
_APPROVAL = (
    *("approval_status_changed", "approved", "changes_requested", "rejected"),
    "reset_approval_status",
)
_CUSTOM_FIELD = tuple(
    f"{kind}_custom_field_changed"
    for kind in ("date", "enum", "multi_enum", "number", "people", "text")
)

STORIES = {
    "approval_status": _APPROVAL,
    "assignee": ("assigned", "unassigned"),
    "completed": ("marked_complete", "marked_incomplete"),
    "due_at": _DATES,
    "due_on": _DATES,
    "html_notes": ("notes_changed",),
    "name": ("name_changed",),
    "notes": ("notes_changed",),
    "resource_subtype": ("resource_subtype_changed",),
    "start_at": _DATES,
    "start_on": _DATES,
}
"""The story that Asana adds to a task of which a field changes: one of these subtypes."""

MADE_STORIES = ("added_to_project", "added_to_tag", "added_to_task", "assigned", "follower_added")
"""Stories that Asana adds to a new task."""


def _story(task: str, *subtypes: str) -> Effect:
    return Effect("added", kind="story", parent=task, subtypes=subtypes)


def _places(task: str) -> tuple[Effect, ...]:
    return (
        Effect("changed", task, field="memberships"),
        Effect("changed", task, field="projects"),
    )


def _links(field: str, *, ours: str, theirs: str, other: str) -> dict[str, tuple[Effect, ...]]:
    """Return the effects of adding and removing links between tasks, of both ends."""
    linked = f"{{{field}}}"
    return {
        f"tasks/{verb}{field.capitalize()}": (
            Effect("changed", "{gid}", field=field, value=linked),
            Effect("changed", linked, field=other, value="{gid}"),
            _story("{gid}", f"{ours}_{past}"),
            _story(linked, f"{theirs}_{past}"),
        )
        for verb, past in (("add", "added"), ("remove", "removed"))
    }


def _list(kind: str, field: str, *stories: str) -> dict[str, tuple[Effect, ...]]:
    """Return the effects of adding to and removing from a field that is a list of users."""
    named = f"{{{field}}}"
    return {
        f"{kind}/{verb}{field.capitalize()}": (
            Effect("changed", "{gid}", field=field, value=named),
            *(_story("{gid}", f"{story}_{past}") for story in stories),
        )
        for verb, past in (("add", "added"), ("remove", "removed"))
    }


ACTIONS = {
    "tasks/addProject": (
        Effect("added", "{gid}", parent="{project}"),
        Effect("added", "{gid}", parent_kind="section"),
        Effect("removed", "{gid}", parent_kind="section"),
        *_places("{gid}"),
        _story("{gid}", "added_to_project"),
        _story("{gid}", "section_changed"),
    ),
    "tasks/removeProject": (
        Effect("removed", "{gid}", parent="{project}"),
        Effect("removed", "{gid}", parent_kind="section"),
        *_places("{gid}"),
        _story("{gid}", "removed_from_project"),
    ),
    "sections/addTask": (
        Effect("added", "{task}", parent="{gid}"),
        Effect("added", "{task}", parent_kind="project"),
        Effect("removed", "{task}", parent_kind="section"),
        *_places("{task}"),
        _story("{task}", "added_to_project"),
        _story("{task}", "section_changed"),
    ),
    "tasks/addTag": (
        Effect("changed", "{gid}", field="tags", value="{tag}"),
        Effect("added", "{gid}", parent="{tag}"),
        _story("{gid}", "added_to_tag"),
    ),
    "tasks/removeTag": (
        Effect("changed", "{gid}", field="tags", value="{tag}"),
        Effect("removed", "{gid}", parent="{tag}"),
        _story("{gid}", "removed_from_tag"),
    ),
    "tasks/setParent": (
        Effect("added", "{gid}", parent="{parent}"),
        Effect("removed", "{gid}", parent_kind="task"),
        Effect("changed", "{gid}", field="parent", value="{parent}"),
        Effect("changed", "{parent}", field="subtasks"),
        Effect("changed", "{parent}", field="num_subtasks"),
        _story("{gid}", "added_to_task"),
        _story("{gid}", "removed_from_task"),
    ),
    **_links("dependencies", ours="dependency", theirs="dependent", other="dependents"),
    **_links("dependents", ours="dependent", theirs="dependency", other="dependencies"),
    **_list("tasks", "followers", "follower"),
    **_list("projects", "followers"),
    **_list("projects", "members"),
    **_list("portfolios", "members"),
    **_list("goals", "followers"),
    "portfolios/addItem": (Effect("added", "{item}", parent="{gid}"),),
    "portfolios/removeItem": (Effect("removed", "{item}", parent="{gid}"),),
    **{
        f"{kind}/{verb}CustomFieldSetting": (
            Effect("changed", "{gid}", field="custom_field_settings"),
        )
        for kind in ("goals", "portfolios", "projects")
        for verb in ("add", "remove")
    },
}
"""What a POST to an object causes, by the path without the object's gid.

In braces stand the object's gid and the names of the data that hold others.
"""


def effects_of(method: str, path: str, data: Mapping[str, Any] | None) -> tuple[Effect, ...]:
    """Return the events that a call may cause; none for one that changes nothing of tasks and such.

    ``path`` is that below the API's address, ``data`` the fields that are sent. What a call causes
    at objects that neither it nor its answer names, as the copies of a duplicate, is not among it.
    """
    given = data or {}
    match method, path.strip("/").split("/"):
        case "PUT", [kind, gid] if kind in KINDS:
            return tuple(_changes(kind, gid, given))
        case "DELETE", [kind, gid] if kind in KINDS:
            return Effect("deleted", gid), Effect("removed", gid)
        case "POST", [kind, gid, action] if f"{kind}/{action}" in ACTIONS:
            templates = ACTIONS[f"{kind}/{action}"]
            return tuple(each for template in templates for each in _filled(template, gid, given))
        case "POST", ["batch"]:
            return tuple(_of_actions(given.get("actions")))
        case "POST", [*above, kind] if kind in KINDS:
            return tuple(_creation(kind, above))
    return ()


def _of_actions(actions: object) -> Iterator[Effect]:
    """Yield what the actions of a batch cause; one of another shape, nothing."""
    for action in actions if isinstance(actions, list | tuple) else ():
        if isinstance(action, Mapping):
            method, path, data = (action.get(key) for key in ("method", "relative_path", "data"))
            is_batch = str(path).strip("/") == "batch"  # which Asana refuses
            if isinstance(data, Mapping | None) and not is_batch:
                yield from effects_of(str(method).upper(), str(path), data)


def _changes(kind: str, gid: str, given: Mapping[str, Any]) -> Iterator[Effect]:
    stories: dict[tuple[str, ...], None] = {}
    for field, value in given.items():
        if field == "custom_fields" and isinstance(value, Mapping):
            for each in value:
                yield Effect("changed", gid, field=field, value=str(each))
                if kind == "tasks":
                    yield _story(gid, *_CUSTOM_FIELD)
            continue
        yield Effect("changed", gid, field=field, value=_value(value))
        for also in ALSO.get(field, ()):
            if also not in given:
                yield Effect("changed", gid, field=also)
        if field in STORIES:
            stories[STORIES[field]] = None
    if kind == "tasks":
        yield from (_story(gid, *subtypes) for subtypes in stories)


def _creation(kind: str, above: list[str]) -> Iterator[Effect]:
    """Yield what making an object causes; a comment or subtask is below the task of the path."""
    parent = above[-1] if kind in ("stories", "subtasks") and above else None
    yield Effect("added", MADE, KINDS[kind], parent=parent)
    if KINDS[kind] == "task":
        yield Effect("changed", MADE)
        yield from (_story(MADE, subtype) for subtype in MADE_STORIES)


def _filled(template: Effect, gid: str, given: Mapping[str, Any]) -> Iterator[Effect]:
    """Yield an effect for each gid of the data that it names; none when it is about none."""
    about = _named_in(template.resource) or _named_in(template.parent)
    name = about or _named_in(template.value)
    gids = _gids(given.get(name)) if name else [gid]
    for each in gids if gids or about else [""]:
        filled = {"{gid}": gid, f"{{{name}}}": each}
        yield replace(
            template,
            resource=template.resource and filled.get(template.resource, template.resource),
            parent=template.parent and filled.get(template.parent, template.parent),
            value=template.value and _value(filled[template.value]),
        )


def _named_in(text: str | None) -> str | None:
    """Return the name of the data that a template names, if it does."""
    return text[1:-1] if text and text.startswith("{") and text != "{gid}" else None


def _gids(value: object) -> list[str]:
    """Return the gids in a value of the data: one, or a list, as text or below ``gid``."""
    values = value.split(",") if isinstance(value, str) else value
    values = values if isinstance(values, list | tuple) else [values]
    gids = (each.get("gid") if isinstance(each, Mapping) else each for each in values)
    return [str(gid).strip() for gid in gids if gid]


def _value(value: object) -> str | None:
    """Return the gid that a change to this value names; "" for none, None when it may be any."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        value = value.get("gid")
    return value if isinstance(value, str) and value.isdecimal() else None
