"""The store on a Redis or Valkey server, for many receivers and workers.

What must happen together happens in one script (the ``.lua`` files beside this module), and the
time is the server's. Puts, and look-ups, that come while a round trip is under way go together in
the next one. The keys, all in one slot of a cluster through the hash tag ``{asana-webhooks}``:

==============================  =============  ====================================================
``version``                     string         of this layout
``clock``                       hash           the last reading, how much is added to the server's;
                                               the last id of a delivery, or fence
``route:ROUTE``                 hash           the route's fields, see below for its secrets
``routes``, ``resource:GID``    sorted set     routes that are not retired, in order of arrival
``account:ACCOUNT``             sorted set     all routes of an account, in order of arrival
``expiries``                    sorted set     reserved and retired routes, by when they end
``owners``                      hash           until when each holder has the store, for which URL
``holders:NAME``                sorted set     who holds a name, by when that ends
``names:HOLDER``                set            the names that somebody holds
``seen:DIGEST``                 string         when it was received; expires an hour late
``waiting``, ``held``           string         how many deliveries wait, how many are held
``deliveries:ROUTE``            hash           time of receipt, digest and body of each delivery
``progress:ROUTE``              hash           attempts, crashes and progress of deliveries
``traces:ROUTE``                hash           traces of those that have one
``queue:ROUTE``                 sorted set     claimable deliveries, by when they are due
``held:SLOT:ROUTE``             list           deliveries held for a candidate
``agenda:ACCOUNT``              sorted set     an account's routes, by when they may be claimed
``agendas``                     sorted set     accounts, by when the first of these may be or before
``leases``                      hash           fence and account of each leased route
``claimed:ROUTE``               string         deliveries that its last claim holds
``fence:ROUTE``                 string         the fence of its last claim; expires after 48 hours
``events:HOUR:SCOPE``           string         events settled in an hour of the clock; expires
``settled``                     sorted set     scopes of such events, by their last hour
``letters``                     stream         dead letters
``letters:ROUTE``               set            the ids of those of a route
``write:ID``                    hash           a write, and which events its parts caused; expires
``writes``                      sorted set     all writes, by when they end
``written:RESOURCE``            sorted set     those that name a resource, in order of arrival
``states``                      hash           version and text of each scope's state
``scopes``                      sorted set     scopes of states, in the order of their letters
``agenda``, ``number``          string, hash   nothing: these refuse the programs of layouts before
                                               4, which had keys of other types there
==============================  =============  ====================================================

In a route's hash, ``secret`` and ``candidate1`` to ``candidate4`` are fingerprints, and ``seal``
and ``seal1`` to ``seal4`` the ciphertexts of those that are encrypted: scripts compare
fingerprints. What is remembered of events is not a stream for each scope: strings of an hour need
no housekeeping, since the server lets them expire. An entry in one is its time, in microseconds of
the store's clock (8 bytes), the number of its bytes (4), and these.

Not one stream with a consumer group: a group hands single entries to whoever asks, so two workers
would have deliveries of one webhook at once, what is put off would have to be kept elsewhere, and
a late XACK is not refused. Here a route is leased, with a fence, and every step costs O(log n).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from msgspec.structs import replace

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
    MAX_HELD,
    MAX_HELD_BYTES,
    MAX_WAITING,
    RETIRED_KNOWN_FOR,
    check_account,
    check_ids,
    check_limit,
    held_full,
    inbox_full,
)
from .._batcher import Batcher
from .._codec import MICROSECOND, encode_filters, prefix_of, to_micros
from .._encryption import SecretCipher, webhook_name
from . import _scripts
from ._records import (
    DELIVERY_ID,
    EVENTS_KNOWN_FOR,
    FULL,
    HELD_FULL,
    KEPT,
    LETTER_ID,
    VERSION_DIGITS,
    added,
    answers_of,
    counts_of,
    dead_letter_of,
    deliveries_of,
    events_of,
    fields_of,
    lease_of,
    micros,
    put_of,
    route_of,
    settlement_of,
    version_of,
    with_secrets,
)
from ._scripts import Script
from ._secrets import renew_secrets
from ._server import SOCKET_TIMEOUT, Hidden, Server, check_client, connect, damage_of, tagged

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisStore"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT = 5.0
"""For how many seconds closing waits for what is under way."""

LAYOUT_VERSION = 4

KEPT_RETIRED = RETIRED_KNOWN_FOR // MICROSECOND
KNOWN_FOR = DUPLICATES_KNOWN_FOR // MICROSECOND
LAST_CLAIM_KNOWN_FOR = int(DUPLICATES_KNOWN_FOR.total_seconds())

_OPTIONS = {"prefix": TEXT, "max_waiting": COUNT}


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

    With ``encryption_keys``, the newest first, secrets are encrypted on the server; opening the
    store encrypts with the newest what is not yet. All processes need them: stop those
    without keys before the first is given some. What was written in clear before is in the server's
    append-only file until that is rewritten (BGREWRITEAOF), and in older copies.

    A store belongs to the event loop that opened it. Raises ValueError for a bad URL, prefix, key
    or count, and when the redis library is not installed; TypeError for a value of another type, or
    a client of another kind.
    """

    def __init__(
        self,
        url_or_client: str | Redis,
        *,
        prefix: str = "asana-webhooks:",
        max_waiting: int = MAX_WAITING,
        encryption_keys: Sequence[str] | None = None,
    ) -> None:
        check_options(_OPTIONS, {"prefix": prefix, "max_waiting": max_waiting})
        self._cipher = SecretCipher(encryption_keys)
        self._url = url_or_client if isinstance(url_or_client, str) else None
        if isinstance(url_or_client, str):
            client = connect(url_or_client)
        else:
            client = check_client(url_or_client)
        self._server = Server(client, tagged(prefix))
        self._max_waiting = max_waiting
        self._puts = Batcher(self._send_puts)
        self._lookups = Batcher(self._send_lookups)
        self._tasks: set[asyncio.Task[None]] = set()
        self._route_key = f"{self._server.prefix}route:*"
        self._said: set[str] = set()
        self._open = False

    async def __aenter__(self) -> Self:
        """Check that the server can be written, and warn when it may lose what it is given.

        Raises StoreError with the cause and the remedy when it cannot be used.
        """
        if self._open:
            msg = f"the store on {self._server.address} is open already"
            raise StoreError(msg)
        if self._url is not None:  # a pool keeps to the event loop in which it was waited for
            self._server.client = connect(self._url)
        try:
            version = await self._server.run(_scripts.OPEN, LAYOUT_VERSION)
            if version > LAYOUT_VERSION:
                msg = (
                    f"the store on {self._server.address} was made by a newer version of"
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
        fields: list[str | int] = ["target", route.target]
        if route.user is not None:
            fields += ["user", route.user]
        if (filters := encode_filters(route.filters)) is not None:
            fields += ["filters", filters]
        if route.heartbeat_at is not None:
            fields += ["heartbeat_at", to_micros(route.heartbeat_at)]
        prefix, created_at = prefix_of(route.target), to_micros(route.created_at)
        head = (route.id, micros(ttl), int(exclusive), prefix, route.resource, route.account)
        return bool(await self._opened().run(_scripts.RESERVE, *head, created_at, *fields))

    async def get_route(self, route: str) -> Route | None:
        self._opened()
        try:
            id_ = Hidden.of(route)
        except UnicodeEncodeError:  # a stranger's path; no route has such an id
            return None
        return await self._found(self._lookups.ask(id_))

    async def list_routes(
        self, resource: str | None = None, *, account: str | None = None
    ) -> list[Route]:
        wanted = (("resource", resource), ("account", account))
        indexes = [f"{name}:{value}" for name, value in wanted if value is not None]
        found = await self._opened().run(_scripts.LIST_ROUTES, *(indexes or ["routes"]))
        listed = [route for packed in found if (route := self._listed(packed)) is not None]
        return sorted(listed, key=lambda route: route.created_at)

    # Those that are given a secret or a body are no coroutines themselves: a frame of theirs would
    # keep it, and tracebacks may show what is in frames.

    def add_candidate(self, route: str, secret: str) -> Coroutine[Any, Any, bool]:
        kept = self._cipher.encrypt(route, secret)
        arguments = (route, kept.fingerprint, kept.ciphertext or "", MAX_CANDIDATES)
        return _truth(self._opened().run(_scripts.ADD_CANDIDATE, *arguments))

    def confirm(
        self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
    ) -> Coroutine[Any, Any, bool]:
        fingerprint = self._cipher.fingerprint(route, secret)
        arguments = (route, gid, fingerprint, to_micros(datetime.now(UTC)))
        return _truth(self._opened().run(_scripts.CONFIRM, *arguments, *leaving))

    async def set_user(self, route: str, user: str) -> None:
        await self._opened().run(_scripts.CHANGE, route, "user", user)

    async def leave(self, route: str) -> bool:
        return bool(await self._opened().run(_scripts.LEAVE, route))

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        text = encode_filters(filters)
        value = () if text is None else (text,)
        await self._opened().run(_scripts.CHANGE, route, "filters", *value)

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        await self._opened().run(_scripts.CHANGE, route, "heartbeat_at", to_micros(at))

    async def retire(self, route: str, *, lost: bool = False) -> bool:
        retired_as = "lost" if lost else "deleted"
        return bool(await self._opened().run(_scripts.RETIRE, route, KEPT_RETIRED, retired_as))

    async def drop(self, route: str) -> Route | None:
        return await self._found(self._opened().run(_scripts.DROP, route))

    async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        found = await self._opened().run(_scripts.OWN, public_url, holder, micros(ttl))
        return None if found is None else str(found.decode())

    async def disown(self, holder: str) -> None:
        await self._opened().run(_scripts.DISOWN, holder)

    async def hold(self, name: str, *, holder: str, ttl: float, limit: int | None = None) -> int:
        most = () if limit is None else (limit,)
        return int(await self._opened().run(_scripts.HOLD, name, holder, micros(ttl), *most))

    # Inbox

    def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> Awaitable[bool]:
        self._opened()
        fingerprint = None
        if candidate is not None:
            fingerprint = self._cipher.fingerprint(delivery.route, candidate)
        return self._puts.ask(put_of(delivery, fingerprint, reason))

    async def notify(self) -> None:
        await self._opened().publish()

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call ``arrived`` whenever somebody announces, until cancelled.

        It needs a connection of its own: with a client of a single one it returns at once, and so
        it does for a user who may not subscribe. Raises StoreError when the connection is lost.
        """
        await self._opened().subscribe(arrived)

    async def claim(
        self, *, limit: int, lease: float, skip_accounts: Collection[str] = ()
    ) -> Claim | None:
        check_limit(limit)
        self._opened()
        return await self._take(self._claim(limit, lease, skip_accounts), self._end)

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        check_limit(limit)
        self._opened()

        async def put_back(more: Claim) -> None:
            retries = tuple(Retry(delivery=delivery, delay=0.0) for delivery in more.deliveries)
            await self._settle(self._server, claim, Settlement(retries=retries))

        return await self._take(self._claim_more(claim, limit), put_back)

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        arguments = (*lease_of(claim), micros(lease))
        return bool(await self._opened().run(_scripts.RENEW, *arguments))

    def settle(
        self, claim: Claim, settlement: Settlement
    ) -> Coroutine[Any, Any, tuple[str, ...] | None]:
        return self._settle(self._opened(), claim, settlement)

    def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> Coroutine[Any, Any, tuple[str, ...] | None]:
        return self._settle(self._opened(), claim, settlement or Settlement(), ends=True)

    async def remembered(self, scope: str, *, within: timedelta = DUPLICATES_KNOWN_FOR) -> bytes:
        known_for = min(within // MICROSECOND, KNOWN_FOR)
        return events_of(*await self._opened().run(_scripts.REMEMBERED, scope, known_for))

    async def counts(self) -> Counts:
        return counts_of(*await self._opened().run(_scripts.COUNTS))

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        self._opened()
        if after and not LETTER_ID.fullmatch(after):
            return []
        return await self._letters(limit, f"({after}" if after else "-", "+")

    async def get_dead_letter(self, id: str) -> DeadLetter | None:
        self._opened()
        if not LETTER_ID.fullmatch(id):
            return None
        found = await self._letters(1, id, id)
        return found[0] if found else None

    async def replay(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        known = filter(LETTER_ID.fullmatch, ids)
        return int(await self._opened().run(_scripts.REPLAY, *known))

    async def discard(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        known = filter(LETTER_ID.fullmatch, ids)
        return int(await self._opened().run(_scripts.DISCARD, *known))

    # Writes

    def put_write(self, write: Write) -> Coroutine[Any, Any, None]:
        named = (write.id, write.account, write.text)
        run = self._opened().run
        return _nothing(run(_scripts.PUT_WRITE, *named, KNOWN_FOR, *write.resources))

    async def list_writes(self, resources: Collection[str]) -> list[Write]:
        found = await self._opened().run(_scripts.LIST_WRITES, *resources)
        ordered = sorted(found, key=lambda entry: int(entry[0]))
        listed = [self._write(*entry) for _, *entry in ordered]
        return [write for write in listed if write is not None]

    async def take_write(self, id: str, part: str, key: bytes) -> bool:
        return bool(await self._opened().run(_scripts.TAKE_WRITE, id, part, key))

    async def forget_account(self, account: str) -> bool:
        check_account(account)
        return bool(await self._opened().run(_scripts.FORGET_ACCOUNT, account, EVENTS_KNOWN_FOR))

    # States

    async def get_state(self, scope: str) -> State | None:
        kept = await self._opened().run(_scripts.GET_STATE, scope)
        return None if kept is None else self._state(scope.encode(), kept)

    async def list_states(self, account: str | None = None) -> list[State]:
        which = () if account is None else (account,)
        found = await self._opened().run(_scripts.LIST_STATES, *which)
        listed = [self._state(*each) for each in zip(found[::2], found[1::2], strict=True)]
        states = [state for state in listed if state is not None]
        return sorted(states, key=lambda state: state.scope)

    def put_state(
        self, state: State, *, deliveries: Sequence[Delivery] = ()
    ) -> Coroutine[Any, Any, bool]:
        versions = version_of(state.version), version_of(state.version + 1)
        arguments = (state.scope, *versions, state.text, *added(deliveries))
        return _truth(self._opened().run(_scripts.PUT_STATE, *arguments))

    async def drop_state(self, scope: str, version: int) -> bool:
        return bool(await self._opened().run(_scripts.DROP_STATE, scope, version_of(version)))

    async def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        self._opened()
        if after and not DELIVERY_ID.fullmatch(after):
            return []
        arguments = (route, after, limit, MAX_CLAIM_BYTES)
        return [*deliveries_of(route, await self._server.run(_scripts.PEEK, *arguments))]

    def _state(self, scope: bytes, kept: bytes) -> State | None:
        """Return a state, its text empty where that is damaged; None when its scope is."""
        try:
            name = scope.decode()
        except UnicodeDecodeError:
            self._say("a state is left out: its scope was damaged on the server")
            return None
        try:
            text = kept[VERSION_DIGITS:].decode()
        except UnicodeDecodeError:
            self._say(f"the state of {name!r} was damaged on the server, and is taken for empty")
            text = ""
        return State(scope=name, version=int(kept[:VERSION_DIGITS]), text=text)

    def _write(self, id_: bytes, account: bytes, text: bytes, resources: bytes) -> Write | None:
        """Return a write; None when it is damaged."""
        try:
            named = tuple(resources.decode().split())
            return Write(
                id=id_.decode(), account=account.decode(), resources=named, text=text.decode()
            )
        except UnicodeDecodeError:
            self._say("a write is left out: it was damaged on the server")
            return None

    def _is_kept(self, answer: bytes) -> bool | StoreError:
        if answer == FULL:
            return inbox_full(self._max_waiting)
        if answer == HELD_FULL:
            return held_full()
        if len(answer) > 1:
            damage = damage_of(answer.decode())
            return StoreError(f"the store on {self._server.address} failed: {damage}")
        return answer == KEPT

    async def _found(self, asked: Awaitable[bytes | None]) -> Route | None:
        packed = await asked
        if packed is None:
            return None
        packed = Hidden(packed)
        fields = fields_of(packed, self._route_key)
        return with_secrets(route_of(fields, self._route_key), fields, self._cipher)

    def _listed(self, packed: bytes) -> Route | None:
        """Return a route, without its secrets where those cannot be read; None without the rest."""
        route = None
        try:
            fields = fields_of(packed, self._route_key)
            route = route_of(fields, self._route_key)
            return with_secrets(route, fields, self._cipher)
        except StoreError as error:
            name = webhook_name(route and route.gid, route and route.resource)
            self._set_aside(name, str(error))
        return route

    def _set_aside(self, name: str, why: str) -> None:
        self._say(f"{name} is set aside: {why}")

    def _say(self, text: str) -> None:
        """Log an error of what is stored, once."""
        if text not in self._said:
            self._said.add(text)
            logger.error("%s", text)

    async def _letters(self, limit: int, begin: str, end: str) -> list[DeadLetter]:
        found = await self._server.run(_scripts.LETTERS, limit, begin, end, MAX_CLAIM_BYTES)
        return [dead_letter_of(*entry) for entry in found]

    async def _send_puts(self, puts: Sequence[bytes]) -> Sequence[bool | StoreError]:
        limits = (self._max_waiting, MAX_HELD, MAX_HELD_BYTES, KNOWN_FOR)
        kinds, *damages = await self._server.run(_scripts.PUT, *limits, len(puts), b"".join(puts))
        return [*map(self._is_kept, answers_of(kinds, damages))]

    async def _send_lookups(self, ids: Sequence[bytes]) -> Sequence[bytes | None]:
        found: list[bytes | None] = await self._server.run(_scripts.GET_ROUTES, *ids)
        return found

    async def _claim(self, limit: int, lease: float, skipped: Collection[str]) -> Claim | None:
        limits = (limit, micros(lease), MAX_CLAIM_BYTES, LAST_CLAIM_KNOWN_FOR)
        while (found := await self._server.run(_scripts.CLAIM, *limits, *skipped)) is not None:
            first, *rest = found
            damage = damage_of(first.decode(errors="replace"))
            if damage is None:
                route, (fence, previous, has_writes, taken) = first.decode(), rest
                return Claim(
                    route=route,
                    fence=int(fence),
                    deliveries=tuple(deliveries_of(route, taken)),
                    previous=int(previous),
                    has_writes=bool(has_writes),
                )
            gid, resource = (part.decode(errors="replace") or None for part in rest)
            self._set_aside(webhook_name(gid, resource), damage)
        return None

    async def _claim_more(self, claim: Claim, limit: int) -> Claim | None:
        arguments = (*lease_of(claim), limit, MAX_CLAIM_BYTES)
        found = await self._server.run(_scripts.CLAIM_MORE, *arguments)
        if found is None:
            return None
        has_writes, taken = found
        deliveries = tuple(deliveries_of(claim.route, taken))
        return replace(claim, deliveries=deliveries, has_writes=bool(has_writes))

    async def _take(
        self, call: Coroutine[Any, Any, T | None], give_back: Callable[[T], Awaitable[object]]
    ) -> T | None:
        """Return what is claimed; give it back when nobody waits for it any more."""
        claiming = asyncio.create_task(call, name="asana-webhooks claim")
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            giving_back = self._give_back(claiming, give_back)
            task = asyncio.create_task(giving_back, name="asana-webhooks give back")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            raise

    @staticmethod
    async def _give_back(
        claiming: asyncio.Task[T | None], give_back: Callable[[T], Awaitable[object]]
    ) -> None:
        try:
            if (taken := await claiming) is not None:
                await give_back(taken)
        except StoreError as error:
            logger.warning("a claim that nobody waits for ends with its lease: %s", error)

    def _end(self, claim: Claim) -> Awaitable[object]:
        return self._settle(self._server, claim, Settlement(), ends=True)

    @staticmethod
    def _settle(
        server: Server, claim: Claim, settlement: Settlement, *, ends: bool = False
    ) -> Coroutine[Any, Any, tuple[str, ...] | None]:
        arguments = (*lease_of(claim), int(ends), *settlement_of(settlement))
        return _letters_of(server.run(_scripts.SETTLE, *arguments))

    async def _upgrade(self) -> None:
        """Bring what an earlier version wrote up to date; another process may do so meanwhile.

        Programs of that version are refused from the first step on.
        """
        await self._server.run(_scripts.UPGRADE, MAX_CANDIDATES)
        await self._walk(_scripts.UPGRADE_ROUTES, KEPT_RETIRED)
        await self._walk(_scripts.UPGRADE_TRIES)
        await self._walk(_scripts.UPGRADE_LETTERS)
        await self._server.run(_scripts.UPGRADED, LAYOUT_VERSION)

    async def _walk(self, script: Script, *arguments: int) -> None:
        cursor = b""
        while cursor != b"0":
            cursor = await self._server.run(script, cursor or b"0", *arguments)

    def _opened(self) -> Server:
        if not self._open:
            msg = f"the store on {self._server.address} is not open: use it inside 'async with'"
            raise StoreError(msg)
        return self._server

    async def _close(self) -> None:
        if self._url is not None:
            with anyio.move_on_after(SOCKET_TIMEOUT, shield=True):
                await self._server.client.aclose()


async def _truth(call: Awaitable[Any]) -> bool:
    return bool(await call)


async def _nothing(call: Awaitable[Any]) -> None:
    await call


async def _letters_of(call: Awaitable[Any]) -> tuple[str, ...] | None:
    letters = await call
    return None if letters is None else tuple(letter.decode() for letter in letters)
