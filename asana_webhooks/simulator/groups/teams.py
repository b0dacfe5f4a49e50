"""Teams.

Source: https://developers.asana.com/reference/teams
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, lists, shows
from ..fields import PERMALINK, html_of
from ..objects import AsanaObject, Field, Kind
from ..user_actions import UserActions
from ..values import one_of, text
from .custom_fields import settings_of
from .users import TEAM_MEMBERSHIP, join
from .workspaces import new_member, remove_member

__all__ = ["KINDS", "OPERATIONS", "TEAM", "add_team"]

MANAGED = (
    "edit_team_name_or_description_access_level",
    "edit_team_visibility_or_trash_team_access_level",
    "member_invite_management_access_level",
    "guest_invite_management_access_level",
    "join_request_management_access_level",
    "team_member_removal_access_level",
)

TEAM = Kind(
    name="team",
    fields={
        "name": Field("", text),
        "description": Field("", text, opt_in=True),
        "html_description": html_of("description"),
        "organization": Field(of="workspace"),
        **PERMALINK,
        "visibility": Field("public", one_of("secret", "request_to_join", "public")),
        **{
            name: Field("all_team_members", one_of("all_team_members", "only_team_admins"))
            for name in MANAGED
        },
        "team_content_management_access_level": Field(
            "no_restriction", one_of("no_restriction", "only_team_admins")
        ),
        "endorsed": Field(default=False),
        "custom_field_settings": Field(show=settings_of, of="custom_field_setting"),
    },
)


def add_team(actions: UserActions, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new team, of which the user is a member."""
    team = actions.new(TEAM, {"organization": actions.state.workspace} | dict(fields))
    join(actions, team, actions.state.user)
    return team


async def create(call: ApiCall) -> web.Response:
    """Create a team in the organization."""
    call.linked("organization", "workspace")
    call.text("name")
    return call.one(add_team(call.actions, call.fields(TEAM)), status=201)


async def add_member(call: ApiCall) -> web.Response:
    """Make a user a member of the team, and show the membership."""
    team, user = call.thing, new_member(call)
    memberships = team.parts_of("team_membership")
    return call.one(next(each for each in memberships if each.fields["user"] is user))


def of_workspace(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the teams of a workspace."""
    workspace = call.thing
    return [each for each in call.state.all("team") if each.fields["organization"] is workspace]


def of_user(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the teams that a user is a member of."""
    user = call.thing
    call.link("organization", "workspace")
    memberships = call.state.all("team_membership")
    return [each.fields["team"] for each in memberships if each.fields["user"] is user]


KINDS = (TEAM,)
OPERATIONS = {
    "createTeam": Operation(create, (*TEAM.writable, "organization"), TEAM),
    "getTeam": shows(TEAM),
    "updateTeam": changes(TEAM),
    "getTeamsForWorkspace": lists(TEAM, of_workspace),
    "getTeamsForUser": lists(TEAM, of_user, "organization"),
    "addUserForTeam": Operation(add_member, ["user"], TEAM_MEMBERSHIP),
    "removeUserForTeam": Operation(remove_member, ["user"]),
}
