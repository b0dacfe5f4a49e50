"""What ``asana-webhooks prune`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import JSON, PUBLIC_URL, STORE, YES, asana_options

__all__ = ["command"]


@click.command("prune")
@PUBLIC_URL
@STORE
@click.option("--workspace", help="Only webhooks of this workspace.")
@asana_options
@click.option("--dry-run", is_flag=True, help="Only list them.")
@YES
@JSON
def command(**options: Any) -> None:
    """Delete webhooks that lead here, but whose secret the store does not hold.

    Their deliveries are refused anyway. Only targets that are --public-url and a route count;
    name the store that all receivers behind that address share.
    """
    from ..prune import run

    run(**options)
