"""Receivers and workers as processes of their own, on one store of any kind, and what they did.

``place_of(kind)`` is where a store is: a file, or a real server that can be killed and started
again with all it was given. A ``World`` is such a place with the processes on it, the webhooks
whose deliveries the test signs, and the files in which handlers write down what they handled.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec

from asana_webhooks import PostgresStore, RedisStore, SqliteStore, sign
from asana_webhooks.models import DeadLetter, Delivery, Route
from asana_webhooks.stores import Store
from support import postgres_server, valkey_server
from support.killable import Orders
from support.plain_http import NO_TLS
from support.ports import free_tcp_port
from support.postgres_server import PostgresServer
from support.valkey_server import EACH_WRITE_TO_DISK, ValkeyServer, running_valkey

PROGRAM = Path(__file__).with_name("killable.py")
KINDS = ("sqlite", "valkey", "postgres")
LEASE = 1.0
"""Seconds, of a worker that dies, so that a test need not wait for half a minute for the end."""

KEPT_LEASE = 4.0
"""Seconds, where a lease must not run out: a busy machine holds a process up for a second."""

BUSY = 5.0
"""Seconds that a busy machine may add to what was promised."""


class Place:
    """The place of a store; ``server`` is None for a file."""

    def __init__(
        self, kind: str, address: str, server: ValkeyServer | PostgresServer | None
    ) -> None:
        self.kind, self.address, self.server = kind, address, server
        self.name = postgres_server.schema_name()

    def store(self, **options: Any) -> Store:
        """Return another store on this place, not entered yet."""
        if self.kind == "sqlite":
            return SqliteStore(self.address, **options)
        if self.kind == "valkey":
            return RedisStore(self.address, prefix=self.name, **options)
        return PostgresStore(self.address, schema=self.name, **options)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Have it answer nothing: a server that does not run, a file that another one locked."""
        if isinstance(self.server, ValkeyServer):
            self.server.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                self.server.signal(signal.SIGCONT)
        elif isinstance(self.server, PostgresServer):
            with self.server.frozen():
                yield
        else:
            other = sqlite3.connect(self.address, isolation_level=None, timeout=10.0)
            with contextlib.closing(other):
                other.execute("BEGIN IMMEDIATE")
                yield


@contextlib.contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    """Yield a place of the test's own, whose server it may harm."""
    if kind == "sqlite":
        yield Place(kind, str(folder / "store.db"), None)
    elif kind == "valkey":
        with running_valkey(*EACH_WRITE_TO_DISK) as valkey:
            yield Place(kind, valkey.url, valkey)
    else:
        with postgres_server.own() as server:
            yield Place(kind, server.dsn, server)


def shared_place_of(kind: str, folder: Path) -> Place:
    """Return a place on the servers that all tests of this process share."""
    if kind == "sqlite":
        return Place(kind, str(folder / "store.db"), None)
    address = valkey_server.running().url if kind == "valkey" else postgres_server.running().dsn
    return Place(kind, address, None)


class Sent(msgspec.Struct, frozen=True):
    """One delivery as Asana posts it: the gids of its events, its bytes and their signature."""

    route: str
    gids: tuple[str, ...]
    body: bytes
    signature: str

    @property
    def gid(self) -> str:
        return self.gids[0]

    def stored(self) -> Delivery:
        """Return it as a receiver would put it into the store."""
        return Delivery(
            route=self.route,
            body=self.body,
            digest=bytes.fromhex(self.signature),
            received_at=datetime.now(UTC),
        )

    def is_of(self, letter: DeadLetter, gid: str) -> bool:
        """Return whether a dead letter is one event of this delivery."""
        (event,) = json.loads(letter.body)["events"]
        return (
            letter.route == self.route
            and event in json.loads(self.body)["events"]
            and event["user"]["gid"] == gid
        )


class Webhook:
    """A webhook with a route and a secret of its own; its deliveries are numbered.

    Its events are of so many ``tasks`` in turn; None: each of a task of its own.
    """

    def __init__(self, number: int, *, tasks: int | None = None) -> None:
        self.route = f"route-{number:026d}"
        self.secret = f"{number:064d}"
        self._first = number * 1_000_000_000
        self._numbers = itertools.count(1)
        self._tasks = tasks

    def delivery(self, *, events: int = 1, size: int = 0) -> Sent:
        """Return the next delivery; its gids are larger than all before, no other webhook's."""
        gids = tuple(str(self._first + next(self._numbers)) for _ in range(events))
        texts = ",".join(_event(gid, self.task_of(gid)) for gid in gids)
        body = f'{{"events":[{texts}],"padding":"{" " * size}"}}'
        signature = sign(body.encode(), self.secret)
        return Sent(route=self.route, gids=gids, body=body.encode(), signature=signature)

    def task_of(self, gid: str) -> str:
        """Return the gid of the task that an event is about."""
        return gid if self._tasks is None else str(self._first + int(gid) % self._tasks)

    @staticmethod
    def of(gid: str) -> int:
        """Return the number of the webhook that an event came by."""
        return int(gid) // 1_000_000_000


