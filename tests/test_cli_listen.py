"""``asana-webhooks listen``, against the local Asana: in this process, and as users run it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import click
import pytest
from click.testing import CliRunner
from conftest import guard, until
from support.program import Program, program
from support.tunnel_program import NGROK, Install, install, is_running

from asana_webhooks import (
    AsanaWebhooksError,
    BadRequestError,
    HandshakeMissingError,
    WebhookFilter,
    WebhooksApi,
    sign,
)
from asana_webhooks._background import background_task
from asana_webhooks.cli import forwarding
from asana_webhooks.cli.access import Access
from asana_webhooks.cli.app import cli
from asana_webhooks.cli.listen import session
from asana_webhooks.cli.listen.printer import Printer, as_fields, as_lines
from asana_webhooks.cli.listen.session import ListenOptions, listen
from asana_webhooks.cli.recording import Record, Recorder
from asana_webhooks.cli.replay import Recorded
from asana_webhooks.simulator import AsanaSimulator, Fault
from asana_webhooks.stores.memory import MemoryStore
from asana_webhooks.stores.sqlite import SqliteStore

__all__ = ["install", "program"]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASANA_ACCESS_TOKEN", "a-token")
    monkeypatch.setenv("NO_COLOR", "1")


class Run:
    """A run of the command in this process, and what it has printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], wanted: ListenOptions) -> None:
        self._capsys = capsys
        self._out = self._err = ""
        self.wanted = wanted
        self.task = asyncio.create_task(listen(wanted))

    @property
    def out(self) -> str:
        self._read()
        return self._out

    @property
    def err(self) -> str:
        self._read()
        return self._err

    def _read(self) -> None:
        out, err = self._capsys.readouterr()
        self._out += out
        self._err += err

    def says(self, *parts: str) -> bool:
        if self.task.done():
            self.task.result()
        return all(part in self.out + self.err for part in parts)

    async def stop(self, number: int = signal.SIGINT) -> None:
        signal.raise_signal(number)
        with guard():
            await self.task


Start = Callable[..., Run]


@pytest.fixture
async def start(
    asana: AsanaSimulator, free_port: int, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Start]:
    """Return what starts a run; one that is still under way is stopped."""
    runs: list[Run] = []

    def start(**options: Any) -> Run:
        wanted = ListenOptions(
            resource=asana.project,
            filters=(),
            public_url=None,
            tunnel=False,
            host="127.0.0.1",
            port=free_port,
            store="memory:",
            access=Access(asana.base_url),
            forward_to=None,
            inspect=None,
            as_json=False,
        )
        runs.append(Run(capsys, wanted._replace(**options)))
        return runs[-1]

    yield start
    for run in runs:
        run.task.cancel()
        await asyncio.wait([run.task])


# A webhook for as long as it runs


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_events_are_printed_and_the_webhook_goes_with_the_command(
    asana: AsanaSimulator, start: Start, number: int
) -> None:
    run = start()
    await until(lambda: run.says("is established; Ctrl-C deletes it"))
    [gid] = asana.webhooks
    task = await asana.create_task("a", project=asana.project)
    await asana.complete_task(task)
    await until(lambda: run.says(f"task {task} changed: completed_at"))
    await run.stop(number)
    assert dict(asana.webhooks) == {}
    times = [line[:8] for line in run.out.splitlines()]
    assert all(time.count(":") == 2 for time in times)
    assert [line[10:] for line in run.out.splitlines()] == [
        "handshake",
        "heartbeat",
        f"task {task} added to project {asana.project}",
        f"task {task} added to section 1400",
        f"task {task} changed: completed",
        f"task {task} changed: completed_at",
    ]
    assert run.err.splitlines() == [
        f"listening on {run.wanted.address}, which Asana reaches at {run.wanted.address}",
        f"webhook {gid} for {asana.project} is established; Ctrl-C deletes it",
        f"webhook {gid} is deleted",
    ]


