"""The end of webhooks, at Asana and in the store."""

from __future__ import annotations

import asyncio

import click

from .access import Access
from .output import warnings_shown
from .webhooks import routes_of, store_if_any

__all__ = ["run"]


def run(*, gids: tuple[str, ...], store: str, access: Access, yes: bool) -> None:
    """Delete webhooks at Asana, and retire them in the store; ask before unless ``yes``."""
    if not yes:
        click.confirm(f"Delete {', '.join(gids)} for good?", abort=True, err=True)
    with warnings_shown():
        asyncio.run(_delete(access, store, gids))


async def _delete(access: Access, url: str, gids: tuple[str, ...]) -> None:
    async with access.api() as api, store_if_any(url) as store:
        for gid in gids:
            await api.delete_webhook(gid)
            routes = await routes_of(store, [gid])
            for route in routes:
                await store.retire(route.id)
            click.echo(f"{gid} deleted" + (", and retired in the store" if routes else ""))
