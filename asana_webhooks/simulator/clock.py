"""The time of the local Asana: real time, and all that it was driven ahead.

What this Asana does later it does by this clock: gathered events, retries, heartbeats, deletions.
``advance`` lets hours pass in milliseconds: it stops at each timer that becomes due, in order, and
goes on when the tasks that it ``follow``s are asleep again or at their end. No other time passes
meanwhile, so that equal programs see equal steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Clock"]


@dataclass(slots=True)
class _Timer:
    """What wakes one sleeping task; ``due`` is in seconds since 1970, of the clock."""

    due: float
    unless: asyncio.Event
    limit: asyncio.Timeout
    real: asyncio.TimerHandle | None = None

    def disarm(self) -> None:
        if self.real is not None:
            self.real.cancel()


class Clock:
    """Tells the time and wakes tasks; a task sleeps in one place at a time."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._held: float | None = None
        self._timers: dict[asyncio.Task[Any], _Timer] = {}
        self._followed: set[asyncio.Task[Any]] = set()
        self._news = asyncio.Event()
        self._driven = asyncio.Lock()

    def now(self) -> datetime:
        """Return the time in whole milliseconds."""
        now = datetime.fromtimestamp(self._time(), UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    async def sleep(self, seconds: float, *, unless: asyncio.Event | None = None) -> None:
        """Return after so many seconds, or as soon as the event is set."""
        await self._sleep(self._time() + seconds, unless or asyncio.Event())

    async def sleep_until(self, moment: datetime, *, unless: asyncio.Event | None = None) -> None:
        """Return at this moment, or as soon as the event is set; at once when it has passed."""
        await self._sleep(moment.timestamp(), unless or asyncio.Event())

    def follow(self, task: asyncio.Task[Any]) -> None:
        """Stand still for this task in ``advance`` whenever it is awake."""
        self._followed.add(task)
        task.add_done_callback(self._forget)

    async def advance(self, seconds: float, *, patience: float) -> None:
        """Let time pass; when this returns, all that became due in it has been done.

        Raises TimeoutError when the tasks that a timer woke are awake for longer than ``patience``
        seconds of real time; the clock then shows the time of that timer.
        """
        async with self._driven:
            self._hold(self._time())
            try:
                await self._drive(self._time() + seconds, patience)
            finally:
                self._release()

    async def _drive(self, end: float, patience: float) -> None:
        await self._calm(patience)
        while (task := self._next(end)) is not None:
            self._held = max(self._time(), self._timers[task].due)
            self._wake(task)
            await self._calm(patience)
        self._held = end

    async def _calm(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                while self._awake():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            names = ", ".join(sorted(task.get_name() for task in self._awake()))
            msg = f"at {self.now():%Y-%m-%d %H:%M:%S} nothing ended for {patience:g} s: {names}"
            raise TimeoutError(msg) from None

    def _awake(self) -> set[asyncio.Task[Any]]:
        # Whose event is set sleeps no longer, even if it has not had its turn yet.
        asleep = {task for task, timer in self._timers.items() if not timer.unless.is_set()}
        return self._followed - asleep

    def _next(self, end: float) -> asyncio.Task[Any] | None:
        """Return the task that is to be woken first until then; of equals, who slept first."""
        first = min(self._timers, key=lambda task: self._timers[task].due, default=None)
        return first if first is not None and self._timers[first].due <= end else None

    def _time(self) -> float:
        return time.time() + self._ahead if self._held is None else self._held

    def _hold(self, moment: float) -> None:
        self._held = moment
        for timer in self._timers.values():
            timer.disarm()

    def _release(self) -> None:
        self._ahead, self._held = self._time() - time.time(), None
        for task, timer in self._timers.items():
            self._arm(task, timer)

    def _arm(self, task: asyncio.Task[Any], timer: _Timer) -> None:
        loop = asyncio.get_running_loop()
        timer.real = loop.call_later(timer.due - self._time(), self._wake, task)

    async def _sleep(self, due: float, unless: asyncio.Event) -> None:
        # The loop's timers follow another clock of the machine, and may be early by this one.
        while self._time() < due and not unless.is_set():
            await self._doze(due, unless)

    async def _doze(self, due: float, unless: asyncio.Event) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                timer = self._timers[task] = _Timer(due, unless, limit)
                if self._held is None:
                    self._arm(task, timer)
                self._news.set()
                try:
                    await unless.wait()
                finally:
                    self._get_up(task)

    def _wake(self, task: asyncio.Task[Any]) -> None:
        limit = self._timers[task].limit
        self._get_up(task)
        limit.reschedule(asyncio.get_running_loop().time())

    def _get_up(self, task: asyncio.Task[Any]) -> None:
        if (timer := self._timers.pop(task, None)) is not None:
            timer.disarm()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._followed.discard(task)
        self._news.set()
