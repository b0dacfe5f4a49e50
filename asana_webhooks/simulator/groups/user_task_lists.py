"""User task lists: the tasks that are assigned to a user.

Source: https://developers.asana.com/reference/user-task-lists
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import lists, shows
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused
from ..state import State
from .tasks import TASK, since

__all__ = ["KINDS", "OPERATIONS", "USER_TASK_LIST", "list_of"]

USER_TASK_LIST = Kind(
    name="user_task_list",
    compact=("name", "owner", "workspace"),
    fields={
        "name": Field(""),
        "owner": Field(of="user"),
        "workspace": Field(of="workspace"),
    },
)


def list_of(state: State, user: AsanaObject) -> AsanaObject:
    """Return the list of a user, a new one if there is none yet."""
    known = (each for each in state.all("user_task_list") if each.fields["owner"] is user)
    fields = {
        "name": f"My tasks in {state.workspace.name}",
        "owner": user,
        "workspace": state.workspace,
    }
    return next(known, None) or state.new(USER_TASK_LIST, fields)


async def of_user(call: ApiCall) -> web.Response:
    """Show the list of a user in a workspace."""
    user = call.thing
    if call.link("workspace") is None:
        raise Refused(400, "workspace: Missing input")
    return call.one(list_of(call.state, user))


def tasks(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tasks in a list: those that are assigned to its owner."""
    owner = call.thing.fields["owner"]
    return since(
        call, [each for each in call.state.all("task") if each.fields["assignee"] is owner]
    )


KINDS = (USER_TASK_LIST,)
OPERATIONS = {
    "getUserTaskList": shows(USER_TASK_LIST),
    "getUserTaskListForUser": Operation(of_user, ["workspace"], USER_TASK_LIST),
    "getTasksForUserTaskList": lists(TASK, tasks, "completed_since"),
}
