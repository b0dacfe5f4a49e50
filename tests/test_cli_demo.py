"""``asana-webhooks demo``: as users run it, and with parts of the package broken on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from click.testing import CliRunner, Result
from conftest import guard, until
from support.cli_process import TERMINAL, environment, run

from asana_webhooks import Event, StoreError, WebhooksClient
from asana_webhooks._background import background_task
from asana_webhooks._handlers import HandlerError, HandlerRunner
from asana_webhooks._remembered import Scope, Sight
from asana_webhooks.cli.app import cli
from asana_webhooks.cli.demo import environment as environment_module
from asana_webhooks.cli.demo import scenario
from asana_webhooks.cli.demo.reporter import Reporter
from asana_webhooks.models import Delivery
from asana_webhooks.router import Router, Subscription
from asana_webhooks.simulator import AsanaSimulator, Fault
from asana_webhooks.stores.sqlite import SqliteStore

pytestmark = pytest.mark.slow

STEPS = [
    "1. A local Asana and a client are up",
    "2. One awaited call establishes a webhook",
    "3. Somebody creates a task and completes it",
    "4. A forged delivery is refused",
    "5. A repeated delivery is handled once",
    "6. A new client on the same file carries on",
]
CLAIMS = [
    "it knows the project Bugs, 8675309",
    "in the middle of it came Asana's handshake",
    "the secret is stored in asana-webhooks.db: 64 characters, never shown",
    "the first heartbeat was verified with it: 200",
    "the handler was called once with each event that Asana signed",
    "the right address, but another's signature: 401",
    "a genuine signature, but an altered body: 401",
    "the last delivery came again, the same bytes: 200",
    "Asana has no other",
    "a new event was verified with it, and handled once",
    "closed again: nothing waits, nothing was given up",
]
SECRET_OR_ROUTE = re.compile(r"[A-Za-z0-9_-]{32,}")
ESCAPE = "\x1b"

Sabotage = Callable[[pytest.MonkeyPatch], None]


def run_on_terminal(cwd: Path, **variables: str) -> str:
    """Return what the demo, run to a good end, wrote to a terminal."""
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "asana_webhooks", "demo"],
        cwd=cwd,
        env=environment(**variables),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b"".join(until_closed(ours))
    os.close(ours)
    assert child.wait(timeout=40) == 0
    return written.decode()


def until_closed(descriptor: int) -> Iterator[bytes]:
    with contextlib.suppress(OSError):  # how Linux says that the other side of a terminal is gone
        while chunk := os.read(descriptor, 65_536):
            yield chunk


# As users run it


def test_demo_tells_each_step_in_plain_lines_and_leaves_nothing_behind(tmp_path: Path) -> None:
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    ended = run("-m", "asana_webhooks", "demo", cwd=here, TMPDIR=str(temporary))
    lines = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line for line in lines if line in STEPS] == STEPS
    assert [claim for claim in CLAIMS if claim not in ended.stdout] == []
    assert re.fullmatch(r"All \d\d checks passed, in \d+\.\d s\.", lines[-1])
    assert ended.stdout.isascii()
    assert ESCAPE not in ended.stdout
    assert not SECRET_OR_ROUTE.search(ended.stdout)
    assert list(here.iterdir()) == list(temporary.iterdir()) == []


def test_demo_with_debug_logs_to_standard_error_without_any_secret(tmp_path: Path) -> None:
    ended = run("-m", "asana_webhooks", "--debug", "demo", cwd=tmp_path)
    assert ended.returncode == 0
    assert "asana_webhooks._sightings: answered 401" in ended.stderr
    assert "asana_webhooks._sightings" not in ended.stdout
    assert not SECRET_OR_ROUTE.search(ended.stdout + ended.stderr)


def test_demo_is_colourful_on_a_terminal(tmp_path: Path) -> None:
    shown = run_on_terminal(tmp_path)
    assert f"{ESCAPE}[32m✓{ESCAPE}[0m" in shown
    assert "All" in shown


def test_demo_on_a_terminal_has_no_colours_when_no_color_is_set(tmp_path: Path) -> None:
    shown = run_on_terminal(tmp_path, NO_COLOR="1")
    assert ESCAPE not in shown
    assert "✓  it has no webhook yet" in shown


def test_demo_ends_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "asana_webhooks", "demo"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    complaint = child.stderr.read()
    child.stderr.close()
    assert (child.wait(timeout=40), complaint) == (1, "")


WAITING_DEMO = """
import asyncio
from asana_webhooks.cli import main
from asana_webhooks.cli.demo import scenario

