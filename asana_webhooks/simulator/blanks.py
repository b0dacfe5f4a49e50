"""What a new object looks like: the fields that it was given, and of the others what Asana sets.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from typing import Any

from .things import Thing

__all__ = ["new_membership", "new_project", "new_task", "new_user"]


def new_task(gid: str, workspace: Thing, at: str, fields: dict[str, Any]) -> Thing:
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
    return Thing(gid=gid, resource_type="task", resource_subtype=subtype, fields=usual | fields)


def new_project(gid: str, workspace: Thing, at: str, fields: dict[str, Any]) -> Thing:
    """Return a project with these fields, created at this time."""
    usual: dict[str, Any] = {
        "name": "",
        "notes": "",
        "archived": False,
        "color": None,
        "created_at": at,
        "due_on": None,
        "modified_at": at,
        "owner": None,
        "start_on": None,
        "team": None,
        "workspace": workspace,
    }
    return Thing(gid=gid, resource_type="project", fields=usual | fields)


def new_user(gid: str, name: str, workspace: Thing, email: str | None = None) -> Thing:
    """Return a user of the workspace."""
    address = email or f"{name.partition(' ')[0].lower()}@example.com"
    fields = {"name": name, "email": address, "photo": None, "workspaces": [workspace]}
    return Thing(gid=gid, resource_type="user", fields=fields)


def new_membership(gid: str, group: Thing, user: Thing) -> Thing:
    """Return what makes a user a member of a team or a workspace."""
    kind = group.resource_type
    fields = {"user": user, kind: group}
    return Thing(gid=gid, resource_type=f"{kind}_membership", owner=group, fields=fields)