async def test_refused_and_repeated_deliveries_are_printed_as_such(
    asana: AsanaSimulator, start: Start
) -> None:
    run = start()
    await until(lambda: run.says("is established"))
    [gid] = asana.webhooks
    await asana.create_task("a", project=asana.project)
    await asana.settled()
    body = asana.deliveries[-1].body
    await asana.deliver(gid, body)
    await asana.deliver(gid, body, signature=sign(body, "x" * 32))
    await asana.deliver(gid, b"[]")
    await until(lambda: run.says("dead letter: not a delivery"))
    lines = [line[10:] for line in run.out.splitlines()]
    assert lines[-3:-1] == [
        "duplicate: 2 events that were delivered before",
        "refused, 401: the signature does not fit the body",
    ]
    await run.stop()


async def test_filters_are_asana_s(asana: AsanaSimulator, start: Start) -> None:
    run = start(filters=(WebhookFilter(resource_type="task", action="changed"),))
    await until(lambda: run.says("is established"))
    [webhook] = asana.webhooks.values()
    assert [each["action"] for each in webhook.filters] == ["changed"]
    await run.stop()


async def test_json_is_a_line_for_each_delivery_that_can_be_posted_again(
    asana: AsanaSimulator, start: Start
) -> None:
    run = start(as_json=True)
    await until(lambda: run.says("is established"))
    [webhook] = asana.webhooks.values()
    await asana.create_task("a", project=asana.project)
    await until(lambda: run.says('"accepted"'))
    heartbeat, delivery = map(json.loads, run.out.splitlines())
    assert heartbeat["verdict"] == "heartbeat"
    assert delivery["webhook"] == webhook.gid
    assert delivery["resource"] == asana.project
    assert delivery["status"] == 200
    assert delivery["received_at"].endswith("+00:00")
    assert delivery["headers"]["Content-Type"] == "application/json"
    body = delivery["body"].encode()
    assert body == asana.deliveries[-1].body
    status = await asana.deliver(
        webhook.gid, body, signature=delivery["headers"]["X-Hook-Signature"]
    )
    assert status == 200
    assert webhook.secret not in run.out
    await run.stop()


def record(**parts: Any) -> Record:
    secret = ("X-Hook-Secret", "s" * 32)
    made = Record(1, datetime.now(UTC), "", "POST", headers=(secret,), signed=True)
    return dataclasses.replace(made, **parts)


def test_bytes_that_are_no_text_come_back_from_a_line() -> None:
    fields = as_fields(record(body=b"\xff\x00"), None)
    assert (fields["webhook"], fields["headers"]) == (None, {})
    assert Recorded.from_line(json.dumps(fields)).body == b"\xff\x00"


def test_lines_hold_neither_secret_nor_route() -> None:
    headers = (
        ("X-Hook-Secret", "a-secret"),
        ("X-Original-URI", "/asana/the-route?x"),
        ("Proxy-Authorization", "Basic a-password"),
    )
    fields = as_fields(record(route="the-route", headers=headers), None)
    assert fields["headers"] == {"X-Original-URI": "/asana/<route>?x"}


async def test_requests_of_strangers_that_wait_are_bounded_and_the_rest_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = Printer(as_json=False, forward_to=None)
    for _ in range(250):
        printer.put(record(verdict="refused", status=404, reason="no webhook here"))
        printer.put(record(verdict="heartbeat"))
    async with MemoryStore() as store, background_task(printer.run(Recorder(), store), "printer"):
        printed = ""
        with guard():
            while printed.count("heartbeat") < 250:
                await asyncio.sleep(0)
                printed += capsys.readouterr().out
    assert printed.count("refused, 404") == 50
    assert "200 more requests of strangers" in printed


def test_what_strangers_write_moves_no_cursor() -> None:
    event = '{"action":"\\u001b[2J","created_at":"2026-01-01T00:00:00Z","resource":{"gid":"1"}}'
    body = f'{{"events":[{event}]}}'.encode()
    [line] = as_lines(record(body=body, verdict="accepted"))
    assert line == "None 1 \\x1b[2J"


# Posting on


