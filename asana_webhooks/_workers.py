"""Workers: each has a slot, in which it handles one event after the other."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Collection, Coroutine
from typing import Any, NamedTuple

import anyio

from ._active_claim import ActiveClaim, Item
from ._claims import Claims
from ._dispatch import Dispatcher
from ._failures import BackOff, Verdict, described, missing
from ._handlers import HandlerError, HandlerRunner
from .models import DeadLetter, Event
from .router import Failure, Router, Subscription
from .telemetry import Telemetry

__all__ = ["Tasks", "WorkerSettings", "Workers"]

ASK_AGAIN = 0.05
"""Seconds between two questions for more deliveries of a webhook that is worked on."""

ROOM = 100
"""How many unfinished deliveries of a claim leave room for more."""

CLAIMS_PER_SLOT = 4
"""As many webhooks are worked on at a time, at most, so that each has its turn."""

LAST_GRACE = 1.0
"""Seconds that a handler has to clean up when the drain ends and it was cancelled."""

TURN = 50
"""Events that a worker handles, at most, before others in the event loop have their turn."""

MAX_UNWANTED = 100
"""For how many kinds of events it is said that no handler wants them."""

logger = logging.getLogger(__name__)


class Tasks:
    """Tasks that are waited for together."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()
        self.idle = asyncio.Event()

    def start(
        self, work: Coroutine[Any, Any, None], *, context: contextvars.Context | None = None
    ) -> asyncio.Task[None]:
        """Run a coroutine as one of the tasks, in this context or a copy of the current one."""
        task = asyncio.create_task(work, name="asana-webhooks handling", context=context)
        self.running.add(task)
        self.idle.clear()
        task.add_done_callback(self.part_from)
        return task

    def part_from(self, task: asyncio.Task[Any]) -> None:
        """Wait for a task no longer."""
        self.running.discard(task)
        if not self.running:
            self.idle.set()


class WorkerSettings(NamedTuple):
    """The options of workers; ``concurrency`` is the number of slots, times are in seconds."""

    concurrency: int
    handler_timeout: float | None
    poll: float
    grace: float


class _Worker:
    """A task that handles one event after the other; ``item`` is under way.

    It is ``abandoned`` when a handler does not let go of it.
    """

    def __init__(self, item: Item | None) -> None:
        self.item = item
        self.abandoned = False
        self.task: asyncio.Task[None]
        self.runner: HandlerRunner | None = None


