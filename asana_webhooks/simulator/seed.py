"""The objects that this Asana starts with: a workspace, its people, a team, a project, tasks."""

from __future__ import annotations

from typing import Any

from .groups.projects import PROJECT
from .groups.sections import SECTION
from .groups.tasks import TASK
from .groups.teams import TEAM
from .groups.users import MEMBERSHIPS, USER, address
from .groups.workspaces import WORKSPACE
from .objects import AsanaObject
from .state import State

__all__ = ["fill"]

BUILT = "2026-01-05T09:00:00.000Z"
USERS = {"1201": "Robin Example", "1202": "Sam Example"}
TASKS = {
    "1301": "The login forgets its visitors",
    "1302": "Umlauts in file names",
    "1303": "The export takes an hour",
}


def fill(state: State) -> None:
    """Give an empty state its first objects; their gids are the same in every local Asana."""
    workspace = state.new(
        WORKSPACE,
        {"name": "example.com", "is_organization": True, "email_domains": ["example.com"]},
        gid="1331",
    )
    users = [
        state.new(USER, {"name": name, "email": address(name), "workspaces": [workspace]}, gid=gid)
        for gid, name in USERS.items()
    ]
    team = state.new(TEAM, {"name": "Engineering", "organization": workspace}, gid="1350")
    _join(state, "1360", team, users[0])
    _join(state, "1361", workspace, users[0])
    _join(state, "1362", workspace, users[1])
    built = {"created_at": BUILT, "workspace": workspace}
    project = state.new(
        PROJECT,
        {
            "name": "Bugs",
            "owner": users[0],
            "team": team,
            "members": users[:1],
            "followers": users[:1],
            "modified_at": BUILT,
            **built,
        },
        gid="8675309",
    )
    fields = {"name": "Untitled section", "project": project, "created_at": BUILT}
    section = state.new(SECTION, fields, gid="1400", owner=project)
    for gid, name in TASKS.items():
        task = state.new(
            TASK,
            {"name": name, "created_by": users[0], "modified_at": BUILT, **built},
            gid=gid,
        )
        task.fields["memberships"].append({"project": project, "section": section})
        section.holds.append(task)
    state.workspace, state.first_user, state.project = workspace, users[0], project


def _join(state: State, gid: str, group: AsanaObject, user: AsanaObject) -> None:
    kind = MEMBERSHIPS[group.resource_type]
    fields: dict[str, Any] = {"user": user, group.resource_type: group}
    if "created_at" in kind.fields:
        fields["created_at"] = BUILT
    state.new(kind, fields, gid=gid, owner=group)
