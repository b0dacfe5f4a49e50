"""What one route has to be claimed."""

from __future__ import annotations

import heapq
import math
from datetime import datetime
from typing import TypeAlias

from ...models import Delivery

__all__ = ["Queue"]

_Entry: TypeAlias = tuple[float, int, Delivery]
"""When it is due, its number, and the delivery."""


class Queue:
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
        return self._untaken[0][0] if self._untaken else None

    @property
    def first_received_at(self) -> datetime | None:
        """When the first in line was received, taken or not; None without one."""
        first = min([*self.taken.values(), *self._untaken[:1]], default=None)
        return None if first is None else first[2].received_at

    def add(self, due: float, number: int, delivery: Delivery) -> None:
        """Put a delivery in its place."""
        heapq.heappush(self._untaken, (due, number, delivery))

    def take(self, now: float, limit: int) -> tuple[Delivery, ...]:
        """Return up to ``limit`` of the due deliveries, which are taken from then on."""
        deliveries: list[Delivery] = []
        while self._untaken and self._untaken[0][0] <= now and len(deliveries) < limit:
            entry = heapq.heappop(self._untaken)
            self.taken[entry[2].id] = entry
            deliveries.append(entry[2])
        return tuple(deliveries)

    def give_back(self) -> None:
        """End the lease; what was taken is in its place again."""
        self.fence = 0
        for entry in self.taken.values():
            self.add(*entry)
        self.taken.clear()
