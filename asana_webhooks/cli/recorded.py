"""Deliveries written down as lines of JSON, so that they can be posted again.

A line is ``{"received_at": "2026-07-04T10:11:12+00:00", "headers": {"X-Hook-Signature": "..."},
"body": "..."}``; other fields, such as ``listen --json`` adds, are left alone. The body is the text
of the bytes that were signed; bytes that are not UTF-8 are lone surrogates, U+DC80 to U+DCFF
(Python's ``surrogateescape``), so that each body comes back byte by byte. Such a line holds events
and a signature, but neither secret nor route.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

__all__ = ["Recorded"]


class Recorded(NamedTuple):
    """A post as it was received."""

    received_at: datetime
    headers: Mapping[str, str]
    body: bytes

    def fields(self) -> dict[str, Any]:
        """Return what a line of it holds; ``json.dumps`` makes it one of ASCII."""
        return {
            "received_at": self.received_at.isoformat(),
            "headers": dict(self.headers),
            "body": self.body.decode(errors="surrogateescape"),
        }

    @classmethod
    def from_line(cls, line: str | bytes) -> Recorded:
        """Return what a line holds; raises ValueError, which quotes none of it, when it is none."""
        try:
            record = json.loads(line)
            received_at = datetime.fromisoformat(record["received_at"])
            headers = {str(name): str(value) for name, value in record["headers"].items()}
            body = record["body"].encode(errors="surrogateescape")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            msg = 'no recorded delivery: {"received_at": ..., "headers": {...}, "body": "..."}'
            raise ValueError(msg) from None
        return cls(received_at, headers, body)
