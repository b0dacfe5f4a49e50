"""When events streams are read: at least every hour, and at once when something may be missing.

Every scope, a resource that is watched for one account, is visited when its stream is to be read,
or when what was read is to be judged.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import anyio

from ._claims import Ledger
from ._clock import Clock
from ._continuity import Tally, Watch, is_stream, parts_of, scope_of
from ._ledger import MARK, is_watched, keep, list_continuity, load
from ._logging import ThrottledLogger
from ._recovery import EVERYBODYS, Recovery, was_deleted
from ._stream import STREAM_LASTS
from .api import WebhooksApi
from .errors import AsanaWebhooksError, RateLimitedError, StoreError
from .models import Continuity, Route, Source, State
from .notices import Notices
from .stores import Store

__all__ = ["Reconciliation"]

AT_ONCE, ALL_AT_ONCE = 2, 20
"""How many streams of an account, and of all, are read side by side: other calls go first."""

SWEEP = 900.0
"""Seconds between looks at all that the store holds."""

MARK_EVERY = 120.0
"""Seconds between notes that a program is there."""

AWAY = timedelta(minutes=10)
"""After so long without a program all streams are read when one starts."""

BEGIN_TIMEOUT = 10.0
"""Seconds that the first token may take before a webhook is made without one."""

JITTER = 0.1
"""By which part the time between two readings may be shorter, so that they spread."""

SOON = 1.0
"""Seconds after which a scope is visited again at the earliest."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
"""Seconds before Asana or the store is asked again when neither could be; they double."""

