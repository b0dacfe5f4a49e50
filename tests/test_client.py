import asyncio
import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
from conftest import eventually, guard, until
from support.ports import free_tcp_port

from asana_webhooks import (
    Event,
    MemoryStore,
    PostgresStore,
    RedisStore,
    SqliteStore,
    StoreError,
    WebhookFilter,
    WebhooksClient,
    sign,
)
from asana_webhooks import _asana_connections as connections_module
from asana_webhooks import _endpoint as endpoint_module
from asana_webhooks._background import background_task
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.simulator.threaded import threaded_simulator
from asana_webhooks.stores import Store
from asana_webhooks.stores.urls import open_store

MakeClient = Callable[..., WebhooksClient]


def gids_of(client: WebhooksClient, **wanted: Any) -> list[str]:
    """Register a handler, and return the list in which it notes the gids of its events."""
    gids: list[str] = []

    @client.on(**wanted)
    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    return gids


class Busy(NamedTuple):
    client: WebhooksClient
    started: asyncio.Event
    go_on: asyncio.Event
    said: list[int]


# The main job


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_ensured_webhook_brings_verified_events_to_handlers(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path, kind: str
) -> None:
    store = MemoryStore() if kind == "memory" else SqliteStore(tmp_path / "store.db")
    client = make_client(store=store)
    completed = gids_of(client, resource_type="task", action="changed", field="completed")
    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.complete_task(task)
        await until(lambda: completed)
        running.cancel()
        await asyncio.wait([running])
    assert completed == [task]


