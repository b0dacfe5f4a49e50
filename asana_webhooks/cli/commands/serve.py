"""What ``asana-webhooks serve`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import STORE

__all__ = ["command"]


@click.command("serve")
@click.argument("target", required=False)
@STORE
@click.option("--host", help="The address to listen on; 127.0.0.1 unless the client says another.")
@click.option("--port", type=click.IntRange(0, 65_535), help="8080 unless the client says another.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that share the port.")
@click.option(
    "--handlers/--no-handlers", default=True, help="Or only store deliveries, for other processes."
)
@click.option("--supervised", is_flag=True, hidden=True)
def command(**options: Any) -> None:
    """Receive deliveries, and hand them to handlers, until told to stop.

    TARGET is the client with its handlers, or a function that returns it, as module:name. Without
    it a receiver alone keeps deliveries in --store for other processes; it needs no token.

    SIGTERM or Ctrl-C ends it within ten seconds, a second one at once; nothing is lost.
    """
    from ..serve import run

    run(**options)
