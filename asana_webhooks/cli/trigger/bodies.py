"""Bodies of deliveries as Asana posts them, for events that happen nowhere.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

__all__ = ["BODIES", "EventBuilder", "body_of"]

USER = {"gid": "1201", "resource_type": "user"}
SECTION = {"gid": "1400", "resource_type": "section"}
Record = dict[str, Any]


class EventBuilder:
    """Builds events in one project, on one task; gids that are not given are made up."""

    def __init__(self, *, project: str, task: str | None) -> None:
        self.now = datetime.now(UTC)
        self.project: Record = {"gid": project, "resource_type": "project"}
        self.task = _task(task or _gid())

    def event(
        self,
        action: str,
        resource: Record,
        *,
        parent: Record | None = None,
        change: Record | None = None,
        user: Record | None = USER,
        later: int = 0,
    ) -> Record:
        """Return one event, with its keys as Asana orders them; ``later`` is in milliseconds."""
        at = self.now + timedelta(milliseconds=later)
        event = {
            "user": user,
            "created_at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "action": action,
            "resource": resource,
            "parent": parent,
        }
        return event | ({"change": change} if change else {})

    def changes(self, *fields: str) -> list[Record]:
        """Return what one click changes of the task, in one instant."""
        return [self.event("changed", self.task, change=_change(field)) for field in fields]

    def places(self, action: str) -> list[Record]:
        """Return what comes of adding the task to the project or removing it."""
        return [
            self.event(action, self.task, parent=self.project),
            self.event(action, self.task, parent=SECTION, later=13),
        ]


def body_of(name: str, builder: EventBuilder) -> bytes:
    """Return the body of a delivery with what this event causes."""
    return json.dumps({"events": BODIES[name](builder)}, separators=(",", ":")).encode()


def _change(field: str, **more: Record) -> Record:
    return {"field": field, "action": "changed", **more}


def _gid() -> str:
    return str(1_200_000_000_000_000 + secrets.randbelow(10**14))


def _task(gid: str) -> Record:
    return {"gid": gid, "resource_type": "task", "resource_subtype": "default_task"}


def _story() -> Record:
    return {"gid": _gid(), "resource_type": "story", "resource_subtype": "comment_added"}


def _section() -> Record:
    return {"gid": _gid(), "resource_type": "section"}


BODIES: Mapping[str, Callable[[EventBuilder], list[Record]]] = MappingProxyType(
    {
        "task.added": lambda new: new.places("added"),
        "task.changed": lambda new: new.changes("name"),
        "task.completed": lambda new: new.changes("completed", "completed_at"),
        "task.reopened": lambda new: new.changes("completed", "completed_at"),
        "task.assigned": lambda new: [
            new.event("changed", new.task, change=_change("assignee", new_value=USER))
        ],
        "task.removed": lambda new: new.places("removed"),
        "task.deleted": lambda new: [new.event("deleted", new.task)],
        "task.undeleted": lambda new: [new.event("undeleted", new.task)],
        "subtask.added": lambda new: [new.event("added", _task(_gid()), parent=new.task)],
        "story.added": lambda new: [
            new.event("added", _story(), parent=new.task, user=None)  # as recorded
        ],
        "section.added": lambda new: [new.event("added", _section(), parent=new.project)],
        "project.changed": lambda new: [new.event("changed", new.project, change=_change("notes"))],
    }
)
"""The events that a body has, by name."""
