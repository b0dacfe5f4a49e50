"""Attachments of tasks and projects: files that are uploaded, and links to what is elsewhere.

Source: https://developers.asana.com/reference/attachments
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import deletes, lists, shows
from ..objects import AsanaObject, Field, Kind
from ..responses import Refused
from ..user_actions import UserActions
from ..values import flag

__all__ = ["ATTACHMENT", "KINDS", "OPERATIONS", "add_attachment"]

PARENTS = ("task", "project")
SITE = "https://app.asana.com/app/asana/-/get_asset?asset_id="

ATTACHMENT = Kind(
    name="attachment",
    subtype="asana",
    fields={
        "name": Field(""),
        "created_at": Field(),
        "download_url": Field(),
        "permanent_url": Field(),
        "host": Field("asana"),
        "parent": Field(),
        "size": Field(0),
        "view_url": Field(),
        "connected_to_app": Field(default=False),
    },
)


def add_attachment(
    actions: UserActions, parent: AsanaObject, fields: Mapping[str, Any]
) -> AsanaObject:
    """Return a new attachment of a task or a project."""
    usual = {"created_at": actions.now(), "parent": parent}
    attachment = actions.new(ATTACHMENT, usual | dict(fields), parent, owner=parent)
    if parent.resource_type == "task":
        actions.publish(*actions.linked_story(parent, "added", "attachment", attachment))
    return attachment


async def create(call: ApiCall) -> web.Response:
    """Attach the file that a form holds, or what a URL leads to; the content is not kept."""
    parent = _parent(call)
    file, url = call.given.get("file"), call.given.get("url")
    if isinstance(file, web.FileField):
        fields = _uploaded(file)
    elif isinstance(url, str) and url:
        fields = _linked(call, url)
    else:
        raise Refused(400, "file: Missing input")
    attachment = add_attachment(call.actions, parent, fields)
    if attachment.fields["host"] == "asana":
        url = f"{SITE}{attachment.gid}"
        attachment.fields |= dict.fromkeys(("download_url", "permanent_url", "view_url"), url)
    return call.one(attachment)


def _uploaded(file: web.FileField) -> dict[str, Any]:
    size = file.file.seek(0, 2)
    return {"name": file.filename, "size": size}


def _linked(call: ApiCall, url: str) -> dict[str, Any]:
    connected = flag("connect_to_app", call.given.get("connect_to_app", False))
    return {
        "resource_subtype": "external",
        "host": "external",
        "name": call.text("name"),
        "view_url": url,
        "connected_to_app": connected,
    }


def _parent(call: ApiCall) -> AsanaObject:
    """Return what a call is about: the path's object on an old path, else the ``parent``."""
    if call.gids:
        return call.thing
    gid = call.text("parent")
    found = call.state.find(gid)
    return call.linked("parent", found.resource_type if found in _parents(call) else "task")


def _parents(call: ApiCall) -> list[AsanaObject]:
    return [each for kind in PARENTS for each in call.state.all(kind)]


def of_parent(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the attachments of a task or a project."""
    return _parent(call).parts_of("attachment")


KINDS = (ATTACHMENT,)
OPERATIONS = {
    "getAttachment": shows(ATTACHMENT),
    "deleteAttachment": deletes(),
    "getAttachmentsForObject": lists(ATTACHMENT, of_parent, "parent"),
    "createAttachmentForObject": Operation(
        create,
        ["resource_subtype", "file", "parent", "url", "name", "connect_to_app"],
        ATTACHMENT,
    ),
}