def _event(gid: str, task: str) -> str:
    return (
        f'{{"created_at":"2999-07-04T10:00:00.000Z","action":"changed","user":{{"gid":"{gid}"}},'
        f'"resource":{{"gid":"{task}","resource_type":"task"}}}}'
    )


class Replica:
    """One process: a receiver at ``port``, a worker, or both."""

    def __init__(self, orders: Orders, log: Path) -> None:
        self.orders = orders
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self) -> None:
        """Return when its client is open."""
        command = [sys.executable, str(PROGRAM), msgspec.json.encode(self.orders).decode()]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        if await self.read_line() != "ready":
            raise RuntimeError(self._log.read_text())

    async def read_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return (await anyio.to_thread.run_sync(self.process.stdout.readline)).decode().strip()

    def write_line(self, line: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> int:
        """End it as a power failure would, and return its exit status."""
        self.send(signal.SIGKILL)
        return self.wait()

    def terminate(self) -> None:
        """Ask it to end in order, as a service manager does."""
        self.send(signal.SIGTERM)

    @property
    def has_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def wait(self) -> int:
        """Return its exit status."""
        assert self.process is not None
        with self.process as process:  # closes its pipes
            return process.wait(20)


class World:
    """A place, the processes on it, and what they wrote down."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self._folder = folder
        self.http = httpx.AsyncClient(timeout=15.0, verify=NO_TLS)
        self.replicas: list[Replica] = []
        for name in ("handled.txt", "notes.txt", "log.txt"):
            (folder / name).touch()

    async def confirm(self, *webhooks: Webhook) -> None:
        """Have the store hold these webhooks, as after their handshakes."""
        async with self.place.store() as store:
            for webhook in webhooks:
                await confirm(store, webhook)

    def replica(self, **orders: Any) -> Replica:
        """Return a process that is not started yet; it ends with the world."""
        place = self.place
        known: dict[str, Any] = {"kind": place.kind, "address": place.address, "name": place.name}
        if orders.get("serve"):
            known["port"] = free_tcp_port()
        known["folder"] = str(self._folder)
        replica = Replica(Orders(**{**known, **orders}), self._folder / "log.txt")
        self.replicas.append(replica)
        return replica

    async def started(self, **orders: Any) -> Replica:
        replica = self.replica(**orders)
        await replica.start()
        return replica

    async def post(self, sent: Sent, to: Replica) -> httpx.Response | None:
        """Post like Asana; None when there was no answer."""
        url = f"http://127.0.0.1:{to.orders.port}/{sent.route}"
        headers = {"X-Hook-Signature": sent.signature}
        try:
            return await self.http.post(url, content=sent.body, headers=headers)
        except httpx.TransportError:
            return None

    async def is_accepted(self, sent: Sent, by: Replica) -> bool:
        answer = await self.post(sent, by)
        return answer is not None and answer.status_code == 200

    def lines(self) -> list[str]:
        """Return what was handled, in the order in which it was: gid, key and process."""
        return (self._folder / "handled.txt").read_text().splitlines()

    def gids(self) -> list[str]:
        return [line.split()[0] for line in self.lines()]

    def notes(self) -> list[str]:
        return (self._folder / "notes.txt").read_text().split()

    def log(self) -> str:
        """Return what the processes wrote to their standard error."""
        return (self._folder / "log.txt").read_text()

    async def waiting(self) -> int:
        async with self.place.store() as store:
            return await waiting_in(store)

    async def is_empty(self) -> bool:
        return await self.waiting() == 0

    async def close(self) -> None:
        """End all that still runs, asleep or not."""
        for replica in self.replicas:
            if replica.process is not None:
                replica.send(signal.SIGCONT)
                replica.kill()
        await self.http.aclose()


async def confirm(store: Store, webhook: Webhook) -> None:
    """Have the store hold this webhook, as after its handshake."""
    target = f"http://127.0.0.1/{webhook.route}"
    route = Route(id=webhook.route, target=target, resource=webhook.route)
    assert await store.reserve(route, ttl=60.0)
    assert await store.add_candidate(webhook.route, webhook.secret)
    assert await store.confirm(webhook.route, gid=webhook.route, secret=webhook.secret)


async def waiting_in(store: Store) -> int:
    """Return how many deliveries are in the inbox."""
    return (await store.counts()).waiting


@contextlib.asynccontextmanager
async def world_on(kind: str, folder: Path, *, shared: bool = False) -> AsyncIterator[World]:
    """Yield a world whose server the test may harm, unless it is shared with others."""
    with contextlib.ExitStack() as stack:
        place = (
            shared_place_of(kind, folder) if shared else stack.enter_context(place_of(kind, folder))
        )
        world = World(place, folder)
        try:
            yield world
        finally:
            await world.close()
