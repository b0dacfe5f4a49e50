"""How calls reach Asana, and which are repeated: seen through the calls of webhooks."""

import asyncio
import contextlib
import gzip
import json
import logging
import random
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import respx
from aiohttp import web
from aiohttp.test_utils import TestServer
from support import asana_api
from support.asana_api import (
    BASE,
    DUPLICATE,
    ONE,
    SECRET,
    TARGET,
    TOKEN,
    WEBHOOK,
    asana_at,
    bytes_at,
    sent,
)
from support.postgres_proxies import self_made_certificate

from asana_webhooks import _asana_connections, _asana_http, _asana_transport
from asana_webhooks._asana_connections import find_proxy
from asana_webhooks._asana_transport import MAX_ANSWER, TOKEN_VARIABLES, AsanaTransport, NoToken
from asana_webhooks.api import WebhooksApi
from asana_webhooks.errors import (
    ApiError,
    AsanaWebhooksError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    DuplicateWebhookError,
    NotFoundError,
    RateLimitedError,
    ServerError,
)
from asana_webhooks.models import Webhook

bare_environment = asana_api.bare_environment
asana = asana_api.asana
api = asana_api.api
waits = asana_api.waits


# What a caller may configure.


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("  ", id="blank"),
        pytest.param(f"{TOKEN}\n", id="line break from a file"),
        pytest.param(f"Bearer {TOKEN}", id="with its scheme"),
        pytest.param(f"{TOKEN}\x00", id="control character"),
        pytest.param(f"{TOKEN}é", id="not ascii"),
        pytest.param(TOKEN.encode(), id="bytes"),
    ],
)
def test_token_that_cannot_work_is_refused_without_being_quoted(token: Any) -> None:
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        WebhooksApi(token)
    assert "made-up" not in str(caught.value)


def test_missing_token_names_the_variables() -> None:
    with pytest.raises(ValueError, match="ASANA_ACCESS_TOKEN") as caught:
        WebhooksApi()
    for name in TOKEN_VARIABLES:
        assert name in str(caught.value)


@pytest.mark.parametrize("first", range(3))
async def test_token_comes_from_the_first_variable_that_is_set(
    first: int, monkeypatch: pytest.MonkeyPatch, asana: respx.MockRouter
) -> None:
    for number, name in enumerate(TOKEN_VARIABLES):
        monkeypatch.setenv(name, f"token{number}" if number >= first else "")
    route = asana.get("/webhooks/1").respond(json=ONE)
    async with WebhooksApi() as api:
        await api.get_webhook("1")
    assert sent(route).headers["Authorization"] == f"Bearer token{first}"


def test_token_in_a_variable_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASANA_PAT", f"{TOKEN}\n")
    with pytest.raises(ValueError, match="ASANA_PAT is no access token") as caught:
        WebhooksApi()
    assert TOKEN not in str(caught.value)


async def test_auth_of_httpx_may_stand_for_a_token(asana: respx.MockRouter) -> None:
    route = asana.get("/webhooks/1").respond(json=ONE)
    async with WebhooksApi(httpx.BasicAuth("user", "pass")) as api:
        await api.get_webhook("1")
    assert sent(route).headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "base_url",
    [
        pytest.param("", id="empty"),
        pytest.param("app.asana.com/api/1.0", id="no scheme"),
        pytest.param("ftp://app.asana.com", id="ftp"),
        pytest.param("https://", id="no host"),
        pytest.param("https://user:pass@app.asana.com", id="password"),
        pytest.param("https://app.asana.com/?a=b", id="query"),
        pytest.param("https://app.asana.com\n", id="line break"),
        pytest.param("https://app.asana.com:port", id="port"),
        pytest.param("https://app.asana.com:99999", id="port above 65535"),
    ],
)
def test_base_url_that_cannot_work_is_refused(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be"):
        WebhooksApi(TOKEN, base_url=base_url)


async def test_slash_at_the_end_of_the_base_url_is_no_matter(asana: respx.MockRouter) -> None:
    asana.get("/webhooks/1").respond(json=ONE)
    async with WebhooksApi(TOKEN, base_url=f"{BASE}/") as api:
        assert (await api.get_webhook("1")).gid == WEBHOOK["gid"]


def test_proxy_that_aiohttp_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://user:pass@127.0.0.1:1080")
    with pytest.raises(ValueError, match="pass http_client=") as caught:
        WebhooksApi(TOKEN)
    assert "pass@" not in str(caught.value)


# What is repeated, and after how long.

Call = Callable[[WebhooksApi], Awaitable[object]]
READ: Call = lambda api: api.get_webhook("1")  # noqa: E731 - a table's entry
UPDATE: Call = lambda api: api.update_webhook("1", filters=[])  # noqa: E731 - likewise
DELETE: Call = lambda api: api.delete_webhook("1")  # noqa: E731 - likewise
CREATE: Call = lambda api: api.create_webhook("1", TARGET)  # noqa: E731 - likewise
HARMLESS = [
    pytest.param(READ, id="get"),
    pytest.param(UPDATE, id="update"),
    pytest.param(DELETE, id="delete"),
]


@pytest.mark.parametrize("call", HARMLESS)
@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(httpx.ConnectError("no"), id="no connection"),
        pytest.param(httpx.ReadTimeout("no"), id="timeout"),
        pytest.param(httpx.InvalidURL("no"), id="invalid url"),
        pytest.param(httpx.Response(429), id="429"),
        pytest.param(httpx.Response(500), id="500"),
        pytest.param(httpx.Response(502), id="502"),
        pytest.param(httpx.Response(503), id="503"),
        pytest.param(httpx.Response(504), id="504"),
    ],
)
async def test_harmless_call_is_repeated_until_it_succeeds(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], call: Call, failure: Any
) -> None:
    route = asana.route(path="/webhooks/1")
    route.side_effect = [failure, failure, httpx.Response(200, json=ONE)]
    await call(api)
    assert route.call_count == 3
    assert len(waits) == 2


