"""Deliveries, routes and dead letters as rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import NoneType
from typing import Any

import msgspec

from ...models import DeadLetter, Delivery, Route
from .._codec import decode_filters, from_micros, to_micros

__all__ = [
    "ROW_ID",
    "UNREADABLE",
    "UnreadableRowError",
    "delivery_of",
    "from_letter",
    "from_retry",
    "is_count",
    "is_fence",
    "is_queue",
    "is_version",
    "letter_of_delivery",
    "letter_of_row",
    "route_of",
    "time_of",
]

LARGEST_COUNT = 2**31 - 1
LARGEST_FENCE = 2**62
"""Beyond them is nothing that was counted."""

ROW_ID = re.compile(r"[1-9]\d{0,17}", re.ASCII)
"""SQLite would take '1e1' for 10 as well."""

UNREADABLE = "unreadable: its row in the store is damaged"
"""The reason of a dead letter that stands for a delivery which cannot be read."""

NO_DIGEST = bytes(32)
"""Of what no post with a signature brought."""

# What a column holds; damaged text is read as bytes.
TEXT_OR_NULL, NUMBER_OR_NULL = (str, NoneType), (int, NoneType)
ROUTE = (
    *(str, str, str, TEXT_OR_NULL, str, TEXT_OR_NULL, str, TEXT_OR_NULL),
    *(int, NUMBER_OR_NULL, NUMBER_OR_NULL, int, TEXT_OR_NULL),
)
QUEUE = (str, int, int, TEXT_OR_NULL)
DELIVERY = (int, bytes, int, int, str, str, int, bytes)

STATES = ("reserved", "confirmed", "retired")
ENDS = (None, "deleted", "lost")


class UnreadableRowError(Exception):
    """A row does not hold what was written there."""


def route_of(row: tuple[Any, ...]) -> Route:
    """Return the route of a row without secrets. Raises UnreadableRowError."""
    if not _fits(row, ROUTE):
        raise UnreadableRowError
    id_, target, resource, filters, state, gid, account, user, *times, leaving, retired_as = row
    if state not in STATES or retired_as not in ENDS:
        raise UnreadableRowError
    created_at, confirmed_at, heartbeat_at = times
    try:
        return Route(
            id=id_,
            target=target,
            resource=resource,
            account=account,
            user=user,
            filters=decode_filters(filters),
            state=state,
            gid=gid,
            created_at=from_micros(created_at),
            confirmed_at=None if confirmed_at is None else from_micros(confirmed_at),
            heartbeat_at=None if heartbeat_at is None else from_micros(heartbeat_at),
            leaving=bool(leaving),
            retired_as=retired_as,
        )
    except (msgspec.MsgspecError, ValueError, OverflowError):
        raise UnreadableRowError from None


def is_queue(row: tuple[Any, ...]) -> bool:
    """Return whether this is a readable row of a queue."""
    return _fits(row, QUEUE) and is_fence(row[1])


def is_fence(value: object) -> bool:
    """Return whether this is a fence, and leaves some for the claims to come."""
    return isinstance(value, int) and 0 <= value < LARGEST_FENCE


def is_version(value: object) -> bool:
    """Return whether a state may have this version."""
    return is_fence(value) and value != 0


def is_count(value: object) -> bool:
    """Return whether so many may have been counted."""
    return isinstance(value, int) and 0 <= value <= LARGEST_COUNT


def delivery_of(route: str, row: tuple[Any, ...]) -> Delivery:
    """Return the delivery of a row that was taken. Raises UnreadableRowError."""
    number, digest, received_at, attempts, progress, trace, crashes, body = row
    if tuple(map(type, row)) != DELIVERY or not (is_count(attempts) and is_count(crashes)):
        raise UnreadableRowError
    try:
        at = from_micros(received_at)
    except OverflowError:
        raise UnreadableRowError from None
    return Delivery(
        id=str(number),
        route=route,
        digest=digest,
        received_at=at,
        attempts=attempts,
        progress=progress,
        trace=trace,
        crashes=crashes,
        body=body,
    )


def letter_of_delivery(route: str, received_at: Any, body: Any) -> DeadLetter:
    """Return the dead letter that stands for a delivery which cannot be read."""
    now = datetime.now(UTC)
    return DeadLetter(
        route=route,
        reason=UNREADABLE,
        received_at=time_of(received_at) or now,
        buried_at=now,
        body=body if isinstance(body, bytes) else b"",
    )


def letter_of_row(row: tuple[Any, ...]) -> DeadLetter:
    """Return the dead letter of a row; what cannot be read of it is left out."""
    number, route, reason, received_at, buried_at, progress, body = row
    now = datetime.now(UTC)
    return DeadLetter(
        id=str(number),
        route=route if isinstance(route, str) else "",
        reason=reason if isinstance(reason, str) else UNREADABLE,
        received_at=time_of(received_at) or now,
        buried_at=time_of(buried_at) or now,
        progress=progress if isinstance(progress, str) else "",
        body=body if isinstance(body, bytes) else b"",
    )


def from_letter(letter: DeadLetter) -> tuple[Any, ...]:
    """Return the row that keeps a dead letter."""
    received_at, buried_at = to_micros(letter.received_at), to_micros(letter.buried_at)
    return (letter.route, letter.reason, received_at, buried_at, letter.progress, letter.body)


def from_retry(route: str, delivery: Delivery, due: float) -> tuple[Any, ...]:
    """Return the row that keeps a delivery which is tried again in a place of its own."""
    at = to_micros(delivery.received_at)
    told = (delivery.attempts, delivery.progress, delivery.trace, delivery.body)
    return (route, NO_DIGEST, at, due, *told)


def time_of(micros: Any) -> datetime | None:
    """Return the time that a column holds; None when it holds none."""
    try:
        return from_micros(micros) if isinstance(micros, int) else None
    except OverflowError:
        return None


def _fits(row: tuple[Any, ...], types: tuple[Any, ...]) -> bool:
    return all(map(isinstance, row, types))
