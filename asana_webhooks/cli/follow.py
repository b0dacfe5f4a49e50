"""``asana-webhooks follow``: a webhook on each project of a workspace, a team or a portfolio."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from .establish import EstablishOptions, establish_options
from .options import FILTER_SYNTAX

if TYPE_CHECKING:
    from ..account import Account
    from ..models import WebhookFilter

__all__ = ["command"]

LOOK_EVERY = 0.1
"""Seconds between two looks at how far it has come."""


class _Field(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    name = "field=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        field, equals, text = str(value).partition("=")
        if not (field and equals):
            self.fail("it must be FIELD=VALUE, as in archived=false", param, ctx)
        try:
            read = json.loads(text)
        except ValueError:
            return field, text
        is_number = isinstance(read, int | float) and not isinstance(read, bool)
        return field, text if is_number else read  # no field is a number: '2026' is a name or a gid


@click.command("follow", epilog=FILTER_SYNTAX)
@establish_options
@click.option(
    "--where",
    type=_Field(),
    multiple=True,
    help="Only projects whose field has this value: archived=false, team.gid=1204619; may be"
    " repeated.",
)
def command(*, where: tuple[tuple[str, object], ...], **options: Any) -> None:
    """Have a webhook on each project of a workspace, a team or a portfolio.

    RESOURCE is its gid. The webhooks that were made for it before, and whose projects left it or do
    not fit --where any longer, are deleted. It ends when all projects have theirs; a program that
    calls client.follow(...), with the same store, takes over and sees to what changes later. When
    it is interrupted the next call goes on.
    """

    async def follow(
        account: Account, container: str, *, filters: Any, timeout: float
    ) -> tuple[int, int]:
        return await _follow(account, container, dict(where), filters, timeout)

    covered, projects = EstablishOptions(**options).work(follow)
    if options["as_json"]:
        click.echo(json.dumps({"projects": projects, "webhooks": covered}))
    elif not projects:
        click.echo("no project fits: nothing is followed now")
    else:
        click.echo(f"{covered} of {projects} projects have their webhook")


async def _follow(
    account: Account,
    container: str,
    where: dict[str, object],
    filters: tuple[WebhookFilter, ...] | None,
    timeout: float,
) -> tuple[int, int]:
    """Follow a container until all is done; return how many projects are covered, of how many."""
    import asyncio

    account.follow(container, where=where or None, filters=filters, timeout=timeout)
    parts = account._parts()
    kept = asyncio.create_task(account.kept(timeout=None))
    try:
        with _bar() as show:
            while not kept.done() or await parts.upkeep.has_leaving():
                if problems := parts.follows.problems():
                    raise click.ClickException("; ".join(problems))
                show(*parts.follows.progress())
                await asyncio.wait([kept], timeout=LOOK_EVERY)
                await asyncio.sleep(LOOK_EVERY if kept.done() else 0)
    finally:
        kept.cancel()
    return parts.follows.progress()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; it is given how much is done, and of how much."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    columns = ("webhooks", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("webhooks", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total or None)

        yield show
