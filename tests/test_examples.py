"""Each example as its reader runs it: a process of its own, configured by its environment."""

import ast
import asyncio
import os
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from conftest import guard, until
from support.chat_servers import ChatServers
from support.ports import free_tcp_port

from asana_webhooks.simulator import AsanaSimulator, Call, Fault

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
EXAMPLES = {path.name: path for path in (ROOT / "examples").iterdir() if path.is_file()}
SUPPORT = ROOT / "tests" / "support"

LINES, MANY_LINES = 35, 60
"""How long an example may be, and one for many projects or users."""

GRACE = 3.0
"""Seconds within which an example ends that is told to."""

PAGES = {  # what else there is beside the webhooks
    "aiohttp_app.py": "/",
    "django_app.py": "/",
    "fastapi_app.py": "/",
    "flask_app.py": "/",
    "litestar_app.py": "/",
    "quart_app.py": "/",
    "starlette_app.py": "/",
}

BOTS = {  # with what they read beside what service.py reads
    "discord_bot.py": {"DISCORD_TOKEN": "MQ.d.t", "DISCORD_CHANNEL": "3"},
    "slack_bot.py": {
        "SLACK_BOT_TOKEN": "xoxb-1",
        "SLACK_APP_TOKEN": "xapp-1",
        "SLACK_CHANNEL": "C1",
    },
    "telegram_bot.py": {"TELEGRAM_TOKEN": "12:t", "TELEGRAM_CHAT": "-3"},
}

LOOK_UP = {"slack_bot.py"}
"""Bots that ask Asana for the task, and tell its name."""

PROGRAMS = {"events_loop.py", "gap_tasks.py", "sanic_app.py", "service.py", "tornado_app.py"}

MANY = {"saas.py", "whole_workspace.py"}  # of which each has a test of its own

CASES = [
    # importing aiogram alone takes three seconds of processor time
    pytest.param(name, marks=[pytest.mark.slow] if name == "telegram_bot.py" else [])
    for name in sorted(EXAMPLES.keys() - MANY)
]

SERVERS = {
    "gunicorn": "--bind=127.0.0.1:{port}",
    "hypercorn": "--bind=127.0.0.1:{port}",
    "uvicorn": "--port={port}",
}
"""The servers that examples name, and the option that says where they listen."""


class Child:
    """A running example, and what it has printed so far."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.lines: list[str] = []

    @property
    def output(self) -> str:
        return "".join(self.lines)

    async def read(self) -> None:
        """Read what it prints, until it ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.lines.append(line.decode())

    def has_ended(self) -> bool:
        return self.process.returncode is not None

    def prints(self, *words: str) -> bool:
        """Return whether one line holds all these words; fails when the example has ended."""
        if any(all(word in line for word in words) for line in self.lines):
            return True
        assert not self.has_ended(), f"never printed {words}, but:\n{self.output}"
        return False

    async def end(self, number: signal.Signals) -> int:
        """Send it a signal and return the exit status."""
        self.process.send_signal(number)
        with guard():
            return await self.process.wait()


def command_of(path: Path, port: int, chats: ChatServers) -> list[str | Path]:
    """Return what its docstring tells to run, else the program itself."""
    if path.name in BOTS:
        return [sys.executable, SUPPORT / "redirected.py", chats.url, path]
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    if told := re.search(rf"({'|'.join(SERVERS)}) (.*?)\.?$", docstring, re.MULTILINE):
        server, arguments = told.groups()
        option = SERVERS[server].format(port=port)
        return [sys.executable, "-m", server, option, *arguments.split()]
    return [sys.executable, path]


@asynccontextmanager
async def running(
    path: Path,
    asana: AsanaSimulator,
    chats: ChatServers,
    directory: Path,
    *,
    port: int | None = None,
) -> AsyncIterator[Child]:
    port = port or free_tcp_port()
    environment = {
        "ASANA_ACCESS_TOKEN": "a-token",
        "ASANA_PROJECT": asana.project,
        "ASANA_WORKSPACE": asana.workspace,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
        "ASANA_BASE_URL": asana.base_url,
        "DJANGO_SETTINGS_MODULE": "django_settings",
        "PYTHONPATH": os.pathsep.join((str(path.parent), str(SUPPORT))),
        "PYTHONUNBUFFERED": "1",
        **BOTS.get(path.name, {}),
    }
    process = await asyncio.create_subprocess_exec(
        *command_of(path, port, chats),
        stdout=PIPE,
        stderr=STDOUT,
        cwd=directory,
        env=os.environ | environment,
        start_new_session=True,
    )
    child = Child(process, port)
    reading = asyncio.create_task(child.read())
    try:
        yield child
    except BaseException as error:
        error.add_note(child.output)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await reading
        await process.wait()


@pytest.fixture
async def chats() -> AsyncIterator[ChatServers]:
    async with ChatServers() as chats:
        yield chats


