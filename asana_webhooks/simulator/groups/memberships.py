"""Memberships of projects and portfolios, and lists of those of teams and workspaces.

Who is a member of a project or a portfolio stands in its ``members``; the membership is made when
somebody asks for it. No event tells of it but that of the list.

Source: https://developers.asana.com/reference/memberships
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aiohttp import web

from ..access import check_access
from ..call import ApiCall, Operation
from ..crud import lists, shows
from ..objects import AsanaObject, Field, Kind, choose
from ..responses import Refused, unknown
from ..state import State
from ..values import one_of, user_of
from .users import TEAM_MEMBERSHIP, WORKSPACE_MEMBERSHIP

__all__ = ["KINDS", "OPERATIONS"]

LEVELS = one_of("admin", "editor", "commenter", "viewer")
MEMBERSHIP = Kind(
    name="membership",
    compact=("parent", "member", "access_level"),
    subtype="project_membership",
    fields={"parent": Field(), "member": Field(), "access_level": Field("editor", LEVELS)},
)
"""The record of what is a member of anything, as ``/memberships`` shows it."""

PROJECT_MEMBERSHIP = Kind(
    name="project_membership",
    compact=("parent", "member", "access_level"),
    fields={
        **MEMBERSHIP.fields,
        "user": Field(show=lambda each: each.fields["member"], of="user"),
        "project": Field(show=lambda each: each.fields["parent"], of="project"),
        "write_access": Field("full_write"),
    },
)
PORTFOLIO_MEMBERSHIP = Kind(
    name="portfolio_membership",
    compact=("portfolio", "user", "access_level"),
    fields={
        "user": Field(show=lambda each: each.fields["member"], of="user"),
        "portfolio": Field(show=lambda each: each.fields["parent"], of="portfolio"),
        "access_level": Field("editor", LEVELS),
    },
)
OF = {"project": PROJECT_MEMBERSHIP, "portfolio": PORTFOLIO_MEMBERSHIP}
"""The records of memberships by what one is a member of."""


def membership_of(state: State, parent: AsanaObject, user: AsanaObject) -> AsanaObject:
    """Return the membership of a member of a project or a portfolio."""
    kind = OF[parent.resource_type]
    known = (each for each in parent.parts_of(kind.name) if each.fields["member"] is user)
    fields = {"parent": parent, "member": user}
    return next(known, None) or state.new(kind, fields, owner=parent)


def memberships_of(state: State, parent: AsanaObject) -> list[AsanaObject]:
    """Return the memberships of all members of a project or a portfolio."""
    return [membership_of(state, parent, user) for user in parent.fields["members"]]


def _parent(call: ApiCall) -> AsanaObject:
    gid = call.text("parent")
    for kind in OF:
        if call.state.find(gid, kind):
            return call.linked("parent", kind)
    if call.described.method == "GET":
        raise unknown("parent", gid)
    raise Refused(400, f"parent: Unknown object: {gid}")


def _membership(call: ApiCall) -> AsanaObject:
    gid = call.gids["membership_gid"]
    for kind in OF.values():
        thing = call.state.find(gid, kind.name)
        if thing is not None and thing.fields["member"] in thing.fields["parent"].fields["members"]:
            return check_access(call.state, "membership", thing)
    raise unknown("membership", gid)


async def create(call: ApiCall) -> web.Response:
    """Make a user a member of a project or a portfolio."""
    parent, user = _parent(call), user_of(call.state, "member", call.text("member"))
    call.actions.link(parent, "members", user)
    membership = membership_of(call.state, parent, user)
    membership.keep(call.fields(MEMBERSHIP))
    return _shown(call, membership, status=201)


async def show(call: ApiCall) -> web.Response:
    """Show a membership."""
    return _shown(call, _membership(call))


async def change(call: ApiCall) -> web.Response:
    """Change what a member may do, and show the membership."""
    membership = _membership(call)
    membership.keep(call.fields(MEMBERSHIP))
    return _shown(call, membership)


async def delete(call: ApiCall) -> web.Response:
    """End a membership."""
    membership = _membership(call)
    call.actions.unlink(membership.fields["parent"], "members", membership.fields["member"])
    return call.done()


def _shown(call: ApiCall, membership: AsanaObject, *, status: int = 200) -> web.Response:
    return call.one(_record(membership), status=status)


def _record(membership: AsanaObject) -> dict[str, Any]:
    return {
        "gid": membership.gid,
        "resource_type": "membership",
        "resource_subtype": membership.resource_type,
        **{name: membership.fields[name] for name in MEMBERSHIP.fields},
    }


async def list_(call: ApiCall) -> web.Response:
    """List the memberships of a project or a portfolio, of one member if asked."""
    name = call.given.get("member")
    member = user_of(call.state, "member", name) if name else None
    found = memberships_of(call.state, _parent(call))
    chosen = [each for each in found if member in (None, each.fields["member"])]
    return call.service.pages.answer(
        call.url, chosen, lambda each: choose(_record(each), call.names or _record(each))
    )


def of_thing(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the memberships of the project or portfolio of the path, of a user if asked."""
    name = call.given.get("user")
    user = user_of(call.state, "user", name) if name else None
    found = memberships_of(call.state, call.thing)
    return [each for each in found if user in (None, each.fields["member"])]


