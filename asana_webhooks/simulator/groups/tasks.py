"""Tasks: in projects, sections and below other tasks.

Source: https://developers.asana.com/reference/tasks
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import LIKED, deletes, like, links, lists, shows
from ..events import PublishedEvent
from ..fields import LIKES, PERMALINK, html_of
from ..objects import ABSENT, AsanaObject, Field, Kind
from ..responses import Refused
from ..state import State
from ..user_actions import UserActions
from ..values import (
    day,
    link,
    moment,
    one_of,
    or_null,
    place_beside,
    required_text,
    text,
    time,
    truth,
    user,
    user_of,
    users_of,
)
from .custom_fields import change_values, checked_values, keep_values, known_to, values_of
from .projects import tasks_in

__all__ = ["KINDS", "OPERATIONS", "TASK", "add_task", "change_task", "put", "since", "take"]

APPROVALS = ("pending", "approved", "rejected", "changes_requested")


def _projects(task: AsanaObject) -> list[AsanaObject]:
    return [each["project"] for each in task.fields["memberships"]]


def _resource(state: State, name: str, value: Any) -> dict[str, Any]:
    """Return what an app keeps with a task: an id of its own, and data."""
    if not isinstance(value, dict):
        raise Refused(400, f"{name}: Value is not an object")
    return {key: text(state, f"{name}.{key}", each) for key, each in value.items()}


TASK = Kind(
    name="task",
    compact=("name",),
    subtype="default_task",
    fields={
        "name": Field("", text),
        "actual_time_minutes": Field(),
        "approval_status": Field(ABSENT, one_of(*APPROVALS)),
        "assigned_by": Field(of="user"),
        "assignee": Field(None, or_null(user), of="user"),
        "assignee_section": Field(of="section"),
        "assignee_status": Field("upcoming", one_of("today", "upcoming", "later", "new", "inbox")),
        "completed": Field(default=False, write=truth),
        "completed_at": Field(),
        "completed_by": Field(of="user"),
        "created_at": Field(),
        "created_by": Field(of="user", opt_in=True, bare=True),
        "custom_fields": Field(show=values_of, of="custom_field"),
        "custom_type": Field(),
        "custom_type_status_option": Field(),
        "dependencies": Field([], opt_in=True, bare=True),
        "dependents": Field([], opt_in=True, bare=True),
        "due_at": Field(None, or_null(time)),
        "due_on": Field(None, or_null(day)),
        "external": Field(None, or_null(_resource), opt_in=True),
        "followers": Field([], of="user"),
        "html_notes": html_of("notes"),
        "is_rendered_as_separator": Field(default=False, opt_in=True),
        **LIKES,
        "memberships": Field([], of={"project": "project", "section": "section"}),
        "modified_at": Field(),
        "notes": Field("", text),
        "num_subtasks": Field(show=lambda task: len(task.parts_of("task")), opt_in=True),
        "parent": Field(of="task"),
        "projects": Field(show=_projects, of="project"),
        "start_at": Field(None, or_null(time)),
        "start_on": Field(None, or_null(day)),
        "tags": Field([], of="tag"),
        "workspace": Field(of="workspace"),
        **PERMALINK,
    },
)
SUBTYPES = one_of("default_task", "milestone", "approval")


# What users do to tasks


def add_task(
    actions: UserActions,
    fields: Mapping[str, Any],
    *,
    places: Mapping[AsanaObject, AsanaObject | None] | None = None,
    parent: AsanaObject | None = None,
    tags: Iterable[AsanaObject] = (),
) -> AsanaObject:
    """Return a new task that is below this task, and has these tags.

    ``places`` are the projects that it is in, with the section, or None for the first one. Its
    user and its assignee follow it.
    """
    state, now = actions.state, actions.now()
    followers = [state.user, fields.get("assignee"), *fields.get("followers", ())]
    always: dict[str, Any] = {
        "created_at": now,
        "modified_at": now,
        "created_by": state.user,
        "workspace": state.workspace,
        "parent": parent,
        "followers": [each for each in dict.fromkeys(followers) if each],
    }
    task = state.new(TASK, {**fields, **always}, owner=parent)
    consequences, silent = _consequences(state, task, fields, now)
    task.keep(consequences | silent)
    found = _below(actions, task, parent) if parent else []
    for project, section in (places or {}).items():
        found += _into(actions, task, project, section or project.parts_of("section")[0])
    for tag in tags:
        found += actions.linking(task, "tags", tag)
    actions.publish(*found)
    return task


def change_task(actions: UserActions, task: AsanaObject, fields: Mapping[str, Any]) -> None:
    """Give a task these values, and those that follow from them."""
    assignee = fields.get("assignee")
    now = actions.now()
    consequences, silent = _consequences(actions.state, task, fields, now)
    if assignee is not None and assignee not in task.fields["followers"]:
        silent["followers"] = [*task.fields["followers"], assignee]
    actions.change(task, consequences, silent=silent, at=now)


def _consequences(
    state: State, task: AsanaObject, fields: Mapping[str, Any], now: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields with those that they bring along, and those that no event tells of."""
    found, silent = dict(fields), {}
    for kind in ("due", "start"):
        found |= _dates(kind, found)
    subtype = found.get("resource_subtype", task.resource_subtype)
    if subtype == "approval":
        found |= _approval(task, found)
    done = found.get("completed")
    if done is not None and done != (task.fields["completed_at"] is not None):
        found["completed_at"] = now if done else None
        silent["completed_by"] = state.user if done else None
    if "assignee" in found:
        silent["assigned_by"] = state.user if found["assignee"] else None
    return found, silent


