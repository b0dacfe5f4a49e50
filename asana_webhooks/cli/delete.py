"""``asana-webhooks delete``: the end of webhooks, at Asana and in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..errors import StoreError
from ..models import check_gid
from .access import Access
from .options import STORE, YES, asana_options, confirm
from .output import warnings_shown
from .webhooks import delete_each, routes_of, store_if_any

if TYPE_CHECKING:
    from ..stores import Store

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

    for gid in gids:
        check_gid("gid", gid)
    if not yes:
        confirm(f"Delete {', '.join(gids)} for good?")
    with warnings_shown():
        asyncio.run(_delete(access, store, gids))


async def _delete(access: Access, url: str, gids: tuple[str, ...]) -> None:
    import asyncio

    async with access.api() as api, store_if_any(url) as store:
        async for gid in delete_each(api, gids):
            retiring = asyncio.create_task(_retire(store, gid))
            try:
                retired = await asyncio.shield(retiring)
            except asyncio.CancelledError:  # Ctrl-C waits for it
                await retiring
                raise
            click.echo(f"{gid} deleted" + (", and retired in the store" if retired else ""))


async def _retire(store: Store, gid: str) -> bool:
    """Retire what the store holds of a webhook that is deleted; return whether it held any.

    Without that a client that looks after the webhook takes it for lost, and makes it again.
    """
    try:
        routes = await routes_of(store, [gid])
        for route in routes:
            await store.retire(route.id)
    except StoreError as error:
        msg = f"{gid} is deleted at Asana, but not retired in the store; repeat this: {error}"
        raise click.ClickException(msg) from error
    return bool(routes)
