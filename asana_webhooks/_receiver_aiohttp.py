"""The receiver on aiohttp: a server of its own, or an application to mount.

aiohttp is set up for the public internet where its defaults are not: deadlines for headers and
bodies, a cap on connections, nothing inflated before it is verified, one log line of a kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import ssl
import time
from collections import OrderedDict
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

import anyio
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from ._addresses import is_loopback
from ._endpoint import BAD_REQUEST, LINGER, Endpoint, Receive, Refusal, check_positive, read_head
from ._logging import ThrottledLogger
from .protocol import ACCEPTED, Response

__all__ = ["MAX_CONNECTIONS", "Receiver", "aiohttp_app"]

MAX_CONNECTIONS = 1_000
"""Connections at once, unless another limit is given; one more ends the one idle for longest."""

KEEPALIVE_ALONE, KEEPALIVE_BEHIND_PROXY = 15.0, 75.0
"""Seconds for which a connection may be silent or send headers. Proxies keep theirs for 60."""

SHUTDOWN_TIMEOUT, CANCEL_TIMEOUT = 6.0, 1.0
"""Seconds that requests under way have when the receiver stops, and then to be cancelled."""

TURNS = 6
"""Turns of the loop from accepting a connection to answering the request that came with it."""

logger = logging.getLogger(__name__)
sparse = ThrottledLogger(logger)

FAILED = Response(500, "internal error", closes=True)
WRONG_VERSION = Response(505, "HTTP/1.1 and HTTP/1.0 only", closes=True)

_VERSIONS = (HttpVersion11, HttpVersion10)


async def answer(endpoint: Endpoint, request: web.BaseRequest) -> Response:
    """Return the endpoint's answer to aiohttp's request."""
    if request.version not in _VERSIONS:
        return WRONG_VERSION
    head = read_head(request.method, request.raw_path, request.raw_headers)
    return await endpoint.handle(head, _receiving(request))


def _response(response: Response, request: web.BaseRequest) -> web.Response:
    text = response.reason + "\n" if response.reason else None
    result = web.Response(status=response.status, text=text, headers=dict(response.headers))
    # aiohttp's parser gives a trailer to the next request as a header
    if response.closes or "Transfer-Encoding" in request.headers:
        result.force_close()
    return result


@functools.lru_cache(maxsize=1)
def _accepted_at(second: int) -> bytes:
    date = formatdate(second, usegmt=True)
    return f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: {date}\r\n\r\n".encode()


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
        await request.writer.write(_accepted_at(int(time.time())))
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
    ValueError for a port that is none, and for a limit that is not positive.
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
        if not 0 <= port <= 65_535:
            msg = f"port must be 0 to 65535, not {port}"
            raise ValueError(msg)
        check_positive(max_connections=max_connections, keepalive_timeout=keepalive_timeout)
        self._endpoint = endpoint
        self._host = host
        self.port = port
        self._reuse_port = reuse_port
        self._unix_socket = unix_socket
        self._ssl_context = ssl_context
        self._max_connections = max_connections
        self._keepalive_timeout = keepalive_timeout
        self._listening: tuple[asyncio.Server, _Server] | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises OSError when the address is taken."""
        keepalive_timeout = self._keepalive_timeout or self._default_keepalive()
        server = _Server(
            self._endpoint,
            max_connections=self._max_connections,
            keepalive_timeout=keepalive_timeout,
        )
        listener = await self._listen(server, keepalive_timeout)
        self._listening = listener, server
        if self._unix_socket is None:
            self.port = listener.sockets[0].getsockname()[1]
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
            with anyio.CancelScope(shield=True):
                await _close(listener)
                await server.drain()

    async def _listen(self, server: _Server, handshake_timeout: float) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": 1024}
        if self._ssl_context is not None:
            options["ssl"] = self._ssl_context
            options["ssl_handshake_timeout"] = handshake_timeout
            options["ssl_shutdown_timeout"] = LINGER
        if self._unix_socket is not None:
            return await loop.create_unix_server(server, self._unix_socket, **options)
        if self._reuse_port:
            options["reuse_port"] = True
        return await loop.create_server(server, self._host, self.port, **options)

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


async def _close(listener: asyncio.Server) -> None:
    """Accept no more; close when asyncio, which loses them else, handed over what it accepted."""
    loop = asyncio.get_running_loop()
    try:
        with contextlib.suppress(NotImplementedError):  # of the proactor, on Windows
            for listening in listener.sockets:
                loop.remove_reader(listening.fileno())
        for _ in range(TURNS):
            await asyncio.sleep(0)
    finally:
        listener.close()


class _Server(web.Server):
    """Hands requests to the endpoint and keeps count of connections."""

    def __init__(
        self, endpoint: Endpoint, *, max_connections: int, keepalive_timeout: float
    ) -> None:
        super().__init__(self._answer)
        self._endpoint = endpoint
        self._max_connections = max_connections
        self._keepalive_timeout = keepalive_timeout
        self._stopping = False
        self._open = 0
        self._idle: OrderedDict[web.RequestHandler, asyncio.Transport] = OrderedDict()

    def __call__(self) -> web.RequestHandler:
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._keepalive_timeout,
            lingering_time=LINGER,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type] # None is aiohttp's way to have none
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        transport = self._idle.pop(connection, None)
        if transport is not None and not request.content.is_eof():
            self._idle[connection] = transport  # who lets us wait for a body may be ended
        try:
            answered = await answer(self._endpoint, request)
        finally:
            if transport is not None and connection.connected:
                self._idle[connection] = transport
        if answered is ACCEPTED and self._may_stay_open(request):
            return _ACCEPTED
        response = _response(answered, request)
        if self._stopping:
            response.force_close()
        return response

    def _may_stay_open(self, request: web.BaseRequest) -> bool:
        return (
            request.keep_alive
            and request.version == HttpVersion11
            and request.content_length is not None
            and not self._stopping
        )

    async def drain(self) -> None:
        """End idle connections, let requests under way end, then close every connection."""
        self._stopping = True
        for connection in list(self._idle):
            if not connection._request_in_progress:
                connection.force_close()
        tasks = [connection._task_handler for connection in self._connections]
        serving = [task for task in tasks if task is not None]
        transports = list(self._connections.values())
        try:
            if serving:
                await asyncio.wait(serving, timeout=SHUTDOWN_TIMEOUT)
            await self.shutdown(CANCEL_TIMEOUT)
        finally:
            for transport in transports:
                transport.abort()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count, and end the connection that is idle for longest when there are too many."""
        super().connection_made(handler, transport)
        self._open += 1
        self._idle[handler] = transport
        if self._stopping:
            transport.abort()
        elif self._open > self._max_connections:
            _, longest_idle = self._idle.popitem(last=False)
            longest_idle.abort()
            sparse.log(logging.WARNING, "connections", "too many connections; an idle one is ended")

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Count, and end what only waits for the client; a request under way goes on."""
        super().connection_lost(handler, exc)
        self._open -= 1
        self._idle.pop(handler, None)
        if not handler._request_in_progress and handler._task_handler is not None:
            handler._task_handler.cancel()


class _Connection(web.RequestHandler):
    """Endpoint bad HTTP without quoting it, and logs it without repeating itself."""

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
            sparse.log(logging.ERROR, "failed", "a request failed: %r", exc, exc_info=True)
            return _response(FAILED, request)
        sparse.log(logging.INFO, "bad request", "answered 400: %s", type(exc).__name__)
        return _response(BAD_REQUEST, request)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what aiohttp could not answer any more, sparsely."""
        sparse.log(logging.INFO, "broken", "a connection broke while it was answered")
