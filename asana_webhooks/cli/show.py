"""``asana-webhooks show``: one webhook, with all that Asana says of it."""

from __future__ import annotations

import click

from ..models import Webhook
from .access import Access
from .options import JSON, STORE, asana_options
from .output import warnings_shown
from .webhooks import FIELDS, print_webhook, routes_of, store_if_any

__all__ = ["command"]


@click.command("show")
@click.argument("gid")
@STORE
@asana_options
@JSON
def command(*, gid: str, store: str, access: Access, as_json: bool) -> None:
    """Show one webhook, with all that Asana says of it."""
    import asyncio

    with warnings_shown():
        webhook, held = asyncio.run(_look(access, store, gid))
    print_webhook(webhook, held=held, as_json=as_json)


async def _look(access: Access, url: str, gid: str) -> tuple[Webhook, bool]:
    async with access.api() as api:
        webhook = await api.get_webhook(gid, opt_fields=FIELDS)
    async with store_if_any(url) as store:
        return webhook, bool(await routes_of(store, [gid]))
