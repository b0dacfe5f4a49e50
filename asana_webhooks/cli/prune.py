"""``asana-webhooks prune``: webhooks whose deliveries nobody can verify any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..models import Webhook
from .access import Access
from .options import JSON, PUBLIC_URL, STORE, YES, asana_options, confirm
from .output import print_records, warnings_shown
from .webhooks import (
    all_webhooks,
    delete_each,
    existing_store,
    shortened,
    webhook_record,
    yes_or_no,
)

if TYPE_CHECKING:
    from ..stores import Store

__all__ = ["command"]


class Orphans(NamedTuple):
    """Webhooks that lead to our address and that the store does not know."""

    webhooks: list[Webhook]
    store_is_empty: bool


@click.command("prune")
@PUBLIC_URL
@STORE
@click.option("--workspace", help="Only webhooks of this workspace.")
@asana_options
@click.option("--dry-run", is_flag=True, help="Only list them.")
@YES
@JSON
def command(
    *,
    public_url: str,
    store: str,
    workspace: str | None,
    access: Access,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete webhooks that lead here, but whose secret the store does not hold.

    Their deliveries are refused anyway. Only targets that are --public-url and a route count;
    name the store that all receivers behind that address share.
    """
    import asyncio

    from .._establish import check_public_url

    check_public_url(public_url, access.base_url)
    opened = existing_store(store)
    with warnings_shown():
        orphans = asyncio.run(_look(access, opened, public_url, workspace))
        _print(orphans.webhooks, as_json=as_json)
        if dry_run or not orphans.webhooks:
            return
        _check_sure(orphans, yes=yes)
        asyncio.run(_delete(access, orphans.webhooks))


async def _look(access: Access, store: Store, public_url: str, workspace: str | None) -> Orphans:
    from .._upkeep import orphans_among

    async with access.api() as api:
        webhooks = await all_webhooks(api, workspace)
    # The store is read after Asana: what is being established at this moment has its route.
    async with store:
        routes = await store.list_routes()
    return Orphans(orphans_among(webhooks, routes, public_url), not routes)


def _print(webhooks: list[Webhook], *, as_json: bool) -> None:
    shown = [webhook_record(each, held=False) if as_json else _summary(each) for each in webhooks]
    none = "no webhook leads here without a secret in the store"
    print_records(shown, as_json=as_json, none=none)


def _summary(webhook: Webhook) -> dict[str, Any]:
    return {
        "gid": webhook.gid,
        "resource": webhook.resource and webhook.resource.gid,
        "active": yes_or_no(webhook.active),
        "target": shortened(webhook.target),
    }


def _check_sure(orphans: Orphans, *, yes: bool) -> None:
    """Ask, unless told not to. Raises ClickException when that is too much to be sure of."""
    if yes and orphans.store_is_empty:
        msg = (
            "this store holds no webhook at all, so every one that leads here would be deleted:"
            " check --store, or leave out --yes"
        )
        raise click.ClickException(msg)
    if not yes:
        count = len(orphans.webhooks)
        confirm(f"Delete {count} of them at Asana for good?")


async def _delete(access: Access, webhooks: list[Webhook]) -> None:
    count = 0
    try:
        async with access.api() as api:
            async for _ in delete_each(api, [webhook.gid for webhook in webhooks]):
                count += 1
    finally:
        click.echo(f"{count} deleted", err=True)
