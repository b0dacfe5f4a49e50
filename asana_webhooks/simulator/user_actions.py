"""The acts of users on any object: make, change, link and delete it; and the events of that.

One click may cause several events; they are published together. What users do to no effect, such
as completing a completed task, causes none. What is done to one kind of object only stands in its
module of ``groups``.

Source: https://developers.asana.com/reference/events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .events import EventLog, PublishedEvent
from .objects import AsanaObject, Kind, seers
from .state import State, timestamp
from .stories import LINKS, STORY, fields_of, stories_of

__all__ = ["UserActions"]

ENTRIES = {"tags": "tag", "followers": "follower"}
"""The stories of a task's lists, by what is put into them."""


class UserActions:
    """Changes the objects of a state, and tells the log of it.

    With ``system_stories`` a change of a task makes a story that tells of it.
    """

    def __init__(self, state: State, log: EventLog, *, system_stories: bool) -> None:
        self.state = state
        self.system_stories = system_stories
        self._log = log

    def now(self) -> str:
        """Return the time as Asana writes it."""
        return timestamp(self.state.now())

    def new(
        self,
        kind: Kind,
        fields: Mapping[str, Any],
        *parents: AsanaObject,
        owner: AsanaObject | None = None,
    ) -> AsanaObject:
        """Return a new object; it is an event for each of the parents that it is added to."""
        thing = self.state.new(kind, fields, owner=owner)
        self.publish(*(self.event("added", thing, parent=each) for each in parents))
        return thing

    def change(
        self,
        thing: AsanaObject,
        fields: Mapping[str, Any],
        *,
        silent: Mapping[str, Any] | None = None,
        at: str | None = None,
    ) -> None:
        """Give an object these values; each field that differs is an event, all of one instant.

        ``silent`` values are given to it without an event, if any other differs. ``at`` is the
        instant, now if None.
        """
        before = {name: thing.value(name) for name in fields if thing.has(name)}
        changed = {name: value for name, value in fields.items() if before.get(name) != value}
        if not changed:
            return
        now = at or self.now()
        told = [name for name in changed if not name.startswith("html_")]
        found = [self._changed(thing, name, before.get(name), changed[name], now) for name in told]
        is_task = thing.resource_type == "task"
        stories = stories_of(thing, changed, thing.fields | before) if is_task else []
        thing.keep({**changed, **(silent or {})})
        self.touch(thing, now)
        if is_task:
            found += [each for story in stories for each in self.story(thing, story)]
        self.publish(*found)

    def touch(self, thing: AsanaObject, now: str | None = None) -> None:
        """Note that an object was modified."""
        if "modified_at" in thing.fields:
            thing.fields["modified_at"] = now or self.now()

    def delete(self, thing: AsanaObject) -> None:
        """Put an object, and with it all that is a part of it, into the bin."""
        thing.deleted = True
        self.publish(self.event("deleted", thing))

    def undelete(self, thing: AsanaObject) -> None:
        """Bring an object back with all that is a part of it, if it was deleted."""
        if thing.deleted:
            thing.deleted = False
            self.publish(self.event("undeleted", thing))

    def link(self, thing: AsanaObject, field: str, value: AsanaObject) -> None:
        """Add an entry, such as a tag or a follower, to a list of an object unless it has it."""
        if value not in thing.fields[field]:
            self.publish(*self.linking(thing, field, value))

    def linking(self, thing: AsanaObject, field: str, value: AsanaObject) -> list[PublishedEvent]:
        """Add an entry to a list of an object, and return the events of it."""
        thing.fields[field].append(value)
        return self._linked("added", thing, field, value)

    def unlink(self, thing: AsanaObject, field: str, value: AsanaObject) -> None:
        """Take an entry from a list of an object, if it has it."""
        if value in thing.fields[field]:
            thing.fields[field].remove(value)
            self.publish(*self._linked("removed", thing, field, value))

    def like(self, thing: AsanaObject, *, liked: bool) -> None:
        """Have the user like an object, or no longer."""
        user, likers = self.state.user, thing.hidden.setdefault("likers", [])
        if liked is (user in likers):
            return
        (likers.append if liked else likers.remove)(user)
        action = "added" if liked else "removed"
        like = {"gid": f"{thing.gid}{user.gid}", "resource_type": "like"}
        change = {"field": "likes", "action": action, f"{action}_value": like}
        self.publish(self.event("changed", thing, change=change))

    def publish(self, *events: PublishedEvent) -> None:
        """Tell of what happened in one act."""
        self._log.publish(*events)

    def event(
        self,
        action: str,
        thing: AsanaObject,
        *,
        parent: AsanaObject | None = None,
        change: Mapping[str, Any] | None = None,
    ) -> PublishedEvent:
        """Return an event that the user causes now, and who sees it."""
        event = self.state.event(action, thing, parent=parent)
        return PublishedEvent(event | ({"change": change} if change else {}), seers(thing, parent))

    def linked_story(
        self,
        task: AsanaObject,
        action: str,
        what: str,
        value: AsanaObject | None,
        old: AsanaObject | None = None,
    ) -> list[PublishedEvent]:
        """Make the story of what a task is added to or removed from; return its events."""
        story = LINKS.get((action, what))
        return self.story(task, fields_of(story, old, value)) if story else []

    def story(self, task: AsanaObject, fields: Mapping[str, Any]) -> list[PublishedEvent]:
        """Make a story of the system on a task; return its events, none if there are no stories."""
        if not self.system_stories:
            return []
        by = {"created_at": self.now(), "created_by": self.state.user, "target": task}
        system = {"type": "system", "is_editable": False}
        story = self.state.new(STORY, by | system | dict(fields), owner=task)
        return [self.event("added", story, parent=task)]

    def _linked(
        self, action: str, thing: AsanaObject, field: str, value: AsanaObject
    ) -> list[PublishedEvent]:
        change = {"field": field, "action": action, f"{action}_value": value.reference}
        found = [self.event("changed", thing, change=change)]
        if value.resource_type == "tag":
            found.append(self.event(action, thing, parent=value))
        if thing.resource_type == "task":
            found += self.linked_story(thing, action, ENTRIES.get(field, ""), value)
        return found

    def _changed(
        self, thing: AsanaObject, name: str, old: Any, value: Any, at: str
    ) -> PublishedEvent:
        change: dict[str, Any] = {"field": name, "action": "changed"}
        if isinstance(value, AsanaObject) or isinstance(old, AsanaObject):
            change["new_value"] = value and value.reference
        happening = self.event("changed", thing, change=change)
        return happening._replace(event={**happening.event, "created_at": at})