def of_group(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the memberships of the team or workspace that the path names."""
    group, name = call.thing, call.given.get("user")
    user = user_of(call.state, "user", name) if name else None
    found = group.parts_of(f"{group.resource_type}_membership")
    return [each for each in found if user in (None, each.fields["user"])]


def of_teams(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the memberships of a team, or of a user in all teams."""
    team, name = call.link("team"), call.given.get("user")
    call.link("workspace")
    if team is None and name is None:
        raise Refused(400, "team: Missing input")
    user = user_of(call.state, "user", name) if name else None
    return [
        each
        for each in call.state.all("team_membership")
        if team in (None, each.fields["team"]) and user in (None, each.fields["user"])
    ]


def of_user(kind: str) -> Operation:
    """Return the operation that lists the memberships of a user in teams or workspaces."""

    def found(call: ApiCall) -> Iterable[AsanaObject]:
        user = call.thing
        return [each for each in call.state.all(kind) if each.fields["user"] is user]

    shown = {each.name: each for each in (TEAM_MEMBERSHIP, WORKSPACE_MEMBERSHIP)}[kind]
    return lists(shown, found, *(("workspace",) if kind == "team_membership" else ()))


KINDS = (MEMBERSHIP, PROJECT_MEMBERSHIP, PORTFOLIO_MEMBERSHIP)
OPERATIONS = {
    "getMemberships": Operation(list_, ["parent", "member"], MEMBERSHIP),
    "createMembership": Operation(create, ["parent", "member", "access_level"], MEMBERSHIP),
    "getMembership": Operation(show, shows=MEMBERSHIP),
    "updateMembership": Operation(change, ["access_level"], MEMBERSHIP),
    "deleteMembership": Operation(delete),
    "getProjectMembership": shows(PROJECT_MEMBERSHIP),
    "getProjectMembershipsForProject": lists(PROJECT_MEMBERSHIP, of_thing, "user"),
    "getPortfolioMembership": shows(PORTFOLIO_MEMBERSHIP),
    "getPortfolioMembershipsForPortfolio": lists(PORTFOLIO_MEMBERSHIP, of_thing, "user"),
    "getTeamMembership": shows(TEAM_MEMBERSHIP),
    "getTeamMemberships": lists(TEAM_MEMBERSHIP, of_teams, "team", "user", "workspace"),
    "getTeamMembershipsForTeam": lists(TEAM_MEMBERSHIP, of_group),
    "getTeamMembershipsForUser": of_user("team_membership"),
    "getWorkspaceMembership": shows(WORKSPACE_MEMBERSHIP),
    "getWorkspaceMembershipsForUser": of_user("workspace_membership"),
    "getWorkspaceMembershipsForWorkspace": lists(WORKSPACE_MEMBERSHIP, of_group, "user"),
}
