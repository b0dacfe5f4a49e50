"""Projects.

Source: https://developers.asana.com/reference/projects
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..access import PRIVACY
from ..call import ApiCall, Operation
from ..crud import deletes, links, lists, shows
from ..fields import PERMALINK, html_of
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused, answer
from ..state import State
from ..user_actions import UserActions
from ..values import COLORS, DATES, flag, one_of, or_null, text, truth, user
from .custom_fields import settings_of
from .sections import SECTION

__all__ = ["KINDS", "OPERATIONS", "PROJECT", "add_project", "tasks_in"]


def _public(project: AsanaObject) -> bool:
    public: bool = project.fields["privacy_setting"] == "public_to_workspace"
    return public


ICONS = (
    *("list", "board", "timeline", "calendar", "rocket", "people", "graph", "star", "bug"),
    *(
        "light_bulb",
        "globe",
        "gear",
        "notebook",
        "computer",
        "check",
        "target",
        "html",
        "megaphone",
    ),
    *("chat_bubbles", "briefcase", "page_layout", "mountain_flag", "puzzle", "presentation"),
    *("line_and_symbols", "speed_dial", "ribbon", "shoe", "shopping_basket", "map", "ticket"),
    "coins",
)
LEVELS = ("admin", "editor", "commenter", "viewer")

PROJECT = Kind(
    name="project",
    fields={
        "name": Field("", text),
        "archived": Field(default=False, write=truth),
        "color": Field(None, or_null(one_of(*COLORS))),
        "completed": Field(default=False),
        "completed_at": Field(),
        "completed_by": Field(of="user"),
        "created_at": Field(),
        "created_from_template": Field(opt_in=True),
        "current_status": Field(of="project_status"),
        "current_status_update": Field(of="status_update"),
        "custom_field_settings": Field(show=settings_of, of="custom_field_setting"),
        "custom_fields": Field([], of="custom_field"),
        "default_access_level": Field("editor", one_of(*LEVELS)),
        "default_view": Field("list", one_of("list", "board", "calendar", "timeline")),
        "due_date": Field(show=lambda project: project.fields["due_on"]),
        **{name: Field(None, check) for name, check in DATES.items()},
        "followers": Field([], of="user"),
        "html_notes": html_of("notes"),
        "icon": Field(None, or_null(one_of(*ICONS))),
        "members": Field([], of="user"),
        "minimum_access_level_for_customization": Field("editor", one_of("admin", "editor")),
        "minimum_access_level_for_sharing": Field("editor", one_of("admin", "editor")),
        "modified_at": Field(),
        "notes": Field("", text),
        "owner": Field(None, or_null(user), of="user"),
        "privacy_setting": Field("public_to_workspace", one_of(*PRIVACY)),
        "project_brief": Field(opt_in=True),
        "public": Field(show=_public),
        "team": Field(of="team"),
        "workspace": Field(of="workspace"),
        **PERMALINK,
    },
)


def add_project(actions: UserActions, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new project with a section that has no title yet; its user owns it."""
    workspace, user, now = actions.state.workspace, actions.state.user, actions.now()
    usual: dict[str, Any] = {
        "created_at": now,
        "modified_at": now,
        "workspace": workspace,
        "owner": user,
        "members": [user],
        "followers": [user],
    }
    fields = usual | dict(fields)
    project = actions.state.new(PROJECT, fields)
    section = {"name": "Untitled section", "project": project, "created_at": now}
    actions.state.new(SECTION, section, owner=project)
    parents = [workspace, *([fields["team"]] if fields.get("team") else [])]
    actions.publish(*(actions.event("added", project, parent=each) for each in parents))
    return project


def tasks_in(project: AsanaObject) -> list[AsanaObject]:
    """Return the tasks in a project, in the order of its sections."""
    return [task for section in project.parts_of("section") for task in section.holds if task.alive]


def written(call: ApiCall) -> dict[str, Any]:
    """Return the fields that a call writes, of which ``public`` is an old way to say privacy."""
    fields = call.fields(PROJECT)
    if "public" in call.given:
        public = flag("public", call.given["public"])
        fields.setdefault("privacy_setting", "public_to_workspace" if public else "private")
    return fields


async def create(call: ApiCall) -> web.Response:
    """Create a project in the workspace, or in a team of it."""
    place = call.thing if call.gids else call.link("workspace") or call.link("team")
    if place is None:
        raise Refused(400, "workspace: Missing input")
    team = place if place.resource_type == "team" else call.link("team")
    project = add_project(call.actions, written(call) | {"team": team})
    return call.one(project, status=201)


async def change(call: ApiCall) -> web.Response:
    """Change a project, and show it."""
    project = call.thing
    call.actions.change(project, written(call))
    return call.one(project)


async def task_counts(call: ApiCall) -> web.Response:
    """Show how many tasks a project has; Asana shows none that is not asked for by name."""
    tasks = tasks_in(call.thing)
    done = sum(task.fields["completed"] for task in tasks)
    goals = [task for task in tasks if task.resource_subtype == "milestone"]
    reached = sum(task.fields["completed"] for task in goals)
    counts = {
        "num_tasks": len(tasks),
        "num_incomplete_tasks": len(tasks) - done,
        "num_completed_tasks": done,
        "num_milestones": len(goals),
        "num_incomplete_milestones": len(goals) - reached,
        "num_completed_milestones": reached,
    }
    return answer({"data": {name: counts[name] for name in call.names if name in counts}})


def _of(state: State, field: str, value: AsanaObject) -> list[AsanaObject]:
    return [each for each in state.all("project") if each.fields[field] is value]


def every(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the projects, of a workspace or a team if asked."""
    found = call.state.all("project")
    for name in ("workspace", "team"):
        if call.given.get(name):
            place = call.linked(name)
            found = [each for each in found if each.fields[name] is place]
    return found


def of_place(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the projects of the team or workspace that the path names."""
    place = call.thing
    return _of(call.state, place.resource_type, place)


def of_task(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the projects that a task is in."""
    return [each["project"] for each in call.thing.fields["memberships"] if each["project"].alive]


KINDS = (PROJECT,)
NEW = (*PROJECT.writable, "public", "workspace", "team")
OPERATIONS = {
    "getProjects": lists(PROJECT, every, "workspace", "team", "archived"),
    "createProject": Operation(create, NEW, PROJECT),
    "getProject": shows(PROJECT),
    "updateProject": Operation(change, (*PROJECT.writable, "public"), PROJECT),
    "deleteProject": deletes(),
    "getProjectsForTask": lists(PROJECT, of_task),
    "getProjectsForTeam": lists(PROJECT, of_place, "archived"),
    "createProjectForTeam": Operation(create, NEW, PROJECT),
    "getProjectsForWorkspace": lists(PROJECT, of_place, "archived"),
    "createProjectForWorkspace": Operation(create, NEW, PROJECT),
    "getTaskCountsForProject": Operation(task_counts),
    "addMembersForProject": links(PROJECT, "members", "members", add=True, users=True),
    "removeMembersForProject": links(PROJECT, "members", "members", add=False, users=True),
    "addFollowersForProject": links(PROJECT, "followers", "followers", add=True, users=True),
    "removeFollowersForProject": links(PROJECT, "followers", "followers", add=False, users=True),
}
