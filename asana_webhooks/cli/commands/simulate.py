"""What ``asana-webhooks simulate`` is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = ["command"]


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
    from ...simulator import Fault

    return click.Choice([fault.value for fault in Fault])


def _list_faults(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click passes it so
    if asked:
        from ..simulate import list_faults

        list_faults()
        context.exit()


def _seconds(
    name: str, default: float, text: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(name, default=default, show_default=True, metavar="SECONDS", help=text)


@click.command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="Any free one unless given."
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="HOST",
    help="Deliver to this host too; without it to this machine only. May be repeated.",
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
@click.option("--rate-limit", type=click.IntRange(1), help="Calls a minute; no limit unless given.")
@click.option("--quiet", is_flag=True, help="Do not tell of calls, handshakes and deliveries.")
@click.option(
    "--list-faults",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_faults,
    help="Tell which faults there are, and end.",
)
def command(**options: Any) -> None:
    """Run a local Asana, until told to stop.

    The first line on standard output is its base URL. Everything else is told on standard error:
    what it holds, then each call, handshake and delivery, with its own time in UTC.

    Any token will do. Ctrl-C or SIGTERM ends it; everything lives in memory.
    """
    from ..simulate import run

    run(**options)
