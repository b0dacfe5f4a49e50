"""Dependencies: tasks that wait for others.

Source: https://developers.asana.com/reference/getdependenciesfortask
"""

from __future__ import annotations

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import lists
from ..objects import AsanaObject
from ..responses import Refused
from ..user_actions import UserActions
from .tasks import TASK

__all__ = ["KINDS", "OPERATIONS", "block", "unblock"]

MOST = 30
"""How many dependencies and dependents a task may have together."""

OTHER = {"dependencies": "dependents", "dependents": "dependencies"}
STORIES = {"dependencies": "dependency", "dependents": "dependent"}


def block(actions: UserActions, task: AsanaObject, field: str, other: AsanaObject) -> None:
    """Have a task depend on another one, or that on it; ``field`` is the list that it comes into.

    Each of the two tasks has an event and a story.
    """
    if other not in task.fields[field]:
        _change(actions, "added", task, field, other)


def unblock(actions: UserActions, task: AsanaObject, field: str, other: AsanaObject) -> None:
    """Have two tasks depend on each other no longer."""
    if other in task.fields[field]:
        _change(actions, "removed", task, field, other)


def _change(
    actions: UserActions, action: str, task: AsanaObject, field: str, other: AsanaObject
) -> None:
    found = []
    for one, name, value in ((task, field, other), (other, OTHER[field], task)):
        entries = one.fields[name]
        (entries.append if action == "added" else entries.remove)(value)
        change = {"field": name, "action": action, f"{action}_value": value.reference}
        found.append(actions.event("changed", one, change=change))
        found += actions.linked_story(one, action, STORIES[name], value)
    actions.publish(*found)


def changes(field: str, *, add: bool) -> Operation:
    """Return the operation that changes a list of a task."""

    async def change(call: ApiCall) -> web.Response:
        task, others = call.thing, call.links(field, "task")
        if not others:
            raise Refused(400, f"{field}: Missing input")
        if task in others:
            raise Refused(400, f"{field}: A task cannot depend on itself")
        both = {*task.fields["dependencies"], *task.fields["dependents"], *others}
        if add and len(both) > MOST:
            raise Refused(400, f"{field}: A task can have {MOST} dependents and dependencies")
        for other in others:
            (block if add else unblock)(call.actions, task, field, other)
        return call.done()

    return Operation(change, [field])


def of_task(field: str) -> Operation:
    """Return the operation that lists the tasks which a task depends on, or that depend on it."""
    return lists(TASK, lambda call: [each for each in call.thing.fields[field] if each.alive])


KINDS = ()
OPERATIONS = {
    f"{verb}{name}ForTask": operation
    for name in ("Dependencies", "Dependents")
    for verb, operation in (
        ("get", of_task(name.lower())),
        ("add", changes(name.lower(), add=True)),
        ("remove", changes(name.lower(), add=False)),
    )
}
