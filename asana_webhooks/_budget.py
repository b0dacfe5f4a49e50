"""The budget of a token: which of its calls may be made now, and whose turn is next.

Asana lets a token make 50 GETs and 15 other calls at once, and so many in a minute. What exceeds it
is refused, and a refused call counts too. So all calls of a token pass one place, which has them
wait instead. ``Slots`` decides, ``Budget`` lets calls wait.

Source: https://developers.asana.com/docs/rate-limits
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from enum import IntEnum
from typing import Final
from weakref import WeakValueDictionary

import anyio

from .errors import RateLimitedError
from .models import BudgetState

__all__ = ["LONG_WAIT", "Budget", "Kind", "Priority", "Slot", "Slots", "budget_of"]

WINDOW = 61.0
"""Seconds in which a rate is kept: Asana's minute, and what two calls may differ on their way."""

LONGEST_HOLD = 61.0
"""Seconds that a call waits for the end of a hold; a longer one is its caller's to wait."""

LEAST_RATE = 100
"""A rate below it is learnt from no refusal: Asana's lowest is 150, others may share the token."""

BY_RATE = 5.0
"""A refusal for at least so many seconds is for the rate; one for too much at once is shorter."""

LONG_WAIT = 60.0
"""Seconds of waiting that are worth a word."""


OLDEST_EACH = 10
"""Of so many calls that waited one is that which came first, so that no priority waits for ever."""


class Kind(IntEnum):
    """The kinds of calls; one that creates a webhook waits for its handshake, and is a write."""

    READ = 0
    WRITE = 1
    CREATE = 2


AT_ONCE: Final = {Kind.READ: 50, Kind.WRITE: 15, Kind.CREATE: 10}
"""How many may be under way. Creations leave some of the writes to others, which are quick."""


class Priority(IntEnum):
    """The order in which calls go that wait; each tenth is the one that came first."""

    PROGRAM = 0
    ESTABLISHING = 1
    LOOKING_AFTER = 2
    STREAMS = 3


