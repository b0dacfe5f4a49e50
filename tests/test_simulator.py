"""The local Asana, judged by recorded answers with a plain client and a plain receiver."""

import asyncio
import hashlib
import hmac
import inspect
import json
import logging
import re
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import anyio
import httpx
import pytest
from aiohttp import web
from support.plain_http import NO_TLS

from asana_webhooks.simulator import AsanaSimulator, Fault, Faults, arguments
from asana_webhooks.simulator.filters import checked_filters
from asana_webhooks.simulator.responses import Refused
from asana_webhooks.simulator.webhook_creation import Targets

HEARTBEAT = b'{"events":[]}'
INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
HELP = (
    "For more information on API status codes and how to handle them, read the docs on errors: "
    "https://developers.asana.com/docs/errors"
)
NO_SECRET_CAME = (
    "The remote server which is intended to receive the webhook did not respond with the "
    "handshake secret."
)
EVENT = {"action": "changed", "resource": {"gid": "1", "resource_type": "task"}, "user": None}

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def echo(request: web.Request) -> web.Response:
    return web.Response(headers={"X-Hook-Secret": request.headers["X-Hook-Secret"]})


async def hang_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Receiver:
    """Keeps what arrives; answers deliveries with ``statuses`` in turn, and then with 200."""

    def __init__(self) -> None:
        self.url = ""
        self.paths: list[str] = []
        self.handshakes: list[str] = []
        self.deliveries: list[tuple[bytes, str]] = []
        self.on_handshake: Answering = echo
        self.on_delivery: Answering = self.next_status
        self.statuses: deque[int] = deque()
        self.arrived = asyncio.Event()
        self.news = asyncio.Condition()
        self.gate = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.raw_path)
        async with self.news:
            self.news.notify_all()
        body = await request.read()
        assert request.method == "POST"
        assert request.content_type == "application/json"
        if "X-Hook-Secret" in request.headers:
            assert body == b"{}"
            assert "X-Hook-Signature" not in request.headers
            self.handshakes.append(request.headers["X-Hook-Secret"])
            return await self.on_handshake(request)
        self.deliveries.append((body, request.headers["X-Hook-Signature"]))
        self.arrived.set()
        return await self.on_delivery(request)

    async def next_status(self, request: web.Request) -> web.Response:
        return web.Response(status=self.statuses.popleft() if self.statuses else 200, text="hm")

    async def wait_for_the_gate(self, request: web.Request) -> web.Response:
        await self.gate.wait()
        return web.Response()

    @property
    def bodies(self) -> list[bytes]:
        return [body for body, _ in self.deliveries]

    @property
    def events(self) -> list[list[dict[str, Any]]]:
        return [json.loads(body)["events"] for body in self.bodies]


@pytest.fixture(autouse=True)
def _nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG, "asana_webhooks")
    yield
    for phase in ("setup", "call", "teardown"):
        loud = [each for each in caplog.get_records(phase) if each.levelno >= logging.WARNING]
        assert loud == []


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield receiver
    await runner.cleanup()


def tasks_under_way() -> set[str]:
    names = {task.get_name() for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("create call", "deliveries of webhook"))}


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    async with AsanaSimulator(gather_for=0, retry_delay=0.001, retry_after=0) as asana:
        yield asana
    assert tasks_under_way() == set()


def client_of(asana: AsanaSimulator, app: str = "app-one") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=asana.base_url,
        headers={"Authorization": f"Bearer {app}"},
        timeout=20,
        verify=NO_TLS,
    )


@pytest.fixture
async def api(asana: AsanaSimulator) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(asana) as api:
        yield api


Create = Callable[..., Coroutine[Any, Any, httpx.Response]]


@pytest.fixture
def create(asana: AsanaSimulator, api: httpx.AsyncClient, receiver: Receiver) -> Create:
    async def create(path: str = "/hook", **fields: Any) -> httpx.Response:
        data = {"resource": asana.project, "target": receiver.url + path, **fields}
        return await api.post("/webhooks", json={"data": data})

    return create


@pytest.fixture
async def webhook(create: Create, asana: AsanaSimulator, receiver: Receiver) -> str:
    """The gid of an established webhook on the project whose heartbeat has been delivered."""
    gid: str = (await create()).json()["data"]["gid"]
    await asana.settled()
    receiver.deliveries.clear()
    receiver.arrived.clear()
    asana.deliveries.clear()
    return gid


def error_of(response: httpx.Response) -> str:
    (error,) = response.json()["errors"]
    assert error.keys() == {"message", "help"}
    assert error["help"] == HELP
    message: str = error["message"]
    return message


# Create calls and their handshakes


