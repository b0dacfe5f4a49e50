"""What ``asana-webhooks inbox`` is asked, and the commands below it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from .options import JSON, STORE, YES

__all__ = ["command"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Ago(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    """A time in the past, given as an age."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no age; write 90s, 15m, 12h or 7d", param, ctx)
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * SECONDS[found[2]])


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which dead letters."""
    for option in (
        click.option(
            "--older-than", "buried_before", type=_Ago(), help="Such as 90s, 15m, 12h, 7d."
        ),
        click.option("--reason", help="A part of the reason, whatever the case."),
        click.option("--webhook", help="The webhook's gid."),
        click.option("--resource", help="The gid of what the webhook watches."),
    ):
        command = option(command)
    return command


IDS = click.argument("ids", nargs=-1)
EVERY = click.option("--all", "every", is_flag=True, help="All dead letters.")


@click.group("inbox", invoke_without_command=True)
@STORE
@_choosing
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True)
@JSON
@click.pass_context
def command(
    context: click.Context, /, *, store: str, limit: int, as_json: bool, **chosen: Any
) -> None:
    """Tell what waits in the store, and work with dead letters.

    Without a command of its own it counts, and lists dead letters, the oldest first.
    """
    context.obj = store
    if context.invoked_subcommand is None:
        from .. import inbox

        inbox.overview(store, inbox.Chosen(**chosen), limit=limit, as_json=as_json)


@command.command()
@click.argument("letter")
@JSON
@click.pass_obj
def show(store: str, /, **options: Any) -> None:
    """Show one dead letter, with its body."""
    from .. import inbox

    inbox.show(store, **options)


@command.command()
@IDS
@_choosing
@EVERY
@click.pass_obj
def replay(store: str, /, **chosen: Any) -> None:
    """Move dead letters back to the inbox: by id, by filter, or all."""
    from .. import inbox

    inbox.replay(store, inbox.Chosen(**chosen))


@command.command()
@IDS
@_choosing
@EVERY
@YES
@click.pass_obj
def discard(store: str, /, *, yes: bool, **chosen: Any) -> None:
    """Remove dead letters for good: by id, by filter, or all."""
    from .. import inbox

    inbox.discard(store, inbox.Chosen(**chosen), yes=yes)
