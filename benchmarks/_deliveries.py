"""Deliveries by the hundred thousand, no two alike, signed beforehand.

The bodies of one run differ in a serial number, which is the gid of the last event's resource and
ends those of the others: so no event is known already when it comes. It also ends the time of each
event: as with Asana, deliveries that come together are of about one time, but seldom of the same.
"""

from __future__ import annotations

import hmac
import json
from datetime import UTC, datetime
from pathlib import Path

SERIAL_DIGITS = 12  # so that all bodies have one length
FIRST_SERIAL = 200_000_000_000


class Deliveries:
    """The signed deliveries of one webhook; ``events`` is how many are in each."""

    def __init__(self, route: str, secret: str, *, events: int, serial: int) -> None:
        self.events = events
        self.serial = serial
        texts = [_event(f"{100 + number}(serial)", "(serial)") for number in range(events - 1)]
        body = f'{{"events":[{",".join([*texts, _event("(serial)", "(serial)")])}]}}'.encode()
        self._parts = body.split(b"(serial)")
        self._secret = secret.encode()
        length = sum(map(len, self._parts)) + SERIAL_DIGITS * (len(self._parts) - 1)
        self._head = (
            f"POST /hooks/{route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\nX-Hook-Signature: "
        ).encode()

    def signatures(self, count: int) -> list[bytes]:
        """Return the signatures of the next deliveries."""
        first, self.serial = self.serial, self.serial + count
        return [self._sign(serial) for serial in range(first, first + count)]

    def requests(self, count: int) -> list[bytes]:
        """Return the next deliveries as whole HTTP requests."""
        first = self.serial
        return [
            b"%b%b\r\n\r\n%b" % (self._head, signature, self._body(first + number))
            for number, signature in enumerate(self.signatures(count))
        ]

    def write(self, folder: Path, count: int) -> None:
        """Write the next deliveries as the table that ``_wrk.lua`` reads."""
        (folder / "first").write_text(str(self.serial))
        (folder / "head").write_bytes(self._head)
        (folder / "parts").write_bytes(b"\n".join(self._parts))
        (folder / "signatures").write_bytes(b"".join(self.signatures(count)))

    def _sign(self, serial: int) -> bytes:
        return hmac.digest(self._secret, self._body(serial), "sha256").hex().encode()

    def _body(self, serial: int) -> bytes:
        return (b"%d" % serial).join(self._parts)


def body(number: int) -> bytes:
    """Return the body of a delivery with one event; no two numbers give the same."""
    return (b"%d" % (FIRST_SERIAL + number)).join(_AROUND_THE_SERIAL)


def _event(gid: str, fraction: str) -> str:
    """Return an event; ``fraction`` are the digits of its second."""
    event = {
        "user": {"gid": "1199885403412345", "resource_type": "user"},
        "created_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.{fraction}Z",
        "action": "changed",
        "resource": {"gid": gid, "resource_type": "task", "resource_subtype": "default_task"},
        "parent": None,
        "change": {"field": "completed", "action": "changed"},
    }
    return json.dumps(event, separators=(",", ":"))


_ONE_EVENT = f'{{"events":[{_event("(serial)", "(serial)")}]}}'
_AROUND_THE_SERIAL = _ONE_EVENT.encode().split(b"(serial)")