MAX_TALLIES = 10_000
"""For how many scopes it is counted what was delivered, before that is kept in the store."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Account:
    """The readings for one account, and their failures: how many in a row, and until when."""

    visits: int = 0
    held_back: deque[str] = field(default_factory=deque)  # scopes that are due, and wait for these
    failures: int = 0
    until: float = -math.inf  # by the clock

    @property
    def has_room(self) -> bool:
        return self.visits < (1 if self.failures else AT_ONCE)


class Reconciliation(Ledger):
    """Reads the streams at least every ``interval`` seconds; None: never.

    A trouble of one account holds up no other. ``learn_time`` has Asana asked for the time, unless
    it is known. ``api_of`` returns the calls of an account, and
    ``knows`` whether its token can be asked for. ``owned`` returns those of some routes of an
    account that its token may speak for, ``is_ours`` says whether a
    route is below our public URL. ``arrived`` is called when something was put into the inbox, and
    ``recovered`` with how many events.
    """

    def __init__(
        self,
        api_of: Callable[[str], WebhooksApi],
        store: Store,
        notices: Notices,
        clock: Clock,
        *,
        interval: float | None,
        learn_time: Callable[[], Awaitable[None]],
        is_ours: Callable[[Route], bool],
        knows: Callable[[str], bool],
        owned: Callable[[str, Sequence[Route]], Awaitable[list[Route]]],
        arrived: Callable[[], None],
        recovered: Callable[[int], None],
    ) -> None:
        self._recovery = Recovery(
            api_of, store, notices, clock, arrived=arrived, recovered=recovered
        )
        self._learn_time = learn_time
        self._now = api_of("").asana_now
        self._store = store
        self._notices = notices
        self._clock = clock
        self._interval = interval
        self._is_ours = is_ours
        self._knows = knows
        self._owned = owned
        self._log = ThrottledLogger(logger)
        self._begin()

    def _begin(self) -> None:
        """Be as new: it may be run again, in another event loop too."""
        self._due: dict[str, float] = {}  # by scope, by the clock
        self._queue: list[tuple[float, str]] = []  # a heap of these, with older ones among them
        self._accounts: dict[str, _Account] = {}
        self._urgent: set[str] = set()
        self._filtered_at: dict[str, datetime] = {}
        self._sync_errors: dict[str, str] = {}
        self._visits: dict[str, asyncio.Task[None]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._sweep_at = self._mark_at = -math.inf
        self._has_looked = False
        self._failures = 0
        self._until = -math.inf  # when Asana and the store are asked again
        self._changed: asyncio.Event | None = None

    # What others tell

    def delivered(self, source: Source, seconds: float) -> None:
        """Count a delivery that was received so many seconds, by our clock, after its change."""
        tally = self._tally(source)
        if tally is not None:
            ahead = self._clock.now() - self._now()
            tally.add(seconds - ahead.total_seconds())

    def came_afterwards(self, source: Source) -> None:
        """Count an event that was delivered after it was recovered."""
        tally = self._tally(source)
        if tally is not None:
            tally.late += 1

    def _tally(self, source: Source) -> Tally | None:
        if self._interval is None or not source.resource:
            return None
        scope, tallies = scope_of(source.account, source.resource), self._recovery.tallies
        if scope not in tallies and len(tallies) >= MAX_TALLIES:
            return None
        return tallies.setdefault(scope, Tally())

    def sync_error(self, source: Source, message: str) -> None:
        """Read a stream at once: Asana says that it could not deliver all."""
        if self._interval is None:
            self._notices.tell("gap", source, f"Asana could not keep up: {message}")
            return
        self._sync_errors[scope_of(source.account, source.resource)] = message
        self.restored(source)

    def filtered(self, route: Route) -> None:
        """Note that a webhook is there, with these filters, from now on."""
        scope = scope_of(route.account, route.resource)
        self._filtered_at[scope] = self._now()
        self._plan(scope, self._clock.monotonic())
        self._wake()

    def restored(self, source: Source) -> None:
        """Read a stream at once: its webhook had a trouble, which is over."""
        if source.resource:
            scope = scope_of(source.account, source.resource)
            self._hurry(scope)
            self._wake()

    def _plan(self, scope: str, at: float) -> None:
        """Visit a scope at this moment of the clock."""
        self._due[scope] = at
        heapq.heappush(self._queue, (at, scope))

    def _hurry(self, scope: str) -> None:
        """Visit a scope before those that are not urgent."""
        self._urgent.add(scope)
        self._plan(scope, -math.inf)

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def begin(self, route: Route) -> None:
        """Take a resource's first token before its webhook is made, unless one is there.

        What keeps it from that is logged: then continuity begins later.
        """
        if self._interval is None:
            return
        try:
            with anyio.fail_after(BEGIN_TIMEOUT):
                await self._recovery.begin(scope_of(route.account, route.resource), route)
        except (AsanaWebhooksError, TimeoutError) as error:
            text = "the events stream of %s could not be asked for; it is, later: %s"
            logger.info(text, route.resource, str(error) or "it took too long")

    async def continuity(self) -> list[Continuity]:
        """Return what is proven of each webhook. Raises StoreError."""
        tallies = self._recovery.tallies
        return await list_continuity(self._store, is_ours=self._is_ours, tallies=tallies)

    async def reconcile(self) -> int:
        """Read all streams now, to their ends; return how many events were recovered.

        What is younger than ten minutes is judged when it is not. Raises what a call raises, and
        RuntimeError when streams are never read.
        """
        if self._interval is None:
            msg = "the client has reconcile=None: it keeps no place in the streams to read from"
            raise RuntimeError(msg)
        return sum([await self._look(scope, is_urgent=True) for scope in await self._held()])

    # All scopes

    async def run(self) -> None:
        """Read and judge what is due, until cancelled."""
        self._begin()
        if self._interval is None:
            return
        self._changed = changed = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as visits:
                while True:
                    changed.clear()
                    await self._do_what_is_due(visits)
                    await self._clock.sleep(self._pause(), unless=changed)
        finally:
            self._changed = None

    async def _do_what_is_due(self, visits: asyncio.TaskGroup) -> None:
        now = self._clock.monotonic()
        if now < self._until:
            return
        try:
            if now >= self._sweep_at:
                await self._sweep()
            if self._due and now >= self._mark_at:
                await self._mark()
        except Exception as error:  # noqa: BLE001 - all streams depend on this task
            self._fail(error)
            return
        while len(self._visits) < ALL_AT_ONCE and (scope := self._next_due()) is not None:
            self._account_of(scope).visits += 1
            task = visits.create_task(self._visit(scope), name=f"asana-webhooks reading {scope}")
            self._visits[scope] = task
            self._clock.follow(task)

    def _account_of(self, scope: str) -> _Account:
        return self._accounts.setdefault(parts_of(scope)[0], _Account())

    def _next_due(self) -> str | None:
        """Return a scope to be visited now, whose account has room for it; None: there is none."""
        now = self._clock.monotonic()
        while self._queue and self._queue[0][0] <= now:
            at, scope = heapq.heappop(self._queue)
            if self._due.get(scope) != at or scope in self._visits:
                continue
            account = self._account_of(scope)
            if account.until > now:
                self._plan(scope, account.until)
            elif account.has_room:
                return scope
            elif scope in self._urgent:
                account.held_back.appendleft(scope)
            else:
                account.held_back.append(scope)
        return None

    def _end_visit(self, scope: str) -> None:
        """Have another scope of the account take the place of one that was visited."""
        del self._visits[scope]
        account = self._account_of(scope)
        account.visits -= 1
        if account.held_back:
            following = account.held_back.popleft()
            if following in self._due:
                self._plan(following, self._due[following])
        elif not (account.visits or account.failures):
            del self._accounts[parts_of(scope)[0]]
        self._wake()

    def _pause(self) -> float:
        """Return for how many seconds there is nothing to do unless something changes."""
        now = self._clock.monotonic()
        moments = [self._sweep_at]
        moments += [self._mark_at] if self._due else []
        if self._queue and len(self._visits) < ALL_AT_ONCE:
            moments.append(self._queue[0][0])
        return max(0.0, min(moments) - now, self._until - now)

    async def _sweep(self) -> None:
        """Look at all that the store holds: what is to be visited, and what is over."""
        states = {
            state.scope: state
            for state in await self._store.list_states()
            if is_stream(state.scope)
        }
        held = await self._held()
        if held:
            await self._learn_time()
        is_away = not self._has_looked and bool(held) and await self._was_away()
        for scope in held - self._due.keys():
            if is_away:
                self._hurry(scope)
            else:
                self._plan(scope, self._clock.monotonic())
        for scope in states.keys() - held:
            await self._end_if_over(scope, states[scope])
        self._has_looked = True
        self._sweep_at = self._clock.monotonic() + SWEEP

    async def _held(self) -> set[str]:
        """Return the scopes whose webhooks are there."""
        routes = filter(self._is_to_read, await self._store.list_routes())
        return {scope_of(route.account, route.resource) for route in routes}

    def _is_to_read(self, route: Route) -> bool:
        return is_watched(route) and self._is_ours(route) and self._knows(route.account)

    async def _watched(self, scope: str) -> list[Route]:
        """Return the routes of a scope that are there, and that the token may speak for."""
        routes = list(filter(self._is_to_read, await self._routes_of(scope)))
        if not routes:
            return []
        account = routes[0].account
        await self._learn_time()
        return await self._owned(account, routes)

    async def _was_away(self) -> bool:
        """Return whether no program was there for ten minutes."""
        state = await self._store.get_state(MARK)
        try:
            marked_at = datetime.fromisoformat(state.text) if state else None
        except ValueError:
            marked_at = None
        return marked_at is None or self._now() - marked_at >= AWAY

    async def _mark(self) -> None:
        """Note that a program is there; one of several does."""
        state, now = await self._store.get_state(MARK), self._now()
        version = 0 if state is None else state.version
        await self._store.put_state(State(scope=MARK, version=version, text=now.isoformat()))
        self._mark_at = self._clock.monotonic() + MARK_EVERY

    async def _end_if_over(self, scope: str, state: State) -> None:
        """Forget what has no webhook any more, but for its gaps."""
        if any(route.state != "retired" for route in await self._routes_of(scope)):
            return
        watch, version = await load(self._store, scope)
        began = watch.proven_at
        is_old = began is None or self._now() - began > 2 * STREAM_LASTS
        is_over = is_old or (bool(watch.routes) and await was_deleted(self._store, watch))
        if version != state.version or not is_over:
            return
        if not watch.gaps:
            await self._store.drop_state(scope, version)
        elif watch != watch.ended():
            await keep(self._store, scope, version, watch.ended())

    async def _routes_of(self, scope: str) -> list[Route]:
        account, resource = parts_of(scope)
        return await self._store.list_routes(resource, account=account)

    # One scope

    async def _visit(self, scope: str) -> None:
        """Do what is due for a scope, and note when it is due again."""
        is_urgent = scope in self._urgent
        self._urgent.discard(scope)
        self._due[scope] = math.inf
        try:
            await self._look(scope, is_urgent=is_urgent)
        except StoreError as error:
            self._put_off(scope, is_urgent=is_urgent)
            self._fail(error)
        except EVERYBODYS as error:
            self._put_off(scope, is_urgent=is_urgent)
            self._fail_account(parts_of(scope)[0], error)
        except Exception as error:  # noqa: BLE001 - the others go on, and so does this one later
            self._plan(scope, self._clock.monotonic() + LONGEST_PAUSE)
            self._say(f"the events stream of {parts_of(scope)[1]} could not be read", error)
        else:
            self._failures, self._until = 0, -math.inf
            account = self._account_of(scope)
            account.failures, account.until = 0, -math.inf
        finally:
            self._end_visit(scope)

    def _put_off(self, scope: str, *, is_urgent: bool) -> None:
        """Visit a scope as soon as it can be again."""
        if is_urgent:
            self._hurry(scope)
        else:
            self._plan(scope, self._clock.monotonic())

    async def _look(self, scope: str, *, is_urgent: bool) -> int:
        """Read or judge a scope, or begin with it; return how many events were recovered."""
        async with self._locks.setdefault(scope, asyncio.Lock()):
            routes = await self._watched(scope)
            if not routes:
                self._due.pop(scope, None)
                self._locks.pop(scope, None)
                return 0
            recovered = await self._step(scope, routes, is_urgent=is_urgent)
            watch, _ = await load(self._store, scope)
            self._plan(scope, min(self._due.get(scope, math.inf), self._next(watch)))
            return recovered

    async def _step(self, scope: str, routes: list[Route], *, is_urgent: bool) -> int:
        filtered_at, sync_error = self._filtered_at.get(scope), self._sync_errors.get(scope)
        prepared = await self._recovery.prepare(
            scope, routes, filtered_at=filtered_at, sync_error=sync_error
        )
        if prepared is None:  # somebody else changes it
            self._plan(scope, self._clock.monotonic() + SOON)
            if is_urgent:
                self._urgent.add(scope)
            return 0
        if self._filtered_at.get(scope) == filtered_at:
            self._filtered_at.pop(scope, None)
        self._sync_errors.pop(scope, None)
        watch, is_replaced = prepared
        is_due = self._reading_at(watch) <= self._clock.monotonic()
        if watch.is_readable and (is_urgent or is_replaced or is_due):
            return await self._recovery.read(scope, routes[-1])
        judged_at = watch.judged_at
        if watch.is_read and judged_at is not None and judged_at <= self._now():
            return await self._recovery.judge(scope, routes[-1])
        await self._recovery.keep_tally(scope)
        return 0

    def _reading_at(self, watch: Watch) -> float:
        """Return when a stream is to be read, by the clock."""
        assert self._interval is not None  # noqa: S101 - or nothing runs
        now = self._now()
        spread = zlib.crc32(f"{self._recovery.reader} {watch.cursor}".encode()) / 2**32
        wait = self._interval * (1 - JITTER * spread)
        left = wait - (now - (watch.proven_at or now)).total_seconds()
        return self._clock.monotonic() + left

    def _next(self, watch: Watch) -> float:
        """Return when a scope is to be visited again, by the clock."""
        assert self._interval is not None  # noqa: S101 - or nothing runs
        monotonic, now = self._clock.monotonic(), self._now()
        if not watch.is_read or watch.is_refused:
            return monotonic + self._interval
        until = watch.reading_until
        if until is not None and watch.is_read_by_another(self._recovery.reader, now):
            return monotonic + (until - now).total_seconds()
        moments = [self._reading_at(watch)] if watch.is_readable else []
        if watch.judged_at is not None:
            moments.append(monotonic + (watch.judged_at - now).total_seconds())
        return max(monotonic + SOON, min(moments, default=monotonic + self._interval))

    # What goes wrong

    def _fail(self, error: Exception) -> None:
        """Note a failure of the store, and when to ask again."""
        self._failures += 1
        self._until = self._clock.monotonic() + _pause_after(self._failures)
        self._say("events streams cannot be read", error)

    def _fail_account(self, name: str, error: AsanaWebhooksError) -> None:
        """Note that Asana could not be asked with an account's token, and when to ask again."""
        account = self._accounts.setdefault(name, _Account())
        account.failures += 1
        pause = _pause_after(account.failures)
        if isinstance(error, RateLimitedError) and error.retry_after is not None:
            pause = max(pause, error.retry_after)
        account.until = self._clock.monotonic() + pause
        whose = f" of account {name!r}" if name else ""
        self._say(f"events streams{whose} cannot be read", error)

    def _say(self, what: str, error: Exception) -> None:
        if isinstance(error, AsanaWebhooksError):
            self._log.log(logging.WARNING, what, "%s: %s", what, error)
        else:
            logger.error("%s", what, exc_info=error)


def _pause_after(failures: int) -> float:
    """Return for how many seconds to wait after so many failures in a row."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 10), LONGEST_PAUSE)
