"""What ``asana-webhooks establish`` is asked, and ``ensure`` with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .options import FILTER_SYNTAX, FILTERS, JSON, PUBLIC_URL, STORE, asana_options

__all__ = ["command", "establishing_options"]


def establishing_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which webhook, and where its handshake is answered."""
    for option in (
        JSON,
        asana_options,
        click.option(
            "--timeout",
            type=click.FloatRange(0, 600, min_open=True),
            default=60.0,
            show_default=True,
            help="Seconds for the create call.",
        ),
        click.option(
            "--receiver/--no-receiver",
            default=True,
            help="Answer the handshake here, or where one with this store serves already.",
        ),
        click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True),
        click.option("--host", default="127.0.0.1", show_default=True),
        STORE,
        PUBLIC_URL,
        FILTERS,
        click.argument("resource"),
    ):
        command = option(command)
    return command


@click.command("establish", epilog=FILTER_SYNTAX)
@establishing_options
def command(**options: Any) -> None:
    """Make a new webhook, its handshake answered by a receiver of its own.

    RESOURCE is the gid of what it watches: a project, a task, a workspace, ...

    Ctrl-C and SIGTERM leave no webhook behind, or name the one that could not be deleted.
    """
    from ...client import WebhooksClient
    from ..establish import Wanted, run

    run(WebhooksClient.establish, Wanted(**options))
