"""What waits in a store, and its dead letters: listed, shown, replayed and discarded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, NamedTuple

import click

from ..letters import select_letters
from ..models import DeadLetter
from ..stores import Store
from ..stores.urls import open_store
from .options import AGO, JSON, STORE, YES
from .output import age, print_fields, print_records
from .webhooks import check_there

__all__ = ["command"]

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
        return select_letters(
            store,
            resource=self.resource,
            webhook=self.webhook,
            reason=self.reason,
            buried_before=self.buried_before,
        )


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which dead letters."""
    for option in (
        click.option("--older-than", "buried_before", type=AGO, help="Such as 90s, 15m, 12h, 7d."),
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
        asyncio.run(_overview(store, Chosen(**chosen), limit=limit, as_json=as_json))


@command.command()
@click.argument("letter")
@JSON
@click.pass_obj
def show(store: str, /, *, letter: str, as_json: bool) -> None:
    """Show one dead letter, with its body."""
    asyncio.run(_show(store, letter, as_json=as_json))


@command.command()
@IDS
@_choosing
@EVERY
@click.pass_obj
def replay(store: str, /, **chosen: Any) -> None:
    """Move dead letters back to the inbox: by id, by filter, or all."""
    which = Chosen(**chosen)
    which.check()
    count = asyncio.run(_each(store, which, lambda opened: opened.replay))
    _report(count, "replayed", which)


@command.command()
@IDS
@_choosing
@EVERY
@YES
@click.pass_obj
def discard(store: str, /, *, yes: bool, **chosen: Any) -> None:
    """Remove dead letters for good: by id, by filter, or all."""
    which = Chosen(**chosen)
    which.check()
    if not yes:
        click.confirm("Their events will never be handled. Go on?", abort=True, err=True)
    count = asyncio.run(_each(store, which, lambda opened: opened.discard))
    _report(count, "discarded", which)


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
        letter = await store.get_letter(letter_id)
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