async def test_what_comes_is_posted_on_as_it_came(
    asana: AsanaSimulator, start: Start, program: Program
) -> None:
    run = start(forward_to=program.url)
    await until(lambda: run.says("is established"))
    [webhook] = asana.webhooks.values()
    await asana.create_task("a", project=asana.project)
    await until(lambda: len(program.posted) == 3)
    (first, _), (_, _), (headers, body) = program.posted
    assert first["X-Hook-Secret"] == webhook.secret
    assert body == asana.deliveries[-1].body
    assert headers["X-Hook-Signature"] == asana.deliveries[-1].signature
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == program.url.split("/")[2]
    await until(lambda: run.out.count("-> 200 from 127.0.0.1:") == 3)
    await run.stop()


async def test_what_is_refused_is_not_posted_on(
    asana: AsanaSimulator, start: Start, program: Program
) -> None:
    run = start(forward_to=program.url)
    await until(lambda: run.says("is established"))
    [gid] = asana.webhooks
    await until(lambda: len(program.posted) == 2)
    await asana.deliver(gid, b'{"events":[]}', signature="0" * 64)
    await asana.deliver(gid, b'{"events":[]}')
    await until(lambda: len(program.posted) == 3)
    await run.stop()


@pytest.mark.parametrize("status", [302, 500])
async def test_status_of_the_program_is_told_and_no_redirect_followed(
    asana: AsanaSimulator, start: Start, program: Program, status: int
) -> None:
    program.status = status
    run = start(forward_to=program.url, as_json=True)
    await until(lambda: run.says(f"-> {status} from 127.0.0.1:", "is established"))
    assert "->" not in run.out
    await until(lambda: [each.status for each in asana.deliveries] == [200])
    await run.stop()


async def test_program_that_is_not_there_is_named(start: Start) -> None:
    run = start(forward_to="http://127.0.0.1:9/hooks")
    await until(lambda: run.says("-> 127.0.0.1:9 cannot be reached: ClientConnectorError"))
    await until(lambda: run.says("is established"))
    await run.stop()


