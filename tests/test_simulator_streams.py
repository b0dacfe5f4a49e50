"""The stream of events of the local Asana: sync tokens, pages, how long both last, and faults."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World

from asana_webhooks.simulator import AsanaSimulator
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
        ({"resource": "1201"}, 400, "resource: There is no stream of events of a user"),
    ],
)
async def test_call_for_events_with_a_mistake_is_refused(
    world: World, params: dict[str, str], status: int, message: str
) -> None:
    assert await world.refused("GET", "/events", **params) == (status, message)


# How long a token lasts


async def expired(world: World, sync: str) -> bool:
    return (await look(world, sync)).status_code == 412


async def test_tokens_may_last_for_less_than_a_day() -> None:
    async with local_asana.running(sync_lasts=600) as world:
        sync = await first_token(world)
        await world.put("/tasks/1301", name="Told in time")
        await world.asana.advance(minutes=9)
        sync = (await look(world, sync)).json()["sync"]
        await world.asana.advance(minutes=9)
        assert not await expired(world, sync)
        await world.put("/tasks/1301", name="Told to nobody")
        await world.asana.advance(minutes=1)
        answer = await look(world, sync)
        assert answer.status_code == 412
        assert (await look(world, answer.json()["sync"])).json()["data"] == []


async def test_every_token_can_be_made_to_expire(world: World) -> None:
    sync = await first_token(world)
    world.asana.faults.add("sync-expired")
    fresh = (await look(world, sync)).json()["sync"]
    assert await expired(world, fresh)
    world.asana.faults.clear()
    await world.put("/tasks/1301", name="After it")
    assert len((await look(world, fresh)).json()["data"]) == 1


async def test_way_back_to_an_earlier_token_can_be_closed(world: World) -> None:
    world.asana.faults.add("sync-forward-only")
    first = await first_token(world)
    second = (await look(world, first)).json()["sync"]
    assert not await expired(world, first)  # nobody has used the second one yet
    third = (await look(world, second)).json()["sync"]
    assert await expired(world, first)
    assert not await expired(world, second)
    assert not await expired(world, third)
    assert await expired(world, second)


async def test_token_needs_to_be_escaped_in_a_query(world: World) -> None:
    sync = await first_token(world)
    assert ":" in sync  # as in a token of Asana's that somebody published


# A stream that is slow


async def gids(world: World, sync: str) -> tuple[list[str], str, bool]:
    body = (await look(world, sync)).json()
    return [each["resource"]["gid"] for each in body["data"]], body["sync"], body["has_more"]


async def test_events_can_be_in_the_stream_later_than_they_happen() -> None:
    async with local_asana.running(stream_lag=300) as world:
        sync = await first_token(world)
        await world.put("/tasks/1301", name="One")
        await world.asana.advance(minutes=4)
        await world.put("/tasks/1302", name="Two")
        shown, sync, more = await gids(world, sync)
        assert (shown, more) == ([], False)
        await world.asana.advance(minutes=2)
        shown, sync, more = await gids(world, sync)
        assert (shown, more) == (["1301"], False)
        await world.asana.advance(minutes=4)
        assert (await gids(world, sync))[0] == ["1302"]


async def test_pages_of_a_late_stream_lose_nothing() -> None:
    async with local_asana.running(stream_lag=60) as world:
        sync = await first_token(world)
        events = [{"action": "changed", "resource": {"gid": str(n)}} for n in range(250)]
        await world.asana.emit("8675309", *events[:150])
        await world.asana.advance(seconds=61)
        await world.asana.emit("8675309", *events[150:])
        first, sync, more = await gids(world, sync)
        assert (len(first), more) == (100, True)
        second, sync, more = await gids(world, sync)
        assert (len(second), more) == (50, False)
        await world.asana.advance(seconds=61)
        third, sync, more = await gids(world, sync)
        assert first + second + third == [str(n) for n in range(250)]
        assert not more


async def test_slow_stream_answers_when_it_is_released_with_what_happened_until_then(
    world: World,
) -> None:
    sync = await first_token(world)
    world.asana.faults.add("slow-stream")
    reading = asyncio.create_task(look(world, sync))
    assert not (await asyncio.wait([reading], timeout=0.1))[0]
    assert (await world.api.get("/users/me")).status_code == 200
    await world.put("/tasks/1301", name="Meanwhile")
    world.asana.release_stream.set()
    assert len((await reading).json()["data"]) == 1


async def test_slow_stream_does_not_keep_the_simulator_open() -> None:
    async with asyncio.timeout(5):
        async with httpx.AsyncClient() as http:
            async with AsanaSimulator() as asana:
                asana.faults.add("slow-stream")
                url = f"{asana.base_url}/events?resource={asana.project}"
                reading = asyncio.create_task(http.get(url, headers={"Authorization": "Bearer a"}))
                assert not (await asyncio.wait([reading], timeout=0.1))[0]
            with pytest.raises(httpx.TransportError):
                await reading


# A stream that says a change otherwise than the webhook


async def both(world: World, *faults: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return some changes as the webhook and as the stream says them, with these faults."""
    webhook = await world.watch("8675309")
    sync = await first_token(world)
    await world.asana.create_task("New", project="8675309")
    await world.put("/tasks/1301", assignee="1202", completed=True)
    await world.post("/tasks/1301/addFollowers", followers=["1201"])
    world.asana.faults |= set(faults)
    told = [event for events in await world.told(webhook) for event in events]
    streamed = (await look(world, sync)).json()["data"]
    assert (await look(world, sync)).json()["data"] == streamed  # the same whenever it is asked
    return told, streamed


