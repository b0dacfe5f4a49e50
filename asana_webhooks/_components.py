"""The parts of a client that has a public URL, joined."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

import anyio

from ._accounts import AccountParts, Accounts
from ._asana_transport import AsanaTransport
from ._background import background_task
from ._budget import Priority
from ._clock import Clock
from ._desired import DesiredWebhooks
from ._echoes import Echoes
from ._endpoint import Endpoint
from ._establish import Establishment
from ._follow import Follows
from ._heartbeats import FirstHeartbeats
from ._inbox import INBOX_OPTIONS, Inbox
from ._logging import ThrottledLogger
from ._ownership import Ownership
from ._ping_pong import PingPong
from ._receiver_aiohttp import Receiver
from ._reconciliation import Reconciliation
from ._sharing import BudgetShares
from ._upkeep import Upkeep
from ._writes import Writes
from .api import WebhooksApi
from .models import Notice, Route
from .notices import Notices, source_of
from .router import Router
from .stores import Store
from .telemetry import Counters, Stats, Telemetry, Together

__all__ = ["Components", "join"]

OBSERVE_PAUSE = 5.0
"""Seconds before telemetry that failed is asked again to watch."""

HOST, PORT = "127.0.0.1", 8080
"""The address that the receiver listens on unless it is told."""

_NEXT_STEPS = {
    errno.EADDRINUSE: "end what listens there, or choose another port (0 takes any free one)",
    errno.EADDRNOTAVAIL: "choose an address of this machine as host",
    errno.EACCES: "choose a port above 1023, or a path that may be written",
}

logger = logging.getLogger(__name__)


class Components(NamedTuple):
    """The parts of a client beside its REST calls; ``receiver`` is None for another server's."""

    store: Store
    ownership: Ownership
    inbox: Inbox
    endpoint: Endpoint
    receiver: Receiver | None
    accounts: Accounts
    heartbeats: FirstHeartbeats
    reconciliation: Reconciliation
    notices: Notices
    counters: Counters
    telemetry: Telemetry
    clock: Clock
    shares: BudgetShares
    transports: Callable[[], Mapping[str, AsanaTransport]]
    writes: Writes

    async def open(self, stack: AsyncExitStack) -> None:
        """Enter all of them, to be left with the stack. Raises what one of them raises."""
        await stack.enter_async_context(self.store)
        await stack.enter_async_context(background_task(self._observe(), "telemetry"))
        await stack.enter_async_context(self.notices)
        await stack.enter_async_context(self.ownership)
        await stack.enter_async_context(self.inbox)
        if self.receiver is not None:
            try:
                await stack.enter_async_context(self.receiver)
            except OSError as error:
                step = _NEXT_STEPS.get(error.errno or 0, "check host, port or unix_socket")
                raise OSError(error.errno, f"{error.strerror}; {step}") from None
        await stack.enter_async_context(background_task(self.shares.run(), "sharing the budget"))
        await stack.enter_async_context(background_task(self.heartbeats.run(), "heartbeats"))
        self.accounts.begin()
        keeping = background_task(self.accounts.run(), "looking after")
        self.clock.follow(await stack.enter_async_context(keeping))
        reading = background_task(self.reconciliation.run(), "reading streams")
        self.clock.follow(await stack.enter_async_context(reading))

    async def stats(self) -> Stats:
        """Return a snapshot of what is counted and stored."""
        counts, routes = await self.store.counts(), await self.store.list_routes()
        continuity = await self.reconciliation.continuity()
        transports = self.transports().items()
        budgets = [transport.budget_state(account) for account, transport in transports]
        return self.counters.snapshot(counts, routes, continuity, budgets)

    async def _observe(self) -> None:
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