class Workers:
    """Hands the events of claims to handlers, as many at a time as there are slots.

    A worker takes the event whose turn it is, claims for itself when there is none, and rests when
    there is nothing to claim. Another one goes on beside it only when it has to wait, for a handler
    or for the store: what never waits is done by one task. ``arrived`` is set when something was
    stored; of those who rest one waits for it, and has the watch.
    """

    def __init__(
        self,
        claims: Claims,
        settings: WorkerSettings,
        back_off: BackOff,
        *,
        telemetry: Telemetry,
        tasks: Tasks,
        arrived: asyncio.Event,
    ) -> None:
        self._claims = claims
        self._settings = settings
        self._back_off = back_off
        self._telemetry = telemetry
        self._tasks = tasks
        self._arrived = arrived
        self._router = Router()
        self._context = contextvars.Context()
        self._polling: asyncio.Task[None] | None = None
        self._drained = asyncio.Event()
        self._free = 0
        self._workers: set[_Worker] = set()
        self._looking: set[_Worker] = set()
        self._resting: dict[_Worker, asyncio.Future[None]] = {}
        self._watch: _Worker | None = None
        self._waiting: _Worker | None = None  # for something to arrive
        self._idle: asyncio.Event | None = None
        self._grace = settings.grace
        self._most_looks = 0
        self._dispatcher: Dispatcher[Item] = Dispatcher()
        self._looked_at = self._told_at = self._asked_others_at = 0.0
        self._asks_first = False
        self._unwanted: set[tuple[str | None, str, str | None]] = set()

    async def run(self, router: Router, *, idle: asyncio.Event | None = None) -> None:
        """Give each event to the handlers that want it, until cancelled or stopped.

        Then nothing more is claimed, the handlers that run end within the grace, and what is left
        is cancelled; that stays in the store. ``idle`` is set whenever nothing is under way and
        nothing was found to claim. Raises RuntimeError when it is under way already.
        """
        if self._polling is not None:
            msg = "deliveries are being handed to handlers already"
            raise RuntimeError(msg)
        self._drained.clear()
        self._router = router
        self._idle, self._grace = idle, self._settings.grace
        self._context = contextvars.copy_context()
        self._free = self._settings.concurrency
        polling = self._polling = self._tasks.start(self._poll())
        self._arrived.set()
        self._go_on_beside()
        try:
            await asyncio.wait([polling])
        finally:
            polling.cancel()
            try:
                await self._let_workers_end()
            finally:
                self._polling = None
                self._drained.set()

    @property
    def is_running(self) -> bool:
        """Whether ``run`` is under way."""
        return self._polling is not None

    def stop(self) -> None:
        """End ``run`` as if it were cancelled."""
        if self._polling is not None:
            self._polling.cancel()

    def stop_at_once(self) -> None:
        """End ``run`` without a grace: handlers are cancelled, their events stay in the store."""
        self._grace = 0.0
        self.stop()

    async def wait(self) -> None:
        """Wait for the end of ``run``, if it is under way; at most a second when cancelled."""
        if self._polling is None:
            return
        try:
            await self._drained.wait()
        except asyncio.CancelledError:  # whoever closes does not wait for the grace of handlers
            self._cancel_workers()
            with anyio.move_on_after(LAST_GRACE, shield=True):
                await self._drained.wait()
            raise

    def is_worker(self) -> bool:
        """Return whether the task that asks is one in which handlers run."""
        asking = asyncio.current_task()
        return any(worker.task is asking for worker in self._workers)

    def _is_stopping(self) -> bool:
        polling = self._polling
        return polling is None or polling.done() or polling.cancelling() > 0

    async def _poll(self) -> None:
        """Have somebody look now and then for what nobody tells of."""
        while True:
            await asyncio.sleep(self._settings.poll)
            self._arrived.set()

    # Workers that begin, go on, rest and end

    def _start(self, item: Item | None) -> _Worker:
        """Start a worker, outside of what the handler that runs now may have set."""
        self._free -= 1
        worker = _Worker(item)
        self._workers.add(worker)
        worker.task = self._tasks.start(self._work(worker), context=self._context.copy())
        worker.task.add_done_callback(lambda _: self._end_of(worker))
        return worker

    def _go_on_beside(self) -> None:
        """Have another worker go on beside one that waits, when there is something to do."""
        if self._watch is not None or not (self._dispatcher or self._may_look()):
            return
        if self._is_stopping():
            return
        if self._resting:
            self._watch, woken = self._resting.popitem()
            woken.set_result(None)
        elif self._free:
            self._watch = self._start(None)

    def _let_go_of_watch(self, worker: _Worker) -> None:
        if self._watch is worker:
            self._watch = None

    async def _rest(self, worker: _Worker) -> None:
        """Wait until something was stored, or until a worker that waits has others go on."""
        loop = asyncio.get_running_loop()
        timer = None
        try:
            if self._watch is None and not self._looking:
                self._watch = worker
                if self._is_to_ask_again():
                    timer = loop.call_later(ASK_AGAIN, self._arrived.set)
                self._waiting = worker
                self._tell_if_idle()
                await self._arrived.wait()
            else:
                resting = self._resting[worker] = loop.create_future()
                self._tell_if_idle()
                await resting
        finally:
            if timer is not None:
                timer.cancel()
            if self._waiting is worker:
                self._waiting = None
            self._resting.pop(worker, None)
            self._let_go_of_watch(worker)

    def _tell_if_idle(self) -> None:
        if self._idle is None or self._arrived.is_set() or self._claims.active:
            return
        if all(
            each is self._waiting or each in self._resting or each.abandoned
            for each in self._workers
        ):
            self._idle.set()

    async def _work(self, worker: _Worker) -> None:
        """Handle its event, then what comes, until all ends."""
        runner = worker.runner = HandlerRunner(
            timeout=self._settings.handler_timeout,
            grace=self._settings.grace,
            is_stopping=self._is_stopping,
            abandon=lambda failure: self._replace(worker, failure),
            on_wait=self._go_on_beside,
        )
        try:
            await runner.watch(self._handle_each(worker, runner))
        except Exception as error:  # noqa: BLE001 - the others' deliveries do not wait for it
            self._claims.report(error)
            await asyncio.sleep(self._settings.poll)  # or it would fail again without a pause
        finally:
            runner.close()

    def _end_of(self, worker: _Worker) -> None:
        """Have others go on without a worker, whose task a program may have cancelled."""
        self._workers.discard(worker)
        self._let_go_of_watch(worker)
        if not worker.abandoned:
            self._free += 1
            self._leave(worker)
            self._arrived.set()
            self._go_on_beside()

    async def _handle_each(self, worker: _Worker, runner: HandlerRunner) -> None:
        self._let_go_of_watch(worker)
        handled = 0
        while not (worker.abandoned or self._is_stopping()):
            item = worker.item
            if item is None:
                runner.has_waited = False
                item = worker.item = self._take_next() or await self._look_for_next(worker)
            if item is None:
                await self._rest(worker)
                continue
            await self._handle(worker, runner, item)
            handled += 1
            if not handled % TURN or runner.has_had_its_turn:
                await self._let_others_have_their_turn(worker)

    async def _let_others_have_their_turn(self, worker: _Worker) -> None:
        """Leave the event loop to others for a turn; no other worker goes on for that."""
        if self._watch is None:
            self._watch = worker
        await asyncio.sleep(0)
        self._let_go_of_watch(worker)

    # Looking for work

    def _take(self) -> Item | None:
        item = self._dispatcher.take()
        if item is not None:
            item.work.running += 1
        return item

    def _take_next(self) -> Item | None:
        """Return the event whose turn it is; None when there is none, or to look for others.

        Others are looked for although some are ready: not only these webhooks have turns.
        """
        if self._arrived.is_set():
            since = time.monotonic() - self._looked_at
            if since > min(self._settings.poll, ASK_AGAIN) and self._may_look():
                return None
        return self._take()

    async def _look_for_next(self, worker: _Worker) -> Item | None:
        item = await self._look(worker) if self._may_look() else None
        return item or self._take()

    def _may_look(self) -> bool:
        """Return whether one more may look.

        Many look side by side, which a store does as quickly as one, while each finds something.
        When one has found nothing nobody looks until somebody tells; then one does, and another
        though that one waits for the store.
        """
        return len(self._looking) < max(self._most_looks, 2 * self._arrived.is_set())

    async def _look(self, worker: _Worker) -> Item | None:
        """Claim something: a new webhook, or more of those that are worked on, in turn."""
        self._looking.add(worker)
        self._looked_at = time.monotonic()
        if self._arrived.is_set():
            self._told_at = self._looked_at
            self._arrived.clear()
        self._asks_first = not self._asks_first
        ways = (self._ask_for_more, self._claim)
        try:
            for way in ways if self._asks_first else reversed(ways):
                item = await way()
                if item is not None:
                    self._most_looks = min(self._most_looks + 1, self._settings.concurrency)
                    self._arrived.set()  # there may be more, for whoever has nothing to do
                    return item
        finally:
            self._looking.discard(worker)
        self._most_looks = 0
        return None

    async def _claim(self) -> Item | None:
        """Claim of whom nothing is claimed while events of others are ready, or else of anybody.

        So whoever has many webhooks does not keep the one of another from its turn. Nor does
        whoever has the oldest deliveries, when all that is claimed is under way at each look.
        """
        active, most = self._claims.active, CLAIMS_PER_SLOT * self._settings.concurrency
        item, now = None, time.monotonic()
        is_their_turn = self._dispatcher or now - self._asked_others_at > ASK_AGAIN
        if active and is_their_turn and len(active) < 2 * most:
            self._asked_others_at = now
            item = await self._claim_of_others({work.source.account for work in active})
        if item is None and len(active) < most:
            item = await self._claim_of_others(())
        return item

    async def _claim_of_others(self, skipped: Collection[str]) -> Item | None:
        while not self._is_stopping():
            work = await self._claims.claim(skip_accounts=skipped)
            if work is None:
                break
            line = work.line
            item = None if line is None else line.take()
            if line is not None and item is not None:
                work.running += 1
                if line.is_ready or work.waiting:
                    self._dispatcher.add(line)
                return item
            await self._claims.end(work)
            await asyncio.sleep(0)
        return None

    async def _ask_for_more(self) -> Item | None:
        for work in list(self._claims.active):
            line = work.line
            if line is None or not self._may_have_more(work) or not await self._claims.more(work):
                continue
            self._dispatcher.add(line)
            item = self._take()
            if item is not None:
                return item
        return None

    def _may_have_more(self, work: ActiveClaim) -> bool:
        """Return whether to ask for more of what is worked on: it has room, and somebody told."""
        if not self._has_room(work):
            return False
        since = time.monotonic() - work.asked_at
        return since > self._settings.poll or (since > ASK_AGAIN and work.asked_at <= self._told_at)

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

    def _is_to_ask_again(self) -> bool:
        """Return whether somebody told when it was too soon to ask for more."""
        active = self._claims.active
        return any(work.asked_at <= self._told_at and self._has_room(work) for work in active)

    def _leave(self, worker: _Worker) -> None:
        """Give up the event that is under way; its claim is given back when no other one is."""
        item, worker.item = worker.item, None
        if item is not None:
            item.work.running -= 1
            item.work.close()
            if item.work.is_over:
                self._tasks.start(self._claims.end_beside(item.work))
        if self._is_stopping():
            self._end_what_is_idle()

    def _replace(self, worker: _Worker, failure: HandlerError) -> None:
        """Go on without a worker that its handler does not let go."""
        self._abandon(worker)
        if worker.item is not None and worker.item.run:  # or it was a handler of failures
            worker.item.failures += (failure,)
        self._start(worker.item)

    def _abandon(self, worker: _Worker) -> None:
        worker.abandoned = True
        self._free += 1
        self._tasks.part_from(worker.task)

    # The end of workers

    async def _let_workers_end(self) -> None:
        """Wait for the workers to end in their grace, although the waiting task be cancelled."""
        for worker in self._workers:
            if worker in self._looking or worker in self._resting or worker is self._watch:
                worker.task.cancel()
        self._end_what_is_idle()
        loop, grace = asyncio.get_running_loop(), self._grace
        timers = [
            loop.call_later(grace, self._cancel_workers),
            loop.call_later(grace + LAST_GRACE, self._abandon_workers),
        ]
        cancelled = False
        with anyio.CancelScope(shield=True):
            while not self._tasks.idle.is_set():
                try:
                    await self._tasks.idle.wait()
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
                self._tasks.start(self._claims.end(work))

    def _cancel_workers(self) -> None:
        for worker in self._workers:
            worker.task.cancel()

    def _abandon_workers(self) -> None:
        for worker in list(self._workers):
            running = None if worker.runner is None else worker.runner.running
            if running and not worker.abandoned:
                text = "handler %s goes on although it was cancelled; its event stays in the store"
                logger.warning(text, running)
                self._abandon(worker)
                self._leave(worker)

    # One event

    async def _handle(self, worker: _Worker, runner: HandlerRunner, item: Item) -> None:
        """Give an event to its handlers; the worker has then the one to go on with, if any."""
        work = item.work
        if work.is_dangerous and work.outbox:
            await self._claims.settle(work)  # or the process may end before it is known
        if item.line.is_closed:
            self._leave(worker)
            return
        if item.handlers is None:
            item.handlers = self._handlers_of(item)
        if item.handlers and not item.is_judged and not await self._is_judged(worker, item):
            return
        if item.is_left and not await self._is_done(worker, runner, item):
            return
        if item.failures:
            await self._fail(worker, runner, item)
        else:
            self._claims.finish(item)
            await self._go_on(worker, runner, item)

    def _handlers_of(self, item: Item) -> tuple[Subscription, ...]:
        """Return the handlers that an event is still for."""
        handlers, pending = self._router.handlers(item.event), item.attempt.pending
        if pending:
            handlers = tuple(each for each in handlers if each.name in pending)
            gone = (name for name in pending if not self._router.knows(name))
            item.failures += tuple(map(missing, gone))
        elif not handlers:
            self._note_unwanted(item.event)
        done = item.attempt.handled_by(item.index)
        return tuple(each for each in handlers if each.name not in done) if done else handlers

    async def _is_judged(self, worker: _Worker, item: Item) -> bool:
        """Leave out of an event's handlers those that want no echo, if it is one.

        Returns False when that is not known yet: it is set aside.
        """
        echoes = item.work.echoes
        if echoes is None:
            return True
        if item.judged_at is None:
            item.judged_at = time.monotonic()
        pause = await echoes.judge(item.event, item.judged_at)
        item.is_judged = not pause
        if item.event.echo and not item.attempt.pending:
            item.handlers = tuple(
                each for each in item.handlers or () if each.wants_echo(item.event)
            )
        if pause:
            self._set_aside(worker, item, pause)
        return not pause

    def _set_aside(self, worker: _Worker, item: Item, pause: float) -> None:
        """Go on without an event, which keeps its place in its lane, for so many seconds."""
        if self._is_stopping():
            self._leave(worker)
            return
        worker.item = None
        item.work.running -= 1
        asyncio.get_running_loop().call_later(pause, self._take_up, item)

    def _take_up(self, item: Item) -> None:
        item.line.put_back(item)
        self._dispatcher.add(item.line)
        self._arrived.set()
        self._go_on_beside()

    async def _is_done(self, worker: _Worker, runner: HandlerRunner, item: Item) -> bool:
        """Run the handlers of an event; False when some are left, and the worker has left it."""
        try:
            with self._telemetry.processing(item.attempt.delivery, item.event):
                is_done = await self._run(worker, runner, item)
        except HandlerError:
            is_done = not item.is_left  # all of them are in the item
        if worker.abandoned:
            return False
        if not is_done:
            self._leave(worker)
        return is_done

    async def _run(self, worker: _Worker, runner: HandlerRunner, item: Item) -> bool:
        """Run the handlers one after the other; return whether none is left.

        Raises the first one's HandlerError in the end.
        """
        handlers = item.handlers or ()
        for handler in handlers[item.run :]:
            item.run += 1
            is_last = item.run == len(handlers)
            try:
                await runner.run(handler, item.event)
            except HandlerError as failure:
                if worker.abandoned:
                    raise
                item.failures += (failure,)
            else:
                if not is_last:
                    item.attempt.note_handled(item.index, handler.name)
                    self._claims.note_progress(item.work, item.attempt)
            if not is_last and (worker.abandoned or self._is_stopping() or not item.work.leased):
                return False
        if item.failures:
            raise item.failures[0]
        return True

    async def _go_on(self, worker: _Worker, runner: HandlerRunner, item: Item) -> None:
        """Go on in the line of an event that is done, or end the claim.

        While its handlers do not wait a worker stays with a webhook until its turn is over.
        """
        work, line = item.work, item.line
        line.done(item)
        stays = work.is_dangerous or not (runner.has_waited or runner.has_had_its_turn)
        following = worker.item = line.take() if stays else None
        if following is not None:
            return
        work.running -= 1
        if work.is_over:
            await self._end(work)
        elif not work.is_dangerous:  # what the store takes for begun has begun
            self._dispatcher.add(line)

    async def _end(self, work: ActiveClaim) -> None:
        try:
            await self._claims.end(work)
            self._arrived.set()  # what came for its webhook meanwhile can be claimed now
        except asyncio.CancelledError:  # a program may cancel a handler's task late
            self._tasks.start(self._claims.end_beside(work))
            raise

    # An event that failed

    async def _fail(self, worker: _Worker, runner: HandlerRunner, item: Item) -> None:
        attempts = item.attempt.attempts_of(item.index) + 1
        verdict = self._back_off.judge(item.failures, attempts)
        buried = self._claims.fail(item, verdict)
        if buried is not None:
            await self._claims.settle(item.work)  # which gives the dead letter its id
        letter = None if buried is None else buried.letter
        for failure in item.failures:
            self._telemetry.failed(item.event, failure.handler)
            self._log_failure(item.event, failure, verdict, letter)
        await self._go_on(worker, runner, item)
        for failure in item.failures:
            dead = letter if failure in verdict.dead else None
            await self._tell_failure(worker, runner, item.event, failure, verdict.attempts, dead)

    def _log_failure(
        self, event: Event, failure: HandlerError, verdict: Verdict, letter: DeadLetter | None
    ) -> None:
        if letter is None or failure in verdict.again:
            outcome = f"again in {verdict.delay:.1f} s"
        else:
            outcome = f"now dead letter {letter.id}" if letter.id else "a dead letter later"
        logger.error(
            "handler %s failed on %s, attempt %d of %d, %s",
            failure.handler,
            described(event),
            verdict.attempts,
            self._back_off.max_attempts,
            outcome,
            exc_info=failure.__cause__,
        )

    async def _tell_failure(
        self,
        worker: _Worker,
        runner: HandlerRunner,
        event: Event,
        failure: HandlerError,
        attempt: int,
        letter: DeadLetter | None,
    ) -> None:
        """Call the handlers of failures, each in its time; what one raises is logged."""
        cause = failure.__cause__ or failure
        told = Failure(
            event=event, handler=failure.handler, error=cause, attempt=attempt, dead_letter=letter
        )
        for handler in self._router.failure_handlers:
            if worker.abandoned or self._is_stopping():
                return
            try:
                await runner.run(handler, told)
            except HandlerError as error:
                text = "handler of failures %s failed"
                logger.error(text, handler.name, exc_info=error.__cause__)

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
