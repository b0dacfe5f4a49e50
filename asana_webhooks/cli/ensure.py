"""``asana-webhooks ensure``: the store's webhook for a resource, found or made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .establish import EstablishOptions, establish_options
from .options import FILTER_SYNTAX

if TYPE_CHECKING:
    from ..account import Account
    from ..models import Webhook, WebhookFilter

__all__ = ["command"]


@click.command("ensure", epilog=FILTER_SYNTAX)
@establish_options
def command(**options: Any) -> None:
    """Find the store's webhook for a resource, or make it.

    RESOURCE is the gid of what it watches. One that Asana does not know any more, or calls
    inactive, is replaced; filters that differ are updated. Without --filter those stay that it has.
    """
    EstablishOptions(**options).run(_ensure)


async def _ensure(
    client: Account,
    resource: str,
    *,
    filters: Sequence[WebhookFilter] | None,
    timeout: float,
) -> Webhook:
    if filters is None:
        filters = await client._parts().upkeep.held_filters(resource)
    return await client.ensure(resource, filters=filters, timeout=timeout)
