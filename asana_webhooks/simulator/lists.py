"""Which objects a list consists of: those below another object, or those that a query asks for.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .answers import Refused, unknown
from .inputs import flag, moment, user_of
from .state import State
from .things import Thing

__all__ = ["BELOW", "all_of", "tasks"]

Query = Mapping[str, str]

ONE_OF = "Must specify exactly one of project, tag, section, or assignee + workspace"


def _tasks_in(field: str) -> Callable[[State, Thing], list[Thing]]:
    def chosen(state: State, place: Thing) -> list[Thing]:
        every = state.all("task")
        return [
            task
            for task in every
            if any(each[field] is place for each in task.fields["memberships"])
        ]

    return chosen


def _linked(resource_type: str, field: str) -> Callable[[State, Thing], list[Thing]]:
    def chosen(state: State, thing: Thing) -> list[Thing]:
        return [each for each in state.all(resource_type) if each.fields[field] is thing]

    return chosen


def _listed(field: str) -> Callable[[State, Thing], list[Thing]]:
    def chosen(state: State, thing: Thing) -> list[Thing]:
        return [each for each in thing.record[field] if each.alive]

    return chosen


def _tasks_with_tag(state: State, tag: Thing) -> list[Thing]:
    return [task for task in state.all("task") if tag in task.fields["tags"]]


def _members(group: str) -> Callable[[State, Thing], list[Thing]]:
    def chosen(state: State, thing: Thing) -> list[Thing]:
        memberships = state.all(f"{group}_membership")
        return [each.fields["user"] for each in memberships if each.owner is thing]

    return chosen


def _teams_of(state: State, user: Thing) -> list[Thing]:
    memberships = state.all("team_membership")
    return [each.fields["team"] for each in memberships if each.fields["user"] is user]


BELOW: Mapping[tuple[str, str], Callable[[State, Thing], list[Thing]]] = {
    ("projects", "tasks"): _tasks_in("project"),
    ("projects", "sections"): _linked("section", "project"),
    ("sections", "tasks"): _tasks_in("section"),
    ("tags", "tasks"): _tasks_with_tag,
    ("tasks", "subtasks"): _linked("task", "parent"),
    ("tasks", "stories"): _linked("story", "target"),
    ("tasks", "projects"): _listed("projects"),
    ("tasks", "tags"): _listed("tags"),
    ("teams", "projects"): _linked("project", "team"),
    ("teams", "users"): _members("team"),
    ("users", "teams"): _teams_of,
    ("workspaces", "projects"): _linked("project", "workspace"),
    ("workspaces", "tags"): _linked("tag", "workspace"),
    ("workspaces", "teams"): _linked("team", "organization"),
    ("workspaces", "users"): _members("workspace"),
}
"""What ``GET /{first}/{gid}/{second}`` lists."""


def tasks(state: State, query: Query) -> list[Thing]:
    """Return the tasks that a query asks for.

    Raises Refused unless it names exactly one of a project, a section, a tag, or both an assignee
    and a workspace.
    """
    places = [name for name in ("project", "section", "tag", "assignee") if query.get(name)]
    if len(places) != 1 or ("assignee" in places and not query.get("workspace")):
        raise Refused(400, ONE_OF)
    name = places[0]
    if name == "assignee":
        user = user_of(state, "assignee", query[name])
        found = [task for task in state.all("task") if task.fields["assignee"] is user]
    else:
        found = BELOW[f"{name}s", "tasks"](state, _known(state, query, name))
    modified, completed = _since(query, "modified_since"), _since(query, "completed_since")
    return [
        task
        for task in found
        if task.fields["modified_at"] >= modified
        and (not task.fields["completed"] or task.fields["completed_at"] >= completed)
    ]


def _since(query: Query, name: str) -> str:
    # As texts, "now" is later than any time, which leaves the tasks that are not completed.
    text = query.get(name, "")
    return text if text in ("", "now") else moment(name, text)


def all_of(state: State, resource_type: str, query: Query) -> list[Thing]:
    """Return the projects, tags or users, of the workspace or team that the query may name."""
    collection = f"{resource_type}s"
    found = state.all(resource_type)
    for name in ("workspace", "team"):
        below = BELOW.get((f"{name}s", collection))
        if query.get(name) and below:
            chosen: list[Any] = below(state, _known(state, query, name))
            found = [each for each in found if each in chosen]
    if resource_type == "project" and "archived" in query:
        archived = flag("archived", query["archived"])
        found = [each for each in found if each.fields["archived"] is archived]
    return found


def _known(state: State, query: Query, name: str) -> Thing:
    thing = state.find(query[name], name)
    if thing is None:
        raise unknown(name, query[name])
    return thing
