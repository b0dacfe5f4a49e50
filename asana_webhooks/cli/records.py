"""One request that came in, and what became of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from ..errors import DecodeError
from ..models import Event, read_event, split_events

__all__ = ["Attempt", "Record", "Verdict"]

Verdict: TypeAlias = Literal[
    "accepted", "duplicate", "heartbeat", "handshake", "dead letter", "refused"
]


@dataclass(slots=True, frozen=True)
class Attempt:
    """One try to do something with a delivery, how it ended, and after how many seconds."""

    kind: Literal["handler", "forward"]
    ok: bool
    text: str
    seconds: float
    at: datetime


@dataclass(slots=True, repr=False)
class Record:
    """A request and its answer; ``body`` is empty when it was refused unread."""

    id: int
    received_at: datetime
    route: str
    method: str
    headers: tuple[tuple[str, str], ...]
    signed: bool
    body: bytes = b""
    verdict: Verdict = "refused"
    status: int = 0
    reason: str = ""
    attempts: list[Attempt] = field(default_factory=list)

    def without_route(self, text: str) -> str:
        """Return a header's value without the route: proxies write the path into some."""
        return text.replace(self.route, "<route>") if self.route else text

    def events(self) -> list[Event]:
        """Return the events that can be decoded, of whatever was signed correctly."""
        if self.verdict in ("refused", "handshake"):
            return []
        try:
            texts = split_events(self.body)
        except DecodeError:
            return []
        events = []
        for text in texts:
            with contextlib.suppress(DecodeError):
                events.append(read_event(text, received_at=self.received_at))
        return events
