"""``WebhooksClient``: what receives, keeps, handles and establishes, as one object."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from types import EllipsisType
from typing import TYPE_CHECKING, Literal, Self

import anyio
import httpx

from ._background import background_task
from ._clock import Clock
from ._components import Components, join
from ._dead_letters import iter_dead_letters
from ._endpoint import Endpoint
from ._establish import advising_to_keep, check_given_filters, check_public_url, check_wanted
from ._inbox import INBOX_OPTIONS
from ._ledger import close_gap
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
from ._receiver_aiohttp import MAX_CONNECTIONS, aiohttp_app
from ._receiver_asgi import AsgiApp
from .api import WebhooksApi
from .models import (
    Continuity,
    DeadLetter,
    Event,
    NoticeKind,
    Route,
    Webhook,
    WebhookFilter,
    check_gid,
)
from .notices import N
from .protocol import MAX_BODY
from .router import F, H, Router
from .stores import Store
from .stores.urls import store_of
from .telemetry import Stats, Telemetry

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["WebhooksClient"]

HANDLERS_PAUSE = 0.1
"""Seconds between looks whether a handler was registered by now."""

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
    "calls_per_minute": ANY,  # likewise
    "look_after": optional(SECONDS, "None for never"),
    "reconcile": optional(SECONDS, "None for never"),
    "telemetry": optional(Rule((Telemetry,), "a Telemetry")),
}
"""Rules for the constructor's options."""

_SECRETS = {"token", "encryption_keys", "store"}
"""Options that stay out of tables, and so of other frames."""

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


