"""The store that forgets: everything is in the memory of one process.

A method never waits for anything, so each runs from start to end as one step of the event loop.
That is all the locking there is.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import DUPLICATES_KNOWN_FOR, MAX_CANDIDATES, MAX_WAITING
from .queues import Queue

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps routes and deliveries for as long as the process lives; for tests and first steps.

    ``clock`` returns seconds and never goes back; leases, back-off and expiry go by it. For one
    event loop of one process.
    """

    def __init__(
        self, *, max_waiting: int = MAX_WAITING, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_waiting = max_waiting
        self._clock = clock
        self._numbers = itertools.count(1)
        self._routes: dict[str, Route] = {}
        self._of_resource: dict[str, dict[str, None]] = {}
        self._expires: dict[str, float] = {}  # of reserved routes only
        self._expiries: list[tuple[float, str]] = []
        self._held: dict[tuple[str, str], list[tuple[int, Delivery]]] = {}
        self._queues: dict[str, Queue] = {}
        self._agenda: list[tuple[float, int, Queue]] = []
        self._waiting = 0
        self._letters: dict[str, DeadLetter] = {}
        self._seen: dict[bytes, datetime] = {}
        self._sightings: deque[tuple[bytes, datetime]] = deque()

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

    # Routes

    async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
        """Add a reserved route for ``ttl`` seconds; False when ``exclusive`` or its id is taken."""
        now = self._clock()
        self._purge(now)
        if route.id in self._routes or (exclusive and self._is_served(route)):
            return False
        self._routes[route.id] = route
        self._of_resource.setdefault(route.resource, {})[route.id] = None
        self._expires[route.id] = now + ttl
        heapq.heappush(self._expiries, (now + ttl, route.id))
        return True

    async def get_route(self, route: str) -> Route | None:
        """Return the route with this id."""
        return self._find(route)

    async def list_routes(self, resource: str | None = None) -> list[Route]:
        """Return the reserved and confirmed routes, oldest first."""
        ids = self._routes if resource is None else self._of_resource.get(resource, {})
        routes = [route for id_ in ids if (route := self._find(id_)) and route.state != "retired"]
        return sorted(routes, key=lambda route: route.created_at)

    async def add_candidate(self, route: str, secret: str) -> bool:
        """Keep a handshake's secret; True when the route holds it now."""
        found = self._find(route)
        if found is None:
            return False
        if found.state != "reserved" or secret in found.candidates:
            return secret == found.secret or secret in found.candidates
        if len(found.candidates) == MAX_CANDIDATES:
            return False
        self._routes[route] = replace(found, candidates=(*found.candidates, secret))
        return True

    async def confirm(self, route: str, *, gid: str, secret: str) -> bool:
        """Turn a reserved route into a confirmed one."""
        found = self._find(route)
        if found is None or found.state != "reserved" or secret not in found.candidates:
            return False
        del self._expires[route]
        self._routes[route] = replace(
            found, state="confirmed", gid=gid, secret=secret, candidates=()
        )
        now = self._clock()
        for number, delivery in self._held.pop((route, secret), ()):
            self._enqueue(now, number, delivery)
        self._drop_held(found)
        return True

    async def set_filters(self, route: str, filters: Sequence[WebhookFilter] | None) -> None:
        """Keep the filters that the webhook of this route has now."""
        found = self._find(route)
        if found is not None:
            new = None if filters is None else tuple(filters)
            self._routes[route] = replace(found, filters=new)

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        """Keep when the last heartbeat came."""
        found = self._find(route)
        if found is not None:
            self._routes[route] = replace(found, heartbeat_at=at)

    async def retire(self, route: str) -> bool:
        """Retire a confirmed route; True for the one call that did it."""
        found = self._find(route)
        if found is None or found.state != "confirmed":
            return False
        self._routes[route] = replace(found, state="retired", secret=None)
        return True

    async def drop(self, route: str) -> Route | None:
        """Forget a reserved route with its candidates and what is held for them."""
        found = self._find(route)
        if found is None or found.state != "reserved":
            return None
        self._forget(found)
        return found

    def _find(self, route: str) -> Route | None:
        expires = self._expires.get(route)
        if expires is not None and expires <= self._clock():
            return None
        return self._routes.get(route)

    def _is_served(self, route: Route) -> bool:
        place = route.target.rpartition("/")[0]
        others = (self._routes[id_] for id_ in self._of_resource.get(route.resource, ()))
        return any(
            other.state != "retired" and other.target.rpartition("/")[0] == place
            for other in others
        )

    def _purge(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            expires, route = heapq.heappop(self._expiries)
            if self._expires.get(route) == expires:  # neither confirmed nor dropped since
                self._forget(self._routes[route])

    def _forget(self, route: Route) -> None:
        del self._routes[route.id], self._expires[route.id]
        others = self._of_resource[route.resource]
        del others[route.id]
        if not others:
            del self._of_resource[route.resource]
        self._drop_held(route)

    def _drop_held(self, route: Route) -> None:
        for candidate in route.candidates:
            self._waiting -= len(self._held.pop((route.id, candidate), ()))

    # Inbox

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        """Keep a delivery; False for a duplicate, or when its candidate is none any more."""
        if self._is_known(delivery):
            return False
        route = None if candidate is None else self._find(delivery.route)
        if candidate is not None and (
            route is None or (candidate != route.secret and candidate not in route.candidates)
        ):
            return False
        if reason is None:
            held_for = candidate if route is not None and route.state == "reserved" else None
            self._store(delivery, held_for)
        else:
            self._bury(delivery, reason)
        self._remember(delivery)
        return True

    async def notify(self) -> None:
        """Do nothing: its workers are in this process."""

    async def listen(self, arrived: Callable[[], None]) -> None:
        """Return at once."""

    async def claim(self, *, limit: int, lease: float) -> Claim | None:
        """Lease the route whose due delivery waited longest, with up to ``limit`` of the due ones.

        A delivery whose lease ran out waits from then on.
        """
        if limit < 1:
            msg = f"a claim needs a limit of at least 1, not {limit}"
            raise ValueError(msg)
        now = self._clock()
        while self._agenda and self._agenda[0][0] <= now:
            _, ticket, queue = heapq.heappop(self._agenda)
            if queue.ticket == ticket and self._is_due(queue, now):
                return self._lease(queue, now, limit, lease)
        return None

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        """Let the lease end ``lease`` seconds from now; False when it is lost."""
        queue = self._leased(claim)
        if queue is None:
            return False
        self._schedule(queue, self._clock() + lease)
        return True

    async def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        """Remove handled deliveries; False when the lease is lost."""
        queue = self._leased(claim)
        if queue is None:
            return False
        for delivery in handled:
            self._remove(queue, delivery)
        return True

    async def release(
        self, claim: Claim, delivery: Delivery, *, delay: float, attempts: int, done: int
    ) -> bool:
        """Make a delivery due again in ``delay`` seconds; False when the lease is lost."""
        queue = self._leased(claim)
        if queue is None or delivery.id not in queue.taken:
            return False
        due, number, kept = queue.taken.pop(delivery.id)
        again = replace(kept, attempts=attempts, done=done)
        queue.add(self._clock() + delay if delay else due, number, again)
        return True

    async def bury(self, claim: Claim, delivery: Delivery, letters: Sequence[DeadLetter]) -> bool:
        """Remove a delivery and leave these dead letters; False when the lease is lost."""
        queue = self._leased(claim)
        if queue is None or not self._remove(queue, delivery):
            return False
        for letter in letters:
            self._add_letter(letter)
        return True

    async def end_claim(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        """Remove handled deliveries, then give the lease back; False when it is lost."""
        if not await self.ack(claim, handled):
            return False
        self._give_back(self._queues[claim.route])
        return True

    async def counts(self) -> Counts:
        """Return how much is in the inbox."""
        self._purge(self._clock())
        first = (queue.first_received_at for queue in self._queues.values())
        return Counts(
            waiting=self._waiting,
            dead_letters=len(self._letters),
            oldest_at=min((at for at in first if at is not None), default=None),
        )

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return dead letters, oldest first, from behind the one with the id ``after``."""
        if after and not after.isdecimal():
            return []
        behind = int(after or 0)
        letters = (letter for letter in self._letters.values() if int(letter.id) > behind)
        return list(itertools.islice(letters, limit))

    async def get_dead_letter(self, letter: str) -> DeadLetter | None:
        """Return the dead letter with this id."""
        return self._letters.get(letter)

    async def replay(self, letters: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        found = [letter for id_ in letters if (letter := self._letters.pop(id_, None))]
        for letter in found:
            delivery = Delivery(
                route=letter.route,
                body=letter.body,
                digest=bytes(32),
                received_at=letter.received_at,
                done=letter.done,
            )
            self._waiting += 1
            self._enqueue(self._clock(), *self._numbered(delivery))
        return len(found)

    async def discard(self, letters: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were."""
        return sum(self._letters.pop(id_, None) is not None for id_ in letters)

    def _is_known(self, delivery: Delivery) -> bool:
        seen = self._seen.get(delivery.digest)
        return seen is not None and abs(delivery.received_at - seen) <= DUPLICATES_KNOWN_FOR

    def _remember(self, delivery: Delivery) -> None:
        at = delivery.received_at
        self._seen[delivery.digest] = at
        self._sightings.append((delivery.digest, at))
        for _ in range(2):  # forgets faster than it learns, yet never many at once
            digest, seen = self._sightings[0]
            if abs(at - seen) <= DUPLICATES_KNOWN_FOR:
                break
            self._sightings.popleft()
            if self._seen.get(digest) == seen:
                del self._seen[digest]

    def _store(self, delivery: Delivery, held_for: str | None) -> None:
        if self._waiting >= self._max_waiting:
            self._purge(self._clock())
        if self._waiting >= self._max_waiting:
            msg = f"the inbox is full, {self._waiting} deliveries wait: let their handlers run"
            raise StoreError(msg)
        self._waiting += 1
        number, numbered = self._numbered(delivery)
        if held_for is None:
            self._enqueue(self._clock(), number, numbered)
        else:
            self._held.setdefault((delivery.route, held_for), []).append((number, numbered))

    def _numbered(self, delivery: Delivery) -> tuple[int, Delivery]:
        number = next(self._numbers)
        return number, replace(delivery, id=str(number))

    def _enqueue(self, due: float, number: int, delivery: Delivery) -> None:
        queue = self._queues.get(delivery.route)
        if queue is None:
            queue = self._queues[delivery.route] = Queue(delivery.route)
        queue.add(due, number, delivery)
        if not queue.fence and queue.at > due:
            self._schedule(queue, due)

    def _leased(self, claim: Claim) -> Queue | None:
        queue = self._queues.get(claim.route)
        return queue if queue is not None and queue.fence == claim.fence else None

    def _remove(self, queue: Queue, delivery: Delivery) -> bool:
        if queue.taken.pop(delivery.id, None) is None:
            return False
        self._waiting -= 1
        return True

    def _is_due(self, queue: Queue, now: float) -> bool:
        if queue.fence:  # the lease ran out; all may be acked, or released to a later time
            self._give_back(queue)
        return queue.at <= now

    def _lease(self, queue: Queue, now: float, limit: int, lease: float) -> Claim:
        queue.fence = next(self._numbers)
        self._schedule(queue, now + lease)
        deliveries = queue.take(now, limit)
        return Claim(route=queue.route, fence=queue.fence, deliveries=deliveries)

    def _give_back(self, queue: Queue) -> None:
        queue.give_back()
        if queue.due is not None:
            self._schedule(queue, queue.due)
        else:
            queue.ticket, queue.at = 0, math.inf
            del self._queues[queue.route]

    def _schedule(self, queue: Queue, at: float) -> None:
        queue.at = at
        queue.ticket = next(self._numbers)
        heapq.heappush(self._agenda, (at, queue.ticket, queue))
        if len(self._agenda) > 2 * len(self._queues) + 64:  # mostly leases that ended early
            self._agenda = [entry for entry in self._agenda if entry[2].ticket == entry[1]]
            heapq.heapify(self._agenda)

    def _add_letter(self, letter: DeadLetter) -> None:
        number = str(next(self._numbers))
        self._letters[number] = replace(letter, id=number)

    def _bury(self, delivery: Delivery, reason: str) -> None:
        self._add_letter(
            DeadLetter(
                route=delivery.route,
                body=delivery.body,
                reason=reason,
                received_at=delivery.received_at,
                buried_at=datetime.now(UTC),
            )
        )
