"""The commands: what they are called, what they take, and what becomes of their errors.

A command imports what it works with when it is called, so that ``--help`` loads next to nothing.
"""

from __future__ import annotations

import logging
import sys
import traceback

import click

from .. import AsanaWebhooksError, __version__

__all__ = ["cli"]

INTERRUPTED = 130

DEBUG_HELP = "Show the package's log, and tracebacks. Both may quote what strangers sent."


class _Commands(click.Group):
    """Turns whatever a command raises into one line on standard error and an exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the shell's prompt would follow a ^C
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (click.exceptions.Exit, click.Abort, click.UsageError, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            raise click.ClickException(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, click.ClickException | AsanaWebhooksError | ValueError) and text:
        return text
    if isinstance(error, OSError):
        return f"{text}; `asana-webhooks --debug ...` shows where"
    name = type(error).__name__
    return f"{name}: {text}; this is a mistake here: please report what --debug shows"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
def cli(*, debug: bool) -> None:
    """Asana webhooks: established in one call, verified, with nothing lost."""
    logger = logging.getLogger("asana_webhooks")
    if not debug:
        logger.addHandler(logging.NullHandler())
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


@cli.command()
def demo() -> None:
    """Show and check the life of a webhook, on this machine alone.

    Starts a local Asana and a client with a store in a temporary directory. Needs no account, no
    token and no public URL. The exit status is 0 only if each check passed.
    """
    import asyncio

    from .console import Narrator
    from .demo import tell

    asyncio.run(tell(Narrator(sys.stdout)))


STORE = click.option(
    "--store",
    envvar="ASANA_WEBHOOKS_STORE",
    default="sqlite:///asana-webhooks.db",
    show_default=True,
    show_envvar=True,
    help="The store's URL.",
)


@cli.command()
@click.argument("target", required=False)
@STORE
@click.option("--host", help="The address to listen on; 127.0.0.1 unless the client says another.")
@click.option("--port", type=click.IntRange(0, 65_535), help="8080 unless the client says another.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Processes that share the port.")
@click.option("--no-handlers", is_flag=True, help="Only store deliveries, for other processes.")
@click.option("--supervised", is_flag=True, hidden=True)
def serve(
    *,
    target: str | None,
    store: str,
    host: str | None,
    port: int | None,
    workers: int,
    no_handlers: bool,
    supervised: bool,
) -> None:
    """Receive deliveries, and hand them to handlers, until told to stop.

    TARGET is the client with its handlers, or a function that returns it, as module:name. Without
    it a receiver alone keeps deliveries in --store for other processes; it needs no token.

    SIGTERM or Ctrl-C ends it within ten seconds, a second one at once; nothing is lost.
    """
    from .serve import run

    run(
        target,
        store=store,
        host=host,
        port=port,
        workers=workers,
        handlers=not no_handlers,
        supervised=supervised,
    )
