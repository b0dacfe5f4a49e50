"""From the store to the handlers: which event is handled when, by whom, and what follows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import anyio

from ._active_claim import ActiveClaim, Item
from ._arrivals import listen_for_arrivals, notify_arrivals
from ._background import background_task
from ._claims import LEASE, POLL, Claims, Settings
from ._dispatch import Dispatcher
from ._failures import BackOff, Verdict, described, missing
from ._handlers import HandlerError, HandlerRunner
from ._options import COUNT, SECONDS, Rule, check_options, optional
from .errors import StoreError
from .models import DeadLetter, Event, Source
from .router import Failure, Router, Subscription
from .stores import Store
from .telemetry import Telemetry

__all__ = ["INBOX_OPTIONS", "Inbox"]

ASK_AGAIN = 0.05
"""Seconds between two questions for more deliveries of a webhook that is worked on."""

ROOM = 100
"""How many unfinished deliveries of a claim leave room for more."""

GRACE = 8.0
"""Seconds that handlers have to end when the drain, or they themselves, are to end."""

LAST_GRACE = 1.0
"""Seconds that a handler has to clean up when the drain ends and it was cancelled."""

TURN = 50
"""Events that a worker handles before others in the event loop have their turn."""

IDLE_LOOK = 10.0
"""Seconds between looks whether deliveries wait and nobody runs their handlers."""

IDLE_FOR = 30.0
"""Seconds for which they have waited when that is said."""

MAX_UNWANTED = 100
"""For how many kinds of events it is said that no handler wants them."""

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


class _Worker:
    """A task that handles one event after the other; ``item`` is under way.

    It is ``abandoned`` when a handler does not let go of it.
    """

    def __init__(self, task: asyncio.Task[Any], runner: HandlerRunner) -> None:
        self.task = task
        self.runner = runner
        self.item: Item | None = None
        self.abandoned = False


class Inbox:
    """Drains the store: each event ends handled, or as a dead letter.

    Up to ``concurrency`` events are handled at a time; accounts have their turn one after the
    other, then webhooks. Of those, with the ``order`` of a resource, events of one resource are
    handled one after the other and different ones side by side; with that of a webhook all of a
    webhook's events are one after the other. As a context manager it keeps the leases of what is
    being worked on. ``telemetry`` is told of each attempt, and of what becomes of deliveries. While
    ``may_claim`` answers False nothing is claimed. ``on_gap`` is called when Asana says that it
    did not send all; ``router`` has the handlers that ``drain`` is given, if it ever is.

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
        router: Router | None = None,
    ) -> None:
        check_options(INBOX_OPTIONS, locals())
        if longest_delay < first_delay:
            msg = f"longest_delay must be at least first_delay, not {longest_delay}"
            raise ValueError(msg)
        self._telemetry = telemetry or Telemetry()
        self._store = store
        self._concurrency = concurrency
        self._back_off = BackOff(max_attempts, first_delay, longest_delay)
        self._settings = Settings(
            lease=lease,
            poll=poll,
            in_lanes=order == "resource",
            back_off=self._back_off,
            may_claim=may_claim,
            on_gap=on_gap,
        )
        self._handler_timeout = handler_timeout
        self._poll = poll
        self._grace = grace
        self._router = router or Router()
        self._unwanted: set[tuple[str | None, str, str | None]] = set()
        self._begin()

    def _begin(self) -> None:
        """Be as new: an inbox may be entered again, in another event loop too."""
        self._claims = Claims(
            self._store,
            self._settings,
            telemetry=self._telemetry,
            start=self._start,
            freed=self.arrived,
        )
        self._closed = False
        self._feeding: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._looking: set[asyncio.Task[Any]] = set()
        self._workers: set[_Worker] = set()
        self._dispatcher: Dispatcher[Item] = Dispatcher()
        self._free = 0
        self._is_worked_on = False
        self._looked_at = self._told_at = 0.0
        self._asks_first = False
        self._arrived = asyncio.Event()
        self._slot_freed = asyncio.Event()
        self._idle = asyncio.Event()
        self._drained = asyncio.Event()
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
            if self._feeding is not None:
                await self._wait_for_drain()
            for work in list(self._claims.active):
                await self._claims.end(work)
        finally:
            for task in self._tasks:
                task.cancel()  # of a store that does not answer
            await self._beside.aclose()

    async def _wait_for_drain(self) -> None:
        try:
            await self._drained.wait()
        except asyncio.CancelledError:  # whoever closes does not wait for the grace of handlers
            self._cancel_workers()
            with anyio.move_on_after(LAST_GRACE, shield=True):
                await self._drained.wait()
            raise

    def stop(self) -> None:
        """End the drain as if it were cancelled, and streams where they stand."""
        self._closed = self._claims.is_closed = True
        self._arrived.set()
        if self._feeding is not None:
            self._feeding.cancel()

    def is_worker(self) -> bool:
        """Return whether the task that asks is one in which the drain runs handlers."""
        asking = asyncio.current_task()
        return any(worker.task is asking for worker in self._workers)

    def arrived(self) -> None:
        """Tell that a delivery was stored: who works here, or else who works elsewhere."""
        self._arrived.set()

    # Workers: each has a slot, and handles one event after the other

    async def drain(self, router: Router) -> None:
        """Give each event to the handlers that want it, until cancelled or closed.

        Then it claims no more, lets the handlers that run end within the grace, and cancels what
        is left; that stays in the store. Raises RuntimeError when it is under way already.
        """
        if self._feeding is not None:
            msg = "deliveries are being handed to handlers already"
            raise RuntimeError(msg)
        self._drained.clear()
        self._router = router
        self._free = self._concurrency
        self._slot_freed.set()
        feeding = self._feeding = self._start(self._feed())
        try:
            await asyncio.wait([feeding])
        finally:
            feeding.cancel()
            try:
                await self._let_workers_end()
            finally:
                self._feeding = None
                self._drained.set()
        if not feeding.cancelled():
            feeding.result()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task that is waited for in the end."""
        task = asyncio.create_task(work, name="asana-webhooks handling")
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._part_from)
        return task

    def _part_from(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    def _is_stopping(self) -> bool:
        feeding = self._feeding
        return feeding is None or feeding.done() or feeding.cancelling() > 0

    async def _feed(self) -> None:
        """Look for work whenever a slot is free."""
        self._listen()
        while not self._closed:
            await self._slot_freed.wait()
            self._take_slot()
            item = None
            try:
                item = await self._look()
            finally:
                if item is None:
                    self._free_slot()
            if item is not None:
                self._start(self._work(item))
                self._fill_slots()
            else:
                with anyio.move_on_after(self._pause()):
                    await self._arrived.wait()

    def _take_slot(self) -> None:
        self._free -= 1
        if not self._free:
            self._slot_freed.clear()

    def _free_slot(self) -> None:
        self._free += 1
        self._slot_freed.set()
        self._fill_slots()

    def _fill_slots(self) -> None:
        """Have a worker for each event that is ready, as far as slots are free."""
        while self._free and not self._is_stopping() and (item := self._take()) is not None:
            self._take_slot()
            self._start(self._work(item))

    def _take(self) -> Item | None:
        item = self._dispatcher.take()
        if item is not None:
            item.work.running += 1
        return item

    async def _work(self, item: Item | None) -> None:
        """Handle this event, then what comes, until there is nothing to do or the drain ends."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks; for the type checker
        runner = HandlerRunner(
            timeout=self._handler_timeout,
            grace=self._grace,
            is_stopping=self._is_stopping,
            abandon=lambda failure: self._replace(worker, failure),
        )
        worker = _Worker(task, runner)
        self._workers.add(worker)
        is_done = False
        try:
            await runner.watch(self._handle_each(worker, item))
            is_done = True
        finally:
            runner.close()
            self._workers.discard(worker)
            if not worker.abandoned:
                self._leave(worker)
                self._free_slot()
            if not is_done:
                self._arrived.set()  # a program may cancel a handler's task late

    async def _handle_each(self, worker: _Worker, item: Item | None) -> None:
        handled = 0
        while not (worker.abandoned or self._is_stopping()):
            item = item or self._at_hand() or await self._next_item()
            if item is None:
                break
            worker.item = item
            item = await self._handle(worker, item)
            handled += 1
            if handled % TURN == 0:
                await asyncio.sleep(0)

    def _leave(self, worker: _Worker) -> None:
        """Give up the event that is under way."""
        item, worker.item = worker.item, None
        if item is not None:
            item.work.running -= 1
        if self._is_stopping():
            self._end_what_is_idle()

    def _at_hand(self) -> Item | None:
        """Return the event whose turn it is, unless it is time to look for a new claim."""
        return self._take() if time.monotonic() - self._looked_at < self._poll else None

    async def _next_item(self) -> Item | None:
        """Return the first event of a new claim, or else the one whose turn it is."""
        item = await self._look() or self._take()
        self._fill_slots()
        return item

    async def _look(self) -> Item | None:
        """Claim something: a new webhook, or more of those that are worked on, in turn.

        Workers that claim for themselves do so side by side, which a store does as quickly as one.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in tasks; for the type checker
        self._looking.add(task)
        self._looked_at = time.monotonic()
        if self._arrived.is_set():
            self._told_at = self._looked_at
            self._arrived.clear()
        self._asks_first = not self._asks_first
        ways = (self._ask_for_more, self._claim)
        try:
            await asyncio.sleep(0)  # others have their turn, though nothing here ever waits
            for way in ways if self._asks_first else reversed(ways):
                item = await way()
                if item is not None:
                    return item
            return None
        finally:
            self._looking.discard(task)

    async def _claim(self) -> Item | None:
        while len(self._claims.active) < 2 * self._concurrency and not self._is_stopping():
            work = await self._claims.claim()
            if work is None:
                break
            self._arrived.set()  # there may be more, for those who have nothing to do
            item = self._begin_with(work)
            if item is not None:
                return item
            await self._claims.end(work)
        return None

    def _begin_with(self, work: ActiveClaim) -> Item | None:
        """Return the first event of a claim; the others can be taken beside it."""
        assert work.line is not None  # noqa: S101 - it has been prepared
        item = work.line.take()
        if item is not None:
            work.running += 1
            self._dispatcher.add(work.line)
        return item

    async def _ask_for_more(self) -> Item | None:
        for work in list(self._claims.active):
            if self._may_have_more(work) and await self._claims.more(work):
                assert work.line is not None  # noqa: S101 - it has been prepared
                self._dispatcher.add(work.line)
                item = self._take()
                if item is not None:
                    return item
        return None

    def _may_have_more(self, work: ActiveClaim) -> bool:
        """Return whether to ask for more of what is worked on: it has room, and somebody told."""
        if not self._has_room(work):
            return False
        since = time.monotonic() - work.asked_at
        return since > self._poll or (since > ASK_AGAIN and work.asked_at <= self._told_at)

    def _has_room(self, work: ActiveClaim) -> bool:
        return (
            work.line is not None
            and not work.line.is_closed
            and not work.is_dangerous
            and not work.waiting
            and 0 < work.unfinished <= ROOM
            and self._claims.may_claim()
            and not self._is_stopping()
        )

    def _pause(self) -> float:
        """Return for how many seconds to wait, unless somebody tells, before the next look."""
        waits = any(
            work.asked_at <= self._told_at and self._has_room(work) for work in self._claims.active
        )
        return min(self._poll, ASK_AGAIN) if waits else self._poll

    # The end of workers

    async def _let_workers_end(self) -> None:
        """Wait for the workers to end in their grace, although the waiting task be cancelled."""
        for task in self._tasks & self._looking:
            task.cancel()
        self._end_what_is_idle()
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(self._grace, self._cancel_workers),
            loop.call_later(self._grace + LAST_GRACE, self._abandon_workers),
        ]
        cancelled = False
        with anyio.CancelScope(shield=True):
            while not self._idle.is_set():
                try:
                    await self._idle.wait()
                except asyncio.CancelledError:
                    cancelled = True
        for timer in timers:
            timer.cancel()
        if cancelled:
            raise asyncio.CancelledError

    def _end_what_is_idle(self) -> None:
        """Give back at once all claims of which no event is under way."""
        for work in list(self._claims.active):
            if work.line is not None and not work.running:
                work.close()
                self._start(self._claims.end(work))

    def _cancel_workers(self) -> None:
        for worker in self._workers:
            worker.task.cancel()

    def _abandon_workers(self) -> None:
        for worker in list(self._workers):
            if worker.runner.running and not worker.abandoned:
                logger.warning(
                    "handler %s goes on although it was cancelled; its event stays in the store",
                    worker.runner.running,
                )
                self._abandon(worker)
                self._leave(worker)

    def _abandon(self, worker: _Worker) -> None:
        worker.abandoned = True
        self._part_from(worker.task)

    def _replace(self, worker: _Worker, failure: HandlerError) -> None:
        """Go on without a worker that its handler does not let go."""
        self._abandon(worker)
        if worker.item is not None:
            worker.item.failures += (failure,)
        self._start(self._work(worker.item))

    # Handling one event

    async def _handle(self, worker: _Worker, item: Item) -> Item | None:
        """Give an event to its handlers; return the one to go on with, None: whichever it is."""
        work = item.work
        if work.is_dangerous and work.outbox:
            await self._claims.settle(work)  # or the process may end before it is known
        if work.line is not None and work.line.is_closed:
            self._leave(worker)
            if work.is_over:
                await self._end(work)
            return None
        if item.handlers is None:
            self._choose_handlers(item)
        if item.handlers:
            try:
                with self._telemetry.processing(item.attempt.delivery):
                    await self._run(worker, item)
            except HandlerError:
                pass  # all of them are in the item
        if worker.abandoned or item.handlers:
            return None
        worker.item = None
        if item.failures:
            await self._fail(worker, item)
            return None
        self._claims.finish(item)
        return await self._go_on(item)

    def _choose_handlers(self, item: Item) -> None:
        event, pending = item.event, item.attempt.pending
        handlers = self._router.handlers(event)
        if pending:
            handlers = tuple(each for each in handlers if each.name in pending)
            gone = (name for name in pending if not self._router.knows(name))
            item.failures = tuple(map(missing, gone))
        elif not handlers:
            self._note_unwanted(event)
        if done := item.attempt.handled_by(item.index):
            handlers = tuple(each for each in handlers if each.name not in done)
        item.handlers = handlers

    async def _run(self, worker: _Worker, item: Item) -> None:
        """Run the handlers one after the other. Raises the first one's HandlerError in the end."""
        while item.handlers:
            handler, item.handlers = item.handlers[0], item.handlers[1:]
            try:
                await worker.runner.run(handler, item.event)
            except HandlerError as failure:
                if worker.abandoned:
                    raise
                item.failures += (failure,)
            if item.handlers and self._is_interrupted(worker, item, handler):
                return
        if item.failures:
            raise item.failures[0]

    def _is_interrupted(self, worker: _Worker, item: Item, handler: Subscription) -> bool:
        """Note that a handler has ended while others are left; return whether those may not run."""
        if not any(failure.handler == handler.name for failure in item.failures):
            item.attempt.note_handled(item.index, handler.name)
            self._claims.note_progress(item)
        return worker.abandoned or self._is_stopping() or not item.work.leased

    async def _go_on(self, item: Item) -> Item | None:
        """Go on in the lane of an event that is done, or end the claim; return what comes next."""
        work, line = item.work, item.work.line
        assert line is not None  # noqa: S101 - the item comes from it
        work.running -= 1
        line.done(item)
        if work.is_over:
            await self._end(work)
            return None
        if work.is_dangerous:  # it is known as begun by the store
            following = line.take()
            if following is not None:
                work.running += 1
            return following
        self._dispatcher.add(line)
        return None

    async def _end(self, work: ActiveClaim) -> None:
        try:
            await self._claims.end(work)
        except asyncio.CancelledError:
            self._start(self._claims.end(work))
            raise

    async def _fail(self, worker: _Worker, item: Item) -> None:
        attempts = item.attempt.attempts_of(item.index) + 1
        verdict = self._back_off.judge(item.failures, attempts)
        letter = self._claims.fail(item, verdict)
        if letter is not None:
            await self._claims.settle(item.work)
        for failure in item.failures:
            self._telemetry.failed(item.event, failure.handler)
            self._log_failure(item.event, failure, verdict)
        await self._go_on(item)
        for failure in item.failures:
            dead = letter if failure in verdict.dead else None
            await self._tell_failure(worker, item.event, failure, verdict.attempts, dead)

    def _log_failure(self, event: Event, failure: HandlerError, verdict: Verdict) -> None:
        logger.error(
            "handler %s failed on %s, attempt %d of %d, %s",
            failure.handler,
            described(event),
            verdict.attempts,
            self._back_off.max_attempts,
            f"again in {verdict.delay:.1f} s" if failure in verdict.again else "now a dead letter",
            exc_info=failure.__cause__,
        )

    async def _tell_failure(
        self,
        worker: _Worker,
        event: Event,
        failure: HandlerError,
        attempt: int,
        letter: DeadLetter | None,
    ) -> None:
        """Call the handlers of failures."""
        assert failure.__cause__ is not None  # noqa: S101 - it has one, always
        told = Failure(
            event=event,
            handler=failure.handler,
            error=failure.__cause__,
            attempt=attempt,
            dead_letter=letter,
        )
        for handler in self._router.failure_handlers:
            try:
                await worker.runner.run(handler, told)
            except HandlerError as error:
                text = "handler of failures %s failed"
                logger.error(text, handler.name, exc_info=error.__cause__)
            if worker.abandoned or self._is_stopping():
                return

    def _note_unwanted(self, event: Event) -> None:
        self._telemetry.unwanted(event)
        field = None if event.change is None else event.change.field
        kind = (event.resource.resource_type, event.action, field)
        if kind not in self._unwanted and len(self._unwanted) < MAX_UNWANTED:
            self._unwanted.add(kind)
            logger.info(
                "no handler wants events of type %.50r with action %.50r%s; they count as handled",
                event.resource.resource_type,
                event.action,
                "" if field is None else f" of field {field!r:.50}",
            )

    # The stream

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield events, webhook by webhook; one is handled when the next is asked for.

        What was yielded last when the stream is closed is yielded again by the next one.
        """
        while (work := await self._next_claim()) is not None:
            line = work.line
            assert line is not None  # noqa: S101 - it has been prepared
            work.running += 1  # or whoever ends what is idle takes it
            try:
                while (item := line.take()) is not None:
                    if work.is_dangerous and work.outbox:
                        await self._claims.settle(work)
                    if line.is_closed:
                        break
                    yield item.event
                    if work not in self._claims.active:
                        return
                    self._claims.finish(item)
                    line.done(item)
            finally:
                work.running -= 1
                await self._claims.end(work)

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

    # Beside the work

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
