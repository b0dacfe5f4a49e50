"""``asana-webhooks listen``: see what Asana sends, while you write what receives it."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from ..options import FILTER_SYNTAX, FILTERS, INSPECT, JSON, asana_options
from ..tunnels import PROGRAMS

__all__ = ["command"]

ANY = "any"


@click.command("listen", epilog=FILTER_SYNTAX)
@click.argument("resource", required=False)
@FILTERS
@click.option(
    "--public-url",
    metavar="URL",
    envvar="ASANA_WEBHOOKS_PUBLIC_URL",
    show_envvar=True,
    help="Where the internet reaches the receiver.",
)
@click.option(
    "--tunnel",
    type=click.Choice([ANY, *PROGRAMS]),
    is_flag=False,
    flag_value=ANY,
    help="Or have a program on PATH open a way to it: the first that is there, or this one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8080, show_default=True)
@click.option("--store", default="memory:", show_default=True, help="The store's URL.")
@asana_options
@click.option("--forward-to", metavar="URL", help="Post what comes on to a program, as it came.")
@INSPECT
@JSON
def command(
    *, resource: str | None, public_url: str | None, tunnel: str | None, **options: Any
) -> None:
    """Print what Asana sends, as it comes, and post it on to a program of yours.

    Establishes a webhook for RESOURCE, and deletes it in the end: at Ctrl-C, SIGTERM, an error, or
    when the terminal is closed. A second Ctrl-C waits for nothing.
    Without RESOURCE it prints what comes for the routes of a --store.

    Nothing is kept unless there is a --store, where deliveries wait for the handlers of other
    processes. Before an option that may have a value, write RESOURCE.
    """
    from .session import ListenOptions, run

    if (resource is None or tunnel is not None) and _is_of_environment("public_url"):
        public_url = None  # it is there for other commands
    program = None if tunnel == ANY else tunnel
    run(
        ListenOptions(
            resource=resource,
            public_url=public_url,
            tunnel=tunnel is not None,
            tunnel_program=program,
            **options,
        )
    )


def _is_of_environment(option: str) -> bool:
    source = click.get_current_context().get_parameter_source(option)
    return source is ParameterSource.ENVIRONMENT
