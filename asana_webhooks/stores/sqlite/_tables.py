"""The calls of the store about its inbox, in SQL."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
from collections.abc import Callable, Collection, Generator, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from msgspec.structs import replace

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Settlement
from .. import (
    DUPLICATES_KNOWN_FOR,
    MAX_CLAIM_BYTES,
    MAX_HELD,
    MAX_HELD_BYTES,
    held_full,
    inbox_full,
    page_of,
)
from .._codec import MICROSECOND, letter_of, to_micros
from .._encryption import SecretCipher
from ._digests import Digests, key_of
from ._file import SQL, text_of
from ._routes import Routes
from ._rows import (
    ROW_ID,
    UNREADABLE,
    UnreadableRowError,
    delivery_of,
    from_letter,
    from_retry,
    is_count,
    is_fence,
    is_queue,
    letter_of_delivery,
    letter_of_row,
    time_of,
)
from ._statements import KNOWN_FOR, chunks, placeholders, wall_clock
from ._states import States
from ._writes import Writes

__all__ = ["Put", "Tables"]

logger = logging.getLogger(__name__)

FORGOTTEN_AT_ONCE = 10_000
"""How many digests, batches of events and writes are looked at, at most, when nothing is done."""

FREE_PAGES = 1024
"""How many free pages the file keeps, or a third of those in use when that is more."""

PAGES_AT_ONCE = 256
"""How many free pages go back to the disk in one transaction, at most."""

META_DAMAGED = "table meta of the file has lost its row: restart this program, which mends it"
QUEUE_DAMAGED = (
    "a row of table queues is damaged and cannot be made again: restore a copy of the file, or"
    " delete the row whose fence or route is no longer one"
)

FAR_OFF = 100 * 365 * 86400.0
"""Seconds after which nothing is due that was not damaged."""

Put: TypeAlias = tuple[Delivery, str | None, str | None]
"""A delivery, and its candidate and reason."""


class Tables(Digests, Routes, States, Writes):
    """All calls of the store: each a part of a transaction of the writer."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_waiting: int,
        clock: Callable[[], float],
        cipher: SecretCipher,
    ) -> None:
        super().__init__(connection, clock, cipher)
        self._max_waiting = max_waiting

    # Damage

    def mend(self) -> None:
        """Mend what was damaged so that it would wait without end, when the file is opened.

        Each is said; a delivery that is held for a candidate that is none becomes a dead letter.
        """
        times = {"now": self._now, "far": self._now + FAR_OFF}
        with self.transaction():
            for name in ("end_damaged_delays", "end_damaged_leases"):
                if ended := self._execute(SQL[name], times).rowcount:
                    logger.error("%d times were damaged in the store, and count as come", ended)
            for id_, route, *rest in self._run("list_orphans").fetchall():
                owner = route if isinstance(route, str) else ""
                self._bury_unreadable(owner, [(id_, *rest)])
            if self._offer_again():
                self._raise_fence()
            (fence,) = self._run("read_fence").fetchone()
            if not is_fence(fence):
                self._mend_fence()
            self._count_waiting_again()

    def _mend_fence(self) -> None:
        self._raise_fence()
        logger.error("the fence in table meta was damaged, and begins again")

    def _raise_fence(self) -> None:
        """Begin again with fences above any that a claim may have: a queue has lost its own."""
        self._run("set_fence", wall_clock())  # there was no claim in each microsecond

    def _offer_again(self) -> int:
        """Make the queues that lack of what waits; return how many there were."""
        if made := self._run("offer_again").rowcount:
            logger.error("%d queues were made again: their rows in the store were damaged", made)
        return made

    # Putting

    def put(self, puts: list[Put]) -> list[bool | StoreError]:
        """Keep deliveries, in few statements for many.

        Each statement lets go of the interpreter, and has to wait for it while a handler computes.
        """
        keys = [key_of(delivery) for delivery, _, _ in puts]
        known = self._find_digests(keys)
        intake = _Intake(known, self._max_waiting - self._count_waiting())
        answers = [self._admit(intake, key, *put) for key, put in zip(keys, puts, strict=True)]
        self._insert("put", intake.deliveries)
        self._waiting_change += intake.waiting
        self._insert("offer", [(route, self._now) for route in intake.offers])
        self._bury(intake.letters)
        if intake.learnt:
            self._learn_digests(intake.learnt)
        return answers

    def _count_waiting(self) -> int:
        row = self._run("count_waiting").fetchone()
        if row is None:
            raise StoreError(META_DAMAGED)
        if not is_count(row[0]):
            self._count_waiting_again()
            logger.error("the count of table meta was damaged, and what waits is counted again")
            row = self._run("count_waiting").fetchone()
        return int(row[0]) + self._waiting_change

    def _count_waiting_again(self) -> None:
        self._run("count_waiting_again")
        self._waiting_change = 0

    def _admit(
        self,
        intake: _Intake,
        key: bytes,
        delivery: Delivery,
        candidate: str | None,
        reason: str | None,
    ) -> bool | StoreError:
        at = to_micros(delivery.received_at)
        found = (None,) if candidate is None else self._find_candidate(delivery.route, candidate)
        if found is None or intake.knows(key, at):
            return False
        (holder,) = found
        if reason is not None:
            intake.letters.append(letter_of(delivery, reason))
        elif holder is not None:
            if not self._may_hold(intake, holder, len(delivery.body)):
                return held_full()
            intake.take(delivery, at, self._now, holder)
        elif intake.remaining_capacity > 0:
            intake.remaining_capacity -= 1
            intake.waiting += 1
            intake.take(delivery, at, self._now, None)
            intake.offers[delivery.route] = None
        else:
            return inbox_full(self._max_waiting)
        intake.learn(key, at)
        return True

    def _may_hold(self, intake: _Intake, holder: int, size: int) -> bool:
        if holder not in intake.held:
            intake.held[holder] = self._run("count_held", holder).fetchone()
        count, held = intake.held[holder]
        if count >= MAX_HELD or held + size > MAX_HELD_BYTES:
            return False
        intake.held[holder] = count + 1, held + size
        return True

    # Claiming

    def claim(
        self, given: list[Claim], *, limit: int, lease: float, skip_accounts: Collection[str]
    ) -> Claim | None:
        """Return what is due; ``given`` holds it for whoever finds the claimant gone."""
        while row := self._find_due(skip_accounts):
            *queue, floor, _ = row
            if not is_fence(floor):
                self._mend_fence()
                continue
            if not is_queue(tuple(queue)):
                self._mend_queue(queue[0])
                continue
            route, fence, leased, claimed = queue
            if leased and claimed:  # the lease ran out
                self._change(claimed.split(","), "count_crashes", route)
            rows = self._run("take", route, self._now, limit)
            deliveries = self._take(route, rows, crashed=True)
            if not deliveries:  # all of it was put off, or cannot be read
                self._run("end_claim", route)
                continue
            new = max(fence, floor) + 1
            ids = ",".join(delivery.id for delivery in deliveries)
            self._run("lease", self._now + lease, new, ids, route)
            claim = Claim(
                route=route,
                fence=new,
                previous=fence,
                deliveries=deliveries,
                has_writes=self._has_writes(),
            )
            given[:] = [claim]
            return claim
        return None

    def _find_due(self, skip_accounts: Collection[str]) -> tuple[Any, ...] | None:
        """Return the first queue with something due, the largest fence, and the account or None."""
        values = {"skipping": bool(skip_accounts), "now": self._now}
        with contextlib.closing(self._execute(SQL["find_due"], values)) as rows:
            return next((row for row in rows if row[-1] not in skip_accounts), None)

    def _has_writes(self) -> bool:
        (has_writes,) = self._run("has_writes").fetchone()
        return bool(has_writes)

    def give_back(self, given: list[Claim]) -> None:
        for claim in given:
            self.end_claim(claim)

    def claim_more(self, given: list[Delivery], claim: Claim, *, limit: int) -> Claim | None:
        """Return what else is due; ``given`` holds it for whoever finds the claimant gone."""
        claimed = self._claimed(claim)
        if claimed is None:
            return None
        rows = self._run("take_more", claim.route, self._now, ",".join(claimed), limit)
        deliveries = self._take(claim.route, rows, crashed=False)
        if deliveries:
            left = self._left(claim.route, claimed)  # removed ones pile up
            ids = [*left, *(delivery.id for delivery in deliveries)]
            self._run("set_claimed", ",".join(ids), claim.route)
        given[:] = deliveries
        return replace(claim, deliveries=deliveries, has_writes=self._has_writes())

    def _left(self, route: str, ids: Sequence[str]) -> list[str]:
        """Return those of these ids of which there are deliveries."""
        left: list[str] = []
        for chunk in chunks(ids):
            statement = placeholders(SQL["find_deliveries"], len(chunk))
            left += [str(id_) for (id_,) in self._execute(statement, (route, *chunk))]
        return left

    def give_more_back(self, given: list[Delivery], claim: Claim) -> None:
        claimed = self._claimed(claim)
        if claimed is not None:
            ids = {delivery.id for delivery in given}
            self._run(
                "set_claimed", ",".join(id_ for id_ in claimed if id_ not in ids), claim.route
            )

    def renew(self, claim: Claim, *, lease: float) -> bool:
        return self._run("renew", self._now + lease, claim.route, claim.fence).rowcount == 1

    def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        if after and not ROW_ID.fullmatch(after):
            return []
        rows = self._run("peek", route, after or 0)
        with contextlib.closing(self._readable(route, rows)) as readable:
            return page_of(itertools.islice(readable, limit))

    def counts(self) -> Counts:
        self._run("forget_routes", self._now)
        held, letters, oldest = self._run("count").fetchone()
        waiting = self._count_waiting() + held
        return Counts(waiting=waiting, dead_letters=letters, oldest_at=time_of(oldest))

    def _take(self, route: str, rows: sqlite3.Cursor, *, crashed: bool) -> tuple[Delivery, ...]:
        """Return the first deliveries of these; one that may kill its process comes alone.

        Without ``crashed`` neither it comes nor what is behind it.
        """
        deliveries: list[Delivery] = []
        size = 0
        with contextlib.closing(self._readable(route, rows)) as readable:
            for delivery in readable:
                size += len(delivery.body)
                if deliveries and size > MAX_CLAIM_BYTES:
                    break
                if delivery.crashes and (deliveries or not crashed):
                    break
                deliveries.append(delivery)
                if delivery.crashes:
                    break
        return tuple(deliveries)

    def _readable(self, route: str, rows: sqlite3.Cursor) -> Generator[Delivery, None, None]:
        """Yield the deliveries of these rows; what cannot be read becomes a dead letter."""
        unreadable: list[tuple[Any, ...]] = []
        try:
            for row in rows:
                try:
                    yield delivery_of(route, row)
                except UnreadableRowError:
                    unreadable.append((row[0], row[2], row[-1]))
        finally:
            rows.close()
            self._bury_unreadable(route, unreadable)

    def _bury_unreadable(self, route: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for id_, received_at, body in rows:
            self._bury([letter_of_delivery(route, received_at, body)])
            self._run("drop_delivery", id_)
            self._waiting_change -= 1
            logger.error("delivery %d became a dead letter: %s", id_, UNREADABLE)

    def _mend_queue(self, route: Any) -> None:
        """Make a queue that cannot be read again, of what waits in it."""
        # as it is, and as text if it may be one: those of a sound text are none of its business
        is_text = isinstance(text_of(route) if isinstance(route, bytes) else route, str)
        either = (route, None if is_text else route)
        if not self._run("drop_queue", *either).rowcount:
            raise StoreError(QUEUE_DAMAGED)  # and not the same again, without end
        self._raise_fence()
        if not isinstance(route, str):  # nobody can name it: its deliveries are of no route
            self._bury_unreadable("", self._run("list_unreadable", *either).fetchall())
            self._count_waiting_again()  # some may have been held
        self._offer_again()

    def _claimed(self, claim: Claim) -> list[str] | None:
        """Return the ids that a claim was given and still has; None without its lease.

        Those of removed deliveries may be among them.
        """
        row = self._run("get_claimed", claim.route, claim.fence).fetchone()
        return None if row is None else str(row[0] or "").split(",")

    # Settling

    def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
        claimed = self._claimed(claim)
        if claimed is None:
            return None
        letters = self._settle(claim.route, set(claimed), settlement)
        if settlement.retries:
            released = {retry.delivery.id for retry in settlement.retries}
            held = ",".join(id_ for id_ in claimed if id_ not in released)
            self._run("set_claimed", held, claim.route)
        return letters

    def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        claimed = self._claimed(claim)
        if claimed is None:
            return None
        letters = () if settlement is None else self._settle(claim.route, set(claimed), settlement)
        self._run("end_claim", claim.route)
        return letters

    def remembered(self, scope: str, *, within: timedelta = DUPLICATES_KNOWN_FOR) -> bytes:
        now, known_for = wall_clock(), min(within // MICROSECOND, KNOWN_FOR)
        rows = self._run("find_remembered", scope, now - known_for, now + KNOWN_FOR)
        return b"".join(events for (events,) in rows)

    def _settle(self, route: str, claimed: set[str], settlement: Settlement) -> tuple[str, ...]:
        """Keep a result; return the ids of its dead letters."""
        removed = [id_ for id_ in settlement.removed if id_ in claimed]
        self._waiting_change -= self._change(removed, "remove", route)
        for delivery in settlement.kept:
            if delivery.id in claimed:
                self._keep(route, delivery, due=None)
        new = []
        for retry in settlement.retries:
            due = self._now + retry.delay
            if not retry.delivery.id:
                new.append(from_retry(route, retry.delivery, due))
            elif retry.delivery.id in claimed:
                self._keep(route, retry.delivery, due=due if retry.delay else None)
        self._try_again(new)
        if settlement.events:
            now = wall_clock()
            self._run("remember", settlement.scope, now, settlement.events)
            self._forget("forget_events", 1, now)
        return self._bury(settlement.letters)

    def _keep(self, route: str, delivery: Delivery, *, due: float | None) -> None:
        """Keep what a worker says of a delivery; without ``due`` it keeps its place."""
        self._run("keep", due, delivery.attempts, delivery.progress, delivery.id, route)

    # Dead letters

    def _bury(self, letters: Sequence[DeadLetter]) -> tuple[str, ...]:
        """Keep dead letters; return their ids."""
        return tuple(str(self._run("bury", *from_letter(each)).lastrowid) for each in letters)

    def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        if after and not ROW_ID.fullmatch(after):
            return []
        with contextlib.closing(self._run("list_dead_letters", after or 0, limit)) as rows:
            return page_of(map(letter_of_row, rows))

    def get_dead_letter(self, id: str) -> DeadLetter | None:
        if not ROW_ID.fullmatch(id):
            return None
        row = self._run("get_dead_letter", id).fetchone()
        return letter_of_row(row) if row else None

    def replay(self, ids: Sequence[str]) -> int:
        return sum(self._replay(id_) for id_ in ids)

    def discard(self, ids: Sequence[str]) -> int:
        known = filter(ROW_ID.fullmatch, ids)
        return sum(self._run("drop_dead_letter", id_).rowcount for id_ in known)

    def _replay(self, id_: str) -> bool:
        letter = self.get_dead_letter(id_)
        if letter is None:
            return False
        self._run("replay", self._now, id_)
        self._waiting_change += 1
        self._insert("offer", [(letter.route, self._now)])
        self._run("drop_dead_letter", id_)
        return True

    # What has come to its end

    def forget(self) -> None:
        """Forget what has come to its end, though nothing new came."""
        with self.transaction():
            self._run("forget_routes", self._now)
            self._run("forget_owners", self._now)
            self._run("forget_holders", self._now)
            self._forget_digests(FORGOTTEN_AT_ONCE, wall_clock())
            for name in self._unpruned:
                self._run(name, FORGOTTEN_AT_ONCE, wall_clock(), KNOWN_FOR)
            (fence,) = self._run("find_forgotten_fence").fetchone()
            if fence is not None:
                self._run("keep_fence", fence)
                self._run("forget_queues")

    def give_back_pages(self) -> bool:
        """Give some free pages back to the disk; True when there are more."""
        row = self._run("read_free_pages").fetchone()
        if row is None or row[0] <= max(FREE_PAGES, row[1] // 4):  # none in files of old versions
            return False
        with self.transaction():
            for _ in range(PAGES_AT_ONCE):  # sqlite3 gives one back, whatever the number
                self._run("give_back_page")
        self._run("checkpoint").fetchall()  # which is what makes the file shorter
        return True


class _Intake:
    """The puts of one batch: the rows to insert, and the reasons against them.

    ``waiting`` is how many of them wait from then on, ``held`` how many deliveries and bytes each
    candidate holds.
    """

    def __init__(self, known: dict[bytes, int], remaining_capacity: int) -> None:
        self.remaining_capacity = remaining_capacity
        self.waiting = 0
        self.learnt: list[tuple[bytes, int]] = []
        self.deliveries: list[tuple[Any, ...]] = []
        self.letters: list[DeadLetter] = []
        self.offers: dict[str, None] = {}
        self.held: dict[int, tuple[int, int]] = {}
        self._known = known

    def knows(self, key: bytes, at: int) -> bool:
        known = self._known.get(key)
        return isinstance(known, int) and abs(at - known) <= KNOWN_FOR

    def learn(self, key: bytes, at: int) -> None:
        self._known[key] = at
        self.learnt.append((key, at))

    def take(self, delivery: Delivery, at: int, due: float, holder: int | None) -> None:
        self.deliveries.append(
            (delivery.route, delivery.digest, at, due, holder, delivery.trace, delivery.body)
        )
