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
import functools
import os
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import CoroutineType, TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ..._options import COUNT, PATH, check_options
from ...errors import StoreError
from ...models import Claim, Delivery
from .. import MAX_WAITING, check_account, check_ids, check_limit
from .._encryption import SecretCipher
from ._tables import Tables
from ._writer import Writer

__all__ = ["SqliteStore"]


T = TypeVar("T")
P = ParamSpec("P")

_OPTIONS = {"path": PATH, "max_waiting": COUNT}


def _by_the_writer(
    operation: Callable[Concatenate[Tables, P], T],
) -> Callable[Concatenate[SqliteStore, P], CoroutineType[Any, Any, T]]:
    """Return the method of the store that has this done by the thread of the writer."""

    @functools.wraps(operation)
    async def call(self: SqliteStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        done = self._opened().submit(operation, *args, **kwargs)
        del args, kwargs  # a traceback that shows the values of names must not show secrets
        return await done

    return call  # type: ignore[return-value] # mypy has a wider type for coroutines than pyright


class SqliteStore:
    """Keeps routes, deliveries and states in one file, so that they outlive the process.

    A second process on the same file is safe: leases and fences are in the file, and whoever finds
    it locked waits for up to 4 seconds. The processes take turns to write, so several receivers
    are no faster than one. The file must be on a disk of the machine, not on a network share.

    What a call keeps is on the disk when it returns, but for leases, reservations and ownerships:
    those end with the machine, and a power failure may take back those of the last moments.

    ``clock`` returns seconds, never goes back while the machine runs, and reads the same in every
    process; leases, back-off and expiry go by it. Where it began anew, because the machine did,
    opening the file ends all leases and waits: nothing waits for a time that is far off.

    With ``encryption_keys``, the newest first, secrets are encrypted in the file;
    opening it encrypts with the newest what is not yet.

    A store belongs to the event loop that opened it. Raises ValueError when ``path`` is no file's,
    a key is none, or ``max_waiting`` is no count; TypeError for a value of another type.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_waiting: int = MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        check_options(_OPTIONS, {"path": path, "max_waiting": max_waiting})
        self._cipher = SecretCipher(encryption_keys)
        self._path = os.fsdecode(path)
        if self._path in {"", ":memory:"} or "\0" in self._path:
            msg = f"path {self._path!r} is no file's path; MemoryStore keeps everything in memory"
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

    own = _by_the_writer(Tables.own)
    disown = _by_the_writer(Tables.disown)
    hold = _by_the_writer(Tables.hold)

    reserve = _by_the_writer(Tables.reserve)
    get_route = _by_the_writer(Tables.get_route)
    list_routes = _by_the_writer(Tables.list_routes)
    add_candidate = _by_the_writer(Tables.add_candidate)
    confirm = _by_the_writer(Tables.confirm)
    set_user = _by_the_writer(Tables.set_user)
    leave = _by_the_writer(Tables.leave)
    set_filters = _by_the_writer(Tables.set_filters)
    note_heartbeat = _by_the_writer(Tables.note_heartbeat)
    retire = _by_the_writer(Tables.retire)
    drop = _by_the_writer(Tables.drop)

    renew = _by_the_writer(Tables.renew)
    settle = _by_the_writer(Tables.settle)
    end_claim = _by_the_writer(Tables.end_claim)
    remembered = _by_the_writer(Tables.remembered)
    counts = _by_the_writer(Tables.counts)

    dead_letters = _by_the_writer(Tables.dead_letters)
    get_dead_letter = _by_the_writer(Tables.get_dead_letter)
    get_state = _by_the_writer(Tables.get_state)
    list_states = _by_the_writer(Tables.list_states)
    put_state = _by_the_writer(Tables.put_state)
    drop_state = _by_the_writer(Tables.drop_state)
    peek = _by_the_writer(Tables.peek)

    put_write = _by_the_writer(Tables.put_write)
    list_writes = _by_the_writer(Tables.list_writes)
    take_write = _by_the_writer(Tables.take_write)

    _forget_account = _by_the_writer(Tables.forget_account)
    _replay = _by_the_writer(Tables.replay)
    _discard = _by_the_writer(Tables.discard)

    def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> Awaitable[bool]:
        return self._opened().submit_put(delivery, candidate, reason)

    async def notify(self) -> None:
        """Do nothing: workers of other processes look for themselves."""

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Return at once."""

    async def claim(
        self, *, limit: int, lease: float, skip_accounts: Collection[str] = ()
    ) -> Claim | None:
        check_limit(limit)
        writer = self._opened()
        given: list[Claim] = []
        try:
            return await writer.submit(
                Tables.claim,
                given,
                limit=limit,
                lease=lease,
                skip_accounts=frozenset(skip_accounts),
            )
        except asyncio.CancelledError:
            writer.submit(Tables.give_back, given).cancel()  # it runs, nobody waits for it
            raise

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        check_limit(limit)
        writer = self._opened()
        given: list[Delivery] = []
        try:
            return await writer.submit(Tables.claim_more, given, claim, limit=limit)
        except asyncio.CancelledError:
            writer.submit(Tables.give_more_back, given, claim).cancel()  # as above
            raise

    async def forget_account(self, account: str) -> bool:
        check_account(account)
        return await self._forget_account(account)

    async def replay(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        return await self._replay(ids)

    async def discard(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        return await self._discard(ids)

    def _opened(self) -> Writer:
        if self._writer is None:
            msg = f"the store {self._path} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._writer
