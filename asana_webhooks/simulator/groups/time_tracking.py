"""Time tracking entries of tasks.

Source: https://developers.asana.com/reference/time-tracking-entries
"""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import lists, shows
from ..objects import ABSENT, AsanaObject, Field, Kind
from ..responses import Refused
from ..user_actions import UserActions
from ..values import day, link_to, number, one_of, text, user_of

__all__ = ["ENTRY", "KINDS", "OPERATIONS"]

ENTRY = Kind(
    name="time_tracking_entry",
    compact=("duration_minutes", "entered_on", "attributable_to", "created_by", "categories"),
    fields={
        "duration_minutes": Field(0, number),
        "entered_on": Field("", day),
        "attributable_to": Field(ABSENT, link_to("project"), of="project"),
        "created_by": Field(of="user"),
        "categories": Field([]),
        "task": Field(of="task"),
        "created_at": Field(),
        "approval_status": Field("DRAFT"),
        "billable_status": Field(
            "notApplicable", one_of("billable", "nonBillable", "notApplicable")
        ),
        "description": Field("", text),
    },
)


def _sum_up(actions: UserActions, task: AsanaObject) -> None:
    """Keep the task's time in step with its entries."""
    entries = task.parts_of("time_tracking_entry")
    minutes = sum(each.fields["duration_minutes"] for each in entries)
    actions.change(task, {"actual_time_minutes": minutes if entries else None})


async def create(call: ApiCall) -> web.Response:
    """Note time that was spent on a task, today unless another day is named."""
    task, fields = call.thing, call.fields(ENTRY)
    if fields.get("duration_minutes", 0) <= 0:
        raise Refused(400, "duration_minutes: Missing input")
    now = call.actions.now()
    usual = {"entered_on": now[:10], "created_at": now, "created_by": call.state.user, "task": task}
    entry = call.state.new(ENTRY, usual | fields, owner=task)
    _sum_up(call.actions, task)
    return call.one(entry, status=201)


async def change(call: ApiCall) -> web.Response:
    """Change an entry, and show it."""
    entry = call.thing
    entry.keep(call.fields(ENTRY))
    _sum_up(call.actions, entry.fields["task"])
    return call.one(entry)


async def delete(call: ApiCall) -> web.Response:
    """Delete an entry."""
    entry = call.thing
    entry.deleted = True
    _sum_up(call.actions, entry.fields["task"])
    return call.done()


def of_task(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the entries of a task."""
    return call.thing.parts_of("time_tracking_entry")


def every(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the entries of a task, a user or a project, entered between two days, as asked."""
    task, project = call.link("task"), call.link("attributable_to", "project")
    name = call.given.get("user")
    by = user_of(call.state, "user", name) if name else None
    start = str(call.given.get("entered_on_start_date", ""))
    end = str(call.given.get("entered_on_end_date", "9999"))
    return [
        each
        for each in call.state.all("time_tracking_entry")
        if task in (None, each.fields["task"])
        and project in (None, each.fields.get("attributable_to"))
        and by in (None, each.fields["created_by"])
        and start <= each.fields["entered_on"] <= end
    ]


KINDS = (ENTRY,)
DAYS = ("entered_on_start_date", "entered_on_end_date")
OPERATIONS = {
    "getTimeTrackingEntriesForTask": lists(ENTRY, of_task),
    "createTimeTrackingEntry": Operation(create, ENTRY.writable, ENTRY),
    "getTimeTrackingEntry": shows(ENTRY),
    "updateTimeTrackingEntry": Operation(change, ENTRY.writable, ENTRY),
    "deleteTimeTrackingEntry": Operation(delete),
    "getTimeTrackingEntries": lists(
        ENTRY, every, "task", "attributable_to", "user", "workspace", *DAYS
    ),
}
