"""The webhooks that a program wants: established beside all else, and again when they are lost.

Asana deletes a webhook after 24 hours without a success and tells nobody. Only a look shows it.

They are one account's. A trouble is one webhook's, as a deleted project is, or the account's: Asana
is out of reach, the token is refused, no handshake arrives. Each webhook that has one of its own
waits longer and longer while the others go on. In a trouble of the account all of its webhooks
wait, and one is tried at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType
from typing import TypeAlias
from weakref import WeakValueDictionary

from ._clock import Clock
from ._establish import same_filters
from ._upkeep import Filters, Upkeep
from .errors import (
    AsanaWebhooksError,
    AuthenticationError,
    ConnectionFailedError,
    EstablishmentError,
    HandshakeMissingError,
    RateLimitedError,
    ServerError,
    StoreError,
)
from .models import Route, Source, Webhook
from .notices import Notices

__all__ = ["DesiredWebhooks", "Turns", "WantedFilters"]

AT_ONCE = 5
"""How many webhooks of an account are established side by side."""

LOOKS_AT_ONCE, ALL_AT_ONCE = 20, 50
"""How many accounts look side by side, and how many webhooks of all accounts are established."""

MAX_WEBHOOKS = 10_000
"""How many webhooks Asana lets a token have."""

MAX_NAMED = 10
"""How many webhooks an error names one by one."""

ALONE = 3
"""Up to so many webhooks that the store has are asked for by gid; more are looked for in lists."""

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 600.0
"""Seconds before it is tried again, which double; the longest is for what a person has to mend."""

JITTER = 0.1
"""By which part a pause may be shorter, so that replicas do not come back all at once."""

START_PAUSE = 0.3
"""Seconds that another server has to begin to listen before the first handshake is asked for."""

QUIET = 15.0
"""Seconds from the start in which a missing handshake is no news: a server or tunnel starts."""

ACCOUNTS = (
    *(AuthenticationError, ConnectionFailedError, HandshakeMissingError, RateLimitedError),
    *(ServerError, StoreError),
)
"""Errors that have another cause than one resource."""

WantedFilters: TypeAlias = Filters | EllipsisType
"""Filters, None for every event, or the ellipsis: those that the handlers need."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Desired:
    """One webhook that is wanted, and how far that has come.

    ``is_single`` says that it is wanted by its resource, and not only by those that follow what the
    resource is in, the ``followers``. ``is_spare`` says that all works without it too.
    ``gid`` and ``route`` are of the webhook that was there last, ``applied`` are the filters that
    it was given; ``is_stale`` says that others may be wanted since it is being established.
    ``is_kept`` says that ``filters`` come from ``keep``. ``is_fresh`` is true until
    it is known whether the store has one, ``was_held`` whether it had one when that was last tried.
    ``cause`` is why it is not established; ``said`` is the last one that was logged.
    """

    resource: str
    filters: WantedFilters
    timeout: float
    is_single: bool = False
    is_spare: bool = False
    followers: set[str] = field(default_factory=set)
    gid: str | None = None
    route: str | None = None
    applied: WantedFilters = ...
    is_stale: bool = False
    is_kept: bool = False
    established: bool = False
    is_fresh: bool = True
    was_held: bool = False
    failures: int = 0
    try_at: float = -math.inf  # by the clock
    cause: str = ""
    said: str = ""
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Trouble:
    """A trouble of all of an account: how often in a row, until when all wait, and why.

    ``said`` is the last cause that was logged. ``is_of_receiver`` is true when Asana was reached,
    and did not reach us.
    """

    failures: int = 0
    until: float = -math.inf  # by the clock
    cause: str = ""
    said: str = ""
    is_of_receiver: bool = False


class Turns:
    """Limits of what all accounts do side by side; for one event loop."""

    def __init__(self) -> None:
        self.looking = asyncio.Semaphore(LOOKS_AT_ONCE)
        self.establishing = asyncio.Semaphore(ALL_AT_ONCE)


