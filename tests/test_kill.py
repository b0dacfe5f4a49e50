"""What was answered 200 is handled, wherever the process was killed."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from conftest import eventually, until

from asana_webhooks import SqliteStore, sign
from asana_webhooks.models import Route

PROGRAM = Path(__file__).with_name("killable.py")
ROUTE = "r" * 32
SECRET = "s" * 64


def body_of(gid: int) -> bytes:
    return (
        b'{"events":[{"created_at":"2999-07-04T10:00:00.000Z","action":"changed",'
        b'"resource":{"gid":"%d","resource_type":"task"}}]}' % gid
    )


class World:
    """The files of a receiver, what was sent to it and what it answered."""

    def __init__(self, folder: Path, port: int, http: httpx.AsyncClient) -> None:
        self.http = http
        self.file = folder / "store.db"
        self.handled = folder / "handled.txt"
        self.handled.touch()
        self.port = port
        self.url = f"http://127.0.0.1:{port}/{ROUTE}"

    @contextmanager
    def receiver(self, die_at: str) -> Iterator[subprocess.Popen[bytes]]:
        arguments = [str(self.file), str(self.handled), str(self.port), die_at]
        with subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            try:
                yield process
            finally:
                process.kill()

    async def send(self, gid: int) -> int | None:
        """Post like Asana; None when there was no answer."""
        body = body_of(gid)
        headers = {"X-Hook-Signature": sign(body, SECRET)}
        try:
            return (await self.http.post(self.url, content=body, headers=headers)).status_code
        except httpx.TransportError:
            return None

    def lines(self) -> list[str]:
        return self.handled.read_text().splitlines()

    def gids(self) -> list[str]:
        return [line.split()[0] for line in self.lines()]


@pytest.fixture
async def world(tmp_path: Path, free_port: int) -> AsyncIterator[World]:
    async with httpx.AsyncClient() as http:
        world = World(tmp_path, free_port, http)
        async with SqliteStore(world.file) as store:
            await store.reserve(Route(id=ROUTE, target=world.url, resource="1"), ttl=60.0)
            await store.add_candidate(ROUTE, SECRET)
            assert await store.confirm(ROUTE, gid="1", secret=SECRET)
        yield world


async def waiting_in(world: World) -> int:
    async with SqliteStore(world.file) as store:
        return (await store.counts()).waiting


async def test_killed_before_the_commit_nothing_was_acknowledged_and_the_repeat_is_stored(
    world: World,
) -> None:
    with world.receiver("commit") as process:
        assert await world.send(1) is None
        process.wait(10)
    assert await waiting_in(world) == 0
    with world.receiver("never"):
        assert await world.send(1) == 200
        await until(lambda: world.gids() == ["1"])


async def test_killed_before_the_answer_the_repeat_is_a_duplicate_and_handled_once(
    world: World,
) -> None:
    with world.receiver("answer") as process:
        assert await world.send(1) is None
        process.wait(10)
    assert await waiting_in(world) == 1
    with world.receiver("never"):
        assert await world.send(1) == 200
        assert await world.send(2) == 200
        await until(lambda: "2" in world.gids())
    assert world.gids() == ["1", "2"]


@pytest.mark.parametrize("step", ["handler", "ack"])
async def test_killed_after_the_answer_the_event_comes_again_with_the_same_key(
    world: World, step: str
) -> None:
    with world.receiver(step) as process:
        assert await world.send(1) == 200
        process.wait(10)
    assert await waiting_in(world) == 1
    end_lease_of(world.file)
    with world.receiver("never"):
        await until(lambda: len(world.lines()) == 2)
        first, second = world.lines()
        assert first == second
        await eventually(lambda: is_empty(world))


async def is_empty(world: World) -> bool:
    return await waiting_in(world) == 0


def end_lease_of(file: Path) -> None:
    """Let the dead worker's lease be over, as thirty seconds would."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE queues SET due = 0 WHERE due IS NOT NULL")


async def test_killed_under_load_all_that_was_acknowledged_is_handled(world: World) -> None:
    acknowledged: set[int] = set()

    async def post(gids: range) -> None:
        for gid in gids:
            if await world.send(gid) == 200:
                acknowledged.add(gid)

    with world.receiver("never") as process:
        async with anyio.create_task_group() as tasks:
            for first in range(0, 400, 50):
                tasks.start_soon(post, range(first, first + 50))
            await until(lambda: len(acknowledged) > 100)
            process.kill()
    assert 0 < len(acknowledged) < 400
    end_lease_of(world.file)
    with world.receiver("never"):
        await until(lambda: {str(gid) for gid in acknowledged} <= set(world.gids()))
        repeats = [gid for gid in range(400) if gid not in acknowledged]
        for gid in repeats[:20]:
            assert await world.send(gid) == 200
        await until(lambda: {str(gid) for gid in repeats[:20]} <= set(world.gids()))
