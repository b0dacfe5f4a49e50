"""The claims that are worked on: made, renewed, and settled with what was found of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, NamedTuple

import anyio
from msgspec.structs import replace

from ._active_claim import ActiveClaim, Buried, Item, Outbox
from ._attempt import DAMAGED, NO_DIGEST, Attempt, SyncError, Undecodable, body_of, event_letter
from ._deadline import Deadline
from ._dispatch import Line
from ._echoes import Echoes
from ._failures import BackOff, Verdict, described, reason_of
from ._logging import ThrottledLogger
from ._remembered import Remembered, Sight, came_afterwards, pack
from .errors import StoreError
from .models import Claim, Event, Progress, Retry, Settlement, Source
from .stores import Store
from .telemetry import Telemetry

__all__ = ["BATCH", "LEASE", "POLL", "ClaimSettings", "Claims", "Ledger"]

LEASE = 30.0
"""Seconds after which a dead worker's deliveries are taken over; a living one renews."""

BATCH = 100
"""How many deliveries of one webhook are claimed at a time; twice as many are held."""

MAX_BUFFERED = 64 * 1024 * 1024
"""Bytes of bodies in all claims from which on nothing more is claimed."""

POLL = 1.0
"""Seconds between looks for what became due, or was stored by another process."""

ACK_AFTER = 0.05
"""Seconds of handled work that is done again, at most, when the process is killed."""

TICK = 0.02
"""Seconds between two looks, at least, for what is tried again sooner than in ``POLL``."""

FINISH_TIMEOUT = 5.0

FINISH_PAUSE = 0.25
"""Seconds after which a store is told again of what was handled, for those of the timeout."""

MAX_ROUTES = 10_000
"""Of so many routes it is known whose they are, the latest of all."""

logger = logging.getLogger(__name__)


class ClaimSettings(NamedTuple):
    """The options of claims. ``in_lanes``: events of different resources are side by side."""

    lease: float
    poll: float
    in_lanes: bool
    back_off: BackOff
    may_claim: Callable[[], bool]
    on_gap: Callable[[Source, str], object]
    ledger: Ledger
    echoes: Echoes | None


class Ledger:
    """Told of what Asana delivers; it keeps no account of it."""

    def delivered(self, source: Source, seconds: float) -> None:
        """Note a delivery that was received so many seconds after its first change."""

    def came_afterwards(self, source: Source) -> None:
        """Note an event that was delivered after it was taken from the stream."""


