"""Comments on tasks, and the stories that the system made.

Source: https://developers.asana.com/reference/stories
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ..call import ApiCall, Operation
from ..crud import deletes, lists, shows
from ..objects import AsanaObject
from ..responses import Refused
from ..stories import STORY
from ..user_actions import UserActions

__all__ = ["KINDS", "OPERATIONS", "add_comment"]


def add_comment(actions: UserActions, task: AsanaObject, fields: Mapping[str, Any]) -> AsanaObject:
    """Return a new comment on a task; its event names no user, as recorded."""
    by = {"created_at": actions.now(), "created_by": actions.state.user, "target": task}
    story = actions.state.new(STORY, by | dict(fields), owner=task)
    happening = actions.event("added", story, parent=task)
    actions.publish(happening._replace(event={**happening.event, "user": None}))
    return story


async def comment(call: ApiCall) -> web.Response:
    """Comment on a task."""
    task, fields = call.thing, call.fields(STORY)
    if not fields.get("text"):
        raise Refused(400, "text: Missing input")
    return call.one(add_comment(call.actions, task, fields), status=201)


async def change(call: ApiCall) -> web.Response:
    """Change a comment, and show it."""
    story = call.thing
    call.actions.change(story, call.fields(STORY), silent={"is_edited": True})
    return call.one(story)


def of_task(call: ApiCall) -> Iterable[AsanaObject]:
    """Return the stories of a task, the oldest first."""
    return call.thing.parts_of("story")


KINDS = (STORY,)
OPERATIONS = {
    "getStory": shows(STORY),
    "updateStory": Operation(change, STORY.writable, STORY),
    "deleteStory": deletes(),
    "getStoriesForTask": lists(STORY, of_task),
    "createStoryForTask": Operation(comment, STORY.writable, STORY),
}
