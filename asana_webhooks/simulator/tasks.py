"""Calls that create tasks and comments, and put tasks somewhere.

Sources: https://developers.asana.com/reference/tasks, https://developers.asana.com/reference/stories
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .access import check_access
from .crud import thing_of
from .input import input_fields, link, links, required_text, users_of, writable
from .objects import AsanaObject
from .responses import Refused, answer, single, unknown
from .state import State
from .user_actions import UserActions

__all__ = ["TaskCalls"]


class TaskCalls:
    """Has tasks and comments created, and tasks moved, tagged and followed."""

    def __init__(self, state: State, actions: UserActions) -> None:
        self._state = state
        self._actions = actions

    def routes(self) -> list[web.RouteDef]:
        """Return the calls by method and path below the API."""
        return [
            web.post("/tasks", self.create),
            web.post("/tasks/{gid}/subtasks", self.create_subtask),
            web.post("/tasks/{gid}/stories", self.comment),
            web.post("/tasks/{gid}/setParent", self.set_parent),
            web.post("/tasks/{gid}/addProject", self.add_project),
            web.post("/tasks/{gid}/removeProject", self.remove_project),
            web.post("/tasks/{gid}/{action:addTag|removeTag}", self.tag),
            web.post("/tasks/{gid}/{action:addFollowers|removeFollowers}", self.follow),
            web.post("/sections/{gid}/addTask", self.add_to_section),
        ]

    async def create(self, request: web.Request) -> web.Response:
        """Create a task."""
        given = await input_fields(request)
        parent = link(self._state, given, "parent", "task")
        if not (parent or any(map(given.get, ("workspace", "projects", "memberships")))):
            raise Refused(400, "You should specify one of workspace, parent, projects")
        link(self._state, given, "workspace")
        return self._create(request, given, parent)

    async def create_subtask(self, request: web.Request) -> web.Response:
        """Create a task below another."""
        return self._create(request, await input_fields(request), self._task(request))

    def _create(
        self, request: web.Request, given: Mapping[str, Any], parent: AsanaObject | None
    ) -> web.Response:
        followers = users_of(self._state, given, "followers")
        task = self._actions.add_task(
            writable(self._state, "task", given) | {"followers": followers},
            places=self._places(given),
            parent=parent,
            tags=links(self._state, given, "tags", "tag"),
        )
        return single(request, task.record, status=201)

    async def comment(self, request: web.Request) -> web.Response:
        """Comment on a task."""
        task, given = self._task(request), await input_fields(request)
        required_text(given, "text")
        story = self._actions.add_story(task, writable(self._state, "story", given))
        return single(request, story.record, status=201)

    async def set_parent(self, request: web.Request) -> web.Response:
        """Make a task a subtask of another, or of none if the parent is null, and show it."""
        task, given = self._task(request), await input_fields(request)
        if "parent" not in given:
            raise Refused(400, "parent: Missing input")
        parent = above = link(self._state, given, "parent", "task")
        while above is not None:
            if above is task:
                raise Refused(400, "parent: A task cannot be below itself")
            above = above.owner
        self._actions.move_below(task, parent)
        return single(request, task.record)

    async def add_project(self, request: web.Request) -> web.Response:
        """Put a task into a project, and into a section of it if one is named."""
        task, given = self._task(request), await input_fields(request)
        self._actions.put(task, *self._place(given))
        return answer({"data": {}})

    async def remove_project(self, request: web.Request) -> web.Response:
        """Take a task out of a project."""
        task, given = self._task(request), await input_fields(request)
        self._actions.take(task, self._linked(given, "project"))
        return answer({"data": {}})

    async def add_to_section(self, request: web.Request) -> web.Response:
        """Put a task into a section, and so into its project."""
        section = thing_of(self._state, request, "section")
        task = self._linked(await input_fields(request), "task")
        self._actions.put(task, section.fields["project"], section)
        return answer({"data": {}})

    async def tag(self, request: web.Request) -> web.Response:
        """Add a tag to a task, or remove it."""
        task, given = self._task(request), await input_fields(request)
        adding = request.match_info["action"] == "addTag"
        act = self._actions.link if adding else self._actions.unlink
        act(task, "tags", self._linked(given, "tag"))
        return answer({"data": {}})

    async def follow(self, request: web.Request) -> web.Response:
        """Add followers to a task, or remove them, and show the task."""
        task, given = self._task(request), await input_fields(request)
        followers = users_of(self._state, given, "followers")
        if not followers:
            raise Refused(400, "followers: Missing input")
        adding = request.match_info["action"] == "addFollowers"
        act = self._actions.link if adding else self._actions.unlink
        for user in followers:
            act(task, "followers", user)
        return single(request, task.record)

    def _task(self, request: web.Request) -> AsanaObject:
        return thing_of(self._state, request, "task")

    def _places(self, given: Mapping[str, Any]) -> dict[AsanaObject, AsanaObject | None]:
        memberships = given.get("memberships") or []
        if not isinstance(memberships, list) or not all(isinstance(m, dict) for m in memberships):
            raise Refused(400, "memberships: Value is not an array of objects")
        projects = links(self._state, given, "projects", "project")
        return dict.fromkeys(projects) | dict(map(self._place, memberships))

    def _place(self, given: Mapping[str, Any]) -> tuple[AsanaObject, AsanaObject | None]:
        project, section = self._linked(given, "project"), link(self._state, given, "section")
        if section is not None and section.owner is not project:
            raise Refused(400, "section: The section is not in the project")
        return project, section

    def _linked(self, given: Mapping[str, Any], name: str) -> AsanaObject:
        gid = required_text(given, name)
        thing = self._state.find(gid, name)
        if thing is None:
            raise unknown(name, gid)
        return check_access(self._state, name, thing)
