"""Common to all calls of the local Asana: forms, pages, limits, host names, errors."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from support import local_asana
from support.local_asana import World
from support.plain_http import NO_TLS

from asana_webhooks.simulator import AsanaSimulator, http_sender
from asana_webhooks.simulator.groups.events import EventCalls
from asana_webhooks.simulator.input import Pages
from asana_webhooks.simulator.middleware import announcement
from asana_webhooks.simulator.responses import Refused
from asana_webhooks.simulator.state import State
from asana_webhooks.simulator.subscriptions import check_room

WHOLE = {
    *("gid", "resource_type", "resource", "target", "active", "is_workspace_webhook"),
    *("created_at", "last_failure_at", "last_failure_content", "last_success_at", "filters"),
    *("delivery_retry_count", "next_attempt_after", "failure_deletion_timestamp"),
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with local_asana.running() as world:
        yield world


class Clock:
    """Time passes only when it is told to."""

    now = datetime(2026, 7, 1, tzinfo=UTC)

    def pass_(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(State, "now", lambda _: clock.now)
    return clock


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], list[Any]]:
    """Return a function that lists the objects of a class that a test has made."""
    made: list[Any] = []
    for kind in (Pages, EventCalls):
        original = kind.__init__

        def init(self: Any, *args: Any, original: Any = original, **options: Any) -> None:
            made.append(self)
            original(self, *args, **options)

        monkeypatch.setattr(kind, "__init__", init)
    return lambda kind: [each for each in made if isinstance(each, kind)]


# Forms and fields


async def test_forms_do_as_well_as_json(world: World) -> None:
    created = await world.api.post(
        "/webhooks", data={"resource": "8675309", "target": world.target}
    )
    assert created.status_code == 201
    task = (await world.api.post("/tasks", data={"name": "From a form", "parent": "1301"})).json()
    form = {"completed": "true", "due_on": "2026-12-24"}
    changed = (await world.api.put(f"/tasks/{task['data']['gid']}", data=form)).json()["data"]
    assert (changed["completed"], changed["due_on"]) == (True, "2026-12-24")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"resource"),
        ("multipart/form-data; boundary=x", b"resource"),
        ("application/x-www-form-urlencoded; charset=none", b"resource=8675309"),
        ("application/x-www-form-urlencoded", b"resource=\xff"),
    ],
    ids=["no-boundary", "no-part", "charset", "bytes"],
)
async def test_form_that_cannot_be_read_is_refused(world: World, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind}
    response = await world.api.post("/webhooks", content=body, headers=headers)
    [error] = response.json()["errors"]
    message = "Could not parse request data, invalid form"
    assert (response.status_code, error["message"]) == (400, message)


async def test_webhook_is_shown_whole_compact_or_as_named(world: World) -> None:
    gid = await world.watch("8675309", {"resource_type": "task", "action": "added"})
    assert (await world.get(f"/webhooks/{gid}")).keys() == WHOLE
    [compact] = await world.get("/webhooks", workspace="1331")
    assert compact.keys() == {"gid", "resource_type", "active", "resource", "target"}
    fields = "resource.name,filters.action,filters.fields,next_attempt_after"
    [named] = await world.get("/webhooks", workspace="1331", opt_fields=fields)
    assert named == {
        "gid": gid,
        "resource": {"gid": "8675309", "name": "Bugs"},
        "filters": [{"action": "added", "fields": None}],
        "next_attempt_after": None,
    }


@pytest.mark.parametrize("value", ["", "true", "1"])
async def test_pretty_answers_have_lines(world: World, value: str) -> None:
    plain = await world.api.get("/users/me")
    pretty = await world.api.get("/users/me", params={"opt_pretty": value})
    assert pretty.json() == plain.json()
    assert "\n" not in plain.text
    assert pretty.text.startswith('{\n  "data": {\n    "gid": "1201",\n')
    refused = await world.api.get("/tasks", params={"opt_pretty": value})
    assert refused.text.startswith('{\n  "errors": [\n')


@pytest.mark.parametrize("value", ["false", "False"])
async def test_answers_are_not_pretty_when_that_is_declined(world: World, value: str) -> None:
    answer = await world.api.get("/users/me", params={"opt_pretty": value})
    assert "\n" not in answer.text


async def test_html_stays_as_it_is(world: World) -> None:
    world.asana.faults.add("unavailable")
    answer = await world.api.get("/users/me", params={"opt_pretty": "true"})
    assert answer.text == "<html><body><h1>503 Service Unavailable</h1></body></html>"


# Pages


async def all_pages(world: World, path: str, **params: Any) -> list[list[str]]:
    pages = []
    while True:
        body = (await world.api.get(path, params=params)).json()
        pages.append([each["gid"] for each in body["data"]])
        if body["next_page"] is None:
            return pages
        params["offset"] = body["next_page"]["offset"]


async def test_every_list_has_pages(world: World) -> None:
    assert await all_pages(world, "/projects/8675309/tasks", limit=2) == [
        ["1301", "1302"],
        ["1303"],
    ]
    assert await all_pages(world, "/users", limit=1) == [["1201"], ["1202"]]
    assert await all_pages(world, "/tasks/1301/stories", limit=100) == [[]]


async def test_offset_tells_nothing_and_is_good_for_its_list_only(world: World) -> None:
    first = (await world.api.get("/tasks", params={"project": "8675309", "limit": 1})).json()
    again = (await world.api.get("/tasks", params={"project": "8675309", "limit": 1})).json()
    offset = first["next_page"]["offset"]
    assert offset != again["next_page"]["offset"]
    assert "1301" not in offset
    message = "offset: Your pagination token is invalid or has expired"
    for path in ("/users", "/projects/8675309/tasks"):
        assert await world.refused("GET", path, limit=1, offset=offset) == (400, message)


async def test_offset_ends_with_the_record_before_it(world: World) -> None:
    first = (await world.api.get("/tasks", params={"project": "8675309", "limit": 1})).json()
    await world.api.delete("/tasks/1301")
    offset = first["next_page"]["offset"]
    refused = await world.refused("GET", "/tasks", project="8675309", limit=1, offset=offset)
    assert refused == (400, "offset: Your pagination token is invalid or has expired")


async def test_offset_ends_after_a_quarter_of_an_hour(clock: Clock) -> None:
    async with local_asana.running() as world:
        first = (await world.api.get("/tasks", params={"project": "8675309", "limit": 2})).json()
        clock.pass_(minutes=14)
        assert (await world.api.get(first["next_page"]["uri"])).status_code == 200
        clock.pass_(minutes=1)
        response = await world.api.get(world.asana.base_url + first["next_page"]["path"])
        assert response.status_code == 400
        [error] = response.json()["errors"]
        assert error["message"] == "offset: Your pagination token has expired."


async def test_what_ended_is_forgotten(clock: Clock, opened: Callable[[type], list[Any]]) -> None:
    async with local_asana.running() as world:
        for _ in range(3):
            await world.api.get("/tasks", params={"project": "8675309", "limit": 2})
            await world.api.get("/events", params={"resource": "8675309"})
            clock.pass_(days=2)
        assert [len(pages._offsets) for pages in opened(Pages)] == [1]
        assert [len(calls._readers) for calls in opened(EventCalls)] == [1]


async def test_list_of_posts_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_sender, "MOST_ATTEMPTS", 2)
    async with local_asana.running() as world:
        await world.watch("8675309")
        for name in ("one", "two", "three"):
            await world.asana.create_task(name, project="8675309")
            await world.asana.settled()
        assert len(world.asana.deliveries) == 2
        assert b"three" not in world.asana.deliveries[0].body


# Names of the host


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:{port}", 200),
        ("asana.localhost:{port}", 200),
        ("127.0.0.1", 200),
        ("[::1]:{port}", 200),
        ("asana.test:{port}", 200),
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("asana.test.evil.example", 403),
        ("a b", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/api/1.0/users/me", "/-/control/state", "/-/oauth_token"])
async def test_only_own_names_of_the_host_are_answered(
    path: str, method: str, host: str, status: int
) -> None:
    async with (
        AsanaSimulator(host_names=["Asana.test"]) as asana,
        httpx.AsyncClient(verify=NO_TLS) as http,
    ):
        origin = asana.base_url.removesuffix("/api/1.0")
        name = host.format(port=origin.rpartition(":")[2])
        headers = {"Host": name, "Authorization": "Bearer a"}
        answer = await http.request(method, f"{origin}{path}", headers=headers)
        refused = answer.status_code == 403 and "host_names" in answer.text
        assert refused is (status == 403)


def test_names_of_the_host_are_a_collection() -> None:
    with pytest.raises(ValueError, match=r"host_names .* write \('asana',\)"):
        AsanaSimulator(host_names="asana")


async def test_unknown_route_is_told_before_the_token_is_looked_at() -> None:
    async with AsanaSimulator() as asana, httpx.AsyncClient(verify=NO_TLS) as http:
        assert (await http.get(f"{asana.base_url}/nothing")).status_code == 404
        assert (await http.get(f"{asana.base_url}/users/me")).status_code == 401


async def test_version_of_the_api_is_another_one_for_reading(world: World) -> None:
    read = await world.api.get("/users/me")
    made = await world.api.post("/tags", json={"data": {"name": "red", "workspace": "1331"}})
    versions = [each.headers["X-Asana-Api-Version"] for each in (read, made)]
    assert versions == ["1.1", "1.0"]


async def test_list_of_more_than_a_thousand_needs_a_limit(world: World) -> None:
    for number in range(998):
        await world.asana.create_task(f"Task {number}", project="8675309")
    refused = await world.refused("GET", "/projects/8675309/tasks")
    message = "The result is too large. You should use pagination"
    assert refused == (400, f"{message} (may require specifying a workspace)!")
    assert len(await world.get("/projects/8675309/tasks", limit=100)) == 100
    await world.api.delete("/tasks/1301")
    assert len(await world.get("/projects/8675309/tasks")) == 1_000


# Limits


async def test_calls_beyond_the_limit_of_a_minute_are_refused_until_it_is_over(
    clock: Clock,
) -> None:
    async with local_asana.running(rate_limit=3) as world:
        statuses = [(await world.api.get("/users/me")).status_code for _ in range(3)]
        assert statuses == [200] * 3
        clock.pass_(seconds=18.2)
        refused = await world.api.get("/users/me")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "42")
        [error] = refused.json()["errors"]
        assert error["message"] == (
            "You've made too many requests and hit a rate limit. "
            "Please retry after the given amount of time."
        )
        async with local_asana.client(world.asana, "another") as other:
            assert (await other.get("/users/me")).status_code == 200
        clock.pass_(seconds=41.8)
        assert (await world.api.get("/users/me")).status_code == 200


async def test_refused_calls_count_too(clock: Clock) -> None:
    async with local_asana.running(rate_limit=2) as world:
        for pause, status, wait in (
            (0, 200, None),
            (30, 200, None),
            (20, 429, "40"),  # two of the last minute's calls are too many until the second is past
            (20, 429, "40"),  # this one came too early, and counts like the one before
            (40, 200, None),
            (10, 429, "50"),
        ):
            clock.pass_(seconds=pause)
            answer = await world.api.get("/users/me")
            assert (answer.status_code, answer.headers.get("Retry-After")) == (status, wait)


async def test_writes_at_once_are_limited_apart_from_gets() -> None:
    async with local_asana.running(concurrent_writes=1, concurrent_gets=1, retry_after=7) as world:
        world.asana.faults.add("slow-handshake")
        data = {"resource": "8675309", "target": world.target}
        first = asyncio.create_task(world.api.post("/webhooks", json={"data": data}))
        await world.asana.create_started.wait()
        refused = await world.api.post("/tasks", json={"data": {"workspace": "1331"}})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "7")
        assert (await world.api.get("/users/me")).status_code == 200
        world.asana.release_handshake.set()
        assert (await first).status_code == 201
        assert (await world.post("/tasks", workspace="1331"))["completed"] is False


@pytest.mark.parametrize("name", ["rate_limit", "concurrent_gets", "concurrent_writes"])
def test_limit_that_lets_nothing_in_is_a_mistake(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be a number of calls from 1 on"):
        AsanaSimulator(**options)


def test_a_resource_has_room_for_a_thousand_subscriptions_of_all_apps() -> None:
    others = [("b", "1")] * 500 + [("c", "1")] * 499
    check_room(others, "a", "1")
    with pytest.raises(Refused, match="The limit of 1000 webhooks and streams") as refused:
        check_room([*others, ("a", "1")], "a", "1")
    assert refused.value.status == 403
    check_room([("a", "1")] * 1_000, "a", "2")


def test_an_app_has_room_for_ten_thousand_subscriptions() -> None:
    check_room([("a", "1")] * 9_999, "a", "2")
    with pytest.raises(Refused, match="You have 10000 webhooks and streams already") as refused:
        check_room([("a", "1")] * 10_000, "a", "2")
    assert refused.value.status == 403
    check_room([("a", "1")] * 10_000, "b", "2")


FULL = (403, "resource: The limit of 1 webhooks and streams is reached")


async def test_create_call_is_refused_when_the_resource_has_no_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks.simulator.subscriptions.PER_RESOURCE", 1)
    await world.watch("8675309")
    data = {"resource": "8675309", "target": world.target}
    assert await world.refused("POST", "/webhooks", data) == FULL


async def test_stream_takes_the_room_of_a_webhook_until_its_last_token_ends(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks.simulator.subscriptions.PER_RESOURCE", 1)
    async with local_asana.running() as world:
        query = {"resource": "8675309"}
        sync = (await world.api.get("/events", params=query)).json()["sync"]
        assert (await world.api.get("/events", params=query)).status_code == 412  # the same stream
        data = {"resource": "8675309", "target": world.target}
        assert await world.refused("POST", "/webhooks", data) == FULL
        async with local_asana.client(world.asana, "another") as other:
            assert (await other.get("/events", params=query)).status_code == 403
        clock.pass_(hours=23)
        assert (await world.api.get("/events", params=query | {"sync": sync})).status_code == 200
        clock.pass_(hours=2)
        assert await world.refused("POST", "/webhooks", data) == FULL
        clock.pass_(hours=22)
        await world.watch("8675309")
        assert (await world.api.get("/events", params=query)).status_code == 403


# Announced changes

INFO = "https://forum.example.com/t/1"


@pytest.mark.parametrize(
    ("changes", "headers", "value"),
    [
        ({}, {}, None),
        ({"one": INFO}, {}, f"name=one;info={INFO};affected=true"),
        ({"one": INFO}, {"Asana-Enable": "one"}, None),
        ({"one": INFO}, {"Asana-Disable": "other, one"}, None),
        (
            {"one": INFO, "two": INFO},
            {"Asana-Enable": "three"},
            f"name=one;info={INFO};affected=true, name=two;info={INFO};affected=true",
        ),
        (
            {"one": INFO, "two": INFO},
            {"Asana-Disable": "one"},
            f"name=two;info={INFO};affected=true",
        ),
    ],
)
def test_changes_are_announced_to_calls_that_take_no_side(
    changes: dict[str, str], headers: dict[str, str], value: str | None
) -> None:
    assert announcement(changes, headers) == value


async def test_announcement_is_a_header_of_every_answer() -> None:
    async with local_asana.running(changes={"new_webhooks": INFO}) as world:
        for path in ("/users/me", "/nothing"):
            answer = await world.api.get(path)
            assert answer.headers["Asana-Change"] == f"name=new_webhooks;info={INFO};affected=true"
        answered = await world.api.get("/users/me", headers={"asana-enable": "new_webhooks"})
        assert "Asana-Change" not in answered.headers
        world.asana.changes.clear()
        assert "Asana-Change" not in (await world.api.get("/users/me")).headers


# Errors


async def test_error_has_a_message_and_says_where_help_is(world: World) -> None:
    response = await world.api.get("/tasks/1")
    assert response.json() == {
        "errors": [
            {
                "message": "task: Unknown object: 1",
                "help": "For more information on API status codes and how to handle them, read the "
                "docs on errors: https://developers.asana.com/docs/errors",
            }
        ]
    }


async def test_call_outside_of_the_api_is_not_found(world: World) -> None:
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        response = await client.get(world.asana.base_url.removesuffix("/api/1.0") + "/elsewhere")
    assert response.status_code == 404


async def test_events_of_one_act_are_one_body_in_the_order_of_the_act(world: World) -> None:
    webhook = await world.watch("8675309", {"action": "added"}, {"action": "removed"})
    task = await world.asana.create_task("One", project=world.asana.project)
    await world.asana.complete_task(task)
    await world.api.post(f"/tasks/{task}/removeProject", json={"data": {"project": "8675309"}})
    bodies = await world.told(webhook)
    assert [[event["action"] for event in body] for body in bodies] == [
        ["added"] * 2,
        ["removed"] * 2,
    ]
    assert json.dumps(bodies).count('"completed"') == 0
