"""A limit of time for many short waits at once, with one timer for all of them.

``asyncio.timeout`` sets and cancels a timer for each wait: a twelfth of what a request costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

__all__ = ["Deadline"]

T = TypeVar("T")


class Deadline:
    """Ends waits that take longer than ``seconds``, at most an eighth later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waits: dict[object, tuple[float, Callable[[], None]]] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.AbstractEventLoop | None = None

    def begin(self, wait: object, late: Callable[[], None], *, spent: float = 0.0) -> None:
        """Begin a wait; ``late`` is called, once, when it has not ended in time.

        ``spent`` seconds are gone already. A wait is whatever object stands for it. All are on one
        loop at a time; the next loop may follow when one is closed.
        """
        loop = asyncio.get_running_loop()
        self._waits[wait] = loop.time() - spent, late
        if self._watching is not loop:
            self._watch(loop)

    def end(self, wait: object) -> None:
        """End a wait, whether it was late or not."""
        self._waits.pop(wait, None)

    async def wait_for(self, awaitable: Awaitable[T], *, spent: float = 0.0) -> T:
        """Return what the awaitable returns. Raises TimeoutError when that takes too long.

        A task waits for one thing at a time.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
        self.begin(task, partial(self._cancel, task), spent=spent)
        try:
            return await awaitable
        except asyncio.CancelledError:
            if task in self._late and task.cancelling() == 1:
                raise TimeoutError from None
            raise
        finally:
            self.end(task)
            if task in self._late:
                self._late.remove(task)
                task.uncancel()  # whatever became of it: an error, or a value after all

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        self._late.add(task)
        task.cancel()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watching = loop if self._waits else None
        if self._watching is None:
            return
        loop.call_later(self._seconds / 8, self._watch, loop)
        latest = loop.time() - self._seconds
        for wait, (began, late) in list(self._waits.items()):
            if began <= latest:
                self.end(wait)
                late()
