"""``asana-webhooks delete``: the end of webhooks, at Asana and in the store."""

from __future__ import annotations

import click

from .access import Access
from .options import STORE, YES, asana_options
from .output import on_one_line, warnings_shown
from .webhooks import routes_of, store_if_any

__all__ = ["command"]


@click.command("delete")
@click.argument("gids", metavar="GID...", nargs=-1, required=True)
@STORE
@asana_options
@YES
def command(*, gids: tuple[str, ...], store: str, access: Access, yes: bool) -> None:
    """Delete webhooks for good, at Asana and in the store.

    What was received before is still handled. One that Asana does not know is deleted already.
    """
    import asyncio

    if not yes:
        click.confirm(on_one_line(f"Delete {', '.join(gids)} for good?"), abort=True, err=True)
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
