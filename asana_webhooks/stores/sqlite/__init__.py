"""The store in one SQLite file, on the standard library alone.

One thread owns the connection. Whatever calls have gathered while it was busy it runs as one
transaction and answers after the commit, so that many calls share one wait for the disk. Nothing
of the file is cached: what another process wrote counts as soon as it is committed.

A row of ``queues`` stands for a route with something to claim; its ``due`` is when that is, or
when the lease ends. To claim is one look into the index of that column, however many deliveries
wait and however many routes are leased.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import MAX_WAITING
from .._encryption import SecretCipher
from ._tables import Tables
from ._writer import Writer

__all__ = ["SqliteStore"]


class SqliteStore:
    """Keeps routes and deliveries in one file, so that they outlive the process.

    A second process on the same file is safe: leases and fences are in the file, and whoever finds
    it locked waits for up to 4 seconds. The processes take turns to write, so several receivers
    are no faster than one. The file must be on a disk of the machine, not on a network share.

    ``clock`` returns seconds, never goes back while the machine runs, and reads the same in every
    process; leases, back-off and expiry go by it. Where it began anew, because the machine did,
    opening the file ends all leases and waits: nothing waits for a time that is far off.

    With ``encryption_keys``, the newest first, secrets are encrypted in the file;
    opening it encrypts with the newest what is not yet.

    A store belongs to the event loop that opened it. Raises ValueError when ``path`` is no file's,
    or a key is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_waiting: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        self._cipher = SecretCipher(encryption_keys)
        self._path = os.fspath(path)
        if self._path in {"", ":memory:"}:
            msg = f"{self._path!r} is no file's path; MemoryStore keeps everything in memory"
            raise ValueError(msg)
        self._max_waiting = max_waiting
        self._clock = clock
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        """Open the file, or create it for this user alone.

        Raises StoreError, and leaves the file as it is, when it is no store or cannot be written.
        """
        if self._writer is not None:
            msg = f"the store {self._path} is open already"
            raise StoreError(msg)
        self._writer = Writer(self._path, self._max_waiting, self._clock, self._cipher)
        try:
            await self._writer.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is under way, then close, whether cancelled or not.

        Raises StoreError when that takes the disk more than 10 seconds.
        """
        writer, self._writer = self._opened(), None
        await writer.stop()

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        """Add a reserved route for ``ttl`` seconds; False when ``exclusive`` or its id is taken."""
        return await self._opened().submit(Tables.reserve, route, ttl, exclusive)

    async def get_route(self, route: str) -> Route | None:
        """Return the route with this id."""
        try:
            route.encode()
        except UnicodeEncodeError:  # a stranger's path; no route has such an id
            return None
        return await self._opened().submit(Tables.get_route, route)

    async def list_routes(self, resource: str | None = None) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first."""
        return await self._opened().submit(Tables.list_routes, resource)

    async def add_candidate(self, route: str, secret: str) -> bool:
        """Keep a handshake's secret; True when the route holds it now."""
        return await self._opened().submit(Tables.add_candidate, route, secret)

    async def confirm(self, route: str, *, gid: str, secret: str) -> bool:
        """Turn a reserved route into a confirmed one."""
        return await self._opened().submit(Tables.confirm, route, gid, secret)

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        """Keep the filters that the webhook of this route has now."""
        await self._opened().submit(Tables.set_filters, route, filters)

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        """Keep when the last heartbeat came."""
        await self._opened().submit(Tables.note_heartbeat, route, at)

    async def retire(self, route: str) -> bool:
        """Retire a confirmed route; True for the one call that did it."""
        return await self._opened().submit(Tables.retire, route)

    async def drop(self, route: str) -> Route | None:
        """Forget a reserved route with its candidates and what is held for them."""
        return await self._opened().submit(Tables.drop, route)

    # Inbox

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        """Keep a delivery; False for a duplicate, or when its candidate is none any more."""
        return await self._opened().submit_put(delivery, candidate, reason)

    async def notify(self) -> None:
        """Do nothing: workers of other processes look for themselves."""

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Return at once."""

    async def claim(self, *, limit: int, lease: float) -> Claim | None:
        """Lease the route whose due delivery waited longest, with up to ``limit`` of the due ones.

        A delivery whose lease ran out waits from then on. A claim that is cancelled is given back.
        """
        if limit < 1:
            msg = f"a claim needs a limit of at least 1, not {limit}"
            raise ValueError(msg)
        writer = self._opened()
        given: list[Claim] = []
        try:
            return await writer.submit(Tables.claim, limit, lease, given)
        except asyncio.CancelledError:
            writer.submit(Tables.give_back, given).cancel()  # it runs, nobody waits for it
            raise

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        """Let the lease end ``lease`` seconds from now; False when it is lost."""
        return await self._opened().submit(Tables.renew, claim, lease)

    async def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        """Remove handled deliveries; False when the lease is lost."""
        return await self._opened().submit(Tables.ack, claim, handled)

    async def release(
        self, claim: Claim, delivery: Delivery, *, delay: float, attempts: int, done: int
    ) -> bool:
        """Make a delivery due again in ``delay`` seconds; False when the lease is lost."""
        writer = self._opened()
        return await writer.submit(Tables.release, claim, delivery, delay, attempts, done)

    async def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        """Remove a delivery and leave these dead letters; False when the lease is lost."""
        return await self._opened().submit(Tables.bury, claim, delivery, letters)

    async def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        """Remove handled deliveries, then give the lease back; False when it is lost."""
        return await self._opened().submit(Tables.end_claim, claim, handled)

    async def counts(self) -> Counts:
        """Return how much is in the inbox."""
        return await self._opened().submit(Tables.counts)

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return dead letters, oldest first, from behind the one with the id ``after``."""
        return await self._opened().submit(Tables.dead_letters, limit, after)

    async def get_dead_letter(self, letter: str) -> DeadLetter | None:
        """Return the dead letter with this id."""
        return await self._opened().submit(Tables.get_dead_letter, letter)

    async def replay(self, letters: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        return await self._opened().submit(Tables.replay, letters)

    async def discard(self, letters: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were."""
        return await self._opened().submit(Tables.discard, letters)

    def _opened(self) -> Writer:
        if self._writer is None:
            msg = f"the store {self._path} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._writer
