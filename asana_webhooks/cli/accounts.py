"""``asana-webhooks accounts``: the accounts of a store, and how their webhooks fare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from ..models import Continuity, Route
from .options import JSON, STORE
from .output import age, print_records
from .webhooks import existing_store

__all__ = ["command"]


@click.command("accounts")
@STORE
@JSON
def command(*, store: str, as_json: bool) -> None:
    """List the accounts of the store, and how their webhooks fare.

    The account without a name is that of a program with one token. "heartbeat" is the age of the
    oldest last heartbeat of its webhooks: Asana sends one every eight hours. "proven until" is the
    earliest time until which it is proven that nothing is missing but in the open gaps. Asana is
    not asked.
    """
    import asyncio

    routes, continuity = asyncio.run(_look(store))
    print_records(_records(routes, continuity), as_json=as_json, none="no accounts")


async def _look(url: str) -> tuple[list[Route], list[Continuity]]:
    from .._ledger import list_continuity

    async with existing_store(url) as store:
        return await store.list_routes(), await list_continuity(store)


def _records(routes: Iterable[Route], continuity: Iterable[Continuity]) -> list[dict[str, Any]]:
    of_account = defaultdict[str, tuple[list[Route], list[Continuity]]](lambda: ([], []))
    for route in routes:
        of_account[route.account][0].append(route)
    for each in continuity:
        of_account[each.source.account][1].append(each)
    now = datetime.now(UTC)
    return [_record(name, *of_account[name], now) for name in sorted(of_account)]


def _record(
    name: str, routes: list[Route], continuity: list[Continuity], now: datetime
) -> dict[str, Any]:
    confirmed = [route for route in routes if route.state == "confirmed"]
    beats = [route.heartbeat_at or route.confirmed_at or route.created_at for route in confirmed]
    proven = [each.proven_until for each in continuity if each.proven_until is not None]
    return {
        "account": name,
        "webhooks": sum(not route.leaving for route in confirmed),
        "leaving": sum(route.leaving for route in confirmed),
        "heartbeat": age((now - min(beats)).total_seconds()) if beats else None,
        "proven until": f"{min(proven):%Y-%m-%d %H:%M:%S}" if proven else None,
        "gaps": sum(len(each.gaps) for each in continuity),
        "recovered": sum(each.recovered for each in continuity),
        "dropped": sum(each.dropped for each in continuity),
    }
