"""The store on a PostgreSQL server, for many receivers and many workers.

Each call of the store is one call of a function in ``functions.sql``, a claim two when no queue is
free; it runs to its end even if its caller is cancelled. Deliveries that are put while others are
on their way go together in the next call.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from ..._logging import ThrottledLogger
from ..._options import COUNT, TEXT, check_options
from ...errors import StoreError
from ...models import (
    Claim,
    Counts,
    DeadLetter,
    Delivery,
    Retry,
    Route,
    Settlement,
    State,
    WebhookFilter,
    Write,
)
from .. import (
    DUPLICATES_KNOWN_FOR,
    MAX_CANDIDATES,
    MAX_CLAIM_BYTES,
    MAX_WAITING,
    RETIRED_KNOWN_FOR,
    check_account,
    check_ids,
    check_limit,
)
from .._batcher import Batcher
from .._codec import encode_filters, prefix_of
from .._encryption import EncryptedSecret, SecretCipher, report_unreadable, webhook_name
from ._address import Address
from ._batch import PutBatcher
from ._errors import DamagedError
from ._rows import (
    claim_of,
    clean,
    deliveries_of,
    is_text,
    letter_of,
    more_of,
    new_values_of,
    numbers_of,
    route_of,
    values_of,
)
from ._server import Pool, Server, connect, hidden, library

__all__ = ["PostgresStore"]

logger = logging.getLogger(__name__)
throttled = ThrottledLogger(logger)

PARTING_TIMEOUT = 1.0
"""Seconds that closing waits for the connections to end."""

FORGOTTEN_AT_ONCE = 10_000
"""How many digests are forgotten at the most when the store is opened."""

_OPTIONS = {"schema": TEXT, "max_waiting": COUNT}


class PostgresStore:
    """Keeps routes and deliveries in a schema of a PostgreSQL database, 12 or newer.

    ``dsn_or_pool`` is a ``postgresql://`` address as providers hand it out for libpq, or a pool of
    asyncpg, which is not closed. Needs the extra ``postgres``. The schema is created and brought up
    to date when the store is opened; many processes may do so at once.

    Any number of processes may share the schema. A route is leased to one worker at a time, so
    deliveries of one webhook are handled in the order of their receipt; leases, back-off and
    expiry go by the clock of the server. What was stored survives a crash of the server, and a
    failover as far as the standby is synchronous. After a restart the store reconnects by itself.

    The inbox takes somewhat more than ``max_waiting`` when several processes fill it at once: each
    looks only once a second.

    Nothing but notifications needs a session, so a pooler in transaction mode is fine. PgBouncer
    needs version 1.21 or newer and ``max_prepared_statements`` above 0, as statements are
    prepared; with ``pgbouncer=true`` among the parameters of the address they are not.

    With ``encryption_keys``, the newest first, secrets are encrypted at the server; opening the
    store encrypts with the newest what is not yet. Earlier rows stay in the server's files and its
    log until it writes over them.

    Raises ValueError when the address, the schema's name or ``max_waiting`` is of no use, when a
    key is none, and when asyncpg is not installed; TypeError for a value of another type.
    """

    def __init__(
        self,
        dsn_or_pool: str | Pool,
        *,
        schema: str = "asana_webhooks",
        max_waiting: int = MAX_WAITING,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        check_options(_OPTIONS, {"schema": schema, "max_waiting": max_waiting})
        self._cipher = SecretCipher(encryption_keys)
        if not re.fullmatch(r"(?!pg_)[A-Za-z_]\w{0,62}", schema, re.ASCII):
            msg = (
                "a schema's name is at most 63 letters, digits and underscores and does not begin"
                f" with 'pg_', not {schema!r}"
            )
            raise ValueError(msg)
        library()
        if isinstance(dsn_or_pool, str):
            self._address, self._pool = Address.read(dsn_or_pool), None
        else:
            self._address, self._pool = Address("the given pool", ""), dsn_or_pool
        self._schema = schema
        self._max_waiting = max_waiting
        self._server: Server | None = None
        self._set_aside: set[str] = set()

    async def __aenter__(self) -> Self:
        """Connect, and create the schema or bring it up to date.

        Raises StoreError when that fails, when a newer version has been at work, or when no key
        opens a secret.
        """
        if self._server is not None:
            msg = f"the store at {self._address.name} is open already"
            raise StoreError(msg)
        pool = self._pool or await connect(self._address)
        self._server = server = Server(pool, self._address, self._schema)
        try:
            await server.prepare()
            await server.call("purge")
            await server.call("forget", DUPLICATES_KNOWN_FOR, FORGOTTEN_AT_ONCE)
            await _reencrypt(server, self._cipher)
        except BaseException:
            self._server = None
            if pool is not self._pool:
                pool.terminate()
            raise
        self._puts = PutBatcher(server, self._max_waiting)
        self._lookups: Batcher[str, Any] = Batcher(server.find_routes)
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
        await server.finish()
        if server.pool is not self._pool:
            try:
                async with asyncio.timeout(PARTING_TIMEOUT):
                    await server.pool.close()
            except Exception:  # noqa: BLE001 - what cannot be closed in order is cut off
                server.pool.terminate()

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        address = (route.id, route.target, prefix_of(route.target))
        webhook = (route.resource, route.account, route.user, encode_filters(route.filters))
        times = (route.created_at, route.heartbeat_at, ttl)
        return await self._opened().ask("reserve", *address, *webhook, *times, exclusive)

    async def get_route(self, route: str) -> Route | None:
        if not is_text(route):  # a stranger's path; no route has such an id
            return None
        server = self._opened()
        row = await server.outcome(self._lookups.ask(route))
        return None if row is None else self._with_secrets(row)

    async def list_routes(
        self, resource: str | None = None, *, account: str | None = None
    ) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first.

        Those of one resource or of all, of one account or of all. A route of which a secret cannot
        be read is said once, and returned without its secrets.
        """
        routes = []
        for row in await self._opened().call("list_routes", resource, account):
            try:
                routes.append(self._with_secrets(row))
            except StoreError as error:
                routes.append(route := route_of(row))
                if route.id not in self._set_aside:
                    self._set_aside.add(route.id)
                    name = webhook_name(route.gid, route.resource)
                    logger.error("%s is set aside: %s", name, error)
        return routes

    def _with_secrets(self, row: Any) -> Route:
        """Return the route of a row. Raises StoreError when a secret of it cannot be read."""
        route = route_of(row)
        if row["secret"] is not None:
            kept = EncryptedSecret(row["secret"], row["seal"])
            return replace(route, secret=self._cipher.decrypt(route.id, kept))
        kept_candidates = [EncryptedSecret(*pair) for pair in row["candidates"]]
        secrets = (self._cipher.decrypt(route.id, kept) for kept in kept_candidates)
        return replace(route, candidates=tuple(secrets))

    async def add_candidate(self, route: str, secret: str) -> bool:
        encrypted = hidden(self._cipher.encrypt(route, secret))
        del secret  # a traceback may show what this frame has
        return await self._opened().ask("add_candidate", route, *encrypted, MAX_CANDIDATES)

    async def confirm(
        self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
    ) -> bool:
        (fingerprint,) = hidden([self._cipher.fingerprint(route, secret)])
        del secret  # a traceback may show what this frame has
        change = (route, gid, fingerprint, datetime.now(UTC), list(leaving))
        confirmed = await self._opened().ask("confirm_candidate", *change)
        self._puts.look_again()
        return confirmed

    async def set_user(self, route: str, user: str) -> None:
        await self._opened().call("set_user", route, user)

    async def leave(self, route: str) -> bool:
        return await self._opened().ask("leave", route)

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        await self._opened().call("set_filters", route, encode_filters(filters))

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        await self._opened().call("set_heartbeat", route, at)

    async def retire(self, route: str, *, lost: bool = False) -> bool:
        retired_as = "lost" if lost else "deleted"
        return await self._opened().ask("retire", route, retired_as, RETIRED_KNOWN_FOR)

    async def drop(self, route: str) -> Route | None:
        rows = await self._opened().call("drop_route", route)
        return self._with_secrets(rows[0]) if rows else None

    async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        owner = (public_url, holder, ttl)
        ((other,),) = await self._opened().call("own", *owner, DUPLICATES_KNOWN_FOR)
        return None if other is None else str(other)

    async def disown(self, holder: str) -> None:
        await self._opened().call("disown", holder)

    async def hold(self, name: str, *, holder: str, ttl: float, limit: int | None = None) -> int:
        ((holders,),) = await self._opened().call("hold", name, holder, ttl, limit)
        return int(holders)

    # Inbox

    def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> Awaitable[bool]:
        self._opened()
        kept_reason = None if reason is None else clean(reason)
        if candidate is not None:  # a traceback may show what this frame has
            (candidate,) = hidden([self._cipher.fingerprint(delivery.route, candidate)])
        return self._puts.put(delivery, candidate, kept_reason)

    async def notify(self) -> None:
        await self._opened().call("announce", self._schema)

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call ``arrived`` whenever somebody notifies, until cancelled.

        It needs a connection of its own: with a pool of a single one it returns at once. Raises
        StoreError when the connection is lost. Behind PgBouncer in transaction mode nothing comes.
        """
        await self._opened().listen(self._schema, arrived)

    async def claim(
        self, *, limit: int, lease: float, skip_accounts: Collection[str] = ()
    ) -> Claim | None:
        check_limit(limit)
        server = self._opened()
        passed = [*skip_accounts] or None
        claiming = server.keep(_claim(server, limit, lease, passed))

        def give_back(claimed: asyncio.Task[list[Any]]) -> None:
            if claim := claim_of(_rows_of(claimed)):
                server.start("settle", *values_of(claim, Settlement(), is_last=True))

        return claim_of(await _rows_or_give_back(server, claiming, give_back))

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        check_limit(limit)
        server = self._opened()
        lease = (claim.route, claim.fence)
        claiming = server.start("claim_more", *lease, limit, MAX_CLAIM_BYTES)

        def give_back(claimed: asyncio.Task[list[Any]]) -> None:
            more = more_of(claim, _rows_of(claimed))
            if more and more.deliveries:
                retries = (Retry(delivery=delivery, delay=0.0) for delivery in more.deliveries)
                settlement = Settlement(retries=tuple(retries))
                server.start("settle", *values_of(claim, settlement, is_last=False))

        try:
            rows = await _rows_or_give_back(server, claiming, give_back)
        except DamagedError:  # the next claim makes a dead letter of it
            return replace(claim, deliveries=())
        return more_of(claim, rows)

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        return await self._opened().ask("renew", claim.route, claim.fence, lease)

    async def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
        return await self._settle(claim, settlement, is_last=False)

    async def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        return await self._settle(claim, settlement or Settlement(), is_last=True)

    async def _settle(
        self, claim: Claim, settlement: Settlement, *, is_last: bool
    ) -> tuple[str, ...] | None:
        values = values_of(claim, settlement, is_last=is_last)
        ((letters,),) = await self._opened().call("settle", *values)
        if settlement.retries:
            self._puts.look_again()
        return None if letters is None else tuple(map(str, letters))

    async def remembered(self, scope: str, *, within: timedelta = DUPLICATES_KNOWN_FOR) -> bytes:
        server = self._opened()
        known_for = min(within, DUPLICATES_KNOWN_FOR)
        ((events, damaged),) = await server.call("list_events", scope, known_for)
        if damaged:
            message = (
                "%d records of events that were handled cannot be read at %s, they were damaged:"
                " such an event may be handled again; check the disk of the server"
            )
            throttled.log(logging.ERROR, "events", message, damaged, server.name)
        return events or b""

    async def counts(self) -> Counts:
        (counts,) = await self._opened().call("counts")
        return Counts(**counts)

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        behind = [0] if after == "" else numbers_of([after])
        if not behind:
            return []
        rows = await self._opened().call("list_letters", *behind, limit, MAX_CLAIM_BYTES)
        return [letter_of(row) for row in rows]

    async def get_dead_letter(self, id: str) -> DeadLetter | None:  # noqa: A002 - the contract's
        for number in numbers_of([id]):
            for row in await self._opened().call("find_letter", number):
                return letter_of(row)
        return None

    async def replay(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        ((replayed,),) = await self._opened().call("replay", numbers_of(ids))
        self._puts.look_again()
        return int(replayed)

    async def discard(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        ((discarded,),) = await self._opened().call("discard", numbers_of(ids))
        return int(discarded)

    # Writes

    async def put_write(self, write: Write) -> None:
        values = (write.id, write.account, [*write.resources], *hidden([write.text]))
        await self._opened().call("put_write", *values, DUPLICATES_KNOWN_FOR)

    async def list_writes(self, resources: Collection[str]) -> list[Write]:
        rows = await self._opened().call("list_writes", [*resources])
        return [write for row in rows if (write := self._write_of(*row)) is not None]

    def _write_of(
        self, id_: str, account: str, resources: list[str], text: str | None
    ) -> Write | None:
        """Return the write of a row; None when its text is damaged, which is said."""
        if text is not None:
            return Write(id=id_, account=account, resources=tuple(resources), text=text)
        message = "a write at %s cannot be read, it was damaged: check the disk of the server"
        throttled.log(logging.ERROR, "write", message, self._address.name)
        return None

    async def take_write(self, id: str, part: str, key: bytes) -> bool:  # noqa: A002 - as above
        return await self._opened().ask("take_write", id, part, key)

    async def forget_account(self, account: str) -> bool:
        check_account(account)
        return await self._opened().ask("forget_account", account)

    # States

    async def get_state(self, scope: str) -> State | None:
        rows = await self._opened().call("find_state", scope)
        return self._state_of(rows[0]) if rows else None

    async def list_states(self, account: str | None = None) -> list[State]:
        return [self._state_of(row) for row in await self._opened().call("list_states", account)]

    def _state_of(self, row: Any) -> State:
        """Return the state of a row; its text is empty when it is damaged, which is said."""
        scope, version, text = row
        if text is None:
            message = (
                "the state of %r at %s cannot be read, it was damaged, and is taken for empty:"
                " check the disk of the server"
            )
            throttled.log(logging.ERROR, f"state {scope}", message, scope, self._address.name)
        return State(scope=scope, version=version, text=text or "")

    async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
        values = (state.scope, state.version, *hidden([state.text]), *new_values_of(deliveries))
        kept = await self._opened().ask("put_state", *values)
        if deliveries:
            self._puts.look_again()
        return kept

    async def drop_state(self, scope: str, version: int) -> bool:
        return await self._opened().ask("drop_state", scope, version)

    async def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        behind = [0] if after == "" else numbers_of([after])
        if not behind:
            return []
        rows = await self._opened().call("peek", route, *behind, limit, MAX_CLAIM_BYTES)
        return [*deliveries_of(route, rows)]

    def _opened(self) -> Server:
        if self._server is None:
            msg = f"the store at {self._address.name} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._server


async def _claim(server: Server, limit: int, lease: float, passed: list[str] | None) -> list[Any]:
    """Return the rows of a claim; what is damaged is no hindrance."""
    while True:
        try:
            return await _claim_readable(server, limit, lease, passed)
        except DamagedError:
            ((buried,),) = await server.start("bury_unreadable", limit, passed)
            if buried is None:
                raise
        if buried:
            logger.error(
                "%d deliveries at %s cannot be read, they were damaged: each is a dead letter now;"
                " check the disk of the server",
                *(buried, server.name),
            )
        else:
            logger.error(
                "the deliveries of a webhook at %s can neither be read nor buried, they were"
                " damaged: they are set aside; check the disk of the server",
                server.name,
            )


async def _claim_readable(
    server: Server, limit: int, lease: float, passed: list[str] | None
) -> list[Any]:
    """Return the rows of a claim; only when no queue is free, wait for one in use."""
    values = (limit, MAX_CLAIM_BYTES, lease, passed)
    rows: list[Any] = await server.start("claim_next", *values)
    if rows and rows[0]["route"] is None:
        return await server.start("claim_next_patiently", *values)
    return rows


async def _reencrypt(server: Server, cipher: SecretCipher) -> None:
    """Encrypt with the newest key what is not, unless another process changed it meanwhile.

    What cannot be decrypted is said and left. Raises StoreError when nothing encrypted can be.
    """
    decrypted, unreadable = 0, {}
    # first the candidates: one that is confirmed meanwhile is found among the others
    for listing, change in (
        ("list_candidates", "reseal_candidate"),
        ("list_confirmed", "reseal_confirmed"),
    ):
        for id_, route, fingerprint, ciphertext, gid, resource in await server.call(listing):
            kept = EncryptedSecret(fingerprint, ciphertext)
            try:
                renewed = cipher.reencrypt(route, kept)
            except StoreError:
                unreadable[route] = webhook_name(gid, resource), ciphertext
                continue
            decrypted += ciphertext is not None
            if renewed:
                await server.call(change, id_, *hidden(kept), *hidden(renewed))
    report_unreadable(unreadable.values(), decrypted=decrypted)


async def _rows_or_give_back(
    server: Server,
    claiming: asyncio.Task[list[Any]],
    give_back: Callable[[asyncio.Task[list[Any]]], None],
) -> list[Any]:
    """Return the rows of a claim; whatever it takes is given back when nobody waits any more."""
    try:
        rows: list[Any] = await server.outcome(asyncio.shield(claiming))
    except (asyncio.CancelledError, StoreError):
        claiming.add_done_callback(give_back)
        raise
    return rows


def _rows_of(claiming: asyncio.Task[list[Any]]) -> list[Any]:
    """Return the rows that this ended with, none when it failed."""
    return [] if claiming.cancelled() or claiming.exception() else claiming.result()
