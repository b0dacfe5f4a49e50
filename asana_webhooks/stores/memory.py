"""The store that forgets: everything is in the memory of one process.

A method never waits for anything, so each runs from start to end as one step of the event loop.
That is all the locking there is.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from msgspec.structs import replace

from .._options import COUNT, check_options
from ..errors import StoreError
from ..models import (
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
from . import (
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
    page_of,
)
from ._codec import letter_of, prefix_of

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps everything for as long as the process lives; for tests and first steps.

    ``clock`` returns seconds and never goes back; leases, back-off and expiry go by it. For one
    event loop of one process.
    """

    def __init__(
        self, *, max_waiting: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        check_options({"max_waiting": COUNT}, {"max_waiting": max_waiting})
        self._max_waiting = max_waiting
        self._clock = clock
        self._numbers = itertools.count(1)
        self._routes: dict[str, Route] = {}
        self._of_resource: dict[str, dict[str, None]] = {}
        self._expires: dict[str, float] = {}  # of reserved and retired routes
        self._expiries: list[tuple[float, str]] = []
        self._overdue: set[str] = set()  # retired routes whose time is over
        self._owners: dict[str, _Ownership] = {}
        self._holds: dict[tuple[str, str], float] = {}  # by name and holder, until when
        self._held: dict[tuple[str, str], list[tuple[int, Delivery]]] = {}
        self._queues: dict[str, _Queue] = {}
        self._fences: dict[str, int] = {}  # of each route's last claim
        self._schedule: list[tuple[float, int, _Queue]] = []
        self._waiting = 0  # without those that are held
        self._letters: dict[str, DeadLetter] = {}
        self._letters_of: Counter[str] = Counter()  # each route
        self._known_digests: dict[bytes, datetime] = {}
        self._learnt: deque[tuple[float, bytes, datetime]] = deque()
        self._remembered: dict[str, deque[tuple[float, bytes]]] = {}
        self._settled: deque[tuple[float, str]] = deque()  # the scopes of what is remembered
        self._states: dict[str, State] = {}
        self._writes: dict[str, _Write] = {}

    async def __aenter__(self) -> Self:
        """Return the store; there is nothing to open."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing: there is nothing to close."""

    # Ownership

    async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
        now = self._clock()
        self._purge(now)
        for other, ownership in self._owners.items():
            if other != holder and ownership.public_url != public_url:
                return ownership.public_url
        self._owners[holder] = _Ownership(public_url, now + ttl)
        return None

    async def disown(self, holder: str) -> None:
        self._owners.pop(holder, None)
        self._holds = {held: end for held, end in self._holds.items() if held[1] != holder}
        self._purge(self._clock())

    async def hold(self, name: str, *, holder: str, ttl: float, limit: int | None = None) -> int:
        now = self._clock()
        self._holds = {held: end for held, end in self._holds.items() if end > now}
        end = self._holds.pop((name, holder), now)
        others = sum(other == name for other, _ in self._holds)
        if limit is not None and others >= limit:
            return 0
        self._holds[name, holder] = max(end, now + ttl)
        return others + 1

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        now = self._clock()
        self._purge(now)
        if route.id in self._routes or (exclusive and self._is_served(route)):
            return False
        self._routes[route.id] = route
        self._of_resource.setdefault(route.resource, {})[route.id] = None
        self._expire(route.id, now + ttl)
        return True

    async def get_route(self, route: str) -> Route | None:
        return self._find(route)

    async def list_routes(
        self, resource: str | None = None, *, account: str | None = None
    ) -> list[Route]:
        self._purge(self._clock())
        ids = self._routes if resource is None else self._of_resource.get(resource, {})
        routes = (self._routes[id_] for id_ in ids)
        wanted = (
            route
            for route in routes
            if route.state != "retired" and account in (None, route.account)
        )
        return sorted(wanted, key=lambda route: route.created_at)

    async def add_candidate(self, route: str, secret: str) -> bool:
        found = self._find(route)
        if found is None:
            return False
        if found.state != "reserved" or secret in found.candidates:
            return secret == found.secret or secret in found.candidates
        if len(found.candidates) == MAX_CANDIDATES:
            return False
        self._routes[route] = replace(found, candidates=(*found.candidates, secret))
        return True

    async def confirm(
        self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
    ) -> bool:
        found = self._find(route)
        if found is None or found.state != "reserved" or secret not in found.candidates:
            return False
        del self._expires[route]
        self._routes[route] = replace(
            found,
            state="confirmed",
            gid=gid,
            secret=secret,
            candidates=(),
            confirmed_at=datetime.now(UTC),
        )
        for other in leaving:
            await self.leave(other)
        now = self._clock()
        for number, delivery in self._held.pop((route, secret), ()):
            self._enqueue(now, number, delivery)
        self._drop_held(found)
        return True

    async def set_user(self, route: str, user: str) -> None:
        self._change(route, user=user)

    async def leave(self, route: str) -> bool:
        found = self._find(route)
        if found is None or found.state != "confirmed":
            return False
        self._change(route, leaving=True)
        return True

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        self._change(route, filters=None if filters is None else tuple(filters))

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        self._change(route, heartbeat_at=at)

    async def retire(self, route: str, *, lost: bool = False) -> bool:
        found = self._find(route)
        if found is None or found.state != "confirmed":
            return False
        retired_as = "lost" if lost else "deleted"
        self._change(route, state="retired", secret=None, retired_as=retired_as)
        self._expire(route, self._clock() + RETIRED_KNOWN_FOR.total_seconds())
        return True

    async def drop(self, route: str) -> Route | None:
        found = self._find(route)
        if found is None or found.state != "reserved":
            return None
        self._forget(found)
        return found

    def _find(self, route: str) -> Route | None:
        self._purge(self._clock())
        return self._routes.get(route)

    def _change(self, route: str, **fields: Any) -> None:
        found = self._find(route)
        if found is not None:
            self._routes[route] = replace(found, **fields)

    def _is_served(self, route: Route) -> bool:
        wanted = route.account, prefix_of(route.target)
        others = (self._routes[id_] for id_ in self._of_resource.get(route.resource, ()))
        return any(
            (other.account, prefix_of(other.target)) == wanted
            for other in others
            if other.state != "retired" and not other.leaving
        )

    def _expire(self, route: str, at: float) -> None:
        self._expires[route] = at
        heapq.heappush(self._expiries, (at, route))

    def _purge(self, now: float) -> None:
        """Forget what has come to its end; a retired route only when nothing of it is left."""
        while self._expiries and self._expiries[0][0] <= now:
            expires, route = heapq.heappop(self._expiries)
            if self._expires.get(route) != expires:  # confirmed or dropped since
                continue
            if self._routes[route].state != "retired":
                self._forget(self._routes[route])
            else:
                self._overdue.add(route)
        for route in [route for route in self._overdue if not self._is_left(route)]:
            self._forget(self._routes[route])
        for holder in [holder for holder, own in self._owners.items() if own.expires <= now]:
            del self._owners[holder]

    def _is_left(self, route: str) -> bool:
        return route in self._letters_of or self._has_waiting(route)

    def _has_waiting(self, route: str) -> bool:
        queue = self._queues.get(route)
        return queue is not None and queue.first_received_at is not None

    def _forget(self, route: Route) -> None:
        del self._routes[route.id], self._expires[route.id]
        self._overdue.discard(route.id)
        self._fences.pop(route.id, None)
        others = self._of_resource[route.resource]
        del others[route.id]
        if not others:
            del self._of_resource[route.resource]
        self._drop_held(route)

    def _drop_held(self, route: Route) -> None:
        for candidate in route.candidates:
            self._held.pop((route.id, candidate), None)

    # Inbox

    def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> Awaitable[bool]:
        admitted = self._admit(delivery, candidate, reason)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if isinstance(admitted, StoreError):
            done.set_exception(admitted)
        else:
            done.set_result(admitted)
        return done

    def _admit(
        self, delivery: Delivery, candidate: str | None, reason: str | None
    ) -> bool | StoreError:
        now = self._clock()
        self._forget_what_is_old(now)
        if self._is_known(delivery):
            return False
        route = None if candidate is None else self._find(delivery.route)
        if candidate is not None and (
            route is None or (candidate != route.secret and candidate not in route.candidates)
        ):
            return False
        if reason is not None:
            self._bury(letter_of(delivery, reason))
        elif candidate is not None and route is not None and route.state == "reserved":
            if not self._hold(delivery, candidate):
                return held_full()
        elif self._waiting >= self._max_waiting:
            return inbox_full(self._waiting)
        else:
            self._enqueue(now, *self._numbered(delivery))
        self._known_digests[delivery.digest] = delivery.received_at
        self._learnt.append((now, delivery.digest, delivery.received_at))
        return True

    async def notify(self) -> None:
        """Do nothing: its workers are in this process."""

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Return at once."""

    async def claim(
        self, *, limit: int, lease: float, skip_accounts: Collection[str] = ()
    ) -> Claim | None:
        check_limit(limit)
        now = self._clock()
        self._forget_what_is_old(now)
        skipped = []
        try:
            while self._schedule and self._schedule[0][0] <= now:
                entry = heapq.heappop(self._schedule)
                _, ticket, queue = entry
                if queue.ticket != ticket:
                    continue
                if self._account_of(queue.route) in skip_accounts:
                    skipped.append(entry)
                elif self._is_due(queue, now):
                    return self._lease(queue, now, limit, lease)
        finally:
            for entry in skipped:
                heapq.heappush(self._schedule, entry)
        return None

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        check_limit(limit)
        queue = self._leased(claim)
        if queue is None:
            return None
        now = self._clock()
        self._forget_what_is_old(now)
        more = queue.take_fresh(now, limit)
        return replace(claim, deliveries=more, has_writes=bool(self._writes))

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        queue = self._leased(claim)
        if queue is None:
            return False
        self._reschedule(queue, self._clock() + lease)
        return True

    async def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
        queue = self._leased(claim)
        if queue is None:
            return None
        for id_ in settlement.removed:
            if queue.taken.pop(id_, None) is not None:
                self._waiting -= 1
        for delivery in settlement.kept:
            queue.keep(delivery)
        for retry in settlement.retries:
            self._try_again(queue, retry)
        letters = tuple(map(self._bury, settlement.letters))
        if settlement.events:
            now = self._clock()
            self._remembered.setdefault(settlement.scope, deque()).append((now, settlement.events))
            self._settled.append((now, settlement.scope))
        return letters

    async def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        letters = await self.settle(claim, settlement or Settlement())
        if letters is not None:
            self._give_back(self._queues[claim.route], crashes=0)
        return letters

    async def remembered(self, scope: str, *, within: timedelta = DUPLICATES_KNOWN_FOR) -> bytes:
        now = self._clock()
        self._forget_what_is_old(now)
        since = now - within.total_seconds()
        newest_first = reversed(self._remembered.get(scope, ()))
        settled = itertools.takewhile(lambda each: each[0] >= since, newest_first)
        return b"".join(reversed([events for _, events in settled]))

    async def counts(self) -> Counts:
        self._purge(self._clock())
        first = (queue.first_received_at for queue in self._queues.values())
        return Counts(
            waiting=self._waiting + sum(map(len, self._held.values())),
            dead_letters=len(self._letters),
            oldest_at=min((at for at in first if at is not None), default=None),
        )

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        if after and not after.isdecimal():
            return []
        behind = int(after or 0)
        letters = (letter for letter in self._letters.values() if int(letter.id) > behind)
        return page_of(itertools.islice(letters, limit))

    async def get_dead_letter(self, id: str) -> DeadLetter | None:
        return self._letters.get(id)

    async def replay(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        letters = self._take_letters(ids)
        for letter in letters:
            delivery = Delivery(
                route=letter.route,
                body=letter.body,
                digest=bytes(32),
                received_at=letter.received_at,
                progress=letter.progress,
            )
            self._enqueue(self._clock(), *self._numbered(delivery))
        return len(letters)

    async def discard(self, ids: Sequence[str]) -> int:
        check_ids(ids)
        return len(self._take_letters(ids))

    # Writes

    async def put_write(self, write: Write) -> None:
        now = self._clock()
        self._forget_what_is_old(now)
        known = self._writes.get(write.id) or _Write(write, now, {})
        self._writes[write.id] = known._replace(write=write)

    async def list_writes(self, resources: Collection[str]) -> list[Write]:
        self._forget_what_is_old(self._clock())
        wanted = frozenset(resources)
        writes = (known.write for known in self._writes.values())
        return [write for write in writes if not wanted.isdisjoint(write.resources)]

    async def take_write(self, id: str, part: str, key: bytes) -> bool:
        self._forget_what_is_old(self._clock())
        known = self._writes.get(id)
        return known is not None and known.parts.setdefault(part, key) == key

    async def forget_account(self, account: str) -> bool:
        check_account(account)
        self._purge(self._clock())
        routes = [route for route in self._routes.values() if route.account == account]
        if any(route.state != "retired" or self._has_waiting(route.id) for route in routes):
            return False
        ids = {route.id for route in routes}
        self._take_letters([each.id for each in self._letters.values() if each.route in ids])
        for route in routes:
            self._forget(route)
        prefix = f"{account}/"
        for scope in [scope for scope in self._states if scope.startswith(prefix)]:
            del self._states[scope]
        for scope in [scope for scope in self._remembered if scope.startswith(prefix)]:
            del self._remembered[scope]
        self._settled = deque(each for each in self._settled if not each[1].startswith(prefix))
        self._writes = {
            id_: known for id_, known in self._writes.items() if known.write.account != account
        }
        return True

    def _account_of(self, route: str) -> str:
        known = self._routes.get(route)
        return "" if known is None else known.account

    # States

    async def get_state(self, scope: str) -> State | None:
        return self._states.get(scope)

    async def list_states(self, account: str | None = None) -> list[State]:
        prefix = "" if account is None else f"{account}/"
        states = (state for state in self._states.values() if state.scope.startswith(prefix))
        return sorted(states, key=lambda state: state.scope)

    async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
        if state.version != self._version(state.scope):
            return False
        self._states[state.scope] = replace(state, version=state.version + 1)
        now = self._clock()
        for delivery in deliveries:
            self._enqueue(now, *self._numbered(_unsigned(delivery)))
        return True

    async def drop_state(self, scope: str, version: int) -> bool:
        if not version or version != self._version(scope):
            return False
        del self._states[scope]
        return True

    async def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        queue = self._queues.get(route)
        if queue is None or (after and not after.isdecimal()):
            return []
        return page_of(itertools.islice(queue.deliveries_behind(int(after or 0)), limit))

    def _version(self, scope: str) -> int:
        state = self._states.get(scope)
        return 0 if state is None else state.version

    def _is_known(self, delivery: Delivery) -> bool:
        known = self._known_digests.get(delivery.digest)
        return known is not None and abs(delivery.received_at - known) <= DUPLICATES_KNOWN_FOR

    def _forget_what_is_old(self, now: float) -> None:
        before = now - DUPLICATES_KNOWN_FOR.total_seconds()
        while self._writes and (known := next(iter(self._writes.values()))).put_at < before:
            del self._writes[known.write.id]
        while self._settled and self._settled[0][0] < before:
            _, scope = self._settled.popleft()
            self._remembered[scope].popleft()
            if not self._remembered[scope]:
                del self._remembered[scope]
        while self._learnt and self._learnt[0][0] < before:
            _, digest, received_at = self._learnt.popleft()
            if self._known_digests.get(digest) == received_at:  # it did not come again
                del self._known_digests[digest]

    def _hold(self, delivery: Delivery, candidate: str) -> bool:
        held = self._held.setdefault((delivery.route, candidate), [])
        size = sum(len(other.body) for _, other in held)
        if len(held) >= MAX_HELD or size + len(delivery.body) > MAX_HELD_BYTES:
            return False
        held.append(self._numbered(delivery))
        return True

    def _numbered(self, delivery: Delivery) -> tuple[int, Delivery]:
        number = next(self._numbers)
        return number, replace(delivery, id=str(number))

    def _enqueue(self, due: float, number: int, delivery: Delivery) -> None:
        queue = self._queues.get(delivery.route)
        if queue is None:
            queue = self._queues[delivery.route] = _Queue(delivery.route)
        queue.add(due, number, delivery)
        self._waiting += 1
        if not queue.fence and queue.at > due:
            self._reschedule(queue, due)

    def _leased(self, claim: Claim) -> _Queue | None:
        queue = self._queues.get(claim.route)
        return queue if queue is not None and queue.fence == claim.fence else None

    def _lease(self, queue: _Queue, now: float, limit: int, lease: float) -> Claim:
        queue.fence = next(self._numbers)
        previous = self._fences.get(queue.route, 0)
        self._fences[queue.route] = queue.fence
        self._reschedule(queue, now + lease)
        return Claim(
            route=queue.route,
            fence=queue.fence,
            deliveries=queue.take(now, limit),
            previous=previous,
            has_writes=bool(self._writes),
        )

    def _try_again(self, queue: _Queue, retry: Retry) -> None:
        if retry.delivery.id:
            queue.put_off(retry.delivery, self._clock() + retry.delay if retry.delay else None)
            return
        alone = replace(_unsigned(retry.delivery), route=queue.route)
        queue.add(self._clock() + retry.delay, *self._numbered(alone))
        self._waiting += 1

    def _is_due(self, queue: _Queue, now: float) -> bool:
        if queue.fence:  # the lease ran out; all may be done, or put off
            self._give_back(queue, crashes=1)
        return queue.at <= now

    def _give_back(self, queue: _Queue, *, crashes: int) -> None:
        queue.give_back(crashes)
        if queue.due is not None:
            self._reschedule(queue, queue.due)
        else:
            queue.ticket, queue.at = 0, math.inf
            del self._queues[queue.route]
            if queue.route not in self._routes:
                self._fences.pop(queue.route, None)

    def _reschedule(self, queue: _Queue, at: float) -> None:
        queue.at = at
        queue.ticket = next(self._numbers)
        heapq.heappush(self._schedule, (at, queue.ticket, queue))
        if len(self._schedule) > 2 * len(self._queues) + 64:  # mostly leases that ended early
            self._schedule = [entry for entry in self._schedule if entry[2].ticket == entry[1]]
            heapq.heapify(self._schedule)

    def _bury(self, letter: DeadLetter) -> str:
        number = str(next(self._numbers))
        self._letters[number] = replace(letter, id=number)
        self._letters_of[letter.route] += 1
        return number

    def _take_letters(self, ids: Iterable[str]) -> list[DeadLetter]:
        """Return the letters with these ids, which are gone from then on."""
        letters = [letter for id_ in ids if (letter := self._letters.pop(id_, None))]
        for route in (letter.route for letter in letters):
            self._letters_of[route] -= 1
            if not self._letters_of[route]:
                del self._letters_of[route]
        return letters


class _Ownership(NamedTuple):
    """A public URL that somebody holds the store for, and until when."""

    public_url: str
    expires: float


class _Write(NamedTuple):
    """A write, when it was first put, and the keys of the events that its parts caused."""

    write: Write
    put_at: float
    parts: dict[str, bytes]


class _Entry(NamedTuple):
    """A delivery in a queue; entries are in order when they are sorted."""

    due: float
    number: int
    delivery: Delivery


class _Queue:
    """The claimable deliveries of one route, in the order in which they are due.

    ``fence`` is that of the claim which has the lease, 0 without one; ``taken`` are the deliveries
    that it was given. ``at`` is when the route may be claimed: its first delivery is due, or the
    lease ends.
    """

    __slots__ = ("_untaken", "at", "fence", "route", "taken", "ticket")

    def __init__(self, route: str) -> None:
        self.route = route
        self.taken: dict[str, _Entry] = {}
        self.fence = 0
        self.at = math.inf
        self.ticket = 0
        self._untaken: list[_Entry] = []

    @property
    def due(self) -> float | None:
        """When the first delivery that is not taken is due; None without one."""
        return self._untaken[0].due if self._untaken else None

    @property
    def first_received_at(self) -> datetime | None:
        """When the first in line was received, taken or not; None without one."""
        first = min([*self.taken.values(), *self._untaken[:1]], default=None)
        return None if first is None else first.delivery.received_at

    def deliveries_behind(self, number: int) -> Iterator[Delivery]:
        """Yield the deliveries with a larger number, taken or not, in the order of numbers."""
        entries = (*self.taken.values(), *self._untaken)
        behind = (entry for entry in entries if entry.number > number)
        return (entry.delivery for entry in sorted(behind, key=lambda entry: entry.number))

    def add(self, due: float, number: int, delivery: Delivery) -> None:
        """Put a delivery in its place."""
        heapq.heappush(self._untaken, _Entry(due, number, delivery))

    def take(self, now: float, limit: int) -> tuple[Delivery, ...]:
        """Return up to ``limit`` of the due deliveries, which are taken from then on.

        One with ``crashes`` is taken alone.
        """
        if self._untaken[0].delivery.crashes:
            return (self._pop(),)
        return self.take_fresh(now, limit)

    def take_fresh(self, now: float, limit: int) -> tuple[Delivery, ...]:
        """Return up to ``limit`` of the due deliveries before the first with ``crashes``."""
        deliveries: list[Delivery] = []
        size = 0
        while self._untaken and self._untaken[0].due <= now and len(deliveries) < limit:
            delivery = self._untaken[0].delivery
            size += len(delivery.body)
            if delivery.crashes or (deliveries and size > MAX_CLAIM_BYTES):
                break
            deliveries.append(self._pop())
        return tuple(deliveries)

    def keep(self, delivery: Delivery) -> None:
        """Keep the progress of one that is taken; pass over any other."""
        entry = self.taken.get(delivery.id)
        if entry is not None:
            self.taken[delivery.id] = entry._replace(delivery=_settled(entry.delivery, delivery))

    def put_off(self, delivery: Delivery, due: float | None) -> None:
        """Put off one that is taken until ``due``, or in its place; pass over any other."""
        entry = self.taken.pop(delivery.id, None)
        if entry is not None:
            due = entry.due if due is None else due
            self.add(due, entry.number, _settled(entry.delivery, delivery))

    def _pop(self) -> Delivery:
        entry = heapq.heappop(self._untaken)
        self.taken[entry.delivery.id] = entry
        return entry.delivery

    def give_back(self, crashes: int) -> None:
        """End the lease; what was taken is in its place again, with so many more crashes."""
        self.fence = 0
        for due, number, delivery in self.taken.values():
            self.add(due, number, replace(delivery, crashes=delivery.crashes + crashes))
        self.taken.clear()


def _settled(kept: Delivery, word: Delivery) -> Delivery:
    """Return a delivery with what its worker, who lives, says of it."""
    crashes = min(kept.crashes, 1)
    return replace(kept, attempts=word.attempts, progress=word.progress, crashes=crashes)


def _unsigned(delivery: Delivery) -> Delivery:
    """Return a delivery as one that no post with a signature brought."""
    return replace(delivery, digest=bytes(32), crashes=0)
