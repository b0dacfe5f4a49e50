"""From the store to the handlers: claims, attempts, back-off, dead letters."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio

from ._attempt import Attempt
from ._background import background_task
from ._handlers import HandlerError, HandlerRunner
from ._logging import ThrottledLogger, one_line
from ._options import COUNT, SECONDS, check_options, optional
from .errors import StoreError
from .models import Claim, DeadLetter, Delivery, Event, Route
from .router import Router
from .stores import Store
from .telemetry import Telemetry

__all__ = ["INBOX_OPTIONS", "Inbox", "iter_dead_letters", "listen_for_arrivals", "notify_arrivals"]

LEASE = 30.0
"""Seconds after which a dead worker's deliveries are taken over; a living one renews."""

BATCH = 100
"""How many deliveries of one webhook are claimed at a time."""

POLL = 1.0
"""Seconds between looks for what became due, or was stored by another process."""

ACK_AFTER = 0.05
"""Seconds of handled work that is done again, at most, when the process is killed."""

GRACE = 8.0
"""Seconds that handlers have to end when the drain, or they themselves, are to end."""

LAST_GRACE = 1.0
"""Seconds that a handler has to clean up when the drain ends and it was cancelled."""

FINISH_TIMEOUT = 5.0

LISTEN_PAUSE = 5.0
"""Seconds before listening is tried again after it has failed."""

LETTERS_PAGE = 100

MAX_UNWANTED = 100
"""For how many kinds of events it is said that no handler wants them."""

INBOX_OPTIONS = {
    "concurrency": COUNT,
    "max_attempts": COUNT,
    "first_delay": SECONDS,
    "longest_delay": SECONDS,
    "handler_timeout": optional(SECONDS, "None for no limit"),
}
"""The options of an inbox that a program may set, and their rules."""

logger = logging.getLogger(__name__)


