"""Values as they are written for the scripts, and read from their answers."""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import MsgspecError
from msgspec.structs import replace

from ...errors import StoreError
from ...models import Claim, Counts, DeadLetter, Delivery, Progress, Retry, Route, Settlement
from .. import DUPLICATES_KNOWN_FOR, MAX_CANDIDATES
from .._codec import decode_filters, from_micros, to_micros
from .._encryption import EncryptedSecret, SecretCipher, webhook_name
from ._server import Hidden, damage_of

KEPT, FULL, HELD_FULL, DAMAGED = b"k", b"f", b"h", b"d"
LAST_MS = 253_402_300_799_999  # of the year 9999
DAMAGED_LETTER = "unreadable: this dead letter is damaged on the server; discard it"
LETTER_ID = re.compile(r"(?:0|[1-9][0-9]{0,18})-(?:0|[1-9][0-9]{0,18})")
DELIVERY_ID = re.compile(r"[0-9]{16}")
VERSION_DIGITS = 16
RECORD = struct.Struct(">q32s")
TAKEN = struct.Struct(">16s10s10s10sq32s")
SIZES = struct.Struct(">II")
PUT_SIZES = struct.Struct(">5I")
ENTRY = struct.Struct(">qI")

EVENTS_KNOWN_FOR = int(DUPLICATES_KNOWN_FOR.total_seconds()) + 2 * 3600
"""For how many seconds the string of an hour is kept, from when it was begun: an hour late."""

_fields = msgspec.msgpack.Decoder(dict[str, str])


def micros(seconds: float) -> int:
    """Return seconds as whole microseconds."""
    return math.ceil(seconds * 1e6)


def name_of(fields: Mapping[str, str]) -> str:
    """Return what the webhook of a route is called, whose id must not be shown."""
    return webhook_name(fields.get("gid"), fields.get("resource"))


def note(buried_at: datetime, reason: str) -> bytes:
    """Return when and why something was buried, as one text."""
    return f"{to_micros(buried_at)} {reason}".encode()


def lease_of(claim: Claim) -> tuple[str, str]:
    """Return route and fence, as the scripts compare them."""
    return claim.route, f"{claim.fence:016d}"


@contextlib.contextmanager
def _readable(what: str) -> Iterator[None]:
    """Raise a StoreError that names the key for whatever a damaged value makes of its reader."""
    try:
        yield
    except (ValueError, LookupError, TypeError, OverflowError, struct.error, MsgspecError):
        msg = f"{what} is damaged: restore a copy, or delete it with what it holds"
        raise StoreError(msg) from None  # the error may quote a secret


class Fields(dict[str, str]):
    """The fields of a route; a traceback with local variables does not show them."""

    def __repr__(self) -> str:
        return f"<{len(self)} fields>"


def fields_of(packed: bytes, key: str) -> Fields:
    """Return the fields of the route that this answer of a script holds.

    ``key`` is what its key is called. Raises StoreError when it cannot be read.
    """
    if damage := damage_of(packed.decode(errors="replace")):
        raise StoreError(damage)
    with _readable(f"a key {key}"):
        return Fields(_fields.decode(packed))


def route_of(fields: Fields, key: str) -> Route:
    """Return a route without its secrets. Raises StoreError when it is damaged."""
    with _readable(f"the key {key} of {name_of(fields)}"):
        return Route(
            id=fields["id"],
            target=fields["target"],
            resource=fields["resource"],
            filters=decode_filters(fields.get("filters")),
            state=fields["state"],  # type: ignore[arg-type]  # the scripts write these three only
            gid=fields.get("gid"),
            created_at=from_micros(int(fields["created_at"])),
            confirmed_at=_time_in(fields, "confirmed_at"),
            heartbeat_at=_time_in(fields, "heartbeat_at"),
            account=fields.get("account", ""),
            user=fields.get("user"),
            leaving="leaving" in fields,
            retired_as=fields.get("retired_as"),  # type: ignore[arg-type]  # one of these two
        )


def _time_in(fields: Fields, name: str) -> datetime | None:
    return from_micros(int(fields[name])) if name in fields else None


def with_secrets(route: Route, fields: Fields, cipher: SecretCipher) -> Route:
    """Return a route with its secrets. Raises StoreError when one cannot be decrypted."""

    def decrypted(fingerprint: str, ciphertext: str) -> str | None:
        kept = EncryptedSecret(fields.get(fingerprint, ""), fields.get(ciphertext))
        return cipher.decrypt(route.id, kept) if kept.fingerprint else None

    slots = range(1, MAX_CANDIDATES + 1)
    candidates = (decrypted(f"candidate{slot}", f"seal{slot}") for slot in slots)
    return replace(
        route,
        secret=decrypted("secret", "seal"),
        candidates=tuple(secret for secret in candidates if secret is not None),
    )


def put_of(delivery: Delivery, fingerprint: str | None, reason: str | None) -> Hidden:
    """Return a delivery as the script puts it, and the fingerprint of its candidate.

    With a reason it is buried, now.
    """
    record = RECORD.pack(to_micros(delivery.received_at), delivery.digest) + delivery.body
    candidate = b"" if fingerprint is None else b"=" + fingerprint.encode()
    buried = b"" if reason is None else note(datetime.now(UTC), reason)
    parts = delivery.route.encode(), record, delivery.trace.encode(), candidate, buried
    return Hidden(b"".join((PUT_SIZES.pack(*map(len, parts)), *parts)))