def join(
    router: Router,
    clock: Clock,
    store: Store,
    options: Mapping[str, Any],
    *,
    api_of: Callable[[str], WebhooksApi],
    knows: Callable[[str], bool],
    forget_account: Callable[[str], None],
) -> Components:
    """Return the parts of a client with these options of its constructor.

    ``api_of`` returns the calls of an account as Asana has them, without what the client makes of
    them, and ``knows`` whether its token can be asked for. ``forget_account`` is called with the
    name of one that is no more.
    """
    public_url, telemetry = options["public_url"], options["telemetry"]
    counters = Counters()
    observer = counters if telemetry is None else Together(counters, telemetry)
    asana_now = api_of("").asana_now

    def note(notice: Notice) -> None:
        observer.noticed(notice)
        if notice.kind == "restored":
            reconciliation.restored(notice.source)

    notices = Notices(
        count=note,
        now=asana_now,
        clock=clock,
        handler_timeout=options["handler_timeout"],
    )

    def transports() -> Mapping[str, AsanaTransport]:
        return {parts.name: parts.api._transport for parts in accounts.all()}

    prefix = public_url.rstrip("/") + "/"
    reconciliation = Reconciliation(
        lambda name: api_of(name)._at(Priority.STREAMS),
        store,
        notices,
        clock,
        interval=options["reconcile"],
        learn_time=lambda: accounts.learn_time(),  # noqa: PLW0108 - which are made later
        is_ours=lambda route: route.target == prefix + route.id,
        knows=knows,
        owned=lambda account, routes: accounts.get(account).upkeep.owned(routes),
        arrived=lambda: inbox.arrived(),  # noqa: PLW0108 - likewise
        recovered=observer.recovered,
    )
    ownership = Ownership(store, public_url)
    inbox = Inbox(
        store,
        **{name: options[name] for name in INBOX_OPTIONS},
        telemetry=observer,
        may_claim=ownership.is_sure,
        on_gap=reconciliation.sync_error,
        ledger=reconciliation,
        router=router,
        echoes=Echoes(
            store, asana_now, ping_pong=PingPong() if options["ping_pong_guard"] else None
        ),
    )
    endpoint = Endpoint(
        store,
        on_arrival=inbox.arrived,
        max_body=options["max_body"],
        answer_gone=options["answer_gone"],
        now=asana_now,
        learn_time=lambda: accounts.learn_time(),  # noqa: PLW0108 - likewise
        telemetry=observer,
        on_mangled=notices.mangled,
        machine_time=clock.now,
    )
    heartbeats = FirstHeartbeats(store, clock)

    def tell_established(route: Route) -> None:
        heartbeats.expect(route)
        reconciliation.filtered(route)
        notices.tell("established", source_of(route), "its handshake was answered here")
        notices.tell("restored", source_of(route), "it was established again")

    def parts_of(name: str) -> AccountParts:
        api = api_of(name)
        api._transport.tell_long_waits(partial(notices.limited, name))
        establishment = Establishment(
            api._at(Priority.ESTABLISHING),
            store,
            public_url=public_url,
            account=name,
            workspace=options["workspace"],
            seen=endpoint.seen,
            before_create=reconciliation.begin,
            on_established=tell_established,
        )
        upkeep = Upkeep(
            api._at(Priority.LOOKING_AFTER),
            store,
            establishment,
            notices,
            account=name,
            workspace=options["workspace"],
            now=clock.now,
            forget=endpoint.forget,
            on_filtered=reconciliation.filtered,
        )
        desired = DesiredWebhooks(
            upkeep,
            notices,
            clock,
            account=name,
            interval=options["look_after"],
            filters_for=lambda resource: router.wanted_filters(resource, name),
            on_wish=lambda: accounts.start(name),
            waits_for_server=not options["serve"],
            was_reached=lambda: bool(counters.refused or counters.outcomes),
        )
        follows = Follows(
            name,
            api._at(Priority.LOOKING_AFTER),
            store,
            clock,
            desired=desired,
            upkeep=upkeep,
            router=router,
            interval=options["look_after"],
            on_wish=lambda: accounts.start(name),
        )
        return AccountParts(name, api, establishment, upkeep, desired, follows)

    accounts = Accounts(
        store,
        clock,
        make=parts_of,
        knows=knows,
        interval=options["look_after"],
        forget=forget_account,
    )
    router.on_change = accounts.wake
    return Components(
        store=store,
        ownership=ownership,
        inbox=inbox,
        endpoint=endpoint,
        receiver=_receiver(endpoint, options) if options["serve"] else None,
        accounts=accounts,
        heartbeats=heartbeats,
        reconciliation=reconciliation,
        notices=notices,
        counters=counters,
        telemetry=observer,
        clock=clock,
        shares=BudgetShares(store, transports),
        transports=transports,
        writes=Writes(store, api_of("")._transport.clock.span),
    )


def _receiver(endpoint: Endpoint, options: Mapping[str, Any]) -> Receiver:
    host, port = options["host"], options["port"]
    return Receiver(
        endpoint,
        host=HOST if host is None else host,
        port=PORT if port is None else port,
        reuse_port=options["reuse_port"],
        unix_socket=options["unix_socket"],
        ssl_context=options["ssl_context"],
        max_connections=options["max_connections"],
        keepalive_timeout=options["keepalive_timeout"],
    )
