"""How values are written for the scripts, and read from their answers."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from ...models import Claim, DeadLetter, Delivery, Route, WebhookFilter
from .. import MAX_CANDIDATES

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

KEPT, FULL = b"kf"
LETTER_ID = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
RECORD = struct.Struct(">q32s")
TAKEN = struct.Struct(">16s10s10sq32s")

_filters = msgspec.json.Decoder(tuple[WebhookFilter, ...])
_fields = msgspec.msgpack.Decoder(dict[str, str])


def number_of(at: datetime) -> int:
    """Return the microseconds since 1970."""
    return (at - EPOCH) // MICROSECOND


def date_of(number: int) -> datetime:
    """Return the time so many microseconds after the beginning of 1970."""
    return EPOCH + timedelta(microseconds=number)


def micros(seconds: float) -> int:
    """Return seconds as whole microseconds."""
    return math.ceil(seconds * 1e6)


def text_of(filters: Sequence[WebhookFilter]) -> str:
    """Return filters as JSON."""
    return msgspec.json.encode(filters).decode()


def note(buried_at: datetime, reason: str) -> bytes:
    """Return when and why something was buried, as one text."""
    return f"{number_of(buried_at)} {reason}".encode()


def lease_of(claim: Claim) -> tuple[str, str]:
    """Return route and fence, as the scripts compare them."""
    return claim.route, f"{claim.fence:016d}"


def route_of(packed: bytes) -> Route:
    """Return the route in a packed map of fields."""
    fields = _fields.decode(packed)
    filters, heartbeat_at = fields.get("filters"), fields.get("heartbeat_at")
    slots = [f"candidate{slot}" for slot in range(1, MAX_CANDIDATES + 1)]
    return Route(
        id=fields["id"],
        target=fields["target"],
        resource=fields["resource"],
        filters=None if filters is None else _filters.decode(filters),
        state=fields["state"],  # type: ignore[arg-type]  # the scripts write these three only
        gid=fields.get("gid"),
        secret=fields.get("secret"),
        candidates=tuple(fields[slot] for slot in slots if slot in fields),
        created_at=date_of(int(fields["created_at"])),
        heartbeat_at=None if heartbeat_at is None else date_of(int(heartbeat_at)),
    )


def delivery_of(route: str, taken: bytes) -> Delivery:
    """Return the delivery in a record that was taken."""
    number, attempts, done, received_at, digest = TAKEN.unpack_from(taken)
    return Delivery(
        id=number.decode(),
        route=route,
        body=taken[TAKEN.size :],
        digest=digest,
        received_at=date_of(received_at),
        attempts=int(attempts),
        done=int(done),
    )


def letter_of(number: bytes, fields: list[bytes]) -> DeadLetter:
    """Return the dead letter of an entry of the stream."""
    _, route, _, done, _, note, _, record = fields
    buried_at, _, reason = note.decode().partition(" ")
    return DeadLetter(
        id=number.decode(),
        route=route.decode(),
        body=record[RECORD.size :],
        reason=reason,
        received_at=date_of(RECORD.unpack_from(record)[0]),
        buried_at=date_of(int(buried_at)),
        done=int(done),
    )
