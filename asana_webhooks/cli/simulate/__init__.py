"""What ``asana-webhooks simulate`` runs: the local Asana as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import Any

import click

from ...simulator import AsanaSimulator, Call, Handshake, faults
from ...simulator.observers import Traffic
from ...simulator.seed import seed_objects
from ..output import print_records
from .fault_table import read_tables

__all__ = ["describe", "list_faults", "run"]

SHOWN = 3
"""How many events of a delivery are told."""


def list_faults() -> None:
    """Print which faults there are."""
    known = read_tables(faults.__doc__ or "", "name", "what_happens", "what_it_stands_for")
    print_records(known, as_json=False, none="")


def run(*, names: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Run a local Asana with these faults, and these options of its own, until told to stop."""
    asyncio.run(_run(names, quiet=quiet, **options))


async def _run(names: tuple[str, ...], *, quiet: bool, **options: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def tell(traffic: Traffic) -> None:
        _say(f"{asana.now:%m-%d %H:%M:%S}  {describe(traffic)}")

    asana = AsanaSimulator(watch=None if quiet else tell, **options)
    for name in names:
        asana.faults.add(name)
    async with asana:
        click.echo(asana.base_url)  # which flushes
        _say(_introduction(asana))
        await stop.wait()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: that is no failure of a call
        click.echo(text, err=True)


def _introduction(asana: AsanaSimulator) -> str:
    shown = ("workspace", "project", "user", "task")
    held = sorted(
        (each for each in seed_objects().values() if each.resource_type in shown),
        key=lambda each: shown.index(each.resource_type),
    )
    return "\n".join(
        [
            "The local Asana listens. It holds",
            *(f"  {each.resource_type:9}  {each.gid:7}  {each.name}" for each in held),
            "In another shell:",
            f"  export ASANA_BASE_URL={asana.base_url}",
            "  export ASANA_ACCESS_TOKEN=anything",
            "  asana-webhooks trigger task.completed",
            f"""  curl -d '{{"hours": 8}}' {asana.control_url}/advance""",
            *([f"Faults: {', '.join(sorted(asana.faults))}"] if asana.faults else []),
        ]
    )


def describe(traffic: Traffic) -> str:
    """Return one line of printable text on what went over the wire."""
    if isinstance(traffic, Call):
        text = f"call       {traffic.method} {traffic.path} -> {traffic.status}"
    elif isinstance(traffic, Handshake):
        text = f"handshake  for a webhook on {traffic.resource} -> {_outcome(traffic)}"
    else:
        again = f" (attempt {traffic.number})" if traffic.number > 1 else ""
        said = f"{_events(traffic.body)} -> {traffic.status or 'no answer'}{again}"
        text = f"delivery   to webhook {traffic.webhook_gid}: {said}"
    return text if text.isprintable() else ascii(text)[1:-1]


def _outcome(handshake: Handshake) -> str:
    if handshake.status is None:
        return "no answer"
    return f"{handshake.status}, {'the secret came back' if handshake.echoed else 'no secret'}"


def _events(body: bytes) -> str:
    events = json.loads(body)["events"]
    more = len(events) - SHOWN
    named = [*map(_event, events[:SHOWN]), *([f"{more} more"] if more > 0 else [])]
    return ", ".join(named) or "heartbeat"


def _event(event: dict[str, Any]) -> str:
    resource, change = event.get("resource"), event.get("change")
    named = resource if isinstance(resource, dict) else {}
    field = f" {change.get('field')}" if isinstance(change, dict) else ""
    what = f"{named.get('resource_type', 'something')} {named.get('gid', '?')}"
    return f"{what} {event.get('action', '?')}{field}"
