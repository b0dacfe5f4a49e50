"""Options that several commands have."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..models import WebhookFilter
from .access import STORE_VARIABLE, Access
from .filters import parse_filter

__all__ = [
    "BASE_URL",
    "FILTERS",
    "FILTER_SYNTAX",
    "INSPECT",
    "JSON",
    "PUBLIC_URL",
    "STORE",
    "YES",
    "asana_options",
    "confirm",
    "is_store_option_given",
]

STORE = click.option(
    "--store",
    envvar=STORE_VARIABLE,
    default="sqlite:///asana-webhooks.db",
    show_default=True,
    show_envvar=True,
    help="The store's URL.",
)
BASE_URL = click.option(
    "--base-url",
    envvar="ASANA_BASE_URL",
    default="https://app.asana.com/api/1.0",
    show_default=True,
    show_envvar=True,
    help="Another Asana, such as a local one.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, one record a line.")
PUBLIC_URL = click.option(
    "--public-url",
    envvar="ASANA_WEBHOOKS_PUBLIC_URL",
    required=True,
    show_envvar=True,
    help="Where the internet reaches the receiver; a route is appended.",
)
YES = click.option("--yes", is_flag=True, help="Do not ask.")


def is_store_option_given() -> bool:
    """Return whether --store stands in the call; its variable may be there for other commands."""
    source = click.get_current_context().get_parameter_source("store")
    return source is ParameterSource.COMMANDLINE


def confirm(question: str) -> None:
    """Ask on standard error. Raises Abort for no, ClickException when nobody can answer."""
    try:
        sure = click.confirm(question, err=True)
    except click.Abort as nothing:
        if sys.stdin is not None and sys.stdin.isatty():  # Ctrl-C, Ctrl-D
            raise
        click.echo(err=True)
        msg = "nobody is there to answer, as standard input is no terminal: --yes does not ask"
        raise click.ClickException(msg) from nothing
    if not sure:
        raise click.Abort


INSPECTOR_PORT = 4480
"""The port of the inspector's page, unless another is given."""

INSPECT = click.option(
    "--inspect",
    type=click.IntRange(0, 65_535),
    is_flag=False,
    flag_value=INSPECTOR_PORT,
    metavar="[PORT]",
    help=f"Serve a page that shows what comes, on this machine's port {INSPECTOR_PORT} or on PORT.",
)

FILTER_SYNTAX = """\b
A filter is TYPE[/SUBTYPE][.ACTION][:FIELD,FIELD...], with * for any type:
  task                          whatever happens to tasks
  story.added                   new comments and other stories
  task/milestone.changed        changes of milestones
  task.changed:completed,name   changes of these fields (with changed only)
  *.deleted                     whatever is deleted
An event that passes any of the filters is delivered; without one, every event.
"""
"""For the help of commands; the first character keeps click from filling the lines."""


class _Filter(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    name = "filter"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> WebhookFilter:
        try:
            return parse_filter(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


FILTERS = click.option(
    "--filter", "filters", type=_Filter(), multiple=True, help="Which events; may be repeated."
)


def asana_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say how to reach Asana; the command is given ``access``.

    A token is no option: arguments are in the list of processes.
    """

    @click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file with the access token, instead of ASANA_ACCESS_TOKEN or a login.",
    )
    @BASE_URL
    @functools.wraps(command)
    def told(*, base_url: str, token_file: Path | None, **options: Any) -> None:
        command(access=Access(base_url, token_file), **options)

    return told
