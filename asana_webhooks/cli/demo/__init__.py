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

    With --inspect it stays after the last step, until Ctrl-C.
    """
    import asyncio
    import sys

    from .reporter import Reporter
    from .scenario import run_demo, run_with_inspector

    reporter = Reporter(sys.stdout)
    asyncio.run(run_demo(reporter) if inspect is None else run_with_inspector(reporter, inspect))
