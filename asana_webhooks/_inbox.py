"""From the store to the handlers: an inbox of deliveries, which is drained or streamed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self

import anyio

from ._active_claim import ActiveClaim, Item
from ._arrivals import listen_for_arrivals, notify_arrivals
from ._background import background_task
from ._claims import LEASE, POLL, Claims, ClaimSettings, Ledger
from ._echoes import Echoes
from ._failures import BackOff
from ._options import COUNT, SECONDS, Rule, check_options, optional
from ._workers import Tasks, Workers, WorkerSettings
from .errors import StoreError
from .models import Event, Source
from .router import Router
from .stores import Store
from .telemetry import Telemetry

__all__ = ["INBOX_OPTIONS", "Inbox"]

GRACE = 8.0
"""Seconds that handlers have to end when the drain, or they themselves, are to end."""

IDLE_LOOK = 10.0
"""Seconds between looks whether deliveries wait and nobody runs their handlers."""

IDLE_FOR = 30.0
"""Seconds for which they have waited when that is said."""

INBOX_OPTIONS = {
    "concurrency": COUNT,
    "max_attempts": COUNT,
    "first_delay": SECONDS,
    "longest_delay": SECONDS,
    "handler_timeout": optional(SECONDS, "None for no limit"),
    "order": Rule(
        (str,), '"resource" or "webhook"', lambda value: value in ("resource", "webhook")
    ),
}
"""The options of an inbox that a program may set, and their rules."""

logger = logging.getLogger(__name__)


def _log_gap(source: Source, message: str) -> None:
    logger.warning("Asana sent not all events of resource %s: %.200r", source.resource, message)


class Inbox:
    """Drains the store: each event ends handled, or as a dead letter.

    Up to ``concurrency`` events are handled at a time; accounts have their turn one after the
    other, then webhooks. Of those, with the ``order`` of a resource, events of one resource are
    handled one after the other and different ones side by side; with that of a webhook all of a
    webhook's events are one after the other. As a context manager it keeps the leases of what is
    being worked on. ``telemetry`` is told of each attempt, and of what becomes of deliveries. While
    ``may_claim`` answers False nothing is claimed. ``on_gap`` is called when Asana says that it
    did not send all, ``ledger`` is told of what it delivers; ``router`` has the handlers that
    ``drain`` is given, if it ever is. ``echoes`` tells the events that the program has caused;
    None: nobody asks.

    A handler has ``handler_timeout`` seconds, None: no limit. What failed is tried again after
    ``first_delay`` seconds, which double up to ``longest_delay``, until it has failed
    ``max_attempts`` times.

    Raises TypeError or ValueError for what is no such option.
    """

    def __init__(
        self,
        store: Store,
        *,
        concurrency: int = 10,
        order: Literal["resource", "webhook"] = "resource",
        max_attempts: int = 10,
        first_delay: float = 1.0,
        longest_delay: float = 600.0,
        handler_timeout: float | None = 300.0,
        lease: float = LEASE,
        poll: float = POLL,
        grace: float = GRACE,
        telemetry: Telemetry | None = None,
        may_claim: Callable[[], bool] = lambda: True,
        on_gap: Callable[[Source, str], object] = _log_gap,
        ledger: Ledger | None = None,
        router: Router | None = None,
        echoes: Echoes | None = None,
    ) -> None:
        check_options(INBOX_OPTIONS, locals())
        if longest_delay < first_delay:
            msg = f"longest_delay must be at least first_delay, not {longest_delay}"
            raise ValueError(msg)
        self._store = store
        self._poll = poll
        self._telemetry = telemetry or Telemetry()
        self._back_off = BackOff(max_attempts, first_delay, longest_delay)
        self._claim_settings = ClaimSettings(
            lease=lease,
            poll=poll,
            in_lanes=order == "resource",
            back_off=self._back_off,
            may_claim=may_claim,
            on_gap=on_gap,
            ledger=ledger or Ledger(),
            echoes=echoes,
        )
        self._worker_settings = WorkerSettings(
            concurrency=concurrency, handler_timeout=handler_timeout, poll=poll, grace=grace
        )
        self._router = router or Router()
        self._begin()

    def _begin(self) -> None:
        """Be as new: an inbox may be entered again, in another event loop too."""
        self._closed = self._is_worked_on = False
        self._arrived = asyncio.Event()
        self._tasks = Tasks()
        self._claims = Claims(
            self._store,
            self._claim_settings,
            telemetry=self._telemetry,
            start=self._tasks.start,
            freed=self.arrived,
        )
        self._workers = Workers(
            self._claims,
            self._worker_settings,
            self._back_off,
            telemetry=self._telemetry,
            tasks=self._tasks,
            arrived=self._arrived,
        )
        self._beside = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin to keep leases, and to tell other processes of arrivals."""
        self._begin()
        self._notifying = anyio.CancelScope()  # it wants a loop, which modules have none of
        beside = {
            "leases": self._claims.renew(),
            "notifications": self._exchange(self._notifying),
            "idle look": self._watch_idle(),
        }
        for name, work in beside.items():
            await self._beside.enter_async_context(background_task(work, name))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and wait for what is under way to end."""
        self.stop()
        try:
            await self._workers.wait()
            for work in list(self._claims.active):
                await self._claims.end_beside(work)
        finally:
            for task in self._tasks.running:
                task.cancel()  # of a store that does not answer
            await self._beside.aclose()

    def stop(self) -> None:
        """End the drain as if it were cancelled, and streams where they stand."""
        self._closed = True
        self._claims.close()
        self._arrived.set()
        self._workers.stop()

    def is_worker(self) -> bool:
        """Return whether the task that asks is one in which the drain runs handlers."""
        return self._workers.is_worker()

    @property
    def is_draining(self) -> bool:
        """Whether a drain is under way."""
        return self._workers.is_running

    def arrived(self) -> None:
        """Tell that a delivery was stored: who works here, or else who works elsewhere."""
        self._arrived.set()

    async def drain(self, router: Router) -> None:
        """Give each event to the handlers that want it, until cancelled or closed.

        Then it claims no more, lets the handlers that run end within the grace, and cancels what
        is left; that stays in the store. Raises RuntimeError when it is under way already.
        """
        self._listen()
        await self._workers.run(router)

    async def drain_due(self, router: Router, *, deadline: float | None) -> None:
        """Give what can be claimed now to the handlers that want it, and return when it is done.

        After ``deadline`` seconds handlers are cancelled, and what is left stays in the store; None
        sets no limit. Raises what ``drain`` raises.
        """
        self._listen()
        idle = asyncio.Event()
        async with (
            background_task(self._workers.run(router, idle=idle), "handlers") as running,
            background_task(idle.wait(), "idle") as waiting,
        ):
            done, _ = await asyncio.wait(
                [running, waiting], timeout=deadline, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self._workers.stop_at_once()

    async def stream(self, *, echoes: bool = False) -> AsyncGenerator[Event, None]:
        """Yield events, webhook by webhook; one is handled when the next is asked for.

        Echoes are left out, unless ``echoes``. What was yielded last when the stream is closed is
        yielded again by the next one.
        """
        while (work := await self._next_claim()) is not None:
            line = work.line
            assert line is not None  # noqa: S101 - it has been prepared
            work.running += 1  # or whoever ends what is idle takes it
            try:
                while (item := line.take()) is not None:
                    if work.is_dangerous and work.outbox:
                        await self._claims.settle(work)
                    await _judge(item)
                    if line.is_closed:
                        break
                    if echoes or not item.event.echo:
                        yield item.event
                    if work not in self._claims.active:
                        return
                    self._claims.finish(item)
                    line.done(item)
            finally:
                work.running -= 1
                await self._claims.end_beside(work)

    async def _next_claim(self) -> ActiveClaim | None:
        """Return the next claim as soon as there is one, None when the inbox is closed."""
        self._listen()
        while not self._closed:
            self._arrived.clear()
            work = await self._claims.claim()
            if work is not None:
                return work
            with anyio.move_on_after(self._poll):
                await self._arrived.wait()
        return None

    def _listen(self) -> None:
        """Hear of arrivals from now on: who works here need not be told through the store."""
        self._is_worked_on = True
        self._notifying.cancel()

    async def _exchange(self, notifying: anyio.CancelScope) -> None:
        """Tell other processes of arrivals; from the first claim on hear of theirs instead."""
        with notifying:
            await notify_arrivals(self._store, self._arrived)
        self._arrived.set()  # it may have taken the last one from those who work
        await listen_for_arrivals(self._store, self._arrived)

    async def _watch_idle(self) -> None:
        """Say once that deliveries wait and nobody runs the handlers that there are."""
        while not self._is_worked_on:
            await anyio.sleep(IDLE_LOOK)
            if self._router and not self._is_worked_on and await self._has_old_deliveries():
                logger.warning(
                    "deliveries have waited for %.0f s and nobody runs the handlers that are"
                    " registered: await client.run() beside the rest of the program",
                    IDLE_FOR,
                )
                return

    async def _has_old_deliveries(self) -> bool:
        try:
            oldest_at = (await self._store.counts()).oldest_at
        except StoreError:  # whoever needs it says so
            return False
        return oldest_at is not None and (datetime.now(UTC) - oldest_at).total_seconds() > IDLE_FOR


async def _judge(item: Item) -> None:
    """Learn whether an event is an echo; wait while that is not known, until its line is closed."""
    since, echoes = time.monotonic(), item.work.echoes
    while echoes is not None and not item.line.is_closed:
        pause = await echoes.judge(item.event, since)
        if not pause:
            break
        await anyio.sleep(min(pause, POLL))
