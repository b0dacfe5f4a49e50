"""What ``asana-webhooks doctor`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import JSON, STORE, asana_options

__all__ = ["command"]


@click.command("doctor")
@click.option(
    "--public-url",
    envvar="ASANA_WEBHOOKS_PUBLIC_URL",
    show_envvar=True,
    help="Where the internet reaches the receiver, which should be running.",
)
@STORE
@asana_options
@JSON
def command(**options: Any) -> None:
    """Check token, address, receiver and store, and say what to do next.

    Each check is ok, a warning, or failed; the exit status is 1 if any failed. The receiver is
    asked as Asana would, but from this machine.
    """
    from ..doctor import run

    run(**options)
