"""What ``asana-webhooks list`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import JSON, STORE, asana_options

__all__ = ["command"]


@click.command("list")
@click.argument("workspace", required=False)
@click.option("--resource", help="Only those that watch what has this gid.")
@STORE
@asana_options
@JSON
def command(**options: Any) -> None:
    """List the webhooks at Asana, and how they fare.

    Those of one workspace, or of each that the token sees; Asana shows the webhooks that the
    token's app made for its user. "secret" says whether the store holds a webhook's secret.
    """
    from ..list import run

    run(**options)
