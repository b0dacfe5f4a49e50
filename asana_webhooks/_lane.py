"""The short way of a delivery through aiohttp: no task, no request object, no response object.

aiohttp parses, always, so that nothing can be read in two ways. When exactly one request came of
it, which is a complete POST, and nothing is queued or under way on the connection, the endpoint is
asked at once, and the answer is written when the store has the delivery. Whatever else there is
goes aiohttp's general way: a body still coming, chunks, ``Expect``, HTTP/1.0, an upgrade, several
requests, another method, a request that the endpoint must look into, and every answer but the
plain 200.

What holds between any two calls:

- ``_waiter`` is the future on which aiohttp's task waits for requests. It is None while a request
  is under way: while that task has one, or while the lane does, which hides it in ``_hidden``. So
  aiohttp queues what comes meanwhile, stops reading when that is too much, and begins nothing.
- At most one request of a connection is under way, and answers leave in the order of requests.
- A request that the lane has is in no queue. It is answered by one write, or put back in front of
  the queue together with what is known of it by then (``_known``), which is used for it alone.
- Where the connection is gone the lane still ends what it began with the store, and lets go of
  aiohttp's task after that: until then the connection counts as one of the server's.

It rests on the names in ``NEEDED``, which aiohttp keeps to itself. Where one is missing, every
request goes the general way.
"""

from __future__ import annotations

import asyncio
import functools
import time
from email.utils import formatdate
from typing import Any, Protocol, TypeAlias

from aiohttp import HttpVersion11, StreamReader, hdrs, web
from aiohttp.http import HttpRequestParser, RawRequestMessage

from ._endpoint import Acceptance, Endpoint, read_head
from .protocol import ACCEPTED, Request, Response

__all__ = ["NEEDED", "Host", "Known", "Lane", "accepted_at", "missing_names"]

NEEDED = (
    (web.RequestHandler, ("_messages", "_parser", "_waiter")),
    (HttpRequestParser, ("message_consumed",)),
    (RawRequestMessage, ("method", "path", "version", "headers", "raw_headers")),
    (RawRequestMessage, ("should_close", "upgrade", "chunked")),
)
"""Names of aiohttp, which may change them in any version, by the class that has them."""

Known: TypeAlias = "Request | Response | BaseException"
"""The head and body of a request, or its answer, or the error that is to be raised for it."""


def missing_names() -> list[str]:
    """Return the names that the lane needs and that this aiohttp has not."""
    return [
        f"{owner.__name__}.{name}"
        for owner, names in NEEDED
        for name in names
        if not hasattr(owner, name)
    ]


class Host(Protocol):
    """The server of a connection, as far as the lane asks it."""

    requests_count: int
    stopping: bool

    def begins(self, connection: Lane) -> None:
        """Note that a request is under way on a connection."""

    def waits(self, connection: Lane) -> None:
        """Note that a connection waits for its client."""


@functools.lru_cache(maxsize=1)
def accepted_at(second: int) -> bytes:
    """Return the answer to a delivery that is stored, as it goes over the wire in this second."""
    date = formatdate(second, usegmt=True)
    return f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: {date}\r\n\r\n".encode()


