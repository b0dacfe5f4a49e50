"""Printing: tables on a terminal, columns of plain text elsewhere, JSON, the log."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import click

from ..models import Event

__all__ = [
    "age",
    "describe",
    "is_debugging",
    "log_to_stderr",
    "on_one_line",
    "print_fields",
    "print_records",
    "warnings_shown",
]

LOG_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"

GAP = "  "
"""Separates columns; a table has the same."""

Record = Mapping[str, Any]


def print_records(records: Sequence[Record], *, as_json: bool, none: str) -> None:
    """Print records with the same keys, one a line; ``none`` is what to say without any."""
    if as_json:
        for record in records:
            click.echo(json.dumps(record, default=str))
    elif not records:
        click.echo(none, err=True)
    elif sys.stdout is not None and sys.stdout.isatty():  # None: it was closed
        _print_table(records)
    else:
        _print_columns(records)


def print_fields(record: Record, *, as_json: bool) -> None:
    """Print one record, a field a line."""
    if as_json:
        click.echo(json.dumps(record, default=str))
        return
    width = max(map(len, record)) + 1
    for name, value in record.items():
        click.echo(f"{name + ':':{width}} {on_one_line(value)}")


def age(seconds: float | None) -> str:
    """Return a duration as people say it, a dash for None."""
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))


def describe(event: Event) -> str:
    """Return what happened: the resource, the action, and where or to which field."""
    resource, parent, change = event.resource, event.parent, event.change
    text = f"{resource.resource_type} {resource.gid} {event.action}"
    if parent is not None:
        preposition = "from" if event.action == "removed" else "to"
        text += f" {preposition} {parent.resource_type} {parent.gid}"
    return f"{text}: {change.field}" if change is not None else text


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.capitalize()}: {on_one_line(record.getMessage())}", err=True)


def is_debugging() -> bool:
    """Return whether the program was called with --debug."""
    return bool(click.get_current_context().find_root().params.get("debug"))


def log_to_stderr(level: int) -> None:
    """Write what all loggers say, from this level on, to standard error until the program ends.

    With --debug it is written already, and only the level changes.
    """
    root, context = logging.getLogger(), click.get_current_context()
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    if context.parent is None or not is_debugging():
        root.addHandler(handler)
    context.call_on_close(partial(root.removeHandler, handler))
    context.call_on_close(partial(root.setLevel, root.level))
    root.setLevel(level)


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Print what the package warns of, a line each; with --debug its log says it already."""
    if is_debugging():
        yield
        return
    logger, lines = logging.getLogger("asana_webhooks"), _Lines(logging.WARNING)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


def _print_table(records: Sequence[Record]) -> None:
    """Print a table, of which no character is left out; a field a line where it has no room."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(no_color=bool(os.environ.get("NO_COLOR")), highlight=False)
    if _narrowest(records) > console.width:
        for record in records:
            print_fields(record, as_json=False)
            click.echo()
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(records[0]):
        table.add_column(name, overflow="fold", no_wrap=number == 0)
    for record in records:
        table.add_row(*(Text(on_one_line(value)) for value in record.values()))
    console.print(table)


def _narrowest(records: Sequence[Record]) -> int:
    """Return the width at which the first column is whole, and so is each word of the heading."""
    first, *others = records[0]
    widest = max(len(on_one_line(record[first])) for record in records)
    return widest + sum(len(GAP) + max(map(len, name.split())) for name in others)


def _print_columns(records: Sequence[Record]) -> None:
    rows = [
        [*records[0]],
        *([on_one_line(value) for value in record.values()] for record in records),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(GAP.join(cells).rstrip())


def on_one_line(value: Any) -> str:
    """Return a value on one line, whatever strangers put into it."""
    text = "-" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
