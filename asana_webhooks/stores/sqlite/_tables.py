"""What the store does, in SQL."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import MAX_CANDIDATES
from .._encryption import EncryptedSecret, SecretCipher
from . import sql
from ._file import transaction
from .rows import (
    KNOWN_FOR,
    LETTER_ID,
    date_of,
    dead_letter_of,
    delivery_of,
    filters_of,
    letter_of,
    letter_row,
    number_of,
    parts,
    spread,
    text_of,
)

__all__ = ["Put", "Tables"]

PRUNE_EVERY = 256
"""How many digests are learnt before old ones are forgotten."""

Put: TypeAlias = tuple[Delivery, str | None, str | None]
"""A delivery, and its candidate and reason."""


class Tables:
    """What the store does, in SQL: each method a part of a transaction of the writer."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        max_waiting: int,
        clock: Callable[[], float],
        cipher: SecretCipher,
    ) -> None:
        self._cipher = cipher
        self._connection = connection
        self._execute = connection.execute
        self._max_waiting = max_waiting
        self._clock = clock
        self._now = clock()
        self._unpruned = 0

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing; it happens at one reading of the clock."""
        with transaction(self._connection):
            changes = self._connection.total_changes
            self._now = self._clock()
            yield
            if self._connection.total_changes != changes:
                self._execute(sql.SET_CLOCK, (self._now,))

    def reserve(self, route: Route, ttl: float, exclusive: bool) -> bool:  # noqa: FBT001 - as the store passes it
        self._execute(sql.PURGE, (self._now,))
        values = {
            "id": route.id,
            "target": route.target,
            "place": route.target.rpartition("/")[0],
            "resource": route.resource,
            "filters": text_of(route.filters),
            "created_at": number_of(route.created_at),
            "heartbeat_at": route.heartbeat_at and number_of(route.heartbeat_at),
            "expires": self._now + ttl,
            "sole": exclusive,
        }
        return self._execute(sql.RESERVE, values).rowcount == 1

    def get_route(self, route: str) -> Route | None:
        row = self._execute(sql.GET_ROUTE, (route, self._now)).fetchone()
        return self._route(row) if row else None

    def list_routes(self, resource: str | None) -> list[Route]:
        if resource is None:
            rows = self._execute(sql.LIST_ROUTES, (self._now,))
        else:
            rows = self._execute(sql.LIST_ROUTES_OF, (self._now, resource))
        return [self._route(row) for row in rows.fetchall()]

    def add_candidate(self, route: str, secret: str) -> bool:
        found = self.get_route(route)
        if found is None:
            return False
        if found.state == "reserved" and secret not in found.candidates:
            if len(found.candidates) == MAX_CANDIDATES:
                return False
            self._execute(sql.ADD_CANDIDATE, (route, *self._cipher.encrypt(route, secret)))
            return True
        return secret == found.secret or secret in found.candidates

    def confirm(self, route: str, gid: str, secret: str) -> bool:
        (holder,) = self._find_candidate(route, secret) or (None,)
        if holder is None:
            return False
        self._execute(sql.CONFIRM, (gid, holder, route))
        if self._execute(sql.FREE_HELD, (self._now, holder)).rowcount:
            self._insert(sql.OFFER, [(route, self._now)])
        self._execute(sql.DROP_CANDIDATES, (route,))
        return True

    def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        self._execute(sql.SET_FILTERS, (text_of(filters), route))

    def note_heartbeat(self, route: str, at: datetime) -> None:
        self._execute(sql.SET_HEARTBEAT, (number_of(at), route))

    def retire(self, route: str) -> bool:
        return self._execute(sql.RETIRE, (route,)).rowcount == 1

    def drop(self, route: str) -> Route | None:
        found = self.get_route(route)
        if found is None or found.state != "reserved":
            return None
        self._execute(sql.DROP, (route,))
        return found

    def put(self, puts: list[Put]) -> list[bool | StoreError]:
        """Keep deliveries, in few statements for many.

        Each statement lets go of the interpreter, and has to wait for it while a handler computes.
        """
        intake = _Intake(self._sightings(puts), self._room(len(puts)))
        answers = [self._admit(intake, *put) for put in puts]
        self._insert(sql.SEE, intake.seen)
        self._insert(sql.PUT, intake.deliveries)
        self._insert(sql.OFFER, [(route, self._now) for route in intake.offers])
        self._insert(sql.BURY, intake.letters)
        self._forget(intake.seen)
        return answers

    def claim(self, limit: int, lease: float, given: list[Claim]) -> Claim | None:
        """Return what is due; ``given`` holds it for whoever finds the claimant gone."""
        now = self._now
        while row := self._execute(sql.FIND_DUE, (now,)).fetchone():
            route, fence = row[0], row[1] + 1
            self._execute(sql.LEASE, (now + lease, fence, route))
            rows = self._execute(sql.TAKE, (route, now, limit)).fetchall()
            deliveries = tuple(delivery_of(route, row) for row in rows)
            claim = Claim(route=route, fence=fence, deliveries=deliveries)
            if deliveries:
                given[:] = [claim]
                return claim
            self.end_claim(claim)  # a lease ran out with nothing left, or all of it put off
        return None

    def give_back(self, given: list[Claim]) -> None:
        for claim in given:
            self.end_claim(claim)

    def renew(self, claim: Claim, lease: float) -> bool:
        return self._execute(sql.RENEW, (self._now + lease, claim.route, claim.fence)).rowcount == 1

    def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        if not self._is_leased(claim):
            return False
        self._remove(claim, handled)
        return True

    def release(
        self, claim: Claim, delivery: Delivery, delay: float, attempts: int, done: int
    ) -> bool:
        if not self._is_leased(claim):
            return False
        due = self._now + delay if delay else None
        values = (due, attempts, done, delivery.id, claim.route)
        return self._execute(sql.RELEASE, values).rowcount == 1

    def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        if not self._is_leased(claim) or not self._remove(claim, [delivery]):
            return False
        self._insert(sql.BURY, [letter_row(letter) for letter in letters])
        return True

    def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        if not self.ack(claim, handled):
            return False
        self._execute(sql.FINISH, (claim.route,))
        return True

    def counts(self) -> Counts:
        self._execute(sql.PURGE, (self._now,))
        waiting, letters, oldest = self._execute(sql.COUNT).fetchone()
        return Counts(
            waiting=waiting,
            dead_letters=letters,
            oldest_at=None if oldest is None else date_of(oldest),
        )

    def dead_letters(self, limit: int, after: str) -> list[DeadLetter]:
        if after and not LETTER_ID.fullmatch(after):
            return []
        rows = self._execute(sql.LIST_LETTERS, (after or 0, limit)).fetchall()
        return [dead_letter_of(row) for row in rows]

    def get_dead_letter(self, letter: str) -> DeadLetter | None:
        if not LETTER_ID.fullmatch(letter):
            return None
        row = self._execute(sql.GET_LETTER, (letter,)).fetchone()
        return dead_letter_of(row) if row else None

    def replay(self, letters: Sequence[str]) -> int:
        return sum(self._replay(letter) for letter in letters)

    def discard(self, letters: Sequence[str]) -> int:
        ids = filter(LETTER_ID.fullmatch, letters)
        return sum(self._execute(sql.DROP_LETTER, (id_,)).rowcount for id_ in ids)

    def renew_secrets(self) -> None:
        """Seal with the newest key what is not, and leave nothing of it in the file.

        Raises StoreError when a secret cannot be opened.
        """
        self._execute(sql.ERASE)
        with self.transaction():
            renewed = [
                self._execute(change, (*renewed, id_))
                for listing, change in zip(sql.LIST_SECRETS, sql.SET_SECRET, strict=True)
                for id_, route, *kept in self._execute(listing).fetchall()
                if (renewed := self._cipher.reencrypt(route, EncryptedSecret(*kept)))
            ]
        if renewed:
            self._execute(sql.EMPTY_LOG)
        self._execute(sql.ERASE_NO_MORE)

    def _replay(self, letter: str) -> bool:
        found = self.get_dead_letter(letter)
        if found is None:
            return False
        self._execute(sql.REPLAY, (self._now, letter))
        self._insert(sql.OFFER, [(found.route, self._now)])
        self._execute(sql.DROP_LETTER, (letter,))
        return True

    def _route(self, row: tuple[Any, ...]) -> Route:
        id_, target, resource, filters, state, gid, created_at, heartbeat_at, *kept = row
        candidates: tuple[str, ...] = ()
        if state == "reserved":
            rows = self._execute(sql.LIST_CANDIDATES, (id_,)).fetchall()
            candidates = tuple(self._cipher.decrypt(id_, EncryptedSecret(*row)) for row in rows)
        return Route(
            id=id_,
            target=target,
            resource=resource,
            filters=filters_of(filters),
            state=state,
            gid=gid,
            secret=None if kept[0] is None else self._cipher.decrypt(id_, EncryptedSecret(*kept)),
            candidates=candidates,
            created_at=date_of(created_at),
            heartbeat_at=None if heartbeat_at is None else date_of(heartbeat_at),
        )

    def _find_candidate(self, route: str, secret: str) -> tuple[int | None] | None:
        fingerprint = self._cipher.fingerprint(route, secret)
        values = {"route": route, "secret": fingerprint, "now": self._now}
        row: tuple[int | None] | None = self._execute(sql.FIND_CANDIDATE, values).fetchone()
        return row

    def _is_leased(self, claim: Claim) -> bool:
        return self._execute(sql.IS_LEASED, (claim.route, claim.fence)).fetchone() is not None

    def _remove(self, claim: Claim, deliveries: Sequence[Delivery]) -> int:
        ids = [delivery.id for delivery in deliveries]
        return sum(
            self._execute(spread(sql.REMOVE, len(part)), (claim.route, *part)).rowcount
            for part in parts(ids)
        )

    def _count_waiting(self) -> int:
        (waiting,) = self._execute(sql.READ_WAITING).fetchone()
        return int(waiting)

    def _room(self, wanted: int) -> int:
        """Return how many deliveries the inbox can take; sure to be exact if below ``wanted``."""
        room = self._max_waiting - self._count_waiting()
        return room if room >= wanted else self._max_waiting - self.counts().waiting

    def _sightings(self, puts: list[Put]) -> dict[bytes, int]:
        digests = [delivery.digest for delivery, _, _ in puts]
        found: dict[bytes, int] = {}
        for part in parts(digests):
            found.update(self._execute(spread(sql.FIND_SEEN, len(part)), part).fetchall())
        return found

    def _admit(
        self, intake: _Intake, delivery: Delivery, candidate: str | None, reason: str | None
    ) -> bool | StoreError:
        at = number_of(delivery.received_at)
        holder = (None,) if candidate is None else self._find_candidate(delivery.route, candidate)
        if holder is None or intake.knows(delivery.digest, at):
            return False
        if reason is not None:
            intake.letters.append(letter_row(letter_of(delivery, reason)))
        elif len(intake.deliveries) < intake.room:
            intake.take(delivery, at, self._now, *holder)
        else:
            msg = f"the inbox is full, {self._max_waiting} deliveries wait: let their handlers run"
            return StoreError(msg)
        intake.see(delivery.digest, at)
        return True

    def _forget(self, seen: list[tuple[bytes, int]]) -> None:
        """Forget what is too old, twice as fast as new is learnt."""
        self._unpruned += len(seen)
        if self._unpruned >= PRUNE_EVERY:
            self._execute(sql.FORGET, (2 * self._unpruned, seen[-1][1], KNOWN_FOR))
            self._unpruned = 0

    def _insert(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for part in parts(rows):
            values = [value for row in part for value in row]
            self._execute(spread(statement, len(part), len(part[0])), values)


class _Intake:
    """What the puts of one batch come to: the rows to insert, and what rules them out."""

    def __init__(self, known: dict[bytes, int], room: int) -> None:
        self.room = room
        self.seen: list[tuple[bytes, int]] = []
        self.deliveries: list[tuple[Any, ...]] = []
        self.letters: list[tuple[Any, ...]] = []
        self.offers: dict[str, None] = {}
        self._known = known

    def knows(self, digest: bytes, at: int) -> bool:
        seen = self._known.get(digest)
        return seen is not None and abs(at - seen) <= KNOWN_FOR

    def see(self, digest: bytes, at: int) -> None:
        self._known[digest] = at
        self.seen.append((digest, at))

    def take(self, delivery: Delivery, at: int, due: float, holder: int | None) -> None:
        self.deliveries.append(
            (delivery.route, delivery.digest, at, due, holder, delivery.trace, delivery.body)
        )
        if holder is None:
            self.offers[delivery.route] = None
