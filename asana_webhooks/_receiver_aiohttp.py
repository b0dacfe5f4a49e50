"""The receiver on aiohttp: a server of its own, or an application to mount.

aiohttp is set up for the public internet where its defaults are not: deadlines for headers and
bodies, a cap on connections, nothing inflated before it is verified, one log line of a kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import OrderedDict
from types import TracebackType
from typing import Any, Self

import anyio
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from ._addresses import is_loopback
from ._endpoint import LINGER, Endpoint, Receive, Refusal, read_head
from ._lane import Known, Lane, accepted_at, missing_names
from ._listener import Listener, bind, bind_unix, connections_within
from ._logging import ThrottledLogger
from ._options import COUNT, SECONDS, TEXT, Rule, check_options, optional
from ._sightings import BAD_REQUEST
from .protocol import ACCEPTED, Response

__all__ = ["MAX_CONNECTIONS", "Receiver", "aiohttp_app"]

MAX_CONNECTIONS = 1_000
"""Connections at once, unless another limit is given; one more ends the one idle for longest."""

BACKLOG = 1024
"""Connections that the system keeps until they are accepted, but no more than there may be."""

KEEPALIVE_ALONE, KEEPALIVE_BEHIND_PROXY = 15.0, 75.0
"""Seconds for which a connection may be silent or send headers. Proxies keep theirs for 60."""

SHUTDOWN_TIMEOUT, CANCEL_TIMEOUT = 6.0, 1.0
"""Seconds that requests under way have when the receiver stops, and then to be cancelled."""

NEVER = 1e9
"""Seconds after which aiohttp would end an idle connection by itself: the server here does."""

TURNS = 6
"""Turns of the loop from accepting a connection to answering the request that came with it."""

logger = logging.getLogger(__name__)
sparse = ThrottledLogger(logger)

FAILED = Response(500, "internal error", closes=True)
WRONG_VERSION = Response(505, "HTTP/1.1 and HTTP/1.0 only", closes=True)

_OPTIONS = {
    "host": TEXT,
    "port": Rule((int,), "a port, 0 to 65535", lambda port: 0 <= port <= 65_535),
    "max_connections": COUNT,
    "keepalive_timeout": optional(SECONDS),
}

_VERSIONS = (HttpVersion11, HttpVersion10)


async def answer(
    endpoint: Endpoint, request: web.BaseRequest, known: Known | None = None
) -> Response:
    """Return the endpoint's answer to aiohttp's request, of which the lane may know something."""
    if request.version not in _VERSIONS:
        return WRONG_VERSION
    if isinstance(known, BaseException):
        raise known
    if isinstance(known, Response):
        return known
    head = known or read_head(request.method, request.raw_path, request.raw_headers)
    if known is None and request.content.is_eof():
        head.body = request.content.read_nowait()  # which spares its deadline
    return await endpoint.handle(head, _receiving(request))


def _response(response: Response, request: web.BaseRequest) -> web.Response:
    text = response.reason + "\n" if response.reason else None
    result = web.Response(status=response.status, text=text, headers=dict(response.headers))
    # aiohttp's parser gives a trailer to the next request as a header
    if response.closes or "Transfer-Encoding" in request.headers:
        result.force_close()
    return result


class _Accepted(web.StreamResponse):
    """The answer to a stored delivery, as it goes over the wire: one for all requests.

    Nearly nothing else is ever answered; to build and write it by aiohttp's general way is a
    seventh of the work for a request.
    """

    @property
    def keep_alive(self) -> bool:
        """True: the connection goes on."""
        return True

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it."""
        await request.writer.write(accepted_at(int(time.time())))
        await request.writer.drain()  # until a client that asks without reading has read

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: it is written whole."""


_ACCEPTED = _Accepted()


def _receiving(request: web.BaseRequest) -> Receive:
    """Return what gives the pieces of a request's body, and asks for it first."""
    content = request.content
    asked = False

    async def receive() -> tuple[bytes, bool]:
        nonlocal asked
        try:
            if content.is_eof():
                # empty too when a middleware around us was first; then aiohttp kept the body
                return content.read_nowait() or await request.read(), False
            if not asked:
                asked = True
                await _ask_for_body(request)
            return await content.readany(), not content.at_eof()
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise Refusal(BAD_REQUEST) from None

    return receive


async def _ask_for_body(request: web.BaseRequest) -> None:
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def aiohttp_app(endpoint: Endpoint) -> web.Application:
    """Return an application for ``add_subapp`` that answers whatever is below its prefix."""

    async def handler(request: web.Request) -> web.Response:
        return _response(await answer(endpoint, request), request)

    async def expect_nothing(request: web.Request) -> None:
        """Leave ``100 Continue`` to the moment at which a body is wanted."""

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler, expect_handler=expect_nothing)
    return app