class Lane(web.RequestHandler):
    """A connection that takes deliveries the short way when ``is_open``.

    ``host`` is told of requests that are under way here, as it is by aiohttp of all others.
    """

    __slots__ = ("_acceptance", "_entry", "_hidden", "_host", "_known", "_lane_endpoint", "is_open")

    def __init__(self, host: Any, endpoint: Endpoint, *, is_open: bool, **options: Any) -> None:
        super().__init__(host, loop=asyncio.get_running_loop(), **options)
        self.is_open = is_open
        self._host: Host = host
        self._lane_endpoint = endpoint
        self._hidden: asyncio.Future[None] | None = None
        self._entry: tuple[Any, StreamReader] | None = None
        self._acceptance: Acceptance | None = None
        self._known: tuple[StreamReader, Known] | None = None

    @property
    def awaits_request(self) -> bool:
        """Whether nothing is under way, queued or unread by the client."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way, the short way or aiohttp's."""
        return self._entry is not None or self._request_in_progress

    @property
    def stored(self) -> asyncio.Future[bool] | None:
        """A future that is done when the store has the delivery under way the short way."""
        return None if self._acceptance is None else self._acceptance.stored

    def known(self, payload: StreamReader) -> Known | None:
        """Return what the lane knows of the request with this body, once; None if nothing."""
        known, self._known = self._known, None
        return known[1] if known is not None and known[0] is payload else None

    def cancel(self) -> None:
        """Give up the request that is under way the short way, if there is one."""
        if self._acceptance is not None:
            self._acceptance.cancel()

    def data_received(self, data: bytes) -> None:
        """Have aiohttp parse, and take what came of it if it is for the lane."""
        if not data and self._entry is not None:
            return  # a body that was read asks for more; behind a complete one nothing is held back
        waiter = self._waiter
        if not self.is_open or waiter is None or waiter.done():
            super().data_received(data)
            return
        self._waiter = None  # which wakes aiohttp's task when there is a request
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        if self._messages and not (len(self._messages) == 1 and self._take(waiter)):
            waiter.set_result(None)

    def _take(self, waiter: asyncio.Future[None]) -> bool:
        """Return whether the endpoint has taken the only request there is, or has answered it."""
        entry: tuple[Any, StreamReader] = self._messages[0]
        message, payload = entry
        if not _is_plain(message, payload):
            return False
        self._messages.popleft()
        self._entry, self._hidden, self._waiter = entry, waiter, None
        self._host.begins(self)
        try:
            head = read_head(message.method, message.path, message.raw_headers)
            head.body = payload.read_nowait()
            acceptance = self._lane_endpoint.accept(head, self._answer)
        except Exception as error:  # noqa: BLE001 - aiohttp answers it as any other
            self._give_back(error)
            return True
        if acceptance is None:
            self._give_back(head)
        elif self._entry is not None:
            self._acceptance = acceptance
        return True

    def _answer(self, answer: Response | BaseException) -> None:
        parser, transport = self._parser, self.transport
        if parser is None or transport is None:  # the connection is gone
            self._entry = self._acceptance = None
            self._release()
            if isinstance(answer, Exception):
                self.log_failure(answer)
        elif answer is not ACCEPTED or self._host.stopping:
            self._give_back(answer)
        else:
            self._entry = self._acceptance = None
            parser.message_consumed()
            self._host.requests_count += 1
            transport.write(accepted_at(int(time.time())))
            self._host.waits(self)
            if not self.writing_paused:  # else when a client that asks without reading has read
                self._release()

    def log_failure(self, error: BaseException) -> None:
        """Log an error that is nobody's answer."""

    def _give_back(self, known: Known) -> None:
        """Put the request back in front of the queue, with what is known of it, for aiohttp."""
        entry, self._entry, self._acceptance = self._entry, None, None
        assert entry is not None  # noqa: S101 - there is a request until it is answered
        self._known = entry[1], known
        self._messages.appendleft(entry)
        self._release()

    def _release(self) -> None:
        """Give aiohttp's task what is in the queue, or its wait for that, or its end."""
        waiter, self._hidden = self._hidden, None
        if waiter is None or waiter.done():  # it was cancelled meanwhile
            return
        if self.transport is None:
            waiter.cancel()
            return
        self._waiter = waiter
        if self._messages:
            waiter.set_result(None)

    def resume_writing(self) -> None:
        """Go on when the client has read its answer."""
        super().resume_writing()
        if self._entry is None:
            self._release()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what waits for the client; a request under way goes on."""
        super().connection_lost(exc)
        if self._entry is None:
            self._release()


def _is_plain(message: Any, payload: StreamReader) -> bool:
    return (
        getattr(message, "method", None) == hdrs.METH_POST  # what could not be parsed has none
        and message.version == HttpVersion11
        and not (message.chunked or message.should_close or message.upgrade)
        and hdrs.EXPECT not in message.headers
        and payload.is_eof()
    )
