"""``asana-webhooks update``: other filters for a webhook."""

from __future__ import annotations

import click

from ..models import Webhook, WebhookFilter
from .access import Access
from .options import FILTER_SYNTAX, FILTERS, JSON, STORE, asana_options
from .output import warnings_shown
from .webhooks import FIELDS, print_webhook, routes_of, store_if_any

__all__ = ["command"]


@click.command("update", epilog=FILTER_SYNTAX)
@click.argument("gid")
@FILTERS
@click.option("--no-filters", "every_event", is_flag=True, help="Deliver every event.")
@STORE
@asana_options
@JSON
def command(
    *,
    gid: str,
    filters: tuple[WebhookFilter, ...],
    every_event: bool,
    store: str,
    access: Access,
    as_json: bool,
) -> None:
    """Put other filters in the place of all that a webhook has.

    At Asana, and in the store if it holds the webhook. Another target or resource is another
    webhook: establish it.
    """
    import asyncio

    if bool(filters) == every_event:
        msg = "say which events the webhook is to deliver: --filter, or --no-filters for all"
        raise click.UsageError(msg)
    with warnings_shown():
        webhook, held = asyncio.run(_update(access, store, gid, filters))
    print_webhook(webhook, held=held, as_json=as_json)


async def _update(
    access: Access, url: str, gid: str, filters: tuple[WebhookFilter, ...]
) -> tuple[Webhook, bool]:
    async with access.api() as api, store_if_any(url) as store:
        webhook = await api.update_webhook(gid, filters=filters, opt_fields=FIELDS)
        routes = await routes_of(store, [gid])
        for route in routes:
            await store.set_filters(route.id, filters)
    return webhook, bool(routes)
