"""The thread that owns the connection, and the calls that wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import anyio

from ...errors import StoreError
from .._encryption import SecretCipher
from ._file import FileGuard, failure, open_file
from ._tables import Put, Tables

__all__ = ["Writer"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

CLOSE_TIMEOUT = 10.0
"""For how many seconds closing waits for the disk."""

PATIENCE, REST = 0.01, 0.001
"""For how many seconds the thread makes no step until the event loop rests, and for how long."""

MOST_PATIENCE = 0.16
"""Patience doubles up to this while a rest helps nobody: the thread waits for the disk then."""

IDLE = 1.0
"""After how many seconds without a call the thread tidies up."""

STEP_PAUSE = 0.02
"""Seconds between two steps of that, in which calls are done."""

FORGET_EVERY = 60.0
"""For how many seconds what has come to its end may still be in the file."""

ENDS_WITH_THE_MACHINE = frozenset(
    {
        *(Tables.own, Tables.disown, Tables.hold, Tables.reserve, Tables.get_route),
        *(Tables.claim, Tables.give_back, Tables.claim_more, Tables.give_more_back, Tables.renew),
    }
)
"""What needs not be on the disk: when the machine begins anew, all leases are at their end."""

_Job: TypeAlias = tuple[asyncio.Future[Any], Callable[[Tables], Any] | None, Any, bool]
"""Whom to tell; what to do, or a put: those of a batch are done together; whether to sync it."""

_Outcome: TypeAlias = tuple[asyncio.Future[Any], Any]


class Writer:
    """The thread with the connection, and the calls that wait for it."""

    def __init__(
        self, path: str, max_waiting: int, clock: Callable[[], float], cipher: SecretCipher
    ) -> None:
        self._path = path
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
        self._observed: list[Tables | FileGuard] = []
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

    def submit(
        self,
        operation: Callable[Concatenate[Tables, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> asyncio.Future[T]:
        """Have this done; it is done even if the future is cancelled."""
        future: asyncio.Future[T] = self._loop.create_future()
        synced = operation not in ENDS_WITH_THE_MACHINE
        self._enqueue(future, lambda tables: operation(tables, *args, **kwargs), None, synced)
        return future

    def submit_put(self, *put: *Put) -> asyncio.Future[bool]:
        """Have this stored, unless the future is cancelled before: then it will be sent again."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._enqueue(future, None, put, True)  # noqa: FBT003 - a field of a job
        return future

    def _enqueue(self, *job: *_Job) -> None:
        self._asked += 1
        if not self._gathered:
            self._loop.call_soon(self._hand_over)
        self._gathered.append(job)
        if not self._watched:
            self._watched = True
            self._look_later(PATIENCE)

    def _hand_over(self) -> None:
        """Wake the thread once for what came in one turn of the loop: fewer, larger commits."""
        self._jobs.put(self._gathered)
        self._gathered = []

    def _look_later(self, patience: float) -> None:
        self._loop.call_later(patience, self._give_way, patience, self._steps())

    def _steps(self) -> int:
        return sum(part.steps for part in self._observed)

    def _give_way(self, patience: float, steps: int) -> None:
        """Rest for a moment if the thread made no step since the last look.

        A thread may wait without end for an interpreter that the loop, always busy, lets go of
        often but only for instants. When it makes no step even then, it waits for the disk.
        """
        self._watched = self._asked > self._answered
        if not self._watched:
            return
        if self._steps() == steps:
            time.sleep(REST)
            patience = min(2 * patience, MOST_PATIENCE) if self._steps() == steps else PATIENCE
        else:
            patience = PATIENCE
        self._look_later(patience)

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as opened:
                connection = open_file(self._path, self._clock)
                opened.callback(connection.close)
                guard = opened.enter_context(contextlib.closing(FileGuard(self._path)))
                opened.callback(connection.close)  # before the guard, as it demands
                tables = Tables(connection, self._max_waiting, self._clock, self._cipher)
                tables.mend()
                tables.reencrypt_secrets()
                self._observed = [tables, guard]
                self._tell([(self._started, None)])
                for batch in self._batches(tables, guard):
                    self._tell(self._commit(tables, guard, batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told to whoever opens
            self._tell([(self._started, failure(self._path, error))])
        finally:
            self._tell([(self._stopped, None)])

    def _batches(self, tables: Tables, guard: FileGuard) -> Iterator[list[_Job]]:
        forgot_at = time.monotonic()
        pause = IDLE
        while True:
            try:
                parts = [self._jobs.get(timeout=pause)]
            except Empty:
                pause = FORGET_EVERY
                with contextlib.suppress(sqlite3.Error):  # the next call meets it too, and tells
                    if tables.give_back_pages():
                        guard.shrunk()
                        pause = STEP_PAUSE
                    if time.monotonic() >= forgot_at + FORGET_EVERY:
                        forgot_at = time.monotonic()
                        tables.forget()
                continue
            parts += [self._jobs.get_nowait() for _ in range(self._jobs.qsize())]
            yield [job for part in parts if part is not None for job in part]
            if None in parts:
                return
            pause = IDLE

    def _commit(self, tables: Tables, guard: FileGuard, batch: list[_Job]) -> list[_Outcome]:
        try:
            with tables.transaction(synced=any(synced for *_, synced in batch)):
                problem = guard.problem()  # a log that was cut is filled up by the next commit
                outcomes = [] if problem else _do(tables, batch)
        except sqlite3.Error as error:
            return [(future, failure(self._path, error)) for future, *_ in batch]
        except Exception as error:  # noqa: BLE001 - one bad call must not cost the others theirs
            if len(batch) == 1:
                return [(batch[0][0], failure(self._path, error))]
            return [outcome for job in batch for outcome in self._commit(tables, guard, [job])]
        if problem := problem or guard.problem():
            msg = f"the store {self._path} failed: {problem}"
            return [(future, StoreError(msg)) for future, *_ in batch]
        return outcomes

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
    for future, call, put, _ in batch:
        if call is not None:
            outcomes.append((future, call(tables)))
        elif future.cancelled():
            outcomes.append((future, False))
        else:
            puts.append((future, put))
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
