"""Actions of a user at the local Asana, each of which causes an event.

Each is a call of Asana's API, but for the one that brings a task back: Asana lets users do that,
not programs, so the local Asana has a call of its own for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import click
import httpx

__all__ = ["ACTIONS", "User"]

API, CONTROL = "/api/1.0", "/-/control"
TOKEN = "somebody"  # noqa: S105 - any will do there; not the app's, whose limits are its own


class Refused(click.ClickException):
    """The local Asana refused a call."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        errors = _json(answer).get("errors") or [{}]
        reason = errors[0].get("message", "no reason given")
        super().__init__(f"the local Asana answered {self.status}: {reason}")


class User:
    """Acts in a project of the Asana that ``http`` calls, on a given task or a new one.

    ``seen`` are the gids of what was acted on, by type.
    """

    def __init__(self, http: httpx.Client, *, project: str, task: str | None) -> None:
        self._http = http
        self._task = task
        self.seen = {"project": project}

    @property
    def project(self) -> str:
        """Its gid."""
        return self.seen["project"]

    def task(self) -> str:
        """Return the gid of the given task, or of one that is created in the project now."""
        if self._task is not None:
            self.seen["task"] = self._task
            return self._task
        return self.make("task", "/tasks", name="Triggered", projects=[self.project])

    def make(self, kind: str, path: str, **fields: Any) -> str:
        """Create an object, and return its gid."""
        gid: str = self.call("POST", path, **fields)["gid"]
        self.seen[kind] = gid
        return gid

    def call(self, method: str, path: str, **fields: Any) -> Any:
        """Return the record in the answer to a call of the API.

        Raises Refused, and ClickException when nobody answers or what answers is no Asana.
        """
        body = {"json": {"data": fields}} if fields else {}
        return self._send(method, f"{API}{path}", **body)

    def undelete(self, gid: str) -> None:
        """Bring an object back, which no call of the API does."""
        self._send("POST", f"{CONTROL}/undelete", json={"gid": gid})

    def _send(self, method: str, path: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        try:
            answer = self._http.request(method, path, headers=headers, **body)
        except httpx.HTTPError as error:
            msg = (
                f"no Asana answers at {self._http.base_url}: {type(error).__name__};"
                " start one with: asana-webhooks simulate"
            )
            raise click.ClickException(msg) from error
        if answer.is_success:
            return _json(answer).get("data", {})
        raise Refused(answer)


def _json(answer: httpx.Response) -> Any:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        msg = f"what answered {answer.status_code} is no local Asana; check --base-url"
        raise click.ClickException(msg)
    return body


def _now() -> str:
    return f"Changed at {datetime.now(UTC).isoformat()}"


def _complete(user: User) -> None:
    task = user.task()
    if user.call("GET", f"/tasks/{task}")["completed"]:
        msg = f"task {task} is completed already: nothing would change"
        raise click.ClickException(msg)
    user.call("PUT", f"/tasks/{task}", completed=True)


def _reopen(user: User) -> None:
    task = user.task()
    user.call("PUT", f"/tasks/{task}", completed=True)  # which changes nothing if it is
    user.call("PUT", f"/tasks/{task}", completed=False)


def _change(user: User) -> None:
    user.call("PUT", f"/tasks/{user.task()}", name=_now())


def _assign(user: User) -> None:
    task = user.task()
    assigned = user.call("GET", f"/tasks/{task}")["assignee"] is not None
    user.call("PUT", f"/tasks/{task}", assignee=None if assigned else "me")


def _remove(user: User) -> None:
    user.call("POST", f"/tasks/{user.task()}/removeProject", project=user.project)


def _delete(user: User) -> None:
    user.call("DELETE", f"/tasks/{user.task()}")


def _undelete(user: User) -> None:
    task = user.task()
    try:
        user.call("DELETE", f"/tasks/{task}")
    except Refused as refusal:
        if refusal.status != httpx.codes.NOT_FOUND:  # it may be deleted already
            raise
    user.undelete(task)


def _comment(user: User) -> None:
    user.make("story", f"/tasks/{user.task()}/stories", text="Triggered")


def _divide(user: User) -> None:
    user.make("subtask", f"/tasks/{user.task()}/subtasks", name="Triggered")


def _add_section(user: User) -> None:
    user.make("section", f"/projects/{user.project}/sections", name="Triggered")


def _change_project(user: User) -> None:
    user.call("PUT", f"/projects/{user.project}", notes=_now())


ACTIONS: Mapping[str, Callable[[User], object]] = MappingProxyType(
    {
        "task.added": User.task,
        "task.changed": _change,
        "task.completed": _complete,
        "task.reopened": _reopen,
        "task.assigned": _assign,
        "task.removed": _remove,
        "task.deleted": _delete,
        "task.undeleted": _undelete,
        "subtask.added": _divide,
        "story.added": _comment,
        "section.added": _add_section,
        "project.changed": _change_project,
    }
)
"""The action that causes each event, by its name."""
