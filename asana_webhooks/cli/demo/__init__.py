"""``asana-webhooks demo``: the life of a webhook, shown and checked on this machine."""

from __future__ import annotations

import click

from ..options import INSPECT

__all__ = ["command"]


@click.command("demo")
@INSPECT
def command(*, inspect: int | None) -> None:
    """Show and check the life of a webhook, on this machine alone.

    Starts a local Asana and a client with a store in a temporary directory. Needs no account, no
    token and no public URL. The exit status is 0 only if each check passed.

    With --inspect it stays, when the story is told, until Ctrl-C.
    """
    import asyncio
    import sys

    from .console import Narrator
    from .story import show, tell

    narrator = Narrator(sys.stdout)
    asyncio.run(tell(narrator) if inspect is None else show(narrator, inspect))
