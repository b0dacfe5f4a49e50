"""``asana-webhooks list``: the webhooks at Asana, and how they fare."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from ..models import Continuity, Source, Webhook
from .access import Access
from .options import JSON, STORE, asana_options
from .output import age, print_records, warnings_shown
from .webhooks import all_webhooks, routes_of, store_if_any, webhook_record, yes_or_no

__all__ = ["command"]


@click.command("list")
@click.argument("workspace", required=False)
@click.option("--resource", help="Only those that watch what has this gid.")
@click.option("--health", is_flag=True, help="Say until when nothing is missing, and what was.")
@STORE
@asana_options
@JSON
def command(
    *,
    workspace: str | None,
    resource: str | None,
    health: bool,
    store: str,
    access: Access,
    as_json: bool,
) -> None:
    """List the webhooks at Asana, and how they fare.

    Those of one workspace, or of each that the token sees; Asana shows the webhooks that the
    token's app made for its user. "secret" says whether the store holds a webhook's secret.

    With --health: until when it is proven that no event is missing but in the open gaps, how many
    events were recovered from Asana's events stream, how many Asana dropped, and within how many
    seconds half of the deliveries, and 99 % of them, came.
    """
    import asyncio

    with warnings_shown():
        webhooks, held, known = asyncio.run(_look(access, store, workspace, resource))
    now = datetime.now(UTC)
    records = []
    for each in webhooks:
        is_held, continuity = each.gid in held, known.get(each.gid)
        if as_json:
            record = webhook_record(each, held=is_held)
            records.append(record | (_health_record(continuity) if health else {}))
        elif health:
            records.append(_health(each, continuity))
        else:
            records.append(_summary(each, now, held=is_held))
    print_records(records, as_json=as_json, none="no webhooks")


async def _look(
    access: Access, url: str, workspace: str | None, resource: str | None
) -> tuple[list[Webhook], set[str | None], dict[str, Continuity]]:
    """Return Asana's webhooks, those that the store holds, and what it proves of each."""
    from .._ledger import list_continuity

    async with access.api() as api:
        webhooks = await all_webhooks(api, workspace, resource)
    async with store_if_any(url) as store:
        held = {route.gid for route in await routes_of(store, (w.gid for w in webhooks))}
        return webhooks, held, {each.source.webhook: each for each in await list_continuity(store)}


def _health(webhook: Webhook, continuity: Continuity | None) -> dict[str, Any]:
    known = continuity or Continuity(
        source=Source(webhook=webhook.gid, resource=""), evidence="heartbeats"
    )
    proven, latency = known.proven_until, known.latency
    share = f"{known.dropped} ({known.dropped_share:.1%})"
    return {
        "gid": webhook.gid,
        "resource": webhook.resource and webhook.resource.gid,
        "name": webhook.resource and webhook.resource.name,
        "evidence": known.evidence if continuity else None,
        "proven until": proven and f"{proven:%Y-%m-%d %H:%M:%S}",
        "gaps": len(known.gaps),
        "recovered": known.recovered,
        "dropped": share if known.seen else known.dropped,
        "median": latency and f"{latency.median:g} s",
        "99 %": latency and f"{latency.p99:g} s",
    }


def _health_record(continuity: Continuity | None) -> dict[str, Any]:
    if continuity is None:
        return {"continuity": None}
    record: dict[str, Any] = msgspec.to_builtins(continuity)
    del record["source"]
    return {"continuity": record | {"dropped_share": continuity.dropped_share}}


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
