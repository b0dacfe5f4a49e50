"""What ``asana-webhooks delete`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import STORE, YES, asana_options

__all__ = ["command"]


@click.command("delete")
@click.argument("gids", metavar="GID...", nargs=-1, required=True)
@STORE
@asana_options
@YES
def command(**options: Any) -> None:
    """Delete webhooks for good, at Asana and in the store.

    What was received before is still handled. One that Asana does not know is deleted already.
    """
    from ..delete import run

    run(**options)
