"""The checks, one after the other, and how they are printed."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import click

from ..access import Access
from ..output import on_one_line
from .address import ROUTE_CHECK, address_findings
from .asana import asana_findings
from .finding import Finding
from .store import STORE_CHECK, store_findings
from .way import way_findings

__all__ = ["check"]

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red"}


async def check(public_url: str | None, store: str, access: Access, *, as_json: bool) -> bool:
    """Print each finding as it comes; return whether any failed."""
    has_failed = False
    async for finding in _findings(public_url, store, access):
        _print(finding, as_json=as_json)
        has_failed = has_failed or finding.result == "failed"
    return has_failed


async def _findings(public_url: str | None, store: str, access: Access) -> AsyncIterator[Finding]:
    well = set[str]()
    for group in (
        asana_findings(access),
        address_findings(public_url, access.base_url),
        store_findings(store),
    ):
        async for finding in group:
            yield finding
            if finding.result == "ok":
                well.add(finding.check)
    if public_url is not None and {ROUTE_CHECK, STORE_CHECK} <= well:
        async for finding in way_findings(public_url, store):
            yield finding


def _print(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding._asdict()))
        return
    colour = None if os.environ.get("NO_COLOR") else COLOURS[finding.result]
    result = click.style(f"{finding.result:7}", fg=colour, reset=colour is not None)
    click.echo(f"{result}  {finding.check}: {on_one_line(finding.found)}")
    if finding.next is not None:
        click.echo(f"         -> {on_one_line(finding.next)}")
