"""``asana-webhooks ensure``: the store's webhook for a resource, found or made."""

from __future__ import annotations

from typing import Any

import click

from .establish import EstablishOptions, establish_options
from .options import FILTER_SYNTAX

__all__ = ["command"]


@click.command("ensure", epilog=FILTER_SYNTAX)
@establish_options
def command(**options: Any) -> None:
    """Find the store's webhook for a resource, or make it.

    RESOURCE is the gid of what it watches. One that Asana does not know any more, or calls
    inactive, is replaced; filters that differ are updated.
    """
    from ..client import WebhooksClient

    EstablishOptions(**options).run(WebhooksClient.ensure)
