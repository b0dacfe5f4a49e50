"""Descriptions of what a local Asana holds, as dicts or files of JSON.

::

    {
        "users": [{"name": "Kim", "email": "kim@x.org", "token": "kims-token"}],
        "teams": [{"name": "Design", "members": ["Kim"]}],
        "tags": [{"name": "Urgent"}],
        "projects": [
            {
                "name": "Launch",
                "team": "Design",
                "private": true,
                "members": ["Kim"],
                "sections": ["To do", "Done"],
                "tasks": [
                    {
                        "name": "Print",
                        "section": "Done",
                        "assignee": "Kim",
                        "tags": ["Urgent"],
                        "fields": {"due_on": "2026-12-24", "completed": true},
                        "subtasks": [{"name": "Paper"}],
                        "comments": ["Which paper?"],
                    }
                ],
            }
        ],
        "portfolios": [{"name": "All", "projects": ["Launch"]}],
    }

Everything but a name may be left out. Objects are named by their names, or by the gids of what is
there already. ``fields`` are those that a call may write, in the same values.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .groups.portfolios import add_portfolio
from .groups.portfolios import put as put_into_portfolio
from .groups.projects import PROJECT, add_project
from .groups.sections import add_section
from .groups.stories import add_comment
from .groups.tags import add_tag
from .groups.tasks import TASK, add_task
from .groups.teams import add_team
from .groups.users import add_user, join
from .objects import AsanaObject, Kind
from .responses import Refused
from .user_actions import UserActions

__all__ = ["plant", "read"]


class _Described(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    name: str


class _User(_Described):
    email: str | None = None
    token: str | None = None


class _Team(_Described):
    members: list[str] = []


class _Tag(_Described):
    color: str | None = None


class _Task(_Described):
    section: str | None = None
    assignee: str | None = None
    tags: list[str] = []
    fields: dict[str, Any] = {}
    subtasks: list[_Task] = []
    comments: list[str] = []


class _Project(_Described):
    team: str | None = None
    private: bool = False
    members: list[str] = []
    sections: list[str] = []
    tasks: list[_Task] = []
    fields: dict[str, Any] = {}


class _Portfolio(_Described):
    projects: list[str] = []


class World(msgspec.Struct, forbid_unknown_fields=True):
    """A description of objects to add."""

    users: list[_User] = []
    teams: list[_Team] = []
    tags: list[_Tag] = []
    projects: list[_Project] = []
    portfolios: list[_Portfolio] = []


def read(world: Mapping[str, Any] | str | os.PathLike[str]) -> World:
    """Return a description that is given as a mapping, or as the path of a file of JSON.

    Raises ValueError when it is none, OSError when the file cannot be read.
    """
    try:
        if isinstance(world, Mapping):
            return msgspec.convert(world, World)
        return msgspec.json.decode(Path(world).read_bytes(), type=World)
    except msgspec.MsgspecError as error:
        msg = f"this is no description of a world: {error}"
        raise ValueError(msg) from error


def plant(actions: UserActions, world: World) -> dict[str, str]:
    """Add the objects of a description; return their gids by their names.

    Raises ValueError when something is named that is not there, or a field has another value than
    a call could write; what stands before it is there then.
    """
    gardener = _Gardener(actions)
    try:
        gardener.plant(world)
    except Refused as refusal:
        msg = f"this cannot be added: {refusal.args[1]}"
        raise ValueError(msg) from refusal
    return {name: thing.gid for (_, name), thing in gardener.made.items()}


class _Gardener:
    """Adds objects, and finds them by their names."""

    def __init__(self, actions: UserActions) -> None:
        self._actions = actions
        self._state = actions.state
        self.made: dict[tuple[str, str], AsanaObject] = {}

    def plant(self, world: World) -> None:
        """Add all that is described, in an order in which what is named is there."""
        for user in world.users:
            thing = self._keep(add_user(self._actions, user.name, user.email))
            if user.token:
                self._state.tokens[user.token] = thing
        for team in world.teams:
            thing = self._keep(add_team(self._actions, {"name": team.name}))
            for name in team.members:
                join(self._actions, thing, self._find("user", name))
        for tag in world.tags:
            self._keep(add_tag(self._actions, {"name": tag.name, "color": tag.color}))
        for project in world.projects:
            self._add_project(project)
        for portfolio in world.portfolios:
            thing = self._keep(add_portfolio(self._actions, {"name": portfolio.name}))
            for name in portfolio.projects:
                put_into_portfolio(self._actions, thing, self._find("project", name))

    def _add_project(self, project: _Project) -> None:
        members = [self._state.user, *(self._find("user", name) for name in project.members)]
        fields = {
            **self._fields(PROJECT, project.fields),
            "name": project.name,
            "team": self._find("team", project.team) if project.team else None,
            "members": list(dict.fromkeys(members)),
        }
        if project.private:
            fields["privacy_setting"] = "private"
        thing = self._keep(add_project(self._actions, fields))
        sections = {"": thing.parts_of("section")[0]}
        for place, name in enumerate(project.sections):
            section = sections[""] if place == 0 else add_section(self._actions, thing, {})
            section.fields["name"] = name
            sections[name] = section
        for task in project.tasks:
            if (task.section or "") not in sections:
                msg = f"the project {project.name!r} has no section {task.section!r}"
                raise ValueError(msg)
            self._add_task(task, {thing: sections[task.section or ""]}, None)

    def _add_task(
        self,
        task: _Task,
        places: dict[AsanaObject, AsanaObject | None],
        parent: AsanaObject | None,
    ) -> None:
        fields = {**self._fields(TASK, task.fields), "name": task.name}
        if task.assignee:
            fields["assignee"] = self._find("user", task.assignee)
        tags = [self._find("tag", name) for name in task.tags]
        thing = add_task(self._actions, fields, places=places, parent=parent, tags=tags)
        self._keep(thing)
        for subtask in task.subtasks:
            self._add_task(subtask, {}, thing)
        for comment in task.comments:
            add_comment(self._actions, thing, {"text": comment})

    def _fields(self, kind: Kind, given: Mapping[str, Any]) -> dict[str, Any]:
        unknown = sorted(given.keys() - set(kind.writable))
        if unknown:
            msg = f"a {kind.name} has no field {unknown[0]!r} that can be written"
            raise ValueError(msg)
        checks = ((name, kind.fields[name].write) for name in given)
        return {name: check(self._state, name, given[name]) for name, check in checks if check}

    def _keep(self, thing: AsanaObject) -> AsanaObject:
        self.made.setdefault((thing.resource_type, thing.name), thing)
        return thing

    def _find(self, kind: str, name: str) -> AsanaObject:
        return self.made.get((kind, name)) or self._state.thing(name, kind)
