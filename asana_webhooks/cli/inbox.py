"""``asana-webhooks inbox``: what waits in a store, and its dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..models import DeadLetter
from .options import JSON, STORE, YES, confirm
from .output import age, print_fields, print_records
from .webhooks import existing_store

if TYPE_CHECKING:
    from ..stores import Store

__all__ = ["command"]

BATCH = 100
"""Dead letters that are replayed or discarded in one call of the store."""

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class _Ago(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    """A time in the past, given as an age."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value), re.ASCII)
        if found is None:
            self.fail(f"{value!r} is no age; write 90s, 15m, 12h or 7d", param, ctx)
        return datetime.now(UTC) - timedelta(seconds=int(found[1]) * SECONDS[found[2]])


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which dead letters."""
    for option in (
        click.option(
            "--older-than", "buried_before", type=_Ago(), help="Such as 90s, 15m, 12h, 7d."
        ),
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
@_selecting
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True)
@JSON
@click.pass_context
def command(
    context: click.Context, /, *, store: str, limit: int, as_json: bool, **selected: Any
) -> None:
    """Tell what waits in the store, and work with dead letters.

    Without a command of its own it counts, and lists dead letters, the oldest first.
    """
    context.obj = store
    selection = Selection(**selected)
    if context.invoked_subcommand is None:
        import asyncio

        asyncio.run(_print_overview(store, selection, limit=limit, as_json=as_json))
    elif selection.by_filter:
        msg = f"filters stand behind the command: inbox {context.invoked_subcommand} --reason ..."
        raise click.UsageError(msg)


@command.command()
@click.argument("letter")
@JSON
@click.pass_obj
def show(store: str, /, *, letter: str, as_json: bool) -> None:
    """Show one dead letter, with its body."""
    import asyncio

    asyncio.run(_print_one(store, letter, as_json=as_json))


@command.command()
@IDS
@_selecting
@EVERY
@click.pass_obj
def replay(store: str, /, **selected: Any) -> None:
    """Move dead letters back to the inbox: by id, by filter, or all."""
    import asyncio

    selection = Selection(**selected)
    selection.check()
    count, unknown = asyncio.run(_each(store, selection, lambda opened: opened.replay))
    _report(count, "replayed", unknown)


@command.command()
@IDS
@_selecting
@EVERY
@YES
@click.pass_obj
def discard(store: str, /, *, yes: bool, **selected: Any) -> None:
    """Remove dead letters for good: by id, by filter, or all."""
    import asyncio

    selection = Selection(**selected)
    selection.check()
    if not yes:
        confirm("Their events will never be handled. Go on?")
    count, unknown = asyncio.run(_each(store, selection, lambda opened: opened.discard))
    _report(count, "discarded", unknown)


class Selection(NamedTuple):
    """The dead letters that are meant: by id, or those that fit all that is given."""

    ids: tuple[str, ...] = ()
    resource: str | None = None
    webhook: str | None = None
    reason: str | None = None
    buried_before: datetime | None = None
    every: bool = False

    def check(self) -> None:
        """Raise UsageError unless it is clear which are meant."""
        ways = bool(self.ids) + self.by_filter + self.every
        if ways == 0:
            msg = "say which dead letters: their ids, or filters, or --all"
            raise click.UsageError(msg)
        if ways > 1:
            msg = "say in one way which dead letters: by ids, or by filters, or with --all"
            raise click.UsageError(msg)

    @property
    def by_filter(self) -> bool:
        """Whether any filter is given."""
        return any((self.resource, self.webhook, self.reason, self.buried_before))

    def of(self, store: Store) -> AsyncIterator[DeadLetter]:
        """Return those that are in a store."""
        from .._dead_letters import iter_dead_letters

        return iter_dead_letters(
            store,
            resource=self.resource,
            webhook=self.webhook,
            reason=self.reason,
            buried_before=self.buried_before,
        )


def _report(count: int, what: str, unknown: list[str]) -> None:
    """Print how many there were. Raises ClickException with the ids that are no dead letter's."""
    click.echo(f"{count} {what}")
    if unknown:
        ids = ", ".join(map(repr, unknown))
        msg = f"there is no dead letter {ids}: `asana-webhooks inbox` lists them"
        raise click.ClickException(msg)


async def _print_overview(url: str, selection: Selection, *, limit: int, as_json: bool) -> None:
    now = datetime.now(UTC)
    async with existing_store(url) as store:
        counts = await store.counts()
        letters = [letter async for letter in _first(selection.of(store), limit)]
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


async def _print_one(url: str, letter_id: str, *, as_json: bool) -> None:
    async with existing_store(url) as store:
        letter = await store.get_dead_letter(letter_id)
        if letter is None:
            msg = f"there is no dead letter {letter_id!r}: `asana-webhooks inbox` lists them"
            raise click.ClickException(msg)
        summary = await _summary(store, letter, datetime.now(UTC))
    received = f"{letter.received_at:%Y-%m-%d %H:%M:%S}"
    text = letter.body.decode(errors="backslashreplace")
    if as_json:
        details = {"received": received, "handlers": letter.handlers, "body": text}
        print_fields(summary | details, as_json=True)
        return
    handlers = ", ".join(letter.handlers) or "all"
    print_fields(summary | {"received": received, "handlers": handlers}, as_json=False)
    click.echo()
    click.echo(_indented(text))


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except (ValueError, RecursionError):
        return ascii(text)  # whatever it is, it shall not write on the terminal by itself


async def _each(
    url: str,
    selection: Selection,
    what: Callable[[Store], Callable[[list[str]], Coroutine[Any, Any, int]]],
) -> tuple[int, list[str]]:
    """Replay or discard; return how many there were, and the ids that are no dead letter's."""
    async with existing_store(url) as store:
        act = what(store)
        if selection.ids:
            ids = [*dict.fromkeys(selection.ids)]
            unknown = [each for each in ids if await store.get_dead_letter(each) is None]
            return await act(ids), unknown
        # All are selected first: one that fails again meanwhile is not taken a second time.
        ids = [letter.id async for letter in selection.of(store)]
        starts = range(0, len(ids), BATCH)
        return sum([await act(ids[start : start + BATCH]) for start in starts]), []
