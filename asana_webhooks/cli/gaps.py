"""``asana-webhooks gaps``: the times in which events may have been missed, and their end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from ..models import Gap
from .options import JSON, STORE
from .output import age, print_records
from .webhooks import existing_store

__all__ = ["command"]


@click.group("gaps", invoke_without_command=True)
@STORE
@JSON
@click.pass_context
def command(context: click.Context, /, *, store: str, as_json: bool) -> None:
    """List the times in which events may have been missed, and close them.

    A gap is open until somebody has looked for what it may hide, and closes it.
    """
    context.obj = store
    if context.invoked_subcommand is not None:
        return
    import asyncio

    gaps = asyncio.run(_open_gaps(store))
    now = datetime.now(UTC)
    records = [_as_json(gap) if as_json else _summary(gap, now) for gap in gaps]
    print_records(records, as_json=as_json, none="no gaps")


@command.command()
@click.argument("ids", nargs=-1, required=True)
@click.pass_obj
def close(store: str, /, *, ids: tuple[str, ...]) -> None:
    """Close gaps by their ids: what they may hide was looked for.

    After a gap by "disagreement" the stream is read again.
    """
    import asyncio

    unknown = asyncio.run(_close(store, ids))
    click.echo(f"{len({*ids}) - len(unknown)} closed")
    if unknown:
        msg = f"there is no gap {', '.join(map(repr, unknown))}: `asana-webhooks gaps` lists them"
        raise click.ClickException(msg)


async def _open_gaps(url: str) -> list[Gap]:
    from .._ledger import list_continuity

    async with existing_store(url) as store:
        told = await list_continuity(store)
    gaps = {gap.id: gap for each in told for gap in each.gaps}  # webhooks may share a resource
    return sorted(gaps.values(), key=lambda gap: gap.start)


async def _close(url: str, ids: tuple[str, ...]) -> list[str]:
    """Close these gaps; return the ids of which there is none."""
    from .._ledger import close_gap

    async with existing_store(url) as store:
        return [each for each in dict.fromkeys(ids) if not await close_gap(store, each)]


def _summary(gap: Gap, now: datetime) -> dict[str, Any]:
    return {
        "id": gap.id,
        "webhook": gap.source.webhook or None,
        "resource": gap.source.resource,
        "start": f"{gap.start:%Y-%m-%d %H:%M:%S}",
        "end": None if gap.end is None else f"{gap.end:%Y-%m-%d %H:%M:%S}",
        "length": age(((gap.end or now) - gap.start).total_seconds()),
        "reason": gap.reason,
        "detail": gap.detail,
    }


def _as_json(gap: Gap) -> dict[str, Any]:
    return {
        "id": gap.id,
        "webhook": gap.source.webhook or None,
        "resource": gap.source.resource,
        "account": gap.source.account,
        "start": gap.start.isoformat(),
        "end": None if gap.end is None else gap.end.isoformat(),
        "reason": gap.reason,
        "detail": gap.detail,
    }
