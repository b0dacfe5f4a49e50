"""Running handlers: each within its time; whatever one raises is a failed attempt."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, NoReturn, overload

from .models import Event
from .router import Failure, FailureSubscription, Subscription

__all__ = ["HandlerError", "HandlerRunner"]

BLOCKED_FOR = 0.5
"""Seconds without an await after which a handler is said to block the event loop."""

TURN = 0.005
"""Seconds after which others in the event loop have their turn before the next handler."""

LONG = 60.0
"""Seconds after which a handler that still runs is named."""

logger = logging.getLogger(__name__)


class HandlerError(Exception):
    """A handler raised; ``handler`` is its name, ``__cause__`` what it raised."""

    def __init__(self, handler: str) -> None:
        self.handler = handler
        super().__init__(handler)


class HandlerRunner:
    """Runs handlers, one after the other, in the task that makes it.

    A handler that runs for ``timeout`` seconds (None: no limit) is cancelled, and has failed. When
    it swallows that and goes on for ``grace`` seconds more, ``abandon`` is called with its error:
    the task is the handler's then, for as long as it likes.

    ``is_stopping`` tells whose cancellation it was that ended a handler: that of the whole, which
    goes on, or one that the program meant for the handler, which has failed.

    What runs below ``watch`` is measured between two turns of the loop: a handler that blocks the
    loop is named. ``on_wait`` is called whenever it waits.
    """

    def __init__(
        self,
        *,
        timeout: float | None,
        grace: float,
        is_stopping: Callable[[], bool],
        abandon: Callable[[HandlerError], None],
        on_wait: Callable[[], None],
    ) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks; for the type checker
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._is_stopping = is_stopping
        self._abandon = abandon
        self.has_waited = False
        """Whether a step has ended since somebody set it to False."""
        self._on_wait = on_wait
        self._steps: list[tuple[float, Callable[[], None]]] = []
        if timeout is None or timeout > LONG:
            self._steps.append((LONG, self._say_long))
        if timeout is not None:
            self._steps += [(timeout, self._cancel), (timeout + grace, self._give_up)]
        self._running: Subscription | FailureSubscription | None = None
        self._about: Event | Failure
        self._since = 0.0
        self._resumed_at = self._turn_began = time.monotonic()
        self._latest: str | None = None
        self._next_step = 0
        self._is_late = False
        self._is_given_up = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_had_its_turn(self) -> bool:
        """Whether others in the event loop have waited for ``TURN`` before the latest handler."""
        return self._since - self._turn_began > TURN

    @property
    def running(self) -> str | None:
        """The name of the handler that runs now."""
        return None if self._running is None else self._running.name

    @overload
    async def run(self, handler: Subscription, about: Event) -> None: ...

    @overload
    async def run(self, handler: FailureSubscription, about: Failure) -> None: ...

    async def run(
        self, handler: Subscription | FailureSubscription, about: Event | Failure
    ) -> None:
        """Run a handler. Raises HandlerError when it fails, or is cancelled by the program."""
        self._begin(handler, about)
        try:
            await handler.handler(about)  # type: ignore[arg-type]  # the overloads pair them
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or self._is_given_up:
                raise
            self._fail(handler.name, error)
        else:
            if self._is_late:
                self._fail(handler.name, None)
        finally:
            self._running = None
            if self._next_step:
                self.close()  # it is set for a later step than the next handler's first one

    def _fail(self, name: str, cause: BaseException | None) -> NoReturn:
        if self._is_late:
            self._uncancel()
            cause = self._too_late(cause)
        elif isinstance(cause, asyncio.CancelledError):
            if self._is_stopping():
                raise cause from None
            self._uncancel()
        raise HandlerError(name) from cause

    async def watch(self, work: Coroutine[Any, Any, None]) -> None:
        """Await what runs handlers, and name each of them that blocks the loop."""
        await _Steps(work, self)

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # One timer serves all handlers that run here: most end long before it is looked at.

    def _begin(self, handler: Subscription | FailureSubscription, about: Event | Failure) -> None:
        now = time.monotonic()
        self._judge(now)
        self._running, self._about, self._since = handler, about, now
        self._latest, self._resumed_at = handler.name, now
        self._next_step, self._is_late = 0, False
        if self._timer is None and self._steps:
            self._timer = self._loop.call_later(self._steps[0][0], self._look)

    def _look(self) -> None:
        self._timer = None
        while self._running is not None and self._next_step < len(self._steps):
            after, act = self._steps[self._next_step]
            left = self._since + after - time.monotonic()
            if left > 0:
                self._timer = self._loop.call_later(left, self._look)
                return
            self._next_step += 1
            act()

    def _say_long(self) -> None:
        about = self._about
        logger.warning(
            "handler %s has been running for %.0f s on event %s%s",
            self.running,
            LONG,
            (about.event if isinstance(about, Failure) else about).key,
            "" if self._timeout is None else f"; it is cancelled after {self._timeout:g} s",
        )

    def _cancel(self) -> None:
        self._is_late = True
        self._task.cancel()

    def _give_up(self) -> None:
        handler = self._running
        if handler is not None:
            logger.warning(
                "handler %s goes on although it was cancelled; nobody waits for it any longer",
                handler.name,
            )
            failure = HandlerError(handler.name)
            failure.__cause__ = self._too_late(None)
            self._abandon(failure)

    def _too_late(self, cause: BaseException | None) -> TimeoutError:
        error = TimeoutError(f"cancelled after {self._timeout:g} s")
        error.__cause__ = cause  # its traceback shows where the handler was
        return error

    def _uncancel(self) -> None:
        while self._task.uncancel():  # or a TaskGroup of the next handler takes it for its own
            pass

    # A step is what runs between two turns of the event loop; several handlers may share one.

    def resumed(self) -> None:
        """Note that a step begins."""
        self._resumed_at = self._turn_began = time.monotonic()
        self._latest = self.running

    def suspended(self) -> None:
        """Note that a step has ended."""
        self._judge(time.monotonic())
        self._latest = None

    def waits(self) -> None:
        """Note that another step is to follow."""
        self.has_waited = True
        self._on_wait()

    def given_up(self) -> None:
        """Note that the task is given up: what a handler raises from now on is no failure."""
        self._is_given_up = True

    def _judge(self, now: float) -> None:
        seconds = now - self._resumed_at
        if seconds > BLOCKED_FOR and self._latest is not None:
            logger.warning(
                "handler %s blocked the event loop for %.1f s; use await, or a thread",
                self._latest,
                seconds,
            )


class _Steps(Awaitable[None]):
    """Awaits a coroutine, and tells a runner when each of its steps begins and ends."""

    def __init__(self, work: Coroutine[Any, Any, None], runner: HandlerRunner) -> None:
        self._work = work
        self._runner = runner

    def __await__(self) -> Generator[Any, Any, None]:
        work, runner = self._work, self._runner
        resume: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            runner.resumed()
            try:
                waited_for = resume(value)
            except StopIteration:
                return
            finally:
                runner.suspended()
            runner.waits()
            try:
                value = yield waited_for
                resume = work.send
            except GeneratorExit:  # the task is given up; a handler's own one comes from above
                runner.given_up()
                work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine
                resume, value = work.throw, error
