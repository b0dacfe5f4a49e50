"""The evidence of Asana's events stream for a webhook: decisions, without any I/O.

For one scope, a resource that is watched for one account, a ``Watch`` says how far its stream was
read, what of it waits to be judged, which gaps are open, and what was counted. It is the text that
a store keeps of the scope; each decision returns another one.

An event of the stream is judged when it is ten minutes old: until then its delivery may be under
way. It was delivered if its key is known. Whether a webhook and the stream tell one change with the
same time, parent and values is not documented; so where no key fits, a delivered event that fits no
other event of the stream is its twin if it is nearly equal, within a minute, one for one. What has
neither is missing. Where most of what has no key has a twin, the two do not agree: then nothing is
concluded from the stream any more.

Source: https://developers.asana.com/reference/getevents
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

import msgspec
from msgspec.structs import replace

from ._remembered import NEAR, Came, Entry, pack, unpack
from .errors import DecodeError
from .models import (
    Continuity,
    Event,
    Gap,
    GapReason,
    Latency,
    Source,
    WebhookFilter,
    read_event,
)

__all__ = [
    "YOUNG",
    "Judgement",
    "Known",
    "Pending",
    "Tally",
    "Watch",
    "continuity_of",
    "gap_of",
    "parts_of",
    "passes",
    "scope_of",
]

YOUNG = timedelta(minutes=10)
"""An event that is younger is not judged: its delivery may be under way."""

FEW = 20
"""From fewer events without a key it is not concluded that stream and webhook do not agree."""

REMEMBERED = timedelta(hours=25)
"""For how long former filters are known: no event of a stream is older."""

BLURRED = timedelta(seconds=10)
"""Around a change of filters an event passes if it passes those of before or of after."""

MAX_PENDING = 512 * 1024
"""Bytes of bodies that wait to be judged, beyond which the stream is not read on."""

MAX_GAPS = 100
"""How many gaps of a scope are kept apart; the oldest two are made one then."""

MAX_ROUTES = 5
"""How many routes of a scope are known, so that what waits for them is."""

STEPS = 4
"""How many steps a latency's histogram has from one second to two, from two to four, and so on."""

MAX_SAMPLES = 100_000
"""How many latencies are counted before all counts are halved, so that the latest count more."""


class Period(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The filters that webhooks of a scope had from ``start`` to ``end``; None: every event."""

    filters: tuple[WebhookFilter, ...] | None = None
    start: datetime
    end: datetime | None = None

    def covers(self, at: datetime) -> bool:
        """Return whether an event of this time may have met these filters."""
        is_over = self.end is not None and at >= self.end + BLURRED
        return at > self.start - BLURRED and not is_over


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """An event of the stream that waits to be judged, as it is remembered.

    ``body`` is its JSON as a webhook would have it; it is empty once it is known to be delivered.
    Then it says only that a delivered event is spoken for.
    """

    packed: bytes
    body: str = ""

    @property
    def entry(self) -> Entry:
        """The entry by which it will be remembered."""
        (entry,) = unpack(self.packed)
        return entry


class OpenGap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gap as it is kept; ``end`` is None while it goes on."""

    id: str
    start: datetime
    end: datetime | None = None
    reason: GapReason
    detail: str


class Tally(msgspec.Struct, kw_only=True):
    """The deliveries that one process has seen since it said so last.

    ``late`` is how many events were delivered after they were taken from the stream; ``latency`` a
    histogram of the seconds from change to receipt.
    """

    late: int = 0
    latency: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self.late or self.latency)

    def add(self, seconds: float) -> None:
        """Count a delivery that came so many seconds after its change."""
        step = round(STEPS * math.log2(max(seconds, 0.01)))
        self.latency[step] = self.latency.get(step, 0) + 1

    def take_off(self, kept: Tally) -> None:
        """Count no longer what is kept elsewhere."""
        self.late -= kept.late
        for step, count in kept.latency.items():
            self.latency[step] -= count
            if not self.latency[step]:
                del self.latency[step]


