"""``WebhooksClient``: what receives, keeps, handles and establishes, as one object."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self

import anyio
import httpx

from ._accounts import AccountAuth, LoadToken, check_account_name
from ._background import background_task
from ._clock import Clock
from ._components import Components, join
from ._dead_letters import iter_dead_letters
from ._establish import check_public_url
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
    is_async,
    optional,
)
from ._receiver_aiohttp import MAX_CONNECTIONS, aiohttp_app
from ._receiver_asgi import AsgiApp
from ._receiver_bytes import Headers, answer
from .account import Account
from .api import WebhooksApi
from .auth import LoginApp, OAuthApp
from .auth._login import AccountOf, Connected, Logins
from .models import (
    Continuity,
    DeadLetter,
    Event,
    NoticeKind,
    check_gid,
)
from .notices import N
from .protocol import MAX_BODY, Response
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
    "tokens": optional(Rule((object,), "an async def, which takes an account", is_async)),
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
    "ping_pong_guard": FLAG,
    "telemetry": optional(Rule((Telemetry,), "a Telemetry")),
}
"""Rules for the constructor's options."""

_SECRETS = {"token", "tokens", "encryption_keys", "store"}
"""Options that stay out of tables, and so of other frames."""

_LOGIN = {
    "url": TEXT,
    "account_of": optional(Rule((object,), "an async def, which takes a request", is_async)),
    "connected": optional(Rule((object,), "an async def of an account and a token", is_async)),
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


class WebhooksClient(Account):
    """Establishes webhooks, receives their deliveries and hands their events to handlers.

    With ``public_url``, the address at which the internet reaches the receiver, entering the
    client opens the store and, unless ``serve`` is false, listens on ``host`` and ``port``, or on
    ``unix_socket``. Without it the client is a REST client: no port, no file.

    ``token`` is as for ``WebhooksApi``. For many Asana users there is ``tokens`` instead, an
    ``async def`` that returns the token of an account, a name of your own, or an ``httpx.Auth`` for
    it: it is called when the first call of an account is made, and after Asana refused its token.
    A LookupError that it raises says that there is none. An ``auth.OAuthApp`` is one that also logs
    users in. ``account`` returns the calls and webhooks of one of them; the client itself is the
    account "".

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
    alone limits them. When this program and another one answer each other's writes,
    ``ping_pong_guard`` pauses the handlers of what they change.
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
        tokens: LoadToken | None = None,
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
        ping_pong_guard: bool = True,
        telemetry: Telemetry | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        options = {name: value for name, value in locals().items() if name not in _SECRETS}
        _check_receiver(serve=serve, unix_socket=unix_socket, options=options)
        if workspace is not None:
            check_gid("workspace", workspace)
        if token is not None and tokens is not None:
            msg = (
                "give either token=, for one Asana user, or tokens=, for many; the client's own"
                ' calls go with what tokens returns for the account ""'
            )
            raise ValueError(msg)
        self.name = ""
        self._load = tokens
        self._accounts: dict[str, Account] = {}
        self._auths: dict[str, AccountAuth] = {}
        own = token if tokens is None else self._auth_of("", tokens)
        WebhooksApi.__init__(
            self,
            own,
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
            self._components = join(
                self._router,
                self._clock,
                opened,
                options,
                api_of=lambda name: self.account(name)._plain(),
                knows=self._knows_account,
                forget_account=self._forget_account,
            )
            if tokens is None:
                self._components.accounts.get("")  # it is looked after though nothing is kept
            self._writes = self._components.writes
            if isinstance(tokens, OAuthApp):
                tokens.share(lambda: self._opened().store)

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
                for auth in self._auths.values():
                    auth.stop()
                with anyio.CancelScope(shield=True):
                    await WebhooksApi.aclose(self)

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

    # Accounts

    def account(self, name: str) -> Account:
        """Return the account with this name: calls and webhooks of one Asana user.

        It costs nothing until it is used. The account "" is the client itself. Raises ValueError
        for a name that is not 1 to 200 characters without a slash and control characters, and
        RuntimeError for a client without ``tokens``.
        """
        if name == "":
            return self
        found = self._accounts.get(check_account_name(name))
        if found is None:
            if self._load is None:
                msg = (
                    "this client has one token: give it tokens=, an async def that returns the"
                    " token of an account, in place of token="
                )
                raise RuntimeError(msg)
            transport = self._transport.for_token(self._auth_of(name, self._load))
            found = self._accounts[name] = Account(self, name, transport)
            found._writes = self._writes and self._writes.of(name)
        return found

    def of(self, event: Event) -> Account:
        """Return the account of an event: the one whose webhook it came from."""
        return self.account(event.source.account)

    async def remove_account(self, name: str) -> None:
        """Leave all webhooks of an account, and forget it.

        Its deliveries are still handled; then all that the store has of it is deleted, dead letters
        too. What Asana or the store cannot do now is done as soon as they can, by the next process
        too. Webhooks that its token may not delete any more are left to Asana, which ends them
        within a day. An account that is used again while it is removed stays. Raises ValueError
        for what is no name, and for the account "".
        """
        check_account_name(name)
        await self._opened().accounts.remove(name)

    def _knows_account(self, name: str) -> bool:
        """Return whether there is a token to ask for."""
        return not name or self._load is not None

    def _auth_of(self, name: str, load: LoadToken) -> AccountAuth:
        def note_other_token() -> None:
            account = self._accounts.get(name) if name else self
            if account is not None:
                account._user.forget()

        auth = AccountAuth(name, load, on_other_token=note_other_token)
        self._auths[name] = auth
        return auth

    def _forget_account(self, name: str) -> None:
        self._accounts.pop(name, None)
        auth = self._auths.pop(name, None)
        if auth is not None:
            auth.stop()

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
        echoes: bool = False,
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
            echoes=echoes,
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

    async def drain(self, *, deadline: float | None = None) -> None:
        """Hand what is due to the handlers, then return: for a program that runs by the clock.

        An event that failed, and is to be tried again later, is not waited for. After ``deadline``
        seconds handlers that still run are cancelled and have one second more to clean up; what is
        not done stays in the store. None: no limit. A store that fails is asked again until then.
        Raises RuntimeError without a handler, and while ``run``, ``running`` or another drain hands
        deliveries over.
        """
        check_options({"deadline": optional(SECONDS, "None for no limit")}, locals())
        inbox = self._opened().inbox
        self._check_handlers()
        if self._is_handling():
            msg = "deliveries are being handed to handlers already: await drain in place of run"
            raise RuntimeError(msg)
        await inbox.drain_due(self._router, deadline=deadline)

    def _check_handlers(self) -> None:
        """Raise RuntimeError without a handler."""
        if not self._router:
            msg = "no handler is registered: use @client.on(...) first, or client.events()"
            raise RuntimeError(msg)

    def events(self, *, echoes: bool = False) -> AsyncGenerator[Event, None]:
        """Return an iterator over events; one counts as handled when the next is asked for.

        Those that the program itself has caused, through ``request``, are left out, unless
        ``echoes``. It ends when the client is closed. What it gave last when a loop is left is
        given again.
        """
        return self._opened().inbox.stream(echoes=echoes)

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

    async def handle(self, method: str, path: str, headers: Headers, body: bytes) -> Response:
        """Return the answer to a request that another kind of server has read, to be given as is.

        What it causes is stored before. ``path`` is as it came, not decoded, ``headers`` are a
        mapping or pairs of str or bytes, all of them, repeats kept, and ``body`` is raw. The
        ``Response`` has a ``status``, ``headers`` as pairs, and a ``body``; its Content-Length
        is left to the server. Raises TypeError for what is none of that, and RuntimeError when the
        client is not open.
        """
        return await answer(self._opened().endpoint, method, path, headers, body)

    def login_app(
        self,
        url: str,
        *,
        account_of: AccountOf | None = None,
        connected: Connected | None = None,
    ) -> LoginApp:
        """Return routes by which users log in to Asana, to mount at ``url`` in ASGI or aiohttp.

        ``url`` is where browsers find them: https, or on this machine. Opening it leads to Asana,
        which leads back to ``url`` + "/callback": register that with the app. The client, which
        has ``tokens=OAuthApp(…)``, is open meanwhile; the app's ``save`` keeps the new token.

        ``await account_of(request)``, of an aiohttp request or an ASGI scope, returns the account
        that logs in, by your session; for None the page says to log in to your service first.
        Without ``account_of`` the account is the gid of the Asana user. ``await connected(account,
        token)`` is called when the token is saved; a URL that it returns is shown then.

        Raises ValueError or TypeError for what cannot work, RuntimeError for other ``tokens`` and
        without ``public_url``.
        """
        check_options(_LOGIN, locals())
        self._configured()
        if not isinstance(self._load, OAuthApp):
            msg = "users log in to an OAuth app: give the client tokens=OAuthApp(…)"
            raise RuntimeError(msg)
        logins = Logins(
            self._load,
            url,
            store=lambda: self._opened().store,
            check=check_account_name,
            renewed=self._note_login,
            account_of=account_of,
            connected=connected,
        )
        return LoginApp(logins)

    def _note_login(self, name: str) -> None:
        self.account(name)._user.forget()  # it may be another user's
        self._opened().accounts.get(name).desired.retry()

    def _configured(self) -> Components:
        if self._components is None:
            msg = "this client only calls Asana; give it a public_url to receive webhooks"
            raise RuntimeError(msg)
        return self._components

    def _has_store(self) -> bool:
        return self._components is not None and self._stack is not None

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


def _running_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that runs here. Raises RuntimeError, with the next step, for none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        msg = "no event loop runs here; use the client in the one in which it is open"
        raise RuntimeError(msg) from None
