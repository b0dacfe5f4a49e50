"""The calls that change something: which events each may cause, and what is kept of it."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asana_webhooks import Event, MemoryStore, StoreError
from asana_webhooks._writes import ACTIONS, MADE, Call, Writes, Written, effects_of
from asana_webhooks.errors import DecodeError
from asana_webhooks.models import Write
from asana_webhooks.testing import make_event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(
    action: str = "changed",
    gid: str = "5",
    *,
    kind: str = "task",
    subtype: str | None = None,
    field: str | None = None,
    value: str | None = None,
    parent: tuple[str, str] | None = None,
) -> Event:
    others: dict[str, Any] = {}
    if parent is not None:
        others["parent"] = {"gid": parent[1], "resource_type": parent[0]}
    if field is not None:
        others["change"] = {"field": field, "action": action} | (
            {} if value is None else {"new_value": {"gid": value, "resource_type": "x"}}
        )
    return make_event(kind, subtype=subtype, action=action, gid=gid, **others)


def story(subtype: str, *, gid: str = "99", task: str = "5") -> Event:
    return event("added", gid, kind="story", subtype=subtype, parent=("task", task))


def causes(
    method: str, path: str, data: Mapping[str, Any] | None, caused: Event, *made: str
) -> int:
    """Return how many of a call's effects may be this event."""
    return sum(each.fits(caused, made) for each in effects_of(method, path, data))


COMPLETED = "PUT", "/tasks/5", {"completed": True}
ASSIGNED = "PUT", "/tasks/5", {"assignee": "8"}
UNASSIGNED = "PUT", "/tasks/5", {"assignee": None}
CUSTOM = "PUT", "/tasks/5", {"custom_fields": {"31": "x", "32": None}}
ADDED = "POST", "/tasks/5/addProject", {"project": "7"}
MOVED = "POST", "/sections/6/addTask", {"task": "5"}
TAGGED = "POST", "/tasks/5/addTag", {"tag": "9"}
FOLLOWED = "POST", "/tasks/5/addFollowers", {"followers": ["8", "me"]}
BELOW = "POST", "/tasks/5/setParent", {"parent": {"gid": "4"}}
ON_TOP = "POST", "/tasks/5/setParent", {"parent": None}
DEPENDS = "POST", "/tasks/5/addDependencies", {"dependencies": "3,4"}


@pytest.mark.parametrize(
    ("call", "caused"),
    [
        (COMPLETED, event(field="completed")),
        (COMPLETED, event(field="completed_at")),
        (COMPLETED, story("marked_complete")),
        (ASSIGNED, event(field="assignee", value="8")),
        (ASSIGNED, event(field="assignee")),
        (ASSIGNED, story("assigned")),
        (("PUT", "/tasks/5", {"assignee": {"gid": "8"}}), event(field="assignee", value="8")),
        (UNASSIGNED, event(field="assignee")),
        (("DELETE", "/tasks/5", None), event("removed")),
        (CUSTOM, event(field="custom_fields")),
        (CUSTOM, event(field="custom_fields", value="31")),
        (CUSTOM, event(field="custom_fields", value="32")),
        (("PUT", "/projects/5", {"name": "a"}), event(kind="project", field="name")),
        (("PUT", "/stories/5", {"text": "a"}), event(kind="story", field="text")),
        (("DELETE", "/tasks/5", None), event("deleted")),
        (("DELETE", "/stories/5", None), event("removed", kind="story", parent=("task", "1"))),
        (ADDED, event("added", parent=("project", "7"))),
        (ADDED, event("added", parent=("section", "70"))),
        (ADDED, event("removed", parent=("section", "71"))),
        (ADDED, story("added_to_project")),
        (MOVED, event("added", parent=("section", "6"))),
        (MOVED, story("section_changed")),
        (TAGGED, event(field="tags", value="9")),
        (TAGGED, event("added", parent=("tag", "9"))),
        (FOLLOWED, event(field="followers", value="8")),
        (FOLLOWED, story("follower_added")),
        (BELOW, event("added", parent=("task", "4"))),
        (BELOW, event("removed", parent=("task", "2"))),
        (BELOW, event(field="parent", value="4")),
        (ON_TOP, event(field="parent")),
        (ON_TOP, event("removed", parent=("task", "4"))),
        (DEPENDS, event(field="dependencies", value="3")),
        (DEPENDS, event(gid="4", field="dependents", value="5")),
        (DEPENDS, story("dependent_added", task="3")),
        (
            ("POST", "/projects/5/addMembers", {"members": ["8"]}),
            event(kind="project", field="members", value="8"),
        ),
        (
            ("POST", "/portfolios/2/addItem", {"item": "5"}),
            event("added", kind="project", parent=("portfolio", "2")),
        ),
    ],
)
def test_call_causes_the_event(call: tuple[str, str, Any], caused: Event) -> None:
    assert causes(*call, caused)


