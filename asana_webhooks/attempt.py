"""One try to have a delivery handled: its events, and how far it came."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from .errors import DecodeError
from .models import DeadLetter, Delivery, Event, decode_event, split_events

__all__ = ["Attempt"]


class _Odd(msgspec.Struct, frozen=True):
    """What could not be decoded, as a delivery's body of its own, and why."""

    body: bytes
    reason: str


class Attempt:
    """One try to have a delivery's events handled: what is decoded, and how far it came."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.done = delivery.done
        self._items = _decode(delivery.body)

    def events(self) -> Iterator[Event]:
        """Yield the events that are not done; one is done when the next is asked for."""
        while self.done < len(self._items):
            item = self._items[self.done]
            if isinstance(item, Event):
                yield item
            self.done += 1

    def odd(self) -> list[DeadLetter]:
        """Return what could not be decoded, each as a dead letter of its own."""
        return [
            _letter(self.delivery, item.reason, item.body, done=0)
            for item in self._items
            if isinstance(item, _Odd)
        ]

    def letter(self, reason: str) -> DeadLetter:
        """Return the delivery as a dead letter, which knows what was handled of it."""
        return _letter(self.delivery, reason, self.delivery.body, done=self.done)


def _letter(delivery: Delivery, reason: str, body: bytes, *, done: int) -> DeadLetter:
    return DeadLetter(
        route=delivery.route,
        body=body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
        done=done,
    )


def _decode(body: bytes) -> list[Event | _Odd]:
    try:
        return [_decode_one(text) for text in split_events(body)]
    except DecodeError as error:
        return [_Odd(body, str(error))]


def _decode_one(text: msgspec.Raw) -> Event | _Odd:
    try:
        return decode_event(text)
    except DecodeError as error:
        return _Odd(b'{"events":[%b]}' % bytes(text), str(error))
