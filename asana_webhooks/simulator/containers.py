"""Calls that create what tasks are in: projects, sections, tags; and that change who is where.

Sources: https://developers.asana.com/reference/projects,
https://developers.asana.com/reference/teams
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .crud import thing_of
from .input import input_fields, link, required_text, user_of, users_of, writable
from .objects import AsanaObject
from .responses import Refused, answer, single
from .state import State
from .user_actions import UserActions

__all__ = ["ContainerCalls"]


class ContainerCalls:
    """Has places created, and users added to teams and the workspace."""

    def __init__(self, state: State, actions: UserActions) -> None:
        self._state = state
        self._actions = actions

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.post("/projects", self.create_project),
            web.post("/{kind:workspaces|teams}/{gid}/projects", self.create_project),
            web.post("/projects/{gid}/sections", self.create_section),
            web.post("/projects/{gid}/{action:addMembers|removeMembers}", self.change_members),
            web.post("/portfolios", self.create_portfolio),
            web.post("/portfolios/{gid}/{action:addItem|removeItem}", self.change_items),
            web.post("/tags", self.create_tag),
            web.post("/{kind:workspaces}/{gid}/tags", self.create_tag),
            web.post("/teams", self.create_team),
            web.post("/{kind:workspaces|teams}/{gid}/addUser", self.add_user),
            web.post("/{kind:workspaces|teams}/{gid}/removeUser", self.remove_user),
        ]

    async def create_project(self, request: web.Request) -> web.Response:
        """Create a project in the workspace, or in a team of it."""
        given = await input_fields(request)
        place = self._place(request, given)
        team = link(self._state, given, "team")
        if place.resource_type == "team":
            team = place
        fields = writable(self._state, "project", given) | {"team": team}
        return single(request, self._actions.add_project(fields).record, status=201)

    async def change_members(self, request: web.Request) -> web.Response:
        """Add users to a project, or remove them, and show the project."""
        project, given = thing_of(self._state, request, "project"), await input_fields(request)
        users = users_of(self._state, given, "members")
        if not users:
            raise Refused(400, "members: Missing input")
        adding = request.match_info["action"] == "addMembers"
        act = self._actions.link if adding else self._actions.unlink
        for user in users:
            act(project, "members", user)
        return single(request, project.record)

    async def create_portfolio(self, request: web.Request) -> web.Response:
        """Create a portfolio in the workspace."""
        given = await input_fields(request)
        if link(self._state, given, "workspace") is None:
            raise Refused(400, "workspace: Missing input")
        required_text(given, "name")
        portfolio = self._actions.add_portfolio(writable(self._state, "portfolio", given))
        return single(request, portfolio.record, status=201)

    async def change_items(self, request: web.Request) -> web.Response:
        """Put a project into a portfolio, or take it out."""
        portfolio = thing_of(self._state, request, "portfolio")
        item = link(self._state, await input_fields(request), "item", "project")
        if item is None:
            raise Refused(400, "item: Missing input")
        adding = request.match_info["action"] == "addItem"
        act = self._actions.put_into_portfolio if adding else self._actions.take_from_portfolio
        act(portfolio, item)
        return answer({"data": {}})

    async def create_section(self, request: web.Request) -> web.Response:
        """Create a section in a project."""
        project, given = thing_of(self._state, request, "project"), await input_fields(request)
        required_text(given, "name")
        section = self._actions.add_section(project, writable(self._state, "section", given))
        return single(request, section.record, status=201)

    async def create_tag(self, request: web.Request) -> web.Response:
        """Create a tag."""
        given = await input_fields(request)
        self._place(request, given)
        tag = self._actions.add_tag(writable(self._state, "tag", given))
        return single(request, tag.record, status=201)

    async def create_team(self, request: web.Request) -> web.Response:
        """Create a team."""
        given = await input_fields(request)
        if link(self._state, given, "organization", "workspace") is None:
            raise Refused(400, "organization: Missing input")
        required_text(given, "name")
        team = self._actions.add_team(writable(self._state, "team", given))
        return single(request, team.record, status=201)

    async def add_user(self, request: web.Request) -> web.Response:
        """Make a user a member; an address that nobody has is a new user's."""
        group, given = thing_of(self._state, request), await input_fields(request)
        name = required_text(given, "user")
        known = any(each.fields["email"] == name for each in self._state.all("user"))
        user = (
            self._actions.add_user(name.partition("@")[0], name)
            if "@" in name and not known
            else user_of(self._state, "user", name)
        )
        self._actions.join(group, user)
        return single(request, user.record)

    async def remove_user(self, request: web.Request) -> web.Response:
        """End a user's membership."""
        group, given = thing_of(self._state, request), await input_fields(request)
        self._actions.leave(group, user_of(self._state, "user", required_text(given, "user")))
        return answer({"data": {}})

    def _place(self, request: web.Request, given: Mapping[str, Any]) -> AsanaObject:
        if "gid" in request.match_info:
            return thing_of(self._state, request)
        place = link(self._state, given, "workspace") or link(self._state, given, "team")
        if place is None:
            raise Refused(400, "workspace: Missing input")
        return place
