"""The store on a PostgreSQL server, for many receivers and many workers.

Each call is one statement of ``sql``, a claim two when no queue is free; it runs to its end even if
its caller is cancelled. Deliveries that are put while others are on their way go together in the
next statement.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import MAX_CANDIDATES, MAX_WAITING
from .._encryption import EncryptedSecret, SecretCipher
from . import sql
from ._address import name_of
from ._batch import Batcher
from ._server import Pool, Server, connect, library

__all__ = ["PostgresStore"]

PARTING_TIMEOUT = 1.0
"""Seconds that closing waits for the connections to end."""

CLAIM_BYTES = 8 * 1024 * 1024
"""Bytes of bodies beyond which a claim takes no more deliveries."""


class PostgresStore:
    """Keeps routes and deliveries in a schema of a PostgreSQL database, 12 or newer.

    ``dsn_or_pool`` is a ``postgresql://`` address as libpq understands it, or a pool of asyncpg,
    which is not closed. Needs the extra ``postgres``. The schema is created and brought up to date
    when the store is opened; many processes may do so at once.

    Any number of processes may share the schema. A route is leased to one worker at a time, so
    deliveries of one webhook are handled in the order of their receipt; leases, back-off and
    expiry go by the clock of the server. What was stored survives a crash of the server, and a
    failover as far as the standby is synchronous. After a restart the store reconnects by itself.

    The inbox takes somewhat more than ``max_waiting`` when several processes fill it at once: each
    looks only once a second.

    Nothing but hints needs a session, so PgBouncer in transaction mode is fine. Statements are
    prepared: it needs version 1.21 or newer and ``max_prepared_statements`` above 0.

    With ``encryption_keys``, the newest first, secrets are encrypted at the server;
    opening the store encrypts with the newest what is not yet. Earlier rows stay in the server's
    files and its log until it writes over them.

    Raises ValueError when the address or the schema's name is of no use, when a key is none, and
    when asyncpg is not installed.
    """

    def __init__(
        self,
        dsn_or_pool: str | Pool,
        *,
        schema: str = "asana_webhooks",
        max_waiting: int = MAX_WAITING,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        self._cipher = SecretCipher(encryption_keys)
        if not re.fullmatch(r"(?!pg_)[A-Za-z_]\w{0,62}", schema, re.ASCII):
            msg = (
                "a schema's name is at most 63 letters, digits and underscores and does not begin"
                f" with 'pg_', not {schema!r}"
            )
            raise ValueError(msg)
        library()
        self._source = dsn_or_pool
        self._name = name_of(dsn_or_pool) if isinstance(dsn_or_pool, str) else "the given pool"
        self._schema = schema
        self._max_waiting = max_waiting
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        """Connect, and create the schema or bring it up to date.

        Raises StoreError when that fails, when a newer version has been at work, or when no key
        opens a secret.
        """
        if self._server is not None:
            msg = f"the store at {self._name} is open already"
            raise StoreError(msg)
        pool = await connect(self._source) if isinstance(self._source, str) else self._source
        self._server = server = Server(pool, self._name, self._schema)
        try:
            await server.prepare()
            await _reencrypt(server, self._cipher)
        except BaseException:
            self._server = None
            if pool is not self._source:
                pool.terminate()
            raise
        self._puts = Batcher(server, self._max_waiting)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is under way, then close, whether cancelled or not; at most 10 seconds."""
        server, self._server = self._opened(), None
        closing = asyncio.create_task(self._close(server), name="asana-webhooks store closing")
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])
            raise

    async def _close(self, server: Server) -> None:
        await server.end_claim()
        if server.pool is not self._source:
            try:
                async with asyncio.timeout(PARTING_TIMEOUT):
                    await server.pool.close()
            except Exception:  # noqa: BLE001 - what cannot be closed in order is cut off
                server.pool.terminate()

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        """Add a reserved route for ``ttl`` seconds; False when ``exclusive`` or its id is taken."""
        place, filters = route.target.rpartition("/")[0], _text_of(route.filters)
        known = (route.id, route.target, place, route.resource, filters)
        times = (route.created_at, route.heartbeat_at, ttl)
        return await self._opened().ask(sql.RESERVE, *known, *times, exclusive)

    async def get_route(self, route: str) -> Route | None:
        """Return the route with this id."""
        if not _is_text(route):  # a stranger's path; no route has such an id
            return None
        rows = await self._opened().fetch(sql.GET_ROUTE, route)
        return _route_of(rows[0], self._cipher) if rows else None

    async def list_routes(self, resource: str | None = None) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first."""
        rows = await self._opened().fetch(sql.LIST_ROUTES, resource)
        return [_route_of(row, self._cipher) for row in rows]

    async def add_candidate(self, route: str, secret: str) -> bool:
        """Keep a handshake's secret; True when the route holds it now."""
        encrypted = self._cipher.encrypt(route, secret)
        return await self._opened().ask(sql.ADD_CANDIDATE, route, *encrypted, MAX_CANDIDATES)

    async def confirm(self, route: str, *, gid: str, secret: str) -> bool:
        """Turn a reserved route into a confirmed one."""
        fingerprint = self._cipher.fingerprint(route, secret)
        return await self._opened().ask(sql.CONFIRM, route, gid, fingerprint)

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        """Keep the filters that the webhook of this route has now."""
        await self._opened().fetch(sql.SET_FILTERS, route, _text_of(filters))

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        """Keep when the last heartbeat came."""
        await self._opened().fetch(sql.SET_HEARTBEAT, route, at)

    async def retire(self, route: str) -> bool:
        """Retire a confirmed route; True for the one call that did it."""
        return await self._opened().ask(sql.RETIRE, route)

    async def drop(self, route: str) -> Route | None:
        """Forget a reserved route with its candidates and what is held for them."""
        rows = await self._opened().fetch(sql.DROP, route)
        return _route_of(rows[0], self._cipher) if rows else None

    # Inbox

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        """Keep a delivery; False for a duplicate, or when its candidate is none any more."""
        self._opened()
        kept_reason = None if reason is None else _clean(reason)
        if candidate is not None:
            candidate = self._cipher.fingerprint(delivery.route, candidate)
        return await self._puts.put(delivery, candidate, kept_reason)

    async def notify(self) -> None:
        """Tell all who watch, in other processes too, that a delivery was stored."""
        await self._opened().fetch(sql.ANNOUNCE, self._schema)

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call ``arrived`` whenever somebody announces, until cancelled.

        It needs a connection of its own: with a pool of a single one it returns at once. Raises
        StoreError when the connection is lost. Behind PgBouncer in transaction mode nothing comes.
        """
        await self._opened().listen(self._schema, arrived)

    async def claim(self, *, limit: int, lease: float) -> Claim | None:
        """Lease the route whose due delivery waited longest, with up to ``limit`` of the due ones.

        Fewer when their bodies are large. A delivery whose lease ran out waits from then on. A
        claim that is cancelled is given back.
        """
        if limit < 1:
            msg = f"a claim needs a limit of at least 1, not {limit}"
            raise ValueError(msg)
        server = self._opened()
        claiming = server.keep(self._lease(server, limit, lease))

        def give_back(claimed: asyncio.Task[list[Any]]) -> None:
            if not claimed.cancelled() and not claimed.exception() and claimed.result():
                route, fence, *_ = claimed.result()[0]
                server.start(sql.FINISH, route, fence, [])

        try:
            return _claim_of(await server.outcome(asyncio.shield(claiming)))
        except (asyncio.CancelledError, StoreError):
            claiming.add_done_callback(give_back)
            raise

    @staticmethod
    async def _lease(server: Server, limit: int, lease: float) -> list[Any]:
        """Return the rows of a claim; only when no queue is free, wait for one in use."""
        values = (limit, CLAIM_BYTES, lease)
        free = await server.start(sql.CLAIM, *values)
        return free or await server.start(sql.CLAIM_PATIENTLY, *values)

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        """Let the lease end ``lease`` seconds from now; False when it is lost."""
        return await self._opened().ask(sql.RENEW, claim.route, claim.fence, lease)

    async def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        """Remove handled deliveries; False when the lease is lost."""
        ids = [int(delivery.id) for delivery in handled]
        return await self._opened().ask(sql.ACK, claim.route, claim.fence, ids)

    async def release(
        self, claim: Claim, delivery: Delivery, *, delay: float, attempts: int, done: int
    ) -> bool:
        """Make a delivery due again in ``delay`` seconds; False when the lease is lost."""
        lease = (claim.route, claim.fence, int(delivery.id))
        return await self._opened().ask(sql.RELEASE, *lease, delay, attempts, done)

    async def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        """Remove a delivery and leave these dead letters; False when the lease is lost."""
        lease = (claim.route, claim.fence, int(delivery.id))
        return await self._opened().ask(
            sql.BURY,
            *lease,
            [letter.route for letter in letters],
            [_clean(letter.reason) for letter in letters],
            [letter.received_at for letter in letters],
            [letter.buried_at for letter in letters],
            [letter.done for letter in letters],
            [letter.body for letter in letters],
        )

    async def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        """Remove handled deliveries, then give the lease back; False when it is lost."""
        ids = [int(delivery.id) for delivery in handled]
        return await self._opened().ask(sql.FINISH, claim.route, claim.fence, ids)

    async def counts(self) -> Counts:
        """Return how much is in the inbox; it is counted."""
        rows = await self._opened().fetch(sql.COUNTS)
        return Counts(**rows[0])

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return dead letters, oldest first, from behind the one with the id ``after``."""
        behind = [0] if after == "" else _numbers_of([after])
        if not behind:
            return []
        rows = await self._opened().fetch(sql.LIST_LETTERS, *behind, limit)
        return [_letter_of(row) for row in rows]

    async def get_dead_letter(self, letter: str) -> DeadLetter | None:
        """Return the dead letter with this id."""
        rows = await self._opened().fetch(sql.GET_LETTER, _numbers_of([letter]))
        return _letter_of(rows[0]) if rows else None

    async def replay(self, letters: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        rows = await self._opened().fetch(sql.REPLAY, _numbers_of(letters))
        self._puts.look_again()
        return int(rows[0][0])

    async def discard(self, letters: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were."""
        rows = await self._opened().fetch(sql.DISCARD, _numbers_of(letters))
        return int(rows[0][0])

    def _opened(self) -> Server:
        if self._server is None:
            msg = f"the store at {self._name} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._server


async def _reencrypt(server: Server, cipher: SecretCipher) -> None:
    """Encrypt with the newest key what is not, unless another process changed it meanwhile.

    Raises StoreError when a secret cannot be opened.
    """
    await server.fetch(sql.PURGE)
    # first the candidates: one that is confirmed meanwhile is found among the others
    for listing, change in (
        (sql.LIST_CANDIDATES, sql.RESEAL_CANDIDATE),
        (sql.LIST_CONFIRMED, sql.RESEAL_CONFIRMED),
    ):
        for id_, route, *kept in await server.fetch(listing):
            if renewed := cipher.reencrypt(route, EncryptedSecret(*kept)):
                await server.fetch(change, id_, *kept, *renewed)


_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])


def _text_of(filters: Sequence[WebhookFilter] | None) -> str | None:
    """Return filters as JSON, None for None."""
    return None if filters is None else msgspec.json.encode(filters).decode()


def _route_of(row: Any, cipher: SecretCipher) -> Route:
    """Return the route of a row. Raises StoreError when a secret of it cannot be opened."""
    id_, target, resource, filters, state, gid, created_at, heartbeat_at, _, *secrets = row
    fingerprint, ciphertext, candidates = secrets
    return Route(
        id=id_,
        target=target,
        resource=resource,
        filters=None if filters is None else _filters.decode(filters),
        state=state,
        gid=gid,
        secret=None
        if fingerprint is None
        else cipher.decrypt(id_, EncryptedSecret(fingerprint, ciphertext)),
        candidates=tuple(cipher.decrypt(id_, EncryptedSecret(*pair)) for pair in candidates),
        created_at=created_at,
        heartbeat_at=heartbeat_at,
    )


def _claim_of(rows: list[Any]) -> Claim | None:
    """Return the claim that these rows are, None without any."""
    if not rows:
        return None
    deliveries = tuple(
        Delivery(
            id=str(number),
            route=route,
            digest=digest,
            received_at=received_at,
            attempts=attempts,
            done=done,
            trace=trace,
            body=body,
        )
        for route, _, number, digest, received_at, attempts, done, trace, body in rows
    )
    return Claim(route=rows[0]["route"], fence=rows[0]["fence"], deliveries=deliveries)


def _letter_of(row: Any) -> DeadLetter:
    """Return the dead letter of a row."""
    return DeadLetter(**{**row, "id": str(row["id"])})


def _numbers_of(ids: Sequence[str]) -> list[int]:
    """Return each id that may be one of this store, once."""
    numbers = (int(id_) for id_ in ids if re.fullmatch(r"[1-9]\d{0,17}", id_, re.ASCII))
    return list(dict.fromkeys(numbers))


def _is_text(text: str) -> bool:
    """Return whether PostgreSQL can hold it."""
    return _clean(text) == text


def _clean(text: str) -> str:
    """Return the text with escapes for what PostgreSQL cannot hold."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