async def run_demo(reporter):
    async with scenario.DemoEnvironment():
        print("waiting", flush=True)
        await asyncio.Event().wait()

scenario.run_demo = run_demo
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows interrupts whole groups of processes")
def test_an_interrupted_demo_cleans_up_and_exits_with_130(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING_DEMO, "demo"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    assert len(list(tmp_path.iterdir())) == 1
    child.send_signal(signal.SIGINT)
    _, complaint = child.communicate(timeout=40)
    assert (child.returncode, complaint) == (130, "\n")
    assert list(tmp_path.iterdir()) == []


# In this process


@pytest.fixture
def simulators(monkeypatch: pytest.MonkeyPatch) -> list[AsanaSimulator]:
    """Every local Asana that a demo has started in this process."""
    started: list[AsanaSimulator] = []

    def start() -> AsanaSimulator:
        started.append(AsanaSimulator())
        return started[-1]

    monkeypatch.setattr(environment_module, "AsanaSimulator", start)
    return started


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="asana-webhooks")


def test_demo_shows_neither_secret_nor_target(simulators: list[AsanaSimulator]) -> None:
    result = invoke("demo")
    assert result.exit_code == 0
    [asana] = simulators
    [webhook] = asana.webhooks.values()
    assert webhook.secret not in result.output
    assert webhook.target not in result.output
    assert webhook.target.rpartition("/")[2] not in result.output


def test_demo_needs_neither_the_token_nor_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASANA_ACCESS_TOKEN", "not a token")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert invoke("demo").exit_code == 0


class AsciiTerminal(io.StringIO):
    encoding = "ascii"

    def isatty(self) -> bool:
        return True


def test_a_terminal_that_knows_only_ascii_is_shown_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in TERMINAL:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = AsciiTerminal()
    reporter = Reporter(terminal)
    reporter.step("A step")
    reporter.check("it holds", that=True)
    reporter.event("an event")
    reporter.failure("a failure")
    shown = terminal.getvalue()
    assert shown.isascii()
    assert f"{ESCAPE}[32mok" in shown


def test_demo_tries_another_port_when_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], probe.getsockname()[1]]
        probe.close()

        class Choice:
            def sample(self, *_: object) -> list[int]:
                return ports

        monkeypatch.setattr(secrets, "SystemRandom", Choice)
        result = invoke("demo")
    assert result.exit_code == 0
    assert f"client: http://127.0.0.1:{ports[1]}," in result.output


# With something broken, the demo must say so


def every_signature_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: True)


def no_signature_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asana_webhooks.protocol.digest", lambda body, secret: b"\0" * 32)


def no_handler_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "handlers", lambda router, event: [])


def each_handler_is_called_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    once = Router.handlers
    monkeypatch.setattr(Router, "handlers", lambda router, event: 2 * once(router, event))


def handlers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def give_up(self: WebhooksClient) -> None:
        while not (await self.stats()).stored:
            await anyio.sleep(0.002)
        message = "the drain is blocked"
        raise RuntimeError(message)

    monkeypatch.setattr(WebhooksClient, "run", give_up)


def a_handler_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    well = HandlerRunner.run

    async def run(self: HandlerRunner, handler: Subscription, event: Event) -> None:
        await well(self, handler, event)
        if event.resource.resource_type == "story":
            raise HandlerError("handle") from ValueError("too late")

    monkeypatch.setattr(HandlerRunner, "run", run)


