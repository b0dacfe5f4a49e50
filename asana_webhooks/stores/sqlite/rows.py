"""How values stand in the rows of the tables, and rows in statements."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from ...models import DeadLetter, Delivery, WebhookFilter
from .. import DUPLICATES_KNOWN_FOR

__all__ = [
    "KNOWN_FOR",
    "LETTER_ID",
    "date_of",
    "dead_letter_of",
    "delivery_of",
    "filters_of",
    "letter_of",
    "letter_row",
    "number_of",
    "parts",
    "spread",
    "text_of",
]

T = TypeVar("T")

LONGEST_PART = 128
"""Rows of one statement: it has at most 999 parameters in older versions of SQLite."""

LETTER_ID = re.compile(r"[1-9]\d{0,17}", re.ASCII)
"""SQLite would take '1e1' for 10 as well."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
KNOWN_FOR = DUPLICATES_KNOWN_FOR // MICROSECOND

_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])


def number_of(at: datetime) -> int:
    """Return the microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


def date_of(number: int) -> datetime:
    """Return the time so many microseconds after the beginning of 1970."""
    return EPOCH + timedelta(microseconds=number)


def text_of(filters: Sequence[WebhookFilter] | None) -> str | None:
    """Return filters as JSON, None for None."""
    return None if filters is None else msgspec.json.encode(filters).decode()


def filters_of(text: str | None) -> tuple[WebhookFilter, ...] | None:
    """Return the filters in this JSON, None for None."""
    return None if text is None else _filters.decode(text)


def delivery_of(route: str, row: tuple[Any, ...]) -> Delivery:
    """Return the delivery of a row that was taken."""
    number, digest, received_at, attempts, done, trace, body = row
    return Delivery(
        id=str(number),
        route=route,
        digest=digest,
        received_at=date_of(received_at),
        attempts=attempts,
        done=done,
        trace=trace,
        body=body,
    )


def dead_letter_of(row: tuple[Any, ...]) -> DeadLetter:
    """Return the dead letter of a row."""
    number, route, reason, received_at, buried_at, done, body = row
    return DeadLetter(
        id=str(number),
        route=route,
        reason=reason,
        received_at=date_of(received_at),
        buried_at=date_of(buried_at),
        done=done,
        body=body,
    )


def parts(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut into powers of two, so that there are few texts of statements to prepare and keep."""
    start = 0
    while start < len(rows):
        size = min(1 << (len(rows) - start).bit_length() - 1, LONGEST_PART)
        yield rows[start : start + size]
        start += size


@functools.cache
def spread(statement: str, rows: int, columns: int = 0) -> str:
    """Fill in a question mark for each row, or for each column of each row."""
    mark = f"({', '.join('?' * columns)})" if columns else "?"
    return statement.format(", ".join([mark] * rows))


def letter_of(delivery: Delivery, reason: str) -> DeadLetter:
    """Return a whole delivery as a dead letter."""
    return DeadLetter(
        route=delivery.route,
        body=delivery.body,
        reason=reason,
        received_at=delivery.received_at,
        buried_at=datetime.now(UTC),
    )


def letter_row(letter: DeadLetter) -> tuple[Any, ...]:
    """Return the row that keeps a dead letter."""
    received_at, buried_at = number_of(letter.received_at), number_of(letter.buried_at)
    return (letter.route, letter.reason, received_at, buried_at, letter.done, letter.body)