async def test_create_call_answers_like_the_recorded_one(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    filters = [{"resource_type": "task", "action": "added"}]
    response = await create(filters=filters)
    assert response.status_code == 201
    body = response.json()
    data = body["data"]
    assert re.fullmatch(INSTANT, data.pop("created_at"))
    assert re.fullmatch(INSTANT, data.pop("last_success_at"))
    gid = data.pop("gid")
    assert data == {
        "resource_type": "webhook",
        "resource": {"gid": "8675309", "resource_type": "project", "name": "Bugs"},
        "target": receiver.url + "/hook",
        "active": True,
        "last_failure_at": None,
        "last_failure_content": "",
        "delivery_retry_count": 0,
        "next_attempt_after": None,
        "failure_deletion_timestamp": None,
        "filters": [
            {
                "resource_type": "task",
                "resource_subtype": None,
                "action": "added",
                "fields": None,
            }
        ],
        "is_workspace_webhook": False,
    }
    assert body.keys() == {"data", "X-Hook-Secret"}
    assert re.fullmatch("[0-9a-f]{64}", body["X-Hook-Secret"])
    assert response.headers["Location"] == f"/api/1.0/webhooks/{gid}"
    assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert response.headers["X-Asana-Api-Version"] == "1.0"
    assert asana.webhooks[gid].secret == body["X-Hook-Secret"]


async def test_handshake_goes_to_the_exact_target_before_the_signed_heartbeat(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    secret = (await create("/a%2Fb?state=%7B1%7D&x=a+b")).json()["X-Hook-Secret"]
    await asana.settled()
    assert receiver.paths == ["/a%2Fb?state=%7B1%7D&x=a+b"] * 2
    assert receiver.handshakes == [secret]
    signature = hmac.new(secret.encode(), HEARTBEAT, hashlib.sha256).hexdigest()
    assert receiver.deliveries == [(HEARTBEAT, signature)]


async def test_form_body_creates_a_webhook(
    asana: AsanaSimulator, api: httpx.AsyncClient, receiver: Receiver
) -> None:
    response = await api.post(
        "/webhooks", data={"resource": asana.project, "target": receiver.url + "/hook"}
    )
    assert response.status_code == 201
    assert response.json()["data"]["filters"] == []


async def test_204_completes_the_handshake(create: Create, receiver: Receiver) -> None:
    async def no_content(request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"X-Hook-Secret": receiver.handshakes[-1]})

    receiver.on_handshake = no_content
    assert (await create()).status_code == 201


async def redirect(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/elsewhere"})


async def refuse(request: web.Request) -> web.Response:
    return web.Response(status=401, headers={"X-Hook-Secret": request.headers["X-Hook-Secret"]})


async def forget(request: web.Request) -> web.Response:
    return web.Response()


async def change(request: web.Request) -> web.Response:
    return web.Response(headers={"X-Hook-Secret": request.headers["X-Hook-Secret"].upper()})


def incorrect(status: int) -> str:
    return (
        "The remote server which is intended to receive the webhook responded with an "
        f"incorrect status code: {status}"
    )


@pytest.mark.parametrize(
    ("answering", "message"),
    [
        pytest.param(forget, NO_SECRET_CAME, id="no-header"),
        pytest.param(change, NO_SECRET_CAME, id="another-secret"),
        pytest.param(hang_up, NO_SECRET_CAME, id="connection-cut"),
        pytest.param(refuse, incorrect(401), id="status-401"),
        pytest.param(redirect, incorrect(302), id="redirect"),
    ],
)
async def test_handshake_that_is_not_completed_creates_nothing(
    asana: AsanaSimulator, create: Create, receiver: Receiver, answering: Answering, message: str
) -> None:
    receiver.on_handshake = answering
    response = await create()
    assert (response.status_code, error_of(response)) == (400, message)
    assert not asana.webhooks
    assert asana.create_started.is_set()
    assert not asana.handshake_done.is_set()
    assert receiver.paths == ["/hook"]


async def test_target_that_listens_to_nothing_is_answered_like_a_missing_secret(
    create: Create,
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        response = await create(target=f"http://127.0.0.1:{unused.getsockname()[1]}/")
    assert (response.status_code, error_of(response)) == (400, NO_SECRET_CAME)


async def test_target_that_is_silent_is_given_up_after_the_timeout(receiver: Receiver) -> None:
    async def silence(request: web.Request) -> web.Response:
        await receiver.gate.wait()
        return web.Response()

    receiver.on_handshake = silence
    async with AsanaSimulator(delivery_timeout=0.05) as asana, client_of(asana) as api:
        data = {"resource": asana.project, "target": receiver.url}
        response = await api.post("/webhooks", json={"data": data})
    receiver.gate.set()
    assert (response.status_code, error_of(response)) == (400, NO_SECRET_CAME)


@pytest.mark.parametrize(
    ("changed", "status", "message"),
    [
        ({"resource": None}, 400, "resource: Missing input"),
        ({"resource": ""}, 400, "resource: Missing input"),
        ({"target": None}, 400, "target: Missing input"),
        ({"target": 7}, 400, "target: Missing input"),
        ({"target": "hooks.example.com"}, 400, "target: Not a valid URL"),
        ({"target": "ftp://127.0.0.1/"}, 400, "target: Not a valid URL"),
        ({"target": "http:///path"}, 400, "target: Not a valid URL"),
        ({"target": "http://127.0.0.1:99999/"}, 400, "target: Not a valid URL"),
        ({"target": "http://127.0.0.1/a b"}, 400, "target: Not a valid URL"),
        ({"target": "http://127.0.0.1/a\r\nX: y"}, 400, "target: Not a valid URL"),
        ({"resource": "404"}, 404, "resource: Unknown object: 404"),
        ({"filters": "task"}, 400, "filters: Value is not an array"),
    ],
)
async def test_create_call_with_a_mistake_is_refused_before_the_handshake(
    create: Create, receiver: Receiver, changed: dict[str, Any], status: int, message: str
) -> None:
    response = await create(**changed)
    assert (response.status_code, error_of(response)) == (status, message)
    assert receiver.paths == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Could not parse request data, invalid JSON"),
        (b"[" * 100_000, "Could not parse request data, invalid JSON"),
        (b"[]", "data: Missing input"),
        (
            b'{"resource":"8675309"}',
            "Unrecognized request field resource. The only allowed keys at the top level are:"
            " data, options.",
        ),
        (b'{"data":[]}', "data: Missing input"),
    ],
    ids=["truncated", "deep", "array", "bare", "data-array"],
)
async def test_body_that_is_not_an_envelope_is_refused(
    api: httpx.AsyncClient, content: bytes, message: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await api.post("/webhooks", content=content, headers=headers)
    assert (response.status_code, error_of(response)) == (400, message)


async def test_second_webhook_for_resource_and_target_is_refused_to_the_same_app(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    assert (await create()).status_code == 201
    response = await create()
    assert (response.status_code, error_of(response)) == (
        403,
        "Duplicated webhook. You already have an existing webhook for the given resource and"
        " target. Delete the old one before creating another.",
    )
    assert len(receiver.handshakes) == 1
    assert (await create("/other")).status_code == 201
    async with client_of(asana, "another") as other:
        data = {"resource": asana.project, "target": receiver.url + "/hook"}
        assert (await other.post("/webhooks", json={"data": data})).status_code == 201


async def test_of_equal_create_calls_at_once_one_succeeds(
    asana: AsanaSimulator, create: Create
) -> None:
    responses = await asyncio.gather(*(create() for _ in range(5)))
    assert sorted(each.status_code for each in responses) == [201, 403, 403, 403, 403]
    assert len(asana.webhooks) == 1


async def test_create_call_goes_on_when_the_caller_hangs_up(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("slow-handshake")
    call = asyncio.create_task(create())
    await asana.create_started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    asana.release_handshake.set()
    await asana.handshake_done.wait()
    await asana.settled()
    assert [record.target for record in asana.webhooks.values()] == [receiver.url + "/hook"]


# Where a local Asana posts to


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST",
        "127.0.0.1",
        "127.8.9.1",
        "[::1]",
        "10.0.0.1",
        "mac.local",
        "0.0.0.0",
    ],
)
def test_local_targets_are_forbidden_where_asana_forbids_them(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Targets(local=False, hosts=("10.0.0.1", "mac.local", "0.0.0.0")).check(f"http://{host}/")
    assert refused.value.status == 403


@pytest.mark.parametrize("host", ["example.com", "8.8.8.8", "10.0.0.1", "localhost.example.com"])
def test_hosts_beyond_loopback_are_called_only_when_they_are_named(host: str) -> None:
    with pytest.raises(Refused) as refused:
        Targets(local=True, hosts=()).check(f"https://{host}:8443/x")
    assert refused.value.status == 400
    assert "allow_hosts" in refused.value.body["errors"][0]["message"]
    Targets(local=True, hosts=(host,)).check(f"https://{host}:8443/x")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_loopback_needs_no_name(host: str) -> None:
    Targets(local=True, hosts=()).check(f"http://{host}:8080/hook")


async def test_localhost_is_forbidden_without_allow_local(receiver: Receiver) -> None:
    async with AsanaSimulator(allow_local=False) as asana, client_of(asana) as api:
        data = {"resource": asana.project, "target": receiver.url}
        response = await api.post("/webhooks", json={"data": data})
    assert response.status_code == 403
    assert error_of(response) == "target: The host 127.0.0.1 is not allowed"
    assert receiver.paths == []


# The other calls


async def test_webhook_is_shown_whole_and_without_its_secret(
    api: httpx.AsyncClient, asana: AsanaSimulator, webhook: str
) -> None:
    response = await api.get(f"/webhooks/{webhook}")
    assert response.status_code == 200
    data = response.json()["data"]
    assert data["gid"] == webhook
    assert data["delivery_retry_count"] == 0
    assert data["next_attempt_after"] is None
    assert data["failure_deletion_timestamp"] is None
    assert asana.webhooks[webhook].secret not in response.text


async def test_named_fields_are_shown_and_no_others(api: httpx.AsyncClient, create: Create) -> None:
    gid = (await create(filters=[{"action": "added"}])).json()["data"]["gid"]
    names = "resource.name, active,filters.action"
    response = await api.get(f"/webhooks/{gid}", params={"opt_fields": names})
    assert response.json()["data"] == {
        "gid": gid,
        "resource": {"gid": "8675309", "name": "Bugs"},
        "active": True,
        "filters": [{"action": "added"}],
    }


async def test_create_call_shows_named_fields_too(
    api: httpx.AsyncClient, asana: AsanaSimulator, receiver: Receiver
) -> None:
    response = await api.post(
        "/webhooks",
        params={"opt_fields": "target"},
        json={"data": {"resource": asana.project, "target": receiver.url}},
    )
    assert response.json()["data"].keys() == {"gid", "target"}
    assert "X-Hook-Secret" in response.json()


async def test_list_is_compact_and_without_a_next_page_unless_a_limit_is_given(
    api: httpx.AsyncClient, webhook: str, receiver: Receiver
) -> None:
    record = {
        "gid": webhook,
        "resource_type": "webhook",
        "active": True,
        "resource": {"gid": "8675309", "resource_type": "project", "name": "Bugs"},
        "target": receiver.url + "/hook",
    }
    response = await api.get("/webhooks", params={"workspace": "1331"})
    assert response.json() == {"data": [record]}
    response = await api.get("/webhooks", params={"workspace": "1331", "limit": 1})
    assert response.json() == {"data": [record], "next_page": None}
    response = await api.get("/webhooks", params={"workspace": "1331", "opt_fields": "active"})
    assert response.json() == {"data": [{"gid": webhook, "active": True}]}


async def test_list_can_be_narrowed_to_one_resource(
    api: httpx.AsyncClient, asana: AsanaSimulator, create: Create, webhook: str
) -> None:
    task = await asana.create_task("Fix the login", project=asana.project)
    other = (await create(resource=task)).json()["data"]["gid"]
    params = {"workspace": asana.workspace, "resource": task}
    response = await api.get("/webhooks", params=params)
    assert [record["gid"] for record in response.json()["data"]] == [other]


async def test_pages_lead_through_the_whole_list(
    api: httpx.AsyncClient, asana: AsanaSimulator, create: Create
) -> None:
    for number in range(5):
        await create(f"/{number}")
    first = (await api.get("/webhooks", params={"workspace": "1331", "limit": 2})).json()
    offset = first["next_page"]["offset"]
    assert first["next_page"] == {
        "offset": offset,
        "path": f"/webhooks?workspace=1331&limit=2&offset={offset}",
        "uri": f"{asana.base_url}/webhooks?workspace=1331&limit=2&offset={offset}",
    }
    second = (await api.get(first["next_page"]["uri"])).json()
    third = (await api.get(asana.base_url + second["next_page"]["path"])).json()
    assert third["next_page"] is None
    gids = [record["gid"] for body in (first, second, third) for record in body["data"]]
    assert gids == list(asana.webhooks)


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({}, 400, "workspace: Missing input"),
        ({"workspace": "7"}, 404, "workspace: Unknown object: 7"),
        ({"workspace": "1331", "limit": "0"}, 400, "limit: Must be a number between 1 and 100"),
        ({"workspace": "1331", "limit": "101"}, 400, "limit: Must be a number between 1 and 100"),
        (
            {"workspace": "1331", "limit": "0100000"},
            400,
            "limit: Must be a number between 1 and 100",
        ),
        ({"workspace": "1331", "limit": "ten"}, 400, "limit: Must be a number between 1 and 100"),
        (
            {"workspace": "1331", "limit": "5", "offset": "made-up"},
            400,
            "offset: Your pagination token is invalid or has expired",
        ),
    ],
)
async def test_list_call_with_a_mistake_is_refused(
    api: httpx.AsyncClient, webhook: str, params: dict[str, str], status: int, message: str
) -> None:
    response = await api.get("/webhooks", params=params)
    assert (response.status_code, error_of(response)) == (status, message)


async def test_webhooks_of_another_token_are_neither_listed_nor_shown(
    asana: AsanaSimulator, webhook: str
) -> None:
    async with client_of(asana, "another") as other:
        listed = await other.get("/webhooks", params={"workspace": asana.workspace})
        shown = await other.get(f"/webhooks/{webhook}")
        deleted = await other.delete(f"/webhooks/{webhook}")
    assert listed.json() == {"data": []}
    assert shown.status_code == deleted.status_code == 404
    assert webhook in asana.webhooks


async def test_update_overwrites_the_whole_list_of_filters(
    api: httpx.AsyncClient, create: Create
) -> None:
    gid = (await create(filters=[{"action": "added"}, {"action": "removed"}])).json()["data"]["gid"]
    new = [{"resource_type": "task", "action": "changed", "fields": ["completed"]}]
    response = await api.put(f"/webhooks/{gid}", json={"data": {"filters": new}})
    assert response.status_code == 200
    assert response.json()["data"]["filters"] == [
        {
            "resource_type": "task",
            "resource_subtype": None,
            "action": "changed",
            "fields": ["completed"],
        }
    ]
    assert "X-Hook-Secret" not in response.json()


async def test_update_without_filters_is_refused(api: httpx.AsyncClient, webhook: str) -> None:
    response = await api.put(f"/webhooks/{webhook}", json={"data": {}})
    assert (response.status_code, error_of(response)) == (400, "filters: Missing input")


async def test_deleted_webhook_is_unknown_from_then_on(
    api: httpx.AsyncClient, asana: AsanaSimulator, webhook: str
) -> None:
    response = await api.delete(f"/webhooks/{webhook}")
    assert (response.status_code, response.json()) == (200, {"data": {}})
    for method, body in (("GET", None), ("PUT", {"data": {"filters": []}}), ("DELETE", None)):
        response = await api.request(method, f"/webhooks/{webhook}", json=body)
        assert response.status_code == 404
        assert error_of(response) == f"webhook: Unknown object: {webhook}"
    assert webhook not in asana.webhooks


async def test_user_workspaces_and_projects_are_shown(
    api: httpx.AsyncClient, asana: AsanaSimulator
) -> None:
    workspace = {"gid": "1331", "resource_type": "workspace", "name": "example.com"}
    assert (await api.get("/workspaces")).json() == {"data": [workspace]}
    me = (await api.get("/users/me")).json()["data"]
    assert (me["gid"], me["resource_type"], me["workspaces"]) == (asana.user, "user", [workspace])
    project = (await api.get("/projects/8675309", params={"opt_fields": "name"})).json()
    assert project == {"data": {"gid": "8675309", "name": "Bugs"}}
    response = await api.get("/projects/1331")
    assert (response.status_code, error_of(response)) == (404, "project: Unknown object: 1331")


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic dXNlcjpwYXNz"])
async def test_call_without_a_bearer_token_is_not_authorized(
    asana: AsanaSimulator, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    async with httpx.AsyncClient(
        verify=NO_TLS, base_url=asana.base_url, headers=headers
    ) as stranger:
        response = await stranger.get("/workspaces")
    assert (response.status_code, error_of(response)) == (401, "Not Authorized")


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PATCH", "/webhooks")])
async def test_call_that_does_not_exist_is_404_in_the_shape_of_errors(
    api: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await api.request(method, path)
    assert (response.status_code, error_of(response)) == (404, "No matching route for request")


# Filters

WHOLE = {"resource_type": None, "resource_subtype": None, "action": None, "fields": None}


@pytest.mark.parametrize(
    "item",
    [
        pytest.param("task", id="no-object"),
        pytest.param({"type": "task"}, id="unknown-key"),
        pytest.param({"resource_type": 1}, id="type-is-a-number"),
        pytest.param({"resource_subtype": []}, id="subtype-is-an-array"),
        pytest.param({"action": {}}, id="action-is-an-object"),
        pytest.param({"action": "completed"}, id="unknown-action"),
        pytest.param({"action": "changed", "fields": "name"}, id="fields-is-a-string"),
        pytest.param({"action": "changed", "fields": [1]}, id="field-is-a-number"),
        pytest.param({"action": "added", "fields": ["name"]}, id="fields-with-added"),
        pytest.param({"fields": ["name"]}, id="fields-without-an-action"),
    ],
)
async def test_filter_with_a_mistake_is_refused(create: Create, item: Any) -> None:
    response = await create(filters=[{"action": "added"}, item])
    assert response.status_code == 400
    assert error_of(response).startswith("filters: ")


@pytest.mark.parametrize("resource_type", ["workspace", "team", "portfolio", "goal"])
@pytest.mark.parametrize(
    "filters",
    [
        pytest.param([], id="none"),
        pytest.param([{"action": "added"}], id="any-type"),
        pytest.param([{"resource_type": "task", "action": "added"}], id="tasks"),
        pytest.param([{"resource_type": "team_membership", "action": "changed"}], id="action"),
        pytest.param(
            [{"resource_type": "project", "action": "changed", "fields": ["name"]}], id="fields"
        ),
    ],
)
def test_higher_level_resources_restrict_filters(resource_type: str, filters: Any) -> None:
    with pytest.raises(Refused) as refused:
        checked_filters(filters, resource_type)
    assert refused.value.status == 400


async def test_workspace_accepts_filters_for_projects_and_requires_some(
    create: Create, asana: AsanaSimulator
) -> None:
    response = await create(resource=asana.workspace)
    assert response.status_code == 400
    assert error_of(response) == "filters: Webhooks on a workspace require filters"
    filters = [{"resource_type": "project", "action": "added"}]
    response = await create(resource=asana.workspace, filters=filters)
    assert response.status_code == 201
    assert response.json()["data"]["filters"] == [WHOLE | filters[0]]


@pytest.mark.parametrize(
    ("filters", "passing"),
    [
        ([], "abcd"),
        ([{"resource_type": "task"}], "abc"),
        ([{"resource_type": "task", "resource_subtype": "milestone"}], "c"),
        ([{"action": "changed", "fields": ["completed", "name"]}], "b"),
        ([{"action": "changed", "fields": []}], "abc"),
        ([{"action": "added"}, {"resource_subtype": "milestone"}], "cd"),
        ([{"action": "deleted"}], ""),
    ],
)
async def test_events_that_pass_any_filter_are_delivered_in_one_body(
    asana: AsanaSimulator, create: Create, receiver: Receiver, filters: Any, passing: str
) -> None:
    def event(letter: str, **fields: Any) -> dict[str, Any]:
        resource = {"gid": letter, "resource_type": "task", "resource_subtype": "default_task"}
        return {"action": "changed", "resource": resource} | fields

    await create(filters=filters)
    await asana.emit(
        asana.project,
        event("a"),  # as recorded once: without a change
        event("b", change={"field": "completed", "action": "changed"}),
        event("c", resource={"gid": "c", "resource_type": "task", "resource_subtype": "milestone"}),
        event("d", action="added", resource={"gid": "d", "resource_type": "story"}),
    )
    await asana.settled()
    heartbeat, *bodies = receiver.events
    assert heartbeat == []
    assert [[each["resource"]["gid"] for each in body] for body in bodies] == (
        [list(passing)] if passing else []
    )


# What users do


async def test_new_task_is_added_to_its_project_and_its_section(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    task = await asana.create_task("Fix the login", project=asana.project)
    await asana.settled()
    ((first, second),) = receiver.events
    assert first.pop("created_at") < second.pop("created_at")
    common = {
        "user": {"gid": asana.user, "resource_type": "user"},
        "action": "added",
        "resource": {"gid": task, "resource_type": "task", "resource_subtype": "default_task"},
    }
    assert first == common | {"parent": {"gid": "8675309", "resource_type": "project"}}
    assert second == common | {"parent": {"gid": "1400", "resource_type": "section"}}
    keys = list(json.loads(receiver.bodies[0])["events"][0])
    assert keys == ["user", "created_at", "action", "resource", "parent"]


async def test_completing_a_task_changes_two_fields_in_one_instant(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    task = await asana.create_task("Fix the login", project=asana.project)
    await asana.complete_task(task)
    await asana.settled()
    _, (first, second) = receiver.events
    assert first["created_at"] == second["created_at"]
    assert re.fullmatch(INSTANT, first["created_at"])
    assert first == {
        "user": {"gid": asana.user, "resource_type": "user"},
        "created_at": first["created_at"],
        "action": "changed",
        "resource": {"gid": task, "resource_type": "task", "resource_subtype": "default_task"},
        "parent": None,
        "change": {"field": "completed", "action": "changed"},
    }
    assert second == first | {"change": {"field": "completed_at", "action": "changed"}}


async def test_comment_reaches_the_webhooks_of_the_task_and_of_its_project(
    asana: AsanaSimulator, create: Create, webhook: str, receiver: Receiver
) -> None:
    task = await asana.create_task("Fix the login", project=asana.project)
    await create("/task", resource=task)
    await asana.settled()
    receiver.paths.clear()
    receiver.deliveries.clear()
    story = await asana.add_comment(task, "It is the cookie")
    await asana.settled()
    assert sorted(receiver.paths) == ["/hook", "/task"]
    assert receiver.bodies[0] == receiver.bodies[1]
    ((event,), _) = receiver.events
    assert re.fullmatch(INSTANT, event.pop("created_at"))
    assert event == {
        "user": None,
        "action": "added",
        "resource": {"gid": story, "resource_type": "story", "resource_subtype": "comment_added"},
        "parent": {"gid": task, "resource_type": "task", "resource_subtype": "default_task"},
    }


async def test_tasks_do_not_reach_the_webhooks_of_the_workspace(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    filters = [{"resource_type": "project"}]
    assert (await create(resource=asana.workspace, filters=filters)).status_code == 201
    await asana.create_task("Fix the login", project=asana.project)
    await asana.settled()
    assert receiver.bodies == [HEARTBEAT]


async def test_acting_on_what_does_not_exist_is_a_mistake(asana: AsanaSimulator) -> None:
    with pytest.raises(ValueError, match="no project with gid '1331'"):
        await asana.create_task("Fix the login", project=asana.workspace)
    with pytest.raises(ValueError, match="no task with gid '1'"):
        await asana.complete_task("1")
    with pytest.raises(ValueError, match="no task with gid '8675309'"):
        await asana.add_comment(asana.project, "Hello")
    with pytest.raises(ValueError, match="never an object with gid '1'"):
        await asana.emit("1", EVENT)
    with pytest.raises(ValueError, match="no webhook with gid '1'"):
        await asana.deliver("1", HEARTBEAT)


# Deliveries


async def test_delivery_is_listed_with_its_signature_and_outcome(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    ((body, signature),) = receiver.deliveries
    secret = asana.webhooks[webhook].secret
    assert signature == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    assert asana.deliveries == [(webhook, body, signature, 200, "", 1)]


async def test_failed_delivery_is_repeated_byte_for_byte_until_it_succeeds(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    receiver.statuses.extend([500, 302, 201])
    await asana.emit(asana.project, EVENT)
    await asana.emit(asana.project, EVENT | {"action": "deleted"})
    await asana.settled()
    assert [attempt.status for attempt in asana.deliveries] == [500, 302, 201, 200, 200]
    assert [attempt.number for attempt in asana.deliveries] == [1, 2, 3, 4, 1]
    assert len(set(receiver.deliveries[:4])) == 1
    assert len(set(receiver.deliveries)) == 2
    record = asana.webhooks[webhook]
    assert record.delivery_retry_count == 0
    assert record.next_attempt_after is None
    assert record.failure_deletion_timestamp is None
    assert record.last_success_at is not None
    assert record.last_failure_at is not None
    assert record.last_success_at > record.last_failure_at
    assert record.last_failure_content == "201 Created\n\nhm"


async def test_no_answer_is_a_failed_attempt_with_an_error_text(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    async def cut_once(request: web.Request) -> web.Response:
        receiver.on_delivery = receiver.next_status
        return await hang_up(request)

    receiver.on_delivery = cut_once
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    first, second = asana.deliveries
    assert (first.status, first.number) == (None, 1)
    assert first.error
    assert (second.status, second.error, second.number) == (200, "", 2)
    assert asana.webhooks[webhook].last_failure_content == first.error


async def test_waiting_for_a_retry_shows_in_the_record_and_ends_with_the_webhook(
    receiver: Receiver,
) -> None:
    async with AsanaSimulator(retry_delay=3600) as asana, client_of(asana) as api:
        receiver.statuses.append(500)
        asana.faults.add("early-events")  # so that one attempt is over when the call is answered
        data = {"resource": asana.project, "target": receiver.url}
        gid = (await api.post("/webhooks", json={"data": data})).json()["data"]["gid"]
        settled = asyncio.create_task(asana.settled())
        shown = (await api.get(f"/webhooks/{gid}")).json()["data"]
        assert not settled.done()
        assert shown["delivery_retry_count"] == 0
        assert shown["last_failure_content"] == "500 Internal Server Error\n\nhm"
        failed, due = shown["last_failure_at"], shown["next_attempt_after"]
        assert re.fullmatch(INSTANT, due)
        assert failed < due < shown["failure_deletion_timestamp"]
        await api.delete(f"/webhooks/{gid}")
        await settled
        assert len(receiver.bodies) == 1


async def test_record_keeps_the_beginning_of_a_long_answer(
    asana: AsanaSimulator, webhook: str, receiver: Receiver
) -> None:
    async def at_length(_: web.Request) -> web.Response:
        receiver.on_delivery = receiver.next_status
        return web.Response(status=500, text="x" * 5_000)

    receiver.on_delivery = at_length
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    content = asana.webhooks[webhook].last_failure_content
    assert re.fullmatch("500 Internal Server Error\n\nx{1,1000}", content)


async def test_silence_for_longer_than_the_timeout_is_a_failed_attempt(receiver: Receiver) -> None:
    receiver.on_delivery = receiver.wait_for_the_gate
    simulator = AsanaSimulator(delivery_timeout=1.5, retry_delay=3600)
    async with simulator as asana, client_of(asana) as api:
        data = {"resource": asana.project, "target": receiver.url}
        gid = (await api.post("/webhooks", json={"data": data})).json()["data"]["gid"]
        assert await asana.deliver(gid, HEARTBEAT) is None
        assert asana.deliveries[-1].error == "no answer within 1.5 s"
    receiver.gate.set()


async def test_410_deletes_the_webhook_at_once(
    asana: AsanaSimulator, webhook: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    record = asana.webhooks[webhook]
    receiver.statuses.append(410)
    await asana.emit(asana.project, EVENT)
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    assert len(receiver.deliveries) == 1
    assert not asana.webhooks
    assert record.active is False
    assert f"webhook {webhook} is deleted: 410" in caplog.messages


async def test_webhook_that_fails_for_too_long_is_deleted(receiver: Receiver) -> None:
    receiver.statuses.append(503)
    async with AsanaSimulator(give_up_after=0) as asana, client_of(asana) as api:
        data = {"resource": asana.project, "target": receiver.url}
        await api.post("/webhooks", json={"data": data})
        await asana.settled()
        assert not asana.webhooks


async def test_deliveries_of_one_webhook_wait_for_each_other_and_for_no_other_webhook(
    asana: AsanaSimulator, create: Create, webhook: str, receiver: Receiver
) -> None:
    async def hold_one(request: web.Request) -> web.Response:
        answering = receiver.wait_for_the_gate if request.path == "/hook" else receiver.next_status
        return await answering(request)

    await create("/other")
    await asana.settled()
    receiver.paths.clear()
    receiver.on_delivery = hold_one
    await asana.emit(asana.project, EVENT)
    await asana.emit(asana.project, EVENT)
    async with receiver.news:
        await receiver.news.wait_for(lambda: len(receiver.paths) == 3)
    assert sorted(receiver.paths) == ["/hook", "/other", "/other"]
    receiver.gate.set()
    await asana.settled()
    assert sorted(receiver.paths) == ["/hook", "/hook", "/other", "/other"]


async def test_exact_bytes_and_any_signature_can_be_posted_even_after_deletion(
    asana: AsanaSimulator, api: httpx.AsyncClient, webhook: str, receiver: Receiver
) -> None:
    secret = asana.webhooks[webhook].secret
    await api.delete(f"/webhooks/{webhook}")
    receiver.statuses.extend([401, 204])
    assert await asana.deliver(webhook, b"\xff not JSON") == 401
    assert await asana.deliver(webhook, b"", signature="forged") == 204
    signature = hmac.new(secret.encode(), b"\xff not JSON", hashlib.sha256).hexdigest()
    assert receiver.deliveries == [(b"\xff not JSON", signature), (b"", "forged")]
    assert [attempt.status for attempt in asana.deliveries] == [401, 204]


# Faults


def test_faults_are_a_set_of_names_that_knows_which_names_there_are() -> None:
    faults = Faults(["lost-201"])
    faults.add(Fault.NO_SECRET)
    faults |= {"no-handshake"}
    faults.discard("lost-201")
    assert set(faults) == {"no-secret", "no-handshake"}
    assert len(faults) == 2
    assert "lost-201" not in faults
    assert Fault.NO_SECRET in faults
    assert repr(faults) == "Faults(no-handshake, no-secret)"
    for change_set in (faults.add, faults.discard):
        with pytest.raises(ValueError, match=r"no fault is called 'lost'; there are no-handshake,"):
            change_set("lost")


async def test_no_handshake_is_sent_and_then_missed(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("no-handshake")
    response = await create()
    assert (response.status_code, error_of(response)) == (400, NO_SECRET_CAME)
    assert receiver.paths == []


async def test_wrong_secret_in_the_201_is_not_what_signs(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("wrong-secret")
    told = (await create()).json()["X-Hook-Secret"]
    await asana.settled()
    assert re.fullmatch("[0-9a-f]{64}", told)
    assert told not in receiver.handshakes
    ((body, signature),) = receiver.deliveries
    (secret,) = receiver.handshakes
    assert signature == hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def test_no_secret_in_the_201(asana: AsanaSimulator, create: Create) -> None:
    asana.faults.add("no-secret")
    response = await create()
    assert response.status_code == 201
    assert response.json().keys() == {"data"}


async def test_lost_201_leaves_a_webhook_behind(
    asana: AsanaSimulator, api: httpx.AsyncClient, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("lost-201")
    with pytest.raises(httpx.TransportError):
        await create()
    asana.faults.discard("lost-201")
    await asana.settled()
    assert receiver.bodies == [HEARTBEAT]
    listed = await api.get("/webhooks", params={"workspace": asana.workspace})
    assert [record["target"] for record in listed.json()["data"]] == [receiver.url + "/hook"]


async def test_lost_201_loses_no_refusal(asana: AsanaSimulator, create: Create) -> None:
    asana.faults.add("lost-201")
    assert (await create(target="")).status_code == 400


async def test_server_error_leaves_a_webhook_behind(asana: AsanaSimulator, create: Create) -> None:
    asana.faults.add("server-error")
    response = await create()
    assert response.status_code == 500
    assert response.json() == {
        "errors": [{"message": "Server Error", "phrase": "6 sad squid snuggle softly"}]
    }
    assert len(asana.webhooks) == 1


async def test_slow_201_waits_after_the_handshake(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("slow-201")
    call = asyncio.create_task(create())
    await asana.handshake_done.wait()
    await asana.settled()
    assert receiver.bodies == [HEARTBEAT]
    assert not call.done()
    asana.release_201.set()
    assert (await call).status_code == 201


async def test_slow_handshake_waits_before_it(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("slow-handshake")
    call = asyncio.create_task(create())
    await asana.create_started.wait()
    await asana.settled()
    assert receiver.paths == []
    asana.release_handshake.set()
    assert (await call).status_code == 201


async def test_handshake_can_come_twice_with_the_same_secret(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("handshake-twice")
    secret = (await create()).json()["X-Hook-Secret"]
    assert receiver.handshakes == [secret, secret]


@pytest.mark.parametrize(
    ("fault", "place", "count"),
    [("stranger-first", 1, 2), ("stranger-after", 0, 2), ("strangers-flood", 5, 6)],
)
async def test_strangers_post_secrets_of_their_own(
    asana: AsanaSimulator, create: Create, receiver: Receiver, fault: str, place: int, count: int
) -> None:
    assert asana.stranger_secret is None
    asana.faults.add(fault)
    genuine = (await create()).json()["X-Hook-Secret"]
    assert len(set(receiver.handshakes)) == len(receiver.handshakes) == count
    assert receiver.handshakes.index(genuine) == place
    strangers = [secret for secret in receiver.handshakes if secret != genuine]
    assert asana.stranger_secret == strangers[-1]


async def test_early_events_come_before_the_201(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults |= {"early-events", "slow-201"}
    call = asyncio.create_task(create())
    await receiver.arrived.wait()
    assert not call.done()
    await asana.handshake_done.wait()
    asana.release_201.set()
    await call
    await asana.settled()
    ((event,), heartbeat) = receiver.events
    assert event["resource"] == {"gid": asana.project, "resource_type": "project"}
    assert heartbeat == []


async def test_early_events_that_are_refused_are_tried_again_before_the_heartbeat(
    asana: AsanaSimulator, create: Create, receiver: Receiver
) -> None:
    asana.faults.add("early-events")
    receiver.statuses.append(503)
    assert (await create()).status_code == 201
    await asana.settled()
    assert [attempt.number for attempt in asana.deliveries] == [1, 2, 1]
    first, second, third = receiver.bodies
    assert first == second
    assert third == HEARTBEAT


async def test_not_found_hides_a_webhook_that_exists(
    asana: AsanaSimulator, api: httpx.AsyncClient, webhook: str
) -> None:
    asana.faults.add("not-found")
    response = await api.get(f"/webhooks/{webhook}")
    assert response.status_code == 404
    assert error_of(response) == f"webhook: Unknown object: {webhook}"
    asana.faults.clear()
    assert (await api.get(f"/webhooks/{webhook}")).status_code == 200


async def test_rate_limited_calls_are_let_through_when_they_are_repeated(
    asana: AsanaSimulator, create: Create
) -> None:
    asana.faults.add("rate-limited")
    response = await create()
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "0"
    assert error_of(response) == "You have made too many requests recently."
    assert (await create("/other")).status_code == 429
    assert (await create()).status_code == 201
    assert (await create()).status_code == 429
    assert len(asana.webhooks) == 1


async def test_unavailable_is_an_answer_in_html(
    asana: AsanaSimulator, api: httpx.AsyncClient
) -> None:
    asana.faults.add("unavailable")
    response = await api.get("/workspaces")
    assert response.status_code == 503
    assert response.headers["Content-Type"].startswith("text/html")
    assert response.text.startswith("<html>")


# The simulator itself


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": ""}, "host must name"),
        ({"port": -1}, "port must be between"),
        ({"port": 65_536}, "port must be between"),
        ({"retry_delay": 0}, "retry_delay must be a positive number of seconds"),
        ({"delivery_timeout": float("inf")}, "delivery_timeout must be a positive number"),
        ({"give_up_after": -1.0}, "give_up_after must be a number of seconds up to 1000000000"),
        ({"give_up_after": 1e12}, "give_up_after must be a number of seconds up to 1000000000"),
        ({"retry_after": -1}, "retry_after must be a number"),
        ({"sync_lasts": 0}, "sync_lasts must be a positive number of seconds"),
        ({"stream_lag": -1}, "stream_lag must be a number of seconds"),
        ({"allow_hosts": "example.com"}, r"write \('example.com',\)"),
        ({"allow_hosts": ("https://example.com",)}, "without scheme, port or path"),
        ({"allow_hosts": ("example.com:443",)}, "without scheme, port or path"),
        ({"allow_hosts": ("",)}, "without scheme, port or path"),
    ],
)
def test_mistakes_in_the_configuration_are_value_errors(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AsanaSimulator(**arguments)


NO_NUMBERS = ("1", None, [1], True, b"1")
NO_LIMITS = ("1", [1], True, 1.5)
NO_FLAGS = (1, None, "yes")
NO_HOSTS = (5, None, [1], ["asana", None], b"asana")
NO_TEXTS = (5, "a", [("a", "b")], {"a": 1}, {1: "a"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for names, values in {
            ("gather_for", "retry_delay", "delivery_timeout", "give_up_after"): NO_NUMBERS,
            ("drop_share", "sync_lasts", "stream_lag"): NO_NUMBERS,
            ("retry_after",): (*NO_NUMBERS, 1.5),
            ("port",): (*NO_NUMBERS, 80.0),
            ("rate_limit", "concurrent_gets", "concurrent_writes"): NO_LIMITS,
            ("allow_local", "consents", "rotates"): NO_FLAGS,
            ("host_names", "allow_hosts"): NO_HOSTS,
            ("changes", "oauth_clients"): NO_TEXTS,
            ("host",): (5, None, b"asana"),
            ("watch",): (5, "watch"),
        }.items()
        for name in names
        for value in values
    ],
)
def test_argument_of_another_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be "):
        AsanaSimulator(**{name: value})


def test_each_argument_has_its_type() -> None:
    assert set(arguments._TYPES) == set(inspect.signature(AsanaSimulator).parameters)


def test_base_url_is_known_inside_async_with_only() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = AsanaSimulator().base_url


async def test_ipv6_addresses_are_written_in_brackets() -> None:
    try:
        async with AsanaSimulator(host="::1") as asana:
            assert re.fullmatch(r"http://\[::1\]:\d+/api/1\.0", asana.base_url)
    except OSError:
        pytest.skip("this machine has no IPv6")


async def test_port_in_use_is_an_os_error_that_leaves_nothing_open(asana: AsanaSimulator) -> None:
    with pytest.raises(OSError, match="address already in use"):
        async with AsanaSimulator(port=httpx.URL(asana.base_url).port or 0):
            pass


async def test_exception_in_the_body_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with AsanaSimulator():
            raise KeyError("mine")


async def test_leaving_ends_calls_and_deliveries_that_are_under_way(receiver: Receiver) -> None:
    async with AsanaSimulator() as asana, client_of(asana) as api:
        receiver.on_delivery = receiver.wait_for_the_gate
        data = {"resource": asana.project, "target": receiver.url}
        assert (await api.post("/webhooks", json={"data": data})).status_code == 201
        await receiver.arrived.wait()
        asana.faults.add("slow-handshake")
        asana.create_started.clear()
        data["target"] += "/2"
        held = asyncio.create_task(api.post("/webhooks", json={"data": data}))
        await asana.create_started.wait()
        assert len(tasks_under_way()) == 2
    assert tasks_under_way() == set()
    with pytest.raises(httpx.TransportError):
        await held
    receiver.gate.set()


async def test_cancelled_body_closes_the_simulator_all_the_same(receiver: Receiver) -> None:
    receiver.on_delivery = receiver.wait_for_the_gate
    with anyio.CancelScope() as scope:
        async with AsanaSimulator() as asana, client_of(asana) as api:
            data = {"resource": asana.project, "target": receiver.url}
            assert (await api.post("/webhooks", json={"data": data})).status_code == 201
            await receiver.arrived.wait()
            scope.cancel()
            await anyio.sleep_forever()
    receiver.gate.set()
    assert scope.cancelled_caught
    assert tasks_under_way() == set()
    async with client_of(asana) as api:
        with pytest.raises(httpx.ConnectError):
            await api.get("/workspaces")


async def test_no_secret_token_or_signature_is_logged_or_shown(
    asana: AsanaSimulator, webhook: str, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses.append(500)
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    record = asana.webhooks[webhook]
    shown = caplog.text + repr(asana.webhooks) + repr(asana.deliveries)
    assert f"Attempt({webhook}, {len(receiver.bodies[0])} bytes, no. 1, 500)" in caplog.messages
    for hidden in (record.secret, record.target, record.app, receiver.deliveries[0][1]):
        assert hidden not in shown