@pytest.mark.parametrize("call", HARMLESS)
@pytest.mark.parametrize("status", [302, 400, 401, 402, 403, 412, 451, 501, 505])
async def test_refusal_that_will_last_is_not_repeated(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], call: Call, status: int
) -> None:
    route = asana.route(path="/webhooks/1").respond(status)
    with pytest.raises(ApiError) as caught:
        await call(api)
    assert caught.value.status == status
    assert (route.call_count, waits) == (1, [])


async def test_unknown_webhook_is_not_asked_for_again(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks/1").respond(404)
    with pytest.raises(NotFoundError):
        await api.get_webhook("1")
    assert route.call_count == 1


async def test_answer_of_another_shape_is_not_asked_for_again(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    route = asana.get("/webhooks/1").respond(200, html="<html></html>")
    with pytest.raises(DecodeError):
        await api.get_webhook("1")
    assert route.call_count == 1


async def test_certificate_that_is_not_trusted_is_not_tried_again(waits: list[float]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no") from ssl.SSLCertVerificationError("self-signed")

    async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as mine:
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted"):
            await WebhooksApi(TOKEN, http_client=mine).get_webhook("1")
    assert waits == []


async def test_waits_grow_and_the_last_error_is_raised_itself(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    asana.get("/webhooks/1").side_effect = [httpx.Response(status) for status in (500, 502) * 2] + [
        httpx.Response(503, json={"errors": [{"message": "the last"}]})
    ]
    with pytest.raises(ServerError, match="the last"):
        await api.get_webhook("1")
    for wait, least in zip(waits, (0.5, 1.0, 2.0, 4.0), strict=True):
        assert least <= wait <= least + 1.0


async def test_what_asana_wants_to_be_waited_for_is_no_time_spent(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    route = asana.get("/webhooks/1").respond(429, headers={"Retry-After": "40"})
    with pytest.raises(RateLimitedError):
        await api.get_webhook("1")
    assert (route.call_count, len(waits)) == (5, 4)


async def test_waits_are_jittered(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    asana.get("/webhooks/1").side_effect = httpx.ConnectError("no")
    for _ in range(5):
        with pytest.raises(ConnectionFailedError):
            await api.get_webhook("1")
    assert len(set(waits[::4])) > 1


@pytest.mark.parametrize("call", [pytest.param(READ, id="get"), pytest.param(CREATE, id="create")])
async def test_retry_after_is_waited_for(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], call: Call
) -> None:
    route = asana.route(path__startswith="/webhooks")
    route.side_effect = [
        httpx.Response(429, headers={"Retry-After": "17"}),
        httpx.Response(429, headers={"Retry-After": "0"}),
        httpx.Response(201, json=ONE),
    ]
    await call(api)
    assert 17.0 <= waits[0] <= 18.0
    assert 0.0 <= waits[1] <= 1.0


@pytest.mark.parametrize("call", [pytest.param(READ, id="get"), pytest.param(CREATE, id="create")])
async def test_retry_after_of_more_than_a_minute_is_the_callers_to_wait(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], call: Call
) -> None:
    route = asana.route(path__startswith="/webhooks")
    route.respond(429, headers={"Retry-After": "61"})
    with pytest.raises(RateLimitedError) as caught:
        await call(api)
    assert caught.value.retry_after == 61.0
    assert (route.call_count, waits) == (1, [])


@pytest.mark.parametrize("call", [pytest.param(READ, id="get"), pytest.param(CREATE, id="create")])
async def test_retry_after_that_outlasts_the_callers_timeout_is_the_callers_to_wait(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], call: Call
) -> None:
    route = asana.route(path__startswith="/webhooks")
    route.respond(429, headers={"Retry-After": "30"})
    with anyio.fail_after(20), pytest.raises(RateLimitedError):
        await call(api)
    assert (route.call_count, waits) == (1, [])


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        pytest.param(httpx.ConnectError("no"), ConnectionFailedError, id="no connection"),
        pytest.param(httpx.ConnectTimeout("no"), ConnectionFailedError, id="timeout"),
        pytest.param(httpx.Response(500), ServerError, id="500"),
        pytest.param(httpx.Response(502), ServerError, id="502"),
        pytest.param(httpx.Response(503), ServerError, id="503"),
        pytest.param(httpx.Response(504), ServerError, id="504"),
        pytest.param(httpx.Response(400), BadRequestError, id="400"),
        pytest.param(httpx.Response(403, json=DUPLICATE), DuplicateWebhookError, id="duplicate"),
        pytest.param(httpx.Response(201, text=""), DecodeError, id="empty 201"),
        pytest.param(httpx.Response(201, text='{"data":{"gid'), DecodeError, id="cut 201"),
    ],
)
async def test_create_is_never_repeated_when_it_may_have_had_an_effect(
    api: WebhooksApi,
    asana: respx.MockRouter,
    waits: list[float],
    failure: Any,
    expected: type[AsanaWebhooksError],
) -> None:
    route = asana.post("/webhooks")
    route.side_effect = [failure, httpx.Response(201, json=ONE)]
    with pytest.raises(expected):
        await api.create_webhook("1", TARGET)
    assert (route.call_count, waits) == (1, [])


async def test_create_that_was_refused_for_its_rate_is_repeated(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    asana.post("/webhooks").side_effect = [httpx.Response(429), httpx.Response(201, json=ONE)]
    assert (await api.create_webhook("1", TARGET)).gid == WEBHOOK["gid"]
    assert 0.5 <= waits[0] <= 1.5


async def test_create_is_not_repeated_when_a_failure_follows_the_refusal(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    route = asana.post("/webhooks")
    route.side_effect = [httpx.Response(429), httpx.Response(502)]
    with pytest.raises(ServerError):
        await api.create_webhook("1", TARGET)
    assert (route.call_count, len(waits)) == (2, 1)


async def test_deletion_whose_answer_was_lost_is_a_success(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    asana.delete("/webhooks/1").side_effect = [httpx.ReadError("cut"), httpx.Response(404)]
    await api.delete_webhook("1")
    assert len(waits) == 1


async def test_cancellation_passes_through_without_another_try(waits: list[float]) -> None:
    asked = asyncio.Semaphore(0)

    async def never_answer(request: httpx.Request) -> httpx.Response:
        asked.release()
        await asyncio.Event().wait()
        raise AssertionError

    async with httpx.AsyncClient(transport=httpx.MockTransport(never_answer)) as mine:
        task = asyncio.create_task(WebhooksApi(TOKEN, http_client=mine).get_webhook("1"))
        await asked.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (asked.locked(), waits) == (True, [])


# What reaches logs and errors.


async def test_neither_token_nor_body_is_in_logs_or_errors(
    api: WebhooksApi,
    asana: respx.MockRouter,
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    asana.post("/webhooks").side_effect = [
        httpx.Response(429),
        httpx.Response(201, json={**ONE, "X-Hook-Secret": SECRET}),
    ]
    webhook = await api.create_webhook("1", TARGET)
    asana.get("/webhooks/1").respond(500, html=f"<p>{TOKEN} page</p>")
    with pytest.raises(ServerError) as caught:
        await api.get_webhook("1")
    records = "".join(f"{record.__dict__}" for record in caplog.records)
    shown = f"{records} {webhook} {caught.value} {caught.value!r} {api}"
    for hidden in (TOKEN, "page", SECRET):
        assert hidden not in shown


def report(error: BaseException) -> str:
    """Return what the interpreter prints of an error that nobody catches."""
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [404, 503], ids=["refused", "tried again"])
async def test_report_of_a_refusal_is_short(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], status: int
) -> None:
    asana.get("/webhooks/1").respond(status)
    with pytest.raises(ApiError) as caught:
        await api.get_webhook("1")
    frames = traceback.extract_tb(caught.value.__traceback__)
    files = [frame.filename.rpartition("/")[2] for frame in frames]
    assert files == [
        "test_asana_transport.py",
        "api.py",
        *["_asana_transport.py"] * 3,
        "_asana_responses.py",
    ] + ["_asana_responses.py"] * (len(files) - 6)
    assert len(report(caught.value).splitlines()) < 25


async def test_report_of_a_failed_connection_is_short_and_names_its_cause(
    waits: list[float],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    async with WebhooksApi(TOKEN, base_url=f"http://127.0.0.1:{port}") as api:
        with pytest.raises(ConnectionFailedError) as caught:
            await api.get_webhook("1")
    text = report(caught.value)
    assert "ClientConnectorError: Cannot connect to host 127.0.0.1" in text
    assert len(text.splitlines()) < 40


async def test_retries_are_no_news_of_other_loggers(
    api: WebhooksApi,
    asana: respx.MockRouter,
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    asana.get("/webhooks/1").side_effect = [httpx.Response(502)] * 2 + [
        httpx.Response(200, json=ONE)
    ]
    await api.get_webhook("1")
    assert sum(waits) < 5  # a short wait is not worth a line
    assert [record for record in caplog.records if record.name != "httpx"] == []


async def test_long_wait_for_asana_is_said_once_a_call(
    api: WebhooksApi,
    asana: respx.MockRouter,
    waits: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    refused = [httpx.Response(429, headers={"Retry-After": "20"})] * 2
    asana.get("/webhooks/1").side_effect = [*refused, httpx.Response(200, json=ONE)] * 2
    for _ in range(2):
        caplog.clear()
        await api.get_webhook("1")
        (said,) = [record for record in caplog.records if record.name != "httpx"]
        assert (said.levelno, said.name) == (logging.INFO, "asana_webhooks._asana_transport")
        assert "GET /webhooks/1 waits for Asana, the next try follows in 2" in said.getMessage()
        assert "Asana answered 429" in said.getMessage()


async def test_slow_failure_counts_against_the_time_for_retries(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float]
) -> None:
    def fail_late(request: httpx.Request) -> httpx.Response:
        waits.append(29.0)  # the clock goes on while Asana is silent
        raise httpx.ReadTimeout("no")

    route = asana.get("/webhooks/1")
    route.side_effect = fail_late
    with pytest.raises(ConnectionFailedError):
        await api.get_webhook("1")
    assert route.call_count == 2  # the second failed after a minute


async def test_announced_changes_are_logged_once_each(
    api: WebhooksApi, asana: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    first = "name=new_user_task_lists;info=https://example.com/a,b;affected=true"
    headers = [
        ("Asana-Change", f"{first}, name=string_ids;affected=false"),
        ("Asana-Change", "name=evil\x1b[2J" + "x" * 500),
    ]
    asana.get("/webhooks/1").respond(200, headers=headers, json=ONE)
    await api.get_webhook("1")
    await api.get_webhook("1")
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert warnings[0].endswith(repr(first))
    assert warnings[1].endswith("'name=string_ids;affected=false'")
    assert r"evil\x1b[2J" in warnings[2]
    assert len(warnings[2]) < 300


async def test_endless_supply_of_announced_changes_is_not_kept(
    api: WebhooksApi, asana: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ",".join(f"name=change{number}" for number in range(500))
    asana.get("/webhooks/1").respond(200, headers={"Asana-Change": changes}, json=ONE)
    await api.get_webhook("1")
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 100


# What time it is at Asana.


@pytest.mark.parametrize("ahead", [timedelta(days=-400), timedelta(hours=27)])
async def test_time_at_asana_is_learnt_from_its_answers(
    api: WebhooksApi, asana: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    uptime = [1000.0]
    monkeypatch.setattr(_asana_connections, "_uptime", lambda: uptime[0])
    assert abs(api.asana_now() - datetime.now(UTC)) < timedelta(seconds=5)  # ours, before any
    theirs = datetime.now(UTC).replace(microsecond=0) + ahead
    date = {"Date": format_datetime(theirs, usegmt=True)}
    asana.get("/webhooks/1").respond(json=ONE, headers=date)
    await api.get_webhook("1")
    assert api.asana_now() == theirs
    uptime[0] += 3600.0
    assert api.asana_now() == theirs + timedelta(hours=1)


async def test_answers_narrow_down_the_time_at_asana(
    api: WebhooksApi, asana: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    uptime, clock = [1000.0], api._transport.clock
    monkeypatch.setattr(_asana_connections, "_uptime", lambda: uptime[0])
    set_ahead = datetime(2026, 3, 1, tzinfo=UTC)

    def now() -> datetime:
        return set_ahead + timedelta(seconds=uptime[0])

    def answer(request: httpx.Request) -> httpx.Response:
        uptime[0] += 0.03
        date = {"Date": format_datetime(now().replace(microsecond=0), usegmt=True)}
        uptime[0] += 0.05
        return httpx.Response(200, json=ONE, headers=date)

    async def span() -> timedelta:
        await api.get_webhook("1")
        earliest, latest = clock.span()
        assert earliest <= now() <= latest
        return latest - earliest

    asana.get("/webhooks/1").mock(side_effect=answer)
    assert timedelta(seconds=1) <= await span() < timedelta(seconds=1.1)
    for _ in range(30):
        uptime[0] += 0.3
        width = await span()
    assert width < timedelta(seconds=0.15)
    uptime[0] += 86400.0
    assert clock.span()[0] < now() < clock.span()[1]
    set_ahead -= timedelta(minutes=5)  # the clock is set back
    assert await span() >= timedelta(seconds=1)


async def test_time_at_asana_is_ours_before_any_answer(api: WebhooksApi) -> None:
    earliest, latest = api._transport.clock.span()
    assert earliest == latest
    assert abs(latest - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param({"status_code": 502, "html": "<html></html>"}, id="a proxy"),
        pytest.param({"status_code": 200, "html": "<html></html>"}, id="a hotel"),
        pytest.param({"status_code": 200, "json": ONE, "date": "yesterday"}, id="no date"),
        pytest.param({"status_code": 200, "json": ONE, "date": None}, id="none"),
    ],
)
async def test_time_is_learnt_from_nobody_else(
    api: WebhooksApi, asana: respx.MockRouter, waits: list[float], answer: dict[str, Any]
) -> None:
    date = answer.pop("date", "Wed, 01 Jan 2020 00:00:00 GMT")
    asana.get("/webhooks/1").respond(headers={"Date": date} if date else {}, **answer)
    with contextlib.suppress(ServerError, DecodeError):
        await api.get_webhook("1")
    assert api.asana_now().year >= 2026


async def test_time_is_asked_for_once_and_not_when_it_is_known(
    api: WebhooksApi, asana: respx.MockRouter
) -> None:
    theirs = datetime(2020, 1, 1, tzinfo=UTC)
    date = {"Date": format_datetime(theirs, usegmt=True)}
    me = asana.get("/users/me").respond(json=ONE, headers=date)
    for _ in range(3):
        await api._transport.learn_time()
    assert api.asana_now().year == 2020
    assert me.call_count == 1


async def test_question_for_the_time_that_fails_is_asked_again_after_a_minute(
    api: WebhooksApi, asana: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = asana.get("/users/me").respond(401)
    for _ in range(3):
        await api._transport.learn_time()
    assert me.call_count == 1
    monkeypatch.setattr(_asana_transport, "ASK_AFTER", 0.0)
    await api._transport.learn_time()
    assert me.call_count == 2
    assert api.asana_now().year >= 2026


# Many tokens over the same connections.


def answering_with_its_token(request: httpx.Request) -> httpx.Response:
    """Return a webhook whose gid is the token of the call."""
    assert "Cookie" not in request.headers
    token = request.headers["Authorization"].removeprefix("Bearer ")
    return httpx.Response(200, json={"data": {**WEBHOOK, "gid": token}})


def over(transport: AsanaTransport) -> WebhooksApi:
    """Return the calls over a transport that is there."""
    api = WebhooksApi.__new__(WebhooksApi)
    api._call_over(transport)
    return api


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"auth": ("user", "pass")}, id="auth"),
        pytest.param({"headers": {"Authorization": "Bearer its-own"}}, id="header"),
        pytest.param({"cookies": {"session": "its-own"}}, id="cookie"),
    ],
)
async def test_each_call_goes_with_the_token_of_its_transport(own: dict[str, Any]) -> None:
    mock = httpx.MockTransport(answering_with_its_token)
    async with httpx.AsyncClient(transport=mock, **own) as http_client:
        first = AsanaTransport("0", base_url=None, http_client=http_client)
        others = [over(first.for_token(str(number))) for number in range(1, 20)]
        calls = [
            (str(n), api.get_webhook("1")) for _ in range(9) for n, api in enumerate(others, 1)
        ]
        random.shuffle(calls)
        answers = await asyncio.gather(*(call for _, call in calls))
    assert [answer.gid for answer in answers] == [token for token, _ in calls]


async def test_token_that_adds_no_header_is_not_replaced_by_that_of_a_given_client() -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(401)

    mock = httpx.MockTransport(answer)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(transport=mock, headers=headers) as http_client:
        transport = AsanaTransport(None, base_url=None, http_client=http_client)
        with pytest.raises(AuthenticationError):
            await over(transport.for_token(httpx.Auth())).get_webhook("1")
    assert "Authorization" not in seen[0]


@pytest.mark.parametrize("token", [None, "", "Bearer 1"])
def test_transport_for_no_token_is_refused(monkeypatch: pytest.MonkeyPatch, token: Any) -> None:
    monkeypatch.setenv(TOKEN_VARIABLES[0], "of-the-environment")
    transport = AsanaTransport(TOKEN, base_url=None, http_client=None)
    with pytest.raises(ValueError, match="token is no access token"):
        transport.for_token(token)


async def test_tokens_share_the_connections_and_the_clock_of_the_first() -> None:
    ports = set[int]()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername")[1])
        return web.json_response(ONE, headers={"Date": "Wed, 01 Jan 2020 00:00:00 GMT"})

    async with asana_at(answer) as api:
        first = api._transport
        one, other = over(first.for_token("one")), over(first.for_token("other"))
        await one.get_webhook("1")
        await other.get_webhook("1")
        await one.aclose()
        with pytest.raises(RuntimeError, match="was closed"):
            await one.get_webhook("1")
        await other.get_webhook("1")
        assert len(ports) == 1
        assert other.asana_now().year == api.asana_now().year == 2020
        await api.aclose()
        with pytest.raises(RuntimeError, match="was closed"):
            await other.get_webhook("1")


async def test_client_without_a_token_of_its_own_makes_no_call(asana: respx.MockRouter) -> None:
    asana.get("/webhooks/1").respond(json=ONE)
    async with WebhooksApi(NoToken()) as api:
        await api._transport.learn_time()
        with pytest.raises(RuntimeError, match="call by one of its accounts"):
            await api.get_webhook("1")
        assert (await over(api._transport.for_token(TOKEN)).get_webhook("1")).gid == WEBHOOK["gid"]
    assert asana.calls.call_count == 1


# Whose client it is, and its end.


async def test_call_after_closing_is_a_clear_mistake(asana: respx.MockRouter) -> None:
    asana.get("/webhooks/1").respond(json=ONE)
    async with WebhooksApi(TOKEN) as api:
        await api.get_webhook("1")
    await api.aclose()
    with pytest.raises(RuntimeError, match="was closed"):
        await api.get_webhook("1")


async def test_given_client_is_used_and_not_closed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        assert request.headers["User-Agent"] == "mine"
        return httpx.Response(200, json=ONE)

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, headers={"User-Agent": "mine"}) as mine:
        async with WebhooksApi(TOKEN, http_client=mine) as api:
            assert (await api.get_webhook("1")).gid == WEBHOOK["gid"]
        assert not mine.is_closed
        with pytest.raises(RuntimeError, match="was closed"):
            await api.get_webhook("1")


@pytest.mark.parametrize(
    "carried",
    [{"auth": ("user", "pass")}, {"headers": {"Authorization": "Bearer mine"}}],
    ids=["auth", "header"],
)
async def test_given_client_may_authenticate_by_itself(carried: dict[str, Any]) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json=ONE)

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, **carried) as mine:
        await WebhooksApi(http_client=mine).get_webhook("1")
        await WebhooksApi(TOKEN, http_client=mine).get_webhook("1")
    assert seen[0] in ("Basic dXNlcjpwYXNz", "Bearer mine")
    assert seen[1] == f"Bearer {TOKEN}"


async def test_given_client_without_any_authentication_needs_a_token() -> None:
    async with httpx.AsyncClient() as mine:
        with pytest.raises(ValueError, match="no access token"):
            WebhooksApi(http_client=mine)


async def test_given_client_does_not_make_redirects_followed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": "https://evil.example/"})

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, follow_redirects=True) as mine:
        with pytest.raises(ApiError, match="redirects are not followed"):
            await WebhooksApi(TOKEN, http_client=mine).get_webhook("1")


# On real sockets.


async def test_certificates_are_read_once_and_again_when_the_environment_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response(ONE)

    file = self_made_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    application = web.Application()
    application.router.add_get("/webhooks/1", answer)
    server = TestServer(application, scheme="https")

    async def ask() -> Webhook:
        async with WebhooksApi(TOKEN, base_url=f"https://127.0.0.1:{server.port}") as api:
            return await api.get_webhook("1")

    await server.start_server(ssl=context)
    try:
        with pytest.raises(ConnectionFailedError, match="certificate is not trusted"):
            await ask()
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert (await ask()).gid == WEBHOOK["gid"]
        file.unlink()
        assert (await ask()).gid == WEBHOOK["gid"]
    finally:
        await server.close()
    assert waits == []


@pytest.mark.parametrize("call", [pytest.param(READ, id="get"), pytest.param(CREATE, id="create")])
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"", "hung up", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "hung up", id="cut"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "not HTTP", id="not http"),
    ],
)
async def test_hang_up_is_a_failed_connection_and_create_is_sent_once(
    waits: list[float], call: Call, answer: bytes, kind: str
) -> None:
    heads: list[bytes] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)

    async with bytes_at(hang_up) as base_url, WebhooksApi(TOKEN, base_url=base_url) as api:
        with pytest.raises(ConnectionFailedError, match=kind) as caught:
            await call(api)
    assert caught.value.__cause__ is not None
    assert TOKEN not in str(caught.value)
    if call is CREATE:
        assert (len(heads), waits) == (1, [])
    else:
        assert len(waits) == 4