class _ActiveClaim:
    """A claim being worked on: the attempt under way, and what is handled but not yet acked.

    ``worker`` is the task that handles it, None for a stream. That is ``cancelled`` when its grace
    is over, and ``abandoned`` when a handler does not let go of it.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.worker: asyncio.Task[Any] | None = None
        self.runner: HandlerRunner | None = None
        self.cancelled = False
        self.abandoned = False
        self.leased = True
        self.attempt: Attempt | None = None
        self.handled: list[Delivery] = []
        self.acked_at = time.monotonic()


class Inbox:
    """Drains the store: each delivery ends handled, or as a dead letter.

    Deliveries of one webhook are worked on one after the other, of up to ``concurrency`` webhooks
    side by side. As a context manager it keeps the leases of what is being worked on.
    ``telemetry`` is told of each attempt, and of what becomes of deliveries. While ``may_claim``
    answers False nothing is claimed.

    A handler has ``handler_timeout`` seconds, None: no limit. What failed is tried again after
    ``first_delay`` seconds, which double up to ``longest_delay``, until it has failed
    ``max_attempts`` times.

    Raises TypeError or ValueError for what is no such number.
    """

    def __init__(
        self,
        store: Store,
        *,
        concurrency: int = 10,
        max_attempts: int = 10,
        first_delay: float = 1.0,
        longest_delay: float = 600.0,
        handler_timeout: float | None = 300.0,
        lease: float = LEASE,
        poll: float = POLL,
        grace: float = GRACE,
        telemetry: Telemetry | None = None,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        check_options(INBOX_OPTIONS, locals())
        if longest_delay < first_delay:
            msg = f"longest_delay must be at least first_delay, not {longest_delay}"
            raise ValueError(msg)
        self._telemetry = telemetry or Telemetry()
        self._store = store
        self._may_claim = may_claim
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._handler_timeout = handler_timeout
        self._lease = lease
        self._poll = poll
        self._grace = grace
        self._arrived = asyncio.Event()
        self._closed = False
        self._feeding: asyncio.Task[None] | None = None
        self._slots: asyncio.Semaphore
        self._tasks: set[asyncio.Task[Any]] = set()
        self._claiming: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._drained = asyncio.Event()
        self._works: set[_ActiveClaim] = set()
        self._no_suspect = asyncio.Event()
        self._no_suspect.set()
        self._claims_under_way = 0
        self._no_claim = asyncio.Event()
        self._no_claim.set()
        self._unwanted: set[tuple[str | None, str, str | None]] = set()
        self._notifying: anyio.CancelScope
        self._beside = AsyncExitStack()
        self._log = ThrottledLogger(logger)

    async def __aenter__(self) -> Self:
        self._closed = False
        notifying = self._notifying = anyio.CancelScope()
        await self._beside.enter_async_context(background_task(self._renew(), "leases"))
        await self._beside.enter_async_context(
            background_task(self._exchange(notifying), "notifications")
        )
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
            for work in list(self._works):
                await self._end(work)
        finally:
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
        self._closed = True
        self._arrived.set()
        if self._feeding is not None:
            self._feeding.cancel()

    def is_worker(self) -> bool:
        """Return whether the task that asks is one in which the drain runs handlers."""
        asking = asyncio.current_task()
        return any(work.worker is asking for work in self._works)

    def arrived(self) -> None:
        """Tell that a delivery was stored: who works here, or else who works elsewhere."""
        self._arrived.set()

    async def drain(self, router: Router) -> None:
        """Give each event to the handlers that want it, until cancelled or closed.

        Then it claims no more, lets the handlers that run end within the grace, and cancels what
        is left; that stays in the store. Raises RuntimeError when it is under way already.
        """
        if self._feeding is not None:
            msg = "deliveries are being handed to handlers already"
            raise RuntimeError(msg)
        self._drained.clear()
        self._slots = asyncio.Semaphore(self._concurrency)
        feeding = self._feeding = self._start(self._feed(router))
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
        """Run a task of the drain, which waits for it in the end."""
        task = asyncio.create_task(work, name="asana-webhooks handling")
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._part_from)
        return task

    def _part_from(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def _let_workers_end(self) -> None:
        """Wait for the workers to end in their grace, although the waiting task be cancelled."""
        for task in self._tasks & self._claiming:
            task.cancel()
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

    def _cancel_workers(self) -> None:
        for work in self._works:
            if work.worker is not None:
                work.cancelled = True
                work.worker.cancel()

    def _abandon_workers(self) -> None:
        for work in self._works:
            if work.worker is not None and work.runner is not None and work.runner.running:
                logger.warning(
                    "handler %s goes on although it was cancelled; its event stays in the store",
                    work.runner.running,
                )
                self._abandon(work)
                self._start(self._end(work))

    async def _feed(self, router: Router) -> None:
        while await self._slots.acquire() and (claim := await self._next()) is not None:
            self._start(self._work(self._begin(claim), router))

    async def _work(self, work: _ActiveClaim, router: Router) -> None:
        work.worker = asyncio.current_task()
        try:
            await self._work_on(work, router)
        finally:
            if not work.abandoned:
                self._start(self._go_on(router))  # a program may cancel a handler's task late

    async def _go_on(self, router: Router) -> None:
        claim = None if self._is_stopping() else await self._next_at_once()
        if claim is None:
            self._slots.release()
        else:
            await self._work(self._begin(claim), router)

    async def _work_on(self, work: _ActiveClaim, router: Router) -> None:
        runner = work.runner = HandlerRunner(
            timeout=self._handler_timeout,
            grace=self._grace,
            is_stopping=self._is_stopping,
            abandon=partial(self._replace, work, router),
        )
        try:
            await self._wait_for_claims(work)
            for delivery in work.claim.deliveries:
                if self._is_stopping() or not work.leased or work.abandoned:
                    break
                await self._attempt(work, delivery, runner, router)
        except Exception as error:  # noqa: BLE001 - the others' deliveries do not wait for it
            self._report(error)
        finally:
            runner.close()
            await self._end(work)

    def _replace(self, work: _ActiveClaim, router: Router, failure: HandlerError) -> None:
        """Go on without a worker that its handler does not let go."""
        self._abandon(work)
        self._start(self._go_on_without(work, router, failure))

    def _abandon(self, work: _ActiveClaim) -> None:
        work.abandoned = True
        if work.worker is not None:
            self._part_from(work.worker)

    async def _go_on_without(
        self, work: _ActiveClaim, router: Router, failure: HandlerError
    ) -> None:
        try:
            if work.attempt is not None:
                await self._failed(work, work.attempt, failure)
        except Exception as error:  # noqa: BLE001 - the others' deliveries do not wait for it
            self._report(error)
        finally:
            await self._end(work)
            self._start(self._go_on(router))

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield events, webhook by webhook; one is handled when the next is asked for.

        What was yielded last when the stream is closed is yielded again by the next one.
        """
        while (claim := await self._next()) is not None:
            work = self._begin(claim)
            try:
                await self._wait_for_claims(work)
                if work not in self._works:
                    return
                for delivery in claim.deliveries:
                    attempt = await self._begin_attempt(work, delivery)
                    while attempt is not None and (event := attempt.next_event()) is not None:
                        yield event
                        if work not in self._works:
                            return
                        attempt.done += 1
                        if attempt.by_event:
                            break
                    if attempt is not None:
                        await self._end_attempt(work, attempt)
                    if not work.leased:
                        break
            except StoreError as error:
                self._report(error)
            finally:
                await self._end(work)
                self._arrived.set()  # what came for this webhook meanwhile can be claimed now

    async def _next(self) -> Claim | None:
        """Return the next claim as soon as there is one, None when the inbox is closed."""
        self._notifying.cancel()  # who works here need not be told through the store
        while not self._closed:
            self._arrived.clear()
            claim = await self._claim()
            if claim is not None:
                return claim
            with anyio.move_on_after(self._poll):
                await self._arrived.wait()
        return None

    async def _next_at_once(self) -> Claim | None:
        """Return the next claim for a worker that has ended one, None when there is none now.

        Workers that claim for themselves do so side by side, which a store does as quickly as one.
        """
        claim = await self._claim()
        if claim is not None:
            self._arrived.set()  # there may be more, for those who have nothing to do
        return claim

    async def _claim(self) -> Claim | None:
        claiming = asyncio.current_task()
        assert claiming is not None  # noqa: S101 - coroutines run in tasks; for the type checker
        self._claiming.add(claiming)
        try:
            while not self._no_suspect.is_set():  # another one that waited may have brought one
                await self._no_suspect.wait()
            if self._closed or not self._may_claim():
                return None
            return await self._claim_now()
        except Exception as error:  # noqa: BLE001 - it is tried again, whatever it was
            self._say("claim", "cannot claim deliveries", error)
            await anyio.sleep(self._poll)
            return None
        finally:
            self._claiming.discard(claiming)

    async def _claim_now(self) -> Claim | None:
        """Return a claim; a suspect that another claim has brought already is given back."""
        self._claims_under_way += 1
        self._no_claim.clear()
        try:
            claim = await self._store.claim(limit=BATCH, lease=self._lease)
            if claim is None or not _is_suspect(claim) or self._no_suspect.is_set():
                return claim
            await self._store.end_claim(claim)  # or the other's kill would count for it too
            return None
        finally:
            self._claims_under_way -= 1
            if not self._claims_under_way:
                self._no_claim.set()

    async def _wait_for_claims(self, work: _ActiveClaim) -> None:
        """Wait, before a suspect is handled, until no claim can bring another one."""
        if _is_suspect(work.claim):
            await self._no_claim.wait()

    def _is_stopping(self) -> bool:
        feeding = self._feeding
        return feeding is None or feeding.done() or feeding.cancelling() > 0

    def _begin(self, claim: Claim) -> _ActiveClaim:
        work = _ActiveClaim(claim)
        self._works.add(work)
        if _is_suspect(claim):
            self._no_suspect.clear()
        return work

    async def _end(self, work: _ActiveClaim) -> None:
        if work not in self._works:
            return
        self._works.discard(work)
        try:
            with anyio.move_on_after(FINISH_TIMEOUT, shield=True):
                await self._give_back(work)
        except Exception as error:  # noqa: BLE001 - the lease ends by itself
            self._report(error)
        finally:
            if _is_suspect(work.claim):
                self._no_suspect.set()

    async def _give_back(self, work: _ActiveClaim) -> None:
        if work.attempt is not None and work.attempt.progress:
            try:
                await self._release(work, work.attempt, delay=0.0, attempts=0)
            except StoreError as error:
                self._report(error)  # what was handled before it can be removed all the same
        self._keep_if(work, await self._store.end_claim(work.claim, work.handled))

    def _report(self, error: Exception) -> None:
        self._say("work", "deliveries will be handled again", error)

    def _say(self, kind: str, what: str, error: Exception) -> None:
        if isinstance(error, StoreError):
            self._log.log(logging.ERROR, kind, "%s: %s", what, error)
        else:
            self._log.log(logging.ERROR, kind, "%s", what, exc_info=True)

    async def _attempt(
        self, work: _ActiveClaim, delivery: Delivery, runner: HandlerRunner, router: Router
    ) -> None:
        attempt = await self._begin_attempt(work, delivery)
        if attempt is None:
            return
        try:
            with self._telemetry.processing(delivery):
                await self._handle(work, attempt, runner, router)
        except HandlerError as failure:
            if not work.abandoned:
                await self._failed(work, attempt, failure)
        else:
            await self._end_attempt(work, attempt)

    async def _handle(
        self, work: _ActiveClaim, attempt: Attempt, runner: HandlerRunner, router: Router
    ) -> None:
        by_event = attempt.by_event
        while (event := attempt.next_event()) is not None:
            handlers = router.handlers(event)
            if not handlers:
                self._note_unwanted(event)
            for handler in handlers:
                await runner.run(handler, event)
            attempt.done += 1
            if by_event or work.cancelled or not work.leased:
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

    async def _begin_attempt(self, work: _ActiveClaim, delivery: Delivery) -> Attempt | None:
        """Return the attempt to go on with, None when there can be none.

        The delivery has ended too many processes then, or was damaged, and is a dead letter.
        """
        attempt = Attempt(delivery)
        if attempt.is_damaged:
            reason = "how many of its events were handled was damaged in the store"
            attempt.done = 0  # a replay handles them all
            await self._bury(work, attempt, [attempt.letter(reason)])
            return None
        if attempt.kills and delivery.attempts + attempt.kills >= self._max_attempts:
            times = f"{attempt.kills} time{'s' if attempt.kills > 1 else ''}"
            what = "ended the process, or blocked it for longer than a lease,"
            reason = f"its handlers {what} {times}"
            await self._bury(work, attempt, [attempt.letter(reason)])
            return None
        work.attempt = attempt
        return attempt

    async def _end_attempt(self, work: _ActiveClaim, attempt: Attempt) -> None:
        if work.abandoned:
            return
        if attempt.next_event() is None:
            await self._handled(work, attempt)
        elif attempt.by_event:
            work.attempt = None
            await self._release(work, attempt, delay=0.0, attempts=0)

    async def _handled(self, work: _ActiveClaim, attempt: Attempt) -> None:
        work.attempt = None
        undecodable = attempt.undecodable()
        if undecodable:
            await self._bury(work, attempt, undecodable)
            return
        self._telemetry.became(attempt.delivery, "handled")
        work.handled.append(attempt.delivery)
        if time.monotonic() - work.acked_at > ACK_AFTER:
            self._keep_if(work, await self._store.ack(work.claim, work.handled))
            work.handled = []  # not before: the claim's end removes what could not be removed here
            work.acked_at = time.monotonic()

    async def _failed(self, work: _ActiveClaim, attempt: Attempt, failure: HandlerError) -> None:
        work.attempt = None
        event, cause = attempt.next_event(), failure.__cause__
        attempts = 1 if attempt.progress else attempt.delivery.attempts + 1
        kills = 0 if attempt.progress else attempt.kills
        delay = self._delay(attempts)
        last = attempts + kills >= self._max_attempts
        logger.error(
            "handler %s failed on event %s, attempt %d of %d, %s",
            failure.handler,
            None if event is None else event.key,
            attempts,
            self._max_attempts,
            "now a dead letter" if last else f"again in {delay:.1f} s",
            exc_info=cause,
        )
        if last:
            reason = f"handler {failure.handler} failed {attempts} times: {one_line(cause)}"
            await self._bury(work, attempt, [attempt.letter(reason)])
        else:
            self._telemetry.became(attempt.delivery, "retried")
            await self._release(work, attempt, delay=delay, attempts=attempts)

    def _delay(self, attempts: int) -> float:
        longest = min(self._longest_delay, self._first_delay * 2.0 ** min(attempts - 1, 60))
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter is no secret

    async def _release(
        self, work: _ActiveClaim, attempt: Attempt, *, delay: float, attempts: int
    ) -> None:
        released = await self._store.release(
            work.claim, attempt.delivery, delay=delay, attempts=attempts, done=attempt.done
        )
        self._keep_if(work, released)

    async def _bury(self, work: _ActiveClaim, attempt: Attempt, letters: list[DeadLetter]) -> None:
        buried = await self._store.bury(work.claim, attempt.delivery, letters)
        self._keep_if(work, buried)
        if buried:
            self._telemetry.became(attempt.delivery, "dead", letters[0].reason)
            route = await self._store.get_route(letters[0].route)
            whose = "a webhook that is gone" if route is None else f"webhook {route.gid}"
            for letter in letters:
                text = "a dead letter of %s: %s"
                self._log.log(logging.ERROR, "bury", text, whose, letter.reason)

    def _keep_if(self, work: _ActiveClaim, leased: bool) -> None:  # noqa: FBT001 - a store's answer
        if work.leased and not leased:
            work.leased = False
            logger.warning("a lease ran out under a handler: its deliveries are handled again")

    async def _exchange(self, notifying: anyio.CancelScope) -> None:
        """Tell other processes of arrivals; from the first claim on hear of theirs instead."""
        with notifying:
            await notify_arrivals(self._store, self._arrived)
        self._arrived.set()  # it may have taken the last one from those who work
        await listen_for_arrivals(self._store, self._arrived)

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self._lease / 3)
            await asyncio.gather(*(self._renew_one(work) for work in list(self._works)))

    async def _renew_one(self, work: _ActiveClaim) -> None:
        try:
            renewed = await self._store.renew(work.claim, lease=self._lease)
        except Exception as error:  # noqa: BLE001 - all leases would end with this task
            self._say("renew", "cannot renew a lease", error)
        else:
            if work in self._works:  # what ended meanwhile needs no lease
                self._keep_if(work, renewed)


