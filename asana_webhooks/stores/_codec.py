"""Times, filters and addresses as they stand in the rows and records of the stores."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from ..models import DeadLetter, Delivery, WebhookFilter

__all__ = [
    "decode_filters",
    "encode_filters",
    "from_micros",
    "letter_of",
    "prefix_of",
    "to_micros",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])


def to_micros(at: datetime) -> int:
    """Return the microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time so many microseconds after the beginning of 1970.

    Raises OverflowError for a time that no calendar has.
    """
    return EPOCH + timedelta(0, 0, micros)  # by name it would take twice as long


def encode_filters(filters: Sequence[WebhookFilter] | None) -> str | None:
    """Return filters as JSON, None for None."""
    return None if filters is None else msgspec.json.encode(filters).decode()


def decode_filters(text: str | None) -> tuple[WebhookFilter, ...] | None:
    """Return the filters in this JSON, None for None. Raises MsgspecError when it holds none."""
    return None if text is None else _filters.decode(text)


def prefix_of(target: str) -> str:
    """Return a target up to its last slash: the address below which its route is."""
    return target.rpartition("/")[0]


def letter_of(delivery: Delivery, reason: str) -> DeadLetter:
    """Return a whole delivery as a dead letter, buried now."""
    return DeadLetter(
        route=delivery.route,
        body=delivery.body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
    )
