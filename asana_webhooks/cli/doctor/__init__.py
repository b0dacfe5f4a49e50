"""``asana-webhooks doctor``: a check of all that receiving needs, each with the next step."""

from __future__ import annotations

import click

from ..access import Access
from ..options import JSON, STORE, asana_options

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
def command(*, public_url: str | None, store: str, access: Access, as_json: bool) -> None:
    """Check token, address, receiver and store, and say what to do next.

    Each check is ok, a warning, or failed; the exit status is 1 if any failed. The receiver is
    asked as Asana would, but from this machine: with the store that it uses, a handshake and signed
    bodies for a route of its own prove that nothing on the way alters them.
    """
    import asyncio

    from .checks import check

    if asyncio.run(check(public_url, store, access, as_json=as_json)):
        raise click.exceptions.Exit(1)
