"""A limit of time for many short waits at once, with one timer for all of them.

``asyncio.timeout`` sets and cancels a timer for each wait: a twelfth of what a request costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

__all__ = ["Deadline"]

T = TypeVar("T")


class Deadline:
    """Ends waits that take longer than ``seconds``, at most an eighth later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.AbstractEventLoop | None = None

    async def wait_for(self, awaitable: Awaitable[T], *, spent: float = 0.0) -> T:
        """Return what the awaitable returns. Raises TimeoutError when that takes too long.

        ``spent`` seconds are gone already. A task waits for one thing at a time, on one loop at a
        time; the next loop may follow when one is closed.
        """
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
        self._started[task] = loop.time() - spent
        if self._watching is not loop:
            self._watch(loop)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if task in self._late and task.cancelling() == 1:
                raise TimeoutError from None
            raise
        finally:
            del self._started[task]
            if task in self._late:
                self._late.remove(task)
                task.uncancel()  # whatever became of it: an error, or a value after all

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watching = loop if self._started else None
        if self._watching is None:
            return
        latest = loop.time() - self._seconds
        for task, started in self._started.items():
            if started <= latest and task not in self._late:
                self._late.add(task)
                task.cancel()
        loop.call_later(self._seconds / 8, self._watch, loop)
