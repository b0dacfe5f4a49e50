"""From the store to the handlers: claims, attempts, back-off, dead letters."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import anyio
import msgspec

from ._background import background_task
from ._logging import ThrottledLogger
from .errors import DecodeError, StoreError
from .models import Claim, DeadLetter, Delivery, Event, Route, read_event, split_events
from .router import HandlerError
from .stores import Store
from .telemetry import Telemetry

__all__ = ["Attempt", "Inbox", "iter_dead_letters", "listen_for_arrivals", "notify_arrivals"]

LEASE = 30.0
"""Seconds after which a dead worker's deliveries are taken over; a living one renews."""

BATCH = 100
"""How many deliveries of one webhook are claimed at a time."""

POLL = 1.0
"""Seconds between looks for what became due, or was stored by another process."""

ACK_AFTER = 0.05
"""Seconds of handled work that is done again, at most, when the process is killed."""

FIRST_DELAY, LONGEST_DELAY = 1.0, 600.0
"""Seconds before the second attempt, doubled for each further one up to the longest."""

GRACE = 8.0
"""Seconds that handlers have to end when the drain is cancelled."""

FINISH_TIMEOUT = 5.0

LISTEN_PAUSE = 5.0
"""Seconds before listening is tried again after it has failed."""

LETTERS_PAGE = 100

logger = logging.getLogger(__name__)

Handle = Callable[[Event], Awaitable[None]]