class WebhooksClient(WebhooksApi):
    """Establishes webhooks, receives their deliveries and hands their events to handlers.

    With ``public_url``, the address at which the internet reaches the receiver, entering the
    client opens the store and, unless ``serve`` is false, listens on ``host`` and ``port``, or on
    ``unix_socket``. Without it the client is a REST client: no port, no file.

    ``store`` is a URL (see ``stores.urls.open_store``) or a store object, which the client opens
    and closes. ``encryption_keys``, the newest first, go with a URL: Fernet keys that encrypt the
    secrets in the store; None takes those of ``ASANA_WEBHOOKS_ENCRYPTION_KEYS``. ``workspace``
    is where to look for webhooks; None: everywhere.
    ``max_body`` is in bytes, ``keepalive_timeout`` in seconds (None: 75 behind a proxy, which a
    loopback address or a Unix socket stands for, else 15). ``answer_gone`` answers deliveries
    for a webhook that was deleted here with 410, on which Asana ends it. ``reuse_port`` lets
    several processes listen on one port, where the system can (Linux, BSD). At the start and every
    ``look_after`` seconds all webhooks of the store are looked after, by lists; None: never. At
    least every ``reconcile`` seconds Asana's events stream of each resource is compared with what
    was delivered, and what is missing is recovered; None: never. ``calls_per_minute`` is the most
    that a token's calls come to, in all processes that share the store; None: what Asana refuses
    alone limits them.
    ``telemetry`` is an ``otel.OpenTelemetry``, or a ``telemetry.Telemetry`` of one's own.

    Up to ``concurrency`` events are handled side by side: with the ``order`` "resource" those of
    one resource, a task say, one after the other, with "webhook" all of a webhook. A handler that
    runs for ``handler_timeout`` seconds (None: no limit) is cancelled, and has failed. An event is
    given to a handler that failed again after ``first_delay`` seconds, which double up to
    ``longest_delay``; it becomes a dead letter when the handler has failed, ended its process or
    blocked it for longer than a lease, ``max_attempts`` times.

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
        order: Literal["resource", "webhook"] = "resource",
        answer_gone: bool = False,
        look_after: float | None = 900.0,
        reconcile: float | None = 3600.0,
        calls_per_minute: int | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        options = {name: value for name, value in locals().items() if name not in _SECRETS}
        _check_receiver(serve=serve, unix_socket=unix_socket, options=options)
        if workspace is not None:
            check_gid("workspace", workspace)
        super().__init__(
            token,
            base_url=base_url,
            http_client=http_client,
            calls_per_minute=calls_per_minute,
        )
        self._router = Router()
        self._clock = Clock()
        self._transport.clock.driven = self._clock.driven
        self._stack: AsyncExitStack | None = None
        self._handling: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # in which it is open
        self._closing = asyncio.Lock()
        self._components: Components | None = None
        if public_url is not None:
            check_public_url(public_url, self._transport.base_url)
            opened = store_of(store, encryption_keys=encryption_keys)
            self._components = join(self._plain(), self._router, self._clock, opened, options)

    async def __aenter__(self) -> Self:
        """Open the store, then listen.

        After it was closed it may be entered again, in another event loop too. Raises StoreError
        when the store does not open, OSError when the address is taken, and RuntimeError when the
        client is open already.
        """
        if self._stack is not None:
            self._check_loop()
            msg = "this client is open already; enter it once, and share it"
            raise RuntimeError(msg)
        await super().__aenter__()
        if self._components is not None:
            async with AsyncExitStack() as stack:
                await self._components.open(stack)
                self._stack = stack.pop_all()
                self._loop, self._closing = asyncio.get_running_loop(), asyncio.Lock()
            self._components.endpoint.accepting = True
        return self

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Enter the client, and hand deliveries to its handlers beside the body.

        For a lifespan, or whatever else has a beginning and an end. What is kept is established
        meanwhile, and looked after. Handlers may be registered later; without any, deliveries
        wait. Raises what entering the client raises.
        """
        async with self, background_task(self._handle(), "handlers") as self._handling:
            try:
                yield self
            finally:
                await self.aclose()  # which ends the handlers: they and requests end together

    def _is_handling(self) -> bool:
        """Return whether deliveries are handed to handlers, or will be as soon as there are any."""
        is_running = self._handling is not None and not self._handling.done()
        return self._opened().inbox.is_draining or is_running

    async def _handle(self) -> None:
        while not self._router:  # noqa: ASYNC110 - the event would be one of a loop
            await anyio.sleep(HANDLERS_PAUSE)
        await self.run()

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
        receiver = None if self._components is None else self._components.receiver
        if receiver is None:
            msg = "there is no receiver to move: the client has no public_url, or serve=False"
            raise RuntimeError(msg)
        receiver.move(host, port, reuse_port=reuse_port)

    @property
    def is_open(self) -> bool:
        """Whether the client is entered and not closed yet; False without a ``public_url``."""
        return self._stack is not None

    @property
    def port(self) -> int | None:
        """The TCP port that the receiver listens on, None without a receiver of its own."""
        receiver = None if self._components is None else self._components.receiver
        return None if receiver is None else receiver.port

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
        with advising_to_keep():
            return await establishment.establish(resource, filters=filters, timeout=timeout)

    def keep(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | EllipsisType | None = ...,
        timeout: float = 60.0,
    ) -> None:
        """Want a webhook of the resource while the client is entered; it may not be yet.

        It is established beside all else as soon as the receiver can be reached, and again
        whenever it is lost, until ``leave`` or ``delete_webhook``; what keeps it from that is
        logged. Filters that are left out are those that the handlers need, and follow them; None:
        every event. ``timeout`` is in seconds, for each create call.

        Raises ValueError for what Asana would refuse.
        """
        given = None if isinstance(filters, EllipsisType) else filters
        check_wanted(resource, given, timeout)
        check_given_filters(given)
        self._configured().desired.keep(resource, filters=filters, timeout=timeout)

    async def kept(self, *, timeout: float | None = 60.0) -> None:
        """Return when each webhook that is kept, or was ensured, is established.

        Raises TimeoutError after ``timeout`` seconds (None: never), which names each that is not,
        and why.
        """
        check_options({"timeout": optional(SECONDS, "None for no limit")}, locals())
        await self._opened().desired.kept(timeout)

    async def leave(self, resource: str) -> None:
        """Delete the store's webhooks of a resource, and keep none of it any longer.

        What was received before is still handled. When Asana cannot be reached the intent is
        stored, and carried out as soon as it can be, by the next process too. Raises
        EstablishmentError for a webhook of another user, or one that Asana refuses to delete.
        """
        check_gid("resource", resource)
        await self._opened().desired.leave(resource)

    async def ensure(
        self,
        resource: str,
        *,
        filters: Sequence[WebhookFilter] | None = None,
        timeout: float = 60.0,
        replace: bool = False,
    ) -> Webhook:
        """Return the webhook that the store holds for the resource, alive and with these filters.

        One that Asana does not know any more, or calls inactive, is replaced; filters that differ
        are updated. Without one, or for another ``public_url``, it is established, and the one of
        the other URL is deleted. Calls at once make one webhook. From then on it is looked after
        (see ``look_after``) until it is deleted with ``leave`` or ``delete_webhook``, here or in
        another process that shares the store, or by ``asana-webhooks delete``; one that is replaced
        has another gid. ``timeout`` is in seconds, for the create call, and for waiting for another
        call that makes the webhook. With ``replace`` a new webhook takes the place of what the
        store holds, whoever made that.

        ``filters=None`` is every event. For a resource that is kept, the filters given here
        override those of ``keep`` until ``keep`` is called again; a warning says so when they
        differ.

        Raises what ``establish``, ``get_webhook`` and ``update_webhook`` raise, and
        EstablishmentError when another call is not done in time, when the store's webhook was made
        by another user, and when Asana refuses it to this token.
        """
        desired = self._opened().desired
        check_wanted(resource, filters, timeout)
        check_given_filters(filters)
        with advising_to_keep():
            return await desired.ensure(resource, filters=filters, timeout=timeout, replace=replace)

    async def forget(self, gid: str) -> None:
        """Drop a webhook from the store, and leave it alone at Asana.

        For one that Asana refuses to the token. Its deliveries are answered 404 from then on; if a
        webhook of its resource is kept, another one is established. Raises ValueError when the
        store does not hold it.
        """
        parts = self._opened()
        await parts.upkeep.forget(check_gid("gid", gid))
        parts.desired.lose(gid)

    async def prune(self, *, workspace: str | None = None, dry_run: bool = False) -> list[Webhook]:
        """Delete the webhooks that lead to ``public_url`` but whose secret the store does not hold.

        Returns them. Their deliveries are refused anyway. With ``dry_run`` nothing is deleted.
        ``workspace`` is the only one that is looked into; None: the client's, else each that the
        token sees.
        """
        parts = self._opened()
        if workspace is not None:
            check_gid("workspace", workspace)
        orphans = await parts.upkeep.find_orphans(workspace)
        for webhook in () if dry_run else orphans:
            await super().delete_webhook(webhook.gid)
        return orphans

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
            parts.reconciliation.filtered(route)
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
                self._components.desired.drop(gid)
            return
        parts = self._opened()
        async with parts.desired.lock(route.resource):
            await super().delete_webhook(gid)
            parts.desired.drop(gid)
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

    def on_failure(self, handler: F = None) -> F:  # type: ignore[assignment] # to say what is wrong
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

        An event that no handler wants counts as handled. When a handler raises, it alone is given
        the event again, with growing delays; then the event is kept as a dead letter. When
        cancelled, handlers have 8 seconds to end. Nothing that a handler raises ends it but
        KeyboardInterrupt. Raises RuntimeError without a handler.
        """
        inbox = self._opened().inbox
        self._check_handlers()
        await inbox.drain(self._router)

    def _check_handlers(self) -> None:
        """Raise RuntimeError without a handler."""
        if not self._router:
            msg = "no handler is registered: use @client.on(...) first, or client.events()"
            raise RuntimeError(msg)

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

    async def continuity(self) -> list[Continuity]:
        """Return what is proven of each webhook of the store: until when nothing is missing.

        Gaps of webhooks that are gone are among it, in an entry of their resource without a gid.
        ``docs/continuity.md`` says what is proven, and by what.
        """
        return await self._opened().reconciliation.continuity()

    async def reconcile(self) -> int:
        """Compare Asana's events streams with what was delivered, now, and recover what is missing.

        Returns how many events were put into the inbox. What is younger than ten minutes may be
        under way, and is judged when it is not. Raises what a call of the API raises, and
        RuntimeError when the client has ``reconcile=None``.
        """
        return await self._opened().reconciliation.reconcile()

    async def close_gap(self, id: str) -> bool:  # noqa: A002 - what else is it
        """Close an open gap: what it may have hidden was looked for. False when there is none.

        After a gap by ``disagreement`` its stream is read again.
        """
        check_options({"id": TEXT}, locals())
        return await close_gap(self._opened().store, id)

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

    def _configured(self) -> Components:
        if self._components is None:
            msg = "this client only calls Asana; give it a public_url to receive webhooks"
            raise RuntimeError(msg)
        return self._components

    def _opened(self) -> Components:
        parts = self._configured()
        self._transport.check_not_closed()
        if self._stack is None:
            msg = "the client is not open; use it inside `async with client:`"
            raise RuntimeError(msg)
        self._check_loop()
        return parts

    def _check_loop(self) -> None:
        if self._loop is not _running_loop():
            msg = "the client is open in another event loop; use it there, or make one for each"
            raise RuntimeError(msg)

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
