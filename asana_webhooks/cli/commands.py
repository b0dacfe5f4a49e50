"""The commands by name, and what becomes of their errors.

A command is imported when it is called: ``--help`` loads next to nothing.
"""

from __future__ import annotations

import importlib
import logging
import traceback

import click

from .. import AsanaWebhooksError, __version__

__all__ = ["COMMANDS", "cli"]

INTERRUPTED = 130

DEBUG_HELP = "Show the package's log, and tracebacks. Both may quote what strangers sent."

COMMANDS = {
    "demo": "Show and check the life of a webhook, on this machine alone.",
    "inbox": "Tell what waits in the store, and work with dead letters.",
    "listen": "Print what Asana sends, as it comes, and post it on to a program of yours.",
    "serve": "Receive deliveries, and hand them to handlers, until told to stop.",
}
"""What each is good for; the command is ``command`` in the module of its name."""


class _Commands(click.Group):
    """Turns whatever a command raises into one line on standard error and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

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
