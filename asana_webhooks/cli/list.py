"""``asana-webhooks list``: the webhooks at Asana, and how they fare."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from ..models import Webhook
from .access import Access
from .options import JSON, STORE, asana_options
from .output import age, print_records, warnings_shown
from .webhooks import all_webhooks, routes_of, store_if_any, webhook_record, yes_or_no

__all__ = ["command"]


@click.command("list")
@click.argument("workspace", required=False)
@click.option("--resource", help="Only those that watch what has this gid.")
@STORE
@asana_options
@JSON
def command(
    *, workspace: str | None, resource: str | None, store: str, access: Access, as_json: bool
) -> None:
    """List the webhooks at Asana, and how they fare.

    Those of one workspace, or of each that the token sees; Asana shows the webhooks that the
    token's app made for its user. "secret" says whether the store holds a webhook's secret.
    """
    import asyncio

    with warnings_shown():
        webhooks, held = asyncio.run(_look(access, store, workspace, resource))
    now = datetime.now(UTC)
    records = [
        webhook_record(each, held=each.gid in held)
        if as_json
        else _summary(each, now, held=each.gid in held)
        for each in webhooks
    ]
    print_records(records, as_json=as_json, none="no webhooks")


async def _look(
    access: Access, url: str, workspace: str | None, resource: str | None
) -> tuple[list[Webhook], set[str | None]]:
    async with access.api() as api:
        webhooks = await all_webhooks(api, workspace, resource)
    async with store_if_any(url) as store:
        return webhooks, {route.gid for route in await routes_of(store, (w.gid for w in webhooks))}


def _summary(webhook: Webhook, now: datetime, *, held: bool) -> dict[str, Any]:
    resource, success = webhook.resource, webhook.last_success_at
    deletion = webhook.failure_deletion_timestamp
    return {
        "gid": webhook.gid,
        "resource": resource and resource.gid,
        "name": resource and resource.name,
        "active": yes_or_no(webhook.active),
        "last success": age(None if success is None else (now - success).total_seconds()),
        "retries": webhook.delivery_retry_count,
        "deletion": deletion and f"{deletion:%Y-%m-%d %H:%M:%S}",
        "secret": yes_or_no(held),
    }