class Watch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The continuity of one scope.

    ``routes`` are the ids of the routes that it is and was read for, the newest last. ``cursor`` is
    the sync token from which the stream is read on, empty while there is none; all before
    ``cursor_at`` was read. ``first_at`` is when the first token was taken, ``proven_at`` when the
    last complete reading began. ``refused`` says why Asana has no stream of the resource. ``seen``
    events of the stream passed the filters, ``recovered`` of them were put into the inbox, and
    ``late`` of those were delivered after all; ``agreed`` had the key of a delivered one, ``alike``
    a twin. ``reader`` reads until ``reading_until``.
    """

    routes: tuple[str, ...] = ()
    cursor: str = ""
    cursor_at: datetime | None = None
    first_at: datetime | None = None
    proven_at: datetime | None = None
    refused: str = ""
    periods: tuple[Period, ...] = ()
    pending: tuple[Pending, ...] = ()
    gaps: tuple[OpenGap, ...] = ()
    seen: int = 0
    recovered: int = 0
    late: int = 0
    agreed: int = 0
    alike: int = 0
    latency: dict[int, int] = {}
    reader: str = ""
    reading_until: datetime | None = None

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return what a text of ``encode`` says. Raises DecodeError when it is damaged."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, ValueError) as error:
            msg = f"not the continuity of a resource: {error}"
            raise DecodeError(msg) from None

    def encode(self) -> str:
        """Return it as a text."""
        return msgspec.json.encode(self).decode()

    # What it says

    @property
    def is_read(self) -> bool:
        """Whether the stream is read for it: there is one, and it agrees with the webhook."""
        return not self.refused and not self.disagrees

    @property
    def is_readable(self) -> bool:
        """Whether there is a place to read on from, and room for what comes."""
        return self.is_read and self.cursor != "" and not self.is_full

    @property
    def disagrees(self) -> bool:
        """Whether it was concluded that stream and webhook do not agree."""
        return any(gap.reason == "disagreement" for gap in self.gaps)

    @property
    def is_refused(self) -> bool:
        """Whether Asana no longer gives a stream that it gave before."""
        return any(gap.reason == "refused" and gap.end is None for gap in self.gaps)

    @property
    def proven_until(self) -> datetime | None:
        """Until when all that passed the filters is received, but for the gaps."""
        if self.first_at is None or self.proven_at is None:
            return None
        return max(self.first_at, self.proven_at - YOUNG)

    @property
    def judged_at(self) -> datetime | None:
        """When all that waits can be judged; None when nothing waits."""
        waiting = [each.entry.at for each in self.pending if each.body]
        return None if not waiting else _time(max(waiting)) + YOUNG

    @property
    def is_full(self) -> bool:
        """Whether so much waits that the stream is not to be read on."""
        return sum(len(each.body) for each in self.pending) >= MAX_PENDING

    def is_read_by_another(self, reader: str, now: datetime) -> bool:
        """Return whether somebody else reads it now."""
        until = self.reading_until
        return until is not None and self.reader != reader and now < until

    # Beginning and end

    def begun(self, cursor: str, at: datetime) -> Watch:
        """Return it with the first token, which was taken at this time."""
        return replace(
            self, cursor=cursor, cursor_at=at, first_at=at, proven_at=at, refused="", pending=()
        )

    def ended(self) -> Watch:
        """Return it without a stream to be read: the webhook was deleted on purpose."""
        return Watch(gaps=self.gaps)

    def without_stream(self, refusal: str) -> Watch:
        """Return it for a resource of which Asana has no stream."""
        return replace(self, refused=refusal, cursor="", cursor_at=None)

    def read_for(self, routes: Sequence[str]) -> Watch:
        """Return it as that of the webhooks of these routes too, the newest last."""
        if set(routes) <= set(self.routes):
            return self
        older = [route for route in self.routes if route not in routes]
        return replace(self, routes=tuple([*older, *routes][-MAX_ROUTES:]))

    # Filters

    def filtered(
        self, filters: Sequence[WebhookFilter] | None, at: datetime, *, since: datetime | None
    ) -> Watch:
        """Return it with the filters that its webhooks have at this time.

        Other ones may have been there until then; ``since`` is from when on these may be.
        """
        wanted = None if not filters else tuple(filters)
        last = self.periods[-1] if self.periods else None
        if last is not None and last.filters == wanted:
            return self
        kept = [each for each in self.periods[:-1] if each.end and each.end > at - REMEMBERED]
        if last is not None:
            kept.append(replace(last, end=at))
        return replace(self, periods=(*kept, Period(filters=wanted, start=since or at)))

    def lets_pass(self, event: Event) -> bool:
        """Return whether an event passed the filters of its time; without any, it did."""
        periods = [each for each in self.periods if each.covers(event.created_at)]
        return not self.periods or any(passes(event, each.filters) for each in periods)

    # Reading

    def read(self, events: Iterable[Event], cursor: str, at: datetime) -> Watch:
        """Return it after these events, which lie before the cursor; ``at`` is its time."""
        passed = [event for event in events if self.lets_pass(event)]
        known = {each.entry.key for each in self.pending}
        fresh = {pack(event): event for event in passed}
        pending = [
            Pending(packed, event.raw.decode())
            for packed, event in fresh.items()
            if next(unpack(packed)).key not in known
        ]
        return replace(
            self,
            cursor=cursor,
            cursor_at=at,
            pending=(*self.pending, *pending),
            seen=self.seen + len(pending),
        )

    def complete(self, at: datetime) -> Watch:
        """Return it after a reading to the end of the stream, which began at this time."""
        watch = replace(self, proven_at=at)
        for gap in self.gaps:
            if gap.end is None and gap.reason == "refused":
                watch = watch._with_end(gap, at)
        return watch

    def expired(self, cursor: str, at: datetime, detail: str) -> Watch:
        """Return it with a new token in place of the one that Asana no longer takes.

        What lies between its place in the stream and now is a gap.
        """
        start = self.cursor_at or at
        gapped = self.with_gap("expired", start, at, detail)
        return replace(gapped, cursor=cursor, cursor_at=at, proven_at=at)

    # Judging

    def judge(self, known: Known, now: datetime) -> Judgement:
        """Return what is missing of what is ten minutes old, and the watch without it."""
        pending = tuple(
            replace(each, body="") if each.body and each.entry.key in known.keys else each
            for each in self.pending
        )
        agreed = _waiting(self.pending) - _waiting(pending)
        twins = _twins(pending, known)
        matched = {stream.key: delivered for stream, delivered in twins}
        horizon = now - YOUNG
        ripe = [each for each in pending if each.body and _time(each.entry.at) <= horizon]
        missing = [each for each in ripe if each.entry.key not in matched]
        alike = len(ripe) - len(missing)
        if len(ripe) >= FEW and 2 * alike > len(ripe) and alike > agreed + self.agreed:
            pair = next((each, matched[each.entry.key]) for each in ripe if each not in missing)
            return self._disagreeing(pair, now)
        watch = replace(
            self,
            pending=_still_pending(pending, matched, horizon),
            recovered=self.recovered + len(missing),
            agreed=self.agreed + agreed,
            alike=self.alike + len(matched),
        )
        return Judgement(watch, tuple(missing))

    @property
    def is_in_accord(self) -> bool:
        """Whether the stream was seen to tell of changes what webhooks tell, and nothing else."""
        return self.agreed > 0 and not self.alike

    def _disagreeing(self, pair: tuple[Pending, Entry], now: datetime) -> Judgement:
        streamed, delivered = pair
        event = read_event(streamed.body.encode(), received_at=now)
        parent = f", parent {event.parent.gid}" if event.parent else ""
        at = f"{_time(delivered.at):%Y-%m-%d %H:%M:%S.%f}"
        detail = (
            "the events stream does not tell what the webhook delivers, so it proves nothing: the"
            f" stream has {event.action} {(event.change and event.change.field) or ''} of"
            f" {event.resource.resource_type} {event.resource.gid}{parent} at"
            f" {event.created_at:%Y-%m-%d %H:%M:%S.%f}, key {event.key}; the webhook delivered the"
            f" same of it at {at}, key {delivered.key.hex()}"
        )
        start = self.proven_until or now
        return Judgement(self.with_gap("disagreement", start, None, " ".join(detail.split())), ())

    # Gaps

    def with_gap(
        self, reason: GapReason, start: datetime, end: datetime | None, detail: str
    ) -> Watch:
        """Return it with one more gap, or a longer one where it goes on from the last."""
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.reason == reason and (last.end is None or start <= last.end):
            return replace(self, gaps=(*self.gaps[:-1], replace(last, end=end, detail=detail)))
        gap = OpenGap(id=secrets.token_hex(4), start=start, end=end, reason=reason, detail=detail)
        gaps = (*self.gaps, gap)
        if len(gaps) > MAX_GAPS:
            first, second, *rest = gaps
            gaps = (replace(second, start=min(first.start, second.start)), *rest)
        return replace(self, gaps=gaps)

    def without_gap(self, id_: str) -> Watch:
        """Return it without the gap that has this id."""
        return replace(self, gaps=tuple(gap for gap in self.gaps if gap.id != id_))

    def _with_end(self, gap: OpenGap, at: datetime) -> Watch:
        ended = (replace(each, end=at) if each is gap else each for each in self.gaps)
        return replace(self, gaps=tuple(ended))

    # The ledger

    def counted(self, tally: Tally) -> Watch:
        """Return it with what a process has seen of deliveries."""
        latency = dict(self.latency)
        for step, count in tally.latency.items():
            latency[step] = latency.get(step, 0) + count
        if sum(latency.values()) > MAX_SAMPLES:
            latency = {step: count // 2 for step, count in latency.items() if count > 1}
        return replace(self, late=self.late + tally.late, latency=latency)


class Judgement(NamedTuple):
    """The watch from now on, and what is to be put into the inbox."""

    watch: Watch
    missing: tuple[Pending, ...]


class Known:
    """The events that are known, delivered or taken from the stream, as they are remembered."""

    def __init__(self, packed: bytes) -> None:
        self.entries = {entry.key: entry for entry in unpack(packed)}
        self.keys = self.entries.keys()


def _waiting(pending: Iterable[Pending]) -> int:
    return sum(1 for each in pending if each.body)


def _twins(pending: Sequence[Pending], known: Known) -> list[tuple[Entry, Entry]]:
    """Return each event of the stream that has a twin, and that; the nearest in time first."""
    waiting = [each.entry for each in pending if each.body]
    if not waiting:
        return []
    spoken_for = {each.entry.key for each in pending}
    alike: dict[bytes, list[Entry]] = defaultdict(list)
    wanted = {entry.near for entry in waiting}
    for entry in known.entries.values():
        is_free = entry.came == Came.DELIVERED and entry.key not in spoken_for
        if entry.near in wanted and is_free:
            alike[entry.near].append(entry)
    limit = NEAR // timedelta(microseconds=1)
    pairs = [
        (abs(delivered.at - entry.at), entry, delivered)
        for entry in waiting
        for delivered in alike.get(entry.near, ())
        if abs(delivered.at - entry.at) <= limit
    ]
    twins: list[tuple[Entry, Entry]] = []
    used: set[bytes] = set()
    for _, entry, delivered in sorted(pairs, key=lambda pair: pair[0]):
        if used.isdisjoint((entry.key, delivered.key)):
            used |= {entry.key, delivered.key}
            twins.append((entry, delivered))
    return twins


def _still_pending(
    pending: Iterable[Pending], matched: dict[bytes, Entry], horizon: datetime
) -> tuple[Pending, ...]:
    """Return what is still to be judged, and what is spoken for near to it in time."""
    kept: list[Pending] = []
    for each in pending:
        twin = matched.get(each.entry.key)
        at = _time(each.entry.at)
        if each.body and twin is None:
            kept += [each] if at > horizon else []
        elif at > horizon - 2 * NEAR:
            kept.append(replace(each, body=""))
            kept += [] if twin is None else [Pending(twin.packed())]
    return tuple(kept)


def passes(event: Event, filters: Sequence[WebhookFilter] | None) -> bool:
    """Return whether an event passes any of the filters, by Asana's rules; none lets all pass.

    A subtype that the event does not tell may be the right one.

    Source: https://developers.asana.com/docs/webhooks-guide#filters
    """
    return not filters or any(_fits(event, each) for each in filters)


def _fits(event: Event, wanted: WebhookFilter) -> bool:
    resource, change = event.resource, event.change
    return (
        wanted.resource_type in (None, resource.resource_type)
        and (
            resource.resource_subtype is None
            or wanted.resource_subtype in (None, resource.resource_subtype)
        )
        and wanted.action in (None, event.action)
        and (not wanted.fields or (change is not None and change.field in wanted.fields))
    )


# What is told of it


def scope_of(account: str, resource: str) -> str:
    """Return the name of a scope."""
    return f"{account}/{resource}"


def is_stream(scope: str) -> bool:
    """Return whether a state of this scope is a watch: that of a resource."""
    return parts_of(scope)[1].isdecimal()


def parts_of(scope: str) -> tuple[str, str]:
    """Return the account and the resource of a scope."""
    account, _, resource = scope.rpartition("/")
    return account, resource


def gap_of(gap: OpenGap, source: Source) -> Gap:
    """Return a gap as it is told to a program."""
    return Gap(
        id=gap.id,
        source=source,
        start=gap.start,
        end=gap.end,
        reason=gap.reason,
        detail=gap.detail,
    )


def continuity_of(watch: Watch, source: Source) -> Continuity:
    """Return what a program is told of a scope."""
    return Continuity(
        source=source,
        evidence="stream" if watch.is_read and watch.first_at is not None else "heartbeats",
        proven_until=watch.proven_until if watch.is_read else None,
        gaps=tuple(gap_of(gap, source) for gap in watch.gaps),
        seen=watch.seen,
        recovered=watch.recovered,
        dropped=max(0, watch.recovered - watch.late),
        latency=_latency(watch.latency),
    )


def _latency(histogram: dict[int, int]) -> Latency | None:
    count = sum(histogram.values())
    if not count:
        return None
    return Latency(count=count, median=_quantile(histogram, 0.5), p99=_quantile(histogram, 0.99))


def _quantile(histogram: dict[int, int], part: float) -> float:
    """Return the seconds within which this part of the deliveries came, to a fifth of them."""
    left = math.ceil(part * sum(histogram.values()))
    within = itertools.accumulate(histogram[step] for step in sorted(histogram))
    step = next(
        step for step, count in zip(sorted(histogram), within, strict=True) if count >= left
    )
    return round(float(2.0 ** (step / STEPS)), 2)


def _time(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