def comparable(event: dict[str, Any], *, but: str = "") -> dict[str, Any]:
    """Return what both sources say of an event: of each object in it, its gid and type."""
    text = json.dumps({name: event[name] for name in event if name not in ("type", but)})
    fields: dict[str, Any] = json.loads(text, object_hook=_reference)
    return fields


def _reference(fields: dict[str, Any]) -> dict[str, Any]:
    known = ("gid", "resource_type") if "gid" in fields else fields
    return {name: fields[name] for name in known}


async def test_stream_says_the_same_as_a_webhook_but_for_names(world: World) -> None:
    told, streamed = await both(world)
    assert len(told) == 6
    assert [comparable(each) for each in streamed] == [comparable(each) for each in told]


async def test_times_of_the_stream_can_differ_by_up_to_a_second(world: World) -> None:
    told, streamed = await both(world, "stream-times")
    pairs = [*zip(told, streamed, strict=True)]
    for webhook, stream in pairs:
        assert comparable(stream, but="created_at") == comparable(webhook, but="created_at")
    moments = [[datetime.fromisoformat(each["created_at"]) for each in pair] for pair in pairs]
    apart = [abs(one - other) for one, other in moments]
    assert timedelta() < min(apart) <= max(apart) <= timedelta(seconds=1)
    assert len(set(apart)) > 1


async def test_no_time_of_the_stream_is_by_chance_the_webhook_s(world: World) -> None:
    world.asana.faults.add("stream-times")
    sync = await first_token(world)
    at = "2026-07-04T10:11:12.345Z"
    events = [{"created_at": at, "resource": {"gid": str(n)}} for n in range(5_000)]
    await world.asana.emit("8675309", *events)
    more = True
    while more:
        body = (await look(world, sync, opt_fields="created_at")).json()
        assert at not in {each["created_at"] for each in body["data"]}
        sync, more = body["sync"], body["has_more"]


async def test_parents_of_the_stream_can_be_missing(world: World) -> None:
    told, streamed = await both(world, "stream-parents")
    assert any(each["parent"] for each in told)
    assert {each["parent"] for each in streamed} == {None}
    for webhook, stream in zip(told, streamed, strict=True):
        assert comparable(stream, but="parent") == comparable(webhook, but="parent")


async def test_values_of_the_stream_can_be_missing(world: World) -> None:
    told, streamed = await both(world, "stream-values")
    values = {name for each in told for name in each.get("change", {})} - {"field", "action"}
    assert values == {"new_value", "added_value"}
    for webhook, stream in zip(told, streamed, strict=True):
        assert comparable(stream, but="change") == comparable(webhook, but="change")
        assert set(stream.get("change", {})) <= {"field", "action"}


@pytest.mark.parametrize("created_at", [7, "yesterday"])
async def test_time_that_is_none_stays_as_it_is(world: World, created_at: object) -> None:
    world.asana.faults |= {"stream-times", "stream-parents", "stream-values"}
    sync = await first_token(world)
    event = {"action": "changed", "created_at": created_at, "change": 5}
    await world.asana.emit("8675309", event)
    params = {"resource": "8675309", "sync": sync}
    async with httpx.AsyncClient(headers=world.api.headers) as unjudging:
        answer = await unjudging.get(f"{world.asana.base_url}/events", params=params)
    assert answer.json()["data"] == [event]
