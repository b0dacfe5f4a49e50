"""Workspaces, and who is in them.

Source: https://developers.asana.com/reference/workspaces
"""

from __future__ import annotations

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, lists, shows
from ..objects import AsanaObject, Field, Kind
from ..values import text, user_of
from .users import USER, add_user, join, leave

__all__ = ["KINDS", "OPERATIONS", "WORKSPACE"]

WORKSPACE = Kind(
    name="workspace",
    fields={
        "name": Field("", text),
        "email_domains": Field([]),
        "is_organization": Field(default=True),
    },
)


def new_member(call: ApiCall) -> AsanaObject:
    """Return the user that a call makes a member; an address that nobody has is a new user's."""
    group, name = call.thing, call.text("user")
    known = any(each.fields["email"] == name for each in call.state.all("user"))
    if "@" in name and not known:
        user = add_user(call.actions, name.partition("@")[0], name)
    else:
        user = user_of(call.state, "user", name)
    join(call.actions, group, user)
    return user


async def add_member(call: ApiCall) -> web.Response:
    """Make a user a member of the workspace, and show the user."""
    return call.one(new_member(call), names=("gid", "resource_type", "name", "email", "photo"))


async def remove_member(call: ApiCall) -> web.Response:
    """End a user's membership."""
    leave(call.actions, call.thing, user_of(call.state, "user", call.text("user")))
    return call.done()


KINDS = (WORKSPACE,)
OPERATIONS = {
    "getWorkspaces": lists(WORKSPACE, lambda call: call.state.all("workspace")),
    "getWorkspace": shows(WORKSPACE),
    "updateWorkspace": changes(WORKSPACE),
    "addUserForWorkspace": Operation(add_member, ["user"], USER),
    "removeUserForWorkspace": Operation(remove_member, ["user"]),
}
