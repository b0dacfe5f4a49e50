"""The stream of events of the local Asana: sync tokens, pages, and how long both last."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World

from asana_webhooks.simulator.events import EventLog, PublishedEvent
from asana_webhooks.simulator.state import State


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running() as world:
        yield world


class Clock:
    """Time passes only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = datetime(2026, 7, 1, tzinfo=UTC)
        monkeypatch.setattr(State, "now", lambda _: self.tick())

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def pass_(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def look(world: World, sync: str | None = None, **params: Any) -> httpx.Response:
    query = {"resource": "8675309"} | ({} if sync is None else {"sync": sync}) | params
    return await world.api.get("/events", params=query)


async def first_token(world: World, resource: str = "8675309") -> str:
    response = await look(world, resource=resource)
    assert response.status_code == 412
    sync: str = response.json()["sync"]
    return sync


async def test_first_call_is_412_with_a_token(world: World) -> None:
    response = await look(world)
    assert response.status_code == 412
    body = response.json()
    assert body.keys() == {"errors", "sync"}
    assert body["errors"] == [
        {
            "message": "Sync token invalid or too old. If you are attempting to keep resources in "
            "sync, you must fetch the full dataset for this query now and use the new sync token "
            "for the next sync."
        }
    ]
    assert (await look(world, body["sync"])).status_code == 200


@pytest.mark.parametrize("sync", ["", "made-up"])
async def test_token_that_asana_never_gave_out_is_412(world: World, sync: str) -> None:
    assert (await look(world, sync)).status_code == 412


async def test_token_of_another_resource_is_412(world: World) -> None:
    sync = await first_token(world, "1301")
    assert (await look(world, sync)).status_code == 412


async def test_events_since_the_token_are_full_records(world: World) -> None:
    await world.put("/tasks/1301", name="Before the token")
    sync = await first_token(world)
    await world.put("/tasks/1301", assignee="1202")
    await world.asana.add_comment("1301", "Hello")
    body = (await look(world, sync, limit="1")).json()
    assert body.keys() == {"data", "sync", "has_more"}
    assert body["has_more"] is False
    changed, added = body["data"]
    task = {
        "gid": "1301",
        "resource_type": "task",
        "name": "Before the token",
        "resource_subtype": "default_task",
    }
    assert changed == {
        "user": {"gid": "1201", "resource_type": "user", "name": "Robin Example"},
        "created_at": changed["created_at"],
        "type": "task",
        "action": "changed",
        "resource": task,
        "parent": None,
        "change": {
            "field": "assignee",
            "action": "changed",
            "new_value": {"gid": "1202", "resource_type": "user", "name": "Sam Example"},
        },
    }
    assert (added["type"], added["resource"]["text"]) == ("story", "Hello")
    assert added["parent"] == task


async def test_next_token_leads_on_and_the_old_one_gives_the_same_again(world: World) -> None:
    sync = await first_token(world)
    await world.put("/tasks/1301", name="One")
    first = (await look(world, sync)).json()
    await world.put("/tasks/1301", name="Two")
    second = (await look(world, first["sync"])).json()
    assert [len(each["data"]) for each in (first, second)] == [1, 1]
    assert len((await look(world, sync)).json()["data"]) == 2
    assert (await look(world, second["sync"])).json()["data"] == []


async def test_named_fields_of_events_are_shown_and_no_others(world: World) -> None:
    sync = await first_token(world)
    await world.put("/tasks/1301", assignee="me")
    fields = "action,resource.name,change.new_value.email"
    [event] = (await look(world, sync, opt_fields=fields)).json()["data"]
    assert event == {
        "action": "changed",
        "resource": {"gid": "1301", "name": "The login forgets its visitors"},
        "change": {"new_value": {"gid": "1201", "email": "robin@example.com"}},
    }


@pytest.mark.parametrize(
    "event",
    [
        {"resource": 7},
        {"resource": {"gid": ["1301"], "resource_type": "task"}, "change": "name"},
        {"action": "changed", "resource": "1301", "user": {"gid": None}, "change": ["name"]},
        {},
    ],
    ids=["number", "list-for-gid", "text", "nothing"],
)
async def test_event_of_any_shape_is_in_the_stream_and_passes_no_filter(
    world: World, event: dict[str, Any]
) -> None:
    sync = await first_token(world)
    named = {"resource_type": "task", "action": "changed", "fields": ["name"]}
    filtered = await world.watch("8675309", named)
    free = await world.watch("8675309")
    await world.asana.emit("8675309", event)
    assert await world.told(filtered) == []
    assert await world.told(free) == [[event]]
    params = {"resource": "8675309", "sync": sync}
    async with httpx.AsyncClient(headers=world.api.headers) as unjudging:
        answer = await unjudging.get(f"{world.asana.base_url}/events", params=params)
    [shown] = answer.json()["data"]
    assert {name: shown[name] for name in event} == event


async def test_stream_has_events_as_they_were_emitted(world: World) -> None:
    sync = await first_token(world)
    event = {"action": "changed", "resource": {"gid": "1301"}}
    await world.asana.emit("8675309", event)
    event["resource"] = {"gid": "1302"}
    with pytest.raises(TypeError):
        await world.asana.emit("8675309", event, {"action": object()})
    [shown] = (await look(world, sync)).json()["data"]
    assert shown["resource"]["gid"] == "1301"


async def test_stream_has_what_bubbles_up_and_no_more(world: World) -> None:
    project, task = await first_token(world), await first_token(world, "1302")
    await world.put("/tasks/1301", name="Other")
    await world.asana.add_comment("1302", "Hello")
    assert len((await look(world, project)).json()["data"]) == 2
    [event] = (await look(world, task, resource="1302")).json()["data"]
    assert event["resource"]["text"] == "Hello"


async def test_more_than_a_hundred_events_come_in_pages(world: World) -> None:
    sync = await first_token(world)
    events = [{"action": "changed", "resource": {"gid": str(n)}} for n in range(201)]
    await world.asana.emit("8675309", *events[:150])
    await world.asana.emit("1301", events[0])
    await world.asana.emit("8675309", *events[150:])
    pages = []
    for more in (True, True, False):
        body = (await look(world, sync)).json()
        assert body["has_more"] is more
        sync = body["sync"]
        pages.append([each["resource"]["gid"] for each in body["data"]])
    assert [len(page) for page in pages] == [100, 100, 1]
    assert [gid for page in pages for gid in page] == [str(number) for number in range(201)]


async def test_exactly_a_hundred_events_are_one_page(world: World) -> None:
    sync = await first_token(world)
    await world.asana.emit("8675309", *({"action": "changed"} for _ in range(100)))
    body = (await world.api.get("/projects/8675309/events", params={"sync": sync})).json()
    assert (len(body["data"]), body["has_more"]) == (100, False)


async def test_token_ends_after_24_hours(clock: Clock) -> None:
    async with local_asana.running() as world:
        sync = await first_token(world)
        clock.pass_(hours=23)
        assert (await look(world, sync)).status_code == 200
        clock.pass_(hours=1)
        response = await look(world, sync)
        assert response.status_code == 412
        assert (await look(world, response.json()["sync"])).status_code == 200


async def test_events_are_kept_for_24_hours(clock: Clock) -> None:
    async with local_asana.running() as world:
        await world.put("/tasks/1301", name="Old")
        clock.pass_(hours=1)
        sync = await first_token(world)
        await world.put("/tasks/1301", name="A day ago")
        clock.pass_(hours=12)
        await world.put("/tasks/1301", name="New")
        clock.pass_(hours=11, minutes=59)
        events = (await look(world, sync)).json()["data"]
        assert len(events) == 2
        sync = (await look(world, sync)).json()["sync"]
        clock.pass_(hours=12)
        await world.put("/tasks/1301", name="Newest")
        [event] = (await look(world, sync)).json()["data"]
        assert event["change"]["field"] == "name"


def test_events_are_not_kept_for_longer(clock: Clock) -> None:
    feed = EventLog(State(), lambda webhook, events: None)
    feed.publish(PublishedEvent({"action": "changed"}, {"1301"}))
    clock.pass_(hours=23)
    assert len(feed.since("1301", 0).events) == 1
    clock.pass_(hours=1)
    assert feed.since("1301", 0) == ([], 1, False)


async def test_missed_deliveries_can_be_made_good_from_the_stream(world: World) -> None:
    sync = await first_token(world)
    webhook = await world.watch("8675309")
    await world.api.delete(f"/webhooks/{webhook}")
    task = await world.asana.create_task("While nobody looked", project="8675309")
    events = (await look(world, sync)).json()["data"]
    assert [(each["resource"]["gid"], each["parent"]["gid"]) for each in events] == [
        (task, "8675309"),
        (task, "1400"),
    ]


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({}, 400, "resource: Missing input"),
        ({"resource": "1"}, 404, "resource: Unknown object: 1"),
        ({"resource": "1331"}, 400, "resource: There is no stream of events of a workspace"),
    ],
)
async def test_call_for_events_with_a_mistake_is_refused(
    world: World, params: dict[str, str], status: int, message: str
) -> None:
    assert await world.refused("GET", "/events", **params) == (status, message)
