"""``WebhooksClient``: the rooms joined."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import httpx

from .api import WebhooksApi
from .asgi import AsgiApp
from .dispatch import Dispatcher, H
from .endpoint import Endpoint
from .establishment import Establishment, check_public_url
from .inbox import Inbox
from .models import DeadLetter, Event, Route, Webhook, WebhookFilter
from .protocol import MAX_BODY
from .receiver import MAX_CONNECTIONS, Receiver, aiohttp_app
from .stores import Store
from .stores.memory import MemoryStore
from .stores.postgres import PostgresStore
from .stores.redis import RedisStore
from .stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["WebhooksClient", "open_store"]


def open_store(url: str) -> Store:
    """Return the store that a URL names, not entered yet.

    ``memory:``, ``sqlite:///relative.db``, ``sqlite:////absolute/path.db``; with the extra
    ``redis``, ``redis://host:6379/0`` (``rediss://``, ``unix://``); with the extra ``postgres``,
    ``postgresql://host/database``. Raises ValueError for any other text.
    """
    scheme, _, rest = url.partition(":")
    if url == "memory:":
        return MemoryStore()
    if scheme == "sqlite" and rest.startswith("///") and len(rest) > 3:
        return SqliteStore(rest[3:])
    if scheme in ("redis", "rediss", "unix"):
        return RedisStore(url)
    if scheme in ("postgresql", "postgres"):
        return PostgresStore(url)
    msg = (
        "store must be 'memory:', 'sqlite:///file.db', 'redis://host', 'postgresql://host/database'"
        " or a store object"
    )
    raise ValueError(msg)


class _Receiving:
    """What a client has beside its REST calls when it has a public URL."""

    def __init__(
        self, store: Store, inbox: Inbox, endpoint: Endpoint, establishment: Establishment
    ) -> None:
        self.store = store
        self.inbox = inbox
        self.endpoint = endpoint
        self.establishment = establishment


class WebhooksClient(WebhooksApi):
    """Establishes webhooks, receives their deliveries and hands their events to handlers.

    With ``public_url``, the address at which the internet reaches the receiver, entering the
    client opens the store and, unless ``serve`` is false, listens on ``host`` and ``port``, or on
    ``unix_socket``. Without it the client is a REST client: no port, no file.

    ``store`` is a URL (see ``open_store``) or a store object, which the client opens and closes.
    ``workspace`` is where to look for a webhook whose creation got no answer; None: everywhere.
    ``max_body`` is in bytes, ``keepalive_timeout`` in seconds (None: 75 behind a proxy, which a
    loopback address or a Unix socket stands for, else 15). A delivery is tried ``max_attempts``
    times; ``concurrency`` webhooks are handled side by side. ``answer_gone`` answers deliveries
    for a webhook that was deleted here with 410, on which Asana ends it.

    Raises ValueError for what cannot work, before any I/O.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None = None,
        *,
        public_url: str | None = None,
        store: str | Store = "sqlite:///asana-webhooks.db",
        serve: bool = True,
        host: str = "127.0.0.1",
        port: int = 8080,
        unix_socket: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        base_url: str = "https://app.asana.com/api/1.0",
        workspace: str | None = None,
        http_client: httpx.AsyncClient | None = None,
        max_body: int = MAX_BODY,
        max_connections: int = MAX_CONNECTIONS,
        keepalive_timeout: float | None = None,
        max_attempts: int = 10,
        concurrency: int = 10,
        answer_gone: bool = False,
    ) -> None:
        super().__init__(token, base_url=base_url, http_client=http_client)
        self._dispatcher = Dispatcher()
        self._stack: AsyncExitStack | None = None
        self._parts: _Receiving | None = None
        self._receiver: Receiver | None = None
        if public_url is None:
            return
        check_public_url(public_url, base_url)
        opened = open_store(store) if isinstance(store, str) else store
        inbox = Inbox(opened, concurrency=concurrency, max_attempts=max_attempts)
        endpoint = Endpoint(
            opened, on_arrival=inbox.arrived, max_body=max_body, answer_gone=answer_gone
        )
        establishment = Establishment(
            self, opened, public_url=public_url, workspace=workspace, seen=endpoint.seen
        )
        self._parts = _Receiving(opened, inbox, endpoint, establishment)
        if serve:
            self._receiver = Receiver(
                endpoint,
                host=host,
                port=port,
                unix_socket=unix_socket,
                ssl_context=ssl_context,
                max_connections=max_connections,
                keepalive_timeout=keepalive_timeout,
            )

    async def __aenter__(self) -> Self:
        """Open the store, then listen.

        Raises StoreError when the store does not open, OSError when the address is taken.
        """
        if self._parts is not None:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._parts.store)
                await stack.enter_async_context(self._parts.inbox)
                if self._receiver is not None:
                    await stack.enter_async_context(self._receiver)
                self._stack = stack.pop_all()
            self._parts.endpoint.accepting = True
        return self

    async def aclose(self) -> None:
        """Stop accepting, answer what is under way, let handlers end, close store and connections.

        Leaving the context manager does this too.
        """
        stack, self._stack = self._stack, None
        try:
            if self._parts is not None and stack is not None:
                self._parts.endpoint.accepting = False
                await stack.aclose()
        finally:
            await super().aclose()

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
        make one webhook. Raises what ``establish``, ``get_webhook`` and ``update_webhook`` raise.
        """
        establishment = self._opened().establishment
        return await establishment.ensure(resource, filters=filters, timeout=timeout)

    async def update_webhook(
        self,
        gid: str,
        *,
        filters: Sequence[WebhookFilter],
        opt_fields: Sequence[str] | None = None,
    ) -> Webhook:
        """Replace a webhook's filters at Asana, and in the store if it holds the webhook."""
        webhook = await super().update_webhook(gid, filters=filters, opt_fields=opt_fields)
        for route in await self._routes_of(gid):
            await self._opened().store.set_filters(route.id, filters)
        return webhook

    async def delete_webhook(self, gid: str) -> None:
        """Delete a webhook at Asana, and retire its route if the store holds it.

        What was received before is still handled; what comes later is answered 404, by other
        processes that share the store within a second.
        """
        await super().delete_webhook(gid)
        for route in await self._routes_of(gid):
            await self._opened().store.retire(route.id)
            self._opened().endpoint.forget(route.id)

    # Events

    def on(
        self,
        resource_type: str | None = None,
        *,
        subtype: str | None = None,
        action: str | None = None,
        field: str | None = None,
    ) -> Callable[[H], H]:
        """Return a decorator that registers an ``async def`` handler for the events that fit.

        ``field`` is that of the event's change. What is None fits any event; an event that several
        handlers want is given to each, in the order of registration.
        """
        return self._dispatcher.on(resource_type, subtype=subtype, action=action, field=field)

    async def run(self) -> None:
        """Hand deliveries to the handlers until cancelled, or until the client is closed.

        An event that no handler wants counts as handled. When one raises, the delivery is tried
        again with growing delays, from that event on, then kept as a dead letter. When cancelled,
        handlers have 8 seconds to end. Raises RuntimeError without a handler.
        """
        inbox = self._opened().inbox
        if not self._dispatcher:
            msg = "no handler is registered: use @client.on(...) first, or client.events()"
            raise RuntimeError(msg)
        await inbox.drain(self._dispatcher.dispatch)

    def events(self) -> AsyncGenerator[Event, None]:
        """Return an iterator over events; one counts as handled when the next is asked for.

        It ends when the client is closed. What it gave last when a loop is left is given again.
        """
        return self._opened().inbox.stream()

    async def dead_letters(self, *, limit: int = 100, after: str = "") -> list[DeadLetter]:
        """Return what was given up, oldest first, from behind the one with the id ``after``."""
        return await self._opened().store.dead_letters(limit=limit, after=after)

    async def replay(self, letters: Sequence[str]) -> int:
        """Move the dead letters with these ids back to the inbox; returns how many there were."""
        parts = self._opened()
        count = await parts.store.replay(letters)
        parts.inbox.arrived()
        return count

    # Inside another server

    def aiohttp_app(self) -> web.Application:
        """Return an aiohttp application for ``add_subapp``; enter the client beside it."""
        return aiohttp_app(self._configured().endpoint)

    @property
    def asgi(self) -> AsgiApp:
        """An ASGI application to mount; enter the client in the lifespan around it."""
        return AsgiApp(self._configured().endpoint)

    def _configured(self) -> _Receiving:
        if self._parts is None:
            msg = "this client only calls Asana; give it a public_url to receive webhooks"
            raise RuntimeError(msg)
        return self._parts

    def _opened(self) -> _Receiving:
        parts = self._configured()
        if self._stack is None:
            msg = "the client is not open; use it inside `async with client:`"
            raise RuntimeError(msg)
        return parts

    async def _routes_of(self, gid: str) -> list[Route]:
        if self._parts is None or self._stack is None:
            return []
        return [route for route in await self._parts.store.list_routes() if route.gid == gid]