def test_every_example_is_known_here() -> None:
    assert set(EXAMPLES) == {*PAGES, *BOTS, *PROGRAMS, *MANY}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_example_is_short(name: str) -> None:
    longest = MANY_LINES if name in MANY else LINES
    assert len(EXAMPLES[name].read_text().splitlines()) <= longest


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="sigterm"),
        pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.slow),
    ],
)
async def test_example_handles_what_happens_and_ends_when_told(
    name: str,
    number: signal.Signals,
    asana: AsanaSimulator,
    chats: ChatServers,
    tmp_path: Path,
) -> None:
    async with running(EXAMPLES[name], asana, chats, tmp_path) as child:
        await until(lambda: bool(asana.webhooks) or child.has_ended())
        task = await asana.create_task("Read the examples", project=asana.project)
        await asana.complete_task(task)
        if name in BOTS:
            looked_up = "Read the examples was completed"
            told = looked_up if name in LOOK_UP else f"Task {task} was completed or reopened"
            await until(lambda: told in chats.messages or child.has_ended())
            assert chats.messages == [told], child.output
        else:
            await until(lambda: child.prints(task, "completed"))
        if name in PAGES:
            assert await status_of(f"http://127.0.0.1:{child.port}{PAGES[name]}") == 200
        await asana.settled()
        told_at = time.monotonic()
        status = await child.end(number)
        seconds = time.monotonic() - told_at

    assert seconds < GRACE
    assert status in {0, -number}  # a server may end with the signal, when all is done
    assert "Traceback" not in child.output
    assert "Unclosed" not in child.output
    assert {attempt.status for attempt in asana.deliveries} == {200}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aiohttp_app.py", "fastapi_app.py"])
async def test_application_serves_while_its_webhook_is_tried_again(
    name: str, chats: ChatServers, tmp_path: Path
) -> None:
    refused: list[Call] = []

    def note(seen: object) -> None:
        if isinstance(seen, Call) and seen.method == "POST" and seen.status == 400:
            refused.append(seen)

    async with (
        AsanaSimulator(retry_delay=0.01, gather_for=0, watch=note) as asana,
        running(EXAMPLES[name], asana, chats, tmp_path) as child,
    ):
        asana.faults.add(Fault.NO_HANDSHAKE)
        await until(lambda: len(refused) > 1 or child.has_ended())
        assert await status_of(f"http://127.0.0.1:{child.port}{PAGES[name]}") == 200
        assert not asana.webhooks
        asana.faults.clear()
        await until(lambda: bool(asana.webhooks) or child.has_ended())
        task = await asana.create_task("Try again", project=asana.project)
        await asana.complete_task(task)
        await until(lambda: child.prints(task, "completed"))


async def test_service_has_users_come_and_go(
    asana: AsanaSimulator, chats: ChatServers, tmp_path: Path
) -> None:
    names = ("ann", "ben", "eve")
    projects = {}
    for name in names:
        gid = await asana.add_user(name, token=f"token-of-{name}")
        projects[name] = await asana.create_project(name, user=gid, members=[])

    async def complete_one(name: str) -> None:
        task = await asana.create_task("Invoice", project=projects[name])
        await asana.complete_task(task)

    def watched() -> list[str]:
        return sorted(webhook.resource for webhook in asana.webhooks.values())

    async with running(EXAMPLES["saas.py"], asana, chats, tmp_path) as child:
        await until(lambda: answers(child))
        for name in names:
            user = {"token": f"token-of-{name}", "project": projects[name]}
            assert await call(child, "PUT", f"/users/{name}", user) == 200
        await until(lambda: watched() == sorted(projects.values()) or child.has_ended())
        for name in names:
            await complete_one(name)
            await until(lambda: child.prints(f"{name}: 'Invoice"))  # noqa: B023 - it is done now
        assert await call(child, "DELETE", "/users/ben") == 200
        await until(lambda: watched() == sorted([projects["ann"], projects["eve"]]))
        assert await child.end(signal.SIGTERM) == 0

    async with running(EXAMPLES["saas.py"], asana, chats, tmp_path, port=child.port) as child:
        await until(lambda: answers(child))
        await complete_one("eve")
        await until(lambda: child.prints("eve: 'Invoice"))
        assert await child.end(signal.SIGTERM) == 0
        assert "Traceback" not in child.output
    owners = {project: f"token-of-{name}" for name, project in projects.items()}
    for made in asana.calls("GET"):
        for project in owners.keys() & set(made.path.split("/")):
            assert made.token == owners[project]


async def test_whole_workspace_is_watched(
    asana: AsanaSimulator, chats: ChatServers, tmp_path: Path
) -> None:
    path = EXAMPLES["whole_workspace.py"]
    async with running(path, asana, chats, tmp_path) as child:
        await until(lambda: child.prints("all projects have their webhook (1)"))
        project = await asana.create_project("Made later")
        await until(lambda: child.prints(f"project {project} was made"))
        watching = asana.webhooks.values()
        await until(lambda: any(webhook.resource == project for webhook in watching))
        task = await asana.create_task("Read the examples", project=project)
        await asana.complete_task(task)
        await until(lambda: child.prints(f"task {task} of {project} was completed"))
        assert await child.end(signal.SIGTERM) in {0, -signal.SIGTERM}
        assert "Traceback" not in child.output


def answers(child: Child) -> bool:
    """Return whether the port of an example is listened on; fails when it has ended."""
    assert not child.has_ended(), child.output
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", child.port)) == 0


async def call(child: Child, method: str, path: str, data: object = None) -> int:
    """Return the status of an example's answer."""
    url = f"http://127.0.0.1:{child.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, json=data) as response,
    ):
        return response.status


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status
