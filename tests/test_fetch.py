"""The objects that events name: where they are found, and who shares a call for them."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
from conftest import until
from msgspec.structs import replace
from support import asana_api

from asana_webhooks import (
    Event,
    PermissionDeniedError,
    Resource,
    ServerError,
    Source,
    WebhooksApi,
    WebhooksClient,
    _fetch,
)
from asana_webhooks._background import background_task
from asana_webhooks._budget import Kind
from asana_webhooks._fetch import PLACES, path_of
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import make_event

MakeClient = Callable[..., WebhooksClient]

bare_environment = asana_api.bare_environment
mocked = asana_api.asana
api = asana_api.api

DESCRIBED = Path(__file__).with_name("support") / "asana_paths.txt"
"""The paths of single objects in Asana's OpenAPI description."""

TASK = Resource(gid="1204619", resource_type="task")


def event(
    resource: Resource = TASK, action: str = "changed", *, received: float = 0.0, made: float = 0.0
) -> Event:
    """Return an event that was made and received so many seconds from now."""
    now = datetime.now(UTC)
    source = Source(webhook="1", resource="2", received_at=now + timedelta(seconds=received))
    created_at = now + timedelta(seconds=made)
    return Event(created_at=created_at, action=action, resource=resource, source=source)


class Answers:
    """Asana's answers for the task, each with the number of its call; held up while asked to."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.calls = 0
        self.ended = 0
        self.released = asyncio.Event()
        self.released.set()
        router.get(f"/tasks/{TASK.gid}").side_effect = self._answer

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        number = self.calls
        await self.released.wait()
        self.ended += 1
        return httpx.Response(200, json={"data": {"gid": TASK.gid, "number": number}})


@pytest.fixture
def answers(mocked: respx.MockRouter) -> Answers:
    return Answers(mocked)


def numbers(found: list[dict[str, Any] | None]) -> list[int]:
    return [each["number"] if each is not None else 0 for each in found]


# Where an object is found


def test_every_type_that_the_description_gives_a_path_is_known_by_it() -> None:
    described = {}
    for path in DESCRIBED.read_text().split():
        match = re.fullmatch(r"(/[a-z_]+)/\{([a-z_]+)_gid\}", path)
        assert match is not None
        described[match[2]] = match[1]
    memberships = {name: place for name, place in PLACES.items() if name not in described}
    assert {name: PLACES.get(name) for name in described} == described
    assert set(memberships.values()) == {"/memberships"}


def test_path_of_an_object_is_below_that_of_its_type() -> None:
    assert path_of(Resource(gid="7", resource_type="time_tracking_category")) == (
        "/time_tracking_categories/7"
    )


@pytest.mark.parametrize(
    ("resource", "said"),
    [
        (Resource(gid="7"), "its resource_type"),
        (Resource(gid="7", resource_type="spaceship"), "'spaceship'.*request"),
        (Resource(gid="7/../../users/me", resource_type="task"), "must be a gid"),
        (Resource(gid="", resource_type="task"), "must be a gid"),
    ],
    ids=["no type", "unknown type", "a path", "no gid"],
)
async def test_object_that_cannot_be_found_is_a_value_error(
    api: WebhooksApi, resource: Resource, said: str
) -> None:
    for what in (resource, event(resource), event(resource, "deleted")):
        with pytest.raises(ValueError, match=said):
            await api.fetch(what)


@pytest.mark.parametrize("what", ["1204619", None, {"gid": "1204619"}])
async def test_what_is_no_event_and_no_resource_is_a_type_error(
    api: WebhooksApi, what: Any
) -> None:
    with pytest.raises(TypeError, match="takes an Event or a Resource"):
        await api.fetch(what)


# What comes back


async def test_object_comes_with_the_fields_that_are_asked_for(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    route = mocked.get("/tasks/1204619").respond(json={"data": {"gid": "1204619", "name": "Fix"}})
    for what in (event(), TASK):
        assert await api.fetch(what, opt_fields=["name", "notes"]) == {
            "gid": "1204619",
            "name": "Fix",
        }
        assert dict(route.calls.last.request.url.params) == {"opt_fields": "name,notes"}


async def test_deleted_event_is_no_call(api: WebhooksApi, mocked: respx.MockRouter) -> None:
    assert await api.fetch(event(action="deleted")) is None
    assert not mocked.calls


@pytest.mark.parametrize("status", [404, 410])
async def test_object_that_is_gone_is_none(
    api: WebhooksApi, mocked: respx.MockRouter, status: int
) -> None:
    mocked.get("/tasks/1204619").respond(status)
    assert await api.fetch(event()) is None


async def test_object_that_the_token_may_not_see_is_an_error_for_each_who_asks(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    route = mocked.get("/tasks/1204619").respond(403)
    for _ in range(2):  # an error is not kept
        found = await asyncio.gather(
            *(api.fetch(event()) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in found] == [PermissionDeniedError] * 3
    assert route.call_count == 2


async def test_each_who_asks_has_a_dict_of_its_own(api: WebhooksApi, answers: Answers) -> None:
    first, second = await asyncio.gather(api.fetch(TASK), api.fetch(TASK))
    assert first is not None
    first["number"] = 99
    assert second == {"gid": TASK.gid, "number": 1}


# Who shares a call


async def test_calls_at_once_for_one_thing_are_one(api: WebhooksApi, answers: Answers) -> None:
    asked = [api.fetch(event()) for _ in range(50)] + [api.fetch(TASK) for _ in range(50)]
    assert numbers(await asyncio.gather(*asked)) == [1] * 100


async def test_other_fields_and_other_things_are_other_calls(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    route = mocked.get(path__regex=".*/tasks/.*").respond(json={"data": {"gid": "1"}})
    other = Resource(gid="2", resource_type="task")
    await asyncio.gather(
        api.fetch(TASK), api.fetch(TASK, opt_fields=["name"]), api.fetch(other), api.fetch(TASK)
    )
    assert route.call_count == 3


async def test_answer_serves_what_was_received_before_its_call_and_nothing_else(
    api: WebhooksApi, answers: Answers
) -> None:
    before = event(received=-0.1, made=-0.5)
    found = [await api.fetch(before), await api.fetch(before)]
    found.append(await api.fetch(event(received=0.0, made=-5.0)))  # after the first call
    found.append(await api.fetch(before))  # the second serves it too
    assert numbers(found) == [1, 1, 2, 2]


def made_by_hand() -> Event:
    return replace(event(), source=Source(webhook="", resource=""))


def received_by_a_slow_clock() -> Event:
    return event(received=-60.0, made=5.0)


@pytest.mark.parametrize("make", [lambda: TASK, made_by_hand, received_by_a_slow_clock])
async def test_call_that_has_begun_serves_nothing_that_may_be_newer(
    api: WebhooksApi, answers: Answers, make: Callable[[], Event | Resource]
) -> None:
    answers.released.clear()
    what = make()
    first = asyncio.create_task(api.fetch(what))
    await until(lambda: answers.calls == 1)
    second = asyncio.create_task(api.fetch(what))
    await until(lambda: answers.calls == 2)
    answers.released.set()
    assert numbers([await first, await second]) == [1, 2]


async def test_call_that_waits_for_a_slot_serves_all_who_come_meanwhile(
    api: WebhooksApi, answers: Answers
) -> None:
    transport = api._transport
    slots = [await transport.take_slot(Kind.READ) for _ in range(50)]
    asked = [asyncio.create_task(api.fetch(TASK))]
    await anyio.wait_all_tasks_blocked()
    asked += [asyncio.create_task(api.fetch(what)) for what in (TASK, event())]
    await anyio.wait_all_tasks_blocked()
    slots[0].leave_slot()
    assert numbers(await asyncio.gather(*asked)) == [1, 1, 1]


async def test_answer_serves_nobody_after_the_program_has_written(
    api: WebhooksApi, answers: Answers, mocked: respx.MockRouter
) -> None:
    mocked.put("/tasks/1204619").respond(json={"data": {}})
    known = event(received=-1.0, made=-1.0)
    assert numbers([await api.fetch(known), await api.fetch(known)]) == [1, 1]
    await api.request("PUT", "/tasks/1204619", data={"completed": True})
    assert numbers([await api.fetch(known)]) == [2]


async def test_answer_is_kept_for_a_short_time_and_a_large_one_for_none(
    api: WebhooksApi, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = event(received=-1.0, made=-1.0)
    monkeypatch.setattr(_fetch, "KEPT", 0.01)
    await api.fetch(known)
    fetches = api._fetches
    assert fetches is not None
    await until(lambda: not fetches._calls)
    monkeypatch.setattr(_fetch, "KEPT", 60.0)
    monkeypatch.setattr(_fetch, "MAX_KEPT", 5)
    assert numbers([await api.fetch(known)]) == [2]
    await until(lambda: not fetches._calls)


# Cancellation and failure


async def test_cancelled_caller_does_not_cancel_the_others(
    api: WebhooksApi, answers: Answers
) -> None:
    answers.released.clear()
    asked = [asyncio.create_task(api.fetch(TASK)) for _ in range(3)]
    await until(lambda: answers.calls)
    asked[0].cancel()
    await asyncio.wait([asked[0]])
    answers.released.set()
    assert numbers([await asked[1], await asked[2]]) == [1, 1]


async def test_call_that_nobody_waits_for_any_more_is_ended(
    api: WebhooksApi, answers: Answers
) -> None:
    answers.released.clear()
    asked = [asyncio.create_task(api.fetch(event())) for _ in range(3)]
    await until(lambda: answers.calls)
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)
    await until(lambda: api._transport.budget_state().reads == 0)
    answers.released.set()
    assert answers.ended == 0
    assert numbers([await api.fetch(event(received=-1.0))]) == [2]


async def test_failed_call_is_made_again_for_who_asks_next(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    known = event(received=-1.0, made=-1.0)
    answers = [httpx.Response(501), httpx.Response(200, json={"data": {"gid": "1"}})]
    mocked.get("/tasks/1204619").side_effect = answers
    with pytest.raises(ServerError):
        await api.fetch(known)
    assert await api.fetch(known) == {"gid": "1"}


# In handlers


async def test_thousand_events_of_a_hundred_tasks_cost_at_most_two_calls_a_task(
    make_client: MakeClient,
) -> None:
    async with (
        AsanaSimulator(concurrent_gets=50, concurrent_writes=15, gather_for=0) as asana,
        make_client(base_url=asana.base_url, look_after=None, reconcile=None) as client,
    ):
        tasks = [await asana.create_task(f"Task {n}", project=asana.project) for n in range(100)]
        await client.ensure(asana.project)
        found: list[dict[str, Any] | None] = []

        @client.on("task", action="changed", field="notes")
        async def look(event: Event) -> None:
            found.append(await client.fetch(event, opt_fields=["name"]))

        started = datetime.now(UTC) - timedelta(seconds=10)
        changes = [
            make_event(gid=task, field="notes", created_at=at.isoformat()).json()
            for at in (started + timedelta(milliseconds=number) for number in range(10))
            for task in tasks
        ]
        await asana.emit(asana.project, *changes)
        await asana.settled()
        async with background_task(client.run(), "handling"):
            await until(lambda: len(found) == 1000)
        gets = [call for call in asana.calls("GET") if "/tasks/" in call.path]
        assert 100 <= len(gets) <= 200
        assert {each["name"] for each in found if each} == {f"Task {n}" for n in range(100)}
        assert 429 not in {call.status for call in asana.calls()}