async def test_create_over_a_kept_connection_that_dies_is_sent_once() -> None:
    heads: list[bytes] = []
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b'{"data":{"gid":"1"}}'

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ok)
        heads.append(await reader.readuntil(b"\r\n\r\n"))

    async with bytes_at(answer_once) as base_url, WebhooksApi(TOKEN, base_url=base_url) as api:
        await api.get_webhook("1")
        with pytest.raises(ConnectionFailedError, match="unknown"):
            await api.create_webhook("1", TARGET)
    assert [head.split()[0] for head in heads] == [b"GET", b"POST"]


async def test_answer_that_does_not_come_in_time_is_a_failed_connection() -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with bytes_at(stay_silent) as base_url, WebhooksApi(TOKEN, base_url=base_url) as api:
        with pytest.raises(ConnectionFailedError, match="in time"):
            await api.create_webhook("1", TARGET, timeout=0.1)


async def test_answer_that_drips_is_cut_off_too() -> None:
    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=201)
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.01)

    async with asana_at(drip) as api:
        with pytest.raises(ConnectionFailedError, match="in time"):
            await api.create_webhook("1", TARGET, timeout=0.2)


async def test_refused_connection_is_told(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing:
        port = closing.getsockname()[1]
    async with WebhooksApi(TOKEN, base_url=f"http://127.0.0.1:{port}") as api:
        with pytest.raises(ConnectionFailedError, match=rf"127\.0\.0\.1:{port}: .*refused"):
            await api.get_webhook("1")
    assert len(waits) == 4


async def test_name_that_is_not_known_is_told(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    async with WebhooksApi(TOKEN, base_url="http://asana.example") as api:
        with pytest.raises(ConnectionFailedError, match="its name was not resolved"):
            await api.get_webhook("1")


async def test_tls_to_a_server_without_it_is_told(waits: list[float]) -> None:
    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with (
        bytes_at(speak_plainly, "https") as base_url,
        WebhooksApi(TOKEN, base_url=base_url) as api,
    ):
        with pytest.raises(ConnectionFailedError, match="TLS failed"):
            await api.get_webhook("1")


async def test_certificates_are_judged_as_httpx_does(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noting(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            names.append(options["server_hostname"])
            return super().wrap_bio(*args, **options)

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    names: list[str] = []
    context = Noting(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: context)
    read_now = _asana_http._trusting.__wrapped__
    monkeypatch.setattr(_asana_http, "_trusting", read_now)
    async with (
        bytes_at(hang_up, "https") as base_url,
        WebhooksApi(TOKEN, base_url=base_url) as api,
    ):
        with pytest.raises(ConnectionFailedError):
            await api.get_webhook("1")
    assert set(names) == {"127.0.0.1"}


async def test_oversized_answer_is_dropped_with_its_connection() -> None:
    ports: list[int] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        if request.path.endswith("/2"):
            return web.json_response(ONE)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    async with asana_at(answer) as api:
        with pytest.raises(DecodeError, match="too large"):
            await api.get_webhook("1")
        assert (await api.get_webhook("2")).gid == WEBHOOK["gid"]
        assert (await api.get_webhook("2")).gid == WEBHOOK["gid"]
    assert ports[0] != ports[1] == ports[2]


async def test_answer_that_is_cut_off_gives_its_connection_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With httpx-aiohttp 0.1.8 it stayed taken for as long as anybody held the error."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/2"):
            return web.json_response(ONE)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    monkeypatch.setattr(_asana_http, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(_asana_transport, "MAX_ANSWER", 65536)
    async with asana_at(answer) as api:
        with pytest.raises(DecodeError, match="too large") as caught:
            await api.get_webhook("1")
        async with asyncio.timeout(5):
            assert (await api.get_webhook("2")).gid == WEBHOOK["gid"]
    assert caught.value.__traceback__ is not None  # it was held meanwhile


async def test_oversized_refusal_keeps_its_status() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=403, body=b" " * (MAX_ANSWER + 1))

    async with asana_at(answer) as api:
        with pytest.raises(ApiError) as caught:
            await api.get_webhook("1")
    assert (caught.value.status, caught.value.errors) == (403, ())


async def test_compressed_answer_is_unpacked() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["Accept-Encoding"] == "gzip"
        packed = gzip.compress(json.dumps(ONE).encode())
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async with asana_at(answer) as api:
        assert (await api.get_webhook("1")).gid == WEBHOOK["gid"]


async def test_answer_that_does_not_unpack_is_not_asanas() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"no gzip", headers={"Content-Encoding": "gzip"})

    async with asana_at(answer) as api:
        with pytest.raises(DecodeError, match="badly compressed"):
            await api.get_webhook("1")


async def test_small_answer_that_unpacks_to_a_large_one_is_refused() -> None:
    bomb = gzip.compress(b" " * (MAX_ANSWER + 1))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with asana_at(answer) as api:
        with pytest.raises(DecodeError, match="too large"):
            await api.get_webhook("1")


async def test_redirect_is_not_followed() -> None:
    paths: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        paths.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with asana_at(answer) as api:
        for call in (READ, CREATE):
            with pytest.raises(ApiError, match="redirects are not followed"):
                await call(api)
    assert paths == ["/webhooks/1", "/webhooks"]


async def test_cookies_are_not_kept() -> None:
    cookies: list[str | None] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        cookies.append(request.headers.get("Cookie"))
        response = web.json_response(ONE)
        response.set_cookie("session", "of-someone")
        return response

    # not the address: aiohttp's own jar keeps cookies of names only
    async with asana_at(answer, "localhost") as api:
        await api.get_webhook("1")
        await api.get_webhook("1")
    assert cookies == [None, None]


@pytest.mark.parametrize(
    ("variable", "before"),
    [("http_proxy", "http://us%40er:pass@"), ("ALL_PROXY", "us%40er:pass@")],
    ids=["url", "without scheme, for all"],
)
async def test_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, before: str
) -> None:
    heads: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    async with bytes_at(relay) as proxy:
        monkeypatch.setenv(variable, before + proxy.removeprefix("http://"))
        async with WebhooksApi(TOKEN, base_url="http://asana.example") as api:
            with pytest.raises(NotFoundError):
                await api.get_webhook("1")
    assert heads[0].startswith(b"GET http://asana.example/webhooks/1 ")
    assert b"Proxy-Authorization: Basic dXNAZXI6cGFzcw==" in heads[0]


def test_no_proxy_exempts_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert find_proxy("http://asana.example") == "http://127.0.0.1:1"
    monkeypatch.setenv("no_proxy", "asana.example")
    assert find_proxy("http://asana.example") is None


async def test_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(ONE)

    async with asana_at(answer) as api:
        assert (await api.get_webhook("1")).gid == WEBHOOK["gid"]


async def test_netrc_entry_for_the_host_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password pass\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers["Authorization"])
        return web.json_response(ONE)

    async with asana_at(answer) as api:
        await api.get_webhook("1")
    assert seen == [f"Bearer {TOKEN}"]


async def test_storm_of_cancelled_calls_leaves_the_client_usable() -> None:
    arrived = asyncio.Semaphore(0)
    held = asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/2"):
            return web.json_response(ONE)
        arrived.release()
        await held.wait()
        return web.json_response(ONE)

    async with asana_at(answer) as api:
        for burst in range(40):
            calls = [asyncio.create_task(api.get_webhook("1")) for _ in range(20)]
            for _ in range(burst % 21):  # from none to all of them are in flight
                await arrived.acquire()
            for call in calls:
                call.cancel()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(end) for end in ends} == {asyncio.CancelledError}
        async with asyncio.timeout(1):
            assert (await api.get_webhook("2")).gid == WEBHOOK["gid"]
        held.set()
