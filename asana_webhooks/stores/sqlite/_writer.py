"""The thread that owns the connection, and the calls that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

import anyio

from ...errors import StoreError
from .._encryption import SecretCipher
from ._file import MOVED, failure, identity, open_file
from ._tables import Put, Tables

__all__ = ["Writer"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOSE_TIMEOUT = 10.0
"""For how many seconds closing waits for the disk."""

PATIENCE, REST = 0.01, 0.001
"""For how many seconds calls go unanswered until the event loop rests, and for how long."""

_Job: TypeAlias = tuple[asyncio.Future[Any], Callable[..., Any] | None, Any]
"""Whom to tell, and what to do, None for a put: those of a batch are done together."""

_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any]


class Writer:
    """The thread with the connection, and the calls that wait for it."""

    def __init__(
        self, path: str, max_waiting: int, clock: Callable[[], float], cipher: SecretCipher
    ) -> None:
        self._path = path
        self._place = os.path.abspath(path)  # wherever the program goes
        self._identity: tuple[int, int] | None = None
        self._cipher = cipher
        self._max_waiting = max_waiting
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._gathered: list[_Job] = []
        self._jobs: SimpleQueue[list[_Job] | None] = SimpleQueue()
        self._asked, self._answered = 1, 0  # asked to start
        self._watched = False
        # A daemon: an event loop that died without closing the store must not hang the process.
        self._thread = threading.Thread(target=self._run, name="asana-webhooks store", daemon=True)

    async def start(self) -> None:
        """Open the file. Raises StoreError when that fails."""
        self._thread.start()
        await self._started

    async def stop(self) -> None:
        """Do what was asked for, then close. Raises StoreError when the disk does not answer."""
        self._hand_over()
        self._jobs.put(None)
        cancelled = await _outlast(self._stopped, CLOSE_TIMEOUT)
        if not self._stopped.done():
            msg = f"the store {self._path} was not closed: its disk does not answer"
            raise StoreError(msg)
        self._thread.join()
        if cancelled is not None:
            raise cancelled

    def submit(self, operation: Callable[[Tables, *Ts], T], *arguments: *Ts) -> asyncio.Future[T]:
        """Have this done; it is done even if the future is cancelled."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._enqueue(future, operation, arguments)
        return future

    def submit_put(self, *put: *Put) -> asyncio.Future[bool]:
        """Have this stored, unless the future is cancelled before: then it will be sent again."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._enqueue(future, None, put)
        return future

    def _enqueue(self, *job: *_Job) -> None:
        self._asked += 1
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(job)
        if not self._watched:
            self._watched = True
            self._loop.call_later(PATIENCE, self._give_way, self._answered)

    def _hand_over(self) -> None:
        """Wake the thread once for what came in one turn of the loop: fewer, larger commits."""
        self._jobs.put(self._gathered)
        self._gathered = []

    def _give_way(self, answered: int) -> None:
        """Rest for a moment if nothing was answered since the last look.

        A thread may wait without end for an interpreter that the loop, always busy, lets go of
        often but only for instants.
        """
        self._watched = self._asked > self._answered
        if self._watched:
            if self._answered == answered:
                time.sleep(REST)
            self._loop.call_later(PATIENCE, self._give_way, self._answered)

    def _run(self) -> None:
        try:
            with contextlib.closing(open_file(self._path, self._clock)) as connection:
                tables = Tables(connection, self._max_waiting, self._clock, self._cipher)
                tables.renew_secrets()
                self._identity = identity(self._place)
                self._tell([(self._started, None)])
                for batch in self._batches():
                    self._tell(self._commit(tables, batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whoever opens
            self._tell([(self._started, failure(self._path, error))])
        finally:
            self._tell([(self._stopped, None)])

    def _batches(self) -> Iterator[list[_Job]]:
        while True:
            parts = [self._jobs.get()]
            parts += [self._jobs.get_nowait() for _ in range(self._jobs.qsize())]
            yield [job for part in parts if part is not None for job in part]
            if None in parts:
                return

    def _commit(self, tables: Tables, batch: list[_Job]) -> list[_Outcome]:
        try:
            with tables.transaction():
                outcomes = _do(tables, batch)
            if identity(self._place) != self._identity:  # SQLite would write on, and lose it all
                raise sqlite3.OperationalError(MOVED)
            return outcomes
        except sqlite3.Error as error:
            return [(future, failure(self._path, error)) for future, *_ in batch]
        except Exception as error:  # noqa: BLE001 - one bad call must not cost the others theirs
            if len(batch) == 1:
                return [(batch[0][0], failure(self._path, error))]
            return [outcome for job in batch for outcome in self._commit(tables, [job])]

    def _tell(self, outcomes: list[_Outcome]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed before the store
            self._loop.call_soon_threadsafe(self._answer, outcomes)

    def _answer(self, outcomes: list[_Outcome]) -> None:
        self._answered += len(outcomes)
        for future, value in outcomes:
            if future.done():  # cancelled
                continue
            if isinstance(value, StoreError):
                future.set_exception(value)
            else:
                future.set_result(value)


def _do(tables: Tables, batch: list[_Job]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    puts: list[tuple[asyncio.Future[Any], Put]] = []
    for future, operation, arguments in batch:
        if operation is not None:
            outcomes.append((future, operation(tables, *arguments)))
        elif future.cancelled():
            outcomes.append((future, False))
        else:
            puts.append((future, arguments))
    if puts:
        answers = tables.put([put for _, put in puts])
        outcomes += zip((future for future, _ in puts), answers, strict=True)
    return outcomes


async def _outlast(future: asyncio.Future[None], timeout: float) -> asyncio.CancelledError | None:
    """Wait for the future whether cancelled or not; return the cancellation, to be raised."""
    cancelled: asyncio.CancelledError | None = None
    end = time.monotonic() + timeout
    with anyio.CancelScope(shield=True):
        while not future.done() and time.monotonic() < end:
            try:
                await asyncio.wait([future], timeout=end - time.monotonic())
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
