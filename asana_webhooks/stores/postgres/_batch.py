"""Deliveries that come together and are stored together."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Any, TypeAlias

from ...errors import StoreError
from ...models import Delivery
from .. import DUPLICATES_KNOWN_FOR, MAX_HELD, MAX_HELD_BYTES, held_full, inbox_full
from ._errors import UnfitError
from ._server import Server, hidden

__all__ = ["PutBatcher"]

BATCH_ROWS, BATCH_BYTES = 256, 4 * 1024 * 1024
"""Deliveries of one statement, and bytes of their bodies beyond which no more are added."""

LOOK_EVERY = 1.0
"""Seconds for which the room found in the inbox, less what was put since, is relied on."""

FORGET_EVERY = 256
"""How many digests are learnt before twice as many old ones are forgotten."""

_Put: TypeAlias = tuple[asyncio.Future[bool], Delivery, str | None, str | None]
"""Whom to tell, the delivery, its candidate's fingerprint and its reason."""


class PutBatcher:
    """Sends deliveries, all that have gathered while others were on their way in one statement."""

    def __init__(self, server: Server, max_waiting: int) -> None:
        self._server = server
        self._max_waiting = max_waiting
        self._queue: deque[_Put] = deque()
        self._sending = False
        self._room, self._looked_at = 0, 0.0
        self._learnt = 0

    def put(
        self, delivery: Delivery, candidate: str | None, reason: str | None
    ) -> asyncio.Future[bool]:
        """Keep a delivery; see the store. It goes with others that wait."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((future, delivery, candidate, reason))
        if not self._sending:
            self._sending = True
            self._server.keep(self._send_all())
        return future

    def look_again(self) -> None:
        """Do not rely on the room there was: something else took some."""
        self._room = 0

    async def _send_all(self) -> None:
        try:
            while batch := self._next():
                for put in await self._send(batch):
                    await self._send([put])
        finally:
            self._sending = False

    def _next(self) -> list[_Put]:
        """Take the next batch, without those whose callers are gone: they will be sent again.

        Equal digests go together if one is known to be the other's duplicate whatever is stored.
        """
        batch: list[_Put] = []
        first: dict[bytes, datetime] = {}
        size = 0
        while self._queue and len(batch) < BATCH_ROWS and size < BATCH_BYTES:
            future, delivery, _, _ = self._queue[0]
            seen = first.setdefault(delivery.digest, delivery.received_at)
            if abs(delivery.received_at - seen) > DUPLICATES_KNOWN_FOR:
                break
            put = self._queue.popleft()
            if not future.done():
                batch.append(put)
                size += len(delivery.body)
        return batch

    async def _send(self, batch: list[_Put]) -> list[_Put]:
        """Return those to be sent one by one, lest one bad delivery costs the others theirs."""
        try:
            (row,) = await self._server.start("put_batch", *self._values(batch))
        except StoreError as error:
            if isinstance(error, UnfitError):
                if len(batch) > 1:
                    return batch
                _fail(batch, error)
            else:  # those that wait fail too: a turn of their own would exceed the time of a call
                _fail([*batch, *self._queue], error)
                self._queue.clear()
        else:
            self._answer(batch, row)
        return []

    def _values(self, batch: list[_Put]) -> tuple[Any, ...]:
        _, deliveries, candidates, reasons = zip(*batch, strict=True)
        forget = 2 * self._learnt if self._learnt >= FORGET_EVERY else 0
        return (
            hidden(delivery.route for delivery in deliveries),
            hidden(delivery.digest for delivery in deliveries),
            [delivery.received_at for delivery in deliveries],
            candidates,
            reasons,
            [delivery.trace for delivery in deliveries],
            hidden(delivery.body for delivery in deliveries),
            DUPLICATES_KNOWN_FOR,
            forget,
            MAX_HELD,
            MAX_HELD_BYTES,
            self._max_waiting,
            self._known_room(len(batch)),
        )

    def _known_room(self, wanted: int) -> int | None:
        """Return how many deliveries the inbox can take, None when the server has to look."""
        now = asyncio.get_running_loop().time()
        if self._room >= wanted and now - self._looked_at < LOOK_EVERY:
            return self._room
        self._room, self._looked_at = 0, now
        return None

    def _answer(self, batch: list[_Put], row: Any) -> None:
        self._room, kept, refused, crowded = row[0], *(set(some or ()) for some in row[1:])
        self._learnt = len(kept) + (self._learnt if self._learnt < FORGET_EVERY else 0)
        for place, (future, delivery, _, _) in enumerate(batch, 1):
            if future.done():
                continue
            if delivery.digest in refused:
                future.set_exception(inbox_full(self._max_waiting))
            elif delivery.digest in crowded:
                future.set_exception(held_full())
            else:
                future.set_result(place in kept)


def _fail(puts: list[_Put], error: StoreError) -> None:
    for future, *_ in puts:
        if not future.done():
            failure = StoreError(*error.args)
            failure.__cause__ = error.__cause__
            future.set_exception(failure)
