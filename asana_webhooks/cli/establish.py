"""A new webhook from the shell: the handshake answered, its secret in the store."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import click

from ..client import WebhooksClient
from ..models import Webhook, WebhookFilter
from .access import Access
from .output import warnings_shown
from .stopping import terminable
from .webhooks import print_webhook

__all__ = ["Wanted", "run"]

SERVE_NEXT = "Its secret is in the store. `asana-webhooks serve`, with that store, receives for it."
PRUNE_NEXT = "Interrupted. Should a webhook be left at Asana, `asana-webhooks prune` finds it."


class Wanted(NamedTuple):
    """Which webhook, and how its handshake reaches the store."""

    resource: str
    filters: tuple[WebhookFilter, ...]
    public_url: str
    store: str
    host: str
    port: int
    receiver: bool
    timeout: float
    access: Access
    as_json: bool

    def client(self) -> WebhooksClient:
        """Return a client that can establish it; it looks after nothing later."""
        return WebhooksClient(
            self.access.token(),
            base_url=self.access.base_url,
            public_url=self.public_url,
            store=self.store,
            serve=self.receiver,
            host=self.host,
            port=self.port,
            look_after=None,
        )


def run(work: Callable[..., Awaitable[Webhook]], wanted: Wanted) -> None:
    """Have a client establish or ensure a webhook, then print it.

    Raises UsageError for a store that would forget the secret, and ClickException when the
    receiver's address is taken.
    """
    if wanted.store == "memory:":
        msg = "a store in memory ends with this command, and the secret with it: name a lasting one"
        raise click.UsageError(msg)
    with warnings_shown(), terminable():
        try:
            webhook = asyncio.run(_work(work, wanted))
        except KeyboardInterrupt:  # cancelling undid it, unless Asana could not be reached
            click.echo(f"\n{PRUNE_NEXT}", err=True)
            raise
    print_webhook(webhook, held=True, as_json=wanted.as_json)
    if wanted.receiver:
        click.echo(SERVE_NEXT, err=True)


async def _work(work: Callable[..., Awaitable[Webhook]], wanted: Wanted) -> Webhook:
    filters = wanted.filters or None
    try:
        async with wanted.client() as client:
            return await work(client, wanted.resource, filters=filters, timeout=wanted.timeout)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        msg = (
            f"port {wanted.port} of {wanted.host} is taken: if a receiver with this store is"
            " serving there, say --no-receiver; else choose another --port"
        )
        raise click.ClickException(msg) from error
