"""What ``asana-webhooks show`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import JSON, STORE, asana_options

__all__ = ["command"]


@click.command("show")
@click.argument("gid")
@STORE
@asana_options
@JSON
def command(**options: Any) -> None:
    """Show one webhook, with all that Asana says of it."""
    from ..show import run

    run(**options)
