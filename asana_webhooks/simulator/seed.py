"""The objects that this Asana starts with: a workspace, its people, a team, a project, tasks."""

from __future__ import annotations

from .objects import AsanaObject, new_membership, new_project, new_task, new_user

__all__ = ["PROJECT", "USER", "WORKSPACE", "seed_objects"]

WORKSPACE, USER, PROJECT = "1331", "1201", "8675309"

BUILT = "2026-01-05T09:00:00.000Z"
TASKS = {
    "1301": "The login forgets its visitors",
    "1302": "Umlauts in file names",
    "1303": "The export takes an hour",
}


def seed_objects() -> dict[str, AsanaObject]:
    """Return the first objects by their gids, which are the same in every Asana of this kind."""
    workspace = AsanaObject(
        gid=WORKSPACE,
        resource_type="workspace",
        fields={"name": "example.com", "is_organization": True, "email_domains": ["example.com"]},
    )
    users = [new_user(USER, "Robin Example", workspace), new_user("1202", "Sam Example", workspace)]
    team = AsanaObject(
        gid="1350",
        resource_type="team",
        fields={"name": "Engineering", "description": "", "organization": workspace},
    )
    memberships = [
        new_membership("1360", team, users[0]),
        new_membership("1361", workspace, users[0]),
        new_membership("1362", workspace, users[1]),
    ]
    project = new_project(
        PROJECT, workspace, BUILT, {"name": "Bugs", "owner": users[0], "team": team}
    )
    section = AsanaObject(
        gid="1400",
        resource_type="section",
        owner=project,
        fields={"name": "Untitled section", "project": project, "created_at": BUILT},
    )
    tasks = [new_task(gid, workspace, BUILT, {"name": name}) for gid, name in TASKS.items()]
    for task in tasks:
        task.fields["memberships"].append({"project": project, "section": section})
    things = [workspace, *users, team, *memberships, project, section, *tasks]
    return {thing.gid: thing for thing in things}