class _ActiveClaim:
    """A claim being worked on: the attempt under way, and what is handled but not yet acked."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.leased = True
        self.attempt: Attempt | None = None
        self.handled: list[Delivery] = []
        self.acked_at = time.monotonic()


class Inbox:
    """Drains the store: each delivery ends handled, or as a dead letter.

    Deliveries of one webhook are worked on one after the other, of up to ``concurrency`` webhooks
    side by side. As a context manager it keeps the leases of what is being worked on.
    ``telemetry`` is told of each attempt, and of what becomes of deliveries.

    Raises ValueError for a ``concurrency`` or ``max_attempts`` below 1.
    """

    def __init__(
        self,
        store: Store,
        *,
        concurrency: int = 10,
        max_attempts: int = 10,
        first_delay: float = FIRST_DELAY,
        lease: float = LEASE,
        poll: float = POLL,
        grace: float = GRACE,
        telemetry: Telemetry | None = None,
    ) -> None:
        for name, number in (("concurrency", concurrency), ("max_attempts", max_attempts)):
            if number < 1:
                msg = f"{name} must be at least 1, not {number}"
                raise ValueError(msg)
        self._telemetry = telemetry or Telemetry()
        self._store = store
        self._concurrency = concurrency
        self._max_attempts = max_attempts
        self._first_delay = first_delay
        self._lease = lease
        self._poll = poll
        self._grace = grace
        self._arrived = asyncio.Event()
        self._closed = False
        self._feeding: asyncio.Task[Any] | None = None
        self._draining: anyio.CancelScope | None = None
        self._drained = asyncio.Event()
        self._works: set[_ActiveClaim] = set()
        self._workers: dict[asyncio.Task[Any] | None, anyio.CancelScope] = {}
        self._announcing: anyio.CancelScope
        self._beside = AsyncExitStack()
        self._log = ThrottledLogger(logger)

    async def __aenter__(self) -> Self:
        self._closed = False
        announcing = self._announcing = anyio.CancelScope()
        await self._beside.enter_async_context(background_task(self._renew(), "leases"))
        await self._beside.enter_async_context(background_task(self._hint(announcing), "hints"))
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
            if self._draining is not None:
                await self._drained.wait()
            for work in list(self._works):
                await self._end(work)
        finally:
            await self._beside.aclose()

    def stop(self) -> None:
        """End the drain as if it were cancelled, and streams where they stand."""
        self._closed = True
        self._arrived.set()
        if self._draining is not None:
            self._draining.cancel()

    def is_worker(self) -> bool:
        """Return whether the task that asks is one in which the drain runs handlers."""
        return asyncio.current_task() in self._workers

    def arrived(self) -> None:
        """Tell that a delivery was stored: who works here, or else who works elsewhere."""
        self._arrived.set()

    async def drain(self, handle: Handle) -> None:
        """Give each event to ``handle``, which raises HandlerError, until cancelled or closed.

        Then it claims no more, lets what is being handled end within the grace, and cancels what
        is left; that stays in the store. Raises RuntimeError when it is under way already.
        """
        if self._draining is not None:
            msg = "deliveries are being handed to handlers already"
            raise RuntimeError(msg)
        self._drained.clear()
        try:
            with anyio.CancelScope() as self._draining:
                await self._drain(handle)
        finally:
            self._draining = None
            self._drained.set()

    async def _drain(self, handle: Handle) -> None:
        slots = asyncio.Semaphore(self._concurrency)

        async def work_on(claim: Claim) -> None:
            worker = asyncio.current_task()
            with anyio.CancelScope(shield=True) as self._workers[worker]:
                await self._work_on(claim, handle)
            del self._workers[worker]
            workers.start_soon(go_on)  # another task: a program may cancel that of a handler late

        async def go_on() -> None:
            claim = None if self._is_stopping() else await self._next_at_once()
            if claim is None:
                slots.release()
            else:
                await work_on(claim)

        async def feed() -> None:
            self._feeding = asyncio.current_task()
            try:
                while await slots.acquire() and (claim := await self._next()) is not None:
                    workers.start_soon(work_on, claim)
            finally:
                for scope in self._workers.values():
                    scope.deadline = anyio.current_time() + self._grace

        # Everything is in child tasks: a shield does not hold against Task.cancel of its own task.
        async with anyio.create_task_group() as workers:
            workers.start_soon(feed)

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Yield events, webhook by webhook; one is handled when the next is asked for.

        What was yielded last when the stream is closed is yielded again by the next one.
        """
        while (claim := await self._next()) is not None:
            work = self._begin(claim)
            try:
                for delivery in claim.deliveries:
                    work.attempt = Attempt(delivery)
                    for event in work.attempt.events():
                        yield event
                        if work not in self._works:
                            return
                    await self._handled(work, work.attempt)
                    if not work.leased:
                        break
            except StoreError as error:
                self._report(error)
            finally:
                await self._end(work)
                self._arrived.set()  # what came for this webhook meanwhile can be claimed now

    async def _next(self) -> Claim | None:
        """Return the next claim as soon as there is one, None when the inbox is closed."""
        self._announcing.cancel()  # who works here need not be told through the store
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
        try:
            return await self._store.claim(limit=BATCH, lease=self._lease)
        except StoreError as error:
            self._log.log(logging.ERROR, "claim", "cannot claim deliveries: %s", error)
            await anyio.sleep(self._poll)
            return None

    async def _work_on(self, claim: Claim, handle: Handle) -> None:
        work = self._begin(claim)
        try:
            for delivery in claim.deliveries:
                if self._is_stopping() or not work.leased:
                    break
                await self._attempt(work, delivery, handle)
        except StoreError as error:
            self._report(error)
        finally:
            await self._end(work)

    def _is_stopping(self) -> bool:
        feeding = self._feeding
        return feeding is None or feeding.done() or feeding.cancelling() > 0

    def _begin(self, claim: Claim) -> _ActiveClaim:
        work = _ActiveClaim(claim)
        self._works.add(work)
        return work

    async def _end(self, work: _ActiveClaim) -> None:
        if work not in self._works:
            return
        self._works.discard(work)
        with anyio.move_on_after(FINISH_TIMEOUT, shield=True):
            try:
                await self._give_back(work)
            except StoreError as error:
                self._report(error)

    async def _give_back(self, work: _ActiveClaim) -> None:
        attempt = work.attempt
        if attempt is not None and attempt.done > attempt.delivery.done:
            await self._release(work, attempt, delay=0.0, attempts=attempt.delivery.attempts)
        self._keep_if(work, await self._store.end_claim(work.claim, work.handled))

    def _report(self, error: StoreError) -> None:
        self._log.log(logging.ERROR, "work", "deliveries will be handled again: %s", error)

    async def _attempt(self, work: _ActiveClaim, delivery: Delivery, handle: Handle) -> None:
        work.attempt = attempt = Attempt(delivery)
        event: Event
        try:
            with self._telemetry.processing(delivery):
                for event in attempt.events():
                    await self._hand_over(event, handle)
        except HandlerError as failure:
            await self._failed(work, attempt, event, failure)
        else:
            await self._handled(work, attempt)

    async def _hand_over(self, event: Event, handle: Handle) -> None:
        try:
            await handle(event)
        except HandlerError as failure:
            cause, worker = failure.__cause__, asyncio.current_task()
            if isinstance(cause, asyncio.CancelledError):
                if self._is_stopping():
                    raise cause from None
                while worker is not None and worker.uncancel():
                    pass  # it was not us: the program cancelled a handler, and the worker goes on
            raise

    async def _handled(self, work: _ActiveClaim, attempt: Attempt) -> None:
        work.attempt = None
        odd = attempt.odd()
        if odd:
            await self._bury(work, attempt, odd)
            return
        self._telemetry.became(attempt.delivery, "handled")
        work.handled.append(attempt.delivery)
        if time.monotonic() - work.acked_at > ACK_AFTER:
            handled, work.handled = work.handled, []
            self._keep_if(work, await self._store.ack(work.claim, handled))
            work.acked_at = time.monotonic()

    async def _failed(
        self, work: _ActiveClaim, attempt: Attempt, event: Event, failure: HandlerError
    ) -> None:
        work.attempt = None
        delivery, cause = attempt.delivery, failure.__cause__
        attempts = 1 if attempt.done > delivery.done else delivery.attempts + 1
        delay = self._delay(attempts)
        last = attempts >= self._max_attempts
        logger.error(
            "handler %s failed on event %s, attempt %d of %d, %s",
            failure.handler,
            event.key,
            attempts,
            self._max_attempts,
            "now a dead letter" if last else f"again in {delay:.1f} s",
            exc_info=cause,
        )
        if last:
            reason = f"handler {failure.handler} failed {attempts} times: {_one_line(cause)}"
            await self._bury(work, attempt, [attempt.letter(reason)])
        else:
            self._telemetry.became(attempt.delivery, "retried")
            await self._release(work, attempt, delay=delay, attempts=attempts)

    def _delay(self, attempts: int) -> float:
        longest = min(LONGEST_DELAY, self._first_delay * 2.0 ** (attempts - 1))
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
            for letter in letters:
                self._log.log(logging.ERROR, "bury", "a dead letter: %s", letter.reason)

    def _keep_if(self, work: _ActiveClaim, leased: bool) -> None:  # noqa: FBT001 - a store's answer
        if work.leased and not leased:
            work.leased = False
            logger.warning("a lease ran out under a handler: its deliveries are handled again")

    async def _hint(self, announcing: anyio.CancelScope) -> None:
        """Tell other processes of arrivals; from the first claim on hear of theirs instead."""
        with announcing:
            await notify_arrivals(self._store, self._arrived)
        self._arrived.set()  # it may have taken the last one from those who work
        await listen_for_arrivals(self._store, self._arrived)

    async def _renew(self) -> None:
        while True:
            await anyio.sleep(self._lease / 3)
            for work in list(self._works):
                try:
                    renewed = await self._store.renew(work.claim, lease=self._lease)
                    if work in self._works:  # what ended meanwhile needs no lease
                        self._keep_if(work, renewed)
                except StoreError as error:
                    self._log.log(logging.ERROR, "renew", "cannot renew a lease: %s", error)


