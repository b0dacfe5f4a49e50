"""Stories: their record, and those that the system makes of changes to tasks.

Each change makes its story, also where Asana would make one of several. ``CHANGES`` says which
story a change of a field is, ``LINKS`` which one comes of what a task is added to or removed from.

Source: https://developers.asana.com/reference/stories
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .fields import LIKES, html_of
from .objects import ABSENT, AsanaObject, Field, Kind
from .values import one_of, text, truth

__all__ = ["CHANGES", "LINKS", "STORY", "SystemStory", "fields_of", "stories_of"]

STICKERS = (
    *("green_checkmark", "people_dancing", "dancing_unicorn", "heart", "party_popper", "trophy"),
    *("people_waving_flags", "splashing_narwhal", "yeti_riding_unicorn", "celebrating_people"),
    *("determined_climbers", "phoenix_spreading_love"),
)
SAID_OF_CHANGES: Mapping[str, str] = {
    **dict.fromkeys(("old_name", "new_name", "old_text_value", "new_text_value"), ""),
    **dict.fromkeys(("old_number_value", "new_number_value"), ""),
    **dict.fromkeys(("old_resource_subtype", "new_resource_subtype"), ""),
    **dict.fromkeys(("old_approval_status", "new_approval_status"), ""),
    **dict.fromkeys(("old_dates", "new_dates", "old_date_value", "new_date_value"), ""),
    **dict.fromkeys(("old_enum_value", "new_enum_value"), "enum_option"),
    **dict.fromkeys(("old_multi_enum_values", "new_multi_enum_values"), "enum_option"),
    **dict.fromkeys(("old_people_value", "new_people_value"), "user"),
    **dict.fromkeys(("old_section", "new_section"), "section"),
    **dict.fromkeys(("assignee", "follower"), "user"),
    **dict.fromkeys(("task", "dependency", "duplicate_of", "duplicated_from"), "task"),
    "project": "project",
    "tag": "tag",
    "custom_field": "custom_field",
    "story": "story",
}

STORY = Kind(
    name="story",
    compact=("created_at", "created_by", "text"),
    subtype="comment_added",
    fields={
        "created_at": Field(),
        "created_by": Field(of="user"),
        "text": Field("", text),
        "html_text": html_of("text"),
        "is_pinned": Field(default=False, write=truth),
        "sticker_name": Field(ABSENT, one_of(*STICKERS)),
        "type": Field("comment"),
        "is_editable": Field(default=True),
        "is_edited": Field(default=False),
        **LIKES,
        "reaction_summary": Field([]),
        "previews": Field([]),
        "source": Field("api"),
        "target": Field(),
        **{name: Field(ABSENT, of=kind) for name, kind in SAID_OF_CHANGES.items()},
    },
)


class SystemStory(NamedTuple):
    """One story that the system makes; ``old`` and ``new`` are its fields for these values.

    In ``text``, ``{old}`` and ``{new}`` are the values, or their names.
    """

    subtype: str
    text: str
    old: str = ""
    new: str = ""


DUE = SystemStory("due_date_changed", "changed the due date", "old_dates", "new_dates")

CHANGES: Mapping[tuple[str, bool], SystemStory] = {
    ("name", True): SystemStory(
        "name_changed", 'changed the name to "{new}"', "old_name", "new_name"
    ),
    ("name", False): SystemStory("name_changed", "removed the name", "old_name", "new_name"),
    ("notes", True): SystemStory("notes_changed", "changed the description"),
    ("notes", False): SystemStory("notes_changed", "removed the description"),
    ("completed", True): SystemStory("marked_complete", "marked this task complete"),
    ("completed", False): SystemStory("marked_incomplete", "marked incomplete"),
    ("assignee", True): SystemStory("assigned", "assigned to {new}", new="assignee"),
    ("assignee", False): SystemStory("unassigned", "unassigned from {old}"),
    ("resource_subtype", True): SystemStory(
        "resource_subtype_changed",
        "changed the type to {new}",
        "old_resource_subtype",
        "new_resource_subtype",
    ),
    ("approval_status", True): SystemStory(
        "approval_status_changed",
        "changed the approval to {new}",
        "old_approval_status",
        "new_approval_status",
    ),
    **{
        (name, given): DUE
        for name in ("due_on", "due_at", "start_on", "start_at")
        for given in (True, False)
    },
}
"""The stories of changes by the field, and whether it has a value afterwards."""

LINKS: Mapping[tuple[str, str], SystemStory] = {
    ("added", "project"): SystemStory("added_to_project", "added to {new}", new="project"),
    ("removed", "project"): SystemStory(
        "removed_from_project", "removed from {new}", new="project"
    ),
    ("moved", "section"): SystemStory(
        "section_changed", "moved this task from {old} to {new}", "old_section", "new_section"
    ),
    ("added", "tag"): SystemStory("added_to_tag", "added to {new}", new="tag"),
    ("removed", "tag"): SystemStory("removed_from_tag", "removed from {new}", new="tag"),
    ("added", "follower"): SystemStory(
        "follower_added", "added {new} as a follower", new="follower"
    ),
    ("added", "task"): SystemStory("added_to_task", "added to {new}", new="task"),
    ("removed", "task"): SystemStory("removed_from_task", "removed from {new}", new="task"),
    ("added", "dependency"): SystemStory(
        "dependency_added", "marked this task as blocked by {new}", new="dependency"
    ),
    ("removed", "dependency"): SystemStory(
        "dependency_removed", "removed the dependency on {new}", new="dependency"
    ),
    ("added", "dependent"): SystemStory(
        "dependent_added", "marked this task as blocking {new}", new="task"
    ),
    ("removed", "dependent"): SystemStory(
        "dependent_removed", "removed the dependent task {new}", new="task"
    ),
    ("added", "attachment"): SystemStory("attachment_added", "attached {new}"),
    ("added", "duplicate"): SystemStory(
        "duplicated", "duplicated task from {new}", new="duplicated_from"
    ),
}
"""The stories of what a task is added to, removed from or moved between."""


def fields_of(story: SystemStory, old: Any, new: Any) -> dict[str, Any]:
    """Return the fields of a story's record that tell what changed."""
    names = {"old": _said(old), "new": _said(new)}
    told = {name: value for name, value in ((story.old, old), (story.new, new)) if name}
    return {
        "resource_subtype": story.subtype,
        "text": story.text.format(**names),
        **told,
    }


def _said(value: Any) -> str:
    return value.name if isinstance(value, AsanaObject) else str(value)


def stories_of(
    task: AsanaObject, changed: Mapping[str, Any], before: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the fields of the stories of a change, of which the dates make one together.

    ``changed`` are the new values, ``before`` the old ones.
    """
    found: dict[int, dict[str, Any]] = {}
    for name, new in changed.items():
        story = CHANGES.get((name, bool(new)))
        if story is DUE:
            found[id(DUE)] = fields_of(DUE, _dates(before), _dates({**task.fields, **changed}))
        elif story is not None:
            found[len(found)] = fields_of(story, before.get(name), new)
    return [*found.values()]


def _dates(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in ("due_at", "due_on", "start_on")}
