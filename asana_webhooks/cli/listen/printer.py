"""Prints requests as they come, and posts them on to a program."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import click

from ...models import Route
from ...stores import Store
from ..forwarding import forward, passed_on, session
from ..output import describe, on_one_line
from ..recording import Attempt, Record, Recorder
from ..replay import Recorded

__all__ = ["Printer", "as_fields", "as_lines"]

MOST_WAITING = 100
"""Requests that may wait to be printed when another one of a stranger comes."""

COLOURS = {"accepted": None, "heartbeat": "bright_black", "handshake": "bright_black"}


class Printer:
    """Prints requests in the order in which they were answered, and posts each on after that.

    ``as_json`` prints signed ones only, each as one line. What was refused is not posted on; while
    a program is slow to answer, so much of it waits to be printed and the rest is counted.
    """

    def __init__(self, *, as_json: bool, forward_to: str | None) -> None:
        self._as_json = as_json
        self._forward_to = forward_to
        self._answered: asyncio.Queue[Record] = asyncio.Queue()
        self._left_out = 0

    def put(self, record: Record) -> None:
        """Have a request printed."""
        if record.is_genuine or self._answered.qsize() < MOST_WAITING:
            self._answered.put_nowait(record)
        else:
            self._left_out += 1

    async def run(self, recorder: Recorder, store: Store) -> None:
        """Print until cancelled. Raises BrokenPipeError when nobody reads on."""
        async with session() as http:
            while True:
                record = await self._answered.get()
                self._print_left_out()
                if not self._as_json:
                    self._print_lines(record)
                elif record.signed:
                    route = await store.get_route(record.route)
                    click.echo(json.dumps(as_fields(record, route)))
                if self._forward_to is not None and record.verdict != "refused":
                    attempt = await forward(http, self._forward_to, record)
                    recorder.note_attempt(record, attempt)
                    self._print_attempt(attempt)

    def _print_left_out(self) -> None:
        if self._left_out:
            _print(f"{'':10}{self._left_out} more requests of strangers", err=self._as_json)
            self._left_out = 0

    def _print_lines(self, record: Record) -> None:
        time = f"{record.received_at.astimezone():%H:%M:%S}"
        colour = COLOURS.get(record.verdict, "red" if record.verdict == "refused" else "yellow")
        for line in as_lines(record):
            _print(f"{time}  {click.style(line, fg=colour)}")

    def _print_attempt(self, attempt: Attempt) -> None:
        arrow = click.style("->", fg="green" if attempt.ok else "red")
        text = f"{arrow} {attempt.text}, {attempt.seconds * 1000:.0f} ms"
        _print(f"{'':10}{text}", err=self._as_json)


def _print(text: str, *, err: bool = False) -> None:
    click.echo(text, err=err, color=False if os.environ.get("NO_COLOR") else None)


def as_lines(record: Record) -> Iterator[str]:
    """Yield a line for each event that is new, or one line for anything else."""
    events = record.events()
    if record.verdict == "accepted" and events:
        yield from (on_one_line(describe(event)) for event in events)
    elif record.verdict == "refused":
        yield f"refused, {record.status}: {record.reason}"
    elif record.verdict == "duplicate":
        yield f"duplicate: {len(events)} events that were delivered before"
    elif record.verdict == "dead letter":
        yield f"dead letter: {on_one_line(record.reason)}"
    else:
        yield record.verdict


def as_fields(record: Record, route: Route | None) -> dict[str, Any]:
    """Return a delivery as ``replay`` reads it, and what became of it; no secret, no route."""
    headers = {
        name: record.without_route(value)
        for name, value in passed_on(record.headers)
        if name.lower() != "x-hook-secret"
    }
    return {
        "webhook": route and route.gid,
        "resource": route and route.resource,
        "verdict": record.verdict,
        "status": record.status,
        **Recorded(record.received_at, headers, record.body).fields(),
    }
