"""The contract of a store: routes and their secrets, the inbox of deliveries, writes, states.

Every call is atomic, durable when it returns as far as the store is durable at all, and safe to
make at once from many tasks, and from many processes where the store's class says so. Whatever
goes wrong below is a StoreError; after one, nothing is known to be stored.

Time in a store is its own: leases and back-off do not depend on the wall clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, runtime_checkable

from ..errors import StoreError
from ..models import (
    Claim,
    Counts,
    DeadLetter,
    Delivery,
    Route,
    Settlement,
    State,
    WebhookFilter,
    Write,
)

__all__ = [
    "DUPLICATES_KNOWN_FOR",
    "MAX_CANDIDATES",
    "MAX_CLAIM_BYTES",
    "MAX_HELD",
    "MAX_HELD_BYTES",
    "MAX_STATE_BYTES",
    "MAX_WAITING",
    "RETIRED_KNOWN_FOR",
    "Store",
    "check_account",
    "check_ids",
    "check_limit",
    "held_full",
    "inbox_full",
    "page_of",
]

T = TypeVar("T", Delivery, DeadLetter)

MAX_CANDIDATES = 4
"""How many different secrets a reserved route keeps."""

MAX_WAITING = 100_000
"""How many deliveries an inbox holds, unless another limit is given, before it refuses more."""

MAX_CLAIM_BYTES = 8 * 1024 * 1024
"""How many bytes of bodies a claim, or another list, holds; the first body is always in it."""

MAX_HELD = 100
"""How many deliveries are held for one candidate. They are no part of ``max_waiting``."""

MAX_HELD_BYTES = 4 * 1024 * 1024
"""How many bytes of bodies are held for one candidate."""

MAX_STATE_BYTES = 4 * 1024 * 1024
"""How many bytes of UTF-8 a state's text may have; whoever writes it sees to that."""

DUPLICATES_KNOWN_FOR = timedelta(hours=48)
"""For how long after its first receipt a repeated delivery, event or write is recognised."""

RETIRED_KNOWN_FOR = timedelta(hours=48)
"""For how long a retired route is known, and longer while deliveries or letters of it are left."""


def check_limit(limit: int) -> None:
    """Raise ValueError unless a claim may be asked for with this limit."""
    if limit < 1:
        msg = f"a claim needs a limit of at least 1, not {limit}"
        raise ValueError(msg)


def check_ids(ids: Sequence[str]) -> None:
    """Raise TypeError for a text: its characters would be taken for ids."""
    if isinstance(ids, str):
        msg = "ids is a list of texts, also when there is one"
        raise TypeError(msg)


def check_account(account: str) -> None:
    """Raise ValueError for the account without a name, which cannot be forgotten."""
    if not account:
        msg = "the account without a name cannot be forgotten"
        raise ValueError(msg)


def inbox_full(waiting: int) -> StoreError:
    """Return the error of a put that finds so many deliveries waiting."""
    return StoreError(f"the inbox is full, {waiting} deliveries wait: let their handlers run")


def held_full() -> StoreError:
    """Return the error of a put that finds MAX_HELD or MAX_HELD_BYTES held for its candidate."""
    return StoreError(
        "too many deliveries are held for a handshake that is not confirmed; they are taken when"
        " it is"
    )


def page_of(stored: Iterable[T]) -> list[T]:
    """Return the first of these, no more than MAX_CLAIM_BYTES of bodies, but at least one."""
    page: list[T] = []
    size = 0
    for each in stored:
        size += len(each.body)
        if page and size > MAX_CLAIM_BYTES:
            break
        page.append(each)
    return page


