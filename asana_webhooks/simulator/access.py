"""Access: who is a member of what, and which objects a user may see.

Only projects can be private here. What is in one is seen by whoever sees it; a task also by its
assignee and its followers, and by everybody when it is in no project and below no task.

Source: https://help.asana.com/s/article/project-permissions
"""

from __future__ import annotations

from .objects import AsanaObject
from .responses import Refused
from .state import State

__all__ = ["PRIVACY", "check_access", "is_member", "may_see", "members"]

PRIVACY = ("public_to_workspace", "private_to_team", "private")
"""The values of a project's ``privacy_setting``."""


def members(group: AsanaObject) -> list[AsanaObject]:
    """Return the users who are members of a team or a workspace."""
    return [each.fields["user"] for each in group.parts_of(f"{group.resource_type}_membership")]


def is_member(group: AsanaObject, user: AsanaObject) -> bool:
    """Return whether a user is a member of a team or a workspace."""
    return user in members(group)


def may_see(user: AsanaObject, thing: AsanaObject) -> bool:
    """Return whether a user has access to an object, be it deleted or not."""
    if thing.resource_type == "project":
        return _sees_project(user, thing)
    fields = thing.fields
    if thing.resource_type == "task" and user in (fields["assignee"], *fields["followers"]):
        return True
    above = [each["project"] for each in fields.get("memberships", ())]
    above += [thing.owner] if thing.owner else []
    return not above or any(may_see(user, each) for each in above)


def _sees_project(user: AsanaObject, project: AsanaObject) -> bool:
    privacy, team = project.fields["privacy_setting"], project.fields["team"]
    if privacy == "public_to_workspace" or user in project.fields["members"]:
        return True
    return privacy == "private_to_team" and team is not None and is_member(team, user)


def check_access(state: State, what: str, thing: AsanaObject) -> AsanaObject:
    """Return the object if the user who acts may see it; raises Refused with 403 if not.

    How Asana words the refusal is not documented.
    """
    if not may_see(state.user, thing):
        raise Refused(403, f"{what}: You do not have access to this object: {thing.gid}")
    return thing
