"""Other filters for a webhook."""

from __future__ import annotations

import asyncio

import click

from ..models import Webhook, WebhookFilter
from .access import Access
from .output import warnings_shown
from .webhooks import FIELDS, print_webhook, routes_of, store_if_any

__all__ = ["run"]


def run(
    *,
    gid: str,
    filters: tuple[WebhookFilter, ...],
    every_event: bool,
    store: str,
    access: Access,
    as_json: bool,
) -> None:
    """Put these filters, none for every event, in the place of a webhook's."""
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