@pytest.mark.parametrize(
    ("call", "other"),
    [
        (COMPLETED, event(field="name")),
        (COMPLETED, event(gid="6", field="completed")),
        (COMPLETED, event("deleted")),
        (COMPLETED, story("assigned")),
        (COMPLETED, story("comment_added")),
        (COMPLETED, story("marked_complete", task="6")),
        (COMPLETED, event("added", "99", kind="story", parent=("task", "5"))),
        (ASSIGNED, event(field="assignee", value="9")),
        (UNASSIGNED, event(field="assignee", value="9")),
        (("PUT", "/tasks/5", {"assignee": {"gid": "8"}}), event(field="assignee", value="9")),
        (("POST", "/tasks", {"name": "a"}), event("added", kind="section")),
        (CUSTOM, event(field="custom_fields", value="33")),
        (ADDED, event("added", parent=("project", "8"))),
        (ADDED, event("removed", parent=("project", "7"))),
        (TAGGED, event("removed", parent=("tag", "9"))),
        (TAGGED, event(field="tags", value="10")),
        (BELOW, event("added", parent=("task", "3"))),
        (ON_TOP, event("added", parent=("task", "3"))),
        (DEPENDS, event(gid="9", field="dependents", value="5")),
        (("DELETE", "/tasks/5", None), event("undeleted")),
        (ADDED, event("added")),
        (CUSTOM, story("comment_added")),
        (("PUT", "/goals/5", {"custom_fields": {"31": "x"}}), story("text_custom_field_changed")),
        (("PUT", "/tasks/5", {"due_on": "a", "due_at": "b"}), event(field="start_on")),
    ],
)
def test_call_does_not_cause_another_event(call: tuple[str, str, Any], other: Event) -> None:
    assert not causes(*call, other)


def test_two_that_follow_are_two_effects() -> None:
    effects = effects_of("POST", "/tasks/5/addFollowers", {"followers": ["8", "9"]})
    assert [each.value for each in effects if each.field] == ["8", "9"]


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/tasks", event("added", "50", parent=("project", "7"))),
        ("/tasks", event("added", "50", parent=("section", "70"))),
        ("/tasks", event("changed", "50", field="assignee")),
        ("/tasks", story("assigned", task="50")),
        ("/tasks/5/subtasks", event("added", "50", parent=("task", "5"))),
        ("/tasks/5/stories", event("added", "50", kind="story", parent=("task", "5"))),
        ("/projects/7/sections", event("added", "50", kind="section", parent=("project", "7"))),
        ("/projects", event("added", "50", kind="project", parent=("workspace", "1"))),
    ],
)
def test_what_a_call_made_is_known_by_its_gid(path: str, made: Event) -> None:
    data = {"name": "a", "assignee": "8"}
    assert causes("POST", path, data, made, "50") == 1
    assert causes("POST", path, data, made, "51") == 0
    assert any(each.needs_made for each in effects_of("POST", path, data))


@pytest.mark.parametrize(
    "call",
    [
        ("GET", "/tasks/5"),
        ("POST", "/webhooks"),
        ("PUT", "/webhooks/5"),
        ("DELETE", "/webhooks/5"),
        ("POST", "/tasks/5/duplicate"),
        ("POST", "/organization_exports"),
        ("PUT", "/workspaces/5/users/6"),
        ("DELETE", ""),
    ],
)
def test_call_that_is_not_known_to_cause_events_is_not_kept(call: tuple[str, str]) -> None:
    assert effects_of(*call, {"name": "a"}) == ()


def test_every_action_causes_something_of_what_it_names() -> None:
    one: dict[str, str] = dict.fromkeys(("project", "task", "tag", "parent", "item"), "1")
    data = one | dict.fromkeys(("followers", "members", "dependencies", "dependents"), "1,2")
    for action in ACTIONS:
        kind, verb = action.split("/")
        for effect in effects_of("POST", f"/{kind}/5/{verb}", data):
            shown = repr(effect)
            assert "{" not in shown, shown
            assert effect.resource or effect.parent, shown


BATCH = [
    {"method": "put", "relative_path": "/tasks/5", "data": {"completed": True}},
    {"method": "post", "relative_path": "/tasks/5/stories", "data": {"text": "a"}},
    {"method": "get", "relative_path": "/tasks/6"},
    {"method": "delete", "relative_path": "tasks/7"},
    {"method": "post", "relative_path": "/batch", "data": {"actions": []}},
    {"method": "post", "relative_path": "/tasks", "data": "odd"},
    "odd",
]


def test_batch_causes_what_its_actions_do() -> None:
    batch = "POST", "/batch", {"actions": BATCH}
    comment = event("added", "50", kind="story", parent=("task", "5"))
    for caused in (event(field="completed"), comment, event("deleted", "7")):
        assert causes(*batch, caused, "50") == 1
    assert causes(*batch, comment, "51") == 0
    assert causes(*batch, event(gid="6", field="completed")) == 0
    assert effects_of("POST", "/batch", {"actions": "odd"}) == ()


