"""Every answer of the local Asana about webhooks and events, held against Asana's description.

The description is made strict: what it does not name is wrong. ``asana_openapi.DIFFERENCES`` lists
where recorded traffic says something else, and why; there the local Asana follows the traffic.
The clients of ``local_asana`` validate each answer, so the other tests of the API do it too.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import pytest
from support import asana_openapi, local_asana
from support.local_asana import World

from asana_webhooks.simulator.state import State

ALL = (
    "active,created_at,delivery_retry_count,failure_deletion_timestamp,filters,last_failure_at,"
    "last_failure_content,last_success_at,next_attempt_after,resource,target"
)
EVENT_FIELDS = "action,change.new_value,created_at,parent.name,resource.name,type,user.name"


class Answers:
    """Counts the statuses of the answers that were validated, by call."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: set[tuple[str, str, int]] = set()
        world.api.event_hooks["response"].append(self.note)

    async def note(self, response: httpx.Response) -> None:
        await response.aread()
        path = response.request.url.path.removeprefix("/api/1.0")
        words = path.split("/")
        call = "/".join(words[:2]) + ("/{gid}" if len(words) > 2 else "")
        assert asana_openapi.validate(response)
        self.seen.add((response.request.method, call, response.status_code))


@pytest.fixture
async def answers() -> AsyncIterator[Answers]:
    async with local_asana.running(retry_after=0) as world:
        yield Answers(world)


async def life_of_a_webhook(world: World) -> None:
    api, params = world.api, {"workspace": "1331"}
    queries: list[dict[str, str]] = [{}, {"limit": "1"}, {"limit": "2"}, {"opt_fields": ALL}]
    data: dict[str, Any] = {"resource": "8675309", "target": world.target}
    created = (await api.post("/webhooks", json={"data": data})).json()
    gid = created["data"]["gid"]
    filters = [{"resource_type": "task", "action": "changed", "fields": ["name"]}]
    data = {"resource": "1301", "target": world.target, "filters": filters}
    await api.post("/webhooks", json={"data": data}, params={"opt_fields": ALL})
    for query in queries:
        await api.get("/webhooks", params=params | query)
    await api.get(f"/webhooks/{gid}")
    await api.get(f"/webhooks/{gid}", params={"opt_fields": "resource.name,filters.action"})
    await api.put(f"/webhooks/{gid}", json={"data": {"filters": filters}})
    await api.delete(f"/webhooks/{gid}")


async def refused_calls(world: World, app: str | None = "app-one") -> None:
    api = world.api
    api.headers["Authorization"] = f"Bearer {app}" if app else ""
    data = {"resource": "1301", "target": world.target}
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/7"), ("PUT", "/7"), ("DELETE", "/7")):
        body = {"data": data if method == "POST" else {"filters": 7}}
        await api.request(method, f"/webhooks{path}", json=body)
    await api.get("/webhooks", params={"workspace": "7"})
    await api.get("/webhooks", params={"workspace": "1331", "limit": 0})
    await api.post("/webhooks", json={"data": data | {"resource": "7"}})
    await api.post("/webhooks", json={"data": data | {"target": "no-url"}})
    await api.get("/events", params={"resource": "1331"})
    await api.get("/events", params={"resource": "7"})


async def test_answers_that_succeed_are_as_described(answers: Answers) -> None:
    await life_of_a_webhook(answers.world)
    assert answers.seen == {
        ("POST", "/webhooks", 201),
        ("GET", "/webhooks", 200),
        ("GET", "/webhooks/{gid}", 200),
        ("PUT", "/webhooks/{gid}", 200),
        ("DELETE", "/webhooks/{gid}", 200),
    }


async def test_refusals_are_as_described(answers: Answers) -> None:
    world = answers.world
    gid = await world.watch("1301")
    await refused_calls(world)
    await world.api.put(f"/webhooks/{gid}", json={"data": {"filters": 7}})
    await refused_calls(world, None)
    assert answers.seen == {
        ("POST", "/webhooks", 201),
        *(("POST", "/webhooks", status) for status in (400, 401, 404)),
        *(("GET", "/webhooks", status) for status in (400, 401, 404)),
        *(("GET", "/webhooks/{gid}", status) for status in (401, 404)),
        *(("PUT", "/webhooks/{gid}", status) for status in (400, 401, 404)),
        *(("DELETE", "/webhooks/{gid}", status) for status in (401, 404)),
        *(("GET", "/events", status) for status in (400, 401, 404)),
    }


