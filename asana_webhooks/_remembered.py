"""The events that came to their end in the last two days, by which repeats of them are known.

They belong to a scope: one resource that is watched for one account, by whichever webhook. A
remembered event has 32 bytes: 16 of its key; 8 of a digest of its action, its resource and its
field, by which one that is only nearly equal can be found; 8 of a number, signed and big-endian,
which is four times the microseconds from 1970 to its creation, and how it came.

Whether a webhook and the events stream tell one change with the same time, parent and values is not
documented. So what is delivered after all, when it was taken from the stream before, is known by
its key; and where the two were not seen to agree, as a twin: nearly equal, within a minute, one for
one.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from datetime import timedelta
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec

from .models import Claim, Event, digest_at
from .stores import DUPLICATES_KNOWN_FOR

__all__ = [
    "KEY_SIZE",
    "NEAR",
    "Came",
    "Entry",
    "Remembered",
    "Scope",
    "Sight",
    "came_afterwards",
    "pack",
    "unpack",
]

KEY_SIZE = 16

NEAR = timedelta(minutes=1)
"""By how much the times of twins may differ."""

OVERLAP = timedelta(minutes=1)
"""How much of what was read of a scope is read again: the store's wall clock may be set."""

MAX_SCOPES = 10_000
"""How many scopes are kept in memory; the one that was used longest ago is forgotten."""

MAX_KEYS = 1_000_000
"""How many keys are kept in memory of scopes that are not in use, in some 100 MB."""

_KNOWN_FOR = DUPLICATES_KNOWN_FOR.total_seconds()
_NEAR = NEAR // timedelta(microseconds=1)
_entry = struct.Struct(">16s8sq")
_DELIVERED = bytes(range(0, 256, 4))
"""The last bytes of entries of what was delivered."""

_encode = msgspec.json.Encoder().encode
_new_near = blake2b(digest_size=8).copy  # a copy is quicker than another one


class Came:
    """The ways in which an event comes: plain numbers, for they are asked for with each event.

    It is delivered; or from the stream, which is ``DOUBTFUL`` where it was not seen to agree with
    what is delivered; or delivered after the stream told it.
    """

    DELIVERED = 0
    STREAMED = 1
    DOUBTFUL = 2
    AFTERWARDS = 3


class Entry(NamedTuple):
    """A remembered event; ``at`` is in microseconds since 1970."""

    key: bytes
    near: bytes
    at: int
    came: int

    def packed(self) -> bytes:
        """Return it as it is stored."""
        return _entry.pack(self.key, self.near, 4 * self.at + self.came)


def pack(event: Event, came: int = Came.DELIVERED) -> bytes:
    """Return an event as it is remembered; its key is in the first ``KEY_SIZE`` bytes."""
    change, created_at = event.change, event.created_at.timestamp()
    common = (event.action, event.resource.gid, None if change is None else change.field)
    near = _new_near()
    near.update(_encode(common))
    at = round(created_at * 1e6)
    return _entry.pack(digest_at(event, created_at), near.digest(), 4 * at + came)


def came_afterwards(packed: bytes) -> bytes:
    """Return a delivered event as one that the stream has told before."""
    (entry,) = unpack(packed)
    return entry._replace(came=Came.AFTERWARDS).packed()


def unpack(packed: bytes) -> Iterator[Entry]:
    """Yield the entries of what was packed; of what was cut off there is none."""
    whole = len(packed) - len(packed) % _entry.size
    for key, digest, number in _entry.iter_unpack(packed[:whole]):
        yield Entry(key, digest, number >> 2, number & 3)


class Sight(Enum):
    """The answer to whether an event was seen before."""

    NEW = "new"
    KNOWN = "known"
    AFTERWARDS = "afterwards"


