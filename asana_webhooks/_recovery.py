"""The stream of one scope: begun, read, judged, and what is missing put into the inbox.

One process reads a scope at a time: it says so in the store's state of the scope, which is kept
after each page, before the next one is asked for. Nothing is kept by one who read from a state that
is no longer there. What is missing is put together with the state in which it was found.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from ._attempt import Attempt
from ._clock import Clock
from ._continuity import Judgement, Known, Pending, Tally, Watch, gap_of, parts_of
from ._ledger import keep, load
from ._logging import ThrottledLogger
from ._remembered import pack
from ._stream import Part, Stream
from .api import WebhooksApi
from .errors import (
    ApiError,
    AuthenticationError,
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
    StoreError,
)
from .models import Delivery, Event, Progress, Route, Source, WebhookFilter
from .notices import Notices, source_of
from .stores import Store

__all__ = ["EVERYBODYS", "Recovery", "was_deleted"]

READING = timedelta(seconds=60)
"""For how long a reader says that it reads; one that was killed is replaced after it."""

TRIES = 5
"""How often a page is compared anew because somebody else changed the state meanwhile."""

BODY = 100
"""How many events a delivery of what is recovered holds at most."""

PEEK = 1_000
"""How many deliveries that wait are asked for at once."""

EVERYBODYS = (
    *(AuthenticationError, ConnectionFailedError, RateLimitedError, ServerError, StoreError),
)
"""Errors that have another cause than one resource."""

_UNKNOWN = Source(webhook="", resource="")

logger = logging.getLogger(__name__)


class Recovery:
    """Begins, reads and judges scopes, each in one task at a time.

    ``api_of`` returns the calls of an account. ``arrived`` is called when something was put into
    the inbox, ``recovered`` with how many events. ``tallies`` are by scope what is not kept in the
    store yet. Every call raises StoreError, and those that ask Asana what a call raises.
    """

    def __init__(
        self,
        api_of: Callable[[str], WebhooksApi],
        store: Store,
        notices: Notices,
        clock: Clock,
        *,
        arrived: Callable[[], None],
        recovered: Callable[[int], None],
    ) -> None:
        self.reader = secrets.token_hex(8)
        self.tallies: dict[str, Tally] = {}
        self._api_of = api_of
        self._now = api_of("").asana_now
        self._stream_log = ThrottledLogger(logger)
        self._store = store
        self._notices = notices
        self._clock = clock
        self._arrived = arrived
        self._recovered = recovered

    def _stream_of(self, route: Route) -> Stream:
        return Stream(self._api_of(route.account), self._clock, self._stream_log)

    # Beginning

    async def begin(self, scope: str, route: Route) -> None:
        """Take the first token for a webhook that is about to be made, unless one is there."""
        watch, version = await load(self._store, scope)
        if watch.cursor and watch.routes and not await was_deleted(self._store, watch):
            return
        begun = await self._begun(watch.ended() if watch.routes else watch, route)
        if begun is not None:
            await keep(self._store, scope, version, begun)

    async def _begun(self, watch: Watch, route: Route) -> Watch | None:
        """Return a watch with a first token, or without a stream; None to ask again later."""
        at = self._now()
        try:
            sync = await self._stream_of(route).first_token(route.resource)
        except EVERYBODYS:
            raise
        except ApiError as error:
            return watch.without_stream(str(error))
        return watch.begun(sync, at).filtered(route.filters, at, since=None) if sync else None

    async def prepare(
        self,
        scope: str,
        routes: Sequence[Route],
        *,
        filtered_at: datetime | None,
        sync_error: str | None,
    ) -> tuple[Watch, bool] | None:
        """Keep what is known by now of the webhooks of a scope, and begin if need be.

        Their filters are what they are since ``filtered_at``, None: since the last reading or
        later. ``sync_error`` is Asana's word that it could not keep up. Returns the watch, and
        whether its webhook came in another's place; None when somebody else has changed it.
        """
        before, version = await load(self._store, scope)
        watch, now, route = before, self._now(), routes[-1]
        is_new = route.id not in watch.routes
        if is_new and watch.routes and await was_deleted(self._store, watch):
            watch = watch.ended()
        if watch.first_at is not None:
            since = filtered_at or watch.proven_at
            watch = watch.filtered(_all_filters(routes), now, since=since)
        watch = watch.read_for([route.id for route in routes])
        if watch.first_at is None and not watch.refused:
            watch = await self._begun(watch, route) or watch
        if sync_error is not None and not watch.is_read:
            start = min(route.heartbeat_at or route.confirmed_at or now, now)
            detail = f"Asana could not keep up, and has no stream of the resource: {sync_error}"
            watch = watch.with_gap("sync_error", start, now, detail)
        if watch != before:
            if not await self._keep_counted(scope, version, watch):
                return None
            self._tell_gaps(before, watch, source_of(route))
        return watch, is_new and bool(before.routes)

    # Reading

    async def read(self, scope: str, route: Route) -> int:
        """Read a stream to its end, and recover what is missing; return how much.

        Nothing, while somebody else reads it.
        """
        watch, version = await load(self._store, scope)
        began_at = self._now()
        if watch.is_read_by_another(self.reader, began_at):
            return 0
        watch = replace(watch, reader=self.reader, reading_until=began_at + READING)
        if not await keep(self._store, scope, version, watch):
            return 0
        recovered, is_first = 0, True
        try:
            while True:
                part = await self._stream_of(route).read(
                    route.resource,
                    watch.cursor,
                    watch.cursor_at or began_at,
                    began_at=began_at,
                    is_first=is_first,
                )
                count, kept = await self._keep_part(scope, route, part)
                recovered += count
                if kept is None or not kept.reader:
                    return recovered
                watch, is_first = kept, False
        except EVERYBODYS:
            raise
        except ApiError as error:
            await self._note_refusal(scope, route, error)
            return recovered

    async def _keep_part(self, scope: str, route: Route, part: Part) -> tuple[int, Watch | None]:
        """Keep what was read, and at the end recover what is missing, as a whole.

        Returns how much was recovered, and the watch as it is kept, which is without a reader when
        this was the end; None when somebody else reads.
        """
        for _ in range(TRIES):
            before, version = await load(self._store, scope)
            if before.reader != self.reader or before.cursor != part.cursor:
                return 0, None
            judgement = Judgement(_after(before, part), ())
            if part.is_end or judgement.watch.is_full:
                judgement = await self._judge(scope, judgement.watch, part.now)
            watch = judgement.watch
            if watch.disagrees:  # then nothing of what was read counts
                watch = replace(before, gaps=watch.gaps)
            goes_on = not (part.is_end or watch.is_full or watch.disagrees)
            watch = replace(
                watch,
                reader=self.reader if goes_on else "",
                reading_until=self._now() + READING if goes_on else None,
            )
            kept = await self._put(scope, route, version, before, watch, judgement.missing)
            if kept is not None:
                return len(judgement.missing), kept
        return 0, None

    async def _note_refusal(self, scope: str, route: Route, error: ApiError) -> None:
        """Note that Asana no longer gives a stream that it gave before."""
        before, version = await load(self._store, scope)
        if before.reader != self.reader:
            return
        start = before.cursor_at or self._now()
        watch = before.with_gap("refused", start, None, f"Asana refuses the events stream: {error}")
        watch = replace(watch, reader="", reading_until=None)
        if await keep(self._store, scope, version, watch):
            self._tell_gaps(before, watch, source_of(route))

    # Judging

    async def judge(self, scope: str, route: Route) -> int:
        """Judge what was read before and is ten minutes old by now; return what was recovered."""
        for _ in range(TRIES):
            before, version = await load(self._store, scope)
            now = self._now()
            if before.is_read_by_another(self.reader, now):
                return 0
            watch, missing = await self._judge(scope, before, now)
            if await self._put(scope, route, version, before, watch, missing):
                return len(missing)
        return 0

    async def _judge(self, scope: str, watch: Watch, now: datetime) -> Judgement:
        """Judge what was read by what is remembered, and if that does not do by what waits too.

        What waits is looked at first then: what is settled meanwhile is remembered.
        """
        if not any(each.body for each in watch.pending):
            return watch.judge(Known(b""), now)
        judgement = watch.judge(Known(await self._store.remembered(scope)), now)
        if not judgement.missing and judgement.watch.alike == watch.alike:
            return judgement
        waiting = await self._waiting(scope, watch)
        return watch.judge(Known(await self._store.remembered(scope) + waiting), now)

    async def _waiting(self, scope: str, watch: Watch) -> bytes:
        """Return the events that wait in the inbox, as they will be remembered."""
        account, resource = parts_of(scope)
        listed = await self._store.list_routes(resource)
        routes = {route.id for route in listed if route.account == account} | {*watch.routes}
        packed = bytearray()
        for route in routes:
            after = ""
            while page := await self._store.peek(route, after=after, limit=PEEK):
                after = page[-1].id
                for delivery in page:
                    attempt = Attempt(delivery, _UNKNOWN)
                    events = (item for item in attempt.items if isinstance(item, Event))
                    packed += b"".join(pack(event, attempt.came) for event in events)
        return bytes(packed)

    # Keeping

    async def _put(
        self,
        scope: str,
        route: Route,
        version: int,
        before: Watch,
        watch: Watch,
        missing: Sequence[Pending],
    ) -> Watch | None:
        """Keep a watch together with what is missing; None when somebody has changed it."""
        counted, tally = self._counted(scope, watch)
        progress = Progress(via="stream", fresh="exact" if watch.is_in_accord else "near")
        deliveries = _deliveries(missing, route.id, progress.encode(), self._clock.now())
        if not await keep(self._store, scope, version, counted, deliveries):
            return None
        self._take_off(scope, tally)
        if deliveries:
            text = "%d events of resource %s were recovered from its events stream"
            logger.info(text, len(missing), route.resource)
            self._recovered(len(missing))
            self._arrived()
        self._tell_gaps(before, counted, source_of(route))
        return counted

    async def keep_tally(self, scope: str) -> None:
        """Keep what was counted of the deliveries of a scope, if anything was."""
        if self.tallies.get(scope):
            watch, version = await load(self._store, scope)
            await self._keep_counted(scope, version, watch)

    async def _keep_counted(self, scope: str, version: int, watch: Watch) -> bool:
        counted, tally = self._counted(scope, watch)
        kept = await keep(self._store, scope, version, counted)
        if kept:
            self._take_off(scope, tally)
        return kept

    def _counted(self, scope: str, watch: Watch) -> tuple[Watch, Tally]:
        tally = self.tallies.get(scope, Tally())
        seen = Tally(late=tally.late, latency=dict(tally.latency))
        return (watch.counted(seen) if seen else watch), seen

    def _take_off(self, scope: str, kept: Tally) -> None:
        """Count no longer what is kept by now; deliveries may have come meanwhile."""
        tally = self.tallies.get(scope)
        if tally is not None:
            tally.take_off(kept)
            if not tally:
                del self.tallies[scope]

    def _tell_gaps(self, before: Watch, after: Watch, source: Source) -> None:
        for gap in after.gaps:
            if gap not in before.gaps:
                told = gap_of(gap, source)
                detail = f"{told.detail} (gap {told.id})"
                self._notices.tell("gap", source, detail, start=told.start, end=told.end)


async def was_deleted(store: Store, watch: Watch) -> bool:
    """Return whether the webhook that a scope was read for last was deleted on purpose."""
    route = await store.get_route(watch.routes[-1])
    return route is not None and route.retired_as == "deleted"


def _all_filters(routes: Sequence[Route]) -> tuple[WebhookFilter, ...] | None:
    """Return the filters of all webhooks of a scope; None when one of them lets all pass."""
    if any(not route.filters for route in routes):
        return None
    filters: list[WebhookFilter] = []
    for each in itertools.chain.from_iterable(route.filters or () for route in routes):
        filters += [] if each in filters else [each]
    return tuple(filters)


def _after(before: Watch, part: Part) -> Watch:
    """Return a watch after what was read."""
    watch = before.read(part.events, part.sync, part.at)
    if part.odd:
        detail = f"{part.odd} events of the stream are of no shape that can be read"
        watch = watch.with_gap("unreadable", before.cursor_at or part.at, part.now, detail)
    if part.stale:
        return watch.expired(part.sync, part.now, f"the events stream has a gap: {part.stale}")
    return watch.complete(part.began_at) if part.is_end else watch


def _deliveries(
    missing: Sequence[Pending], route: str, progress: str, received_at: datetime
) -> list[Delivery]:
    """Return what is missing as deliveries, in the order of the stream."""
    deliveries = []
    for start in range(0, len(missing), BODY):
        bodies = (each.body.encode() for each in missing[start : start + BODY])
        body = b'{"events":[%b]}' % b",".join(bodies)
        digest = hashlib.blake2b(body, digest_size=32).digest()
        deliveries.append(
            Delivery(
                route=route, body=body, digest=digest, received_at=received_at, progress=progress
            )
        )
    return deliveries