class Claims:
    """Makes claims, keeps their leases, and settles them.

    ``start`` runs a coroutine beside; ``freed`` is called when something can be claimed that could
    not be before.
    """

    def __init__(
        self,
        store: Store,
        settings: ClaimSettings,
        *,
        telemetry: Telemetry,
        start: Callable[[Coroutine[Any, Any, None]], object],
        freed: Callable[[], None],
    ) -> None:
        self.active: set[ActiveClaim] = set()
        self.is_closed = False
        self._store = store
        self._settings = settings
        self._telemetry = telemetry
        self._start = start
        self._freed = freed
        self._remembered = Remembered(store.remembered)
        self._sources: dict[str, Source] = {}
        self._buffered = 0
        self._suspect: ActiveClaim | None = None
        self._due: dict[int, asyncio.TimerHandle] = {}
        self._claims_under_way = 0
        self._no_claim = asyncio.Event()
        self._no_claim.set()
        self._finish_deadline = Deadline(FINISH_TIMEOUT)
        self._log = ThrottledLogger(logger)

    def close(self) -> None:
        """Claim nothing more; what is claimed is still settled."""
        self.is_closed = True
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()

    # Making claims

    async def claim(self, *, skip_accounts: Collection[str] = ()) -> ActiveClaim | None:
        """Return the next claim, and whose it is; None when there is none now.

        Webhooks of ``skip_accounts`` are passed over. A store that fails is asked again later: it
        is reported, and waited for.
        """
        try:
            return await self._claim(skip_accounts)
        except Exception as error:  # noqa: BLE001 - it is tried again, whatever it was
            self.say("claim", "cannot claim deliveries", error)
            await anyio.sleep(self._settings.poll)
            return None

    async def _claim(self, skip_accounts: Collection[str]) -> ActiveClaim | None:
        if not self.may_claim():
            return None
        claim = await self._claim_now(skip_accounts)
        if claim is None:
            return None
        work = self._begin(claim)
        try:
            await self._prepare(work)
        except BaseException:
            await self.end(work)
            raise
        return work if work in self.active else None  # it may have been closed while it waited

    def may_claim(self) -> bool:
        """Return whether something may be claimed now."""
        return (
            not self.is_closed
            and self._suspect is None
            and self._buffered < MAX_BUFFERED
            and self._settings.may_claim()
        )

    async def _claim_now(self, skip_accounts: Collection[str]) -> Claim | None:
        """Return a claim; a suspect that another claim has brought already is given back."""
        self._claims_under_way += 1
        self._no_claim.clear()
        try:
            claim = await self._store.claim(
                limit=BATCH, lease=self._settings.lease, skip_accounts=skip_accounts
            )
            if claim is None or self._suspect is None or claim.deliveries[0].crashes <= 1:
                return claim
            await self._store.end_claim(claim)  # or the other's kill would count for it too
            return None
        finally:
            self._claims_under_way -= 1
            if not self._claims_under_way:
                self._no_claim.set()

    def _begin(self, claim: Claim) -> ActiveClaim:
        work = ActiveClaim(claim)
        if len(claim.deliveries) < BATCH:
            work.asked_at = time.monotonic()
        self.active.add(work)
        self._buffered += work.size
        if work.is_suspect:
            self._suspect = work
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.lease, self._clear, work)
        return work

    async def _prepare(self, work: ActiveClaim) -> None:
        """Learn whose it is, and what is known of it; a suspect waits until it is alone."""
        route = work.claim.route
        source = work.source = self._sources.get(route) or await self._read_source(route)
        self._look_for_echoes(work, work.claim)
        if source.resource:
            name = f"{source.account}/{source.resource}"
            work.scope = await self._remembered.enter(name, work.claim)
        line = work.line = Line(source.account, lambda: self._refill(work, line))
        if work.is_suspect:
            await self._no_claim.wait()  # until no claim can bring another one

    def _look_for_echoes(self, work: ActiveClaim, claim: Claim) -> None:
        """Have the events of what was claimed judged, if there are writes."""
        if not claim.has_writes or self._settings.echoes is None:
            return
        if work.echoes is None:
            work.echoes = self._settings.echoes.of_claim()
        work.echoes.add(claim.deliveries)

    async def _read_source(self, id_: str) -> Source:
        try:
            route = await self._store.get_route(id_)
        except StoreError:  # its record is damaged, or the store is away
            routes = await self._store.list_routes()
            route = next((each for each in routes if each.id == id_), None)
        if route is None:
            return Source(webhook="", resource="")
        source = Source(webhook=route.gid or "", resource=route.resource, account=route.account)
        self._sources[id_] = source
        if len(self._sources) > MAX_ROUTES:
            del self._sources[next(iter(self._sources))]
        return source

    async def more(self, work: ActiveClaim) -> bool:
        """Claim more of what a claim's webhook has; return whether there was more."""
        work.asked_at = time.monotonic()
        try:
            more = await self._store.claim_more(work.claim, limit=BATCH)
        except Exception as error:  # noqa: BLE001 - it is asked again
            self.say("claim", "cannot claim deliveries", error)
            return False
        if work not in self.active:
            return False  # it has been given back, with what this has brought
        if more is None:
            self._lose(work)
        elif more.deliveries:
            self._look_for_echoes(work, more)
            self._buffered += work.add(more.deliveries)
            work.asked_at = -math.inf
            return True
        return False

    # What a claim holds

    def _refill(self, work: ActiveClaim, line: Line[Item]) -> bool:
        """Decode the next delivery; False when there is no more."""
        if not work.waiting:
            return False
        delivery, whose = work.waiting.popleft(), work.source
        source = Source(
            webhook=whose.webhook,
            resource=whose.resource,
            account=whose.account,
            received_at=delivery.received_at,
        )
        attempt = Attempt(delivery, source)
        if attempt.is_damaged:
            attempt.failed, attempt.left = attempt.left, 0
            work.outbox.buried.append(Buried(delivery, attempt.letter(DAMAGED)))
        else:
            self._note_latency(work, attempt)
            self._admit(work, line, attempt)
        if not attempt.left:
            self._remove(work, attempt)
        return True

    def _admit(self, work: ActiveClaim, line: Line[Item], attempt: Attempt) -> None:
        """Put events in their lanes, but for those that are known or have ended processes."""
        left = attempt.left
        attempt.entries = [b""] * len(attempt.items)
        is_deadly = work.is_dangerous and self._has_killed_too_often(attempt)
        in_lanes = self._settings.in_lanes and not work.is_dangerous
        is_judged = work.echoes is None
        for index in attempt.todo():
            event = attempt.items[index]
            if not isinstance(event, Event):
                self._note_odd(work, attempt, event)
                attempt.finish(index)
            elif not self._is_new(work, attempt, index, event):
                attempt.finish(index)
            elif is_deadly and index == attempt.first:
                self._bury_deadly(work, attempt, event)
                attempt.finish(index)
            else:
                lane = event.resource.gid if in_lanes else ""
                line.put(Item(work, line, attempt, index, event, lane, is_judged))
        if 0 < attempt.left < left:
            self.note_progress(work, attempt)

    def _is_new(self, work: ActiveClaim, attempt: Attempt, index: int, event: Event) -> bool:
        """Return whether an event was not seen before; that it came afterwards is remembered."""
        if work.scope is None:
            return True
        entry = attempt.entries[index] = pack(event, attempt.came)
        if attempt.comes_again:
            return True
        sight = work.scope.take(entry, work.claim)
        if sight is Sight.NEW:
            return True
        self._telemetry.duplicate(event)
        attempt.entries[index] = b""
        if sight is Sight.AFTERWARDS:
            attempt.entries[index] = came_afterwards(entry)
            self._settings.ledger.came_afterwards(work.source)
        return False

    def _note_latency(self, work: ActiveClaim, attempt: Attempt) -> None:
        delivery = attempt.delivery
        if delivery.progress or attempt.comes_again or not attempt.items:
            return
        first = attempt.items[0]
        if isinstance(first, Event):
            seconds = (delivery.received_at - first.created_at).total_seconds()
            self._settings.ledger.delivered(work.source, seconds)

    def _has_killed_too_often(self, attempt: Attempt) -> bool:
        """Whether the next event ended the process often, and at least once all alone."""
        return attempt.kills > 1 and (
            attempt.attempts_of(attempt.first) >= self._settings.back_off.max_attempts
        )

    def _bury_deadly(self, work: ActiveClaim, attempt: Attempt, event: Event) -> None:
        what = "its handlers ended the process, or blocked it for longer than a lease,"
        reason = f"{described(event)}: {what} {attempt.kills} times"
        attempt.failed += 1
        letter = event_letter(attempt, event, reason, ())
        work.outbox.buried.append(Buried(attempt.delivery, letter))

    def finish(self, item: Item) -> None:
        """Note that an event is done."""
        attempt = item.attempt
        attempt.finish(item.index)
        if attempt.left:
            self.note_progress(item.work, attempt)
        else:
            self._remove(item.work, attempt)

    def note_progress(self, work: ActiveClaim, attempt: Attempt) -> None:
        """Have the progress of a delivery settled soon."""
        if attempt not in work.outbox.progressed:
            work.outbox.progressed[attempt] = None
            self._settle_soon(work)

    def _note_odd(self, work: ActiveClaim, attempt: Attempt, item: Undecodable | SyncError) -> None:
        if isinstance(item, SyncError):
            self._settings.on_gap(work.source, item.message)
        else:
            attempt.failed += 1
            work.outbox.buried.append(Buried(attempt.delivery, attempt.letter_of(item)))

    def fail(self, item: Item, verdict: Verdict) -> Buried | None:
        """Note that handlers of an event have failed; return the dead letter, if it is one.

        That has its id once the claim is settled.
        """
        work, attempt, event = item.work, item.attempt, item.event
        attempt.failed += 1
        buried = None
        if verdict.dead:
            handlers = tuple(failure.handler for failure in verdict.dead)
            letter = event_letter(attempt, event, reason_of(event, verdict), handlers)
            buried = Buried(attempt.delivery, letter)
            work.outbox.buried.append(buried)
        if verdict.again:
            self._try_again(work, attempt, event, verdict)
        if verdict.again and attempt.is_alone:
            attempt.finish(item.index)
            self._forget(work, attempt)
        else:
            self.finish(item)
        return buried

    def _try_again(
        self, work: ActiveClaim, attempt: Attempt, event: Event, verdict: Verdict
    ) -> None:
        """Have an event come again for the handlers that failed: alone, in a row of its own."""
        self._telemetry.became(attempt.delivery, "retried")
        delivery = replace(
            attempt.delivery,
            attempts=verdict.attempts,
            progress=Progress(
                pending=tuple(each.handler for each in verdict.again), via=attempt.via
            ).encode(),
            crashes=0,
        )
        if not attempt.is_alone:
            delivery = replace(delivery, id="", body=body_of(event), digest=NO_DIGEST)
        work.outbox.retries.append(Retry(delivery=delivery, delay=verdict.delay))
        self._settle_soon(work)

    def _remove(self, work: ActiveClaim, attempt: Attempt) -> None:
        """Note that all events of a delivery are done."""
        work.outbox.removed.append(attempt.delivery.id)
        work.outbox.entries.append(attempt.take_entries())
        self._forget(work, attempt)
        if attempt.failed < len(attempt.items) or not attempt.items:
            self._telemetry.became(attempt.delivery, "handled")

    def _forget(self, work: ActiveClaim, attempt: Attempt) -> None:
        size = len(attempt.delivery.body)
        self._buffered -= size
        work.size -= size
        work.unfinished -= 1
        work.outbox.progressed.pop(attempt, None)
        if work.unfinished:
            self._settle_soon(work)
        else:
            self._end_if_over(work)  # unless whoever handles its last event does

    # Settling

    def _settle_soon(self, work: ActiveClaim) -> None:
        if work.timer is None and work in self.active:
            loop = asyncio.get_running_loop()
            work.timer = loop.call_later(ACK_AFTER, self._settle_now, work)

    def _settle_now(self, work: ActiveClaim) -> None:
        work.timer = None
        self._start(self.settle(work))

    async def settle(self, work: ActiveClaim) -> None:
        """Settle what was found of a claim. When that fails nothing more of it begins."""
        try:
            await self._settle(work)
        except Exception as error:  # noqa: BLE001 - it is tried again in the end
            self.report(error)
            self._close(work)

    async def end(self, work: ActiveClaim) -> None:
        """Settle all that was found of a claim, and give it back, unless it is given back."""
        if work not in self.active:
            return
        self.active.discard(work)
        work.close()
        try:
            with contextlib.suppress(TimeoutError):
                await self._finish_deadline.wait_for(self._end_at_last(work))
        finally:
            self._let_go(work)

    async def _end_at_last(self, work: ActiveClaim) -> None:
        while not await self._try_to_end(work):  # noqa: ASYNC110 - no event tells it
            await anyio.sleep(FINISH_PAUSE)

    async def _try_to_end(self, work: ActiveClaim) -> bool:
        """End a claim; return False when the store, which may be restarted, is to be asked again.

        What it never hears of is handled again when the lease has ended by itself.
        """
        try:
            await self._settle(work, is_end=True)
        except Exception as error:  # noqa: BLE001 - the claim is let go after any
            self.report(error)
            return self.is_closed or not isinstance(error, StoreError)
        return True

    def _end_if_over(self, work: ActiveClaim) -> None:
        if work.is_over:
            self._start(self.end_beside(work))

    async def end_beside(self, work: ActiveClaim) -> None:
        """End a claim, also in a scope that was cancelled, and tell those who look for others."""
        with anyio.CancelScope(shield=True):
            await self.end(work)
        self._freed()

    def _let_go(self, work: ActiveClaim) -> None:
        self._buffered -= work.size
        if work.scope is not None:
            work.scope.let_go(work.claim)
            self._remembered.leave(work.scope, work.claim, is_sure=work.is_sure)
        self._clear(work)

    def _clear(self, work: ActiveClaim) -> None:
        """Claim others beside one that was suspect: it has ended, or goes on for a long time.

        A handler that ends the process after more than a lease shows itself by that.
        """
        if self._suspect is work:
            self._suspect = None
            self._freed()

    async def _settle(self, work: ActiveClaim, *, is_end: bool = False) -> None:
        async with work.writing:
            if not work.leased or not (is_end or (work.outbox and work in self.active)):
                return
            outbox, work.outbox = work.outbox, Outbox()
            call = self._store.end_claim if is_end else self._store.settle
            settlement = outbox.settlement("" if work.scope is None else work.scope.name)
            is_sure, work.is_sure = work.is_sure, False
            try:
                letters = await call(work.claim, settlement)
            except BaseException:  # nobody knows whether it was settled
                outbox.extend(work.outbox)
                work.outbox = outbox
                raise
            work.is_sure = is_sure
        if letters is None:
            self._lose(work)
        else:
            self._settled(work, outbox, settlement, letters)

    def _settled(
        self, work: ActiveClaim, outbox: Outbox, settlement: Settlement, letters: Sequence[str]
    ) -> None:
        self._wake_for(outbox.retries)
        if work.scope is not None:
            work.scope.learn(settlement.events)
        for buried, id_ in zip(outbox.buried, letters, strict=True):
            letter = buried.letter = replace(buried.letter, id=id_)
            self._telemetry.became(buried.delivery, "dead", letter.reason)
            if not letter.handlers:  # or the failure is logged
                gid = work.source.webhook
                whose = f"webhook {gid}" if gid else "a webhook that is gone"
                text = "dead letter %s of %s: %s"
                self._log.log(logging.ERROR, "bury", text, id_, whose, letter.reason)

    def _wake_for(self, retries: Sequence[Retry]) -> None:
        """Tell when retries fall due that would be late if they waited for the next poll."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for retry in retries:
            if self.is_closed or retry.delay >= self._settings.poll:
                continue
            tick = math.ceil((now + retry.delay) / TICK)
            if tick not in self._due:
                self._due[tick] = loop.call_at(tick * TICK, self._wake, tick)

    def _wake(self, tick: int) -> None:
        del self._due[tick]
        self._freed()

    def _lose(self, work: ActiveClaim) -> None:
        if work.leased:
            logger.warning("a lease ran out under a handler: its deliveries are handled again")
        work.leased = work.is_sure = False
        self._close(work)

    def _close(self, work: ActiveClaim) -> None:
        work.close()
        self._end_if_over(work)

    # Leases

    async def renew(self) -> None:
        """Renew the leases of all claims, until cancelled."""
        while True:
            await anyio.sleep(self._settings.lease / 3)
            await asyncio.gather(*(self._renew(work) for work in list(self.active)))

    async def _renew(self, work: ActiveClaim) -> None:
        try:
            renewed = await self._store.renew(work.claim, lease=self._settings.lease)
        except Exception as error:  # noqa: BLE001 - all leases would end with this task
            self.say("renew", "cannot renew a lease", error)
        else:
            if not renewed and work in self.active:  # what ended meanwhile needs no lease
                self._lose(work)

    # Words

    def report(self, error: Exception) -> None:
        """Log why deliveries will be handled again."""
        self.say("work", "deliveries will be handled again", error)

    def say(self, kind: str, what: str, error: Exception) -> None:
        """Log an error of the store, at most one of a kind in ten seconds."""
        if isinstance(error, StoreError):
            self._log.log(logging.ERROR, kind, "%s: %s", what, error)
        else:
            self._log.log(logging.ERROR, kind, "%s", what, exc_info=True)
