"""Job queues that one would deploy instead of an inbox: huey, saq and procrastinate.

One job for each delivery, with its body and a handler that only counts. Each has the settings that
come nearest to what the inbox does: as many jobs side by side, huey waiting for the disk, finished
jobs removed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from _board import Tally
from _deliveries import body
from _lab import say

if TYPE_CHECKING:
    import huey
    import procrastinate
    import saq

CONCURRENCY = 10  # as many as an inbox hands to handlers side by side
AT_ONCE = 500  # jobs that are deferred together


def _text(number: int) -> str:
    return body(number).decode()


# huey on SQLite


def fill_huey(place: str, count: int) -> None:
    """Enqueue jobs."""
    queue, handle = _huey(place, None)
    for number in range(count):
        queue.enqueue(handle.s(_text(number)))


def drain_huey(place: str, tally: Tally) -> None:
    """Run a consumer, with one worker thread, until told to end."""
    queue, _ = _huey(place, tally)
    consumer = queue.create_consumer(workers=1, periodic=False)
    say()
    asyncio.run(tally.begun())
    consumer.run()


def _huey(place: str, tally: Tally | None) -> tuple[huey.SqliteHuey, Any]:
    import huey

    queue = huey.SqliteHuey(filename=place, fsync=True, results=False)

    @queue.task()  # type: ignore[misc]  # huey has no types
    def handle(text: str) -> None:
        if tally is not None:
            tally.count()

    return queue, handle


# saq on Redis or Valkey


async def fill_saq(place: str, count: int) -> None:
    """Enqueue jobs."""
    queue = _saq(place)
    await queue.connect()
    for first in range(0, count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, count))
        await asyncio.gather(*(queue.enqueue("handle", text=_text(number)) for number in some))
    await queue.disconnect()


async def drain_saq(place: str, tally: Tally) -> None:
    """Run a worker until told to end."""
    import saq

    logging.getLogger("saq").setLevel(logging.ERROR)  # it warns of the waiting that it ends

    async def handle(context: Any, *, text: str) -> None:
        tally.count()

    queue = _saq(place)
    worker: saq.Worker[Any] = saq.Worker(queue, [("handle", handle)], concurrency=CONCURRENCY)
    await queue.connect()
    say()
    await tally.begun()
    await worker.start()
    await queue.disconnect()


def _saq(place: str) -> saq.Queue:
    import saq

    return saq.Queue.from_url(place)


# procrastinate on PostgreSQL


async def fill_procrastinate(place: str, count: int) -> None:
    """Make the tables, and defer jobs."""
    app, handle = _procrastinate(place, None)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for first in range(0, count, AT_ONCE):
            some = range(first, min(first + AT_ONCE, count))
            await handle.batch_defer_async(*({"text": _text(number)} for number in some))


async def drain_procrastinate(place: str, tally: Tally) -> None:
    """Run a worker until told to end."""
    app, _ = _procrastinate(place, tally)
    async with app.open_async():
        say()
        await tally.begun()
        await app.run_worker_async(concurrency=CONCURRENCY, delete_jobs="successful")


def _procrastinate(place: str, tally: Tally | None) -> tuple[procrastinate.App, Any]:
    import procrastinate

    connections = CONCURRENCY + 2  # it listens on one, and fetches on one
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=place, max_size=connections)
    )

    @app.task(name="handle")
    async def handle(text: str) -> None:
        if tally is not None:
            tally.count()

    return app, handle
