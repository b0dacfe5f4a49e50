"""The store on a Redis or Valkey server, for many receivers and workers.

What must happen together happens in one script (the ``.lua`` files beside this module), and the
time is the server's. Puts, and look-ups, that come while a round trip is under way go together in
the next one. The keys, all in one slot of a cluster through the hash tag ``{asana-webhooks}``:

==============================  =============  ====================================================
``version``, ``number``         string         of this layout, the last id of a delivery or fence
``clock``                       hash           the last reading, how much is added to the server's
``route:ROUTE``                 hash           the route's fields, see below for its secrets
``routes``, ``resource:GID``    sorted set     routes that are not retired, in order of arrival
``expiries``                    sorted set     reserved and retired routes, by when they end
``owners``                      hash           until when each holder has the store, for which URL
``seen:DIGEST``                 string         when it was received; expires an hour late
``waiting``, ``held``           string         how many deliveries wait, how many are held
``deliveries:ROUTE``            hash           time of receipt, digest and body of each delivery
``tries:ROUTE``                 hash           attempts, handled events and crashes of deliveries
``traces:ROUTE``                hash           traces of those that have one
``queue:ROUTE``                 sorted set     claimable deliveries, by when they are due
``held:SLOT:ROUTE``             list           deliveries held for a candidate
``agenda``                      sorted set     routes, by when they may be claimed
``leases``                      hash           the fence of each leased route
``claimed:ROUTE``               string         deliveries that its last claim holds
``letters``                     stream         dead letters
==============================  =============  ====================================================

In a route's hash, ``secret`` and ``candidate1`` to ``candidate4`` are fingerprints, and ``seal``
and ``seal1`` to ``seal4`` the ciphertexts of those that are encrypted: scripts compare
fingerprints.

Not one stream with a consumer group: a group hands single entries to whoever asks, so two workers
would have deliveries of one webhook at once, what is put off would have to be kept elsewhere, and
a late XACK is not refused. Here a route is leased, with a fence, and every step costs O(log n).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import (
    DUPLICATES_KNOWN_FOR,
    MAX_CANDIDATES,
    MAX_CLAIM_BYTES,
    MAX_HELD,
    MAX_HELD_BYTES,
    MAX_WAITING,
    RETIRED_KNOWN_FOR,
    check_ids,
    check_limit,
    held_full,
    inbox_full,
)
from .._encryption import SecretCipher
from . import _scripts
from ._batch import Batcher
from ._records import (
    FULL,
    HELD_FULL,
    KEPT,
    LETTER_ID,
    MICROSECOND,
    RECORD,
    counts_of,
    delivery_of,
    lease_of,
    letter_of,
    micros,
    note,
    number_of,
    route_of,
    text_of,
)
from ._secrets import renew_secrets
from ._server import SOCKET_TIMEOUT, Server, connect, tagged, usable

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisStore"]

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""For how many seconds closing waits for what is under way."""

LAYOUT_VERSION = 2

KEPT_RETIRED = RETIRED_KNOWN_FOR // MICROSECOND


