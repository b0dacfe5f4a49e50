"""How values are written for the scripts, and read from their answers."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from ...models import Claim, Counts, DeadLetter, Delivery, Route, WebhookFilter
from .. import MAX_CANDIDATES
from .._encryption import EncryptedSecret, SecretCipher

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

KEPT, FULL, HELD_FULL = b"kfh"
LETTER_ID = re.compile(r"(?:0|[1-9][0-9]{0,18})-(?:0|[1-9][0-9]{0,18})")
RECORD = struct.Struct(">q32s")
TAKEN = struct.Struct(">16s10s10s10sq32s")

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


def route_of(packed: bytes, cipher: SecretCipher) -> Route:
    """Return the route in a packed map of fields, with its secrets opened.

    Raises StoreError when one cannot be opened.
    """
    fields = _fields.decode(packed)
    filters, heartbeat_at = fields.get("filters"), fields.get("heartbeat_at")
    slots = range(1, MAX_CANDIDATES + 1)
    candidates = (_open(fields, f"candidate{slot}", f"seal{slot}", cipher) for slot in slots)
    return Route(
        id=fields["id"],
        target=fields["target"],
        resource=fields["resource"],
        filters=None if filters is None else _filters.decode(filters),
        state=fields["state"],  # type: ignore[arg-type]  # the scripts write these three only
        gid=fields.get("gid"),
        secret=_open(fields, "secret", "seal", cipher),
        candidates=tuple(secret for secret in candidates if secret is not None),
        created_at=date_of(int(fields["created_at"])),
        heartbeat_at=None if heartbeat_at is None else date_of(int(heartbeat_at)),
    )


def _open(fields: dict[str, str], name: str, encrypted: str, cipher: SecretCipher) -> str | None:
    if name not in fields:
        return None
    return cipher.decrypt(fields["id"], EncryptedSecret(fields[name], fields.get(encrypted)))


def delivery_of(route: str, taken: bytes, trace: bytes) -> Delivery:
    """Return the delivery in a record that was taken."""
    number, attempts, done, crashes, received_at, digest = TAKEN.unpack_from(taken)
    return Delivery(
        id=number.decode(),
        route=route,
        body=taken[TAKEN.size :],
        digest=digest,
        received_at=date_of(received_at),
        attempts=int(attempts),
        done=int(done),
        crashes=int(crashes),
        trace=trace.decode(),
    )


def counts_of(waiting: int, letters: int, oldest: bytes | None) -> Counts:
    """Return what was counted."""
    return Counts(
        waiting=waiting,
        dead_letters=letters,
        oldest_at=None if oldest is None else date_of(int(oldest)),
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
