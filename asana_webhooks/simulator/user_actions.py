"""The actions of users on their objects, and the events that they cause.

One click may cause several events; they are published together. What users do to no effect, such
as completing a completed task, causes none.

Source: https://developers.asana.com/reference/events
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .access import is_member
from .events import EventLog, PublishedEvent
from .objects import (
    AsanaObject,
    new_membership,
    new_portfolio,
    new_project,
    new_task,
    new_user,
    seers,
)
from .state import State, timestamp

__all__ = ["UserActions"]


class UserActions:
    """Changes the objects of a state, and tells the feed of it."""

    def __init__(self, state: State, log: EventLog) -> None:
        self._state = state
        self._log = log

    def add_task(
        self,
        fields: Mapping[str, Any],
        *,
        places: Mapping[AsanaObject, AsanaObject | None] | None = None,
        parent: AsanaObject | None = None,
        tags: Iterable[AsanaObject] = (),
    ) -> AsanaObject:
        """Return a new task that is below this task, and has these tags.

        ``places`` are the projects that it is in, with the section, or None for the first one.
        """
        task = new_task(self._state.new_gid(), self._state.workspace, self._now(), dict(fields))
        self._state.add(task)
        task.fields["parent"] = task.owner = parent
        found = [self._event("added", task, parent=parent)] if parent else []
        for project, section in (places or {}).items():
            found += self._into(task, project, section or self._sections(project)[0])
        for tag in tags:
            found += self._link(task, "tags", tag)
        if task.fields["completed"]:
            task.fields |= {"completed_at": self._now(), "completed_by": self._state.user}
        self._log.publish(*found)
        return task

    def add_story(self, task: AsanaObject, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new comment on a task; its event names no user, as recorded."""
        story = self._new(
            "story",
            {"text": "", "is_pinned": False, "type": "comment", "target": task}
            | dict(fields)
            | {"created_at": self._now(), "created_by": self._state.user},
            owner=task,
            resource_subtype="comment_added",
        )
        happening = self._event("added", story, parent=task)
        self._log.publish(happening._replace(event={**happening.event, "user": None}))
        return story

    def add_project(self, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new project, with a section that has no title yet; its user is a member."""
        workspace = self._state.workspace
        fields = {"members": [self._state.user], **fields}
        project = new_project(self._state.new_gid(), workspace, self._now(), dict(fields))
        self._state.add(project)
        self._new_section(project, {"name": "Untitled section"})
        team = project.fields["team"]
        parents = [workspace, *([team] if team else [])]
        self._log.publish(*(self._event("added", project, parent=each) for each in parents))
        return project

    def add_section(self, project: AsanaObject, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new section at the end of a project."""
        section = self._new_section(project, fields)
        self._log.publish(self._event("added", section, parent=project))
        return section

    def add_tag(self, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new tag; nobody can watch what it is added to."""
        usual = {"name": "", "color": None, "notes": "", "workspace": self._state.workspace}
        return self._new("tag", usual | {"created_at": self._now()} | dict(fields))

    def add_team(self, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new team, of which the user is a member."""
        usual = {"name": "", "description": "", "organization": self._state.workspace}
        team = self._new("team", usual | dict(fields))
        self.join(team, self._state.user)
        return team

    def add_user(self, name: str, email: str | None = None) -> AsanaObject:
        """Return a new user of the workspace; the address is made from the name if None."""
        gid, workspace = self._state.new_gid(), self._state.workspace
        first_name = name.partition(" ")[0].lower()
        known = {each.fields["email"] for each in self._state.all("user")}
        if email is None and f"{first_name}@example.com" in known:
            email = f"{first_name}.{gid}@example.com"
        user = self._state.add(new_user(gid, name, workspace, email))
        self.join(workspace, user)
        return user

    def join(self, group: AsanaObject, user: AsanaObject) -> None:
        """Make a user a member of a team or a workspace."""
        if is_member(self._state, group, user):
            return
        membership = self._state.add(new_membership(self._state.new_gid(), group, user))
        self._log.publish(self._event("added", membership, parent=group))

    def leave(self, group: AsanaObject, user: AsanaObject) -> None:
        """End a user's membership of a team or a workspace, if there is one.

        Asana is said to delete the webhooks of a user who leaves the workspace.
        """
        for each in self._state.all(f"{group.resource_type}_membership"):
            if each.owner is group and each.fields["user"] is user:
                each.deleted = True
                self._log.publish(self._event("removed", each, parent=group))
        if group.resource_type == "workspace":
            for webhook in [*self._state.webhooks.values()]:
                if webhook.user == user.gid:
                    self._state.delete(webhook)

    def remove_user(self, user: AsanaObject) -> None:
        """Have a user leave everything and be no more; the tokens end with it."""
        for kind in ("team", "workspace"):
            for each in self._state.all(f"{kind}_membership"):
                if each.fields["user"] is user:
                    self.leave(each.fields[kind], user)
        user.deleted = True

    def add_portfolio(self, fields: Mapping[str, Any]) -> AsanaObject:
        """Return a new portfolio that has no projects yet, and that its user owns."""
        state = self._state
        usual = {"created_by": state.user, "owner": state.user, "members": [state.user]}
        at, fields = self._now(), usual | dict(fields)
        return state.add(new_portfolio(state.new_gid(), state.workspace, at, fields))

    def put_into_portfolio(self, portfolio: AsanaObject, project: AsanaObject) -> None:
        """Have a project in a portfolio."""
        if portfolio not in project.holders:
            project.holders.append(portfolio)
            self._log.publish(self._event("added", project, parent=portfolio))

    def take_from_portfolio(self, portfolio: AsanaObject, project: AsanaObject) -> None:
        """Have a project in a portfolio no longer."""
        if portfolio in project.holders:
            project.holders.remove(portfolio)
            self._log.publish(self._event("removed", project, parent=portfolio))

    def change(self, thing: AsanaObject, fields: Mapping[str, Any]) -> None:
        """Give an object these values; each field that differs is an event, all of one instant."""
        changed = {name: value for name, value in fields.items() if thing.fields[name] != value}
        if not changed:
            return
        now = self._now()
        if "completed" in changed:
            done = changed["completed"]
            changed["completed_at"] = now if done else None
            thing.fields["completed_by"] = self._state.user if done else None
        found = [self._changed(thing, name, value, now) for name, value in changed.items()]
        thing.fields |= changed
        if "modified_at" in thing.fields:
            thing.fields["modified_at"] = now
        self._log.publish(*found)

    def delete(self, thing: AsanaObject) -> None:
        """Put an object, and with it all that is a part of it, into the bin."""
        thing.deleted = True
        self._log.publish(self._event("deleted", thing))

    def undelete(self, thing: AsanaObject) -> None:
        """Bring an object back with all that is a part of it, if it was deleted."""
        if thing.deleted:
            thing.deleted = False
            self._log.publish(self._event("undeleted", thing))

    def move_below(self, task: AsanaObject, parent: AsanaObject | None) -> None:
        """Make a task a subtask of another, or of none."""
        old = task.owner
        if parent is old:
            return
        found = [self._event("removed", task, parent=old)] if old else []
        task.fields["parent"] = task.owner = parent
        found += [self._event("added", task, parent=parent)] if parent else []
        self._log.publish(*found)

    def put(
        self,
        task: AsanaObject,
        project: AsanaObject,
        section: AsanaObject | None = None,
    ) -> None:
        """Have a task in a project: in this section, or where it is already, or in the first."""
        place = self._place(task, project)
        if place is None:
            found = self._into(task, project, section or self._sections(project)[0])
        elif section in (None, place["section"]):
            return
        else:
            old, place["section"] = place["section"], section
            found = [
                self._event("removed", task, parent=old),
                self._event("added", task, parent=section),
            ]
        self._log.publish(*found)

    def take(self, task: AsanaObject, project: AsanaObject) -> None:
        """Have a task in a project no longer."""
        place = self._place(task, project)
        if place is not None:
            found = [
                self._event("removed", task, parent=project),
                self._event("removed", task, parent=place["section"]),
            ]
            task.fields["memberships"].remove(place)
            self._log.publish(*found)

    def link(self, task: AsanaObject, field: str, value: AsanaObject) -> None:
        """Add a tag or a follower to a task, unless it has it."""
        if value not in task.fields[field]:
            self._log.publish(*self._link(task, field, value))

    def unlink(self, task: AsanaObject, field: str, value: AsanaObject) -> None:
        """Take a tag or a follower from a task, if it has it."""
        if value in task.fields[field]:
            task.fields[field].remove(value)
            self._log.publish(*self._linked("removed", task, field, value))

    def _new(self, resource_type: str, fields: dict[str, Any], **options: Any) -> AsanaObject:
        gid = self._state.new_gid()
        return self._state.add(
            AsanaObject(gid=gid, resource_type=resource_type, fields=fields, **options)
        )

    def _new_section(self, project: AsanaObject, fields: Mapping[str, Any]) -> AsanaObject:
        usual = {"name": "", "project": project, "created_at": self._now()}
        return self._new("section", usual | dict(fields), owner=project)

    def _sections(self, project: AsanaObject) -> list[AsanaObject]:
        return [each for each in self._state.all("section") if each.owner is project]

    def _place(self, task: AsanaObject, project: AsanaObject) -> dict[str, AsanaObject] | None:
        places: list[dict[str, AsanaObject]] = task.fields["memberships"]
        return next((each for each in places if each["project"] is project), None)

    def _into(
        self, task: AsanaObject, project: AsanaObject, section: AsanaObject
    ) -> list[PublishedEvent]:
        task.fields["memberships"].append({"project": project, "section": section})
        return [self._event("added", task, parent=each) for each in (project, section)]

    def _link(self, task: AsanaObject, field: str, value: AsanaObject) -> list[PublishedEvent]:
        task.fields[field].append(value)
        return self._linked("added", task, field, value)

    def _linked(
        self, action: str, task: AsanaObject, field: str, value: AsanaObject
    ) -> list[PublishedEvent]:
        change = {"field": field, "action": action, f"{action}_value": value.reference}
        found = [self._event("changed", task, change=change)]
        if value.resource_type == "tag":
            found.append(self._event(action, task, parent=value))
        return found

    def _changed(self, thing: AsanaObject, name: str, value: Any, at: str) -> PublishedEvent:
        change: dict[str, Any] = {"field": name, "action": "changed"}
        if isinstance(value, AsanaObject) or isinstance(thing.fields[name], AsanaObject):
            change["new_value"] = value and value.reference
        happening = self._event("changed", thing, change=change)
        return happening._replace(event={**happening.event, "created_at": at})

    def _event(
        self,
        action: str,
        thing: AsanaObject,
        *,
        parent: AsanaObject | None = None,
        change: Mapping[str, Any] | None = None,
    ) -> PublishedEvent:
        event = self._state.event(action, thing, parent=parent)
        return PublishedEvent(event | ({"change": change} if change else {}), seers(thing, parent))

    def _now(self) -> str:
        return timestamp(self._state.now())
