"""Searching: the typeahead, tasks and projects by what they are.

Asana searches tasks for paying workspaces only; the fault ``free-workspace`` refuses as it does for
others.

Sources: https://developers.asana.com/reference/typeaheadforworkspace,
https://developers.asana.com/reference/searchtasksforworkspace
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import lists
from ..faults import Fault
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused
from ..values import flag, user_of
from .projects import PROJECT
from .tasks import TASK

__all__ = ["KINDS", "OPERATIONS"]

SOUGHT = ("custom_field", "portfolio", "project", "tag", "task", "team", "user")
"""The types that the typeahead knows here."""

MOST = 100
PAGE = 20

NAMED = Kind(name="named", fields={"name": Field("")})
"""The record of whatever has a name."""


async def typeahead(call: ApiCall) -> web.Response:
    """List what has a name with the words of the query in it, what begins with them first."""
    kind, words = call.text("resource_type"), str(call.given.get("query", "")).lower()
    if kind not in SOUGHT:
        raise Refused(400, f"resource_type: Value is none of {', '.join(SOUGHT)}")
    found = [each for each in call.state.all(kind) if words in each.name.lower()]
    found.sort(key=lambda each: not each.name.lower().startswith(words))
    return call.many(found[: _count(call, PAGE)], names=("gid", "resource_type", "name"))


def _count(call: ApiCall, usual: int) -> int:
    text = str(call.given.get("count", usual))
    if not text.isdecimal() or not 1 <= int(text) <= MOST:
        raise Refused(400, f"count: Must be a number between 1 and {MOST}")
    return int(text)


# Tasks


def _gids(value: Any) -> set[str]:
    return set(str(value).split(","))


def _linked(name: str) -> Callable[[AsanaObject], set[str]]:
    def gids(task: AsanaObject) -> set[str]:
        value = task.value(name)
        return {each.gid for each in (value if isinstance(value, list) else [value]) if each}

    return gids


def _sections(task: AsanaObject) -> set[str]:
    return {each["section"].gid for each in task.fields["memberships"]}


def _teams(task: AsanaObject) -> set[str]:
    teams = (each["project"].fields["team"] for each in task.fields["memberships"])
    return {team.gid for team in teams if team}


def _portfolios(task: AsanaObject) -> set[str]:
    return {one.gid for each in task.fields["memberships"] for one in each["project"].holders}


LINKS: Mapping[str, Callable[[AsanaObject], set[str]]] = {
    "assignee": _linked("assignee"),
    "assigned_by": _linked("assigned_by"),
    "created_by": _linked("created_by"),
    "followers": _linked("followers"),
    "portfolios": _portfolios,
    "projects": _linked("projects"),
    "sections": _sections,
    "tags": _linked("tags"),
    "teams": _teams,
}
"""The links that tasks are searched by, each with ``.any``, ``.not`` or ``.all``."""

USERS = ("assignee", "assigned_by", "created_by", "followers")

MATCHES: Mapping[str, Callable[[set[str], set[str]], bool]] = {
    "any": lambda asked, found: bool(asked & found),
    "not": lambda asked, found: not asked & found,
    "all": lambda asked, found: asked <= found,
}

TIMES = ("completed_at", "created_at", "due_at", "modified_at")
DAYS = {"due_on": "due_on", "start_on": "start_on", **{f"{n[:-3]}_on": n for n in TIMES[:2]}}
DAYS["modified_on"] = "modified_at"

FLAGS: Mapping[str, Callable[[AsanaObject], bool]] = {
    "completed": lambda task: task.fields["completed"],
    "has_attachment": lambda task: bool(task.parts_of("attachment")),
    "is_blocked": lambda task: any(
        not one.fields["completed"] for one in task.fields["dependencies"]
    ),
    "is_blocking": lambda task: bool(task.fields["dependents"]),
    "is_subtask": lambda task: task.owner is not None,
}


def _is_sought(call: ApiCall, task: AsanaObject) -> bool:
    return all(_fits(call, task, name, value) for name, value in call.given.items())


def _fits(call: ApiCall, task: AsanaObject, name: str, value: Any) -> bool:
    """Return whether a task fits one parameter of a search; it does if that is none of these."""
    head, _, how = name.partition(".")
    if head in LINKS and how in MATCHES:
        asked = _gids(value)
        if head in USERS:
            asked = {
                "" if each == "null" else user_of(call.state, name, each).gid for each in asked
            }
        return MATCHES[how](asked, LINKS[head](task) or {""})
    if name in FLAGS:
        return FLAGS[name](task) is flag(name, value)
    if head in TIMES or head in DAYS:
        return _is_in_time(task, head, how, str(value))
    if name == "text":
        said = f"{task.name} {task.fields['notes']}".lower()
        return str(value).lower() in said
    return name != "resource_subtype" or task.resource_subtype == value


def _is_in_time(task: AsanaObject, name: str, how: str, value: str) -> bool:
    found = task.fields[DAYS.get(name, name)]
    if found is None:
        return value == "null"
    found = found[:10] if name in DAYS else found
    return bool({"before": found < value, "after": found > value, "": found == value}[how])


SORTS = ("due_date", "created_at", "completed_at", "likes", "modified_at")


def sought(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tasks that fit all parameters of a search, 100 at most, the newest first."""
    name = str(call.given.get("sort_by", "modified_at"))
    if name not in SORTS:
        raise Refused(400, f"sort_by: Value is none of {', '.join(SORTS)}")
    if Fault.FREE_WORKSPACE in call.service.faults:
        raise Refused(402, "Search is only available to premium users.")
    field = {"due_date": "due_on", "likes": "num_likes"}.get(name, name)
    ascending = flag("sort_ascending", call.given.get("sort_ascending", False))
    found = [task for task in call.state.all("task") if _is_sought(call, task)]
    found.sort(key=lambda task: str(task.value(field) or ""), reverse=not ascending)
    return found[:MOST]


def projects(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the projects that have the words of ``text`` in their names, and fit the rest."""
    words = str(call.given.get("text", "")).lower()
    found = [each for each in call.state.all("project") if words in each.name.lower()]
    if "completed" in call.given:
        completed = flag("completed", call.given["completed"])
        found = [each for each in found if each.fields["completed"] is completed]
    return found[:MOST]


KINDS = (NAMED,)
TASKS = (
    *(f"{name}.any" for name in LINKS),
    *(f"{name}.not" for name in (*USERS, "projects", "sections", "tags")),
    *(f"{name}.all" for name in ("projects", "sections", "tags")),
    *(f"{name}.{how}" for name in (*TIMES, *DAYS) for how in ("before", "after")),
    *DAYS,
    *FLAGS,
    *("resource_subtype", "text", "sort_by", "sort_ascending"),
)
OPERATIONS = {
    "typeaheadForWorkspace": Operation(
        typeahead, ["resource_type", "type", "query", "count"], NAMED
    ),
    "searchTasksForWorkspace": lists(TASK, sought, *TASKS),
    "searchProjectsForWorkspace": lists(PROJECT, projects, "text", "completed"),
}
