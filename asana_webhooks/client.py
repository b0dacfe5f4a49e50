"""``WebhooksClient``: what receives, keeps, handles and establishes, as one object."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Self

import anyio
import httpx

from ._background import background_task
from ._clock import Clock
from ._desired import DesiredWebhooks
from ._endpoint import Endpoint
from ._establish import Establishment, check_given_filters, check_public_url
from ._inbox import INBOX_OPTIONS, Inbox, iter_dead_letters
from ._logging import ThrottledLogger
from ._options import (
    ANY,
    COUNT,
    FLAG,
    NAMES,
    SECONDS,
    SOCKET_PATH,
    TEXT,
    Rule,
    check_options,
    optional,
)
from ._ownership import Ownership
from ._receiver_aiohttp import MAX_CONNECTIONS, Receiver, aiohttp_app
from ._receiver_asgi import AsgiApp
from .api import WebhooksApi
from .models import DeadLetter, Event, NoticeKind, Route, Webhook, WebhookFilter, check_gid
from .notices import N, Notices
from .protocol import MAX_BODY
from .router import F, H, Router
from .stores import Store
from .stores.urls import store_of
from .telemetry import Counters, Stats, Telemetry, Together

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["WebhooksClient"]

OBSERVE_PAUSE = 5.0
"""Seconds before telemetry that failed is asked again to watch."""

logger = logging.getLogger(__name__)


HOST, PORT = "127.0.0.1", 8080
"""The address that the receiver listens on unless it is told."""

_OPTIONS = {
    "token": ANY,  # refused without being quoted, where it is found
    "public_url": optional(TEXT),
    "store": Rule((str, Store), "the URL of a store, as 'sqlite:///hooks.db', or a store object"),
    "encryption_keys": optional(NAMES),
    "serve": FLAG,
    "host": optional(TEXT),
    "port": optional(Rule((int,), "0 to 65535", lambda value: 0 <= value <= 65_535)),
    "reuse_port": FLAG,
    "unix_socket": optional(SOCKET_PATH),
    "ssl_context": optional(Rule((ssl.SSLContext,), "an ssl.SSLContext")),
    "base_url": optional(TEXT),
    "workspace": ANY,  # a gid, checked as such
    "http_client": ANY,  # checked where it is used
    "max_body": COUNT,
    "max_connections": COUNT,
    "keepalive_timeout": optional(SECONDS),
    **INBOX_OPTIONS,
    "answer_gone": FLAG,
    "look_after": optional(SECONDS, "None for never"),
    "telemetry": optional(Rule((Telemetry,), "a Telemetry")),
}
"""Rules for the constructor's options."""

_NEXT_STEPS = {
    errno.EADDRINUSE: "end what listens there, or choose another port (0 takes any free one)",
    errno.EADDRNOTAVAIL: "choose an address of this machine as host",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
}

_LETTERS = {"limit": COUNT, "after": TEXT}
_CHOICE = {
    "resource": optional(TEXT),
    "webhook": optional(TEXT),
    "reason": optional(TEXT),
    "buried_before": optional(
        Rule((datetime,), "an aware datetime", lambda value: value.tzinfo is not None)
    ),
}


def _check_receiver(*, serve: bool, unix_socket: str | None, options: Mapping[str, object]) -> None:
    """Raise ValueError for options of a receiver that would not be heeded."""
    names = ["host", "port", "reuse_port"]
    because = "unix_socket is where the receiver listens"
    if not serve:
        names += ["unix_socket", "ssl_context"]
        because = "with serve=False there is no receiver, another server listens"
    unheeded = [name for name in names if not (options[name] is None or options[name] is False)]
    if unheeded and not (serve and unix_socket is None):
        msg = f"leave out {', '.join(unheeded)}: {because}"
        raise ValueError(msg)


