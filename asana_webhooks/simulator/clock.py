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
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["Clock"]


@dataclass(slots=True, eq=False)
class _Timer:
    """A task that waits for one moment; ``due`` is in seconds since 1970, of the clock."""

    due: float
    ring: Callable[[], None]
    real: asyncio.TimerHandle | None = None

    def disarm(self) -> None:
        if self.real is not None:
            self.real.cancel()


class Clock:
    """Tells the time, wakes tasks and calls back; a task sleeps in one place at a time.

    When it is ``frozen_at`` a moment, time passes only as it is driven.
    """

    def __init__(self, frozen_at: datetime | None = None) -> None:
        self._ahead = 0.0
        self._frozen = frozen_at is not None
        self._held = None if frozen_at is None else frozen_at.timestamp()
        self._timers: dict[_Timer, None] = {}  # in the order in which they were set
        self._asleep: dict[asyncio.Task[Any], asyncio.Event] = {}
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

    def call_at(self, moment: datetime, callback: Callable[[], None]) -> None:
        """Call back at this moment."""
        self._set(_Timer(moment.timestamp(), callback))

    def stop(self) -> None:
        """Call nothing back any more."""
        for timer in [*self._timers]:
            self._drop(timer)

    def follow(self, task: asyncio.Task[Any]) -> None:
        """Stand still for this task in ``advance`` whenever it is awake."""
        self._followed.add(task)
        task.add_done_callback(self._forget)

    async def advance(self, seconds: float, *, patience: float) -> None:
        """Pass time; when this returns, all that became due in it has been done.

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
        while (timer := self._next(end)) is not None:
            self._held = max(self._time(), timer.due)
            self._ring(timer)
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
        asleep = {task for task, unless in self._asleep.items() if not unless.is_set()}
        return self._followed - asleep

    def _next(self, end: float) -> _Timer | None:
        """Return what is to ring first until then; of equals, what was set first."""
        first = min(self._timers, key=lambda timer: timer.due, default=None)
        return first if first is not None and first.due <= end else None

    def _time(self) -> float:
        return time.time() + self._ahead if self._held is None else self._held

    def _hold(self, moment: float) -> None:
        self._held = moment
        for timer in self._timers:
            timer.disarm()

    def _release(self) -> None:
        if self._frozen:
            return
        self._ahead, self._held = self._time() - time.time(), None
        for timer in self._timers:
            self._arm(timer)

    def _set(self, timer: _Timer) -> None:
        self._timers[timer] = None
        if self._held is None:
            self._arm(timer)

    def _arm(self, timer: _Timer) -> None:
        loop = asyncio.get_running_loop()
        timer.real = loop.call_later(timer.due - self._time(), self._ring, timer)

    def _ring(self, timer: _Timer) -> None:
        self._drop(timer)
        timer.ring()

    def _drop(self, timer: _Timer) -> None:
        timer.disarm()
        self._timers.pop(timer, None)

    async def _sleep(self, due: float, unless: asyncio.Event) -> None:
        # The loop's timers follow another clock of the machine, and may be early by this one.
        while self._time() < due and not unless.is_set():
            await self._doze(due, unless)

    async def _doze(self, due: float, unless: asyncio.Event) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of asyncio always runs in a task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                timer = _Timer(due, lambda: self._wake(task, limit))
                self._set(timer)
                self._asleep[task] = unless
                self._news.set()
                try:
                    await unless.wait()
                finally:
                    self._asleep.pop(task, None)
                    self._drop(timer)

    def _wake(self, task: asyncio.Task[Any], limit: asyncio.Timeout) -> None:
        del self._asleep[task]
        limit.reschedule(asyncio.get_running_loop().time())

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._followed.discard(task)
        self._news.set()
