"""Requests that came in, what became of them, and attempts to handle them.

A recorder is a telemetry: endpoint and inbox tell it what happens, and nothing is decided by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from typing import Literal, NamedTuple, TypeAlias

from .._handlers import HandlerError
from .._logging import one_line
from ..errors import DecodeError
from ..models import Delivery, Event, read_event, split_events
from ..protocol import UNKNOWN_ROUTE, Request, Response
from ..signature import parse_signature
from ..telemetry import Outcome, Telemetry

__all__ = ["Attempt", "Feed", "Record", "Recorder", "Verdict"]

Verdict: TypeAlias = Literal[
    "accepted", "duplicate", "heartbeat", "handshake", "dead letter", "refused"
]


@dataclass(slots=True, frozen=True)
class Attempt:
    """One try to do something with a delivery, how it ended, and after how many seconds.

    ``event`` is the key of the event that was handled; '' when the whole delivery was forwarded.
    """

    kind: Literal["handler", "forward"]
    ok: bool
    text: str
    seconds: float
    at: datetime
    event: str = ""


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

    @property
    def is_genuine(self) -> bool:
        """True when its signature fits, so that Asana sent it."""
        return self.verdict not in ("refused", "handshake")

    @property
    def size(self) -> int:
        """Its bytes, headers included."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    def without_route(self, text: str) -> str:
        """Return a header's value without the route: proxies write the path into some."""
        return text.replace(self.route, "<route>") if self.route else text

    def events(self) -> list[Event]:
        """Return the events that can be decoded, of whatever was signed correctly."""
        if not self.is_genuine:
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


GENUINE = 200, 2**24
"""Requests with a signature that fits are remembered up to this number and to so many bytes."""

OF_STRANGERS = 50, 2**22
"""The bounds for all other requests: strangers push out nothing that is genuine."""

VERDICTS: dict[Outcome, Verdict] = {
    "stored": "accepted",
    "duplicate": "duplicate",
    "dead": "dead letter",
}


class _Current(NamedTuple):
    """The request that is being answered, and its record, which is not remembered yet."""

    request: Request
    record: Record


_current: ContextVar[_Current | None] = ContextVar("_current", default=None)


class Feed:
    """The records that changed since they were last asked for, each once; ended by ``close``."""

    def __init__(self) -> None:
        self._changed: dict[int, Record] = {}
        self._news = asyncio.Event()
        self.closed = False

    def tell(self, record: Record) -> None:
        """Note that a record is new, or has changed."""
        self._changed[record.id] = record
        self._news.set()

    def forget(self, record: Record) -> None:
        """Tell no more of a record, of which nobody was told yet."""
        self._changed.pop(record.id, None)

    def close(self) -> None:
        """Wake up whoever waits."""
        self.closed = True
        self._news.set()

    async def next(self, *, within: float) -> list[Record]:
        """Return what changed, oldest first; nothing after that many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        changed, self._changed = self._changed, {}
        return list(changed.values())


class _Last:
    """The last requests of a kind, bounded in number and in bytes; the newest is always there."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self.records: deque[Record] = deque()
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0

    def add(self, record: Record) -> Iterator[Record]:
        """Add a request, and yield those that go for it."""
        self.records.append(record)
        self._bytes += record.size
        while len(self.records) > 1 and (
            len(self.records) > self._most or self._bytes > self._most_bytes
        ):
            gone = self.records.popleft()
            self._bytes -= gone.size
            yield gone


