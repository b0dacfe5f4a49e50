"""What ``asana-webhooks demo`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import INSPECT

__all__ = ["command"]


@click.command("demo")
@INSPECT
def command(**options: Any) -> None:
    """Show and check the life of a webhook, on this machine alone.

    Starts a local Asana and a client with a store in a temporary directory. Needs no account, no
    token and no public URL. The exit status is 0 only if each check passed.

    With --inspect it stays, when the story is told, until Ctrl-C.
    """
    from ..demo import run

    run(**options)
