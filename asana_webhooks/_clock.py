"""The time by which a client's timers go: real time, and all that a test drove it ahead.

A timer that a person would wait for, because it counts minutes or hours, sleeps here. Timeouts of
calls, and pauses of a second, go by the event loop: what they wait for is real in a test too.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

__all__ = ["Clock"]


class _Sleeper(NamedTuple):
    """A task that sleeps until a moment of the clock, unless its event is set before."""

    due: float
    unless: asyncio.Event
    timeout: asyncio.Timeout

    def is_asleep(self) -> bool:
        """Return whether nothing has woken it; it may not have had its turn yet."""
        return not (self.unless.is_set() or self.timeout.expired())

    def wake_in(self, seconds: float) -> None:
        """Wake it after so many seconds of real time; infinity: not by itself."""
        when = asyncio.get_running_loop().time() + seconds
        if not self.timeout.expired():
            self.timeout.reschedule(when if math.isfinite(when) else None)


class Clock:
    """Tells the time and lets tasks sleep, in one event loop at a time.

    A task that has slept here once is waited for in ``advance`` whenever it is awake, until it
    ends; so are those that it has the clock ``follow``.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._held: float | None = None
        self._sleepers: dict[asyncio.Task[Any], _Sleeper] = {}
        self._followed: set[asyncio.Task[Any]] = set()
        self._changed: asyncio.Event | None = None  # while it is driven

    def monotonic(self) -> float:
        """Return a number of seconds that only grows."""
        return time.monotonic() + self._ahead if self._held is None else self._held

    def driven(self) -> float:
        """Return by how many seconds it is ahead of real time."""
        return self._ahead if self._held is None else self._held - time.monotonic()

    def now(self) -> datetime:
        """Return the time by this machine's wall clock, in UTC."""
        if self._held is None and not self._ahead:  # as it is for each delivery of a program
            return datetime.now(UTC)
        return datetime.now(UTC) + timedelta(seconds=self.driven())

    async def sleep(self, seconds: float, *, unless: asyncio.Event | None = None) -> None:
        """Return after so many seconds, infinity for never, or as soon as the event is set."""
        task, due = asyncio.current_task(), self.monotonic() + seconds
        assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
        self.follow(task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                sleeper = _Sleeper(due, unless or asyncio.Event(), timeout)
                if self._held is None:
                    sleeper.wake_in(seconds)
                self._sleepers[task] = sleeper
                self._tell()
                try:
                    await sleeper.unless.wait()
                finally:
                    self._sleepers.pop(task, None)

    def follow(self, task: asyncio.Task[Any]) -> None:
        """Stand still for this task in ``advance`` whenever it is awake."""
        if task not in self._followed:
            self._followed.add(task)
            task.add_done_callback(self._part_from)

    async def advance(
        self,
        seconds: float,
        *,
        beside: Callable[[float], Awaitable[object]],
        patience: float = 60.0,
    ) -> None:
        """Pass time, and have others pass the same: ``beside`` is given each step of it.

        It stops at each moment at which a task wakes, and goes on when that sleeps again or has
        ended. Raises TimeoutError when one is awake for ``patience`` seconds of real time.
        """
        if self._held is not None:
            msg = "this clock is being driven already"
            raise RuntimeError(msg)
        self._changed = asyncio.Event()
        self._hold()
        try:
            await self._drive(self.monotonic() + seconds, beside, patience)
        finally:
            self._release()
            self._changed = None

    async def _drive(
        self, end: float, beside: Callable[[float], Awaitable[object]], patience: float
    ) -> None:
        now = self.monotonic()
        while True:
            await self._calm(patience)
            moment = min([end, *(sleeper.due for sleeper in self._sleepers.values())])
            if moment > now:
                await beside(moment - now)
                self._held = now = moment
                continue  # it may have woken tasks, which sleep until another moment now
            due = [task for task, sleeper in self._sleepers.items() if sleeper.due <= now]
            if not due:
                return
            for task in due:
                self._sleepers.pop(task).wake_in(0.0)

    async def _calm(self, patience: float) -> None:
        assert self._changed is not None  # noqa: S101 - it is driven
        try:
            async with asyncio.timeout(patience):
                while self._awake():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            names = ", ".join(sorted(task.get_name() for task in self._awake()))
            msg = f"nothing ended for {patience:g} s: {names}"
            raise TimeoutError(msg) from None

    def _awake(self) -> set[asyncio.Task[Any]]:
        asleep = {task for task, sleeper in self._sleepers.items() if sleeper.is_asleep()}
        return {each for each in self._followed - asleep if each is not asyncio.current_task()}

    def _hold(self) -> None:
        self._held = self.monotonic()
        for sleeper in self._sleepers.values():
            sleeper.wake_in(math.inf)

    def _release(self) -> None:
        self._ahead, self._held = self.monotonic() - time.monotonic(), None
        for sleeper in self._sleepers.values():
            sleeper.wake_in(max(0.0, sleeper.due - self.monotonic()))

    def _part_from(self, task: asyncio.Task[Any]) -> None:
        self._followed.discard(task)
        self._tell()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