async def test_duplicates_and_missing_scopes_are_403_as_described(answers: Answers) -> None:
    world = answers.world
    data = {"resource": "1301", "target": world.target}
    await world.api.post("/webhooks", json={"data": data})
    await world.api.post("/webhooks", json={"data": data})
    answers.seen.clear()
    tokens = world.asana.oauth
    code = tokens.authorize("app", "http://127.0.0.1/", "tasks:read", None)
    token = tokens.redeem("app", code, "http://127.0.0.1/", "").access_token
    await refused_calls(world, token)
    assert {each for each in answers.seen if each[2] == 403} == {
        *((method, "/webhooks", 403) for method in ("GET", "POST")),
        *((method, "/webhooks/{gid}", 403) for method in ("GET", "PUT", "DELETE")),
    }


async def test_events_are_as_described(answers: Answers) -> None:
    world = answers.world
    params = {"resource": "8675309"}
    params["sync"] = (await world.api.get("/events", params=params)).json()["sync"]
    task = await world.asana.create_task("One", project="8675309")
    await world.asana.complete_task(task)
    await world.asana.add_comment(task, "Hello")
    await world.asana.delete(task)
    whole = await world.api.get("/events", params=params)
    assert len(whole.json()["data"]) == 6
    await world.api.get("/events", params=params | {"opt_fields": EVENT_FIELDS})
    assert answers.seen == {("GET", "/events", 412), ("GET", "/events", 200)}


async def test_record_of_a_failing_webhook_is_as_described(answers: Answers) -> None:
    world = answers.world
    gid = await world.watch("8675309")
    record, now = world.asana.webhooks[gid], datetime(2026, 7, 1, tzinfo=UTC)
    record.last_failure_at, record.last_failure_content = now, "500 Server Error\n\n"
    record.next_attempt_after = now + timedelta(minutes=1)
    record.failure_deletion_timestamp = now + timedelta(days=1)
    shown = (await world.api.get(f"/webhooks/{gid}")).json()["data"]
    assert shown["next_attempt_after"] == "2026-07-01T00:01:00.000Z"


async def test_limits_and_server_errors_are_as_described(answers: Answers) -> None:
    world = answers.world
    world.asana.faults.add("rate-limited")
    await world.api.get("/events", params={"resource": "1301"})
    await world.api.get("/webhooks", params={"workspace": "1331"})
    world.asana.faults.clear()
    world.asana.faults.add("server-error")
    data = {"resource": "1301", "target": world.target}
    await world.api.post("/webhooks", json={"data": data})
    assert answers.seen == {
        ("GET", "/events", 429),
        ("GET", "/webhooks", 429),
        ("POST", "/webhooks", 500),
    }


async def test_answers_of_a_limited_asana_are_as_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(State, "now", lambda _: datetime(2026, 7, 1, tzinfo=UTC))
    async with local_asana.running(rate_limit=1) as world:
        answers = Answers(world)
        for _ in range(2):
            await world.api.get("/webhooks", params={"workspace": "1331"})
        assert {status for *_, status in answers.seen} == {200, 429}


# The validation itself


def answer(method: str, path: str, body: dict[str, Any], status: int = 200) -> httpx.Response:
    request = httpx.Request(method, f"http://127.0.0.1/api/1.0{path}")
    return httpx.Response(status, json=body, request=request)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/webhooks/1", {"data": {"gid": 1}}),
        ("GET", "/webhooks/1", {"data": {"gid": "1", "colour": "red"}}),
        ("GET", "/webhooks/1", {"data": {"gid": "1"}, "extra": 1}),
        ("GET", "/webhooks/1", {"data": {"created_at": "2026-07-01T00:00:00Z"}}),
        ("GET", "/webhooks/1", {"data": {"target": "no-url"}}),
        ("GET", "/webhooks", {"data": {"gid": "1"}}),
        ("GET", "/webhooks", {"data": [], "next_page": {"offset": 1}}),
        ("DELETE", "/webhooks/1", {"data": {"gid": "1"}}),
        ("GET", "/events", {"data": [], "sync": 1, "has_more": False}),
        ("GET", "/events", {"data": [{"resource": {"gid": "1", "colour": "red"}}]}),
    ],
)
def test_answer_that_is_not_as_described_is_found(
    method: str, path: str, body: dict[str, Any]
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        asana_openapi.validate(answer(method, path, body))


def test_call_that_is_not_described_is_not_judged() -> None:
    assert not asana_openapi.validate(answer("GET", "/nothing/1", {"data": 1}))
    assert not asana_openapi.validate(answer("PATCH", "/webhooks/1", {"data": 1}))


def test_each_difference_from_the_description_has_its_reason_and_is_needed() -> None:
    for schema, name, allowed, reason in asana_openapi.DIFFERENCES:
        assert len(reason) > 10, (schema, name)
        described = str(asana_openapi.COMPONENTS["schemas"][schema])
        assert f"'{name}': {allowed}" not in described