class DesiredWebhooks:
    """Establishes what one account keeps, and looks after it and after what was ensured.

    A look at all that the store holds follows another after ``interval`` seconds; None: there is
    none. What a program changes meanwhile stays as the program wants it. A webhook that was deleted
    on purpose, here or in another process that shares the store, is wanted no longer.

    ``on_wish`` is called when there is something to do while it does not run. ``filters_for``
    returns what the handlers need of a resource. ``waits_for_server`` says that another server has
    to begin to listen first; ``was_reached`` whether any request came by now.
    """

    def __init__(
        self,
        upkeep: Upkeep,
        notices: Notices,
        clock: Clock,
        *,
        account: str = "",
        interval: float | None,
        filters_for: Callable[[str], Filters],
        on_wish: Callable[[], None] = lambda: None,
        waits_for_server: bool = False,
        was_reached: Callable[[], bool] = lambda: False,
    ) -> None:
        self._upkeep = upkeep
        self._notices = notices
        self._clock = clock
        self._interval = math.inf if interval is None else interval
        self._everything = Source(webhook="", resource="", account=account)
        self._of_account = f" of account {account!r}" if account else ""
        self._filters_for = filters_for
        self._on_wish = on_wish
        self._waits_for_server = waits_for_server
        self._was_reached = was_reached
        self._desired: dict[str, _Desired] = {}
        self._trouble = _Trouble()
        self._look_at = -math.inf  # by the clock
        self._started_at = -math.inf
        self._has_stale_filters = False  # whether any webhook may be to have others by now
        self._turns = Turns()
        self._ends_leaving = False  # whether a webhook is to be deleted that could not be before
        self._changed: asyncio.Event | None = None  # while it runs
        self._progress = asyncio.Event()  # replaced at each step of any webhook
        self._locks = WeakValueDictionary[str, asyncio.Lock]()  # a lock lives while it is in use

    def lock(self, resource: str) -> asyncio.Lock:
        """Return the lock to hold while the webhook of this resource is changed."""
        return self._locks.setdefault(resource, asyncio.Lock())

    # What a program wants

    def keep(self, resource: str, *, filters: WantedFilters, timeout: float) -> None:
        """Want a webhook of this resource, with these filters, from now on.

        Raises EstablishmentError when the account would have more webhooks than Asana lets it have.
        """
        desired = self._wanted(resource, filters, timeout)
        desired.filters, desired.timeout, desired.try_at = filters, timeout, -math.inf
        desired.is_kept = desired.is_single = True
        self.wake(has_stale_filters=True)

    def follow(
        self,
        resource: str,
        *,
        follower: str,
        filters: WantedFilters,
        timeout: float,
        is_spare: bool = False,
    ) -> None:
        """Want a webhook of this resource for as long as this follower does, or another.

        What a program wants of the resource itself goes first. Raises what ``keep`` raises.
        """
        desired = self._wanted(resource, filters, timeout)
        desired.followers.add(follower)
        if not desired.is_single:
            desired.filters, desired.timeout, desired.is_spare = filters, timeout, is_spare
        self.wake(has_stale_filters=True)

    async def unfollow(self, resources: Iterable[str], follower: str) -> None:
        """Leave the webhooks of these, but for those that a program or another follower wants.

        The intent is stored when this returns; they are deleted beside all else. Raises StoreError,
        and what asking for the token's user raises.
        """
        for resource in resources:
            if self.release(resource, follower):
                async with self.lock(resource):
                    await self._upkeep.begin_leaving(resource)
        self._ends_leaving = True
        self.wake()

    def release(self, resource: str, follower: str) -> bool:
        """Want it for this follower no longer; return whether nobody wants it."""
        desired = self._desired.get(resource)
        if desired is None:
            return True
        desired.followers.discard(follower)
        if desired.is_single or desired.followers:
            return False
        self._forget(resource)
        self._step()
        return True

    @property
    def progress(self) -> asyncio.Event:
        """An event that is set at the next step of any webhook."""
        return self._progress

    def count(self) -> int:
        """Return how many webhooks are wanted."""
        return len(self._desired)

    def is_established(self, resource: str) -> bool:
        """Return whether there is the webhook that is wanted of this resource."""
        desired = self._desired.get(resource)
        return desired is not None and desired.established

    def is_followed(self, resource: str) -> bool:
        """Return whether any follower wants a webhook of this resource."""
        desired = self._desired.get(resource)
        return desired is not None and bool(desired.followers)

    def has_any(self) -> bool:
        """Return whether any webhook is wanted."""
        return bool(self._desired)

    def is_wanted(self, resource: str) -> bool:
        """Return whether a webhook of this resource is wanted, by whomever."""
        return resource in self._desired

    def is_single(self, resource: str) -> bool:
        """Return whether a program wants a webhook of this resource itself."""
        desired = self._desired.get(resource)
        return desired is not None and desired.is_single

    def count_established(self, resources: Iterable[str]) -> int:
        """Return how many of these have the webhook that is wanted of them."""
        return sum(map(self.is_established, resources))

    def _wanted(self, resource: str, filters: WantedFilters, timeout: float) -> _Desired:
        desired = self._desired.get(resource)
        if desired is not None:
            return desired
        if len(self._desired) >= MAX_WEBHOOKS:
            msg = (
                f"no webhook of {resource}: Asana lets a token have {MAX_WEBHOOKS} webhooks, and"
                " so many are kept; leave some, or watch what is in a workspace or a team by it"
            )
            raise EstablishmentError(msg)
        return self._desired.setdefault(resource, _Desired(resource, filters, timeout))

    async def kept(self) -> None:
        """Return when there is a webhook, with the filters that are wanted, for all of them.

        For one that is spare it is enough that it was tried.
        """
        while self._has_pending():
            await self._progress.wait()

    def pending(self) -> list[str]:
        """Return what is not established and why, one line each, of the first ten."""
        pending = self._needed()
        lines = [f"{each.resource}: {self._cause(each)}" for each in pending[:MAX_NAMED]]
        more = len(pending) - len(lines)
        return [*lines, f"and {more} more"] if more else lines

    async def ensure(
        self, resource: str, *, filters: Filters, timeout: float, replace: bool = False
    ) -> Webhook:
        """Return the webhook of this resource, and look after it from now on."""
        async with self.lock(resource):
            webhook = await self._upkeep.ensure(
                resource, filters=filters, timeout=timeout, replace=replace
            )
            desired = self._wanted(resource, filters, timeout)
            _override(desired, filters)
            desired.timeout, desired.is_single = timeout, True
            await self._note_established(desired, webhook, filters)
            self.wake()
            return webhook

    def set_filters(self, gid: str, filters: Filters) -> None:
        """Go by these filters from now on, if this webhook is looked after."""
        for desired in self._desired.values():
            if desired.gid == gid:
                desired.filters = desired.applied = filters
                desired.is_kept = False

    async def leave(self, resource: str) -> None:
        """Want no webhook of this resource any longer, and delete what there is."""
        self._forget(resource)
        self._step()
        async with self.lock(resource):
            if not await self._upkeep.leave(resource):
                self._ends_leaving = True
                self._trouble.until = self._clock.monotonic() + FIRST_PAUSE
                self.wake()

    def drop_all(self) -> None:
        """Want no webhook any longer, and end what is being established."""
        for resource in list(self._desired):
            self._forget(resource)
        self._step()

    def drop(self, gid: str) -> None:
        """Want this webhook no longer: it was deleted."""
        gone = [each for each in self._desired.values() if each.gid == gid]
        for desired in gone:
            self._drop(desired)

    def lose(self, gid: str) -> None:
        """Make another webhook in the place of this one, if it is wanted."""
        for desired in self._desired.values():
            if desired.gid == gid:
                self._note_lost(desired)
        self.wake()

    def wake(self, *, has_stale_filters: bool = False) -> None:
        """Look whether there is something to do: handlers or wishes have changed."""
        self._has_stale_filters |= has_stale_filters
        if self._changed is not None:
            self._changed.set()
        elif self._desired or self._ends_leaving:
            self._on_wish()

    def retry(self) -> None:
        """Try at once what waits for a trouble of the account to end: it may have ended."""
        self._trouble.until = now = self._clock.monotonic()
        for desired in self._pending():
            desired.try_at = min(desired.try_at, now)
        self.wake()

    def _forget(self, resource: str) -> None:
        desired = self._desired.pop(resource, None)
        if desired is not None and desired.task is not None:
            desired.task.cancel()  # which undoes what it has begun

    def _drop(self, desired: _Desired) -> None:
        self._desired.pop(desired.resource, None)
        self._step()

    def _pending(self) -> list[_Desired]:
        return [each for each in self._desired.values() if not each.established]

    def _needed(self) -> list[_Desired]:
        """Return those that are pending and not spare, or were not tried yet."""
        return [each for each in self._pending() if not (each.is_spare and each.failures)]

    def _has_pending(self) -> bool:
        self._update_filters()
        return bool(self._needed())

    def _cause(self, desired: _Desired) -> str:
        return desired.cause or self._trouble.cause or "it was not tried yet"

    def _step(self) -> None:
        """Wake those who wait for all to be established."""
        self._progress.set()
        self._progress = asyncio.Event()

    # The work

    def begin(self) -> None:
        """Have nothing count as established that was in a run before."""
        self._trouble = _Trouble()
        for desired in self._desired.values():
            desired.established, desired.is_fresh = False, True
            desired.failures, desired.try_at = 0, -math.inf
        self._step()

    async def run(self, turns: Turns) -> None:
        """Establish and look after what is wanted, until cancelled."""
        self._turns = turns
        self._changed = changed = asyncio.Event()
        self._started_at = self._clock.monotonic()
        self._look_at = self._started_at if math.isfinite(self._interval) else math.inf
        self._ends_leaving = True
        if self._waits_for_server:
            self._trouble.until = self._started_at + START_PAUSE
        try:
            async with asyncio.TaskGroup() as workers:
                while True:
                    changed.clear()
                    await self._do_what_is_due(workers)
                    await self._clock.sleep(self._pause(), unless=changed)
        finally:
            self._changed = None

    async def _do_what_is_due(self, workers: asyncio.TaskGroup) -> None:
        if self._clock.monotonic() < self._trouble.until:
            return
        try:
            await self._look_if_due()
        except Exception as error:  # noqa: BLE001 - all that is wanted depends on this task
            self._fail(error)
            if isinstance(error, ACCOUNTS):
                if math.isfinite(self._interval):
                    self._look_at = self._clock.monotonic()
                return
            self._ends_leaving = False
            self._plan_look()
            for desired in self._desired.values():  # lists are refused: each is asked for by gid
                desired.established = desired.is_fresh = False
        self._update_filters()
        due = [each for each in self._pending() if self._is_due(each)]
        due.sort(key=lambda each: each.try_at)
        for desired in due[: self._room()]:
            name = f"asana-webhooks keeping {desired.resource}"
            desired.task = workers.create_task(self._establish(desired), name=name)
            self._clock.follow(desired.task)

    async def _look_if_due(self) -> None:
        wants_look = await self._wants_look()
        if self._ends_leaving or wants_look:
            async with self._turns.looking:
                if await self._upkeep.has_leaving():
                    await self._upkeep.finish_leaving()
            self._ends_leaving = False
        if wants_look:
            async with self._turns.looking:
                await self._look()
            if not self._trouble.is_of_receiver:
                self._recover()

    def _is_due(self, desired: _Desired) -> bool:
        return desired.task is None and desired.try_at <= self._clock.monotonic()

    def _room(self) -> int:
        """Return how many webhooks may be established besides those that are now."""
        limit = 1 if self._trouble.failures else AT_ONCE
        return max(0, limit - sum(each.task is not None for each in self._desired.values()))

    def _pause(self) -> float:
        """Return for how many seconds there is nothing to do unless something changes."""
        now = self._clock.monotonic()
        moments = [now if self._ends_leaving else self._look_at]
        if self._room():
            moments += [each.try_at for each in self._pending() if each.task is None]
        return max(0.0, min(moments) - now, self._trouble.until - now)

    def _update_filters(self) -> None:
        """Have the filters changed of each webhook that is to have others by now."""
        if not self._has_stale_filters:
            return
        self._has_stale_filters = False
        for desired in self._desired.values():
            desired.is_stale = desired.task is not None
            if desired.established and desired.task is None:
                wanted, applied = self._filters_of(desired), desired.applied
                if isinstance(applied, EllipsisType) or not same_filters(applied, wanted):
                    desired.established = False

    def _filters_of(self, desired: _Desired) -> Filters:
        filters = desired.filters
        return self._filters_for(desired.resource) if isinstance(filters, EllipsisType) else filters

    async def _establish(self, desired: _Desired) -> None:
        """Establish one webhook, or note why it cannot be."""
        try:
            async with self._turns.establishing, self.lock(desired.resource):
                if self._desired.get(desired.resource) is not desired or desired.established:
                    return
                filters = self._filters_of(desired)
                desired.was_held = bool(await self._upkeep.routes(desired.resource))
                webhook = await self._upkeep.ensure(
                    desired.resource, filters=filters, timeout=desired.timeout
                )
                await self._note_established(desired, webhook, filters)
        except Exception as error:  # noqa: BLE001 - the others go on, and so does this one later
            self._fail(error, desired)
        finally:
            desired.task = None
            self._step()
            self.wake(has_stale_filters=desired.is_stale)

    async def _note_established(
        self, desired: _Desired, webhook: Webhook, filters: Filters
    ) -> None:
        routes = await self._upkeep.routes(desired.resource)
        route = next((each.id for each in routes if each.gid == webhook.gid), None)
        self._note_held(desired, webhook.gid, route, filters)

    def _note_held(self, desired: _Desired, gid: str, route: str | None, filters: Filters) -> None:
        desired.gid, desired.route, desired.applied = gid, route, filters
        desired.established, desired.is_fresh = True, False
        desired.failures, desired.cause, desired.said = 0, "", ""
        source = Source(webhook=gid, resource=desired.resource, account=self._everything.account)
        self._notices.over("unauthorized", source)
        self._recover()
        self._step()

    def _note_lost(self, desired: _Desired) -> None:
        desired.established, desired.try_at = False, -math.inf
        self._step()

    # A look at all that the store holds

    async def _wants_look(self) -> bool:
        fresh = [each for each in self._desired.values() if each.is_fresh and each.task is None]
        if self._clock.monotonic() >= self._look_at:
            return True
        if not fresh:
            return False
        held = {route.resource for route in await self._upkeep.routes()}
        known = [each for each in fresh if each.resource in held]
        if len(known) > ALONE:
            return True
        for desired in fresh:
            desired.is_fresh = False
        return False

    async def _look(self) -> None:
        """Compare what the store holds with what Asana lists, and what is wanted with both."""
        self._plan_look()
        routes = await self._upkeep.routes()
        await self._drop_what_was_deleted(routes)
        missing: list[Route] = []
        if routes:
            listed = await self._upkeep.list_webhooks()
            for route in routes:
                webhook = listed.webhooks.get(route.gid or "")
                if webhook is not None:
                    await self._upkeep.judge(route, webhook)
            owned = await self._upkeep.owned(routes)
            missing = [route for route in owned if self._upkeep.is_missing(route, listed)]
            await self._adopt(routes, listed.webhooks)
        for route in await self._upkeep.find_missing(missing):
            desired = self._desired.get(route.resource)
            if desired is not None and desired.gid in (None, route.gid):
                self._note_lost(desired)
        for desired in self._desired.values():
            desired.is_fresh = False

    def _plan_look(self) -> None:
        is_first = self._look_at <= self._started_at
        least = 0.0 if is_first and self._everything.account else 1 - JITTER  # so that they spread
        part = random.uniform(least, 1)  # noqa: S311 - jitter is no secret
        self._look_at = self._clock.monotonic() + self._interval * part

    async def _adopt(self, routes: Sequence[Route], webhooks: Mapping[str, Webhook]) -> None:
        """Take what the list shows for established, where it is as it is wanted."""
        seen: set[str] = set()
        for route in routes:
            desired, webhook = self._desired.get(route.resource), webhooks.get(route.gid or "")
            if desired is None or webhook is None or route.resource in seen:
                continue
            seen.add(route.resource)
            if desired.task is not None or self.lock(route.resource).locked():
                continue
            filters = self._filters_of(desired)
            is_well = webhook.active is not False and route.secret is not None
            if not (is_well and same_filters(webhook.filters, filters)):
                self._note_lost(desired)  # what it lacks it is given
                continue
            desired.was_held = True
            try:
                await self._upkeep.check_owner(route)
            except EstablishmentError as error:
                self._fail(error, desired)
            else:
                self._note_held(desired, webhook.gid, route.id, filters)

    async def _drop_what_was_deleted(self, routes: Sequence[Route]) -> None:
        """Leave what another process deleted on purpose: the store has no route of it any more."""
        held = {route.resource for route in routes}
        for desired in list(self._desired.values()):
            if desired.route is None or not desired.established or desired.resource in held:
                continue
            if await self._upkeep.is_being_made(desired.resource):
                continue
            if await self._upkeep.was_lost(desired.route):
                self._note_lost(desired)
            elif self._desired.get(desired.resource) is desired:
                text = "webhook %s of %s%s was deleted by another: it is looked after no longer"
                logger.warning(text, desired.gid, desired.resource, self._of_account)
                self._drop(desired)

    # What goes wrong

    def _fail(self, error: Exception, desired: _Desired | None = None) -> None:
        """Note a failure of one webhook, or of all, and when to try again."""
        now, cause = self._clock.monotonic(), _one_cause(error)
        is_quiet = self._is_quiet(error)
        if desired is not None:
            desired.established, desired.cause = False, cause
            desired.failures += 1
            desired.try_at = now + _pause_after(1 if is_quiet else desired.failures)
        if isinstance(error, ACCOUNTS):
            self._trouble.failures += 1
            self._trouble.until = now + _pause_after(1 if is_quiet else self._trouble.failures)
            if isinstance(error, RateLimitedError) and error.retry_after is not None:
                self._trouble.until = max(self._trouble.until, now + error.retry_after)
            self._trouble.cause = cause
            self._trouble.is_of_receiver = isinstance(error, HandshakeMissingError)
        self._say(error, cause, desired, quiet=is_quiet)
        self._step()

    def _say(self, error: Exception, cause: str, desired: _Desired | None, *, quiet: bool) -> None:
        """Say each cause once, until it is over."""
        if isinstance(error, AuthenticationError):
            self._notices.tell("unauthorized", self._everything, cause)
        elif isinstance(error, RateLimitedError):
            self._notices.tell("limited", self._everything, cause)
        whose = "the webhooks" if desired is None else f"the webhook of {desired.resource}"
        whose += self._of_account
        is_new = desired is not None and not desired.was_held
        what = f"{whose} could not be {'established' if is_new else 'looked after'}"
        if quiet or cause in (self._trouble.said, desired and desired.said):
            logger.debug("%s: %s", what, cause)
            return
        if desired is not None:
            desired.said = cause
        if desired is None or isinstance(error, ACCOUNTS):
            self._trouble.said = cause
        if isinstance(error, AsanaWebhooksError):
            logger.warning("%s: %s", what, cause)
        else:
            logger.error("%s", what, exc_info=error)

    def _is_quiet(self, error: Exception) -> bool:
        """Return whether a failure is to be expected while a server starts."""
        is_early = self._clock.monotonic() < self._started_at + QUIET
        is_missing = isinstance(error, HandshakeMissingError) and not error.seen
        return is_early and is_missing and not self._was_reached()

    def _recover(self) -> None:
        """Note that Asana can be reached, and reaches us."""
        self._trouble = _Trouble()
        self._notices.over("limited", self._everything)
        self._notices.over("unauthorized", self._everything)


def _override(desired: _Desired, filters: Filters) -> None:
    """Have the filters of ``ensure`` in the place of those of ``keep``, and say so."""
    kept = desired.filters
    if desired.is_kept and (isinstance(kept, EllipsisType) or not same_filters(kept, filters)):
        were = "followed the handlers" if isinstance(kept, EllipsisType) else "were others"
        now = "those of ensure" if filters else "none, which is every event"
        text = "ensure overrides keep of %s: its filters %s, and are from now on %s"
        logger.warning(text, desired.resource, were, now)
    desired.filters, desired.is_kept = filters, False


def _one_cause(error: Exception) -> str:
    return str(error) or type(error).__name__


def _pause_after(failures: int) -> float:
    """Return for how many seconds to wait after so many failures in a row."""
    pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), LONGEST_PAUSE)
    return pause * random.uniform(1 - JITTER, 1)  # noqa: S311 - jitter is no secret
