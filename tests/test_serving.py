"""A client, or a receiver alone, as a process: in this one, told to stop by event and by signal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from conftest import eventually, guard, until

from asana_webhooks import Event, MemoryStore, WebhooksClient, sign
from asana_webhooks import serving as serving_module
from asana_webhooks._background import background_task
from asana_webhooks._endpoint import Endpoint
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks.models import Route
from asana_webhooks.serving import application, serve, serve_store
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores.sqlite import SqliteStore

HERE = Path(__file__).parent
ROUTE, SECRET = "r" * 32, "s" * 64

MakeClient = Callable[..., WebhooksClient]


async def is_ready(port: int | None) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


async def confirm_route(store: SqliteStore | MemoryStore, port: int) -> str:
    target = f"http://127.0.0.1:{port}/{ROUTE}"
    await store.reserve(Route(id=ROUTE, target=target, resource="12"), ttl=60)
    await store.add_candidate(ROUTE, SECRET)
    await store.confirm(ROUTE, gid="77", secret=SECRET)
    return target


async def post_event(target: str, gid: str) -> int:
    body = (
        b'{"events":[{"action":"added","created_at":"2099-01-01T00:00:00.000Z",'
        b'"resource":{"gid":"%s","resource_type":"task"},"user":null,"parent":null}]}'
    ) % gid.encode()
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(
            target, content=body, headers={"X-Hook-Signature": sign(body, SECRET)}
        )
    return answer.status_code


async def test_client_is_served_until_told_to_stop(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client, stop, handled = make_client(), asyncio.Event(), []

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.resource.gid)

    async with background_task(serve(client, stop=stop), "serving") as serving:
        await eventually(lambda: is_ready(client.port))
        await client.ensure("8675309")
        task = await asana.create_task("first", project="8675309")
        await until(lambda: task in handled)
        stop.set()
        with guard():
            await asyncio.wait([serving])
    assert not await is_ready(client.port)


async def test_signal_stops_it_and_lets_the_handler_end(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    client, ended, may_end = make_client(store=store), [], asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        ended.append("began")
        await may_end.wait()
        ended.append("ended")

    async with background_task(serve(client), "serving") as serving:
        await eventually(lambda: is_ready(client.port))
        await client.ensure("8675309")
        await asana.create_task("first", project="8675309")
        await until(lambda: ended)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
        assert not serving.done()
        may_end.set()
        with guard():
            await asyncio.wait([serving])
    assert ended[:2] == ["began", "ended"]
    assert signal.getsignal(signal.SIGTERM) is before


async def test_signal_stops_all_clients_that_are_served_in_one_loop(
    make_client: MakeClient,
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    clients = [make_client(port=0), make_client(port=0), make_client(port=0)]
    stop = asyncio.Event()

    async def are_ready() -> bool:
        return all([await is_ready(client.port) for client in clients])

    async with (
        background_task(serve(clients[0], handlers=False, stop=stop), "first"),
        background_task(serve(clients[1], handlers=False), "second") as second,
        background_task(serve(clients[2], handlers=False), "third") as third,
    ):
        await eventually(are_ready)
        stop.set()
        await until(lambda: not clients[0].is_open)
        os.kill(os.getpid(), signal.SIGTERM)
        with guard():
            await asyncio.wait([second, third])
    assert signal.getsignal(signal.SIGTERM) is before


async def test_without_handlers_deliveries_are_kept_for_others(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store, stop = MemoryStore(), asyncio.Event()
    client = make_client(store=store)
    async with background_task(serve(client, handlers=False, stop=stop), "serving") as serving:
        await eventually(lambda: is_ready(client.port))
        await client.ensure("8675309")
        await asana.create_task("first", project="8675309")
        await asana.settled()
        assert (await store.counts()).waiting > 0
        stop.set()
        await asyncio.wait([serving])


PROGRAM = """
import asyncio
from asana_webhooks import WebhooksClient, serve

client = WebhooksClient(
    "a-token", public_url="http://127.0.0.1:{port}", port={port}, base_url="{asana}",
    store="sqlite:///{folder}/hooks.db",
)
client.keep("{project}")

@client.on("task", action="added")
async def handle(event):
    print("handled", event.resource.gid, flush=True)

