"""Parts of users' tests: events, signed requests, answers, and handlers run to the end."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from aiohttp import web
from conftest import until

from asana_webhooks import (
    DecodeError,
    Event,
    Resource,
    Source,
    WebhooksClient,
    serve,
    verify_signature,
)
from asana_webhooks import testing as module
from asana_webhooks._background import background_task
from asana_webhooks.models import decode_event, split_events
from asana_webhooks.router import Router
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import (
    Post,
    drain,
    local_client,
    make_delivery,
    make_event,
    make_handshake,
    send,
)

SECRET = "b0a1c2d3e4f5061728394a5b6c7d8e9f"


# Events


def test_event_is_a_change_of_a_task_now_unless_told_otherwise() -> None:
    event = make_event()
    assert event.resource.resource_type == "task"
    assert (event.action, event.change, event.parent) == ("changed", None, None)
    assert event.user is not None
    assert abs(event.created_at - datetime.now(UTC)) < timedelta(seconds=10)


def test_event_reaches_the_handler_that_was_registered_with_the_same_words() -> None:
    router = Router()

    @router.on("task", subtype="milestone", action="changed", field="completed")
    async def handle(event: Event) -> None: ...

    wanted = make_event("task", subtype="milestone", action="changed", field="completed")
    assert not router.handlers(make_event("task", action="changed", field="completed"))
    assert [each.handler for each in router.handlers(wanted)] == [handle]


def test_events_are_of_different_resources_unless_a_gid_is_given() -> None:
    assert make_event().key != make_event().key
    assert make_event(gid="12").resource == Resource(gid="12", resource_type="task")


def test_any_field_of_an_event_may_be_given() -> None:
    made = datetime(2026, 7, 4, 10, 11, 12, 345000, tzinfo=UTC)
    project = {"gid": "8675309", "resource_type": "project"}
    event = make_event(action="added", parent=project, user=None, created_at=made, new={"at": 1})
    assert event.parent == Resource(gid="8675309", resource_type="project")
    assert (event.user, event.created_at) == (None, made)
    assert event.json()["new"] == {"at": 1}


def test_change_with_values_may_be_given() -> None:
    values = {"field": "custom_fields", "action": "added", "added_value": {"gid": "1601"}}
    for event in (make_event(change=values), make_event(field="name", change=values)):
        assert event.json()["change"] == values


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({"resource_type": "taks"}, "no resource type 'taks'; did you mean 'task'"),
        ({"action": "completed"}, "no action 'completed'; did you mean .* field='completed'"),
        ({"field": "asignee"}, "no task with a field 'asignee'; did you mean 'assignee'"),
    ],
)
def test_word_that_asana_does_not_have_is_a_warning(words: dict[str, Any], meant: str) -> None:
    with pytest.warns(UserWarning, match=meant) as warned:
        make_event(**words)
    assert [each.filename for each in warned] == [__file__]


def test_source_may_be_given() -> None:
    source = Source(webhook="1700", resource="1400", account="acme")
    assert make_event(source=source).source is source
    assert make_event().source == Source(webhook="", resource="")


def test_field_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"\$\.parent"):
        make_event(parent="8675309")


def test_event_may_be_an_echo() -> None:
    assert make_event(echo=True).echo
    assert not make_event().echo


async def test_event_may_be_given_to_the_local_asana(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient]
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        event = make_event("task", action="deleted")
        await asana.emit(asana.project, event.json())
        assert (await anext(client.events())).key == event.key


# Signed requests


def test_delivery_holds_the_events_and_is_signed() -> None:
    events = make_event(), make_event("story", action="added")
    body, headers = make_delivery(SECRET, *events)
    verify_signature(body, headers["X-Hook-Signature"], SECRET)
    assert tuple(decode_event(text) for text in split_events(body)) == events


def test_delivery_without_events_is_a_heartbeat() -> None:
    assert json.loads(make_delivery(SECRET).body) == {"events": []}


def test_event_without_json_cannot_be_delivered() -> None:
    bare = Event(created_at=datetime.now(UTC), action="added", resource=Resource(gid="12"))
    with pytest.raises(ValueError, match="make it with make_event"):
        make_delivery(SECRET, bare)


def test_handshake_carries_the_secret_unsigned_and_hides_it() -> None:
    post = make_handshake(SECRET)
    assert post.headers["X-Hook-Secret"] == SECRET
    assert "X-Hook-Signature" not in post.headers
    assert repr(post) == "Post(2 bytes, Content-Type, X-Hook-Secret)"


# Answers


async def receive(body: bytes, headers: Any) -> tuple[int, dict[str, str]]:
    if "X-Hook-Secret" in headers:
        return 200, {"X-Hook-Secret": headers["X-Hook-Secret"]}
    verify_signature(body, headers["X-Hook-Signature"], SECRET)
    return 204, {}


def aiohttp_application() -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        status, headers = await receive(await request.read(), request.headers)
        return web.Response(status=status, headers=headers)

    app = web.Application()
    app.router.add_post("/asana", answer)
    return app


async def asgi_application(scope: Any, receive_message: Any, send_message: Any) -> None:
    assert (scope["method"], scope["path"]) == ("POST", "/asana")
    message = await receive_message()
    given = {name.decode().title(): value.decode() for name, value in scope["headers"]}
    status, headers = await receive(message["body"], given)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send_message({"type": "http.response.start", "status": status, "headers": raw})
    await send_message({"type": "http.response.body", "body": b""})


Sending = Callable[[Post], Awaitable[Any]]


def to_aiohttp() -> Sending:
    app = aiohttp_application()
    return lambda post: send(post, app, path="/asana")


def to_asgi() -> Sending:
    return lambda post: send(post, asgi_application, path="/asana")


@pytest.mark.parametrize("target", [to_aiohttp, to_asgi])
async def test_application_is_sent_posts_one_after_the_other(
    target: Callable[[], Sending],
) -> None:
    send_to = target()
    handshake = await send_to(make_handshake(SECRET))
    assert (handshake.status_code, handshake.headers["X-Hook-Secret"]) == (200, SECRET)
    assert (await send_to(make_delivery(SECRET, make_event()))).status_code == 204


async def test_url_is_sent_posts_past_any_proxy(
    asana: AsanaSimulator,
    make_client: Callable[..., WebhooksClient],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        assert webhook.target
        assert webhook.secret
        genuine = await send(make_delivery(webhook.secret, make_event()), webhook.target)
        forged = await send(make_delivery(SECRET, make_event()), webhook.target)
    assert (genuine.status_code, forged.status_code) == (200, 401)


# Handlers run to the end


async def test_drain_returns_when_every_delivery_was_handled(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient]
) -> None:
    handled = []
    async with make_client() as client:

        @client.on("task")
        async def handle(event: Event) -> None:
            await asyncio.sleep(0.01)
            handled.append(event.key)

        await client.ensure(asana.project)
        for number in range(3):
            await asana.create_task(f"Number {number}", project=asana.project)
        await asana.settled()
        await drain(client)
        assert len(handled) == 6
        assert (await client.stats()).waiting == 0
        await drain(client)
    assert len(handled) == 6


async def test_drain_says_how_much_still_waits(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient]
) -> None:
    async with make_client() as client:

        @client.on()
        async def fail(event: Event) -> None:
            if event.resource.resource_type == "story":
                raise OSError

        await client.ensure(asana.project)
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        await drain(client)
        await asana.add_comment(task, "It came back")
        await asana.settled()
        with pytest.raises(
            TimeoutError, match="after 0.2 seconds, waiting: 1; when a handler raises"
        ):
            await drain(client, timeout=0.2)


async def test_drain_fails_as_running_the_client_does(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient]
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        with anyio.move_on_after(5) as guard:
            with pytest.raises(RuntimeError, match="no handler is registered"):
                await drain(client)
        assert not guard.cancel_called


async def test_drain_waits_for_handlers_that_run_already(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient]
) -> None:
    handled = []
    async with make_client().running() as client:

        @client.on("task")
        async def handle(event: Event) -> None:
            await asyncio.sleep(0.01)
            handled.append(event.key)

        await drain(client)  # before the client has seen that there is a handler
        await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        await drain(client)
        assert len(handled) == 2
        await asana.create_task("They run on", project=asana.project)
        await asana.settled()
        await until(lambda: len(handled) == 4)


@pytest.mark.parametrize("way", ["run", "serve"])
async def test_drain_waits_for_handlers_that_a_task_begins_to_run(
    asana: AsanaSimulator, make_client: Callable[..., WebhooksClient], way: str
) -> None:
    handled, started = [], asyncio.Event()
    async with make_client() as client:

        @client.on("task")
        async def handle(event: Event) -> None:
            handled.append(event.key)

        await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        program = client.run() if way == "run" else serve(client, started=started)
        async with background_task(program, "program"):
            if way == "serve":
                await started.wait()
            await drain(client)
            assert len(handled) == 2


async def test_drain_says_that_running_client_has_no_handler(
    make_client: Callable[..., WebhooksClient],
) -> None:
    async with make_client().running() as client:
        with pytest.raises(RuntimeError, match="no handler is registered"):
            await drain(client)


# A client for one test


async def test_port_is_kept_until_the_client_takes_it(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as client:
        assert client.port
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", client.port))
        async with client:
            assert (await client.ensure(asana.project)).secret
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", client.port))


async def test_clients_of_one_test_have_ports_of_their_own(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as one, local_client(asana.base_url) as other:
        async with one, other:
            assert one.port != other.port
            first, second = await one.ensure(asana.project), await other.ensure(asana.project)
    assert list(asana.webhooks) == [first.gid, second.gid]


async def test_port_is_free_where_ports_cannot_be_shared(
    asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAN_SHARE", False)
    with local_client(asana.base_url) as client:
        async with client:
            assert (await client.ensure(asana.project)).secret


async def test_options_are_those_of_the_client(asana: AsanaSimulator, free_port: int) -> None:
    with local_client(asana.base_url, port=free_port, store="memory:") as client:
        async with client:
            await client.ensure(asana.project)
    (webhook,) = asana.webhooks.values()
    assert webhook.target.startswith(f"http://127.0.0.1:{free_port}/asana/")


async def test_client_with_port_0_has_a_free_one(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url, port=0) as client:
        async with client:
            assert (await client.ensure(asana.project)).secret


async def test_client_of_many_users_has_no_token_of_its_own(asana: AsanaSimulator) -> None:
    async def load(account: str) -> str:
        return f"token-of-{account}"

    await asana.add_user("Kim", token="token-of-kim")
    with local_client(asana.base_url, tokens=load) as client:
        async with client:
            assert (await client.account("kim").me())["name"] == "Kim"


async def test_client_with_a_token_of_its_own_is_another_app(asana: AsanaSimulator) -> None:
    with local_client(asana.base_url) as one, local_client(asana.base_url, token="else") as other:
        async with one, other:
            await one.ensure(asana.project)
            assert [each async for each in other.iter_webhooks(asana.workspace)] == []


def test_synchronous_test_is_told_what_to_do() -> None:
    with (
        local_client("http://127.0.0.1:9/api/1.0") as client,
        pytest.raises(TypeError, match="enter it with `async with`, in an async test"),
        client,
    ):
        pytest.fail("entered")
