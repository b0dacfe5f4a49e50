"""The calls of the store, in SQL."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from msgspec.structs import replace

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import (
    DUPLICATES_KNOWN_FOR,
    MAX_CANDIDATES,
    MAX_CLAIM_BYTES,
    MAX_HELD,
    MAX_HELD_BYTES,
    RETIRED_KNOWN_FOR,
    held_full,
    inbox_full,
)
from .._codec import MICROSECOND, encode_filters, letter_of, prefix_of, to_micros
from .._encryption import EncryptedSecret, SecretCipher, report_unreadable, webhook_name
from ._file import SQL, text_of, transaction
from ._rows import (
    LETTER_ID,
    UNREADABLE,
    UnreadableRowError,
    chunks,
    delivery_of,
    from_letter,
    is_count,
    is_fence,
    is_queue,
    letter_of_delivery,
    letter_of_row,
    placeholders,
    route_of,
    time_of,
)

__all__ = ["Put", "Tables"]

logger = logging.getLogger(__name__)

PRUNE_EVERY = 256
"""How many digests are learnt before old ones are forgotten."""

FREE_PAGES = 1024
"""How many free pages the file keeps, or a third of those in use when that is more."""

PAGES_AT_ONCE = 256
"""How many free pages go back to the disk in one transaction, at most."""

KNOWN_FOR = DUPLICATES_KNOWN_FOR // MICROSECOND

ROUTE_DAMAGED = (
    "the row of a webhook in table routes is damaged: restore a copy of the file, or delete the"
    " webhook and establish it again"
)

META_DAMAGED = "table meta of the file has lost its row: restart this program, which mends it"
QUEUE_DAMAGED = (
    "a row of table queues is damaged and cannot be made again: restore a copy of the file, or"
    " delete the row whose fence or route is no longer one"
)

FAR_OFF = 100 * 365 * 86400.0
"""Seconds after which nothing is due that was not damaged."""

Put: TypeAlias = tuple[Delivery, str | None, str | None]
"""A delivery, and its candidate and reason."""


class Tables:
    """The calls of the store, in SQL: each a part of a transaction of the writer.

    ``steps`` grows with each statement.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_waiting: int,
        clock: Callable[[], float],
        cipher: SecretCipher,
    ) -> None:
        self.steps = 0
        self._cipher = cipher
        self._connection = connection
        self._max_waiting = max_waiting
        self._clock = clock
        self._now = clock()
        self._unpruned = 0
        self._set_aside: set[str] = set()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing; it happens at one reading of the clock."""
        with transaction(self._connection):
            changes = self._connection.total_changes
            self._now = self._clock()
            yield
            if self._connection.total_changes != changes:
                self._run("set_clock", self._now)

    def _run(self, name: str, *values: Any) -> sqlite3.Cursor:
        return self._execute(SQL[name], values)

    def _execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        self.steps += 1
        return self._connection.execute(statement, values)

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
            self._offer_again()
            (fence,) = self._run("read_fence").fetchone()
            if not is_fence(fence):
                self._mend_fence()
            self._run("count_waiting_again")

    def _mend_fence(self) -> None:
        """Begin again with fences above any that a claim may have."""
        self._run("set_fence", time.time_ns() // 1000)  # there was no claim in each microsecond
        logger.error("the fence in table meta was damaged, and begins again")

    def _offer_again(self) -> None:
        """Make the queues that lack of what waits."""
        if made := self._run("offer_again").rowcount:
            logger.error("%d queues were made again: their rows in the store were damaged", made)

    # Ownership

    def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        self._run("forget_owners", self._now)
        other = self._run("find_other_owner", public_url, holder).fetchone()
        if other is not None:
            return str(other[0])
        self._run("own", holder, public_url, self._now + ttl)
        return None

    def disown(self, holder: str) -> None:
        self._run("disown", holder)
        self._run("forget_owners", self._now)

    # Routes

    def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        self._run("forget_routes", self._now)
        values = {
            "id": route.id,
            "target": route.target,
            "prefix": prefix_of(route.target),
            "resource": route.resource,
            "filters": encode_filters(route.filters),
            "created_at": to_micros(route.created_at),
            "heartbeat_at": route.heartbeat_at and to_micros(route.heartbeat_at),
            "expires": self._now + ttl,
            "exclusive": exclusive,
        }
        return self._execute(SQL["reserve"], values).rowcount == 1

    def get_route(self, route: str) -> Route | None:
        try:
            route.encode()
        except UnicodeEncodeError:  # a stranger's path; no route has such an id
            return None
        row = self._execute(SQL["get_route"], {"route": route, "now": self._now}).fetchone()
        return self._route(row) if row else None

    def list_routes(self, resource: str | None = None) -> list[Route]:
        if resource is None:
            rows = self._run("list_routes", self._now)
        else:
            rows = self._run("list_routes_of", self._now, resource)
        return [route for row in rows.fetchall() if (route := self._listed(row))]

    def add_candidate(self, route: str, secret: str) -> bool:
        found = self.get_route(route)
        if found is None:
            return False
        if found.state == "reserved" and secret not in found.candidates:
            if len(found.candidates) == MAX_CANDIDATES:
                return False
            self._run("add_candidate", route, *self._cipher.encrypt(route, secret))
            return True
        return secret == found.secret or secret in found.candidates

    def confirm(self, route: str, *, gid: str, secret: str) -> bool:
        (candidate,) = self._find_candidate(route, secret) or (None,)
        if candidate is None:
            return False
        self._run("confirm", gid, candidate, route)
        if self._run("free_held", self._now, candidate).rowcount:
            self._insert("offer", [(route, self._now)])
        self._run("drop_candidates", route)
        return True

    def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        self._run("set_filters", encode_filters(filters), route)

    def note_heartbeat(self, route: str, at: datetime) -> None:
        self._run("set_heartbeat", to_micros(at), route)

    def retire(self, route: str) -> bool:
        expires = self._now + RETIRED_KNOWN_FOR.total_seconds()
        return self._run("retire", expires, route).rowcount == 1

    def drop(self, route: str) -> Route | None:
        found = self.get_route(route)
        if found is None or found.state != "reserved":
            return None
        self._run("drop", route)
        return found

    def _route(self, row: tuple[Any, ...]) -> Route:
        """Return the route of a row. Raises StoreError when it, or a secret, cannot be read."""
        *fields, secret, ciphertext = row
        try:
            route = route_of(tuple(fields))
        except UnreadableRowError:
            raise StoreError(ROUTE_DAMAGED) from None
        if secret is not None:
            kept = EncryptedSecret(secret, ciphertext)
            return replace(route, secret=self._cipher.decrypt(route.id, kept))
        if route.state == "reserved":
            rows = self._run("list_candidates", route.id).fetchall()
            candidates = (self._cipher.decrypt(route.id, EncryptedSecret(*row)) for row in rows)
            return replace(route, candidates=tuple(candidates))
        return route

    def _listed(self, row: tuple[Any, ...]) -> Route | None:
        """Return the route of a row, without its secrets where those cannot be read.

        None where even the row cannot be. Either is said once.
        """
        try:
            return self._route(row)
        except StoreError as error:
            id_, _, resource, _, _, gid, *_ = row
            if id_ not in self._set_aside:
                self._set_aside.add(id_)
                logger.error("%s is set aside: %s", webhook_name(gid, resource), error)
        try:
            return route_of(row[:-2])
        except UnreadableRowError:
            return None

    def _find_candidate(self, route: str, secret: str) -> tuple[int | None] | None:
        """Return the id of a candidate, None in its place when it is confirmed; None for others."""
        fingerprint = self._cipher.fingerprint(route, secret)
        values = {"route": route, "secret": fingerprint, "now": self._now}
        row: tuple[int | None] | None = self._execute(SQL["find_candidate"], values).fetchone()
        return row

    def reencrypt_secrets(self) -> None:
        """Encrypt with the newest key what is not, and leave nothing of it in the file.

        What cannot be decrypted is said and left. Raises StoreError when nothing encrypted can be.
        """
        self._run("erase")
        renewed, decrypted, unreadable = 0, 0, []
        with self.transaction():
            for kind in ("confirmed", "candidate"):
                rows = self._run(f"list_{kind}_secrets").fetchall()
                for id_, route, gid, resource, *columns in rows:
                    kept = EncryptedSecret(*columns)
                    try:
                        new = self._cipher.reencrypt(route, kept)
                    except StoreError:
                        unreadable.append((webhook_name(gid, resource), kept.ciphertext))
                        continue
                    decrypted += kept.ciphertext is not None
                    if new is not None:
                        self._run(f"set_{kind}_secret", *new, id_)
                        renewed += 1
            report_unreadable(unreadable, decrypted=decrypted)
        if renewed:
            self._run("empty_log")
        self._run("erase_no_more")

    # Putting

    def put(self, puts: list[Put]) -> list[bool | StoreError]:
        """Keep deliveries, in few statements for many.

        Each statement lets go of the interpreter, and has to wait for it while a handler computes.
        """
        intake = _Intake(self._known_digests(puts), self._max_waiting - self._count_waiting())
        answers = [self._admit(intake, *put) for put in puts]
        self._insert("learn_digests", intake.learnt)
        self._insert("put", intake.deliveries)
        self._insert("offer", [(route, self._now) for route in intake.offers])
        self._insert("bury", intake.letters)
        self._forget_digests(intake.learnt)
        return answers

    def _count_waiting(self) -> int:
        row = self._run("count_waiting").fetchone()
        if row is None:
            raise StoreError(META_DAMAGED)
        if not is_count(row[0]):
            self._run("count_waiting_again")
            logger.error("the count of table meta was damaged, and what waits is counted again")
            row = self._run("count_waiting").fetchone()
        return int(row[0])

    def _known_digests(self, puts: list[Put]) -> dict[bytes, int]:
        digests = [delivery.digest for delivery, _, _ in puts]
        found: dict[bytes, int] = {}
        for chunk in chunks(digests):
            statement = placeholders(SQL["find_digests"], len(chunk))
            found.update(self._execute(statement, chunk).fetchall())
        return found

    def _admit(
        self, intake: _Intake, delivery: Delivery, candidate: str | None, reason: str | None
    ) -> bool | StoreError:
        at = to_micros(delivery.received_at)
        found = (None,) if candidate is None else self._find_candidate(delivery.route, candidate)
        if found is None or intake.knows(delivery.digest, at):
            return False
        (holder,) = found
        if reason is not None:
            intake.letters.append(from_letter(letter_of(delivery, reason)))
        elif holder is not None:
            if not self._may_hold(intake, holder, len(delivery.body)):
                return held_full()
            intake.take(delivery, at, self._now, holder)
        elif intake.remaining_capacity > 0:
            intake.remaining_capacity -= 1
            intake.take(delivery, at, self._now, None)
            intake.offers[delivery.route] = None
        else:
            return inbox_full(self._max_waiting)
        intake.learn(delivery.digest, at)
        return True

    def _may_hold(self, intake: _Intake, holder: int, size: int) -> bool:
        if holder not in intake.held:
            intake.held[holder] = self._run("count_held", holder).fetchone()
        count, held = intake.held[holder]
        if count >= MAX_HELD or held + size > MAX_HELD_BYTES:
            return False
        intake.held[holder] = count + 1, held + size
        return True

    def _forget_digests(self, learnt: list[tuple[bytes, int]]) -> None:
        """Forget what is too old, twice as fast as new is learnt."""
        self._unpruned += len(learnt)
        if self._unpruned >= PRUNE_EVERY:
            self._run("forget_digests", 2 * self._unpruned, learnt[-1][1], KNOWN_FOR)
            self._unpruned = 0

    # Claiming

    def claim(self, given: list[Claim], *, limit: int, lease: float) -> Claim | None:
        """Return what is due; ``given`` holds it for whoever finds the claimant gone."""
        while row := self._run("find_due", self._now).fetchone():
            *queue, floor = row
            if not is_fence(floor):
                self._mend_fence()
                continue
            if not is_queue(tuple(queue)):
                self._mend_queue(queue[0])
                continue
            route, fence, leased, claimed = queue
            if leased and claimed:  # the lease ran out
                self._change(route, "count_crashes", claimed.split(","))
            deliveries = self._take(route, limit)
            ids = ",".join(delivery.id for delivery in deliveries)
            claim = Claim(route=route, fence=max(fence, floor) + 1, deliveries=deliveries)
            self._run("lease", self._now + lease, claim.fence, ids, route)
            if deliveries:
                given[:] = [claim]
                return claim
            self.end_claim(claim)  # all of it was put off, or cannot be read
        return None

    def give_back(self, given: list[Claim]) -> None:
        for claim in given:
            self.end_claim(claim)

    def renew(self, claim: Claim, *, lease: float) -> bool:
        return self._run("renew", self._now + lease, claim.route, claim.fence).rowcount == 1

    def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        if self._claimed(claim) is None:
            return False
        self._remove(claim, handled)
        return True

    def release(
        self, claim: Claim, delivery: Delivery, *, delay: float, attempts: int, done: int
    ) -> bool:
        claimed = self._claimed(claim)
        if claimed is None:
            return False
        due = self._now + delay if delay else None
        values = (due, attempts, done, delivery.id, claim.route)
        if self._run("release", *values).rowcount == 0:
            return False
        self._run("set_claimed", ",".join(set(claimed) - {delivery.id}), claim.route)
        return True

    def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        if self._claimed(claim) is None or not self._remove(claim, [delivery]):
            return False
        self._insert("bury", [from_letter(letter) for letter in letters])
        return True

    def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        if not self.ack(claim, handled):
            return False
        self._run("end_claim", claim.route)
        return True

    def counts(self) -> Counts:
        self._run("forget_routes", self._now)
        held, letters, oldest = self._run("count").fetchone()
        waiting = self._count_waiting() + held
        return Counts(waiting=waiting, dead_letters=letters, oldest_at=time_of(oldest))

    def _take(self, route: str, limit: int) -> tuple[Delivery, ...]:
        """Return the first due deliveries of a route; one that may kill its process comes alone."""
        deliveries: list[Delivery] = []
        unreadable: list[tuple[Any, ...]] = []
        size = 0
        with contextlib.closing(self._run("take", route, self._now, limit)) as rows:
            for row in rows:
                try:
                    delivery = delivery_of(route, row)
                except UnreadableRowError:
                    unreadable.append((row[0], row[2], row[-1]))
                    continue
                size += len(delivery.body)
                if deliveries and (delivery.crashes or size > MAX_CLAIM_BYTES):
                    break
                deliveries.append(delivery)
                if delivery.crashes:
                    break
        self._bury_unreadable(route, unreadable)
        return tuple(deliveries)

    def _bury_unreadable(self, route: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for id_, received_at, body in rows:
            self._insert("bury", [from_letter(letter_of_delivery(route, received_at, body))])
            self._run("drop_delivery", id_)
            logger.error("delivery %d became a dead letter: %s", id_, UNREADABLE)

    def _mend_queue(self, route: Any) -> None:
        """Make a queue that cannot be read again, of what waits in it."""
        # as it is, and as text if it may be one: those of a sound text are none of its business
        is_text = isinstance(route, str) or isinstance(text_of(route), str)
        either = (route, None if is_text else route)
        if not self._run("drop_queue", *either).rowcount:
            raise StoreError(QUEUE_DAMAGED)  # and not the same again, without end
        if not isinstance(route, str):  # nobody can name it: its deliveries are of no route
            self._bury_unreadable("", self._run("list_unreadable", *either).fetchall())
        self._offer_again()

    def _claimed(self, claim: Claim) -> list[str] | None:
        """Return the ids that a claim was given, without those released; None without its lease."""
        row = self._run("get_claimed", claim.route, claim.fence).fetchone()
        return None if row is None else str(row[0] or "").split(",")

    def _remove(self, claim: Claim, deliveries: Sequence[Delivery]) -> int:
        return self._change(claim.route, "remove", [delivery.id for delivery in deliveries])

    def _change(self, route: str, name: str, ids: Sequence[str]) -> int:
        return sum(
            self._execute(placeholders(SQL[name], len(chunk)), (route, *chunk)).rowcount
            for chunk in chunks(ids)
        )

    # Dead letters

    def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        if after and not LETTER_ID.fullmatch(after):
            return []
        letters: list[DeadLetter] = []
        size = 0
        with contextlib.closing(self._run("list_dead_letters", after or 0, limit)) as rows:
            for row in rows:
                letter = letter_of_row(row)
                size += len(letter.body)
                if letters and size > MAX_CLAIM_BYTES:
                    break
                letters.append(letter)
        return letters

    def get_dead_letter(self, id: str) -> DeadLetter | None:
        if not LETTER_ID.fullmatch(id):
            return None
        row = self._run("get_dead_letter", id).fetchone()
        return letter_of_row(row) if row else None

    def replay(self, ids: Sequence[str]) -> int:
        return sum(self._replay(id_) for id_ in ids)

    def discard(self, ids: Sequence[str]) -> int:
        known = filter(LETTER_ID.fullmatch, ids)
        return sum(self._run("drop_dead_letter", id_).rowcount for id_ in known)

    def _replay(self, id_: str) -> bool:
        letter = self.get_dead_letter(id_)
        if letter is None:
            return False
        self._run("replay", self._now, id_)
        self._insert("offer", [(letter.route, self._now)])
        self._run("drop_dead_letter", id_)
        return True

    # What has come to its end

    def forget(self) -> None:
        """Forget what has come to its end, though nothing new came."""
        with self.transaction():
            self._run("forget_routes", self._now)
            self._run("forget_owners", self._now)
            wall = time.time_ns() // 1000
            self._run("forget_digests", -1, wall, KNOWN_FOR)
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

    def _insert(self, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for chunk in chunks(rows):
            values = [value for row in chunk for value in row]
            self._execute(placeholders(SQL[name], len(chunk), len(chunk[0])), values)


class _Intake:
    """The puts of one batch: the rows to insert, and the reasons against them.

    ``held`` is how many deliveries and bytes each candidate holds.
    """

    def __init__(self, known_digests: dict[bytes, int], remaining_capacity: int) -> None:
        self.remaining_capacity = remaining_capacity
        self.learnt: list[tuple[bytes, int]] = []
        self.deliveries: list[tuple[Any, ...]] = []
        self.letters: list[tuple[Any, ...]] = []
        self.offers: dict[str, None] = {}
        self.held: dict[int, tuple[int, int]] = {}
        self._known_digests = known_digests

    def knows(self, digest: bytes, at: int) -> bool:
        known = self._known_digests.get(digest)
        return isinstance(known, int) and abs(at - known) <= KNOWN_FOR

    def learn(self, digest: bytes, at: int) -> None:
        self._known_digests[digest] = at
        self.learnt.append((digest, at))

    def take(self, delivery: Delivery, at: int, due: float, holder: int | None) -> None:
        self.deliveries.append(
            (delivery.route, delivery.digest, at, due, holder, delivery.trace, delivery.body)
        )