def answers_of(kinds: bytes, damages: Sequence[bytes]) -> list[bytes]:
    """Return the answer for each delivery that was put: its letter, or what names a damaged key."""
    found = iter(damages)
    letters = (kinds[place : place + 1] for place in range(len(kinds)))
    return [next(found) if letter == DAMAGED else letter for letter in letters]


def deliveries_of(route: str, packed: bytes) -> Iterator[Delivery]:
    """Yield the deliveries that were taken, of each its size and that of its trace before it."""
    begin = 0
    while begin < len(packed):
        size, trace_size = SIZES.unpack_from(packed, begin)
        trace = begin + SIZES.size + size
        yield _delivery(
            route, packed[begin + SIZES.size : trace], packed[trace : trace + trace_size]
        )
        begin = trace + trace_size


def _delivery(route: str, taken: bytes, trace: bytes) -> Delivery:
    """Return the delivery in a record that was taken; the script takes no damaged ones."""
    number, attempts, crashes, size, received_at, digest = TAKEN.unpack_from(taken)
    end = len(taken) - int(size)
    return Delivery(
        id=number.decode(),
        route=route,
        body=taken[TAKEN.size : end],
        digest=digest,
        received_at=from_micros(received_at),
        attempts=int(attempts),
        progress=taken[end:].decode(errors="replace"),
        crashes=int(crashes),
        trace=trace.decode("ascii", "replace"),
    )


def settlement_of(settlement: Settlement) -> list[bytes | str | int]:
    """Return a settlement as the script takes it, from the scope on."""
    removed, kept, retries = settlement.removed, settlement.kept, settlement.retries
    arguments: list[bytes | str | int] = [settlement.scope, settlement.events, EVENTS_KNOWN_FOR]
    arguments += (" ".join(removed), len(kept), len(retries))
    for delivery in kept:
        arguments += (delivery.id, delivery.attempts, delivery.progress)
    for retry in retries:
        arguments += _retry(retry)
    for letter in settlement.letters:
        record = _record(letter.received_at, letter.body)
        arguments += (letter.route, letter.progress, note(letter.buried_at, letter.reason), record)
    return arguments


def added(deliveries: Sequence[Delivery]) -> Iterator[bytes | str | int]:
    """Yield new deliveries as the script takes them: five values for each."""
    for delivery in deliveries:
        yield from (delivery.route, delivery.attempts, delivery.progress)
        yield from (_record(delivery.received_at, delivery.body), delivery.trace)


def version_of(number: int) -> str:
    """Return the version of a state as the scripts compare it."""
    return f"{number:0{VERSION_DIGITS}d}"


def _retry(retry: Retry) -> tuple[bytes | str | int, ...]:
    delivery = retry.delivery
    head = delivery.id, micros(retry.delay), delivery.attempts, delivery.progress
    if delivery.id:
        return *head, "", ""
    return *head, _record(delivery.received_at, delivery.body), delivery.trace


def _record(received_at: datetime, body: bytes) -> bytes:
    """Return a record without a digest, which is no duplicate of any."""
    return RECORD.pack(to_micros(received_at), bytes(32)) + body


def events_of(since: bytes, kept: Sequence[bytes]) -> bytes:
    """Return the events that were remembered since then.

    ``kept`` are the strings of hours. What is damaged is left out, with what is behind it.
    """
    begin, found = int(since), list[bytes]()
    for entries in kept:
        position = 0
        while position + ENTRY.size <= len(entries):
            at, size = ENTRY.unpack_from(entries, position)
            position += ENTRY.size + size
            if at >= begin and position <= len(entries):
                found.append(entries[position - size : position])
    return b"".join(found)


def counts_of(waiting: int, letters: int, oldest: bytes | None) -> Counts:
    """Return what was counted."""
    return Counts(
        waiting=waiting,
        dead_letters=letters,
        oldest_at=None if oldest is None else from_micros(int(oldest)),
    )


def dead_letter_of(number: bytes, fields: list[bytes]) -> DeadLetter:
    """Return the dead letter of an entry of the stream, whatever can be read of it."""
    id_ = number.decode()
    try:
        _, route, kind, progress, _, note, _, record = fields
        buried_at, _, reason = note.decode().partition(" ")
        return DeadLetter(
            id=id_,
            route=route.decode(),
            body=record[RECORD.size :],
            reason=reason,
            received_at=from_micros(RECORD.unpack_from(record)[0]),
            buried_at=from_micros(int(buried_at)),
            progress=_progress_after(progress) if kind == b"done" else progress.decode(),
        )
    except (ValueError, OverflowError, struct.error):
        at = from_micros(min(int(id_.partition("-")[0]), LAST_MS) * 1000)
        body = fields[-1][RECORD.size :]
        return DeadLetter(
            id=id_, route="", body=body, reason=DAMAGED_LETTER, received_at=at, buried_at=at
        )


def _progress_after(handled: bytes) -> str:
    """Return how far a letter of layouts before 3 came, which counts the handled events."""
    return Progress(upto=int(handled)).encode()