class Slots:
    """Decides which calls may be made at a moment; times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.under_way = {Kind.READ: 0, Kind.WRITE: 0, Kind.CREATE: 0}
        self.held_until = -math.inf
        self._per_minute: int | None = None
        self._holders = 1
        self._made = deque[float]()  # when, of the calls within the window, the oldest first
        self._refused = deque[float]()  # likewise, of the refusals
        self._learnt: tuple[int, float] | None = None  # a rate, and when

    def most(self, kind: Kind) -> int:
        """Return how many calls of a kind may be under way here."""
        return max(1, AT_ONCE[kind] // self._holders)

    def has_room(self, kind: Kind) -> bool:
        """Return whether one more call of a kind may be under way."""
        if kind is Kind.READ:
            return self.under_way[Kind.READ] < self.most(Kind.READ)
        writes = self.under_way[Kind.WRITE] + self.under_way[Kind.CREATE]
        has_room = writes < self.most(Kind.WRITE)
        return has_room and (kind is Kind.WRITE or self.under_way[kind] < self.most(kind))

    def next_at(self) -> float:
        """Return from when on a call may be made that has room; it may be long ago."""
        made = len(self._made)
        rate = min(self._wanted_rate(), self._learnt_rate())
        if made < rate:
            return self.held_until
        return max(self.held_until, self._made[-int(rate)] + WINDOW)

    def note_call(self, now: float) -> None:
        """Note that a call is made."""
        _forget_before(self._made, now - WINDOW)
        self._made.append(now)

    def hold(self, now: float, seconds: float) -> None:
        """Have no call made for so many seconds, or as long as was told before.

        When one is refused for the rate, what was not refused in the window is the rate that is
        kept from then on. It grows by a hundredth, and one, each minute: the next refusal tells
        whether that was too much.
        """
        self.held_until = max(self.held_until, now + seconds)
        _forget_before(self._refused, now - WINDOW)
        self._refused.append(now)
        if seconds >= BY_RATE:
            _forget_before(self._made, now - WINDOW)
            self._learnt = max(LEAST_RATE, len(self._made) - len(self._refused)), now

    def limit_rate(self, per_minute: int | None) -> None:
        """Have no more calls in a minute; the least of what was told counts."""
        known = self._per_minute
        if per_minute is not None and (known is None or per_minute < known):
            self._per_minute = per_minute

    def share(self, holders: int) -> None:
        """Take one part of as many; there is always room for one call of a kind."""
        self._holders = max(1, holders)

    def _wanted_rate(self) -> float:
        if self._per_minute is None:
            return math.inf
        return max(1, self._per_minute // self._holders)

    def _learnt_rate(self) -> float:
        if self._learnt is None or not self._made:
            return math.inf
        rate, at = self._learnt
        return rate + int((self._made[-1] - at) / 60.0) * (1 + rate // 100)


def _forget_before(times: deque[float], end: float) -> None:
    while times and times[0] <= end:
        times.popleft()


class Slot:
    """A place among the calls of a token, for one call and its repetitions."""

    __slots__ = ("_budget", "_is_first", "_kind")

    def __init__(self, budget: Budget, kind: Kind) -> None:
        self._budget: Budget | None = budget
        self._kind = kind
        self._is_first = True

    async def turn(self) -> float:
        """Return when the next call in this slot may be made, and for how many seconds it waited.

        The first may be at once, unless Asana has refused another since. Raises like ``enter``.
        """
        assert self._budget is not None  # noqa: S101 - nobody calls in a slot that was left
        is_first, self._is_first = self._is_first, False
        return await self._budget.turn(is_counted=is_first)

    def leave(self) -> None:
        """Leave it to the next. May be called twice."""
        budget, self._budget = self._budget, None
        if budget is not None:
            budget.leave(self._kind)


class Budget:
    """Makes the calls of one token wait until they may be made, in one event loop.

    Among those that wait, the priority decides, then who came first; each tenth goes whatever its
    priority is, so that a busy program is looked after too. A call that cannot be made does not
    hold up one of another kind that can.
    """

    def __init__(self, *keeps: object) -> None:
        self.holder = secrets.token_hex(16)
        """Its name among those that share the token."""
        self.calls_made = 0
        self.written_at = -math.inf
        """When the last call ended that may have changed something, by the monotonic clock."""
        self._keeps = keeps  # by whose identity it is found
        self._slots = Slots()
        self._queues = {
            priority: {kind: OrderedDict[int, asyncio.Future[None]]() for kind in Kind}
            for priority in Priority
        }
        self._waiting = 0
        self._came = 0
        self._went = 0  # of those that waited
        self._timer: asyncio.TimerHandle | None = None

    # Calls

    async def enter(
        self, kind: Kind, priority: Priority, *, on_long_wait: Callable[[], None]
    ) -> Slot:
        """Return a slot, in which a call may be made at once; leave it when that has ended.

        ``on_long_wait`` is called when it takes more than a minute. A caller that is cancelled
        leaves no slot behind. Raises RateLimitedError while Asana wants no call for longer than the
        caller's timeout or a minute.
        """
        now = time.monotonic()
        if not self._waiting and self._slots.has_room(kind) and self._slots.next_at() <= now:
            self._take(kind, now)
        else:
            self._check_hold()
            long_wait = asyncio.get_running_loop().call_later(LONG_WAIT, on_long_wait)
            try:
                await self._wait(kind, priority)
            finally:
                long_wait.cancel()
        return Slot(self, kind)

    async def turn(self, *, is_counted: bool) -> float:
        """Return when a call that has a slot may be made, and for how many seconds it waited.

        One that is counted was so when it got its slot. Raises like ``enter``.
        """
        waited = 0.0
        while (pause := self._pause(is_counted=is_counted)) > 0.0:
            self._check_hold()
            await asyncio.sleep(pause)
            waited += pause
        if not is_counted:
            self._slots.note_call(time.monotonic())
        return waited

    def leave(self, kind: Kind) -> None:
        """Note that a call has ended."""
        self._slots.under_way[kind] -= 1
        if kind is not Kind.READ:
            self.written_at = time.monotonic()
        if self._waiting:
            self._wake()

    # What is told

    @property
    def is_idle(self) -> bool:
        """Whether no call waits for a slot."""
        return not self._waiting

    def hold(self, seconds: float) -> None:
        """Make no call for so many seconds: Asana has refused one."""
        self._slots.hold(time.monotonic(), seconds)
        if seconds > LONGEST_HOLD:
            self._refuse_waiting()
        self._wake()

    def share(self, holders: int) -> None:
        """Take one part of the slots and of the rate, of as many as processes share the token."""
        self._slots.share(holders)
        self._wake()

    def limit_rate(self, per_minute: int | None) -> None:
        """Make at most so many calls a minute; None: no other limit than before."""
        self._slots.limit_rate(per_minute)

    def state(self, account: str) -> BudgetState:
        """Return what is under way and what waits."""
        under_way = self._slots.under_way
        return BudgetState(
            account=account,
            reads=under_way[Kind.READ],
            writes=under_way[Kind.WRITE] + under_way[Kind.CREATE],
            most_reads=self._slots.most(Kind.READ),
            most_writes=self._slots.most(Kind.WRITE),
            waiting=self._waiting,
            held_for=max(0.0, self._slots.held_until - time.monotonic()),
        )

    # Waiting

    def _take(self, kind: Kind, now: float) -> None:
        self.calls_made += 1
        self._slots.under_way[kind] += 1
        self._slots.note_call(now)

    def _pause(self, *, is_counted: bool) -> float:
        until = self._slots.held_until if is_counted else self._slots.next_at()
        return until - time.monotonic()

    def _check_hold(self) -> None:
        """Raise RateLimitedError when the end of a hold is too far for this caller."""
        left = anyio.current_effective_deadline() - anyio.current_time()
        held_for = self._slots.held_until - time.monotonic()
        if held_for > min(LONGEST_HOLD, left):
            raise _held(held_for)

    async def _wait(self, kind: Kind, priority: Priority) -> None:
        self._came += 1
        queue, number = self._queues[priority][kind], self._came
        queue[number] = future = asyncio.get_running_loop().create_future()
        self._waiting += 1
        self._wake()
        try:
            await future
        except BaseException:
            if queue.pop(number, None) is not None:
                self._waiting -= 1
            elif not future.cancelled() and future.exception() is None:
                self.leave(kind)  # it was given a slot, and cancelled before it knew
            raise

    def _wake(self) -> None:
        """Give those a slot that may go, and come back when the next may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        while (first := self._first()) is not None:
            pause = self._slots.next_at() - now
            if pause > 0.0:
                self._timer = asyncio.get_running_loop().call_later(pause, self._wake)
                return
            priority, kind = first
            _, future = self._queues[priority][kind].popitem(last=False)
            self._waiting -= 1
            if not future.done():
                self._went += 1
                self._take(kind, now)
                future.set_result(None)

    def _first(self) -> tuple[Priority, Kind] | None:
        """Return the queue of the call that is next, None when there is room for none."""
        if not self._waiting:
            return None
        ready = [kind for kind in Kind if self._slots.has_room(kind)]
        fronts = [
            (next(iter(queues[kind])), priority, kind)
            for priority, queues in self._queues.items()
            for kind in ready
            if queues[kind]
        ]
        if not fronts:
            return None
        if (self._went + 1) % OLDEST_EACH:
            highest = fronts[0][1]
            fronts = [front for front in fronts if front[1] is highest]
        _, priority, kind = min(fronts)
        return priority, kind

    def _refuse_waiting(self) -> None:
        held_for = self._slots.held_until - time.monotonic()
        for queues in self._queues.values():
            for queue in queues.values():
                while queue:
                    _, future = queue.popitem(last=False)
                    self._waiting -= 1
                    if not future.done():
                        future.set_exception(_held(held_for))


def _held(seconds: float) -> RateLimitedError:
    text = "it was not made: Asana has refused another call of this token, and wants none for now"
    error = RateLimitedError(429, (text,))
    error.retry_after = seconds
    return error


_budgets: WeakValueDictionary[Hashable, Budget] = WeakValueDictionary()


def budget_of(whose: object, base_url: str) -> Budget:
    """Return the budget of a token in the running event loop, the same for all who ask.

    ``whose`` is a digest of the token, or the object that authenticates. A budget ends when nobody
    has it.
    """
    loop = asyncio.get_running_loop()
    known_by = whose if isinstance(whose, bytes) else id(whose)
    key = id(loop), base_url, known_by
    budget = _budgets.get(key)
    if budget is None:
        budget = _budgets[key] = Budget(loop, whose)
    return budget
