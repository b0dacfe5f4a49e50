"""The events that came to their end in the last two days, by which repeats of them are known.

They belong to a scope: one resource that is watched for one account, by whichever webhook. A
remembered event has 32 bytes: 16 of its key; 8 of a digest of its action, its resource, its parent
and its field, by which one that is only nearly equal can be found; 8 of when it was created, in
microseconds since 1970, signed and big-endian.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b

import msgspec

from .models import Claim, Event, event_digest
from .stores import DUPLICATES_KNOWN_FOR

__all__ = ["KEY_SIZE", "Remembered", "Scope", "pack"]

KEY_SIZE = 16

MAX_SCOPES = 10_000
"""How many scopes are kept in memory; the one that was used longest ago is forgotten."""

MAX_KEYS = 1_000_000
"""How many keys are kept in memory of scopes that are not in use, in some 100 MB."""

_SIZE = 32
_entry = struct.Struct(">16s8sq")
_encoder = msgspec.json.Encoder()


def pack(event: Event) -> bytes:
    """Return an event as it is remembered; its key is in the first ``KEY_SIZE`` bytes."""
    resource, parent, change = event.resource, event.parent, event.change
    near = (
        event.action,
        resource.gid,
        resource.resource_type,
        parent and parent.gid,
        change and change.field,
    )
    return _entry.pack(
        event_digest(event),
        blake2b(_encoder.encode(near), digest_size=8).digest(),
        round(event.created_at.timestamp() * 1e6),
    )


class Scope:
    """The keys that are known of one scope, and those of events that are in hand here.

    A key is known for at least two days from when it was learnt here, and at most for four.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.fences: dict[str, int] = {}
        """The newest claim here of each route, while nothing can have been missed since."""
        self.users = 0
        self._clock = clock
        self._since = clock()
        self._keys: set[bytes] = set()
        self._older: set[bytes] = set()
        self._in_hand: dict[bytes, Claim] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._older)

    def take(self, key: bytes, claim: Claim) -> bool:
        """Take an event in hand; False when it is known, or in hand already.

        What an older claim of the route has in hand is not: that claim has ended, whether it is
        known here or not, and the delivery may be the same.
        """
        if key in self._keys or key in self._older:
            return False
        holder = self._in_hand.get(key)
        if holder is not None and (holder.route != claim.route or holder.fence == claim.fence):
            return False
        self._in_hand[key] = claim
        return True

    def learn(self, keys: Iterable[bytes]) -> None:
        """Know these from now on, in hand no longer."""
        if self._clock() - self._since > DUPLICATES_KNOWN_FOR.total_seconds():
            self._older, self._keys, self._since = self._keys, set(), self._clock()
        for key in keys:
            self._keys.add(key)
            self._in_hand.pop(key, None)

    def let_go(self, keys: Iterable[bytes], claim: Claim) -> None:
        """Have these in hand for a claim no longer; they may come again."""
        for key in keys:
            if self._in_hand.get(key) is claim:
                del self._in_hand[key]


class Remembered:
    """The scopes in use, each read from the store when this process may have missed something."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[bytes]],
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
        try:
            if not (claim.previous and is_only and scope.fences.get(claim.route) == claim.previous):
                packed = await self._load(name)
                scope.learn([packed[at : at + KEY_SIZE] for at in range(0, len(packed), _SIZE)])
        except BaseException:
            self.leave(scope, claim, is_sure=False)
            raise
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
