"""The calls that every kind of object has: show one, change one, delete one, and list them.

Source: https://developers.asana.com/reference/rest-api-reference
"""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from .answers import Refused, answer, choose, named_fields, single, unknown
from .door import input_fields
from .inputs import user_of, writable
from .lists import BELOW, all_of, tasks
from .pages import Pages
from .state import State
from .things import Thing
from .work import Work

__all__ = ["WorkCalls", "thing_of"]

KINDS = {
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
DELETABLE = "{kind:projects|sections|stories|tags|tasks}/{gid}"


class WorkCalls:
    """Shows the objects of a state, and has them changed."""

    def __init__(self, state: State, work: Work, pages: Pages) -> None:
        self._state = state
        self._work = work
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.get("/workspaces/{gid}/tasks/search", self.search),
            web.get("/tasks", self.list_tasks),
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
        self._work.change(thing, fields)
        return single(request, thing.record)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete an object."""
        thing = thing_of(self._state, request)
        if thing.resource_type == "section":
            self._check_section(thing)
        self._work.delete(thing)
        return answer({"data": {}})

    def _check_section(self, section: Thing) -> None:
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

    async def list(self, request: web.Request) -> web.Response:
        """List the objects of a kind that another object has."""
        below = BELOW[request.match_info["kind"], request.match_info["below"]]
        return self._listed(request, below(self._state, thing_of(self._state, request)))

    async def search(self, request: web.Request) -> web.Response:
        """Refuse to search tasks, which Asana does for paying workspaces only."""
        raise Refused(402, "Payment Required")

    def _listed(self, request: web.Request, things: Sequence[Thing]) -> web.Response:
        names = named_fields(request)
        return self._pages.answer(
            request, things, lambda each: choose(each.record, names or list(each.compact))
        )


def thing_of(state: State, request: web.Request, resource_type: str | None = None) -> Thing:
    """Return the object that a call's path names; users may be called ``me`` or by their address.

    Raises Refused when there is none of this type, which the path says if it is not given.
    """
    gid = request.match_info["gid"]
    kind = resource_type or KINDS[request.match_info["kind"]]
    if kind == "user":
        return user_of(state, "user", gid)
    thing = state.find(gid, kind)
    if thing is None:
        raise unknown(kind, gid)
    return thing