class Receiver:
    """A server of its own for an endpoint, listening while the context manager is entered.

    On ``host`` and ``port`` (0: any free one, see ``port`` then) or on a Unix socket. With
    ``reuse_port`` several processes listen on one port; the system shares connections out. Raises
    ValueError or TypeError for a port or a limit that is none.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        host: str,
        port: int,
        reuse_port: bool = False,
        unix_socket: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_timeout: float | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        self._endpoint = endpoint
        self._host = host
        self.port = port
        self._reuse_port = reuse_port
        self._unix_socket = unix_socket
        self._ssl_context = ssl_context
        self._max_connections = max_connections
        self._keepalive_timeout = keepalive_timeout
        self._listening: tuple[Listener, _Server] | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the address is taken."""
        keepalive_timeout = self._keepalive_timeout or self._default_keepalive()
        allowed = connections_within(self._max_connections)
        missing = missing_names()
        if missing:
            logger.warning("deliveries go the slow way: this aiohttp has no %s", ", ".join(missing))
        server = _Server(
            self._endpoint,
            has_lane=not missing,
            max_connections=allowed,
            keepalive_timeout=keepalive_timeout,
            ssl_context=self._ssl_context,
        )
        backlog = min(allowed, BACKLOG)
        if self._unix_socket is not None:
            sockets = bind_unix(self._unix_socket, backlog=backlog)
        else:
            sockets = await bind(
                self._host, self.port, reuse_port=self._reuse_port, backlog=backlog
            )
            self.port = sockets[0].getsockname()[1]
        listener = Listener(sockets, take=server.take, make_room=server.make_room)
        self._listening = listener, server
        if allowed < self._max_connections:
            logger.info("at most %d connections at once: descriptors are limited", allowed)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Accept no more, let requests under way end, then close every connection."""
        if self._listening is not None:
            listener, server = self._listening
            self._listening = None
            listener.close()
            with anyio.CancelScope(shield=True):
                await server.drain()

    def move(self, host: str | None, port: int | None, *, reuse_port: bool | None) -> None:
        """Listen elsewhere, the next time; what is None stays. Raises RuntimeError if it cannot."""
        if self._listening is not None or self._unix_socket is not None:
            msg = "the receiver cannot be moved: it listens already, or on a Unix socket"
            raise RuntimeError(msg)
        self._host = self._host if host is None else host
        self.port = self.port if port is None else port
        self._reuse_port = self._reuse_port if reuse_port is None else reuse_port

    def _default_keepalive(self) -> float:
        behind_proxy = self._unix_socket is not None or is_loopback(self._host)
        return KEEPALIVE_BEHIND_PROXY if behind_proxy else KEEPALIVE_ALONE


class _Server(web.Server):
    """Hands requests to the endpoint and keeps count of connections.

    With ``has_lane`` deliveries go the short way of ``_lane``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        has_lane: bool,
        max_connections: int,
        keepalive_timeout: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        super().__init__(self._answer)
        self.stopping = False
        self._endpoint = endpoint
        self._has_lane = has_lane
        self._max_connections = max_connections
        self._keepalive_timeout = keepalive_timeout
        self._tls: dict[str, Any] = {}
        if ssl_context is not None:
            self._tls["ssl"] = ssl_context
            self._tls["ssl_handshake_timeout"] = keepalive_timeout
            self._tls["ssl_shutdown_timeout"] = LINGER
        self._open: set[_Connection] = set()
        self._opening: dict[_Connection, asyncio.Task[None]] = {}
        # What waits for its client, the longest wait first, and since when (of the loop's clock).
        self._idle: OrderedDict[_Connection, float] = OrderedDict()
        self._sweeping = self._loop.call_later(keepalive_timeout / 8, self._sweep)

    def take(self, connection: socket.socket) -> None:
        """Begin with a connection that was accepted; end an idle one when there are too many."""
        handler = _Connection(self, self._endpoint, is_open=self._has_lane)
        opening = self._loop.create_task(
            self._begin(handler, connection), name="asana-webhooks accept"
        )
        self._open.add(handler)
        self._opening[handler] = opening
        self.waits(handler)
        if len(self._open) > self._max_connections:
            self._end_idle(1)
            sparse.log(logging.WARNING, "connections", "too many connections; an idle one is ended")

    async def _begin(self, handler: _Connection, connection: socket.socket) -> None:
        """Make a transport, with TLS after its handshake; what fails there is the client's."""
        try:
            with contextlib.suppress(OSError):
                await self._loop.connect_accepted_socket(lambda: handler, connection, **self._tls)
        finally:
            if self._opening.pop(handler, None) is not None:  # it came to nothing
                self._open.discard(handler)
                self._idle.pop(handler, None)

    def make_room(self, error: OSError) -> None:
        """End half of the idle connections: no descriptors are left for others."""
        self._end_idle(max(1, len(self._idle) // 2))
        sparse.log(logging.WARNING, "descriptors", "idle connections are ended: %s", error.strerror)

    def _end_idle(self, count: int) -> None:
        for _ in range(min(count, len(self._idle))):
            handler, _ = self._idle.popitem(last=False)
            if handler in self._opening:
                # A task that is cancelled before it began would leave the connection open.
                self._loop.call_soon(self._opening[handler].cancel)
            else:
                self._connections[handler].abort()

    def begins(self, connection: _Connection) -> None:
        """Note that a request is under way: its connection may not be ended."""
        self._idle.pop(connection, None)

    def waits(self, connection: _Connection) -> None:
        """Note that a connection waits for its client: it may be ended."""
        self._idle[connection] = self._loop.time()

    def _sweep(self) -> None:
        """Close what was silent, or has sent headers, for too long; an eighth later at most."""
        latest = self._loop.time() - self._keepalive_timeout
        for connection in [each for each, since in self._idle.items() if since <= latest]:
            if connection.awaits_request:  # else it is its body that is awaited, or its reading
                connection.force_close()
        self._sweeping = self._loop.call_later(self._keepalive_timeout / 8, self._sweep)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101 - there are no others
        since = self._idle.pop(connection, None)
        if since is not None and not request.content.is_eof():
            self._idle[connection] = since  # who lets us wait for a body may be ended
        try:
            answered = await answer(self._endpoint, request, connection.known(request.content))
        finally:
            self._idle.pop(connection, None)
            if connection.connected:
                self.waits(connection)
        if answered is ACCEPTED and self._may_stay_open(request):
            return _ACCEPTED
        response = _response(answered, request)
        if self.stopping:
            response.force_close()
        return response

    def _may_stay_open(self, request: web.BaseRequest) -> bool:
        return (
            request.keep_alive
            and request.version == HttpVersion11
            and request.content_length is not None
            and not self.stopping
        )

    async def drain(self) -> None:
        """End idle connections, let requests under way end, then close every connection."""
        transports: list[asyncio.Transport] = []
        try:
            for _ in range(TURNS):
                await asyncio.sleep(0)
            self.stopping = True
            transports += self._connections.values()
            openings = list(self._opening.values())
            for opening in openings:
                opening.cancel()
            for connection in list(self._idle):
                if not connection.is_busy:
                    connection.force_close()
            connections = [each for each in self._connections if isinstance(each, _Connection)]
            under_way = (each for one in connections for each in (one._task_handler, one.stored))
            waited_for = [*openings, *(each for each in under_way if each is not None)]
            if waited_for:
                await asyncio.wait(waited_for, timeout=SHUTDOWN_TIMEOUT)
            for connection in connections:
                connection.cancel()
            await self.shutdown(CANCEL_TIMEOUT)
        finally:
            self.stopping = True
            self._sweeping.cancel()
            for transport in (*transports, *self._connections.values()):
                transport.abort()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Note that a connection waits for a request."""
        super().connection_made(handler, transport)
        assert isinstance(handler, _Connection)  # noqa: S101 - as above
        is_new = self._opening.pop(handler, None) is not None
        if is_new and handler in self._idle and not self.stopping:
            self.waits(handler)
        else:  # it was ended meanwhile
            transport.abort()

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """End what only waits for the client; a request under way goes on."""
        super().connection_lost(handler, exc)
        assert isinstance(handler, _Connection)  # noqa: S101 - as above
        self._open.discard(handler)
        self._idle.pop(handler, None)
        if not handler.is_busy and handler._task_handler is not None:
            handler._task_handler.cancel()


class _Connection(Lane):
    """Answers bad HTTP without quoting it, and logs it without repeating itself."""

    def __init__(self, server: _Server, endpoint: Endpoint, *, is_open: bool) -> None:
        super().__init__(
            server,
            endpoint,
            is_open=is_open,
            keepalive_timeout=NEVER,
            lingering_time=LINGER,
            auto_decompress=False,
            access_log=None,
        )

    def data_received(self, data: bytes) -> None:
        """Parse; what aiohttp lets escape (IndexError for some URLs) ends the connection."""
        try:
            super().data_received(data)
        except Exception as exc:  # noqa: BLE001 - asyncio would log each with its traceback
            sparse.log(logging.INFO, "bad request", "closed: %s", type(exc).__name__)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return a fixed answer; ``message`` quotes the request and is left out."""
        if request.writer.output_size > 0:
            raise ConnectionError
        if status == 500:
            self.log_failure(exc)
            return _response(FAILED, request)
        sparse.log(logging.INFO, "bad request", "answered 400: %s", type(exc).__name__)
        return _response(BAD_REQUEST, request)

    def log_failure(self, error: BaseException | None) -> None:
        """Log a bug of ours."""
        sparse.log(logging.ERROR, "failed", "a request failed: %r", error, exc_info=error or True)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp could not answer any more, sparsely."""
        sparse.log(logging.INFO, "broken", "a connection broke while it was answered")