@runtime_checkable
class Store(Protocol):
    """Keeps routes, deliveries and states. Opened and closed as a context manager, once.

    Methods that take a secret or a body need be no coroutine functions, in whose frames those stay:
    it is enough that they return coroutines.
    """

    async def __aenter__(self) -> Self:
        """Open the store. Raises StoreError with the cause and the remedy if it cannot be."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what is under way, then close."""
        ...

    # Ownership

    async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        """Make this public URL own the store for ``ttl`` seconds, held by ``holder``.

        ``holder`` is one process's random name; holders of one URL may be many, and each renews its
        own. Returns None when the URL has the store, else the one whose holders live; then nothing
        is changed.
        """
        ...

    async def disown(self, holder: str) -> None:
        """End what this holder holds, of ``own`` and of ``hold``."""
        ...

    async def hold(self, name: str, *, holder: str, ttl: float, limit: int | None = None) -> int:
        """Hold a name, any text, for ``ttl`` seconds; returns how many holders it has now.

        ``holder`` is as in ``own``, and counts. Who holds it already renews: that never shortens
        the time. Returns 0 when ``limit`` others hold it: then this holder has it no more, if it
        had. Names have nothing to do with URLs that own the store.
        """
        ...

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        """Add a reserved route that is forgotten after ``ttl`` seconds unless it is confirmed.

        False, and nothing added, when ``exclusive`` and a reserved or confirmed route that is not
        leaving exists for the same account and resource below the same address (the target up to
        its last slash).
        """
        ...

    async def get_route(self, route: str) -> Route | None:
        """Return the route with this id; None when it is unknown, dropped or expired.

        Raises StoreError when its record or its secret cannot be read.
        """
        ...

    async def list_routes(
        self, resource: str | None = None, *, account: str | None = None
    ) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first.

        Those of one resource or of all, of one account or of all.
        One whose secret cannot be read is among them without it; one whose record cannot be read
        is left out.
        """
        ...

    def add_candidate(self, route: str, secret: str) -> Coroutine[Any, Any, bool]:
        """Keep a handshake's secret; True when the route holds it now.

        False when the route is unknown, holds four others, or is confirmed with another.
        """
        ...

    def confirm(
        self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
    ) -> Coroutine[Any, Any, bool]:
        """Turn a reserved route into a confirmed one, and these confirmed ones into leaving ones.

        ``secret`` must be one of its candidates. Deliveries held for it become claimable, those
        held for other candidates and the other candidates are dropped. ``confirmed_at`` is the
        wall clock's time. False, and nothing changed, when the route is not reserved or the secret
        is not a candidate.
        """
        ...

    async def set_user(self, route: str, user: str) -> None:
        """Keep the gid of the user whose token made the webhook of this route."""
        ...

    async def leave(self, route: str) -> bool:
        """Keep that the webhook of a confirmed route is to be deleted; False for other routes."""
        ...

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        """Keep the filters that the webhook of this route has now."""
        ...

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        """Keep when the last heartbeat came."""
        ...

    async def retire(self, route: str, *, lost: bool = False) -> bool:
        """Retire a confirmed route, as lost or as deleted; True for the one call that did it.

        Its secret is forgotten, deliveries that wait are still handled. The route is forgotten
        after 48 hours, once no delivery of it waits and no dead letter of it is left: so what is
        replayed is of a known webhook and account.
        """
        ...

    async def drop(self, route: str) -> Route | None:
        """Forget a reserved route with its candidates and what is held for them.

        Returns the route as it was at that instant, None when it was not reserved.
        """
        ...

    # Inbox

    def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> Awaitable[bool]:
        """Keep a delivery; False when the same digest came within 48 hours of ``received_at``.

        With ``candidate`` it is held until that secret is confirmed (at once, when it is by now),
        and dropped, False, when the secret is no candidate any more. With ``reason`` it goes to
        the dead letters instead of the queue. Raises StoreError when the inbox is full, or when
        too much is held for the candidate. A future, where the store has one, is answered faster
        than a coroutine, for which the receiver makes a task.
        """
        ...

    async def notify(self) -> None:
        """Tell all who listen, in other processes too, that a delivery was stored.

        It may be lost on the way: workers look for themselves now and then.
        """
        ...

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Call ``arrived`` whenever somebody notifies, until cancelled.

        Returns at once where nobody can. Raises StoreError when it hears nothing any more.
        """
        ...

    async def claim(
        self, *, limit: int, lease: float, skip_accounts: Collection[str] = ()
    ) -> Claim | None:
        """Lease the route whose due delivery waited longest, with up to ``limit`` of the due ones.

        Routes of ``skip_accounts`` are passed over, and left as they are; a route that is not known
        is of the account "". Fewer when their bodies are large. The lease
        lasts ``lease`` seconds; meanwhile no one else is given this route. When it runs out, all
        that the claim still held has crashed once more; what has crashed before is claimed alone.
        None when nothing is due. A claim that is cancelled is given back. What cannot be read
        becomes a dead letter.
        """
        ...

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        """Return the claim with up to ``limit`` more deliveries of its route that are due now.

        Only these are in what is returned, in order, and belong to the claim from then on;
        ``has_writes`` is as of now, all else as in the claim. Fewer when their bodies are large,
        none from the first on that has crashed before; a call that is cancelled gives them back.
        None when the lease is lost.
        """
        ...

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        """Extend the lease to ``lease`` seconds from now; False when it is lost."""
        ...

    def settle(
        self, claim: Claim, settlement: Settlement
    ) -> Coroutine[Any, Any, tuple[str, ...] | None]:
        """Keep the result of work on a claim; None, and nothing done, when the lease is lost.

        Returns the ids of the settlement's dead letters, in their order: ``get_dead_letter`` and
        ``replay`` take them. Of the crashes of what is
        kept or tried again at most one is kept: whoever settles lives. What a delivery id names
        that the claim does not hold is passed over. A new retry has the claim's route, and takes
        room in the inbox though it be full.
        """
        ...

    def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> Coroutine[Any, Any, tuple[str, ...] | None]:
        """Settle, then give the lease back; None, and nothing done, when it is lost.

        Returns what ``settle`` returns. What is still claimed is due at once, in its place.
        """
        ...

    async def remembered(self, scope: str, *, within: timedelta = DUPLICATES_KNOWN_FOR) -> bytes:
        """Return the events that were settled in this scope within this time, oldest first.

        They are known for 48 hours. By the store's clock; some may be older than was asked for.
        """
        ...

    async def counts(self) -> Counts:
        """Return how much is in the inbox; it may have to be counted."""
        ...

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return dead letters, oldest first, from behind the one with the id ``after``.

        Up to ``limit``, fewer when their bodies are large; at least one when there is one.
        """
        ...

    async def get_dead_letter(self, id: str) -> DeadLetter | None:  # noqa: A002 - what else is it
        """Return the dead letter with this id; None when there is none."""
        ...

    async def replay(self, ids: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were.

        Each keeps its progress; its digest is 32 times 0. Raises TypeError for a text alone.
        """
        ...

    async def discard(self, ids: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were.

        Raises TypeError for a text alone.
        """
        ...

    # Writes

    def put_write(self, write: Write) -> Coroutine[Any, Any, None]:
        """Keep a write for 48 hours, or replace the one with its id for the rest of its time.

        What was taken of that stays taken, and its place among others is that of the first put.
        """
        ...

    async def list_writes(self, resources: Collection[str]) -> list[Write]:
        """Return the writes of all accounts that name any of these resources, oldest first."""
        ...

    async def take_write(self, id: str, part: str, key: bytes) -> bool:  # noqa: A002 - as above
        """Keep that a part of a write caused the event with this key, unless another did.

        ``part`` is any text, ``key`` has 16 bytes. True when it is this event, now or since an
        earlier call. False when it is another, and when the write is unknown. It is known for as
        long as the write.
        """
        ...

    async def forget_account(self, account: str) -> bool:
        """Delete all that is kept of an account; True also when there was nothing.

        That is its retired routes with their dead letters, its writes with what was taken of them,
        and the states and settled events of its scopes. False, and nothing deleted, while it has a
        reserved or confirmed route, or deliveries of its routes wait, leased or not. Raises
        ValueError for the account "", which has no name.
        """
        ...

    # States

    async def get_state(self, scope: str) -> State | None:
        """Return the state of a scope; None when it has none.

        A scope is the account, a slash, and what of it the text is about: the gid of a resource for
        its continuity. The text is empty when it was damaged.
        """
        ...

    async def list_states(self, account: str | None = None) -> list[State]:
        """Return the states of one account or of all, ordered by their scopes.

        Those of an account are those whose scopes begin with its name and a slash.
        """
        ...

    def put_state(
        self, state: State, *, deliveries: Sequence[Delivery] = ()
    ) -> Coroutine[Any, Any, bool]:
        """Keep a state and put these deliveries, as a whole; its version goes up by one.

        False, and nothing done, unless the store still has ``state.version``. Each delivery is due
        at once on its route, in this order, with its attempts, progress and trace; its digest is 32
        times 0, so that it is no duplicate, and it takes room in the inbox though it be full.
        """
        ...

    async def drop_state(self, scope: str, version: int) -> bool:
        """Forget the state of a scope; False when the store does not have this version of it."""
        ...

    async def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        """Return the deliveries of a route in the order in which they came, and claim none.

        Those that are due, are due later, or are leased; not those held for a candidate. Up to
        ``limit``, from behind the id ``after``, fewer when their bodies are large; at least one
        when there is one. Each call looks at all that waits of the route.
        """
        ...
