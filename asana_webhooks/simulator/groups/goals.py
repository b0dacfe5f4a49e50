"""Goals, without their metrics, time periods and relationships.

Source: https://developers.asana.com/reference/goals
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, deletes, links, lists, shows
from ..fields import LIKES, html_of
from ..objects import AsanaObject, Field, Kind
from ..values import DATES, flag, link_to, one_of, or_null, text, truth, user
from .custom_fields import settings_of

__all__ = ["GOAL", "KINDS", "OPERATIONS"]

STATES = ("green", "yellow", "red", "missed", "achieved", "partial", "dropped")
LIKED = ("liked", "likes", "num_likes")

GOAL = Kind(
    name="goal",
    compact=("name", "owner"),
    fields={
        "name": Field("", text),
        "notes": Field("", text),
        "html_notes": html_of("notes"),
        **{name: Field(None, check) for name, check in DATES.items()},
        "is_workspace_level": Field(default=True, write=truth),
        **{name: LIKES[name] for name in LIKED},
        "team": Field(None, or_null(link_to("team")), of="team"),
        "workspace": Field(of="workspace"),
        "followers": Field([], of="user"),
        "time_period": Field(),
        "metric": Field(),
        "owner": Field(None, or_null(user), of="user"),
        "current_status_update": Field(of="status_update"),
        "status": Field(None, or_null(one_of(*STATES))),
        "privacy_setting": Field("public_to_workspace"),
        "default_access_level": Field("editor"),
        "custom_fields": Field([], of="custom_field"),
        "custom_field_settings": Field(show=settings_of, of="custom_field_setting"),
    },
)


async def create(call: ApiCall) -> web.Response:
    """Create a goal in the workspace, of a team if one is named; its user follows it."""
    workspace = call.linked("workspace")
    call.text("name")
    me = call.state.user
    usual = {"workspace": workspace, "owner": me, "followers": [me]}
    goal = call.actions.new(GOAL, usual | call.fields(GOAL), workspace)
    return call.one(goal, status=201)


def every(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the goals, of a workspace or a team if asked."""
    found = call.state.all("goal")
    for name in ("workspace", "team"):
        place = call.link(name)
        found = [each for each in found if place in (None, each.fields[name])]
    if "is_workspace_level" in call.given:
        level = flag("is_workspace_level", call.given["is_workspace_level"])
        found = [each for each in found if each.fields["is_workspace_level"] is level]
    return found


KINDS = (GOAL,)
CREATED = tuple(name for name in GOAL.writable if name != "status")
OPERATIONS = {
    "getGoals": lists(GOAL, every, "workspace", "team", "is_workspace_level"),
    "createGoal": Operation(create, (*CREATED, "workspace"), GOAL),
    "getGoal": shows(GOAL),
    "updateGoal": changes(GOAL),
    "deleteGoal": deletes(),
    "addFollowers": links(GOAL, "followers", "followers", add=True, users=True),
    "removeFollowers": links(GOAL, "followers", "followers", add=False, users=True),
}