async def test_program_that_does_not_answer_is_not_waited_for_for_ever(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        run = start(forward_to=f"http://127.0.0.1:{port}")
        await until(lambda: run.says(f"-> no answer from 127.0.0.1:{port} within 0.05 s"))
        await until(lambda: run.says("is established"))
        await run.stop()


# A store


async def test_deliveries_in_a_store_are_left_to_its_handlers_which_are_told(
    asana: AsanaSimulator,
    start: Start,
    tmp_path: Path,
    make_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    announced = asyncio.Event()

    async def announce(_: SqliteStore) -> None:
        announced.set()

    monkeypatch.setattr(SqliteStore, "notify", announce)
    store = f"sqlite:///{tmp_path}/s.db"
    async with make_client(store=store) as client:
        await client.establish(asana.project)
        await asana.settled()
    run = start(resource=None, store=store)
    await until(lambda: run.says("for the routes of the store"))
    announced.clear()
    task = await asana.create_task("a", project=asana.project)
    await until(lambda: run.says(f"task {task} added to section"))
    await until(announced.is_set)
    await run.stop()
    assert len(asana.webhooks) == 1
    async with SqliteStore(tmp_path / "s.db") as opened:
        assert (await opened.counts()).waiting == 1


async def test_route_is_retired_with_the_webhook(
    asana: AsanaSimulator, start: Start, tmp_path: Path, make_client: Any
) -> None:
    store = f"sqlite:///{tmp_path}/s.db"
    async with make_client(store=store) as client:
        kept = await client.establish(asana.project)
    run = start(store=store)
    await until(lambda: run.says("is established"))
    await run.stop()
    async with SqliteStore(tmp_path / "s.db") as opened:
        assert [route.gid for route in await opened.list_routes()] == [kept.gid]
    assert list(asana.webhooks) == [kept.gid]


# In the end


async def test_webhook_that_cannot_be_deleted_is_named(
    asana: AsanaSimulator, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    await until(lambda: run.says("is established"))
    [gid] = asana.webhooks

    async def fail(*_: object) -> None:
        message = "Asana is away"
        raise AsanaWebhooksError(message)

    monkeypatch.setattr(WebhooksApi, "delete_webhook", fail)
    with pytest.raises(click.ClickException, match=f"webhook {gid} is left at Asana.*away"):
        await run.stop()


async def test_told_twice_it_leaves_the_webhook_and_says_so(
    asana: AsanaSimulator, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, called = start(), asyncio.Event()
    await until(lambda: run.says("is established"))
    [gid] = asana.webhooks

    async def never(*_: object) -> None:
        called.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(WebhooksApi, "delete_webhook", never)
    signal.raise_signal(signal.SIGINT)
    with guard():
        await called.wait()
    with pytest.raises(click.ClickException, match=f"webhook {gid} is left at Asana.*waited for"):
        await run.stop()


async def test_deletion_that_takes_too_long_is_given_up(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "DELETE_TIMEOUT", 0.05)
    run = start()
    await until(lambda: run.says("is established"))

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(WebhooksApi, "delete_webhook", never)
    with pytest.raises(click.ClickException, match="is left at Asana"):
        await run.stop()


async def test_told_while_it_establishes_it_leaves_nothing(
    asana: AsanaSimulator, start: Start
) -> None:
    asana.faults.add(Fault.SLOW_201)
    run = start()
    with guard():
        await asana.handshake_done.wait()
    signal.raise_signal(signal.SIGTERM)
    await anyio.sleep(0.05)
    asana.release_201.set()
    with guard():
        await run.task
    assert dict(asana.webhooks) == {}
    assert "is established" not in run.err


async def test_told_twice_while_it_establishes_it_ends_and_says_what_may_be_left(
    asana: AsanaSimulator,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    looking = asyncio.Event()

    async def never(*_: object, **__: object) -> AsyncIterator[None]:
        looking.set()
        await asyncio.Event().wait()
        yield

    asana.faults.add(Fault.SLOW_201)
    monkeypatch.setattr(WebhooksApi, "iter_webhooks", never)
    run = start()
    with guard():
        await asana.handshake_done.wait()
    signal.raise_signal(signal.SIGINT)
    with guard():
        await looking.wait()
    await run.stop()
    assert "a webhook may be left at Asana" in caplog.text


async def test_failure_to_establish_is_the_command_s(asana: AsanaSimulator, start: Start) -> None:
    asana.faults.add(Fault.NO_HANDSHAKE)
    run = start()
    with pytest.raises(HandshakeMissingError), guard():
        await run.task
    assert dict(asana.webhooks) == {}


async def test_failure_to_print_deletes_the_webhook(
    asana: AsanaSimulator, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    await until(lambda: run.says("is established", "heartbeat"))

    def fail(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("asana_webhooks.cli.listen.printer.as_lines", fail)
    await asana.create_task("a", project=asana.project)
    with pytest.raises(BrokenPipeError), guard():
        await run.task
    assert dict(asana.webhooks) == {}


# A tunnel


async def test_tunnel_gives_the_public_url_and_ends_with_the_command(
    start: Start, install: Install
) -> None:
    trace = install("ngrok", NGROK)
    run = start(tunnel=True)
    with pytest.raises(BadRequestError, match="ngrok-free.app"), guard():
        await run.task
    assert "which Asana reaches at https://3f1c-2001-db8.ngrok-free.app" in run.err
    assert not is_running(json.loads(trace.read_text())["pid"])


@pytest.fixture
def leads_here(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    """Make the address that a program tells this machine's."""

    async def address(name: str, output: Any) -> str:
        await output.known.wait()
        return f"http://127.0.0.1:{free_port}/tunnelled"

    monkeypatch.setattr("asana_webhooks.cli.tunnels._address", address)


@pytest.mark.usefixtures("leads_here")
async def test_end_of_the_tunnel_is_an_error_and_deletes_the_webhook(
    asana: AsanaSimulator, start: Start, install: Install
) -> None:
    trace = install("ngrok", NGROK)
    run = start(tunnel=True, tunnel_program="ngrok")
    await until(lambda: run.says("is established"))
    [webhook] = asana.webhooks.values()
    assert "/tunnelled/" in webhook.target
    os.kill(json.loads(trace.read_text())["pid"], signal.SIGKILL)
    with pytest.raises(click.ClickException, match="the tunnel ended"), guard():
        await run.task
    assert dict(asana.webhooks) == {}


@pytest.mark.usefixtures("leads_here")
async def test_tunnel_ends_after_the_webhook_was_deleted(
    asana: AsanaSimulator, start: Start, install: Install
) -> None:
    trace = install("cloudflared", [])
    run = start(tunnel=True)
    await until(trace.exists)
    await asyncio.wait_for(asyncio.sleep(0), 1)
    await run.stop()
    assert not is_running(json.loads(trace.read_text())["pid"])
    assert dict(asana.webhooks) == {}


# The inspector


async def test_inspector_shows_and_posts_again(
    asana: AsanaSimulator, start: Start, program: Program
) -> None:
    run = start(inspect=0, forward_to=program.url)
    await until(lambda: run.says("is established"))
    url = run.err.split("inspector: ")[1].split()[0]
    await asana.create_task("a", project=asana.project)
    await until(lambda: len(program.posted) == 3)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}stream") as stream:
            text = (await stream.content.readuntil(b"\n\n")).decode()
        state = json.loads(text.partition("data: ")[2])
        [*_, last] = state["records"]
        assert state["actions"] == ["Post again"]
        assert {each["kind"] for each in last["attempts"]} <= {"handler", "forward"}
        headers = {"Origin": url.rstrip("/")}
        again = await http.post(f"{url}records/{last['id']}/Post again", headers=headers)
        assert again.status == 200
    await until(lambda: run.says("duplicate: 2 events"))
    await until(lambda: len(program.posted) == 4)
    assert program.posted[-1][1] == program.posted[-2][1]
    await run.stop()


async def test_port_that_is_taken_is_an_error_before_anything_is_established(
    asana: AsanaSimulator, start: Start
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start(inspect=taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use|bind"), guard():
            await run.task
    assert not asana.create_started.is_set()


# As users call it


def invoke(*arguments: str, **variables: str) -> Any:
    return CliRunner(env=variables).invoke(cli, ["listen", *arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "name a RESOURCE to watch, or a --store", id="nothing"),
        pytest.param(
            ["--store", "sqlite:///x.db", "--filter", "task"], "go with a RESOURCE", id="filter"
        ),
        pytest.param(
            ["--store", "sqlite:///x.db", "--tunnel"], "go with a RESOURCE", id="tunnel of nothing"
        ),
        pytest.param(["1"], "give --public-url, or --tunnel", id="no way here"),
        pytest.param(
            ["1", "--tunnel", "--public-url", "https://h.example.com"], "not both", id="two ways"
        ),
        pytest.param(["1", "--tunnel", "netcat"], "is not one of", id="other tunnel"),
        pytest.param(["1", "--filter", "task changed"], "write TYPE[/SUBTYPE]", id="no filter"),
        pytest.param(["1", "--filter", ""], "write TYPE[/SUBTYPE]", id="empty filter"),
        pytest.param(["1", "--filter", "task.dances"], "action is one of", id="other action"),
        pytest.param(["1", "--filter", "task:name"], "with the action 'changed'", id="field alone"),
    ],
)
def test_wrong_use_is_said(arguments: list[str], said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--public-url", "http://10.0.0.1"], "Asana cannot reach", id="private"),
        pytest.param(
            ["--tunnel", "--forward-to", "localhost:3000"],
            "no address to post to; write it like http://127.0.0.1:3000/hooks",
            id="no address",
        ),
        pytest.param(
            ["--tunnel", "--forward-to", "http://127.0.0.1:99999/hooks"],
            "no address to post to; write it like http://127.0.0.1:3000/hooks",
            id="no port",
        ),
        pytest.param(["--tunnel", "--store", "files:"], "store must be", id="other store"),
    ],
)
def test_what_cannot_work_is_one_line(arguments: list[str], said: str) -> None:
    result = invoke("1", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_address_without_tls_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(wanted: ListenOptions) -> None:
        pass

    monkeypatch.setattr("asana_webhooks.cli.listen.session.listen", nothing)
    result = invoke("1", "--public-url", "http://hooks.example.com")
    assert result.stderr.startswith("Warning: public_url is http")


def test_missing_token_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASANA_ACCESS_TOKEN")
    result = invoke("1", "--tunnel")
    assert (result.exit_code, "ASANA_ACCESS_TOKEN" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("task", {"resource_type": "task"}),
        ("*.deleted", {"action": "deleted"}),
        ("task/milestone", {"resource_type": "task", "resource_subtype": "milestone"}),
        (
            "task.changed:completed,name",
            {"resource_type": "task", "action": "changed", "fields": ("completed", "name")},
        ),
    ],
)
def test_filter_reads_from_type_to_field(
    text: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = caught(monkeypatch, "1", "--tunnel", "ngrok", "--filter", text)
    assert wanted.filters == (WebhookFilter(**fields),)
    assert (wanted.tunnel, wanted.tunnel_program) == (True, "ngrok")


def caught(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: str) -> ListenOptions:
    """Return what the command would do."""
    found: list[ListenOptions] = []

    async def note(wanted: ListenOptions) -> None:
        found.append(wanted)

    monkeypatch.setattr("asana_webhooks.cli.listen.session.listen", note)
    assert invoke(*arguments, **variables).exit_code == 0
    return found[0]


def test_options_that_may_have_a_value_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    caught(monkeypatch, "--store", "sqlite:///x.db", "--forward-to", "http://localhost:3000/hooks")
    wanted = caught(monkeypatch, "1", "--inspect", "--tunnel")
    assert (wanted.inspect, wanted.tunnel, wanted.tunnel_program) == (4480, True, None)
    assert caught(monkeypatch, "1", "--tunnel", "--inspect", "5000").inspect == 5000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--store", "sqlite:///x.db"], None, id="no webhook"),
        pytest.param(["1", "--tunnel"], None, id="a tunnel"),
        pytest.param(["1"], "https://hooks.example.com", id="a webhook"),
    ],
)
def test_public_url_of_the_environment_counts_where_one_is_wanted(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str | None
) -> None:
    public_url = "https://hooks.example.com"
    wanted = caught(monkeypatch, *arguments, ASANA_WEBHOOKS_PUBLIC_URL=public_url)
    assert wanted.public_url == expected


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:8080"),
        ("::1", "http://[::1]:8080"),
    ],
)
def test_local_asana_needs_no_public_url(
    monkeypatch: pytest.MonkeyPatch, host: str, address: str
) -> None:
    wanted = caught(monkeypatch, "1", "--host", host, ASANA_BASE_URL="http://localhost:5000/api")
    assert wanted.address == address


@pytest.fixture
def spawn(asana: AsanaSimulator, free_port: int) -> Any:
    @contextlib.asynccontextmanager
    async def spawn(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "asana_webhooks", "listen", asana.project, *arguments),
            *("--port", str(free_port)),
            env={**os.environ, "ASANA_BASE_URL": asana.base_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    return spawn


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_interrupted_command_exits_with_0_and_leaves_nothing(
    asana: AsanaSimulator, spawn: Any, number: signal.Signals
) -> None:
    async with spawn("--json") as process:
        line = json.loads(await process.stdout.readline())
        assert line["verdict"] == "heartbeat"
        await until(lambda: asana.webhooks and asana.deliveries)
        process.send_signal(number)
        with guard():
            out, err = await process.communicate()
    assert process.returncode == 0
    assert out == b""
    assert b"Traceback" not in err
    assert dict(asana.webhooks) == {}


@pytest.mark.slow
async def test_interrupted_command_says_what_it_could_not_look_for(
    asana: AsanaSimulator, spawn: Any
) -> None:
    asana.faults.add(Fault.SLOW_201)
    async with spawn() as process:
        with guard():
            await asana.handshake_done.wait()
        asana.faults.add(Fault.UNAVAILABLE)
        process.send_signal(signal.SIGINT)
        with guard():
            _, err = await process.communicate()
    assert b"Error: a webhook may be left at Asana" in err


async def test_when_nobody_reads_on_the_webhook_is_deleted(
    asana: AsanaSimulator, spawn: Any
) -> None:
    async with spawn() as process:
        await process.stdout.readline()
        await until(lambda: asana.webhooks and asana.deliveries)
        process.stdout._transport.close()
        for number in range(3):
            if asana.webhooks:
                await asana.create_task(str(number), project=asana.project)
        with guard():
            await process.wait()
    assert process.returncode == 1
    assert dict(asana.webhooks) == {}
