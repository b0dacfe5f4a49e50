"""What ``asana-webhooks update`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import FILTER_SYNTAX, FILTERS, JSON, STORE, asana_options

__all__ = ["command"]


@click.command("update", epilog=FILTER_SYNTAX)
@click.argument("gid")
@FILTERS
@click.option("--no-filters", "every_event", is_flag=True, help="Deliver every event.")
@STORE
@asana_options
@JSON
def command(**options: Any) -> None:
    """Put other filters in the place of all that a webhook has.

    At Asana, and in the store if it holds the webhook. Another target or resource is another
    webhook: establish it.
    """
    from ..update import run

    run(**options)
