"""Duplicates of tasks and projects, and the jobs that make them, which are done at once here.

Sources: https://developers.asana.com/reference/duplicatetask,
https://developers.asana.com/reference/jobs
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import shows
from ..objects import ABSENT, AsanaObject, Field, Kind
from ..user_actions import UserActions
from .projects import PROJECT, add_project, tasks_in
from .sections import add_section
from .tasks import add_task

__all__ = ["JOB", "KINDS", "OPERATIONS", "duplicate_project", "duplicate_task"]

JOB = Kind(
    name="job",
    compact=("status", "new_task", "new_project"),
    subtype="duplicate_task",
    fields={
        "status": Field("succeeded"),
        "new_task": Field(ABSENT, of="task"),
        "new_project": Field(ABSENT, of="project"),
    },
)

INCLUDED = {
    "notes": ("notes",),
    "assignee": ("assignee",),
    "dates": ("due_on", "due_at", "start_on", "start_at"),
    "followers": ("followers",),
}
"""The fields of a task that are copied, by the words of ``include``."""


def duplicate_task(
    actions: UserActions,
    task: AsanaObject,
    name: str,
    include: Collection[str],
    places: dict[AsanaObject, AsanaObject | None] | None = None,
    parent: AsanaObject | None = None,
) -> AsanaObject:
    """Return a new task like another one, in these places or in those of that one if None."""
    names = [field for word in include for field in INCLUDED.get(word, ())]
    fields = {field: task.fields[field] for field in names}
    if fields.get("due_at"):
        fields.pop("due_on")
    if fields.get("start_at"):
        fields.pop("start_on")
    if places is None and "projects" in include:
        places = {each["project"]: each["section"] for each in task.fields["memberships"]}
    copy = add_task(
        actions,
        fields | {"name": name, "resource_subtype": task.resource_subtype},
        places=places,
        parent=parent,
        tags=task.fields["tags"] if "tags" in include else (),
    )
    for subtask in task.parts_of("task") if "subtasks" in include else ():
        duplicate_task(actions, subtask, subtask.name, include, parent=copy)
    actions.publish(*actions.linked_story(copy, "added", "duplicate", task))
    return copy


def duplicate_project(
    actions: UserActions, project: AsanaObject, name: str, include: Collection[str]
) -> AsanaObject:
    """Return a new project with the sections of another one, and with its tasks."""
    names = [*PROJECT.writable] if "notes" in include else set(PROJECT.writable) - {"notes"}
    fields: dict[str, Any] = {
        field: project.fields[field] for field in names if field in project.fields
    }
    copy = add_project(actions, fields | {"name": name, "team": project.fields["team"]})
    sections = project.parts_of("section")
    first = copy.parts_of("section")[0]
    actions.change(first, {"name": sections[0].name})
    copies = [first, *(add_section(actions, copy, {"name": each.name}) for each in sections[1:])]
    words = [word.removeprefix("task_") for word in include]
    for task in tasks_in(project):
        place = next(m["section"] for m in task.fields["memberships"] if m["project"] is project)
        places: dict[AsanaObject, AsanaObject | None] = {copy: copies[sections.index(place)]}
        duplicate_task(actions, task, task.name, words, places)
    return copy


def _words(call: ApiCall) -> list[str]:
    include = call.given.get("include") or ""
    words = include if isinstance(include, list) else str(include).split(",")
    return [str(word).strip() for word in words]


async def of_task(call: ApiCall) -> web.Response:
    """Duplicate a task, and show the job of it."""
    task, name = call.thing, call.text("name")
    copy = duplicate_task(call.actions, task, name, _words(call))
    return call.one(call.state.new(JOB, {"new_task": copy}), status=201)


async def of_project(call: ApiCall) -> web.Response:
    """Duplicate a project, and show the job of it."""
    project, name = call.thing, call.text("name")
    copy = duplicate_project(call.actions, project, name, _words(call))
    fields = {"new_project": copy, "resource_subtype": "duplicate_project"}
    return call.one(call.state.new(JOB, fields), status=201)


KINDS = (JOB,)
OPERATIONS = {
    "duplicateTask": Operation(of_task, ["name", "include"], JOB),
    "duplicateProject": Operation(of_project, ["name", "include"], JOB),
    "getJob": shows(JOB),
}
