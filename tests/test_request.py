"""Any call of Asana's API: what goes over the wire, what comes back, and what is refused before."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import respx
from support import asana_api
from support.asana_api import TOKEN, sent

from asana_webhooks import (
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    MemoryStore,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    WebhooksApi,
)
from asana_webhooks._request import check_request
from asana_webhooks.simulator import AsanaSimulator

bare_environment = asana_api.bare_environment
mocked = asana_api.asana
api = asana_api.api
waits = asana_api.waits

TASK = {"gid": "1204619", "name": "Fix the login"}


# Over the wire


async def test_get_returns_the_decoded_data(api: WebhooksApi, mocked: respx.MockRouter) -> None:
    route = mocked.get("/tasks/1204619").respond(json={"data": TASK})
    params = {
        "opt_fields": ["name", "assignee.name"],
        "completed": True,
        "limit": 5,
        "modified_since": None,
    }
    assert await api.request("GET", "/tasks/1204619", params=params) == TASK
    assert dict(sent(route).url.params) == {
        "opt_fields": "name,assignee.name",
        "completed": "true",
        "limit": "5",
    }
    assert sent(route).headers["Authorization"] == f"Bearer {TOKEN}"
    assert sent(route).content == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "put"])
async def test_data_is_sent_as_asana_wants_it(
    api: WebhooksApi, mocked: respx.MockRouter, method: str
) -> None:
    route = mocked.route(path__regex=".*/tasks/1").respond(json={"data": TASK})
    assert await api.request(method, "/tasks/1", data={"name": "Fix"}) == TASK
    assert sent(route).method == method.upper()
    assert json.loads(sent(route).content) == {"data": {"name": "Fix"}}


async def test_answer_may_be_a_list_or_empty(api: WebhooksApi, mocked: respx.MockRouter) -> None:
    mocked.get("/tasks/1/tags").respond(json={"data": [TASK]})
    mocked.delete("/tasks/1").respond(json={"data": {}})
    assert await api.request("GET", "/tasks/1/tags") == [TASK]
    assert await api.request("DELETE", "/tasks/1") == {}


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadRequestError), (403, PermissionDeniedError), (404, NotFoundError)],
)
async def test_refusal_is_a_typed_error(
    api: WebhooksApi, mocked: respx.MockRouter, status: int, error: type[Exception]
) -> None:
    mocked.get("/tasks/1").respond(status, json={"errors": [{"message": "no"}]})
    with pytest.raises(error, match=f"{status}: no"):
        await api.request("GET", "/tasks/1")


@pytest.mark.parametrize("body", ["", "[]", '{"errors":[]}', "<p>Log in</p>"])
async def test_answer_without_data_is_not_asanas(
    api: WebhooksApi, mocked: respx.MockRouter, body: str
) -> None:
    mocked.get("/tasks/1").respond(text=body)
    with pytest.raises(DecodeError, match="check base_url"):
        await api.request("GET", "/tasks/1")


@pytest.mark.parametrize(("method", "tries"), [("GET", 2), ("PUT", 2), ("DELETE", 2), ("POST", 1)])
@pytest.mark.parametrize(
    ("failure", "error"),
    [(httpx.Response(503), ServerError), (httpx.ReadTimeout("no"), ConnectionFailedError)],
    ids=["503", "no answer"],
)
async def test_all_but_post_is_repeated(
    *,
    api: WebhooksApi,
    mocked: respx.MockRouter,
    waits: list[float],
    method: str,
    tries: int,
    failure: Any,
    error: type[Exception],
) -> None:
    route = mocked.route(method=method, path__regex=".*/tasks/1")
    route.side_effect = [failure, httpx.Response(200, json={"data": TASK})]
    if tries == 1:
        with pytest.raises(error):
            await api.request(method, "/tasks/1")
    else:
        assert await api.request(method, "/tasks/1") == TASK
    assert route.call_count == tries


async def test_post_that_was_refused_for_its_rate_is_repeated(
    api: WebhooksApi, mocked: respx.MockRouter, waits: list[float]
) -> None:
    route = mocked.post("/tasks")
    route.side_effect = [httpx.Response(429), httpx.Response(201, json={"data": TASK})]
    assert await api.request("POST", "/tasks", data={"name": "Fix"}) == TASK


# What is refused before any call


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "tasks/1", "/tasks/", "//tasks", "/tasks//1", "https://evil.example/tasks/1"),
        *("//evil.example/tasks", "/tasks/../users/me", "/./tasks", "/tasks/%2e%2E/users"),
        *("/tasks/%2Fusers", "/tasks/a%5cb", "/tasks/1?opt_fields=name", "/tasks/1#top"),
        *("/tasks/1\n", "/tasks/1\r\nHost: evil", "/tasks/%0d%0aHost", "/tasks/\0", "/tasks/%00"),
        *("/tasks/1 2", "/tasks/1%20", "/täsks/1", "\\\\evil.example\\tasks", "/tasks\\..\\users"),
    ],
)
async def test_path_that_may_lead_out_of_the_api_is_refused(api: WebhooksApi, path: str) -> None:
    with pytest.raises(ValueError, match="path must be one below base_url"):
        await api.request("GET", path)


@pytest.mark.parametrize(
    "path",
    ["/tasks", "/tasks/external:my-id", "/workspaces/1/typeahead", "/tasks/external:a%C3%A4b"],
)
def test_path_of_the_api_is_taken(path: str) -> None:
    assert check_request("GET", path, params=None, data=None).path == path


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("PATCH", {}, ValueError),
        ("", {}, ValueError),
        (7, {}, ValueError),
        ("GET", {"data": {"name": "Fix"}}, ValueError),
        ("DELETE", {"data": {}}, ValueError),
        ("POST", {"data": [TASK]}, TypeError),
        ("POST", {"data": "name"}, TypeError),
        ("POST", {"data": {"data": {"name": "Fix"}}}, ValueError),
        ("GET", {"params": "opt_fields=name"}, TypeError),
        ("GET", {"params": {"opt_fields": b"name"}}, TypeError),
        ("GET", {"params": {"opt_fields": ["name", None]}}, TypeError),
        ("GET", {"params": {"since": datetime.now(UTC)}}, TypeError),
    ],
)
async def test_call_that_cannot_be_meant_is_refused(
    api: WebhooksApi, method: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await api.request(method, "/tasks/1", **options)


async def test_refused_call_does_not_quote_its_data(api: WebhooksApi) -> None:
    with pytest.raises(TypeError) as caught:
        await api.request("POST", "/tasks", data=["a secret"])  # type: ignore[arg-type] # what is refused
    assert "a secret" not in str(caught.value)


# Lists


async def test_pages_are_yielded_in_order_until_the_last(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    route = mocked.get("/projects/1/tasks")
    route.side_effect = [
        page([{"gid": "1"}, {"gid": "2"}], "a"),
        page([{"gid": "2"}, {"gid": "3"}, {"name": "no gid"}], "b"),
        page([], None),
    ]
    pages = [page async for page in api.iter_pages("/projects/1/tasks", params={"archived": False})]
    assert pages == [[{"gid": "1"}, {"gid": "2"}], [{"gid": "3"}, {"name": "no gid"}], []]
    assert [dict(call.request.url.params) for call in route.calls] == [
        {"limit": "100", "archived": "false"},
        {"limit": "100", "archived": "false", "offset": "a"},
        {"limit": "100", "archived": "false", "offset": "b"},
    ]


async def test_list_is_begun_anew_when_its_place_expired_and_repeats_nothing(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    mocked.get("/tags").side_effect = [
        page([{"gid": "1"}], "a"),
        httpx.Response(
            400, json={"errors": [{"message": "offset: Your pagination token expired"}]}
        ),
        page([{"gid": "1"}], "b"),
        page([{"gid": "2"}], None),
    ]
    pages = [page async for page in api.iter_pages("/tags", params={"limit": 1})]
    assert [entry["gid"] for page in pages for entry in page] == ["1", "2"]


async def test_list_that_is_none_is_not_asanas(api: WebhooksApi, mocked: respx.MockRouter) -> None:
    mocked.get("/tasks/1").respond(json={"data": TASK})
    with pytest.raises(DecodeError):
        await anext(api.iter_pages("/tasks/1"))


def page(data: list[dict[str, str]], offset: str | None) -> httpx.Response:
    next_page = None if offset is None else {"offset": offset}
    return httpx.Response(200, json={"data": data, "next_page": next_page})


# The token's user


async def test_user_is_asked_for_once(api: WebhooksApi, mocked: respx.MockRouter) -> None:
    route = mocked.get("/users/me").respond(json={"data": {"gid": "1201", "name": "Kim"}})
    first = await api.me()
    first["name"] = "changed by the caller"
    assert await api.me() == {"gid": "1201", "name": "Kim"}
    assert await api._user.gid() == "1201"
    assert route.call_count == 1


async def test_user_that_the_token_may_not_know_is_an_error_and_has_no_gid(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    mocked.get("/users/me").respond(403)
    assert await api._user.gid() is None
    for _ in range(2):
        with pytest.raises(PermissionDeniedError):
            await api.me()


async def test_user_is_asked_for_again_after_a_failure(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    answers = [httpx.Response(404), httpx.Response(200, json={"data": {"gid": "1201"}})]
    mocked.get("/users/me").side_effect = answers
    with pytest.raises(NotFoundError):
        await api.me()
    assert await api.me() == {"gid": "1201"}


# What the program writes is kept


async def test_open_client_keeps_what_it_writes_and_what_that_made(
    make_client: Any, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        task = await client.request(
            "POST", "/tasks", data={"name": "Fix", "projects": [asana.project]}
        )
        await client.request("GET", f"/tasks/{task['gid']}")
        (made,) = await store.list_writes([task["gid"]])
        assert task["gid"] in made.text
        await client.request("PUT", f"/tasks/{task['gid']}", data={"completed": True})
        assert len(await store.list_writes([task["gid"]])) == 2
        assert (await client.request("GET", f"/tasks/{task['gid']}"))["completed"] is True


async def test_client_that_is_not_open_writes_and_keeps_nothing(
    make_client: Any, asana: AsanaSimulator
) -> None:
    client = make_client()
    task = await client.request("POST", "/tasks", data={"name": "Fix", "projects": [asana.project]})
    assert asana.calls("POST", "/tasks")[0].status == 201
    assert task["name"] == "Fix"
    await client.aclose()


async def test_write_takes_one_slot_of_the_budget_and_gives_it_back(
    api: WebhooksApi, mocked: respx.MockRouter
) -> None:
    states = []

    def answer(request: httpx.Request) -> httpx.Response:
        states.append(api._transport.budget_state())
        return httpx.Response(404)

    mocked.put("/tasks/1").side_effect = answer
    with pytest.raises(NotFoundError):
        await api.request("PUT", "/tasks/1", data={})
    assert [state.writes for state in states] == [1]
    assert api._transport.budget_state().writes == 0
    assert api._transport.written_at > -math.inf
