"""The calls of Asana, their pages, and the walk through all workspaces."""

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import respx
from aiohttp import web
from support import asana_api
from support.asana_api import FILTER, ONE, SECRET, TARGET, TOKEN, WEBHOOK, asana_at, sent

from asana_webhooks import __version__
from asana_webhooks.api import WebhooksApi, walk_webhooks
from asana_webhooks.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    DecodeError,
    NotFoundError,
)

bare_environment = asana_api.bare_environment
asana = asana_api.asana
api = asana_api.api


# The operations, as they go over the wire.


async def test_create_sends_the_documented_request(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.post("/webhooks").respond(201, json={**ONE, "X-Hook-Secret": SECRET})
    webhook = await api.create_webhook(
        "1204619", TARGET, filters=[FILTER], opt_fields=["target", "filters.action"]
    )
    assert (webhook.gid, webhook.secret) == (WEBHOOK["gid"], SECRET)
    request = sent(route)
    assert dict(request.url.params) == {"opt_fields": "target,filters.action"}
    assert json.loads(request.content) == {
        "data": {
            "resource": "1204619",
            "target": TARGET,
            "filters": [{"resource_type": "task", "action": "changed", "fields": ["completed"]}],
        }
    }
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["User-Agent"] == f"asana-webhooks/{__version__}"


async def test_create_without_filters_leaves_out_their_key(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.post("/webhooks").respond(201, json=ONE)
    webhook = await api.create_webhook("1204619", TARGET)
    assert json.loads(sent(route).content) == {"data": {"resource": "1204619", "target": TARGET}}
    assert webhook.secret is None


async def test_create_with_an_empty_list_of_filters_sends_it(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.post("/webhooks").respond(201, json=ONE)
    await api.create_webhook("1204619", TARGET, filters=[])
    assert json.loads(sent(route).content)["data"]["filters"] == []


async def test_create_waits_as_long_as_it_is_told(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.post("/webhooks").respond(201, json=ONE)
    await api.create_webhook("1", TARGET)
    assert sent(route).extensions["timeout"]["read"] == 60.0
    await api.create_webhook("1", TARGET, timeout=5.0)
    assert sent(route).extensions["timeout"] == dict.fromkeys(
        ("connect", "read", "write", "pool"), 5.0
    )


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
async def test_timeout_that_makes_no_sense_is_refused(api: WebhooksApi, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        await api.create_webhook("1", TARGET, timeout=timeout)


async def test_get_returns_the_record(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.get("/webhooks/1200000000000001").respond(json=ONE)
    webhook = await api.get_webhook("1200000000000001")
    assert (webhook.target, webhook.active) == (TARGET, True)
    assert sent(route).url.query == b""


async def test_opt_fields_are_joined(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.get("/webhooks/1").respond(json=ONE)
    await api.get_webhook("1", opt_fields=("active", "target"))
    assert dict(sent(route).url.params) == {"opt_fields": "active,target"}


async def test_update_replaces_the_filters(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.put("/webhooks/1").respond(json=ONE)
    await api.update_webhook("1", filters=(FILTER,), opt_fields=["filters"])
    assert json.loads(sent(route).content)["data"]["filters"][0]["fields"] == ["completed"]
    await api.update_webhook("1", filters=())
    assert json.loads(sent(route).content) == {"data": {"filters": []}}


async def test_delete_ends_with_the_webhook_gone(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.delete("/webhooks/1").respond(json={"data": {}})
    await api.delete_webhook("1")
    assert route.call_count == 1


async def test_delete_of_an_unknown_webhook_is_a_success(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.delete("/webhooks/1").respond(404, json={"errors": [{"message": "Unknown"}]})
    await api.delete_webhook("1")
    assert route.call_count == 1


async def test_delete_that_a_strange_page_answers_is_no_success(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    asana.delete("/webhooks/1").respond(200, html="<html>log in to the hotel's network</html>")
    with pytest.raises(DecodeError):
        await api.delete_webhook("1")


async def test_list_sends_what_narrows_it(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.get("/webhooks").respond(
        json={"data": [WEBHOOK], "next_page": {"offset": "eyJ0"}}
    )
    page = await api.get_webhooks(
        "1331", resource="51648", limit=50, offset="a+b/c=&d", opt_fields=["target"]
    )
    assert (len(page), page.offset) == (1, "eyJ0")
    assert dict(sent(route).url.params) == {
        "workspace": "1331",
        "resource": "51648",
        "limit": "50",
        "offset": "a+b/c=&d",
        "opt_fields": "target",
    }


async def test_list_asks_only_for_what_it_was_told(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks").respond(json={"data": []})
    assert (await api.get_webhooks("1331")).offset is None
    assert dict(sent(route).url.params) == {"workspace": "1331"}


@pytest.mark.parametrize("limit", [0, 101, -1])
async def test_page_size_that_asana_refuses_is_refused_before(api: WebhooksApi, limit: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        await api.get_webhooks("1331", limit=limit)
    with pytest.raises(ValueError, match="1 to 100"):
        api.iter_webhooks("1331", limit=limit)


CALLS_WITH_A_GID: list[Any] = [
    pytest.param(lambda api, gid: api.get_webhook(gid), id="get"),
    pytest.param(lambda api, gid: api.update_webhook(gid, filters=[]), id="update"),
    pytest.param(lambda api, gid: api.delete_webhook(gid), id="delete"),
    pytest.param(lambda api, gid: api.get_webhooks(gid), id="workspace"),
    pytest.param(lambda api, gid: api.get_webhooks("1", resource=gid), id="resource"),
    pytest.param(lambda api, gid: api.create_webhook(gid, TARGET), id="create"),
]


@pytest.mark.parametrize("call", CALLS_WITH_A_GID)
@pytest.mark.parametrize("gid", ["", ".", "..", "1/2", "1?a", "1#a", "1 2", "1\n", "%2e", "é", 5])
async def test_gid_that_would_change_the_path_is_refused(
    api: WebhooksApi, call: Callable[[WebhooksApi, Any], Awaitable[object]], gid: Any
) -> None:
    with pytest.raises(ValueError, match="must be a gid"):
        await call(api, gid)


# Pages.


def pages(*answers: tuple[list[str], str | None]) -> list[httpx.Response]:
    return [
        httpx.Response(
            200,
            json={
                "data": [{"gid": gid} for gid in gids],
                "next_page": {"offset": offset} if offset else None,
            },
        )
        for gids, offset in answers
    ]


async def test_iteration_goes_through_all_pages_also_past_an_empty_one(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks")
    route.side_effect = pages((["1", "2"], "a"), ([], "b"), (["3"], None))
    found = api.iter_webhooks("1331", resource="7", limit=2, opt_fields=["target"])
    assert [webhook.gid async for webhook in found] == ["1", "2", "3"]
    narrowing = {"workspace": "1331", "resource": "7", "limit": "2", "opt_fields": "target"}
    assert [dict(call.request.url.params) for call in route.calls] == [
        narrowing,
        {**narrowing, "offset": "a"},
        {**narrowing, "offset": "b"},
    ]


@pytest.mark.parametrize(
    "offsets", [pytest.param("aa", id="to itself"), pytest.param("aba", id="in a circle")]
)
async def test_pages_that_lead_back_to_themselves_end(
    api: WebhooksApi, asana: respx.MockRouter, caplog: pytest.LogCaptureFixture, offsets: str
) -> None:
    asana.get("/webhooks").side_effect = pages(*(([at], at) for at in offsets))
    assert [webhook.gid async for webhook in api.iter_webhooks("1331")] == sorted(set(offsets))
    assert "lead back to themselves" in caplog.text


async def test_workspaces_are_iterated_alike(api: WebhooksApi, asana: respx.MockRouter) -> None:
    route = asana.get("/workspaces")
    route.side_effect = pages((["1"], "a"), (["2"], None))
    assert [workspace.gid async for workspace in api.iter_workspaces()] == ["1", "2"]
    assert dict(route.calls[0].request.url.params) == {"limit": "100"}


EXPIRED = httpx.Response(400, json={"errors": [{"message": "offset: Your token has expired"}]})


async def test_list_whose_offset_expired_begins_anew_without_duplicates(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks")
    route.side_effect = [
        *(*pages((["1", "2"], "a")), EXPIRED),
        *(*pages((["1"], "b"), (["3"], "a")), EXPIRED),
        *pages((["2"], "a"), (["3", "4"], None)),
    ]
    assert [webhook.gid async for webhook in api.iter_webhooks("1331")] == ["1", "2", "3", "4"]
    offsets = [call.request.url.params.get("offset") for call in route.calls]
    assert offsets == [None, "a", None, "b", "a", None, "a"]


async def test_list_whose_offsets_expire_again_and_again_ends_with_asanas_error(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks")
    route.side_effect = [*pages((["1"], "a")), EXPIRED] * 3
    with pytest.raises(BadRequestError, match="expired"):
        [webhook async for webhook in api.iter_webhooks("1331")]
    assert route.call_count == 6


async def test_query_that_asana_refuses_is_not_asked_again(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks").respond(400)
    with pytest.raises(BadRequestError):
        [webhook async for webhook in api.iter_webhooks("1331")]
    assert route.call_count == 1


async def test_record_of_an_odd_shape_costs_that_record_and_one_warning(
    api: WebhooksApi, asana: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [{"gid": 1}, "text", {"gid": "2", "active": "perhaps"}]
    asana.get("/webhooks").respond(json={"data": [{"gid": "1"}, *odd, {"gid": "3"}]})
    for _ in range(20):
        assert [webhook.gid async for webhook in api.iter_webhooks("1331")] == ["1", "3"]
        assert [webhook.gid for webhook in await api.get_webhooks("1331")] == ["1", "3"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "3 records of /webhooks are not of the documented shape, and are left out:"
        " Expected `str`, got `int` - at `$.gid`"
    )


# All workspaces of a token.


def workspaces(asana: respx.MockRouter, answers: dict[str, httpx.Response]) -> None:
    """Answer each workspace's list of webhooks like this."""
    asana.get("/workspaces").respond(json={"data": [{"gid": gid} for gid in answers]})
    for gid, answer in answers.items():
        asana.get("/webhooks", params={"workspace": gid}).return_value = answer


@pytest.mark.parametrize("status", [402, 403, 404, 451])
async def test_workspace_that_is_refused_does_not_end_the_walk(
    api: WebhooksApi, asana: respx.MockRouter, status: int
) -> None:
    refused = httpx.Response(status, json={"errors": [{"message": "not here"}]})
    workspaces(asana, {"1": pages((["11"], None))[0], "2": refused, "3": pages((["33"], None))[0]})
    refusals: dict[str, ApiError] = {}
    assert [webhook.gid async for webhook in walk_webhooks(api, refusals)] == ["11", "33"]
    assert {gid: error.status for gid, error in refusals.items()} == {"2": status}


async def test_token_that_is_refused_ends_the_walk(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    asana.get("/workspaces").respond(json={"data": [{"gid": "1"}, {"gid": "2"}]})
    asana.get("/webhooks").respond(401)
    refusals: dict[str, ApiError] = {}
    with pytest.raises(AuthenticationError):
        [webhook async for webhook in walk_webhooks(api, refusals)]
    assert refusals == {}


async def test_refusal_of_the_one_workspace_that_was_asked_for_is_raised(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    asana.get("/webhooks", params={"workspace": "1"}).respond(404)
    with pytest.raises(NotFoundError):
        [webhook async for webhook in walk_webhooks(api, {}, workspace="1")]


async def test_walk_narrows_its_lists(api: WebhooksApi, asana: respx.MockRouter) -> None:
    asana.get("/workspaces").respond(json={"data": [{"gid": "1"}]})
    route = asana.get("/webhooks").respond(json={"data": []})
    [_ async for _ in walk_webhooks(api, {}, resource="7", opt_fields=["target"])]
    [_ async for _ in walk_webhooks(api, {}, workspace="1", resource="7", opt_fields=["target"])]
    narrowing = {"workspace": "1", "resource": "7", "limit": "100", "opt_fields": "target"}
    assert [dict(call.request.url.params) for call in route.calls] == [narrowing] * 2


# Over a socket.


async def test_whole_life_of_a_webhook_over_a_socket() -> None:
    offset = "eyJ0+/=&?#%25 é"

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "POST":
            body = await request.json()
            assert body["data"]["target"] == TARGET
            return web.json_response({**ONE, "X-Hook-Secret": SECRET}, status=201)
        if request.path == "/webhooks":
            if "offset" in request.query:
                assert request.query["offset"] == offset
                return web.json_response({"data": []})
            return web.json_response({"data": [WEBHOOK], "next_page": {"offset": offset}})
        return web.json_response({"data": {}} if request.method == "DELETE" else ONE)

    async with asana_at(answer) as api:
        webhook = await api.create_webhook("1", TARGET)
        assert webhook.secret == SECRET
        assert (await api.update_webhook(webhook.gid, filters=[])).gid == webhook.gid
        assert [found.gid async for found in api.iter_webhooks("1331")] == [webhook.gid]
        await api.delete_webhook(webhook.gid)
