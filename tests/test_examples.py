"""Each example as its reader runs it: a process of its own, configured by its environment."""

import ast
import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from conftest import guard, until
from support.ports import free_tcp_port

from asana_webhooks.simulator import AsanaSimulator, Fault

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"

SHOWS = {
    "bot.py": "Inside a bot",
    "events_loop.py": "client.events()",
    "mounted_aiohttp.py": "Mounted in an existing aiohttp application",
    "mounted_fastapi.py": "Mounted in FastAPI",
    "service.py": "A minimal service",
}

LONG_LIVED = {  # a part of something larger; the path stands for the rest of it
    "bot.py": None,
    "mounted_aiohttp.py": "/",
    "mounted_fastapi.py": "/openapi.json",
}


class Child:
    """A running example, and what it has printed so far."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.lines: list[str] = []

    @property
    def output(self) -> str:
        return "".join(self.lines)

    async def prints(self, *words: str) -> None:
        """Return when a line holds all these words; fail when the output ends before."""
        with guard():
            while line := await self._read():
                if all(word in line for word in words):
                    return
        pytest.fail(f"never printed {words}, but:\n{self.output}")

    async def interrupt(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        with guard():
            while await self._read():
                pass
            return await self.process.wait()

    async def _read(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        self.lines.append(line)
        return line


@asynccontextmanager
async def running(name: str, asana: AsanaSimulator, directory: Path) -> AsyncIterator[Child]:
    port = free_tcp_port()
    environment = {
        "ASANA_ACCESS_TOKEN": "a-token",
        "ASANA_PROJECT": asana.project,
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "PORT": str(port),
        "ASANA_BASE_URL": asana.base_url,
        "PYTHONUNBUFFERED": "1",
    }
    directory = directory / name.removesuffix(".py")
    directory.mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / name,
        stdout=PIPE,
        stderr=STDOUT,
        cwd=directory,
        env=os.environ | environment,
    )
    try:
        yield Child(process, port)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture(autouse=True)
def children_heed_ctrl_c() -> Iterator[None]:
    """A shell that runs pytest in the background has it, and so its children, ignore SIGINT."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_every_example_is_known_here() -> None:
    assert sorted(path.name for path in EXAMPLES.iterdir() if path.is_file()) == sorted(SHOWS)


@pytest.mark.parametrize("name", SHOWS)
def test_example_is_short_and_says_what_it_shows(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert len(text.splitlines()) < 50
    assert docstring is not None
    assert SHOWS[name] in docstring.splitlines()[0]


@pytest.mark.parametrize("name", SHOWS)
async def test_example_prints_what_happens_and_ends_on_ctrl_c(
    name: str, asana: AsanaSimulator, tmp_path: Path
) -> None:
    async with running(name, asana, tmp_path) as child:
        await until(lambda: bool(asana.webhooks) or child.process.returncode is not None)
        task = await asana.create_task("Read the examples", project=asana.project)
        await asana.complete_task(task)
        await child.prints(task, "completed")
        await asana.settled()
        status = await child.interrupt()

    assert status == 0
    assert "Traceback" not in child.output
    assert {attempt.status for attempt in asana.deliveries} == {200}


async def test_part_of_a_larger_program_tries_again_after_a_failed_handshake(
    asana: AsanaSimulator, tmp_path: Path
) -> None:
    asana.faults.add(Fault.NO_HANDSHAKE)
    async with AsyncExitStack() as stack:
        children = {
            name: await stack.enter_async_context(running(name, asana, tmp_path))
            for name in LONG_LIVED
        }
        for name, child in children.items():
            await child.prints("next try")
            await child.prints("HandshakeMissingError")
            if (path := LONG_LIVED[name]) is not None:
                assert await status_of(f"http://127.0.0.1:{child.port}{path}") == 200
        assert not asana.webhooks
        asana.faults.discard(Fault.NO_HANDSHAKE)
        await until(lambda: len(asana.webhooks) == len(children))
        task = await asana.create_task("Try again", project=asana.project)
        await asana.complete_task(task)
        for child in children.values():
            await child.prints(task, "completed")
            assert await child.interrupt() == 0


async def status_of(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status
