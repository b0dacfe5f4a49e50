"""A claim that is worked on: its deliveries and events, and what is to be settled of it."""

from __future__ import annotations

import asyncio
import math
from collections import deque

import msgspec

from ._attempt import Attempt
from ._dispatch import Line
from ._echoes import ClaimEchoes
from ._handlers import HandlerError
from ._remembered import Scope
from .models import Claim, DeadLetter, Delivery, Event, Retry, Settlement, Source
from .router import Subscription

__all__ = ["ActiveClaim", "Item", "Outbox"]


class Item(msgspec.Struct, eq=False):
    """One event of a delivery, which is under way or waits for it.

    ``lane`` is what it keeps its order in. ``is_judged`` is whether it is known if it is an echo,
    and ``judged_at`` when that was asked first. ``handlers`` are those that it is for, None before
    it begins; so many of them have ``run``, and of those are the ``failures``.
    """

    work: ActiveClaim
    line: Line[Item]
    attempt: Attempt
    index: int
    event: Event
    lane: str
    is_judged: bool
    judged_at: float | None = None
    handlers: tuple[Subscription, ...] | None = None
    run: int = 0
    failures: tuple[HandlerError, ...] = ()

    @property
    def is_left(self) -> bool:
        """Whether handlers of it have not run."""
        handlers = self.handlers
        return handlers is None or self.run < len(handlers)


class Buried(msgspec.Struct, eq=False):
    """A dead letter, whose id is the store's once it is settled, and the delivery it is of."""

    delivery: Delivery
    letter: DeadLetter


class Outbox:
    """Results of work on a claim that are not settled yet."""

    __slots__ = ("buried", "entries", "progressed", "removed", "retries")

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.progressed: dict[Attempt, None] = {}
        self.retries: list[Retry] = []
        self.buried: list[Buried] = []
        self.entries: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self.removed or self.progressed or self.retries or self.buried or self.entries)

    def settlement(self, scope: str) -> Settlement:
        """Return it as a store takes it, with all that its deliveries have come to by now."""
        self.entries += [each.take_entries() for each in self.progressed]
        return Settlement(
            removed=tuple(self.removed),
            kept=tuple([each.kept() for each in self.progressed]),
            retries=tuple(self.retries),
            letters=tuple(each.letter for each in self.buried),
            scope=scope,
            events=b"".join(self.entries),
        )

    def extend(self, other: Outbox) -> None:
        """Add what was found later."""
        self.removed += other.removed
        self.progressed |= other.progressed
        self.retries += other.retries
        self.buried += other.buried
        self.entries += other.entries


class ActiveClaim:
    """A claim being worked on.

    ``waiting`` are the deliveries that are not decoded yet; ``unfinished`` counts them and those
    that are not done, ``running`` the events under way. Nothing more of it begins once its line is
    closed. ``size`` is that of the bodies of what is unfinished. There was no more of its webhook
    when the store was ``asked_at`` this time of the monotonic clock.

    It is dangerous when it has crashed, and suspect when a process ended, without a word, while it
    handled this delivery alone. One suspect is handled at a time in a process, and nothing is
    claimed for the time of a lease, so that the end of the process counts for none that only stood
    near.
    ``is_sure`` is False once nobody knows what the store has settled. ``echoes`` is set once there
    are writes that may have caused its events.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.source = Source(webhook="", resource="")
        self.scope: Scope | None = None
        self.echoes: ClaimEchoes | None = None
        self.line: Line[Item] | None = None
        self.waiting = deque(claim.deliveries)
        self.unfinished = len(claim.deliveries)
        self.size = _size(claim.deliveries)
        self.running = 0
        self.leased = True
        self.is_sure = True
        self.is_dangerous = claim.deliveries[0].crashes > 0
        self.is_suspect = claim.deliveries[0].crashes > 1
        self.outbox = Outbox()
        self.writing = asyncio.Lock()
        self.timer: asyncio.TimerHandle | None = None
        self.asked_at = -math.inf

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is under way, and nothing is to begin."""
        if self.running:
            return False
        return not self.unfinished or (self.line is not None and self.line.is_closed)

    def add(self, deliveries: tuple[Delivery, ...]) -> int:
        """Add what was claimed later, and return its size."""
        self.waiting.extend(deliveries)
        self.unfinished += len(deliveries)
        size = _size(deliveries)
        self.size += size
        return size

    def close(self) -> None:
        """Begin nothing more of it."""
        if self.line is not None:
            self.line.close()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _size(deliveries: tuple[Delivery, ...]) -> int:
    return sum(len(each.body) for each in deliveries)