def repeats_are_not_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know neither deliveries by their signature nor events by their key."""
    put = SqliteStore.put

    async def put_anyway(self: SqliteStore, delivery: Delivery, **options: Any) -> bool:
        fresh = msgspec.structs.replace(delivery, digest=secrets.token_bytes(32))
        return await put(self, fresh, **options)

    monkeypatch.setattr(SqliteStore, "put", put_anyway)
    monkeypatch.setattr(Scope, "take", lambda scope, packed, claim: Sight.NEW)


def a_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebhooksClient, "ensure", WebhooksClient.establish)


def secrets_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: SqliteStore, route: str, secret: str) -> bool:
        return True

    monkeypatch.setattr(SqliteStore, "add_candidate", forget)


def asana_has(fault: Fault) -> Sabotage:
    def sabotage(monkeypatch: pytest.MonkeyPatch) -> None:
        def start() -> AsanaSimulator:
            asana = AsanaSimulator()
            asana.faults.add(fault)
            return asana

        monkeypatch.setattr(environment_module, "AsanaSimulator", start)

    return sabotage


def no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: WebhooksClient) -> None:
        raise OSError

    monkeypatch.setattr(WebhooksClient, "__aenter__", refuse)


@pytest.mark.parametrize(
    ("sabotage", "step", "found"),
    [
        (asana_has(Fault.UNAVAILABLE), 1, "it answered 503"),
        (no_port_is_free, 1, "no port is free"),
        (asana_has(Fault.NO_HANDSHAKE), 2, "no handshake was completed"),
        (asana_has(Fault.SLOW_HANDSHAKE), 2, "it is not so"),
        (asana_has(Fault.STRANGER_FIRST), 2, "2 secrets were there"),
        (asana_has(Fault.WRONG_SECRET), 2, "Asana's secret is none of those"),
        (secrets_are_not_kept, 2, "0 secrets were there"),
        (no_signature_fits, 2, "the last answer was 401"),
        (no_handler_is_called, 3, "of 4 events 0 were handled, in 0 calls"),
        (each_handler_is_called_twice, 3, "of 4 events"),
        (handlers_end, 3, "RuntimeError: the drain is blocked"),
        (every_signature_fits, 4, "it was answered 200"),
        (repeats_are_not_recognised, 5, "of 5 events"),
        (a_handler_fails_in_the_end, 6, "1 deliveries wait, 0 were given up"),
        (a_restart_forgets, 6, "and Asana has 1"),
    ],
)
def test_a_sabotaged_demo_exits_with_1_and_names_the_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sabotage: Sabotage, step: int, found: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scenario, "PATIENCE", 2.0)
    monkeypatch.setattr(environment_module, "PATIENCE", 2.0)
    sabotage(monkeypatch)
    result = invoke("demo")
    *lines, error = result.output.splitlines()
    title = STEPS[step - 1].partition(" ")[2]
    assert result.exit_code == 1
    assert error.startswith(f"Error: step {step} ({title}) failed; ")
    assert found in error
    assert STEPS[step - 1] in lines
    assert "All" not in result.output
    assert not SECRET_OR_ROUTE.search(result.output)
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "LIMIT", 2.0)
    asana_has(Fault.SLOW_HANDSHAKE)(monkeypatch)
    result = invoke("demo")
    assert result.exit_code == 1
    assert "step 2" in result.output
    assert "the story did not end within 2 s" in result.output


async def test_what_fails_beside_the_story_is_the_reason_that_is_given() -> None:
    async def fail() -> None:
        raise StoreError("broken")

    async def play() -> None:
        async with background_task(fail(), "failure") as task:
            await asyncio.wait([task])
            raise AssertionError

    with pytest.raises(StoreError, match="broken"):
        await play()


async def test_demo_with_an_inspector_stays_until_it_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    showing = asyncio.create_task(scenario.run_with_inspector(Reporter(sys.stdout), 0))
    out = ""

    def stays() -> bool:
        nonlocal out
        out += capsys.readouterr().out
        return showing.done() or "stay until Ctrl-C" in out

    await until(stays)
    url = out.split("inspector: ")[1].split(maxsplit=1)[0]
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}stream") as stream:
            text = (await stream.content.readuntil(b"\n\n")).decode()
        records = json.loads(text.partition("data: ")[2])["records"]
        verdicts = [each["verdict"] for each in records]
        assert verdicts.count("refused") == 2
        assert "duplicate" in verdicts
        [first, *_] = [each for each in records if each["verdict"] == "accepted"]
        assert first["attempts"]
        headers = {"Origin": url.rstrip("/")}
        again = await http.post(f"{url}records/{first['id']}/Post again", headers=headers)
        assert (await again.json())["said"] == "Posted; the receiver answered 200."
    signal.raise_signal(signal.SIGINT)
    with guard():
        await showing
    assert "All 19 checks passed" in out