class _Awaited:
    """The events that were taken from the stream and were not delivered by now."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self._doubtful: dict[bytes, dict[bytes, Entry]] = {}  # by what twins have in common, by key

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry
        if entry.came == Came.DOUBTFUL:
            self._doubtful.setdefault(entry.near, {})[entry.key] = entry

    def drop(self, key: bytes) -> bool:
        """Return whether it was there."""
        entry = self.entries.pop(key, None)
        if entry is not None and entry.came == Came.DOUBTFUL:
            twins = self._doubtful[entry.near]
            del twins[key]
            if not twins:
                del self._doubtful[entry.near]
        return entry is not None

    def meet(self, entry: Entry) -> bytes | None:
        """Return the key of what this is, delivered afterwards; it is waited for no longer."""
        if self.drop(entry.key):
            return entry.key
        twins = self._doubtful.get(entry.near, {}).values()
        twin = min(twins, key=lambda each: abs(each.at - entry.at), default=None)
        if twin is None or abs(twin.at - entry.at) > _NEAR:
            return None
        self.drop(twin.key)
        return twin.key

    def keep(self, keys: Collection[bytes]) -> None:
        """Wait for these alone."""
        for key in [key for key in self.entries if key not in keys]:
            self.drop(key)


class Scope:
    """The keys that are known of one scope, and those of events that are in hand here.

    A key is known for at least two days from when it was learnt here, and at most for four.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.fences: dict[str, int] = {}
        """The newest claim here of each route, while nothing can have been missed since."""
        self.read_at: float | None = None
        """When all that was settled by then was known here; None while nothing is."""
        self.users = 0
        self._clock = clock
        self._since = clock()
        self._keys: set[bytes] = set()
        self._older: set[bytes] = set()
        self._in_hand: dict[bytes, Claim] = {}
        self._awaited = _Awaited()

    def __len__(self) -> int:
        return len(self._keys) + len(self._older)

    def take(self, packed: bytes, claim: Claim) -> Sight:
        """Take an event in hand, unless it is known or in hand already.

        What an older claim of the route has in hand is not: that claim has ended, whether it is
        known here or not, and the delivery may be the same. A delivery of what the stream has told
        comes afterwards if that was settled; it is in hand too, for that is to be remembered.
        """
        key = packed[:KEY_SIZE]
        is_known = key in self._keys or key in self._older
        if not is_known and (holder := self._in_hand.get(key)) is not None:
            is_known = holder.route != claim.route or holder.fence == claim.fence
        if packed[-1] & 3 or self._awaited.entries:
            return self._take_beside_stream(packed, claim, is_known=is_known)
        if is_known:
            return Sight.KNOWN
        self._in_hand[key] = claim
        return Sight.NEW

    def _take_beside_stream(self, packed: bytes, claim: Claim, *, is_known: bool) -> Sight:
        """Take an event that the stream has told, or may have told before."""
        entry = next(unpack(packed))
        if entry.came == Came.DELIVERED and (not is_known or entry.key in self._awaited.entries):
            met = self._awaited.meet(entry)
            if met is not None:
                if not (met in self._keys or met in self._older):
                    return Sight.KNOWN
                self._in_hand.setdefault(entry.key, claim)
                return Sight.AFTERWARDS
        if is_known:
            return Sight.KNOWN
        self._in_hand[entry.key] = claim
        if entry.came != Came.DELIVERED:
            self._awaited.add(entry)
        return Sight.NEW

    def load(self, packed: bytes) -> None:
        """Know what the store remembers."""
        self.learn(packed)
        if not packed[_entry.size - 1 :: _entry.size].translate(None, delete=_DELIVERED):
            return
        others = [entry for entry in unpack(packed) if entry.came != Came.DELIVERED]
        for entry in (each for each in others if each.came != Came.AFTERWARDS):
            self._awaited.add(entry)
        for entry in (each for each in others if each.came == Came.AFTERWARDS):
            self._awaited.meet(entry)

    def learn(self, packed: bytes) -> None:
        """Know these events from now on, in hand no longer."""
        if self._clock() - self._since > _KNOWN_FOR:
            self._older, self._keys, self._since = self._keys, set(), self._clock()
            self._awaited.keep(self._older | self._in_hand.keys())
        keys = [packed[at : at + KEY_SIZE] for at in range(0, len(packed), _entry.size)]
        self._keys.update(keys)
        in_hand = self._in_hand
        for key in keys:
            in_hand.pop(key, None)

    def let_go(self, claim: Claim) -> None:
        """Have nothing in hand for a claim any longer; what it had may come again."""
        for key in [key for key, holder in self._in_hand.items() if holder is claim]:
            del self._in_hand[key]
            self._awaited.drop(key)


class Load(Protocol):
    """Returns what a store remembers of a scope."""

    def __call__(self, scope: str, *, within: timedelta) -> Awaitable[bytes]: ...


class Remembered:
    """The scopes in use.

    Of each is read from the store what this process may have missed since it read the last time:
    processes that claim a busy webhook in turn do not read two days of it at each claim.
    """

    def __init__(
        self,
        load: Load,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._clock = clock
        self._scopes: dict[str, Scope] = {}
        self._sizes: dict[str, int] = {}
        self._total = 0

    async def enter(self, name: str, claim: Claim) -> Scope:
        """Return the scope with all that was settled before this claim. Raises StoreError.

        Whoever had the claim before this one knows what was settled of the route; but another
        route of the scope may have been claimed elsewhere. ``leave`` it in the end.
        """
        scope = self._scopes.pop(name, None)
        if scope is None:
            scope = Scope(name, clock=self._clock)
        self._scopes[name] = scope  # the latest is the last of all
        scope.users += 1
        is_only = scope.fences.keys() <= {claim.route}
        now = self._clock()
        try:
            if not (claim.previous and is_only and scope.fences.get(claim.route) == claim.previous):
                scope.load(await self._load(name, within=_missed(scope, now)))
        except BaseException:
            self.leave(scope, claim, is_sure=False)
            raise
        scope.read_at = now
        scope.fences[claim.route] = claim.fence
        return scope

    def leave(self, scope: Scope, claim: Claim, *, is_sure: bool) -> None:
        """End the use of a scope; unless it is sure what was settled, it is read again."""
        scope.users -= 1
        if not is_sure:
            scope.fences.pop(claim.route, None)
        self._total += len(scope) - self._sizes.get(scope.name, 0)
        self._sizes[scope.name] = len(scope)
        while len(self._sizes) > MAX_SCOPES or self._total > MAX_KEYS:
            unused = (each for each in self._scopes.values() if not each.users)
            if (forgotten := next(unused, None)) is None:
                break
            del self._scopes[forgotten.name]
            self._total -= self._sizes.pop(forgotten.name)


def _missed(scope: Scope, now: float) -> timedelta:
    """Return the time of which it is not known what was settled in a scope."""
    if scope.read_at is None:
        return DUPLICATES_KNOWN_FOR
    return timedelta(seconds=now - scope.read_at) + OVERLAP