class Recorder(Telemetry):
    """Remembers the last requests; ``on_answer`` is called with each when it was answered."""

    def __init__(self, on_answer: Callable[[Record], None] | None = None) -> None:
        self._genuine = _Last(*GENUINE)
        self._of_strangers = _Last(*OF_STRANGERS)
        self._by_origin: dict[bytes | tuple[str, datetime], Record] = {}
        self._feeds: set[Feed] = set()
        self._on_answer = on_answer
        self._count = 0

    def records(self) -> list[Record]:
        """Return what is remembered, oldest first."""
        both = (*self._genuine.records, *self._of_strangers.records)
        return sorted(both, key=attrgetter("id"))

    def find(self, number: int) -> Record | None:
        """Return the record with this id; None when there is none, or no more."""
        return next((record for record in self.records() if record.id == number), None)

    @contextlib.contextmanager
    def following(self) -> Iterator[Feed]:
        """Open a feed of what changes from now on."""
        feed = Feed()
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)

    def close(self) -> None:
        """End all feeds."""
        for feed in self._feeds:
            feed.close()

    def note_attempt(self, record: Record, attempt: Attempt) -> None:
        """Add an attempt to a record."""
        record.attempts.append(attempt)
        if self.find(record.id):  # an attempt may end before the answer is sent, or much later
            self._tell(record)

    def again(self, record: Record) -> Delivery:
        """Return a delivery to put into a store; its attempts are the record's."""
        digest = secrets.token_bytes(32)  # of its own, or it would be a duplicate
        now = datetime.now(UTC)
        self._by_origin[record.route, now] = record
        return Delivery(route=record.route, body=record.body, digest=digest, received_at=now)

    # What it is told

    @contextlib.contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        """Begin a record; attempts count for it from now on: a handler may be quicker than we."""
        record = self._begin(request)
        token = _current.set(_Current(request, record))
        try:
            yield
        finally:
            _current.reset(token)
            if not record.status:
                self._forget(record)

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        """Note what became of the delivery of the request under way."""
        current = _current.get()
        if current is not None:
            current.record.verdict, current.record.reason = VERDICTS[outcome], reason
            self._by_origin[delivery.route, delivery.received_at] = current.record

    def answered(self, response: Response) -> None:
        """Remember the request under way, with its answer, and tell of it."""
        current = _current.get()
        if current is None or (response is UNKNOWN_ROUTE and current.request.method != "POST"):
            return  # a passer-by's
        request, record = current
        record.body, record.status = request.body, response.status
        record.reason = response.reason or record.reason
        if response.status != 200:
            record.verdict = "refused"
            self._forget(record)
        self._remember(record)
        self._tell(record)
        if self._on_answer is not None:
            self._on_answer(record)

    @contextlib.contextmanager
    def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
        """Note how one attempt to handle an event ended."""
        started = time.monotonic()
        text = "handled"
        try:
            yield
        except BaseException as error:
            text = _described(error)
            raise
        finally:
            record = self._record_of(delivery)
            if record is not None:
                attempt = Attempt(
                    kind="handler",
                    ok=text == "handled",
                    text=text,
                    seconds=time.monotonic() - started,
                    at=datetime.now(UTC),
                    event=event.key,
                )
                self.note_attempt(record, attempt)

    def _record_of(self, delivery: Delivery) -> Record | None:
        """Return the record of a delivery, or of one event of it that is tried again alone."""
        record = self._by_origin.get(delivery.digest)
        return record or self._by_origin.get((delivery.route, delivery.received_at))

    def _begin(self, request: Request) -> Record:
        self._count += 1
        record = Record(
            id=self._count,
            received_at=datetime.now(UTC),
            route=request.route,
            method=request.method,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers
            ),
            signed=bool(request.signatures),
            verdict="handshake" if request.secrets and not request.signatures else "heartbeat",
        )
        digest = parse_signature("".join(request.signatures))
        if digest is not None:
            self._by_origin.setdefault(digest, record)  # a repeat's attempts are the first one's
        return record

    def _remember(self, record: Record) -> None:
        last = self._genuine if record.is_genuine else self._of_strangers
        for gone in last.add(record):
            self._forget(gone)
            for feed in self._feeds:
                feed.forget(gone)

    def _forget(self, record: Record) -> None:
        """Count no more attempts as this record's."""
        self._by_origin = {
            origin: each for origin, each in self._by_origin.items() if each is not record
        }

    def _tell(self, record: Record) -> None:
        for feed in self._feeds:
            feed.tell(record)


def _described(error: BaseException) -> str:
    if not isinstance(error, HandlerError):
        return "stopped before its end"
    return f"{error.handler} raised {one_line(error.__cause__)}"