def _dates(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the day of a time that is given, and no time when a day is given instead."""
    on, at = f"{kind}_on", f"{kind}_at"
    if fields.get(at) and fields.get(on):
        raise Refused(400, f"You may only provide one of {on} or {at}!")
    if fields.get(at):
        return {on: fields[at][:10]}
    if at in fields or on in fields:
        return {on: fields.get(on), at: None}
    return {}


def _approval(task: AsanaObject, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that keep an approval and its completion in step."""
    if "approval_status" in fields:
        return {"completed": fields["approval_status"] != "pending"}
    if "completed" in fields:
        return {"approval_status": "approved" if fields["completed"] else "pending"}
    return {} if "approval_status" in task.fields else {"approval_status": "pending"}


def put(
    actions: UserActions,
    task: AsanaObject,
    project: AsanaObject,
    section: AsanaObject | None = None,
    *,
    place: int | None = None,
) -> None:
    """Have a task in a project: in this section, or where it is already, or in the first.

    ``place`` is the one in the section, the last if None.
    """
    membership = _membership(task, project)
    if membership is None:
        found = _into(actions, task, project, section or project.parts_of("section")[0], place)
        actions.publish(*found)
        return
    old = membership["section"]
    if section in (None, old):
        if place is not None:
            _reorder(old.holds, task, place)
        return
    _move(actions, task, membership, section, place)


def _move(
    actions: UserActions,
    task: AsanaObject,
    membership: dict[str, AsanaObject],
    section: AsanaObject,
    place: int | None,
) -> None:
    old, membership["section"] = membership["section"], section
    old.holds.remove(task)
    section.holds.insert(len(section.holds) if place is None else place, task)
    actions.touch(task)
    actions.publish(
        actions.event("removed", task, parent=old),
        actions.event("added", task, parent=section),
        *actions.linked_story(task, "moved", "section", section, old),
    )


def take(actions: UserActions, task: AsanaObject, project: AsanaObject) -> None:
    """Have a task in a project no longer."""
    membership = _membership(task, project)
    if membership is None:
        return
    found = [
        actions.event("removed", task, parent=project),
        actions.event("removed", task, parent=membership["section"]),
    ]
    task.fields["memberships"].remove(membership)
    membership["section"].holds.remove(task)
    actions.touch(task)
    actions.publish(*found, *actions.linked_story(task, "removed", "project", project))


def move_below(
    actions: UserActions, task: AsanaObject, parent: AsanaObject | None, place: int | None = None
) -> None:
    """Make a task a subtask of another, or of none; at a place among the parts of that."""
    old = task.owner
    if parent is old:
        if parent is not None and place is not None:
            _reorder(parent.parts, task, place)
        return
    found = [actions.event("removed", task, parent=old)] if old else []
    found += actions.linked_story(task, "removed", "task", old) if old else []
    actions.state.own(task, parent, place=place)
    task.fields["parent"] = parent
    actions.touch(task)
    found += _below(actions, task, parent) if parent else []
    actions.publish(*found)


def _below(actions: UserActions, task: AsanaObject, parent: AsanaObject) -> list[PublishedEvent]:
    added = actions.event("added", task, parent=parent)
    return [added, *actions.linked_story(task, "added", "task", parent)]


def _into(
    actions: UserActions,
    task: AsanaObject,
    project: AsanaObject,
    section: AsanaObject,
    place: int | None = None,
) -> list[PublishedEvent]:
    task.fields["memberships"].append({"project": project, "section": section})
    section.holds.insert(len(section.holds) if place is None else place, task)
    actions.touch(task)
    found = [actions.event("added", task, parent=each) for each in (project, section)]
    return [*found, *actions.linked_story(task, "added", "project", project)]


def _reorder(things: list[AsanaObject], thing: AsanaObject, place: int) -> None:
    place -= things.index(thing) < place
    things.remove(thing)
    things.insert(place, thing)


def _membership(task: AsanaObject, project: AsanaObject) -> dict[str, AsanaObject] | None:
    memberships: list[dict[str, AsanaObject]] = task.fields["memberships"]
    return next((each for each in memberships if each["project"] is project), None)


# Calls


def written(call: ApiCall) -> dict[str, Any]:
    """Return the fields that a call writes."""
    fields = call.fields(TASK)
    if "resource_subtype" in call.given:
        subtype = SUBTYPES(call.state, "resource_subtype", call.given["resource_subtype"])
        fields["resource_subtype"] = subtype
    return fields


async def create(call: ApiCall) -> web.Response:
    """Create a task."""
    parent = call.link("parent", "task")
    if not (parent or any(map(call.given.get, ("workspace", "projects", "memberships")))):
        raise Refused(400, "You should specify one of workspace, parent, projects")
    call.link("workspace")
    return _created(call, parent)


async def create_subtask(call: ApiCall) -> web.Response:
    """Create a task below another."""
    return _created(call, call.thing)


def _created(call: ApiCall, parent: AsanaObject | None) -> web.Response:
    followers = users_of(call.state, call.given, "followers")
    fields, places = written(call) | {"followers": followers}, _places(call)
    values = checked_values(
        call.state, call.given.get("custom_fields") or {}, known_to(None, places)
    )
    tags = call.links("tags", "tag")
    task = add_task(call.actions, fields, places=places, parent=parent, tags=tags)
    keep_values(task, values)
    return call.one(task, status=201)


def _places(call: ApiCall) -> dict[AsanaObject, AsanaObject | None]:
    memberships = call.given.get("memberships") or []
    if not isinstance(memberships, list) or not all(isinstance(m, dict) for m in memberships):
        raise Refused(400, "memberships: Value is not an array of objects")
    projects = call.links("projects", "project")
    return dict.fromkeys(projects) | dict(_place(call.state, each) for each in memberships)


def _place(state: State, given: Mapping[str, Any]) -> tuple[AsanaObject, AsanaObject | None]:
    required_text(given, "project")
    project, section = link(state, given, "project"), link(state, given, "section")
    assert project is not None  # noqa: S101 - it was required
    if section is not None and section.owner is not project:
        raise Refused(400, "section: The section is not in the project")
    return project, section


async def change(call: ApiCall) -> web.Response:
    """Change a task, and show it."""
    task, fields = call.thing, written(call)
    given = call.given.get("custom_fields") or {}
    values = checked_values(call.state, given, known_to(task))
    change_task(call.actions, task, fields)
    change_values(call.actions, task, values)
    like(call, task)
    return call.one(task)


async def set_parent(call: ApiCall) -> web.Response:
    """Make a task a subtask of another, or of none if the parent is null, and show it."""
    task = call.thing
    if "parent" not in call.given:
        raise Refused(400, "parent: Missing input")
    parent = above = call.link("parent", "task")
    while above is not None:
        if above is task:
            raise Refused(400, "parent: A task cannot be below itself")
        above = above.owner
    siblings = parent.parts if parent else []
    place = place_beside(call.state, call.given, siblings, "task")
    move_below(call.actions, task, parent, place)
    return call.one(task)


async def add_project(call: ApiCall) -> web.Response:
    """Put a task into a project, and into a section of it if one is named."""
    task = call.thing
    project, section = _place(call.state, call.given)
    membership = _membership(task, project)
    here = section or (membership or {}).get("section") or project.parts_of("section")[0]
    beside = call.link("insert_before", "task") or call.link("insert_after", "task")
    if beside is not None and section is None:
        other = _membership(beside, project)
        here = section = other["section"] if other else here
    place = place_beside(call.state, call.given, here.holds, "task")
    put(call.actions, task, project, section, place=place)
    return call.done()


async def remove_project(call: ApiCall) -> web.Response:
    """Take a task out of a project."""
    take(call.actions, call.thing, call.linked("project"))
    return call.done()


async def add_to_section(call: ApiCall) -> web.Response:
    """Put a task into a section, and so into its project."""
    section, task = call.thing, call.linked("task")
    place = place_beside(call.state, call.given, section.holds, "task")
    put(call.actions, task, section.fields["project"], section, place=place)
    return call.done()


# Lists

ONE_OF = "Must specify exactly one of project, tag, section, or assignee + workspace"


def asked(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tasks that a query asks for.

    Raises Refused unless it names exactly one of a project, a section, a tag, or both an assignee
    and a workspace.
    """
    places = [name for name in ("project", "section", "tag", "assignee") if call.given.get(name)]
    if len(places) != 1 or ("assignee" in places and not call.given.get("workspace")):
        raise Refused(400, ONE_OF)
    if places == ["assignee"]:
        assignee = user_of(call.state, "assignee", call.given["assignee"])
        found = [task for task in call.state.all("task") if task.fields["assignee"] is assignee]
    else:
        found = _tasks_of(call.state, call.linked(places[0]))
    return since(call, found)


def _tasks_of(state: State, place: AsanaObject) -> list[AsanaObject]:
    if place.resource_type == "project":
        return tasks_in(place)
    if place.resource_type == "section":
        return [task for task in place.holds if task.alive]
    return [task for task in state.all("task") if place in task.fields["tags"]]


def since(call: ApiCall, tasks: Iterable[AsanaObject]) -> list[AsanaObject]:
    """Return those of the tasks that were modified, or not completed, since a call's times."""
    modified, completed = _moment(call, "modified_since"), _moment(call, "completed_since")
    return [
        task
        for task in tasks
        if task.fields["modified_at"] >= modified
        and (not task.fields["completed"] or task.fields["completed_at"] >= completed)
    ]


def _moment(call: ApiCall, name: str) -> str:
    # As texts, "now" is later than any time, which leaves the tasks that are not completed.
    given = str(call.given.get(name, ""))
    return given if given in ("", "now") else moment(name, given)


def of_place(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tasks of the project, section or tag that the path names."""
    return since(call, _tasks_of(call.state, call.thing))


def subtasks(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the subtasks of a task in their order."""
    return call.thing.parts_of("task")


KINDS = (TASK,)
WRITTEN = (*TASK.writable, "resource_subtype", "custom_fields")
NEW = (*WRITTEN, "followers", "memberships", "parent", "projects", "tags", "workspace")
BESIDE = ("insert_before", "insert_after")
OPERATIONS = {
    "getTasks": lists(
        TASK,
        asked,
        *("assignee", "project", "section", "tag", "workspace"),
        *("completed_since", "modified_since"),
    ),
    "createTask": Operation(create, NEW, TASK),
    "getTask": shows(TASK),
    "updateTask": Operation(change, (*WRITTEN, *LIKED), TASK),
    "deleteTask": deletes(),
    "getTasksForProject": lists(TASK, of_place, "completed_since"),
    "getTasksForSection": lists(TASK, of_place, "completed_since"),
    "getTasksForTag": lists(TASK, of_place),
    "getSubtasksForTask": lists(TASK, subtasks),
    "createSubtaskForTask": Operation(create_subtask, NEW, TASK),
    "setParentForTask": Operation(set_parent, ["parent", *BESIDE], TASK),
    "addProjectForTask": Operation(add_project, ["project", "section", *BESIDE]),
    "removeProjectForTask": Operation(remove_project, ["project"]),
    "addTaskForSection": Operation(add_to_section, ["task", *BESIDE]),
    "addTagForTask": links(TASK, "tags", "tag", add=True),
    "removeTagForTask": links(TASK, "tags", "tag", add=False),
    "addFollowersForTask": links(TASK, "followers", "followers", add=True, users=True),
    "removeFollowerForTask": links(TASK, "followers", "followers", add=False, users=True),
}
