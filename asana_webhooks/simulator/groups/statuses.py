"""Status updates of projects and portfolios, and the older project statuses, which are the same.

Sources: https://developers.asana.com/reference/status-updates,
https://developers.asana.com/reference/project-statuses
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import lists, shows
from ..fields import LIKES, html_of
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused, unknown
from ..user_actions import UserActions
from ..values import moment, one_of, text

__all__ = ["KINDS", "OPERATIONS", "PROJECT_STATUS", "STATUS_UPDATE", "add_status"]

COLORS = {
    "on_track": "green",
    "at_risk": "yellow",
    "off_track": "red",
    "on_hold": "blue",
    "complete": "complete",
}
"""The colors of project statuses by the types of status updates."""

PARENTS = ("project", "portfolio")
TYPES = (*COLORS, "achieved", "partial", "missed", "dropped")
SAID: Mapping[str, Field] = {
    "title": Field("", text),
    "text": Field("", text),
    "html_text": html_of("text"),
    "author": Field(of="user"),
    "created_at": Field(),
    "created_by": Field(of="user"),
    "modified_at": Field(),
}

STATUS_UPDATE = Kind(
    name="status_update",
    compact=("title",),
    subtype="project_status_update",
    fields={
        **SAID,
        "status_type": Field("on_track", one_of(*TYPES)),
        **LIKES,
        "reaction_summary": Field([]),
        "parent": Field(),
    },
)
PROJECT_STATUS = Kind(
    name="project_status",
    compact=("title",),
    fields={**SAID, "color": Field("green", one_of(*COLORS.values()))},
)


def add_status(actions: UserActions, parent: AsanaObject, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new status update of a project or a portfolio, which becomes its current one.

    A project has a project status of the same words beside it, whose gid is its own.
    """
    user, now = actions.state.user, actions.now()
    by = {"author": user, "created_by": user, "created_at": now, "modified_at": now}
    said = by | {name: value for name, value in fields.items() if name in SAID}
    subtype = f"{parent.resource_type}_status_update"
    always = {"parent": parent, "resource_subtype": subtype}
    status = actions.new(STATUS_UPDATE, by | dict(fields) | always, parent, owner=parent)
    current = {"current_status_update": status}
    if parent.resource_type == "project":
        color = COLORS.get(status.fields["status_type"], "complete")
        older = actions.state.new(PROJECT_STATUS, said | {"color": color}, owner=parent)
        status.hidden["twin"], older.hidden["twin"] = older, status
        current["current_status"] = older
    actions.change(parent, current)
    return status


def remove_status(actions: UserActions, status: AsanaObject) -> None:
    """Delete a status update and its twin; the one before it is the current one again."""
    parent = status.owner
    assert parent is not None  # noqa: S101 - a status has what it is about
    for each in (status, status.hidden.get("twin")):
        if each is not None:
            actions.delete(each)
    current = {"current_status_update": next(iter(_newest(parent, "status_update")), None)}
    if parent.resource_type == "project":
        current["current_status"] = next(iter(_newest(parent, "project_status")), None)
    actions.change(parent, current)


def _newest(parent: AsanaObject, kind: str) -> list[AsanaObject]:
    return parent.parts_of(kind)[::-1]


def _parent(call: ApiCall) -> AsanaObject:
    gid = call.text("parent")
    for kind in PARENTS:
        if call.state.find(gid, kind):
            return call.linked("parent", kind)
    raise (
        unknown("parent", gid)
        if call.described.method == "GET"
        else Refused(400, f"parent: Unknown object: {gid}")
    )


async def create(call: ApiCall) -> web.Response:
    """Create a status update of a project or a portfolio."""
    parent, fields = _parent(call), call.fields(STATUS_UPDATE)
    if not fields.get("text"):
        raise Refused(400, "text: Missing input")
    if "status_type" not in fields:
        raise Refused(400, "status_type: Missing input")
    return call.one(add_status(call.actions, parent, fields), status=201)


async def create_older(call: ApiCall) -> web.Response:
    """Create a project status, and the status update that it is by now."""
    project, fields = call.thing, call.fields(PROJECT_STATUS)
    if not fields.get("text"):
        raise Refused(400, "text: Missing input")
    types = {color: kind for kind, color in COLORS.items()}
    fields["status_type"] = types[fields.pop("color", "green")]
    return call.one(add_status(call.actions, project, fields).hidden["twin"], status=201)


async def delete(call: ApiCall) -> web.Response:
    """Delete a status update, or a project status."""
    remove_status(call.actions, call.thing)
    return call.done()


def of_parent(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the status updates of a project or a portfolio, the newest first."""
    since = call.given.get("created_since")
    start = moment("created_since", str(since)) if since else ""
    found = _newest(_parent(call), "status_update")
    return [each for each in found if each.fields["created_at"] >= start]


def older_of_project(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the project statuses of a project, the newest first."""
    return _newest(call.thing, "project_status")


KINDS = (STATUS_UPDATE, PROJECT_STATUS)
OPERATIONS = {
    "getStatus": shows(STATUS_UPDATE),
    "deleteStatus": Operation(delete),
    "getStatusesForObject": lists(STATUS_UPDATE, of_parent, "parent", "created_since"),
    "createStatusForObject": Operation(create, (*STATUS_UPDATE.writable, "parent"), STATUS_UPDATE),
    "getProjectStatus": shows(PROJECT_STATUS),
    "deleteProjectStatus": Operation(delete),
    "getProjectStatusesForProject": lists(PROJECT_STATUS, older_of_project),
    "createProjectStatusForProject": Operation(
        create_older, PROJECT_STATUS.writable, PROJECT_STATUS
    ),
}