asyncio.run(serve(client))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_program_keeps_handles_and_ends_soon_without_a_traceback(
    asana: AsanaSimulator, free_port: int, tmp_path: Path, number: signal.Signals
) -> None:
    program = PROGRAM.format(
        port=free_port, asana=asana.base_url, folder=tmp_path, project=asana.project
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        await until(lambda: asana.webhooks)
        task = await asana.create_task("first", project=asana.project)
        with guard():
            assert await process.stdout.readline() == f"handled {task}\n".encode()
        began = time.monotonic()
        process.send_signal(number)
        assert await process.wait() == 0
        assert time.monotonic() - began < 3
        assert b"Traceback" not in await process.stderr.read()
    finally:
        if process.returncode is None:
            process.kill()


async def test_open_client_is_served_in_place_of_run_then_closed(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    stop, handled = asyncio.Event(), []
    async with make_client() as client:

        @client.on("task", action="added")
        async def handle(event: Event) -> None:
            handled.append(event.resource.gid)

        await client.ensure("8675309")
        async with background_task(serve(client, stop=stop), "serving") as serving:
            task = await asana.create_task("first", project="8675309")
            await until(lambda: task in handled)
            stop.set()
            with guard():
                await asyncio.wait([serving])
        assert not client.is_open
        assert not await is_ready(client.port)


async def test_client_without_a_handler_is_an_error(make_client: MakeClient) -> None:
    with pytest.raises(RuntimeError, match="no handler is registered"):
        await serve(make_client())


async def test_receiver_alone_answers_handshakes_and_keeps_deliveries(
    tmp_path: Path, free_port: int
) -> None:
    stop = asyncio.Event()
    serving = serve_store(
        SqliteStore(tmp_path / "s.db"), host="127.0.0.1", port=free_port, stop=stop
    )
    async with background_task(serving, "serving"), SqliteStore(tmp_path / "s.db") as store:
        await eventually(lambda: is_ready(free_port))
        target = f"http://127.0.0.1:{free_port}/{ROUTE}"
        await store.reserve(Route(id=ROUTE, target=target, resource="12"), ttl=60)
        async with httpx.AsyncClient(trust_env=False) as http:
            echoed = await http.post(target, headers={"X-Hook-Secret": SECRET})
        assert (echoed.status_code, echoed.headers["X-Hook-Secret"]) == (200, SECRET)
        await store.confirm(ROUTE, gid="77", secret=SECRET)
        assert await post_event(target, "1") == 200
        assert (await store.counts()).waiting == 1
        stop.set()


async def test_receiver_alone_is_ready_no_more_when_it_stops(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    endpoints: list[Endpoint] = []
    ready: list[bool] = []

    class Seen(Endpoint):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            endpoints.append(self)

    class Stopping(Receiver):
        async def __aexit__(self, *exc: Any) -> None:
            ready.append(endpoints[0].accepting)
            await super().__aexit__(*exc)

    monkeypatch.setattr(serving_module, "Endpoint", Seen)
    monkeypatch.setattr(serving_module, "Receiver", Stopping)
    stop = asyncio.Event()
    serving = serve_store(MemoryStore(), host="127.0.0.1", port=free_port, stop=stop)
    async with background_task(serving, "serving") as task:
        await eventually(lambda: is_ready(free_port))
        stop.set()
        await task
    assert ready == [False]


@pytest.mark.parametrize("alone", [True, False], ids=["a receiver alone", "a client"])
def test_process_that_serves_may_have_every_descriptor_that_the_system_permits(
    *, alone: bool
) -> None:
    client = (
        "WebhooksClient('t', public_url='https://hooks.example.com', store=MemoryStore(), port=0)"
    )
    call = (
        "serve_store(MemoryStore(), host='127.0.0.1', port=0, stop=stop)"
        if alone
        else f"serve({client}, handlers=False, stop=stop)"
    )
    program = (
        "import asyncio, resource as r\n"
        "from asana_webhooks import MemoryStore, WebhooksClient\n"
        "from asana_webhooks.serving import serve, serve_store\n"
        "async def main():\n"
        "    stop = asyncio.Event()\n"
        "    stop.set()\n"
        f"    await {call}\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, 200))\n"
        "asyncio.run(main())\n"
        "print(r.getrlimit(r.RLIMIT_NOFILE))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert run.stdout == b"(200, 200)\n", run.stderr


async def test_application_enters_the_client_and_hands_events_over(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    client, handled = make_client(serve=False), []

    @client.on("task")
    async def handle(event: Event) -> None:
        handled.append(event.resource.gid)

    runner = web.AppRunner(application(client))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", free_port).start()
        await client.ensure("8675309")
        task = await asana.create_task("first", project="8675309")
        await until(lambda: task in handled)
    finally:
        await runner.cleanup()
    with pytest.raises(RuntimeError, match="closed"):
        await client.stats()


async def test_application_establishes_what_is_kept_when_its_server_listens(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    client = make_client(serve=False)
    client.keep(asana.project)
    client.on("task")(ignore)
    runner = web.AppRunner(application(client))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", free_port).start()
        await client.kept()
        assert [each.resource for each in asana.webhooks.values()] == [asana.project]
    finally:
        await runner.cleanup()


async def ignore(event: Event) -> None:
    """Do nothing with it."""


async def test_application_without_handlers_only_keeps(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    store = MemoryStore()
    client = make_client(serve=False, store=store)
    runner = web.AppRunner(application(client, handlers=False))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", free_port).start()
        await client.ensure("8675309")
        await asana.create_task("first", project="8675309")
        await asana.settled()
        assert (await store.counts()).waiting > 0
    finally:
        await runner.cleanup()


async def test_application_of_a_client_without_a_handler_does_not_start(
    make_client: MakeClient,
) -> None:
    client = make_client(serve=False)
    runner = web.AppRunner(application(client))
    with pytest.raises(RuntimeError, match="no handler is registered"):
        await runner.setup()
    assert not client.is_open


async def test_application_of_a_client_that_listens_itself_is_refused(
    make_client: MakeClient,
) -> None:
    with pytest.raises(ValueError, match="serve=False"):
        application(make_client())


@pytest.mark.slow
async def test_application_runs_under_gunicorn(tmp_path: Path, free_port: int) -> None:
    url, handled = f"sqlite:///{tmp_path}/s.db", tmp_path / "handled"
    async with SqliteStore(tmp_path / "s.db") as store:
        target = await confirm_route(store, free_port)
    command = [
        "-m",
        "gunicorn",
        "support.served:app()",
        "--worker-class",
        "aiohttp.GunicornWebWorker",
    ]
    command += ["--workers", "2", "--bind", f"127.0.0.1:{free_port}", "--log-level", "warning"]
    known = {"STORE": url, "HANDLED": str(handled), "PORT": str(free_port)}
    process = subprocess.Popen([sys.executable, *command], cwd=HERE, env={**os.environ, **known})
    try:
        await eventually(lambda: is_ready(free_port))
        assert await post_event(target, "1") == 200
        await until(lambda: handled.exists() and handled.read_text().endswith(" 1\n"))
    finally:
        process.terminate()
        process.wait(20)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0
