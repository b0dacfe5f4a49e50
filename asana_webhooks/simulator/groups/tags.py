"""Tags.

Source: https://developers.asana.com/reference/tags
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import changes, deletes, lists, shows
from ..fields import PERMALINK
from ..objects import AsanaObject, Field, Kind
from ..user_actions import UserActions
from ..values import COLORS, one_of, or_null, text

__all__ = ["KINDS", "OPERATIONS", "TAG", "add_tag"]

TAG = Kind(
    name="tag",
    fields={
        "name": Field("", text),
        "color": Field(None, or_null(one_of(*COLORS))),
        "notes": Field("", text),
        "created_at": Field(),
        "followers": Field([], of="user"),
        "workspace": Field(of="workspace"),
        **PERMALINK,
    },
)


def add_tag(actions: UserActions, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new tag; nobody can watch what it is added to."""
    workspace = {"workspace": actions.state.workspace, "created_at": actions.now()}
    return actions.new(TAG, workspace | dict(fields))


async def create(call: ApiCall) -> web.Response:
    """Create a tag in the workspace."""
    if not call.gids:
        call.linked("workspace")
    return call.one(add_tag(call.actions, call.fields(TAG)), status=201)


def every(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tags of the workspace."""
    call.link("workspace")
    return call.state.all("tag")


def of_workspace(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tags of the workspace that the path names."""
    workspace = call.thing
    return [each for each in call.state.all("tag") if each.fields["workspace"] is workspace]


def of_task(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the tags that a task has."""
    return [each for each in call.thing.fields["tags"] if each.alive]


KINDS = (TAG,)
OPERATIONS = {
    "getTags": lists(TAG, every, "workspace"),
    "createTag": Operation(create, (*TAG.writable, "workspace"), TAG),
    "getTag": shows(TAG),
    "updateTag": changes(TAG),
    "deleteTag": deletes(),
    "getTagsForTask": lists(TAG, of_task),
    "getTagsForWorkspace": lists(TAG, of_workspace),
    "createTagForWorkspace": Operation(create, TAG.writable, TAG),
}
