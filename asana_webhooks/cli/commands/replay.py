"""What ``asana-webhooks replay`` is asked."""

from __future__ import annotations

from typing import Any

import click

from .options import JSON

__all__ = ["command"]


@click.command("replay")
@click.argument(
    "files",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    nargs=-1,
    required=True,
)
@click.option(
    "--to",
    "target",
    envvar="ASANA_WEBHOOKS_REPLAY_TO",
    required=True,
    show_envvar=True,
    help="The URL to post to, whole.",
)
@JSON
def command(**options: Any) -> None:
    """Post recorded deliveries again, in their order, and print what is answered.

    Each line of FILES (- for standard input) is one delivery, as `listen --json` prints them:
    {"received_at": "...", "headers": {...}, "body": "..."}. The exit status is 0 only if each was
    answered 200 or 204. Signatures are posted as they were, and fit the webhook's own secret only.

    Dead letters are replayed by `inbox replay`.
    """
    from ..replay import run

    run(**options)