class RedisStore:
    """Keeps routes and deliveries on a server, Redis 7 or later or Valkey, for many processes.

    ``url_or_client`` is a URL (``redis://``, ``rediss://`` or ``unix://``) or a
    ``redis.asyncio.Redis``, which stays open, and whose timeouts and retries are its own; that of a
    Sentinel, ``Sentinel(...).master_for(name)``, follows the primary. A ``RedisCluster`` is not
    taken: all keys would be on one of its servers. Stores with the same ``prefix`` on the same
    server are one.

    What is answered survives what the server survives: with ``appendfsync everysec``, a power
    failure costs a second or two of it, and so does killing the server while its disk is slow (it
    puts off writing then); a failover, what the replica had not got.

    With ``encryption_keys``, the newest first, secrets are encrypted on the server;
    opening the store encrypts with the newest what is not yet. All processes need them: stop those
    without keys before the first is given some. What was written in clear before is in the server's
    append-only file until that is rewritten (BGREWRITEAOF), and in older copies.

    A store belongs to the event loop that opened it. Raises ValueError for a bad URL, prefix or
    key, and when the redis library is not installed; TypeError for a client of another kind.
    """

    def __init__(
        self,
        url_or_client: str | Redis,
        *,
        prefix: str = "asana-webhooks:",
        max_waiting: int = MAX_WAITING,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        self._cipher = SecretCipher(encryption_keys)
        self._url = url_or_client if isinstance(url_or_client, str) else None
        client = connect(url_or_client) if isinstance(url_or_client, str) else usable(url_or_client)
        self._server = Server(client, tagged(prefix))
        self._max_waiting = max_waiting
        self._puts = Batcher(self._send_puts)
        self._lookups = Batcher(self._send_lookups)
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        """Check that the server can be written, and warn when it may lose what it is given.

        Raises StoreError with the cause and the remedy when it cannot be used.
        """
        if self._open:
            msg = f"the store on {self._server.place} is open already"
            raise StoreError(msg)
        if self._url is not None:  # a pool keeps to the event loop in which it was waited for
            self._server.client = connect(self._url)
        try:
            version = await self._server.run(_scripts.OPEN, LAYOUT_VERSION)
            if version > LAYOUT_VERSION:
                msg = (
                    f"the store on {self._server.place} was made by a newer version of"
                    " asana-webhooks: install that version, or choose another prefix"
                )
                raise StoreError(msg)
            if version < LAYOUT_VERSION:
                await self._upgrade()
            await renew_secrets(self._server, self._cipher)
            await self._server.check()
        except BaseException:
            await self._close()
            raise
        self._open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for what is under way, then close; a client that was given stays open."""
        self._opened()
        self._open = False
        tasks = {*self._tasks, *self._puts.tasks(), *self._lookups.tasks()}
        try:
            if tasks:
                await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)
        finally:
            await self._close()

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        """Add a reserved route for ``ttl`` seconds; False when ``exclusive`` or its id is taken."""
        place = route.target.rpartition("/")[0]
        known = {"target": route.target}
        if route.filters is not None:
            known["filters"] = text_of(route.filters)
        if route.heartbeat_at is not None:
            known["heartbeat_at"] = str(number_of(route.heartbeat_at))
        fields = [part for item in known.items() for part in item]
        created_at = number_of(route.created_at)
        head = (route.id, micros(ttl), int(exclusive), place, route.resource, created_at)
        return bool(await self._opened().run(_scripts.RESERVE, *head, *fields))

    async def get_route(self, route: str) -> Route | None:
        """Return the route with this id."""
        self._opened()
        try:
            id_ = route.encode()
        except UnicodeEncodeError:  # a stranger's path; no route has such an id
            return None
        found = await self._lookups.ask(id_)
        return None if found is None else route_of(found, self._cipher)

    async def list_routes(self, resource: str | None = None) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first."""
        which = () if resource is None else (resource,)
        found = await self._opened().run(_scripts.LIST_ROUTES, *which)
        listed = [route_of(packed, self._cipher) for packed in found]
        return sorted(listed, key=lambda route: route.created_at)

    async def add_candidate(self, route: str, secret: str) -> bool:
        """Keep a handshake's secret; True when the route holds it now."""
        fingerprint, ciphertext = self._cipher.encrypt(route, secret)
        arguments = (route, fingerprint, ciphertext or "", MAX_CANDIDATES)
        return bool(await self._opened().run(_scripts.ADD_CANDIDATE, *arguments))

    async def confirm(self, route: str, *, gid: str, secret: str) -> bool:
        """Turn a reserved route into a confirmed one."""
        fingerprint = self._cipher.fingerprint(route, secret)
        return bool(await self._opened().run(_scripts.CONFIRM, route, gid, fingerprint))

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        """Keep the filters that the webhook of this route has now."""
        value = () if filters is None else (text_of(filters),)
        await self._opened().run(_scripts.CHANGE, route, "filters", *value)

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        """Keep when the last heartbeat came."""
        await self._opened().run(_scripts.CHANGE, route, "heartbeat_at", number_of(at))

    async def retire(self, route: str) -> bool:
        """Retire a confirmed route; True for the one call that did it."""
        return bool(await self._opened().run(_scripts.RETIRE, route, KEPT_RETIRED))

    async def drop(self, route: str) -> Route | None:
        """Forget a reserved route with its candidates and what is held for them."""
        found = await self._opened().run(_scripts.DROP, route)
        return None if found is None else route_of(found, self._cipher)

    async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        """Let this public URL have the store; returns another one whose holders live."""
        found = await self._opened().run(_scripts.OWN, public_url, holder, micros(ttl))
        return None if found is None else str(found.decode())

    async def disown(self, holder: str) -> None:
        """End what this holder holds."""
        await self._opened().run(_scripts.DISOWN, holder)

    # Inbox

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        """Keep a delivery; False for a duplicate, or when its candidate is none any more."""
        self._opened()
        received_at = number_of(delivery.received_at)
        fingerprint = (
            None if candidate is None else self._cipher.fingerprint(delivery.route, candidate)
        )
        answer = await self._puts.ask(
            delivery.route.encode(),
            delivery.digest,
            b"%d" % received_at,
            RECORD.pack(received_at, delivery.digest) + delivery.body,
            delivery.trace.encode(),
            b"" if fingerprint is None else b"=" + fingerprint.encode(),
            b"" if reason is None else note(datetime.now(UTC), reason),
        )
        if answer == FULL:
            raise inbox_full(self._max_waiting)
        if answer == HELD_FULL:
            raise held_full()
        return answer == KEPT

    async def notify(self) -> None:
        """Tell all who watch, in other processes too, that a delivery was stored."""
        await self._opened().publish()

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call ``arrived`` whenever somebody announces, until cancelled.

        It needs a connection of its own: with a client of a single one it returns at once. Raises
        StoreError when the connection is lost.
        """
        await self._opened().subscribe(arrived)

    async def claim(self, *, limit: int, lease: float) -> Claim | None:
        """Lease the route whose due delivery waited longest, with up to ``limit`` of the due ones.

        A delivery whose lease ran out waits from then on. Fewer are given when they are large. A
        claim that is cancelled is given back.
        """
        check_limit(limit)
        self._opened()
        claiming = asyncio.create_task(self._claim(limit, lease), name="asana-webhooks claim")
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._give_back(claiming), name="asana-webhooks give back")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            raise

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        """Let the lease end ``lease`` seconds from now; False when it is lost."""
        arguments = (*lease_of(claim), micros(lease))
        return bool(await self._opened().run(_scripts.RENEW, *arguments))

    async def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        """Remove handled deliveries; False when the lease is lost."""
        arguments = (*lease_of(claim), *(delivery.id for delivery in handled))
        return bool(await self._opened().run(_scripts.ACK, *arguments))

    async def release(
        self, claim: Claim, delivery: Delivery, *, delay: float, attempts: int, done: int
    ) -> bool:
        """Make a delivery due again in ``delay`` seconds; False when the lease is lost."""
        arguments = (*lease_of(claim), delivery.id, micros(delay), f"{attempts:010d}{done:010d}")
        return bool(await self._opened().run(_scripts.RELEASE, *arguments))

    async def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        """Remove a delivery and leave these dead letters; False when the lease is lost."""
        parts = [
            part
            for letter in letters
            for part in (
                letter.route,
                letter.done,
                note(letter.buried_at, letter.reason),
                RECORD.pack(number_of(letter.received_at), bytes(32)) + letter.body,
            )
        ]
        arguments = (*lease_of(claim), delivery.id, *parts)
        return bool(await self._opened().run(_scripts.BURY, *arguments))

    async def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        """Remove handled deliveries, then give the lease back; False when it is lost."""
        return await self._finish(self._opened(), claim, handled)

    async def counts(self) -> Counts:
        """Return how much is in the inbox."""
        return counts_of(*await self._opened().run(_scripts.COUNTS))

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return dead letters, oldest first, from behind the one with the id ``after``."""
        self._opened()
        if after and not LETTER_ID.fullmatch(after):
            return []
        return await self._letters(limit, f"({after}" if after else "-", "+")

    async def get_dead_letter(self, id: str) -> DeadLetter | None:  # noqa: A002 - the contract's
        """Return the dead letter with this id."""
        self._opened()
        if not LETTER_ID.fullmatch(id):
            return None
        found = await self._letters(1, id, id)
        return found[0] if found else None

    async def replay(self, ids: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        check_ids(ids)
        known = filter(LETTER_ID.fullmatch, ids)
        return int(await self._opened().run(_scripts.REPLAY, *known))

    async def discard(self, ids: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were."""
        check_ids(ids)
        known = filter(LETTER_ID.fullmatch, ids)
        return int(await self._opened().run(_scripts.DISCARD, *known))

    async def _letters(self, limit: int, begin: str, end: str) -> list[DeadLetter]:
        found = await self._server.run(_scripts.LETTERS, limit, begin, end, MAX_CLAIM_BYTES)
        return [letter_of(*entry) for entry in found]

    async def _send_puts(self, puts: Sequence[bytes]) -> Sequence[int]:
        known_for = DUPLICATES_KNOWN_FOR // MICROSECOND
        limits = (self._max_waiting, MAX_HELD, MAX_HELD_BYTES, known_for)
        answers: bytes = await self._server.run(_scripts.PUT, *limits, *puts)
        return answers

    async def _send_lookups(self, ids: Sequence[bytes]) -> Sequence[bytes | None]:
        found: list[bytes | None] = await self._server.run(_scripts.GET_ROUTES, *ids)
        return found

    async def _claim(self, limit: int, lease: float) -> Claim | None:
        arguments = (limit, micros(lease), MAX_CLAIM_BYTES)
        found = await self._server.run(_scripts.CLAIM, *arguments)
        if found is None:
            return None
        route, fence, taken = found[0].decode(), int(found[1]), found[2]
        deliveries = tuple(delivery_of(route, *each) for each in taken)
        return Claim(route=route, fence=fence, deliveries=deliveries)

    async def _give_back(self, claiming: asyncio.Task[Claim | None]) -> None:
        try:
            claim = await claiming
            if claim is not None:
                await self._finish(self._server, claim, ())
        except StoreError as error:
            logger.warning("a claim that nobody waits for ends with its lease: %s", error)

    @staticmethod
    async def _finish(server: Server, claim: Claim, handled: Sequence[Delivery]) -> bool:
        arguments = (*lease_of(claim), *(delivery.id for delivery in handled))
        return bool(await server.run(_scripts.FINISH, *arguments))

    async def _upgrade(self) -> None:
        """Bring what an earlier version wrote up to date; another process may do so meanwhile."""
        cursor = b""
        while cursor != b"0":
            cursor = await self._server.run(_scripts.END_RETIRED, cursor or b"0", KEPT_RETIRED)
        await self._server.run(_scripts.UPGRADE, LAYOUT_VERSION, MAX_CANDIDATES)

    def _opened(self) -> Server:
        if not self._open:
            msg = f"the store on {self._server.place} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._server

    async def _close(self) -> None:
        if self._url is not None:
            with anyio.move_on_after(SOCKET_TIMEOUT, shield=True):
                await self._server.client.aclose()