class _Components(NamedTuple):
    """The parts of a client beside its REST calls, when it has a public URL."""

    store: Store
    ownership: Ownership
    inbox: Inbox
    endpoint: Endpoint
    establishment: Establishment
    desired: DesiredWebhooks
    notices: Notices
    counters: Counters
    telemetry: Telemetry

    async def stats(self) -> Stats:
        counts, routes = await self.store.counts(), await self.store.list_routes()
        return self.counters.snapshot(counts, routes)

    async def observe(self) -> None:
        """Have the telemetry take its snapshots, until cancelled; what it raises is logged."""
        task, log = asyncio.current_task(), ThrottledLogger(logger)
        while True:
            try:
                return await self.telemetry.watch(self.stats)
            except Exception:
                log.log(logging.ERROR, "watch", "the telemetry failed to watch", exc_info=True)
            if task is not None and task.cancelling():  # it failed in its clean-up
                return None
            await anyio.sleep(OBSERVE_PAUSE)


class WebhooksClient(WebhooksApi):
    """Establishes webhooks, receives their deliveries and hands their events to handlers.

    With ``public_url``, the address at which the internet reaches the receiver, entering the
    client opens the store and, unless ``serve`` is false, listens on ``host`` and ``port``, or on
    ``unix_socket``. Without it the client is a REST client: no port, no file.

    ``store`` is a URL (see ``stores.urls.open_store``) or a store object, which the client opens
    and closes. ``encryption_keys``, the newest first, go with a URL: Fernet keys that encrypt the
    secrets in the store; None takes those of ``ASANA_WEBHOOKS_ENCRYPTION_KEYS``. ``workspace``
    is where to look for a webhook whose creation got no answer; None: everywhere.
    ``max_body`` is in bytes, ``keepalive_timeout`` in seconds (None: 75 behind a proxy, which a
    loopback address or a Unix socket stands for, else 15). ``answer_gone`` answers deliveries
    for a webhook that was deleted here with 410, on which Asana ends it. ``reuse_port`` lets
    several processes listen on one port, where the system can (Linux, BSD). Every ``look_after``
    seconds each webhook that was ensured is looked after again; None: never. ``telemetry`` is an
    ``otel.OpenTelemetry``, or a ``telemetry.Telemetry`` of one's own.

    Up to ``concurrency`` webhooks are handled side by side. A handler that runs for
    ``handler_timeout`` seconds (None: no limit) is cancelled, and has failed. A delivery is tried
    again after ``first_delay`` seconds, which double up to ``longest_delay``; it is given up when
    it has failed, ended its process or blocked it for longer than a lease, ``max_attempts`` times.

    Raises ValueError or TypeError for an option that cannot work, before any I/O.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None = None,
        *,
        public_url: str | None = None,
        store: str | Store = "sqlite:///asana-webhooks.db",
        encryption_keys: Sequence[str] | None = None,
        serve: bool = True,
        host: str | None = None,
        port: int | None = None,
        reuse_port: bool = False,
        unix_socket: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        base_url: str | None = None,
        workspace: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        max_body: int = MAX_BODY,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_timeout: float | None = None,
        max_attempts: int = 10,
        first_delay: float = 1.0,
        longest_delay: float = 600.0,
        handler_timeout: float | None = 300.0,
        concurrency: int = 10,
        answer_gone: bool = False,
        look_after: float | None = 3600.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        _check_receiver(serve=serve, unix_socket=unix_socket, options=locals())
        if workspace is not None:
            check_gid("workspace", workspace)
        super().__init__(token, base_url=base_url, http_client=http_client)
        self._router = Router()
        self._clock = Clock()
        self._stack: AsyncExitStack | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it is open
        self._closing = asyncio.Lock()
        self._components: _Components | None = None
        self._receiver: Receiver | None = None
        if public_url is None:
            return
        check_public_url(public_url, self._transport.base_url)
        opened = store_of(store, encryption_keys=encryption_keys)
        counters = Counters()
        observer = counters if telemetry is None else Together(counters, telemetry)
        notices = Notices(
            count=observer.noticed,
            now=self.asana_now,
            clock=self._clock,
            handler_timeout=handler_timeout,
        )
        ownership = Ownership(opened, public_url)
        inbox = Inbox(
            opened,
            concurrency=concurrency,
            max_attempts=max_attempts,
            first_delay=first_delay,
            longest_delay=longest_delay,
            handler_timeout=handler_timeout,
            telemetry=observer,
            may_claim=ownership.is_sure,
        )
        endpoint = Endpoint(
            opened,
            on_arrival=inbox.arrived,
            max_body=max_body,
            answer_gone=answer_gone,
            now=self.asana_now,
            learn_time=self._transport.learn_time,
            telemetry=observer,
            on_mangled=notices.mangled,
            machine_time=self._clock.now,
        )
        establishment = Establishment(
            self._plain(),
            opened,
            public_url=public_url,
            workspace=workspace,
            seen=endpoint.seen,
        )
        self._components = _Components(
            store=opened,
            ownership=ownership,
            inbox=inbox,
            endpoint=endpoint,
            establishment=establishment,
            desired=DesiredWebhooks(establishment, interval=look_after),
            notices=notices,
            counters=counters,
            telemetry=observer,
        )
        if serve:
            self._receiver = Receiver(
                endpoint,
                host=HOST if host is None else host,
                port=PORT if port is None else port,
                reuse_port=reuse_port,
                unix_socket=unix_socket,
                ssl_context=ssl_context,
                max_connections=max_connections,
                keepalive_timeout=keepalive_timeout,
            )

    async def __aenter__(self) -> Self:
        """Open the store, then listen.

        Raises StoreError when the store does not open, OSError when the address is taken, and
        RuntimeError when the client is open already or was closed: it is entered once.
        """
        await super().__aenter__()
        if self._stack is not None:
            msg = "this client is open already; enter it once, and share it"
            raise RuntimeError(msg)
        if self._components is not None:
            async with AsyncExitStack() as stack:
                await self._open(self._components, stack)
                self._stack = stack.pop_all()
                self._loop = asyncio.get_running_loop()
            self._components.endpoint.accepting = True
        return self

    async def _open(self, parts: _Components, stack: AsyncExitStack) -> None:
        await stack.enter_async_context(parts.store)
        await stack.enter_async_context(background_task(parts.observe(), "telemetry"))
        await stack.enter_async_context(parts.notices)
        await stack.enter_async_context(parts.ownership)
        await stack.enter_async_context(parts.inbox)
        if self._receiver is not None:
            try:
                await stack.enter_async_context(self._receiver)
            except OSError as error:
                step = _NEXT_STEPS.get(error.errno or 0, "check host, port or unix_socket")
                raise OSError(error.errno, f"{error.strerror}; {step}") from None
        await stack.enter_async_context(background_task(parts.desired.run(), "looking after"))

    async def aclose(self) -> None:
        """Stop accepting, answer what is under way, let handlers end, close store and connections.

        Leaving the context manager does this too. Calls at once all return when it is done. Raises
        RuntimeError in a handler, which it would wait for.
        """
        parts = self._components
        if parts is not None and (parts.inbox.is_worker() or parts.notices.is_handling()):
            msg = "a handler cannot close its client; set an asyncio.Event that your program awaits"
            raise RuntimeError(msg)
        async with self._closing:
            try:
                if self._components is not None and self._stack is not None:
                    self._components.endpoint.accepting = False
                    # handlers and requests have the same seconds to end
                    self._components.inbox.stop()
                    await self._stack.aclose()
            finally:
                self._stack = None  # not before: handlers that end may still use the client
                with anyio.CancelScope(shield=True):
                    await super().aclose()

    def _listen(
        self, host: str | None = None, port: int | None = None, *, reuse_port: bool | None = None
    ) -> None:
        """Change where the receiver will listen once entered; None: no change.

        Raises RuntimeError without a receiver of its own on a port, or when it listens already.
        """
        if self._receiver is None:
            msg = "there is no receiver to move: the client has no public_url, or serve=False"
            raise RuntimeError(msg)
        self._receiver.move(host, port, reuse_port=reuse_port)

    @property
    def is_open(self) -> bool:
        """Whether the client is entered and not closed yet; False without a ``public_url``."""
        return self._stack is not None

    @property
    def port(self) -> int | None:
        """The TCP port that the receiver listens on, None without a receiver of its own."""
        return None if self._receiver is None else self._receiver.port

    # Webhooks

    async def establish(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        timeout: float = 60.0,
    ) -> Webhook:
        """Return a new webhook for the resource: handshake answered, secret stored, verified.

        ``timeout`` is in seconds, for the create call. Whatever goes wrong, and when cancelled,
        nothing of it is left at Asana or in the store, as far as Asana can be reached.

        Raises ValueError for filters that Asana would refuse; HandshakeMissingError when the
        handshake did not reach this receiver or its store, with what did; HandshakeMismatchError
        when Asana's secret is another one; ApiError and ConnectionFailedError like
        ``create_webhook``; StoreError.
        """
        establishment = self._opened().establishment
        check_given_filters(filters)
        return await establishment.establish(resource, filters=filters, timeout=timeout)

    async def ensure(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        timeout: float = 60.0,
    ) -> Webhook:
        """Return the webhook that the store holds for the resource, alive and with these filters.

        One that Asana does not know any more, or calls inactive, is replaced; filters that differ
        are updated. Without one, or for another ``public_url``, it is established. Calls at once
        make one webhook. From then on it is looked after (see ``look_after``) until it is deleted
        with ``delete_webhook``, here or in another process that shares the store, or by
        ``asana-webhooks delete``; one that is replaced has another gid. ``timeout`` is in seconds,
        for the create call, and for waiting for another call that makes the webhook.

        Raises what ``establish``, ``get_webhook`` and ``update_webhook`` raise, and
        EstablishmentError when another call is not done in time.
        """
        check_gid("resource", resource)
        check_given_filters(filters)
        return await self._opened().desired.ensure(resource, filters=filters, timeout=timeout)

    async def update_webhook(
        self,
        gid: str,
        *,
        filters: Sequence[WebhookFilter],
        opt_fields: Sequence[str] | None = None,
    ) -> Webhook:
        """Replace a webhook's filters at Asana, and in the store if it holds the webhook."""
        route = await self._route_of(gid)
        if route is None:
            return await super().update_webhook(gid, filters=filters, opt_fields=opt_fields)
        parts = self._opened()
        async with parts.desired.lock(route.resource):
            webhook = await super().update_webhook(gid, filters=filters, opt_fields=opt_fields)
            await parts.store.set_filters(route.id, filters)
            parts.desired.set_filters(gid, filters)
            return webhook

    async def delete_webhook(self, gid: str) -> None:
        """Delete a webhook at Asana, and retire its route if the store holds it.

        What was received before is still handled; what comes later is answered 404, by other
        processes that share the store within a second. It is looked after no longer, here and
        by them.
        """
        route = await self._route_of(gid)
        if route is None:
            await super().delete_webhook(gid)
            if self._components is not None:  # the store has none either while it is to be replaced
                self._components.desired.leave(gid)
            return
        parts = self._opened()
        async with parts.desired.lock(route.resource):
            await super().delete_webhook(gid)
            parts.desired.leave(gid)
            await parts.store.retire(route.id)
            parts.endpoint.forget(route.id)

    # Events

    def on(
        self,
        resource_type: str | None = None,
        *,
        subtype: str | None = None,
        action: str | None = None,
        field: str | None = None,
        resource: str | None = None,
        account: str | None = None,
        name: str | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that registers an ``async def`` handler for the events that fit.

        What is None fits any event; an event that several handlers want is given to each, in the
        order of registration. The arguments are those of ``Router.on``.
        """
        return self._router.on(
            resource_type,
            subtype=subtype,
            action=action,
            field=field,
            resource=resource,
            account=account,
            name=name,
        )

    def on_failure(self, handler: F) -> F:
        """Register an ``async def`` function, as a decorator, that is given each ``Failure``."""
        return self._router.on_failure(handler)

    def include(self, router: Router) -> None:
        """Add the handlers of another module's router, also those that it is given later."""
        self._router.include(router)

    def on_notice(self, kind: NoticeKind | None = None) -> Callable[[N], N]:
        """Return a decorator that registers an ``async def`` handler for notices of a kind.

        A ``Notice`` tells of a webhook or an account: ``docs/operations.md`` names the kinds. None:
        all of them. Handlers are called while the client is entered, with ``run`` or without, one
        after the other, each for ``handler_timeout`` seconds; what one raises is logged. Raises
        ValueError for a kind that there is not.
        """
        return self._configured().notices.on(kind)

    async def run(self) -> None:
        """Hand deliveries to the handlers until cancelled, or until the client is closed.

        An event that no handler wants counts as handled. When one raises, the delivery is tried
        again with growing delays, from that event on, then kept as a dead letter. When cancelled,
        handlers have 8 seconds to end. Nothing that a handler raises ends it but KeyboardInterrupt.
        Raises RuntimeError without a handler.
        """
        inbox = self._opened().inbox
        if not self._router:
            msg = "no handler is registered: use @client.on(...) first, or client.events()"
            raise RuntimeError(msg)
        await inbox.drain(self._router)

    def events(self) -> AsyncGenerator[Event, None]:
        """Return an iterator over events; one counts as handled when the next is asked for.

        It ends when the client is closed. What it gave last when a loop is left is given again.
        """
        return self._opened().inbox.stream()

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return what was given up, oldest first, from behind the one with the id ``after``."""
        check_options(_LETTERS, locals())
        return await self._opened().store.dead_letters(limit=limit, after=after)

    async def get_dead_letter(self, id: str) -> DeadLetter | None:  # noqa: A002 - what else is it
        """Return the dead letter with this id; None when there is none."""
        check_options({"id": TEXT}, locals())
        return await self._opened().store.get_dead_letter(id)

    def iter_dead_letters(
        self,
        *,
        resource: str | None = None,
        webhook: str | None = None,
        reason: str | None = None,
        buried_before: datetime | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """Return an iterator over the dead letters that fit all that is given, oldest first.

        ``resource`` and ``webhook`` are gids, ``reason`` is a part of the letter's, whatever the
        case. What it yields may be replayed or discarded at once; what becomes a dead letter while
        it is iterated is left out.
        """
        check_options(_CHOICE, locals())
        return iter_dead_letters(
            self._opened().store,
            resource=resource,
            webhook=webhook,
            reason=reason,
            buried_before=buried_before,
        )

    async def replay(self, ids: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        check_options({"ids": NAMES}, locals())
        parts = self._opened()
        count = await parts.store.replay(ids)
        parts.inbox.arrived()
        return count

    async def discard(self, ids: Sequence[str]) -> int:
        """Remove the dead letters with these ids for good; returns how many there were."""
        check_options({"ids": NAMES}, locals())
        return await self._opened().store.discard(ids)

    async def stats(self) -> Stats:
        """Return a snapshot of the inbox, of this process's work, and of each webhook's silence."""
        return await self._opened().stats()

    # Inside another server

    def aiohttp_app(self) -> web.Application:
        """Return an aiohttp application for ``add_subapp``; enter the client beside it."""
        return aiohttp_app(self._configured().endpoint)

    @property
    def asgi(self) -> AsgiApp:
        """An ASGI application to mount; enter the client in the lifespan around it."""
        return AsgiApp(self._configured().endpoint)

    @property
    def endpoint(self) -> Endpoint:
        """The part that answers requests, for another kind of server; enter the client too."""
        return self._configured().endpoint

    def _configured(self) -> _Components:
        if self._components is None:
            msg = "this client only calls Asana; give it a public_url to receive webhooks"
            raise RuntimeError(msg)
        return self._components

    def _opened(self) -> _Components:
        parts = self._configured()
        self._transport.check_not_closed()
        if self._stack is None:
            msg = "the client is not open; use it inside `async with client:`"
            raise RuntimeError(msg)
        if self._loop is not _running_loop():
            msg = "the client is open in another event loop; use it there, or make one for each"
            raise RuntimeError(msg)
        return parts

    async def _route_of(self, gid: str) -> Route | None:
        if self._components is None or self._stack is None:
            return None
        routes = await self._components.store.list_routes()
        return next((route for route in routes if route.gid == gid), None)


def _running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs here. Raises RuntimeError, with the next step, for none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        msg = "no event loop runs here; use the client in the one in which it is open"
        raise RuntimeError(msg) from None
