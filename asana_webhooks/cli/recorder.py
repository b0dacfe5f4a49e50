"""What came in and what became of it: requests, verdicts, attempts to handle them.

A recorder watches from outside: it stands before an endpoint as a shell does, before a store, and
is told of attempts as telemetry is. Nothing is decided by it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from ..models import Delivery
from ..protocol import PROBES, UNKNOWN_ROUTE, Request, Response
from ..router import HandlerError
from .records import Attempt, Record

if TYPE_CHECKING:
    from .._endpoint import Answers
    from ..stores import Store
    from ..telemetry import Stats

__all__ = ["Feed", "Recorder"]

MAX_RECORDS = 200
"""How many requests are remembered; the oldest go."""

_current: ContextVar[Record | None] = ContextVar("the request that is being answered", default=None)


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

    def close(self) -> None:
        """Let who waits wait no longer."""
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


class Recorder:
    """Remembers the last requests; ``on_answer`` is called with each when it was answered.

    It is telemetry too: for the attempts, give it to a client or an inbox.
    """

    def __init__(self, on_answer: Callable[[Record], None] | None = None) -> None:
        self._records: deque[Record] = deque()
        self._by_digest: dict[bytes, Record] = {}
        self._feeds: set[Feed] = set()
        self._on_answer = on_answer
        self._count = 0

    def around(self, endpoint: Answers) -> Answers:
        """Return what answers like the endpoint and records what it is asked."""
        return _Recorded(self, endpoint)

    def watched(self, store: Store) -> Store:
        """Return the store, but for telling the recorder what it keeps."""
        return cast("Store", _Watched(self, store))

    def records(self) -> list[Record]:
        """Return what is remembered, oldest first."""
        return list(self._records)

    def find(self, number: int) -> Record | None:
        """Return the record with this id; None when there is none, or no more."""
        return next((record for record in self._records if record.id == number), None)

    @contextmanager
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
        if record.status:  # an attempt may end before the answer is sent
            self._tell(record)

    def again(self, record: Record) -> Delivery:
        """Return a delivery to put into a store, which handlers are then given once more."""
        digest = secrets.token_bytes(32)  # of its own, or it would be a duplicate
        self._by_digest[digest] = record
        return Delivery(
            route=record.route, body=record.body, digest=digest, received_at=datetime.now(UTC)
        )

    # What the endpoint and the store are asked

    def begin(self, request: Request) -> Record:
        """Return the record of a request, which is not remembered yet."""
        self._count += 1
        return Record(
            id=self._count,
            received_at=datetime.now(UTC),
            route=request.route,
            method=request.method,
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers
            ),
            signed=bool(request.signatures),
            verdict="handshake" if request.secrets and not request.signatures else "refused",
        )

    def end(self, record: Record, request: Request, response: Response) -> None:
        """Remember a request, with its answer, and tell of it."""
        record.body, record.status = request.body, response.status
        record.reason = response.reason or record.reason
        if response.status != 200:
            record.verdict = "refused"
        self._remember(record)
        self._tell(record)
        if self._on_answer is not None:
            self._on_answer(record)

    def expect(self, record: Record, digest: bytes) -> None:
        """Count attempts for this digest as the record's, unless they are an earlier one's."""
        self._by_digest.setdefault(digest, record)

    def _remember(self, record: Record) -> None:
        self._records.append(record)
        if len(self._records) > MAX_RECORDS:
            gone = self._records.popleft()
            self._by_digest = {
                digest: each for digest, each in self._by_digest.items() if each is not gone
            }

    def _tell(self, record: Record) -> None:
        for feed in self._feeds:
            feed.tell(record)

    # What telemetry is told

    def receiving(self) -> AbstractContextManager[object]:
        """Do nothing: requests are seen from before the endpoint."""
        return nullcontext()

    def answered(self, status: int, reason: str) -> None:
        """Do nothing, likewise."""

    def traceparent(self) -> str:
        """Return '': there are no traces."""
        return ""

    @contextmanager
    def processing(self, delivery: Delivery) -> Iterator[None]:
        """Note how one attempt to handle a delivery ended."""
        started = time.monotonic()
        text = "handled"
        try:
            yield
        except BaseException as error:
            text = _described(error)
            raise
        finally:
            record = self._by_digest.get(delivery.digest)
            if record is not None:
                seconds = time.monotonic() - started
                attempt = Attempt("handler", text == "handled", text, seconds, datetime.now(UTC))
                self.note_attempt(record, attempt)

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Do nothing: the page asks the store."""


def _described(error: BaseException) -> str:
    if not isinstance(error, HandlerError):
        return "stopped before its end"
    cause = error.__cause__
    return f"{error.handler} raised {type(cause).__name__}: {cause}"


class _Recorded:
    def __init__(self, recorder: Recorder, endpoint: Answers) -> None:
        self._recorder = recorder
        self._endpoint = endpoint

    @property
    def max_body(self) -> int:
        return self._endpoint.max_body

    async def handle(self, request: Request, read: Callable[[], Awaitable[bytes]]) -> Response:
        if request.route in PROBES:
            return await self._endpoint.handle(request, read)
        record = self._recorder.begin(request)
        token = _current.set(record)
        try:
            response = await self._endpoint.handle(request, read)
        finally:
            _current.reset(token)
        if response is not UNKNOWN_ROUTE or request.method == "POST":  # else a passer-by's
            self._recorder.end(record, request, response)
        return response


class _Watched:
    """A store that notes what it is asked to keep for the request under way."""

    def __init__(self, recorder: Recorder, store: Store) -> None:
        self._recorder = recorder
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._store.__aexit__(exc_type, exc, traceback)

    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        record = _current.get()
        if record is not None:  # before it is kept: a handler may be quicker than we are
            self._recorder.expect(record, delivery.digest)
        kept = await self._store.put(delivery, candidate=candidate, reason=reason)
        if record is not None:
            record.verdict = "duplicate" if not kept else "dead letter" if reason else "accepted"
            record.reason = reason or "" if kept else ""
        return kept

    async def note_heartbeat(self, route: str, at: datetime) -> None:
        await self._store.note_heartbeat(route, at)
        record = _current.get()
        if record is not None:
            record.verdict = "heartbeat"