async def test_events_of_a_project_come_through_the_iterator(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        task = await asana.create_task("Fix the login", project=asana.project)
        async for event in client.events():
            assert event.resource.gid == task
            assert event.action == "added"
            if event.parent is not None and event.parent.resource_type == "section":
                break


async def test_restarted_client_still_verifies_and_makes_no_second_webhook(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with make_client(store=url) as first:
        webhook = await first.ensure(asana.project)
    async with make_client(store=url) as second:
        assert (await second.ensure(asana.project)).gid == webhook.gid
        task = await asana.create_task("Fix the login", project=asana.project)
        async for event in second.events():
            assert event.resource.gid == task
            break
    assert len(asana.webhooks) == 1


async def test_clients_of_one_store_that_ensure_at_once_make_one_webhook(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as one, make_client(store=store, serve=False) as two:
        webhooks = await asyncio.gather(one.ensure(asana.project), two.ensure(asana.project))
    assert {webhook.gid for webhook in webhooks} == set(asana.webhooks)
    assert len(asana.webhooks) == 1


async def test_what_comes_while_no_handler_runs_is_handled_later(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with make_client(store=url) as first:
        await first.ensure(asana.project)
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
    second = make_client(store=url)
    gids = gids_of(second)
    async with second, anyio.create_task_group() as tasks:
        tasks.start_soon(second.run)
        await until(lambda: gids == [task, task])
        tasks.cancel_scope.cancel()


async def test_replayed_dead_letter_reaches_the_handlers(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client(max_attempts=1)
    broken = True
    gids: list[str] = []

    @client.on("task", action="changed", field="completed")
    async def handler(event: Event) -> None:
        if broken:
            raise RuntimeError("not yet")
        gids.append(event.resource.gid)

    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.complete_task(task)
        (letter,) = await eventually(client.dead_letters)
        broken = False
        assert await client.replay([letter.id]) == 1
        await until(lambda: gids == [task])
        assert await client.dead_letters() == []
    await running


async def test_deleted_webhook_is_retired_and_its_deliveries_are_refused_quietly(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await asana.settled()  # the first heartbeat has made the route known
        await client.delete_webhook(webhook.gid)
        assert webhook.target is not None
        assert webhook.secret is not None
        body = b'{"events":[{}]}'
        headers = {"X-Hook-Signature": sign(body, webhook.secret)}
        async with httpx.AsyncClient() as http:
            answer = await http.post(webhook.target, content=body, headers=headers)
        assert answer.status_code == 404
        assert (await client.ensure(asana.project)).gid != webhook.gid
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_deliveries_for_a_deleted_webhook_are_answered_410_if_asked_to(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(answer_gone=True) as client:
        webhook = await client.ensure(asana.project)
        await asana.settled()  # the first heartbeat has made the route known
        await client.delete_webhook(webhook.gid)
        async with httpx.AsyncClient() as http:
            assert (await http.post(webhook.target or "")).status_code == 410


async def test_updated_filters_are_kept_in_the_store_too(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        wanted = [WebhookFilter(resource_type="task", action="added")]
        await client.update_webhook(webhook.gid, filters=wanted)
        (route,) = await store.list_routes()
    assert route.filters == tuple(wanted)


async def test_webhook_that_the_store_does_not_hold_is_changed_at_asana_alone(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client() as other:
        foreign = await other.ensure(asana.project)
    wanted = [WebhookFilter(resource_type="task", action="added")]
    async with make_client(store=store) as client:
        ours = await client.ensure(asana.project)
        await client.update_webhook(foreign.gid, filters=wanted)
        assert asana.webhooks[foreign.gid].filters[0]["action"] == "added"
        await client.delete_webhook(foreign.gid)
        (route,) = await store.list_routes()
    assert set(asana.webhooks) == {ours.gid}
    assert (route.gid, route.filters) == (ours.gid, None)


async def test_client_that_is_not_entered_calls_asana_all_the_same(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
    client = make_client()
    assert (await client.get_webhook(webhook.gid)).gid == webhook.gid
    await client.delete_webhook(webhook.gid)
    assert not asana.webhooks
    await client.aclose()


# Life cycle


async def test_client_without_public_url_opens_no_port_and_no_file(
    asana: AsanaSimulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads = threading.active_count()
    async with WebhooksClient("a-token", base_url=asana.base_url) as client:
        page = await client.get_webhooks(asana.workspace)
        assert page.data == ()
        assert threading.active_count() == threads
        assert client.port is None
        for call in (
            *(client.establish("1"), client.ensure("1"), client.run(), client.stats()),
            client.handle("POST", "/", {}, b""),
        ):
            with pytest.raises(RuntimeError, match="public_url"):
                await call
        for use in (
            *(client.events, client.aiohttp_app, lambda: client.asgi),
            client.iter_dead_letters,
        ):
            with pytest.raises(RuntimeError, match="public_url"):
                use()
        await client.delete_webhook("404")
    assert os.listdir(tmp_path) == []


async def test_constructor_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    WebhooksClient("a-token", public_url="https://hooks.example.com")
    assert os.listdir(tmp_path) == []


async def test_client_that_is_not_entered_says_how(make_client: MakeClient) -> None:
    client = make_client()
    with pytest.raises(RuntimeError, match="async with client"):
        await client.ensure("1")


@pytest.mark.parametrize("options", [{}, {"serve": False}, {"public_url": None}], ids=str)
async def test_client_that_was_closed_says_so_and_may_be_entered_again(
    make_client: MakeClient, asana: AsanaSimulator, options: dict[str, Any]
) -> None:
    async with make_client(**options) as client:
        pass
    with pytest.raises(RuntimeError, match="this client was closed; enter it again"):
        await client.get_webhook("1")
    async with client:
        assert list(await client.get_webhooks(asana.workspace)) == []


def store_of(kind: str, folder: Path) -> str | Store:
    if kind == "memory":
        return "memory:"
    if kind == "sqlite":
        return f"sqlite:///{folder}/store.db"
    from support.replicas import shared_place_of  # it loads the servers

    return shared_place_of(kind, folder).store()


@pytest.mark.parametrize(
    "kind",
    [
        *("memory", "sqlite"),
        pytest.param("valkey", marks=pytest.mark.servers),
        pytest.param("postgres", marks=pytest.mark.servers),
    ],
)
def test_client_may_be_entered_in_one_event_loop_after_the_other(tmp_path: Path, kind: str) -> None:
    """As a client of a module is, that two tests or two invocations use."""
    with threaded_simulator(retry_delay=0.01, gather_for=0) as asana:
        port = free_tcp_port()
        client = WebhooksClient(
            "a-token",
            base_url=asana.base_url,
            public_url=f"http://127.0.0.1:{port}",
            port=port,
            store=store_of(kind, tmp_path),
        )
        client.keep(asana.project)
        seen = gids_of(client)

        async def use(name: str) -> None:
            async with client.running():
                await client.kept()
                task = await asana.create_task(name, project=asana.project)
                await until(lambda: task in seen)

        for name in ("first", "second", "third"):
            asyncio.run(use(name))
        assert len(asana.webhooks) == 1


async def test_client_that_was_closed_receives_no_more(make_client: MakeClient) -> None:
    async with make_client() as client:
        pass
    with pytest.raises(RuntimeError, match="this client was closed; enter it again"):
        client.events()


async def test_entering_an_open_client_is_an_error_and_disturbs_nothing(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client(serve=False)
    gids_of(client)
    async with client:
        with pytest.raises(RuntimeError, match="open already"):
            await client.__aenter__()
        running = asyncio.create_task(client.run())
        await anyio.wait_all_tasks_blocked()
        assert not running.done()
    await running


async def test_client_that_could_not_be_entered_may_be_entered_later(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    client = make_client()
    async with make_client():
        with pytest.raises(OSError, match="in use"):
            await client.__aenter__()
    async with client:
        await client.ensure(asana.project)


async def test_run_without_a_handler_would_lose_events_and_is_refused(
    make_client: MakeClient,
) -> None:
    async with make_client() as client:
        with pytest.raises(RuntimeError, match="no handler"):
            await client.run()


async def test_client_may_be_entered_and_closed_in_different_tasks(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client()
    gids = gids_of(client)
    await asyncio.create_task(client.__aenter__())
    await asyncio.create_task(client.ensure(asana.project))
    running = asyncio.create_task(client.run())
    task = await asana.create_task("Fix the login", project=asana.project)
    await until(lambda: task in gids)
    await asyncio.create_task(client.aclose())
    with guard():
        await running


async def test_closing_leaves_no_task_thread_or_socket_behind(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path, free_port: int
) -> None:
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    client = make_client(store=f"sqlite:///{tmp_path}/store.db")
    gids = gids_of(client)
    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.create_task("Fix the login", project=asana.project)
        await until(lambda: gids)
    await running
    await asana.settled()
    await until(lambda: asyncio.all_tasks() == tasks)
    assert threading.active_count() == threads
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", free_port)


async def test_closing_just_after_establishing_does_not_linger(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    with anyio.fail_after(10):
        async with make_client() as client:
            await client.establish(asana.project)


async def test_closing_twice_is_harmless(make_client: MakeClient) -> None:
    client = make_client()
    async with client:
        await client.aclose()
    await client.aclose()


@pytest.fixture
async def busy(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path
) -> AsyncIterator[Busy]:
    """Yield a client that runs a handler, which waits until it is told to go on."""
    client = make_client(store=f"sqlite:///{tmp_path}/store.db")
    busy = Busy(client, asyncio.Event(), asyncio.Event(), [])

    @client.on()
    async def handler(event: Event) -> None:
        busy.started.set()
        await busy.go_on.wait()
        stats = await client.stats()
        busy.said.append(stats.waiting)

    await client.__aenter__()
    await client.ensure(asana.project)
    running = asyncio.create_task(client.run())
    await asana.create_task("Fix the login", project=asana.project)
    await busy.started.wait()
    yield busy
    busy.go_on.set()
    await client.aclose()
    await running


async def test_handler_that_ends_while_the_client_is_closed_may_use_it(busy: Busy) -> None:
    closing = asyncio.create_task(busy.client.aclose())
    await anyio.wait_all_tasks_blocked()
    busy.go_on.set()
    await closing
    assert busy.said


async def test_closing_begins_no_handler_while_a_request_is_still_under_way(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    client, began, go_on = make_client(concurrency=1), [], asyncio.Event()

    @client.on()
    async def handler(event: Event) -> None:
        began.append(event.resource.gid)
        await go_on.wait()

    async with client:
        webhook = await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        for name in ("Fix the login", "Fix the logout"):
            await asana.create_task(name, project=asana.project)
        await asana.settled()
        await until(lambda: began)
        path = str(webhook.target).rpartition("/")[2]
        reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
        head = f"POST /hooks/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
        writer.write(f"{head}X-Hook-Signature: {'0' * 64}\r\n\r\n{{".encode())
        await writer.drain()
        await anyio.sleep(0.05)  # until the receiver reads the body
        closing = asyncio.create_task(client.aclose())
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        await running
        assert not closing.done()
        writer.write(b'"a":1234}')
        await reader.read()
        writer.close()
        await closing
    assert set(began) == {began[0]}  # of one delivery


async def test_who_closes_while_another_does_waits_for_the_end_of_it(busy: Busy) -> None:
    closing = [asyncio.create_task(busy.client.aclose()) for _ in range(2)]
    await anyio.wait_all_tasks_blocked()
    assert not any(task.done() for task in closing)
    busy.go_on.set()
    await asyncio.gather(*closing)


@pytest.mark.parametrize("how", ["the task", "a scope"])
async def test_closing_that_is_cancelled_leaves_no_task_and_no_connection_open(
    busy: Busy, free_port: int, how: str
) -> None:
    def ours() -> set[str]:
        names = {task.get_name() for task in asyncio.all_tasks()}
        return {name for name in names if name.startswith("asana-webhooks")}

    scope = anyio.CancelScope()

    async def close() -> None:
        with scope:
            await busy.client.aclose()

    assert ours()
    connections = busy.client._transport._connections._own
    assert connections is not None
    closing = asyncio.create_task(close())
    await anyio.wait_all_tasks_blocked()
    (closing if how == "the task" else scope).cancel()
    await asyncio.wait([closing])
    assert not ours()
    assert connections.is_closed
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", free_port)


async def test_handler_that_closes_its_client_is_told_what_to_do_instead(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(max_attempts=1)

    @client.on()
    async def close(event: Event) -> None:
        await client.aclose()

    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.create_task("Fix the login", project=asana.project)
        letters = await eventually(client.dead_letters)
        assert "a handler cannot close its client" in letters[0].reason
        assert not running.done()
    await running


async def test_store_that_does_not_close_leaves_no_connection_to_asana_open(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    class Stuck(MemoryStore):
        async def __aexit__(self, *_: object) -> None:
            raise StoreError("the disk does not answer")

    client = make_client(store=Stuck())
    with pytest.raises(StoreError, match="does not answer"):
        async with client:
            await client.get_webhooks(asana.workspace)
    with pytest.raises(RuntimeError, match="was closed"):
        await client.get_webhooks(asana.workspace)


async def test_taken_port_is_an_error_that_leaves_the_store_closed(
    make_client: MakeClient, free_port: int, tmp_path: Path
) -> None:
    threads = threading.active_count()
    async with make_client():
        second = make_client(store=f"sqlite:///{tmp_path}/store.db")
        taken = rf"{free_port}.*: address already in use; .* choose another port"
        with pytest.raises(OSError, match=taken) as caught:
            async with second:
                pytest.fail("it must not open")
        assert caught.value.errno == errno.EADDRINUSE
        await second.aclose()
    assert threading.active_count() == threads


async def called(call: Callable[[], Coroutine[Any, Any, object]]) -> object:
    return await call()


async def test_age_of_events_is_judged_by_the_clock_of_asana(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        await asana.settled()
        assert abs(client.asana_now() - datetime.now(UTC)) < timedelta(minutes=1)
        a_day_and_more = timedelta(hours=27)
        clock = client._transport.clock
        at, uptime = clock._noted or (datetime.now(UTC), 0.0)
        clock._noted = at + a_day_and_more, uptime
        await asana.create_task("Fix the login", project=asana.project)
        (letter,) = await eventually(client.dead_letters)
        assert "late or replayed" in letter.reason


async def test_clock_that_is_ahead_costs_no_event_in_a_process_that_has_not_called_asana(
    make_client: MakeClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        await asana.settled()

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # as it is used
            return datetime.now(tz) + timedelta(hours=30)

    monkeypatch.setattr(endpoint_module, "datetime", Ahead)
    monkeypatch.setattr(connections_module, "datetime", Ahead)
    async with make_client(store=store) as client:
        seen: list[Event] = []

        @client.on("task", action="added")
        async def handle(event: Event) -> None:
            seen.append(event)

        async with background_task(client.run(), "handlers"):
            await asana.create_task("Fix the login", project=asana.project)
            await until(lambda: seen)
        assert await client.dead_letters() == []
    assert "this machine's clock is 1 day, 6:00:" in caplog.text


async def test_client_that_is_open_in_another_event_loop_says_so(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.get_webhooks(asana.workspace)
        calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: client.ensure(asana.project),
            lambda: client.get_webhooks(asana.workspace),
            client.stats,
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="another event loop.* make one for each"):
                await asyncio.to_thread(asyncio.run, called(call))
        with pytest.raises(RuntimeError, match="no event loop runs here"):
            await asyncio.to_thread(client.events)
        await client.ensure(asana.project)


async def test_store_that_does_not_open_is_an_error_before_listening(
    make_client: MakeClient, tmp_path: Path, free_port: int
) -> None:
    (tmp_path / "store.db").write_text("this is no database, but a text of some length" * 50)
    client = make_client(store=f"sqlite:///{tmp_path}/store.db")
    with pytest.raises(StoreError):
        async with client:
            pytest.fail("it must not open")
    await client.aclose()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", free_port)


async def test_port_zero_is_any_free_one(make_client: MakeClient) -> None:
    async with make_client(port=0) as client:
        assert client.port not in (0, None)
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{client.port}/readyz")
        assert answer.status_code == 200


async def test_it_is_ready_from_listening_to_closing(make_client: MakeClient) -> None:
    client = make_client(serve=False)
    app = client.asgi

    async def probe() -> int:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://hooks") as http:
            return (await http.get("/readyz")).status_code

    assert await probe() == 503
    async with client:
        assert await probe() == 200
    assert await probe() == 503


# Listening elsewhere


async def test_client_may_be_told_where_to_listen_before_it_is_entered(
    make_client: MakeClient, free_port: int
) -> None:
    client = make_client(host="192.0.2.1", port=1)  # an address that is not ours
    client._listen("127.0.0.1", free_port, reuse_port=True)
    other = make_client(port=free_port, reuse_port=True)
    async with client, other:
        assert client.port == other.port == free_port


async def test_client_that_is_told_nothing_listens_as_it_was_made(
    make_client: MakeClient, free_port: int
) -> None:
    client = make_client(reuse_port=True)
    client._listen()
    async with client, make_client(reuse_port=True) as other:
        assert client.port == other.port == free_port


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"public_url": None}, id="no public_url"),
        pytest.param({"serve": False}, id="mounted"),
        pytest.param({"unix_socket": "/run/hooks.sock"}, id="unix socket"),
    ],
)
async def test_client_without_a_port_has_nothing_to_listen_on(
    make_client: MakeClient, options: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match="receiver"):
        make_client(**options)._listen(port=0)


async def test_client_that_listens_already_does_not_move(make_client: MakeClient) -> None:
    async with make_client() as client:
        with pytest.raises(RuntimeError, match="listens already"):
            client._listen(port=0)


# Stores by URL


def test_store_urls(tmp_path: Path) -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    assert isinstance(open_store("sqlite:///relative.db"), SqliteStore)
    assert isinstance(open_store(f"sqlite:///{tmp_path}/absolute.db"), SqliteStore)
    for url in ("redis://127.0.0.1:6379/0", "rediss://u:p@127.0.0.1", "unix:///run/valkey.sock"):
        assert isinstance(open_store(url), RedisStore)
    for url in ("postgresql://u:p@127.0.0.1/hooks", "postgres://127.0.0.1:5432/hooks"):
        assert isinstance(open_store(url), PostgresStore)


@pytest.mark.parametrize(
    "url", ["", "memory", "memory://x", "sqlite:", "sqlite:///", "sqlite://x.db", "mysql://u:p@h/d"]
)
def test_other_store_urls_are_refused_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match="store must be") as caught:
        WebhooksClient("a-token", public_url="https://hooks.example.com", store=url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"concurrency": 0},
        {"max_attempts": 0},
        {"max_connections": 0},
        {"port": -1},
        {"port": 65_536},
        {"first_delay": 0},
        {"longest_delay": float("nan")},
        {"handler_timeout": 0.0},
    ],
    ids=str,
)
def test_number_that_cannot_work_is_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=name):
        WebhooksClient("a-token", public_url="https://hooks.example.com", **option)
