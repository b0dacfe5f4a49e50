"""A receiver that shows what comes, and a webhook for as long as it runs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import click

from ..._addresses import is_loopback
from ..._background import background_task
from ..._endpoint import Endpoint
from ..._establish import Establishment, check_public_url
from ..._inbox import Inbox
from ..._receiver_aiohttp import Receiver
from ..._signals import stopping, until_told
from ...api import WebhooksApi
from ...errors import AsanaWebhooksError
from ...models import Event, WebhookFilter
from ...router import Router
from ...stores import Store
from ...stores.urls import open_store
from ..access import Access
from ..forwarding import check_url
from ..inspector import Inspector, post_again
from ..output import warnings_shown
from ..recording import Recorder
from ..tunnels import Tunnel, tunnel
from ..webhooks import routes_of
from .printer import Printer

__all__ = ["ListenOptions", "listen", "run"]

MEMORY = "memory:"

DELETE_TIMEOUT = 15.0
"""Seconds that deleting the webhook may take, in the end."""


class ListenOptions(NamedTuple):
    """The options of ``listen``: what to receive, where, and what is done with it."""

    resource: str | None
    filters: tuple[WebhookFilter, ...]
    public_url: str | None
    tunnel: bool
    host: str
    port: int
    store: str
    access: Access
    forward_to: str | None
    inspect: int | None
    as_json: bool
    tunnel_program: str | None = None

    @property
    def asana_is_local(self) -> bool:
        """True when Asana is one on this machine, which needs no public URL."""
        return is_loopback(urlsplit(self.access.base_url).hostname or "")

    @property
    def address(self) -> str:
        """The URL of the receiver on this machine."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else self.host  # noqa: S104 - compared
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def run(options: ListenOptions) -> None:
    """Listen. Raises UsageError, or ValueError, for what cannot work."""
    with warnings_shown():
        _check(options)
        asyncio.run(listen(options))


def _check(options: ListenOptions) -> None:
    """Raise UsageError, or ValueError, for what cannot work."""
    if options.resource is None:
        if options.store == MEMORY:
            msg = "name a RESOURCE to watch, or a --store with routes that Asana posts to"
            raise click.UsageError(msg)
        if options.filters or options.public_url or options.tunnel:
            msg = "--filter, --public-url and --tunnel go with a RESOURCE"
            raise click.UsageError(msg)
    elif options.public_url and options.tunnel:
        msg = "give --public-url or --tunnel, not both"
        raise click.UsageError(msg)
    elif not (options.public_url or options.tunnel or options.asana_is_local):
        msg = "Asana must reach this machine: give --public-url, or --tunnel"
        raise click.UsageError(msg)
    if options.public_url is not None:
        check_public_url(options.public_url, options.access.base_url)
    if options.forward_to is not None:
        check_url(options.forward_to)


async def listen(options: ListenOptions) -> None:
    """Show what comes until told to stop; in the end the webhook is deleted.

    Raises ValueError for what cannot work, before any I/O, and what establishing raises.
    """
    api = None if options.resource is None else options.access.api()
    printer = Printer(as_json=options.as_json, forward_to=options.forward_to)
    recorder = Recorder(printer.put)
    store = open_store(options.store)
    with stopping() as told:
        async with AsyncExitStack() as stack:
            endpoint = await _receive(stack, options, store, recorder)
            if options.inspect is not None:
                actions = {"Post again": post_again(lambda: options.address)}
                inspector = Inspector(recorder, store, actions=actions, port=options.inspect)
                await stack.enter_async_context(inspector)
                _say(f"inspector: {inspector.url}")
            if api is None:
                _say(f"listening on {options.address} for the routes of the store")
                await until_told(told, printer.run(recorder, store))
            else:
                await stack.enter_async_context(api)
                holding = _hold_webhook(options, api, store, endpoint)
                await until_told(told, printer.run(recorder, store), holding)


async def _receive(
    stack: AsyncExitStack, options: ListenOptions, store: Store, recorder: Recorder
) -> Endpoint:
    """Open the store and the receiver; what would stay in memory for ever is let go."""
    inbox, router = Inbox(store, telemetry=recorder), Router()
    router.on()(_let_go)
    endpoint = Endpoint(store, on_arrival=inbox.arrived, telemetry=recorder)
    await stack.enter_async_context(store)
    await stack.enter_async_context(inbox)
    if options.store == MEMORY:
        await stack.enter_async_context(background_task(inbox.drain(router), "inbox"))
    await stack.enter_async_context(Receiver(endpoint, host=options.host, port=options.port))
    endpoint.accepting = True
    return endpoint


async def _let_go(event: Event) -> None:
    """Do nothing with an event: it was printed when it came."""


async def _hold_webhook(
    options: ListenOptions, api: WebhooksApi, store: Store, endpoint: Endpoint
) -> None:
    """Establish a webhook, and delete it when cancelled. Raises when its tunnel ends."""
    async with AsyncExitStack() as stack:
        opened: Tunnel | None = None
        if options.tunnel:
            opened = await stack.enter_async_context(tunnel(options.tunnel_program, options.port))
        url = opened.url if opened else options.public_url or options.address
        _say(f"listening on {options.address}, which Asana reaches at {url}")
        establishment = Establishment(
            api, store, public_url=url, workspace=None, seen=endpoint.seen
        )
        webhook = await establishment.establish(
            options.resource or "", filters=options.filters or None, timeout=60.0
        )
        try:
            _say(f"webhook {webhook.gid} for {options.resource} is established; Ctrl-C deletes it")
            await (opened.ended if opened else asyncio.Event()).wait()
            msg = "the tunnel ended: nothing reaches this machine any more"
            raise click.ClickException(msg)
        finally:
            await _delete(webhook.gid, api, store)


async def _delete(gid: str, api: WebhooksApi, store: Store) -> None:
    """Delete a webhook and retire its route.

    Raises ClickException when it is left: it cannot be deleted, or nobody wants to wait for it.
    """
    deleted, why = False, "it was not waited for"
    with anyio.move_on_after(DELETE_TIMEOUT, shield=True):
        try:
            await api.delete_webhook(gid)
            deleted = True
            for route in await routes_of(store, [gid]):
                await store.retire(route.id)
        except asyncio.CancelledError:
            pass  # told twice, or for too long: what is left is said below
        except AsanaWebhooksError as error:
            why = str(error)
    if not deleted:
        msg = f"webhook {gid} is left at Asana, delete it there: {why}"
        raise click.ClickException(msg)
    _say(f"webhook {gid} is deleted")


def _say(text: str) -> None:
    click.echo(text, err=True)