def _is_suspect(claim: Claim) -> bool:
    """Return whether a process ended, without a word, while it handled this delivery alone.

    One of them is handled at a time in a process, and nothing is claimed meanwhile, so that the
    end of the process counts for none that only stood near.
    """
    return claim.deliveries[0].crashes > 1


async def notify_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Tell other processes whenever the event is set, until cancelled."""
    log = ThrottledLogger(logger)
    while True:
        await arrived.wait()
        arrived.clear()
        try:
            await store.notify()
        except StoreError as error:
            logger.debug("other processes are not told of deliveries: %s", error)
        except Exception:
            log.log(
                logging.ERROR, "notify", "cannot tell other processes of deliveries", exc_info=True
            )


async def listen_for_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Set the event whenever another process tells, until cancelled or where none can."""
    log = ThrottledLogger(logger)
    while True:
        try:
            return await store.listen(arrived.set)
        except StoreError as error:
            logger.debug("deliveries of other processes are only looked for: %s", error)
        except Exception:
            log.log(logging.ERROR, "listen", "cannot hear of other processes", exc_info=True)
        await anyio.sleep(LISTEN_PAUSE)


async def iter_dead_letters(
    store: Store,
    *,
    resource: str | None = None,
    webhook: str | None = None,
    reason: str | None = None,
    buried_before: datetime | None = None,
) -> AsyncIterator[DeadLetter]:
    """Yield the dead letters, oldest first, that fit all that is given.

    ``resource`` and ``webhook`` are gids, ``reason`` is a part of the letter's reason whatever the
    case. Letters may be replayed or discarded meanwhile. It goes through as many as there were at
    the beginning and no more, so that replaying what fails again comes to an end.
    """
    left = (await store.counts()).dead_letters
    routes: dict[str, Route | None] = {}
    after = ""
    while left > 0 and (
        letters := await store.dead_letters(limit=min(left, LETTERS_PAGE), after=after)
    ):
        left -= len(letters)
        for letter in letters:
            if letter.route not in routes:
                routes[letter.route] = await store.get_route(letter.route)
            route = routes[letter.route]
            if (
                (resource is None or (route and route.resource == resource))
                and (webhook is None or (route and route.gid == webhook))
                and (reason is None or reason.casefold() in letter.reason.casefold())
                and (buried_before is None or letter.buried_at < buried_before)
            ):
                yield letter
        after = letters[-1].id
