"""What waits in a store, and its dead letters: listed, shown, replayed and discarded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from .._inbox import iter_dead_letters
from ..models import DeadLetter
from ..stores import Store
from ..stores.urls import open_store
from .output import age, print_fields, print_records
from .webhooks import check_there

__all__ = ["Chosen", "discard", "overview", "replay", "show"]

BATCH = 100
"""How many dead letters are replayed or discarded in one call of the store."""


class Chosen(NamedTuple):
    """Which dead letters: by their ids, or those that fit all that is given."""

    ids: tuple[str, ...] = ()
    resource: str | None = None
    webhook: str | None = None
    reason: str | None = None
    buried_before: datetime | None = None
    every: bool = False

    def check(self) -> None:
        """Raise UsageError unless it is clear which are meant."""
        by_filter = any((self.resource, self.webhook, self.reason, self.buried_before))
        if bool(self.ids) + by_filter + self.every != 1:
            msg = "say which dead letters: their ids, or filters, or --all"
            raise click.UsageError(msg)

    def of(self, store: Store) -> AsyncIterator[DeadLetter]:
        """Return those that are in a store."""
        return iter_dead_letters(
            store,
            resource=self.resource,
            webhook=self.webhook,
            reason=self.reason,
            buried_before=self.buried_before,
        )


def overview(store: str, chosen: Chosen, *, limit: int, as_json: bool) -> None:
    """Print what waits in a store, and the first of the dead letters that are chosen."""
    asyncio.run(_overview(store, chosen, limit=limit, as_json=as_json))


def show(store: str, letter: str, *, as_json: bool) -> None:
    """Print a dead letter, with its body."""
    asyncio.run(_show(store, letter, as_json=as_json))


def replay(store: str, chosen: Chosen) -> None:
    """Move dead letters back to the inbox. Raises UsageError unless it is clear which."""
    chosen.check()
    count = asyncio.run(_each(store, chosen, lambda opened: opened.replay))
    _report(count, "replayed", chosen)


def discard(store: str, chosen: Chosen, *, yes: bool) -> None:
    """Remove dead letters for good, if so answered. Raises UsageError unless it is clear which."""
    chosen.check()
    if not yes:
        click.confirm("Their events will never be handled. Go on?", abort=True, err=True)
    count = asyncio.run(_each(store, chosen, lambda opened: opened.discard))
    _report(count, "discarded", chosen)


def _report(count: int, what: str, chosen: Chosen) -> None:
    """Print how many there were. Raises ClickException when ids were given that are none's."""
    click.echo(f"{count} {what}")
    missing = len(set(chosen.ids)) - count
    if chosen.ids and missing:
        msg = f"{missing} of the ids are no dead letter's: `asana-webhooks inbox` lists them"
        raise click.ClickException(msg)


async def _overview(url: str, chosen: Chosen, *, limit: int, as_json: bool) -> None:
    now = datetime.now(UTC)
    async with open_store(check_there(url)) as store:
        counts = await store.counts()
        letters = [letter async for letter in _first(chosen.of(store), limit)]
        records = [await _summary(store, letter, now) for letter in letters]
    oldest = None if counts.oldest_at is None else (now - counts.oldest_at).total_seconds()
    known = {"waiting": counts.waiting, "dead_letters": counts.dead_letters}
    print_fields(
        known | {"oldest_age": oldest if as_json else age(oldest)},
        as_json=as_json,
    )
    if not as_json:
        click.echo()
    print_records(records, as_json=as_json, none="no dead letters")


async def _first(letters: AsyncIterator[DeadLetter], limit: int) -> AsyncIterator[DeadLetter]:
    count = 0
    async for letter in letters:
        if count == limit:
            return
        count += 1
        yield letter


async def _summary(store: Store, letter: DeadLetter, now: datetime) -> dict[str, Any]:
    route = await store.get_route(letter.route)
    return {
        "id": letter.id,
        "buried": f"{letter.buried_at:%Y-%m-%d %H:%M:%S}",
        "age": age((now - letter.buried_at).total_seconds()),
        "webhook": None if route is None else route.gid,
        "resource": None if route is None else route.resource,
        "bytes": len(letter.body),
        "reason": letter.reason,
    }


async def _show(url: str, letter_id: str, *, as_json: bool) -> None:
    async with open_store(check_there(url)) as store:
        letter = await store.get_dead_letter(letter_id)
        if letter is None:
            msg = f"there is no dead letter {letter_id!r}: `asana-webhooks inbox` lists them"
            raise click.ClickException(msg)
        summary = await _summary(store, letter, datetime.now(UTC))
    details = {"received": f"{letter.received_at:%Y-%m-%d %H:%M:%S}", "events_done": letter.done}
    text = letter.body.decode(errors="backslashreplace")
    if as_json:
        print_fields(summary | details | {"body": text}, as_json=True)
        return
    print_fields(summary | details, as_json=False)
    click.echo()
    click.echo(_indented(text))


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except (ValueError, RecursionError):
        return ascii(text)  # whatever it is, it shall not write on the terminal by itself


async def _each(
    url: str,
    chosen: Chosen,
    what: Callable[[Store], Callable[[list[str]], Coroutine[Any, Any, int]]],
) -> int:
    async with open_store(check_there(url)) as store:
        act = what(store)
        if chosen.ids:
            return await act(list(chosen.ids))
        # All are chosen first: one that fails again meanwhile is not taken a second time.
        ids = [letter.id async for letter in chosen.of(store)]
        return sum([await act(ids[start : start + BATCH]) for start in range(0, len(ids), BATCH)])
