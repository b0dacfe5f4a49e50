"""A receiver or a worker that may be killed: run as a process of its own, by ``replicas.py``.

Its argument is ``Orders`` as JSON. It prints ``ready`` when its client is open, appends what its
handlers handled to ``handled.txt`` and what its store refused to ``notes.txt``, both in the
folder. SIGTERM ends it in order, as the README says.
"""

import asyncio
import contextlib
import functools
import os
import random
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import msgspec

from asana_webhooks import (
    Event,
    PostgresStore,
    RedisStore,
    SqliteStore,
    StoreError,
    WebhooksClient,
    _components,
)
from asana_webhooks._inbox import Inbox
from asana_webhooks.models import Claim, Delivery, Settlement
from asana_webhooks.stores import Store
from asana_webhooks.stores.sqlite._tables import Tables

T = TypeVar("T")

FAILING = 0.3
"""How often a flaky handler fails; ten times in a row will not be seen."""


class Orders(msgspec.Struct, kw_only=True):
    """Orders to the process: what to do, on which store.

    ``die_at`` is the step at which it kills itself: ``commit`` (verified, not stored), ``group``
    (in a transaction of SQLite with many), ``answer`` (stored, not answered), ``handler`` (in it),
    ``ack`` (handled, not acknowledged to the store) or ``never``. ``pause`` is how many seconds a
    handler takes, ``flaky`` names the webhooks whose handler fails every third time or so,
    ``deadly`` the events whose handler ends the process at once: by ``exit``, or by a signal,
    ``kill``. ``file_size`` is how large its files may become, in bytes.
    """

    kind: str
    address: str
    name: str
    folder: str
    port: int = 0
    public_url: str = ""
    base_url: str = "http://127.0.0.1:9/api/1.0"
    resource: str = ""
    serve: bool = False
    work: bool = False
    die_at: str = "never"
    lease: float = 30.0
    pause: float = 0.0
    deadly: dict[str, Literal["exit", "kill"]] = {}
    flaky: tuple[int, ...] = ()
    concurrency: int = 10
    order: Literal["resource", "webhook"] = "resource"
    max_attempts: int = 10
    max_waiting: int = 100_000
    file_size: int | None = None


class Flaky(Exception):  # noqa: N818 - the name of what a handler is
    """A handler failed, as some do now and then."""


def gid_of(event: Event) -> str:
    """Return the number that ``replicas.py`` gave an event: its user's gid."""
    assert event.user is not None
    return event.user.gid


class Journal:
    """The files in which the process writes down what must outlive it, and its end."""

    def __init__(self, folder: Path, die_at: str) -> None:
        self._handled = _append_to(folder / "handled.txt")
        self._notes = _append_to(folder / "notes.txt")
        self._die_at = die_at

    def die_at(self, step: str) -> None:
        if step == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def handled(self, event: Event) -> None:
        """Write the line at once and whole, also beside other processes, and down to the disk."""
        line = f"{gid_of(event)} {event.key} {os.getpid()}\n"
        os.write(self._handled, line.encode())
        os.fsync(self._handled)

    def note(self, word: str) -> None:
        os.write(self._notes, f"{word}\n".encode())


def _append_to(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Watched:
    """Comes before a store's class: ends the process at its step, and notes what is refused."""

    journal: Journal

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        self.journal.die_at("commit")
        stored: bool = await super().put(  # type: ignore[misc] # the store comes after it
            delivery, candidate=candidate, reason=reason
        )
        self.journal.die_at("answer")
        if not stored:
            self.journal.note("duplicate")
        return stored

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        renewed: bool = await super().renew(claim, lease=lease)  # type: ignore[misc] # likewise
        return self._noted(renewed, is_fenced=not renewed)

    async def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
        self.journal.die_at("ack")
        letters: tuple[str, ...] | None
        letters = await super().settle(claim, settlement)  # type: ignore[misc] # likewise
        return self._noted(letters, is_fenced=letters is None)

    async def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        self.journal.die_at("ack")
        letters: tuple[str, ...] | None
        letters = await super().end_claim(claim, settlement)  # type: ignore[misc] # likewise
        return self._noted(letters, is_fenced=letters is None)

    def _noted(self, answer: T, *, is_fenced: bool) -> T:
        if is_fenced:
            self.journal.note("fenced")
        return answer


class WatchedSqlite(Watched, SqliteStore):  # type: ignore[misc] # its methods are made, not written
    pass


class WatchedRedis(Watched, RedisStore):
    pass


class WatchedPostgres(Watched, PostgresStore):
    pass


def store_of(orders: Orders, journal: Journal) -> Store:
    limit = orders.max_waiting
    store: WatchedSqlite | WatchedRedis | WatchedPostgres
    if orders.kind == "sqlite":
        store = WatchedSqlite(orders.address, max_waiting=limit)
    elif orders.kind == "valkey":
        store = WatchedRedis(orders.address, prefix=orders.name, max_waiting=limit)
    else:
        store = WatchedPostgres(orders.address, schema=orders.name, max_waiting=limit)
    store.journal = journal
    return store


def die_in_a_group(journal: Journal) -> None:
    """Have the process end when a transaction of SQLite has stored many, before its commit."""
    put = Tables.put

    def put_and_die(self: Tables, puts: list[Any]) -> list[bool | StoreError]:
        answers = put(self, puts)
        if len(puts) > 1:
            journal.die_at("group")
        return answers

    Tables.put = put_and_die  # type: ignore[method-assign] # it dies in the middle


def client_of(orders: Orders, journal: Journal) -> WebhooksClient:
    hurried = functools.partial(Inbox, lease=orders.lease, poll=0.1)
    vars(_components)["Inbox"] = hurried
    client = WebhooksClient(
        "a-token",
        public_url=orders.public_url or "http://127.0.0.1",
        **({"port": orders.port} if orders.serve else {"serve": False}),
        store=store_of(orders, journal),
        base_url=orders.base_url,
        concurrency=orders.concurrency,
        order=orders.order,
        max_attempts=orders.max_attempts,
        first_delay=0.02,
        longest_delay=1.0,
    )

    @client.on()
    async def handle(event: Event) -> None:
        how = orders.deadly.get(gid_of(event))
        if how is not None:
            journal.note("dies")
        if how == "exit":
            os._exit(7)
        elif how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if orders.pause:
            journal.note("begun")
            await anyio.sleep(orders.pause)
        if int(gid_of(event)) // 1_000_000_000 in orders.flaky and random.random() < FAILING:  # noqa: S311 - chance, no secret
            raise Flaky
        journal.handled(event)
        journal.die_at("handler")

    return client


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def run(orders: Orders) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    journal = Journal(Path(orders.folder), orders.die_at)
    die_in_a_group(journal)
    async with client_of(orders, journal) as client:
        if orders.file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (orders.file_size, orders.file_size))
        tell("ready")
        if orders.resource:
            await asyncio.to_thread(sys.stdin.readline)  # all begin at once
            tell((await client.ensure(orders.resource)).gid)
        elif orders.work:
            await client.run()
        else:
            await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        asyncio.run(run(msgspec.json.decode(sys.argv[1], type=Orders)))
