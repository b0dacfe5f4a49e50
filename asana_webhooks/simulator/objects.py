"""Objects of this Asana: how they are shown, what new ones look like, whose webhooks see them.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "HIGHER_LEVEL",
    "AsanaObject",
    "living",
    "new_membership",
    "new_portfolio",
    "new_project",
    "new_task",
    "new_user",
    "seers",
]

HIGHER_LEVEL = frozenset({"workspace", "team", "portfolio", "goal"})
"""Resources whose webhooks see projects and memberships, never tasks, subtasks or stories."""

HIGHER_LEVEL_SEES = frozenset({"project", "team_membership", "workspace_membership"})

COMPACT = {
    "task": ("name", "resource_subtype"),
    "story": ("created_at", "created_by", "resource_subtype", "text"),
    "team_membership": ("user", "team"),
    "workspace_membership": ("user", "workspace"),
}
"""Fields of compact records beside gid and type; other types than these show their name."""


@dataclass(slots=True, kw_only=True, eq=False)
class AsanaObject:
    """An object of Asana that a webhook can watch or an event can name.

    ``fields`` is the rest of its record; another object in it, also within a list or a membership,
    is a link. ``owner`` is what it is a part of and cannot outlive: a subtask's task, a story's
    task, a section's project. ``holders`` are the portfolios that it is in.
    """

    gid: str
    resource_type: str
    resource_subtype: str | None = None
    owner: AsanaObject | None = None
    holders: list[AsanaObject] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    deleted: bool = False

    @property
    def name(self) -> str:
        """Its name; empty for objects without one."""
        name: str = self.fields.get("name", "")
        return name

    @property
    def alive(self) -> bool:
        """Whether it is there for the users: neither deleted nor a part of what is."""
        return not self.deleted and (self.owner is None or self.owner.alive)

    @property
    def record(self) -> dict[str, Any]:
        """Its whole record; links in it are Things."""
        record = self.reference | self.fields
        if "memberships" in record:
            record["projects"] = [each["project"] for each in record["memberships"]]
        return record

    @property
    def compact(self) -> dict[str, Any]:
        """Its compact record, as answers of the API refer to it."""
        record, names = self.record, COMPACT.get(self.resource_type, ("name",))
        return {name: record[name] for name in ("gid", "resource_type", *names)}

    @property
    def reference(self) -> dict[str, Any]:
        """Its reference in events: without its name."""
        bare = {"gid": self.gid, "resource_type": self.resource_type}
        return bare | ({"resource_subtype": self.resource_subtype} if self.resource_subtype else {})


def living(value: Any) -> bool:
    """Return whether a field's value may be shown: no link in it leads to what is deleted."""
    if isinstance(value, AsanaObject):
        return value.alive
    return not isinstance(value, Mapping) or all(map(living, value.values()))


def seers(thing: AsanaObject, parent: AsanaObject | None = None) -> frozenset[str]:
    """Return the gids of the objects whose webhooks and event streams see an event.

    Events bubble up: from a story to its task, from a subtask to its task, from a task to its
    projects, from a project to its team and workspace; and what is added or removed is seen by the
    ``parent`` too. Only projects and memberships reach higher-level resources.
    """
    found = {each.gid: each for start in (thing, parent) if start for each in _upwards(start)}
    high = thing.resource_type in HIGHER_LEVEL_SEES
    return frozenset(
        gid for gid, each in found.items() if high or each.resource_type not in HIGHER_LEVEL
    )


def _upwards(thing: AsanaObject) -> Iterator[AsanaObject]:
    yield thing
    above = [thing.owner, *map(thing.fields.get, ("team", "workspace", "organization"))]
    above += [each["project"] for each in thing.fields.get("memberships", ())]
    above += thing.holders
    for each in above:
        if each is not None:
            yield from _upwards(each)


def new_task(gid: str, workspace: AsanaObject, at: str, fields: dict[str, Any]) -> AsanaObject:
    """Return a task with these fields, created at this time."""
    fields = dict(fields)
    subtype = fields.pop("resource_subtype", "default_task")
    usual: dict[str, Any] = {
        "name": "",
        "notes": "",
        "assignee": None,
        "completed": False,
        "completed_at": None,
        "completed_by": None,
        "created_at": at,
        "due_at": None,
        "due_on": None,
        "followers": [],
        "memberships": [],
        "modified_at": at,
        "parent": None,
        "start_on": None,
        "tags": [],
        "workspace": workspace,
    }
    return AsanaObject(
        gid=gid, resource_type="task", resource_subtype=subtype, fields=usual | fields
    )


def new_project(gid: str, workspace: AsanaObject, at: str, fields: dict[str, Any]) -> AsanaObject:
    """Return a project with these fields, created at this time."""
    usual: dict[str, Any] = {
        "name": "",
        "notes": "",
        "archived": False,
        "color": None,
        "created_at": at,
        "due_on": None,
        "members": [],
        "modified_at": at,
        "owner": None,
        "privacy_setting": "public_to_workspace",
        "start_on": None,
        "team": None,
        "workspace": workspace,
    }
    return AsanaObject(gid=gid, resource_type="project", fields=usual | fields)


def new_portfolio(gid: str, workspace: AsanaObject, at: str, fields: dict[str, Any]) -> AsanaObject:
    """Return a portfolio with these fields, created at this time."""
    usual: dict[str, Any] = {
        "name": "",
        "color": None,
        "created_at": at,
        "created_by": None,
        "due_on": None,
        "members": [],
        "owner": None,
        "public": False,
        "start_on": None,
        "workspace": workspace,
    }
    return AsanaObject(gid=gid, resource_type="portfolio", fields=usual | fields)


def new_user(gid: str, name: str, workspace: AsanaObject, email: str | None = None) -> AsanaObject:
    """Return a user of the workspace."""
    address = email or f"{name.partition(' ')[0].lower()}@example.com"
    fields = {"name": name, "email": address, "photo": None, "workspaces": [workspace]}
    return AsanaObject(gid=gid, resource_type="user", fields=fields)


def new_membership(gid: str, group: AsanaObject, user: AsanaObject) -> AsanaObject:
    """Return what makes a user a member of a team or a workspace."""
    kind = group.resource_type
    fields = {"user": user, kind: group}
    return AsanaObject(gid=gid, resource_type=f"{kind}_membership", owner=group, fields=fields)