def _one_line(error: BaseException | None) -> str:
    """Return what an exception of a handler shows of itself, safe for logs and terminals."""
    try:
        text = repr(error)
    except Exception:  # noqa: BLE001 - a user's class, whose repr may have mistakes
        text = type(error).__name__
    return "".join(char if char.isprintable() else " " for char in text[:200])


class _Undecodable(msgspec.Struct, frozen=True):
    """What could not be decoded, as a delivery's body of its own, and why."""

    body: bytes
    reason: str


class Attempt:
    """One try to have a delivery's events handled: what is decoded, and how far it came."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.done = delivery.done
        self._items = _decode(delivery)

    def events(self) -> Iterator[Event]:
        """Yield the events that are not done; one is done when the next is asked for."""
        while self.done < len(self._items):
            item = self._items[self.done]
            if isinstance(item, Event):
                yield item
            self.done += 1

    def odd(self) -> list[DeadLetter]:
        """Return what could not be decoded, each as a dead letter of its own."""
        return [
            _letter(self.delivery, item.reason, item.body, done=0)
            for item in self._items
            if isinstance(item, _Undecodable)
        ]

    def letter(self, reason: str) -> DeadLetter:
        """Return the delivery as a dead letter, which knows what was handled of it."""
        return _letter(self.delivery, reason, self.delivery.body, done=self.done)


def _letter(delivery: Delivery, reason: str, body: bytes, *, done: int) -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
        done=done,
    )


def _decode(delivery: Delivery) -> list[Event | _Undecodable]:
    try:
        return [_decode_one(text, delivery.received_at) for text in split_events(delivery.body)]
    except DecodeError as error:
        return [_Undecodable(delivery.body, str(error))]


def _decode_one(text: msgspec.Raw, received_at: datetime) -> Event | _Undecodable:
    try:
        return read_event(text, received_at=received_at)
    except DecodeError as error:
        return _Undecodable(b'{"events":[%b]}' % bytes(text), str(error))


async def notify_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Tell other processes whenever the event is set, until cancelled."""
    while True:
        await arrived.wait()
        arrived.clear()
        with contextlib.suppress(StoreError):
            await store.notify()


async def listen_for_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Set the event whenever another process tells, until cancelled or where none can."""
    while True:
        try:
            return await store.listen(arrived.set)
        except StoreError as error:
            logger.debug("deliveries of other processes are only looked for: %s", error)
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
    case. Letters may be replayed or discarded meanwhile; what is buried only then is left out, so
    that replaying what fails again comes to an end.
    """
    begun = datetime.now(UTC)
    routes: dict[str, Route | None] = {}
    after = ""
    while letters := await store.dead_letters(limit=LETTERS_PAGE, after=after):
        for letter in letters:
            if letter.route not in routes:
                routes[letter.route] = await store.get_route(letter.route)
            route = routes[letter.route]
            if (
                letter.buried_at <= begun
                and (resource is None or (route and route.resource == resource))
                and (webhook is None or (route and route.gid == webhook))
                and (reason is None or reason.casefold() in letter.reason.casefold())
                and (buried_before is None or letter.buried_at < buried_before)
            ):
                yield letter
        after = letters[-1].id
