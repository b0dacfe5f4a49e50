"""The calls that every kind of object has: show one, change one, delete one, list them.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from .access import check_access, may_see, members
from .input import Pages, flag, input_fields, moment, user_of, writable
from .objects import AsanaObject
from .responses import Refused, answer, choose, named_fields, single, unknown
from .state import State
from .user_actions import UserActions

__all__ = ["BELOW", "CrudCalls", "all_of", "tasks", "thing_of"]

Query = Mapping[str, str]

ONE_OF = "Must specify exactly one of project, tag, section, or assignee + workspace"


def _tasks_in(field: str) -> Callable[[State, AsanaObject], list[AsanaObject]]:
    def chosen(state: State, place: AsanaObject) -> list[AsanaObject]:
        every = state.all("task")
        return [
            task
            for task in every
            if any(each[field] is place for each in task.fields["memberships"])
        ]

    return chosen


def _linked(resource_type: str, field: str) -> Callable[[State, AsanaObject], list[AsanaObject]]:
    def chosen(state: State, thing: AsanaObject) -> list[AsanaObject]:
        return [each for each in state.all(resource_type) if each.fields[field] is thing]

    return chosen


def _listed(field: str) -> Callable[[State, AsanaObject], list[AsanaObject]]:
    def chosen(state: State, thing: AsanaObject) -> list[AsanaObject]:
        return [each for each in thing.record[field] if each.alive]

    return chosen


def _tasks_with_tag(state: State, tag: AsanaObject) -> list[AsanaObject]:
    return [task for task in state.all("task") if tag in task.fields["tags"]]


def _items(state: State, portfolio: AsanaObject) -> list[AsanaObject]:
    return [each for each in state.all("project") if portfolio in each.holders]


def _teams_of(state: State, user: AsanaObject) -> list[AsanaObject]:
    memberships = state.all("team_membership")
    return [each.fields["team"] for each in memberships if each.fields["user"] is user]


BELOW: Mapping[tuple[str, str], Callable[[State, AsanaObject], list[AsanaObject]]] = {
    ("portfolios", "items"): _items,
    ("projects", "tasks"): _tasks_in("project"),
    ("projects", "sections"): _linked("section", "project"),
    ("sections", "tasks"): _tasks_in("section"),
    ("tags", "tasks"): _tasks_with_tag,
    ("tasks", "subtasks"): _linked("task", "parent"),
    ("tasks", "stories"): _linked("story", "target"),
    ("tasks", "projects"): _listed("projects"),
    ("tasks", "tags"): _listed("tags"),
    ("teams", "projects"): _linked("project", "team"),
    ("teams", "users"): members,
    ("users", "teams"): _teams_of,
    ("workspaces", "projects"): _linked("project", "workspace"),
    ("workspaces", "tags"): _linked("tag", "workspace"),
    ("workspaces", "teams"): _linked("team", "organization"),
    ("workspaces", "users"): members,
}
"""The lists of ``GET /{first}/{gid}/{second}``."""


def tasks(state: State, query: Query) -> list[AsanaObject]:
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


def all_of(state: State, resource_type: str, query: Query) -> list[AsanaObject]:
    """Return the projects, tags or users, of the workspace or team that the query may name."""
    collection = f"{resource_type}s"
    found = state.all(resource_type)
    for name in ("workspace", "team"):
        below = BELOW.get((f"{name}s", collection))
        if query.get(name) and below:
            chosen: list[Any] = below(state, _known(state, query, name))
            found = [each for each in found if each in chosen]
    return found


def _known(state: State, query: Query, name: str) -> AsanaObject:
    thing = state.find(query[name], name)
    if thing is None:
        raise unknown(name, query[name])
    return check_access(state, name, thing)


KINDS = {
    "portfolios": "portfolio",
    "projects": "project",
    "sections": "section",
    "stories": "story",
    "tags": "tag",
    "tasks": "task",
    "teams": "team",
    "users": "user",
    "workspaces": "workspace",
}
EVERY = "{kind:" + "|".join(KINDS) + "}/{gid}"
DELETABLE = "{kind:portfolios|projects|sections|stories|tags|tasks}/{gid}"


class CrudCalls:
    """Shows the objects of a state, and has them changed."""

    def __init__(self, state: State, actions: UserActions, pages: Pages) -> None:
        self._state = state
        self._actions = actions
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.get("/workspaces/{gid}/tasks/search", self.search),
            web.get("/tasks", self.list_tasks),
            web.get("/portfolios", self.list_portfolios),
            web.get("/{kind:projects|tags|users|workspaces}", self.list_all),
            web.get(f"/{EVERY}", self.show),
            web.put(f"/{EVERY}", self.change),
            web.delete(f"/{DELETABLE}", self.delete),
            *(web.get(f"/{{kind:{one}}}/{{gid}}/{{below:{two}}}", self.list) for one, two in BELOW),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """Show one object."""
        return single(request, thing_of(self._state, request).record)

    async def change(self, request: web.Request) -> web.Response:
        """Change some fields of an object, and show it."""
        thing = thing_of(self._state, request)
        fields = writable(self._state, thing.resource_type, await input_fields(request))
        fields.pop("resource_subtype", None)  # it is not among the fields of the record
        self._actions.change(thing, fields)
        return single(request, thing.record)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete an object."""
        thing = thing_of(self._state, request)
        if thing.resource_type == "section":
            self._check_section(thing)
        self._actions.delete(thing)
        return answer({"data": {}})

    def _check_section(self, section: AsanaObject) -> None:
        siblings = BELOW["projects", "sections"](self._state, section.fields["project"])
        if len(siblings) == 1 or BELOW["sections", "tasks"](self._state, section):
            raise Refused(400, "section: Only an empty section, and not the last, can be deleted")

    async def list_tasks(self, request: web.Request) -> web.Response:
        """List the tasks of a project, a section, a tag or an assignee."""
        return self._listed(request, tasks(self._state, request.query))

    async def list_all(self, request: web.Request) -> web.Response:
        """List the objects of a kind."""
        kind = KINDS[request.match_info["kind"]]
        return self._listed(request, all_of(self._state, kind, request.query))

    async def list_portfolios(self, request: web.Request) -> web.Response:
        """List the portfolios of a user, who must be the caller."""
        for name in ("workspace", "owner"):
            if not request.query.get(name):
                raise Refused(400, f"{name}: Missing input")
        _known(self._state, request.query, "workspace")
        owner = user_of(self._state, "owner", request.query["owner"])
        found = self._state.all("portfolio")
        return self._listed(request, [each for each in found if each.fields["owner"] is owner])

    async def list(self, request: web.Request) -> web.Response:
        """List the objects of a kind that another object has."""
        below = BELOW[request.match_info["kind"], request.match_info["below"]]
        return self._listed(request, below(self._state, thing_of(self._state, request)))

    async def search(self, request: web.Request) -> web.Response:
        """Refuse to search tasks, which Asana does for paying workspaces only."""
        raise Refused(402, "Payment Required")

    def _listed(self, request: web.Request, things: Sequence[AsanaObject]) -> web.Response:
        names, state = named_fields(request), self._state
        seen = [each for each in things if may_see(state, state.user, each)]
        if (text := request.query.get("archived")) is not None:
            archived = flag("archived", text)
            seen = [each for each in seen if each.fields.get("archived", archived) is archived]
        return self._pages.answer(
            request, seen, lambda each: choose(each.record, names or list(each.compact))
        )


def thing_of(state: State, request: web.Request, resource_type: str | None = None) -> AsanaObject:
    """Return the object that a call's path names; users may be called ``me`` or by their address.

    Raises Refused when there is none of this type, which the path says if it is not given, and when
    the caller may not see it.
    """
    gid = request.match_info["gid"]
    kind = resource_type or KINDS[request.match_info["kind"]]
    if kind == "user":
        return user_of(state, "user", gid)
    thing = state.find(gid, kind)
    if thing is None:
        raise unknown(kind, gid)
    return check_access(state, kind, thing)
