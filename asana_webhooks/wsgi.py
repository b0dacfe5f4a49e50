"""The client in a thread of its own, for programs without asyncio, and a WSGI application of it.

::

    client = WsgiClient(public_url="https://hooks.example.com/asana", serve=False)

    @client.on("task")
    def note(event: Event) -> None:  # a plain function: it runs in a thread
        task = client.from_thread(client.fetch, event)

    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/asana": client.wsgi})  # Flask
    client.start()  # in each process that serves

Source: https://peps.python.org/pep-3333/
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread

from .client import WebhooksClient
from .models import Event, Notice, NoticeKind
from .router import Failure

__all__ = ["WsgiClient"]

P = ParamSpec("P")
T = TypeVar("T")
H = TypeVar("H", bound=Callable[[Event], object])
F = TypeVar("F", bound=Callable[[Failure], object])
N = TypeVar("N", bound=Callable[[Notice], object])

FORKED = (
    "the client was started before this process was forked, and threads do not outlive that: start"
    " it in each process, in gunicorn without --preload or in the hook post_worker_init"
)

logger = logging.getLogger(__name__)


class _Thread(NamedTuple):
    """A thread in which a client is open; ``stop`` is set in its ``loop``."""

    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    process: int


class WsgiClient(WebhooksClient):
    """A ``WebhooksClient`` that runs in a thread; it is made with ``serve=False``.

    ``start`` begins, in each process that serves; it ends with the process, within ten seconds, or
    by ``stop``. Processes that share the store share its webhooks and its work.

    Handlers of events, failures and notices may be plain functions, each of which runs in a thread
    of its own. A thread cannot be cancelled: a plain handler that exceeds ``handler_timeout`` has
    failed, its slot is free eight seconds later, and the thread goes on.
    """

    _thread: _Thread | None = None
    _starting = threading.Lock()

    def start(self) -> None:
        """Start the thread, enter the client there, and hand deliveries to its handlers.

        What is kept is established beside. Does nothing when it was started. Raises what entering
        the client raises, ValueError for a client with a receiver of its own, and RuntimeError in a
        process that was forked after the start.
        """
        if self.port is not None:
            msg = "the WSGI server is the receiver: make the client with serve=False"
            raise ValueError(msg)
        with self._starting:
            if self._thread is not None and self._of_this_process().thread.is_alive():
                return
            started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
            thread = threading.Thread(
                target=lambda: asyncio.run(self._live(started)), name="asana-webhooks"
            )
            thread.start()
            loop, stop = started.result()
            self._thread = _Thread(thread, loop, stop, os.getpid())
            threading.Thread(
                target=self._stop_with_process, name="asana-webhooks end", daemon=True
            ).start()

    def stop(self) -> None:
        """Close the client, as ``aclose`` does, and end its thread."""
        if self._thread is not None:
            thread, loop, stop, _ = self._of_this_process()
            if thread.is_alive():
                loop.call_soon_threadsafe(stop.set)
                thread.join()
            self._thread = None

    def from_thread(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a coroutine function in the client's thread; return what it returns, or raise that.

        So a method of the client is called: ``client.from_thread(client.fetch, event)``. Raises
        RuntimeError when the client is not started, and in its own thread, which would wait for
        itself.
        """
        running = self._running()
        if threading.current_thread() is running.thread:
            msg = "this is the client's own thread: await the call"
            raise RuntimeError(msg)
        return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), running.loop).result()

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request: the application to mount. Raises RuntimeError unless started.

        A body is read for as long as the server lets it be.
        """
        self._running()
        body = _body(environ, self._configured().endpoint.max_body)
        response = self.from_thread(
            self.handle, environ["REQUEST_METHOD"], _path(environ), list(_headers(environ)), body
        )
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        start_response(status, [*response.headers, ("Content-Length", str(len(response.body)))])
        return [response.body]

    def on(
        self,
        resource_type: str | None = None,
        *,
        subtype: str | None = None,
        action: str | None = None,
        field: str | None = None,
        resource: str | None = None,
        account: str | None = None,
        echoes: bool = False,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that registers a handler, plain or ``async def``, as ``Router.on``."""
        register = super().on(
            resource_type,
            subtype=subtype,
            action=action,
            field=field,
            resource=resource,
            account=account,
            echoes=echoes,
            name=name,
        )
        return functools.partial(_register, register, "the event")

    def on_failure(self, handler: F = None) -> F:  # type: ignore[assignment] # as its superclass
        """Register a function, plain or ``async def``, that is given each ``Failure``."""
        return _register(super().on_failure, "the failure", handler)

    def on_notice(self, kind: NoticeKind | None = None) -> Callable[[N], N]:
        """Return a decorator that registers a handler of notices, plain or ``async def``."""
        return functools.partial(_register, super().on_notice(kind), "the notice")

    async def _live(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        stop = asyncio.Event()
        try:
            async with self.running():
                started.set_result((asyncio.get_running_loop(), stop))
                await stop.wait()
        except BaseException as error:
            if started.done():
                logger.exception("the client has failed to close")
            else:
                started.set_exception(error)

    def _stop_with_process(self) -> None:
        """Stop when the interpreter begins to end, which waits for the thread."""
        threading.main_thread().join()
        self.stop()

    def _of_this_process(self) -> _Thread:
        found = self._thread
        if found is None:
            msg = "the client is not started: call start() in each process that serves"
            raise RuntimeError(msg)
        if found.process != os.getpid():
            raise RuntimeError(FORKED)
        return found

    def _running(self) -> _Thread:
        found = self._of_this_process()
        if not found.thread.is_alive():
            msg = "the client was stopped"
            raise RuntimeError(msg)
        return found


def _register(register: Callable[[Any], object], argument: str, handler: T) -> T:
    """Register a handler, or what runs it in a thread when it is a plain function."""
    register(_in_thread(handler, argument) if _is_plain(handler) else handler)
    return handler


def _is_plain(handler: Any) -> bool:
    function = _innermost(handler)
    call = getattr(type(function), "__call__", None)  # noqa: B004 - the method is looked at
    return callable(function) and not any(map(inspect.iscoroutinefunction, (function, call)))


def _innermost(handler: Any) -> Any:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


@functools.cache  # one that is registered twice is one
def _in_thread(handler: Any, argument: str) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Return a coroutine function that runs a plain one in a thread, to its end in any case.

    Raises TypeError unless that takes one argument.
    """
    function = _innermost(handler)
    named = function if hasattr(function, "__qualname__") else type(function)
    try:
        inspect.signature(handler).bind(None)
    except TypeError:
        msg = f"handler {named.__qualname__} must take one argument, {argument}"
        raise TypeError(msg) from None

    async def run(about: Any) -> None:
        work = anyio.to_thread.run_sync(handler, about, limiter=anyio.CapacityLimiter(1))
        running = asyncio.ensure_future(work)
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:  # which a thread does not hear of
                continue
        running.result()

    run.__module__, run.__qualname__ = named.__module__, named.__qualname__
    return run


def _path(environ: dict[str, Any]) -> str:
    """Return the path as it came, where the server keeps it, else as it may have come."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if isinstance(raw, str):
        return raw
    decoded: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return quote(decoded, safe="/", encoding="latin-1")


def _headers(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name.removeprefix("HTTP_").replace("_", "-"), value
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name.replace("_", "-"), value


def _body(environ: dict[str, Any], limit: int) -> bytes:
    """Return the body; of one beyond the limit enough to show that, or nothing if that is said."""
    length = environ.get("CONTENT_LENGTH") or ""
    if length.isdecimal():
        expected = int(length[:20])
    else:
        expected = limit + 1 if environ.get("wsgi.input_terminated") else 0
    pieces, left = [], expected if expected <= limit + 1 else 0
    while left and (piece := environ["wsgi.input"].read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
