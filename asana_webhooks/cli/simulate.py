"""``asana-webhooks simulate``: the local Asana as a process of its own."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from .output import on_one_line, print_records

if TYPE_CHECKING:
    from ..simulator import AsanaSimulator, Handshake
    from ..simulator.observers import Traffic

__all__ = ["command", "describe", "read_tables"]

SHOWN = 3
"""Events of a delivery that are named; of the rest, the number is."""

World: TypeAlias = Callable[..., "AbstractAsyncContextManager[AsanaSimulator]"]

RULER = r"^(=+(?: +=+)+)\n"
TABLE = re.compile(rf"{RULER}(?:.+\n{RULER})?((?:[^=].*\n)+){RULER}", re.MULTILINE)


class _Fault(click.ParamType):  # type: ignore[type-arg] # generic for type checkers only
    """A fault of the local Asana, by its name."""

    name = "fault"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return _any_fault().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _any_fault().shell_complete(ctx, param, incomplete)


def _any_fault() -> click.Choice[str]:
    from ..simulator import Fault

    return click.Choice([fault.value for fault in Fault])


def _list_faults(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click passes it so
    if asked:
        from ..simulator import faults

        known = read_tables(faults.__doc__ or "", "name", "what_happens", "what_it_stands_for")
        print_records(known, as_json=False, none="")
        context.exit()


def _seconds(
    name: str, default: float, text: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, default=default, show_default=True, metavar="SECONDS", help=text)


def _limit(name: str, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    help_ = f"{text} No limit unless given."
    return click.option(name, type=click.IntRange(1), metavar="CALLS", help=help_)


@click.command("simulate", context_settings={"allow_interspersed_args": False})
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="Any free one unless given."
)
@click.option(
    "--host-name",
    "host_names",
    multiple=True,
    metavar="NAME",
    help="Answer calls by this name too, besides localhost and addresses. May be repeated.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="HOST",
    help="Deliver to this host too; without it to this machine only. May be repeated.",
)
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME=TOKEN",
    help="Add a user, whose calls are those with this token. May be repeated.",
)
@click.option(
    "--seed",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Add what this file of JSON describes; docs/simulator.md tells how.",
)
@click.option(
    "--fault",
    "names",
    multiple=True,
    metavar="NAME",
    type=_Fault(),
    help="Let this go wrong; see --list-faults. May be repeated.",
)
@_seconds("--gather-for", 0.05, "For how long events are gathered; Asana takes about a minute.")
@_seconds("--retry-delay", 1.0, "The pause before the first retry, doubled before each further.")
@_seconds("--delivery-timeout", 10.0, "How long a target has for its answer.")
@_limit("--rate-limit", "Calls a minute of a token; Asana allows 150, or 1500 where it is paid.")
@_limit("--concurrent-gets", "GETs of a token at once; Asana allows 50.")
@_limit("--concurrent-writes", "Other calls of a token at once; Asana allows 15.")
@click.option(
    "--retry-after",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="SECONDS",
    help="The wait that is named to calls that are too many at once.",
)
@click.option(
    "--drop-share",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.05,
    show_default=True,
    help="The share of events that the fault dropped loses.",
)
@_seconds("--sync-lasts", 86_400.0, "How long a sync token of the stream of events is good.")
@_seconds("--stream-lag", 0.0, "How much later than it happens an event is in the stream.")
@click.option(
    "--refuse-local",
    "allow_local",
    is_flag=True,
    flag_value=False,
    default=True,
    help="Refuse targets on this machine with 403, as Asana does.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Refuse with 501 what it does not keep of a call, instead of saying so.",
)
@click.option(
    "--system-stories", is_flag=True, help="Let each change of a task make a story, and its event."
)
@click.option(
    "--tls",
    is_flag=True,
    help="Speak TLS, with a certificate for app.asana.com and an authority made for this run.",
)
@click.option(
    "--ca-file",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="With --tls: write the authority's certificate here, for callers to trust.",
)
@click.option(
    "--run",
    "runs",
    is_flag=True,
    help="Run COMMAND so that it reaches this as https://app.asana.com, and end with it.",
)
@click.option(
    "--allow-others",
    is_flag=True,
    help="With --run: lead the program to other hosts too, instead of refusing.",
)
@click.option("--quiet", is_flag=True, help="Do not tell of calls, handshakes and deliveries.")
@click.option(
    "--list-faults",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_faults,
    help="Tell which faults there are, and end.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND ...]")
def command(
    *,
    names: tuple[str, ...],
    users: tuple[str, ...],
    seed: str | None,
    quiet: bool,
    tls: bool,
    ca_file: str | None,
    runs: bool,
    allow_others: bool,
    words: tuple[str, ...],
    **options: Any,
) -> None:
    """Run a local Asana, until told to stop.

    The first line on standard output is its base URL. Everything else is told on standard error:
    what it holds, then each call, handshake and delivery, with its own time in UTC.

    Any token will do; those of no --user stand for Robin Example. Ctrl-C or SIGTERM ends it;
    everything lives in memory.

    With --run -- COMMAND ... it lasts as long as that program, has its exit status, and passes
    signals on; standard output is the program's alone.
    """
    import asyncio

    _check(tls=tls, ca_file=ca_file, runs=runs, allow_others=allow_others, words=words)
    world = partial(_world, names, _tokens(users), seed, quiet=quiet)
    if runs:
        status = asyncio.run(_accompany(world, words, options, allow_others=allow_others))
        click.get_current_context().exit(status)
    asyncio.run(_serve(world, options, tls=tls, ca_file=ca_file))


def _check(
    *, tls: bool, ca_file: str | None, runs: bool, allow_others: bool, words: tuple[str, ...]
) -> None:
    wrong = {
        "--run takes a command: write --run -- COMMAND ...": runs and not words,
        "a command goes with --run: write --run -- COMMAND ...": words and not runs,
        "--ca-file goes with --tls": ca_file and not tls,
        "--tls is for other programs, --run makes a certificate of its own": tls and runs,
        "--allow-others goes with --run": allow_others and not runs,
    }
    for said, is_so in wrong.items():
        if is_so:
            raise click.UsageError(said)


def _tokens(users: tuple[str, ...]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for user in users:
        name, _, token = user.partition("=")
        if not (name and token) or token in tokens:
            msg = "write NAME=TOKEN, and another token for each user"
            raise click.BadParameter(msg, param_hint="--user")
        tokens[token] = name
    return tokens


@contextlib.asynccontextmanager
async def _world(
    names: tuple[str, ...],
    tokens: dict[str, str],
    seed: str | None,
    *,
    quiet: bool,
    **options: Any,
) -> AsyncIterator[AsanaSimulator]:
    """Serve a local Asana with these faults, users by tokens, and objects of a file."""
    from ..simulator import AsanaSimulator

    def tell(traffic: Traffic) -> None:
        _say(f"{asana.now:%m-%d %H:%M:%S}  {describe(traffic)}")

    asana = AsanaSimulator(watch=None if quiet else tell, **options)
    for name in names:
        asana.faults.add(name)
    for token, user in tokens.items():
        await asana.add_user(user, token=token)
    if seed is not None:
        await _plant(asana, seed)
    async with asana:
        yield asana


async def _serve(world: World, options: dict[str, Any], *, tls: bool, ca_file: str | None) -> None:
    from .._signals import stopping

    with stopping() as told, contextlib.ExitStack() as stack:
        if tls and ca_file is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="asana-webhooks-"))
            ca_file = f"{folder}/ca.pem"
        if ca_file is not None:
            _write(ca_file, _certify(options))
        async with world(**options) as asana:
            click.echo(asana.base_url)  # which flushes
            _say(_introduction(asana, ca_file))
            await told.once.wait()


async def _accompany(
    world: World, words: tuple[str, ...], options: dict[str, Any], *, allow_others: bool
) -> int:
    """Run a program beside a local Asana that is the real one to it; return its exit status."""
    from yarl import URL

    from .running import Signals, connect_proxy, environment, run

    others = {"allow_others": allow_others}
    with Signals() as signals:
        authority = _certify(options)
        async with world(**options) as asana:
            url = URL(asana.base_url)
            at = (url.host or "", url.port or 443)
            async with connect_proxy(at, say=_say, **others) as proxy:
                with environment(at, authority, proxy, **others) as variables:
                    return await run(words, variables, signals, say=_say)


def _certify(options: dict[str, Any]) -> str:
    """Make the local Asana speak TLS, under the real name too; return its authority (PEM)."""
    from .certificates import REAL_HOST, certify

    options["host_names"] = (REAL_HOST, *options["host_names"])
    names = (*options["host_names"], "localhost", "127.0.0.1", "::1", options["host"])
    options["ssl_context"], authority = certify(names)
    return authority


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


async def _plant(asana: AsanaSimulator, path: str) -> None:
    try:
        await asana.seed(path)
    except (ValueError, OSError) as error:
        raise click.BadParameter(str(error), param_hint="--seed") from None


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more: that is no failure of a call
        click.echo(text, err=True)


def _introduction(asana: AsanaSimulator, ca_file: str | None) -> str:
    from ..simulator.seed import fill
    from ..simulator.state import State

    state, trusted = State(), shlex.quote(ca_file or "")
    fill(state)
    held = [each for kind in ("workspace", "project", "user", "task") for each in state.all(kind)]
    return "\n".join(
        [
            "The local Asana listens. It holds",
            *(f"  {each.resource_type:9}  {each.gid:7}  {each.name}" for each in held),
            "In another shell:",
            f"  export ASANA_BASE_URL={asana.base_url}",
            "  export ASANA_ACCESS_TOKEN=anything",
            *([f"  export SSL_CERT_FILE={trusted} CURL_CA_BUNDLE={trusted}"] if ca_file else []),
            "  asana-webhooks trigger task.completed",
            f"""  curl -d '{{"hours": 8}}' {asana.control_url}/advance""",
            *([f"Faults: {', '.join(sorted(asana.faults))}"] if asana.faults else []),
        ]
    )


def describe(traffic: Traffic) -> str:
    """Return one line of printable text on what went over the wire."""
    from ..simulator import Call, Dropped, Handshake

    if isinstance(traffic, Call):
        text = f"call       {traffic.method} {traffic.path} -> {traffic.status}"
    elif isinstance(traffic, Handshake):
        text = f"handshake  for a webhook on {traffic.resource} -> {_outcome(traffic)}"
    elif isinstance(traffic, Dropped):
        text = f"dropped    for webhook {traffic.webhook_gid}: {_event(dict(traffic.event))}"
    else:
        again = f" (attempt {traffic.number})" if traffic.number > 1 else ""
        said = f"{_events(traffic.body)} -> {traffic.status or 'no answer'}{again}"
        text = f"delivery   to webhook {traffic.webhook_gid}: {said}"
    return on_one_line(text)


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


def read_tables(text: str, *names: str) -> list[dict[str, str]]:
    """Return the rows of all simple tables in a reStructuredText, with these names for columns.

    A row without a first cell continues the one above it.
    """
    rows: list[dict[str, str]] = []
    for table in TABLE.finditer(text):
        starts = [found.start() for found in re.finditer("=+", table[1])]
        columns = [slice(*ends) for ends in zip(starts, [*starts[1:], None], strict=True)]
        for line in table[3].splitlines():
            cells = [line[column].strip().replace("``", "") for column in columns]
            if cells[0]:
                rows.append(dict.fromkeys(names, ""))
            for name, cell in zip(names, cells, strict=True):
                rows[-1][name] = f"{rows[-1][name]} {cell}".strip()
    return rows
