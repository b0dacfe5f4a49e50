"""Sections of projects.

Source: https://developers.asana.com/reference/sections
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, lists, shows
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused
from ..user_actions import UserActions
from ..values import place_beside, text

__all__ = ["KINDS", "OPERATIONS", "SECTION", "add_section"]

SECTION = Kind(
    name="section",
    fields={
        "name": Field("", text),
        "created_at": Field(),
        "project": Field(of="project"),
        "projects": Field(show=lambda section: [section.fields["project"]], of="project"),
    },
)


def add_section(
    actions: UserActions, project: AsanaObject, fields: Mapping[str, Any], place: int | None = None
) -> AsanaObject:
    """Return a new section of a project: the last, or at a place among its parts."""
    usual = {"project": project, "created_at": actions.now()}
    section = actions.state.new(SECTION, usual | dict(fields))
    actions.state.own(section, project, place=place)
    actions.publish(actions.event("added", section, parent=project))
    return section


async def create(call: ApiCall) -> web.Response:
    """Create a section in a project."""
    project = call.thing
    call.text("name")
    place = place_beside(call.state, call.given, project.parts, "section")
    section = add_section(call.actions, project, call.fields(SECTION), place)
    return call.one(section, status=201)


async def move(call: ApiCall) -> web.Response:
    """Put a section before or after another one of its project."""
    project, section = call.thing, call.linked("section")
    if section.owner is not project:
        raise Refused(400, "section: The section is not in the project")
    place = place_beside(
        call.state, call.given, project.parts, "section", "before_section", "after_section"
    )
    if place is None:
        raise Refused(400, "before_section: Missing input")
    place -= project.parts.index(section) < place
    call.state.own(section, project, place=place)
    return call.done()


async def delete(call: ApiCall) -> web.Response:
    """Delete a section that is empty and not the last."""
    section = call.thing
    siblings = section.fields["project"].parts_of("section")
    if len(siblings) == 1 or any(task.alive for task in section.holds):
        raise Refused(400, "section: Only an empty section, and not the last, can be deleted")
    call.actions.delete(section)
    return call.done()


def of_project(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the sections of a project in their order."""
    return call.thing.parts_of("section")


KINDS = (SECTION,)
BESIDE = ("insert_before", "insert_after")
OPERATIONS = {
    "getSection": shows(SECTION),
    "updateSection": changes(SECTION),
    "deleteSection": Operation(delete),
    "getSectionsForProject": lists(SECTION, of_project),
    "createSectionForProject": Operation(create, (*SECTION.writable, *BESIDE), SECTION),
    "insertSectionForProject": Operation(move, ["section", "before_section", "after_section"]),
}
