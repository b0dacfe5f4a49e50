"""One try to have a delivery's events handled: what is decoded, and how far it came."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from .errors import DecodeError
from .models import DeadLetter, Delivery, Event, read_event, split_events

__all__ = ["Attempt"]


class Attempt:
    """One try to have a delivery's events handled; ``done`` of them are handled by now."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.done = delivery.done
        self._items = _decode(delivery)

    def next_event(self) -> Event | None:
        """Return the event to handle now; None when all are done."""
        while self.done < len(self._items):
            item = self._items[self.done]
            if isinstance(item, Event):
                return item
            self.done += 1
        return None

    @property
    def progress(self) -> bool:
        """Whether this try has handled any event."""
        return self.done > self.delivery.done

    @property
    def kills(self) -> int:
        """Kills of the process while it handled this delivery alone, without progress.

        A lease that ran out under a handler that blocked the process counts too. The first end is
        not counted: others were claimed beside it.
        """
        return max(0, self.delivery.crashes - 1)

    @property
    def is_damaged(self) -> bool:
        """Whether more events are said to be handled than there are: its record was damaged."""
        return not 0 <= self.delivery.done <= len(self._items)

    @property
    def by_event(self) -> bool:
        """Whether each event's end is kept at once, since the next may end the process."""
        return self.delivery.crashes > 0

    def undecodable(self) -> list[DeadLetter]:
        """Return what could not be decoded, each as a dead letter of its own."""
        return [
            _letter(self.delivery, item.reason, item.body, done=0)
            for item in self._items
            if isinstance(item, _Undecodable)
        ]

    def letter(self, reason: str) -> DeadLetter:
        """Return the delivery as a dead letter, which knows what was handled of it."""
        return _letter(self.delivery, reason, self.delivery.body, done=self.done)


class _Undecodable(msgspec.Struct, frozen=True):
    """An event that could not be decoded, as a delivery's body of its own, and the reason."""

    body: bytes
    reason: str


def _letter(delivery: Delivery, reason: str, body: bytes, *, done: int) -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
        done=done,
    )


def _decode(delivery: Delivery) -> list[Event | _Undecodable]:
    try:
        return [_decode_one(text, delivery.received_at) for text in split_events(delivery.body)]
    except DecodeError as error:
        return [_Undecodable(delivery.body, str(error))]


def _decode_one(text: msgspec.Raw, received_at: datetime) -> Event | _Undecodable:
    try:
        return read_event(text, received_at=received_at)
    except DecodeError as error:
        return _Undecodable(b'{"events":[%b]}' % bytes(text), str(error))
