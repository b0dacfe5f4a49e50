"""Statements, one by one or for many rows, in transactions at one reading of the clock."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .. import DUPLICATES_KNOWN_FOR
from .._codec import MICROSECOND
from ._file import SQL, sync, transaction

__all__ = ["KNOWN_FOR", "Statements", "chunks", "placeholders", "wall_clock"]

T = TypeVar("T")

KNOWN_FOR = DUPLICATES_KNOWN_FOR // MICROSECOND

PRUNE_EVERY = 256
"""How many batches of events, or writes, are kept before old ones are forgotten."""

LONGEST_CHUNK = 128
"""Rows of one statement: it has at most 999 parameters in older versions of SQLite."""


class Statements:
    """Runs the statements of the store by their names; ``steps`` grows with each."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.steps = 0
        self._connection = connection
        self._is_synced = True
        self._clock = clock
        self._now = clock()
        self._waiting_change = 0  # of this transaction
        self._unpruned = {"forget_events": 0, "forget_writes": 0}

    @contextlib.contextmanager
    def transaction(self, *, synced: bool = True) -> Iterator[None]:
        """Commit what is done inside, or nothing; it happens at one reading of the clock.

        Unless it is ``synced`` it does not wait for the disk. The next one that does brings it
        there too; a power failure before that undoes it.
        """
        if synced != self._is_synced:
            sync(self._connection, always=synced)
            self._is_synced = synced
        with transaction(self._connection):
            changes = self._connection.total_changes
            self._now = self._clock()
            self._waiting_change = 0
            yield
            if self._waiting_change:
                self._run("count_and_set_clock", self._waiting_change, self._now)
            elif self._connection.total_changes != changes:
                self._run("set_clock", self._now)

    def _run(self, name: str, *values: Any) -> sqlite3.Cursor:
        return self._execute(SQL[name], values)

    def _execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        self.steps += 1
        return self._connection.execute(statement, values)

    def _change(self, ids: Sequence[str], name: str, route: str) -> int:
        """Change the deliveries of a route with these ids; return how many there were."""
        return sum(
            self._execute(placeholders(SQL[name], len(chunk)), (route, *chunk)).rowcount
            for chunk in chunks(ids)
        )

    def _try_again(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add deliveries that wait for another try."""
        self._insert("try_again", rows)
        self._waiting_change += len(rows)

    def _insert(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for chunk in chunks(rows):
            values = [value for row in chunk for value in row]
            self._execute(placeholders(SQL[name], len(chunk), len(chunk[0])), values)

    def _forget(self, name: str, learnt: int, now: int) -> None:
        """Forget what is too old, twice as fast as new is learnt."""
        self._unpruned[name] += learnt
        if self._unpruned[name] >= PRUNE_EVERY:
            self._run(name, 2 * self._unpruned[name], now, KNOWN_FOR)
            self._unpruned[name] = 0


def wall_clock() -> int:
    """Return the microseconds since 1970."""
    return time.time_ns() // 1000


def chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into multiples of eight and a rest, so that there are few texts to prepare and keep."""
    start = 0
    while left := len(rows) - start:
        size = min(left & -8 or left, LONGEST_CHUNK)
        yield rows[start : start + size]
        start += size


@functools.cache
def placeholders(statement: str, rows: int, columns: int = 0) -> str:
    """Fill in a question mark for each row, or for each column of each row."""
    mark = f"({', '.join('?' * columns)})" if columns else "?"
    return statement.format(", ".join([mark] * rows))
