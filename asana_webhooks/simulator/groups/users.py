"""Users: their records, their memberships of teams and workspaces.

Source: https://developers.asana.com/reference/users
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..access import is_member, members
from ..call import ApiCall
from ..crud import changes, lists, shows
from ..objects import ABSENT, AsanaObject, Field, Kind
from ..user_actions import UserActions
from ..values import text

__all__ = ["KINDS", "OPERATIONS", "USER", "add_user", "join", "leave", "remove_user"]

USER = Kind(
    name="user",
    fields={
        "name": Field("", text),
        "email": Field(""),
        "photo": Field(),
        "workspaces": Field([], of="workspace"),
        "custom_fields": Field([], of="custom_field"),
    },
)
TEAM_MEMBERSHIP = Kind(
    name="team_membership",
    compact=("user", "team", "is_guest", "is_limited_access", "is_admin"),
    fields={
        "user": Field(of="user"),
        "team": Field(of="team"),
        "is_guest": Field(default=False),
        "is_limited_access": Field(default=False),
        "is_admin": Field(default=False),
    },
)
WORKSPACE_MEMBERSHIP = Kind(
    name="workspace_membership",
    compact=("user", "workspace"),
    fields={
        "user": Field(of="user"),
        "workspace": Field(of="workspace"),
        "user_task_list": Field(ABSENT),
        "is_active": Field(default=True),
        "is_admin": Field(default=False),
        "is_guest": Field(default=False),
        "is_view_only": Field(default=False),
        "vacation_dates": Field(),
        "created_at": Field(),
    },
)
MEMBERSHIPS = {"team": TEAM_MEMBERSHIP, "workspace": WORKSPACE_MEMBERSHIP}


def address(name: str) -> str:
    """Return the address that a user of this name has."""
    return f"{name.partition(' ')[0].lower()}@example.com"


def add_user(actions: UserActions, name: str, email: str | None = None) -> AsanaObject:
    """Return a new user of the workspace; the address is made from the name if None."""
    state = actions.state
    gid, workspace = state.new_gid(), state.workspace
    known = {each.fields["email"] for each in state.all("user")}
    if email is None:
        email = address(name)
        if email in known:
            email = address(name).replace("@", f".{gid}@")
    fields = {"name": name, "email": email, "workspaces": [workspace]}
    user = state.new(USER, fields, gid=gid)
    join(actions, workspace, user)
    return user


def remove_user(actions: UserActions, user: AsanaObject) -> None:
    """Have a user leave everything and be no more; the user's tokens end with it."""
    for kind in MEMBERSHIPS:
        for each in actions.state.all(f"{kind}_membership"):
            if each.fields["user"] is user:
                leave(actions, each.fields[kind], user)
    user.deleted = True


def join(actions: UserActions, group: AsanaObject, user: AsanaObject) -> None:
    """Make a user a member of a team or a workspace."""
    if is_member(group, user):
        return
    kind = group.resource_type
    fields: dict[str, Any] = {"user": user, kind: group}
    if kind == "workspace":
        fields["created_at"] = actions.now()
    actions.new(MEMBERSHIPS[kind], fields, group, owner=group)


def leave(actions: UserActions, group: AsanaObject, user: AsanaObject) -> None:
    """End a user's membership of a team or a workspace, if there is one.

    Asana is said to delete the webhooks of a user who leaves the workspace.
    """
    for each in group.parts_of(f"{group.resource_type}_membership"):
        if each.fields["user"] is user:
            each.deleted = True
            actions.publish(actions.event("removed", each, parent=group))
    if group.resource_type == "workspace":
        for webhook in [*actions.state.webhooks.values()]:
            if webhook.user == user.gid:
                actions.state.delete(webhook)


def every(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the users, those of a workspace or a team if asked."""
    groups = [call.link(name) for name in ("workspace", "team")]
    asked = [members(group) for group in groups if group]
    return [user for user in call.state.all("user") if all(user in each for each in asked)]


def of_group(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the members of the team or workspace that the path names."""
    return members(call.thing)


KINDS = (USER, TEAM_MEMBERSHIP, WORKSPACE_MEMBERSHIP)
OPERATIONS = {
    "getUsers": lists(USER, every, "workspace", "team"),
    "getUser": shows(USER),
    "updateUser": changes(USER),
    "getUsersForTeam": lists(USER, of_group),
    "getUsersForWorkspace": lists(USER, of_group),
    "getUserForWorkspace": shows(USER),
    "updateUserForWorkspace": changes(USER),
}
