"""The event that comes next: accounts have their turn, then their webhooks, then resources.

Nothing here waits or does I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["Dispatcher", "Line"]


class _Laned(Protocol):
    @property
    def lane(self) -> str: ...


ItemT = TypeVar("ItemT", bound=_Laned)

MAX_BEHIND = 1000
"""How many items of one webhook wait for others of their lanes before none are added."""


class Line(Generic[ItemT]):
    """The items of one webhook, in lanes: of each lane one is under way, or ready, at a time.

    ``account`` is whose webhook it is. ``refill`` adds more with ``put`` when none is ready, and
    returns False when there is no more. It is not called while many wait behind others: decoded
    events take several times the memory of their bodies.
    """

    __slots__ = ("_behind", "_lanes", "_ready", "_refill", "account", "is_closed", "is_queued")

    def __init__(self, account: str, refill: Callable[[], bool]) -> None:
        self.account = account
        self.is_queued = False
        self.is_closed = False
        self._refill = refill
        self._ready: deque[ItemT] = deque()
        self._lanes: dict[str, deque[ItemT] | None] = {}
        self._behind = 0

    def put(self, item: ItemT) -> None:
        """Add an item behind the others of its lane."""
        lanes, lane = self._lanes, item.lane
        if lane not in lanes:
            lanes[lane] = None
            self._ready.append(item)
            return
        self._behind += 1
        if (waiting := lanes[lane]) is None:
            lanes[lane] = deque([item])
        else:
            waiting.append(item)

    @property
    def is_ready(self) -> bool:
        """Whether an item is ready, though ``refill`` added none."""
        return bool(self._ready)

    def take(self) -> ItemT | None:
        """Return the item that is next, which is under way from then on; None when none is ready.

        The lane of an item goes on when that is ``done``.
        """
        while not self.is_closed:
            if self._ready:
                return self._ready.popleft()
            if self._behind >= MAX_BEHIND or not self._refill():
                break
        return None

    def put_back(self, item: ItemT) -> None:
        """Make an item ready again that was taken; its lane has waited for it."""
        self._ready.append(item)

    def done(self, item: ItemT) -> None:
        """Make the next item of a lane ready."""
        waiting = self._lanes.pop(item.lane)
        if waiting:
            self._behind -= 1
            self._ready.append(waiting.popleft())
            self._lanes[item.lane] = waiting

    def close(self) -> None:
        """Give nothing more."""
        self.is_closed = True


class Dispatcher(Generic[ItemT]):
    """The lines of all webhooks: accounts have their turn one after the other, then their lines."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Line[ItemT]]] = {}
        self._turns: deque[str] = deque()

    def __bool__(self) -> bool:
        """Return whether there are lines to look into."""
        return bool(self._turns)

    def add(self, line: Line[ItemT]) -> None:
        """Look into a line again: it is new, or it has more than when it was last looked into."""
        if line.is_queued:
            return
        line.is_queued = True
        lines = self._lines.get(line.account)
        if lines is None:
            self._lines[line.account] = deque([line])
            self._turns.append(line.account)
        else:
            lines.append(line)

    def take(self) -> ItemT | None:
        """Return the item whose turn it is; None when none is ready."""
        while self._turns:
            account = self._turns[0]
            lines = self._lines[account]
            line = lines[0]
            item = line.take()
            if item is not None:
                lines.rotate(-1)
                self._turns.rotate(-1)
                return item
            lines.popleft()
            line.is_queued = False
            if not lines:
                self._turns.popleft()
                del self._lines[account]
        return None