def test_batch_names_what_each_action_made() -> None:
    call = Call()
    answers: list[Any] = [
        {"status_code": 200, "body": {"data": {"gid": "5"}}},
        {"status_code": 201, "body": {"data": {"gid": "50"}}},
        {"status_code": 201, "body": {"data": {"gid": "51"}}},
        *({"status_code": 201}, {"status_code": 201, "body": {"data": []}}, "odd"),
    ]
    call.answered(answers)
    assert call.made == ("50", "51")


# What is kept


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> tuple[datetime, datetime]:
        return self.now - timedelta(seconds=0.1), self.now + timedelta(seconds=0.1)


async def kept(store: MemoryStore, *resources: str) -> list[Written]:
    return [Written.decode(each.text) for each in await store.list_writes(resources)]


def note(writes: Writes, path: str = "/tasks/5/stories", **fields: Any) -> Any:
    usual: dict[str, Any] = {"user": "8", "method": "POST", "data": {"text": "a"}}
    return writes.note(**{**usual, "path": path, **fields})


async def test_call_is_kept_before_it_is_made_and_when_it_has_ended() -> None:
    store, clock = MemoryStore(), Clock()
    async with note(Writes(store, clock)) as call:
        (written,) = await kept(store, "5")
        assert (written.user, written.started, written.ended) == ("8", clock()[0], None)
        assert await kept(store, MADE) == [written]
        clock.now += timedelta(seconds=3)
        call.answered({"gid": "50", "text": "a"})
    (written,) = await kept(store, "5")
    assert (written.ended, written.made) == (clock()[1], ("50",))
    assert clock()[0] - timedelta(seconds=1) < written.started <= clock()[0]  # by one clock
    assert await kept(store, "50") == [written]
    assert await kept(store, MADE) == []


async def test_call_is_kept_for_its_account() -> None:
    store = MemoryStore()
    async with note(Writes(store, Clock()).of("acme")):
        pass
    assert [each.account for each in await store.list_writes(["5"])] == ["acme"]


@pytest.mark.parametrize("wanted", [{"user": None}, {"user": ""}, {"path": "/webhooks"}])
async def test_call_whose_events_cannot_be_told_is_not_kept(wanted: dict[str, Any]) -> None:
    class Untouched(MemoryStore):
        async def put_write(self, write: Write) -> None:
            raise AssertionError

    async with note(Writes(Untouched(), Clock()), **wanted) as call:
        call.answered({"gid": "50"})


@pytest.mark.parametrize("data", [None, [], {}, {"gid": 5}, "gid"])
async def test_answer_that_names_no_object_made_none(data: object) -> None:
    call = Call()
    call.answered(data)
    assert call.made == ()


async def test_call_that_fails_is_kept_with_its_times() -> None:
    store = MemoryStore()
    with pytest.raises(RuntimeError):
        async with note(Writes(store, Clock())):
            raise RuntimeError
    (written,) = await kept(store, "5")
    assert written.ended == Clock()()[1]
    assert written.made == ()


async def test_call_that_is_cancelled_is_kept_with_its_times() -> None:
    class Awaited(MemoryStore):
        async def put_write(self, write: Write) -> None:
            await anyio.lowlevel.checkpoint()
            await super().put_write(write)

    store = Awaited()
    with anyio.CancelScope() as scope:
        async with note(Writes(store, Clock())):
            scope.cancel()
            await anyio.sleep_forever()
    (written,) = await kept(store, "5")
    assert written.ended == Clock()()[1]


class Away(MemoryStore):
    """Keeps so many writes, then no more."""

    left = 0

    async def put_write(self, write: Write) -> None:
        if not self.left:
            msg = "the store is away"
            raise StoreError(msg)
        self.left -= 1
        await super().put_write(write)


async def test_call_is_not_made_when_it_cannot_be_kept() -> None:
    with pytest.raises(StoreError, match="away"):
        async with note(Writes(Away(), Clock())):
            pytest.fail("it was made")


async def test_call_that_was_made_does_not_fail_when_its_result_cannot_be_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Away()
    store.left = 1
    async with note(Writes(store, Clock())):
        pass
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "the store is away" in record.message
    (written,) = await kept(store, "5")
    assert written.ended is None


async def test_store_that_does_not_answer_holds_up_no_call_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Slow(MemoryStore):
        calls = 0

        async def put_write(self, write: Write) -> None:
            self.calls += 1
            if self.calls > 1:
                await anyio.sleep_forever()

    monkeypatch.setattr("asana_webhooks._writes.RESULT_TIMEOUT", 0.01)
    async with note(Writes(store := Slow(), Clock())):
        pass
    assert store.calls == 2


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"user":"8","effects":[],"started":"x"}', "{"])
def test_damaged_text_is_an_error(text: str) -> None:
    with pytest.raises(DecodeError, match="not a write"):
        Written.decode(text)
