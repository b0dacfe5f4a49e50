"""The commands by name, and what becomes of their errors.

Each command has a module of its name, with its arguments, its options, its help and what it does.
Heavy modules are imported when the command is called, so that help and completion load next to
nothing.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import traceback
from collections.abc import Iterator
from functools import partial

import click
from click.shell_completion import CompletionItem

from .. import AsanaWebhooksError, __version__
from .output import log_to_stderr, on_one_line

__all__ = ["COMMANDS", "INTERRUPTED", "cli"]

INTERRUPTED = 130

NEXT_STEPS = {
    errno.EADDRINUSE: "end what listens there, or choose another port",
    errno.EADDRNOTAVAIL: "choose an address of this machine",
    errno.EACCES: "check the permissions, or choose another",
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file",
}
DEBUG_STEP = "`asana-webhooks --debug ...` shows where"

DEBUG_HELP = "Show the package's log, and tracebacks. Both may quote what strangers sent."

COMMANDS = {
    "accounts": "List the accounts of the store, and how their webhooks fare.",
    "completion": "Print the script that lets a shell complete commands and options.",
    "delete": "Delete webhooks for good, at Asana and in the store.",
    "demo": "Show and check the life of a webhook, on this machine alone.",
    "doctor": "Check token, address, receiver and store, and say what to do next.",
    "ensure": "Find the store's webhook for a resource, or make it.",
    "establish": "Make a new webhook, its handshake answered by a receiver of its own.",
    "follow": "Have a webhook on each project of a workspace, a team or a portfolio.",
    "gaps": "List the times in which events may have been missed, and close them.",
    "inbox": "Tell what waits in the store, and work with dead letters.",
    "list": "List the webhooks at Asana, and how they fare.",
    "listen": "Print what Asana sends, as it comes, and post it on to a program of yours.",
    "login": "Log in to Asana with a browser, by OAuth.",
    "logout": "End the access of a login at Asana, and delete its token.",
    "prune": "Delete webhooks that lead here, but whose secret the store does not hold.",
    "replay": "Post recorded deliveries again, in their order, and print what is answered.",
    "serve": "Receive deliveries, and hand them to handlers, until told to stop.",
    "show": "Show one webhook, with all that Asana says of it.",
    "simulate": "Run a local Asana, until told to stop.",
    "trigger": "Cause an event at a local Asana, or deliver one to a receiver.",
    "update": "Put other filters in the place of all that a webhook has.",
    "verify": "Check the signature of a delivery: exit status 0 when it fits.",
}
"""The purpose of each; the command is ``command`` in the module of its name."""


class _Commands(click.Group):
    """Turns whatever a command raises into one line on standard error and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]  # in this module `list` is that command, once imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click would import every command for the help of each.
        fitting = (name for name in self.list_commands(ctx) if name.startswith(incomplete))
        found = [CompletionItem(name, help=COMMANDS[name]) for name in fitting]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _printable_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the shell's prompt would follow a ^C
            raise click.exceptions.Exit(INTERRUPTED) from None
        except (click.exceptions.Exit, click.Abort, click.UsageError, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                traceback.print_exc()
            raise click.ClickException(on_one_line(_one_line(error))) from error


@contextlib.contextmanager
def _printable_errors() -> Iterator[None]:
    """Escape what click quotes of arguments in its errors."""
    try:
        yield
    except click.ClickException as error:
        if error.message is not None:  # a missing parameter is described by its class
            error.message = on_one_line(error.message)  # type: ignore[misc] # final to subclasses
        raise


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, click.ClickException | AsanaWebhooksError | ValueError) and text:
        return text
    if isinstance(error, OSError):
        return _of_the_system(error)
    name = type(error).__name__
    return f"{name}: {text}; this is a mistake here: please report what --debug shows"


def _of_the_system(error: OSError) -> str:
    said = error.strerror or " ".join(str(error).split())
    text = said if error.filename is None else f"{error.filename}: {said}"
    if "; " in said:  # it comes with its next step
        return text
    return f"{text}; {NEXT_STEPS.get(error.errno or 0, DEBUG_STEP)}"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help=DEBUG_HELP)
def cli(*, debug: bool) -> None:
    """Asana webhooks: establish them, receive what they send, and see what is wrong."""
    logger, context = logging.getLogger("asana_webhooks"), click.get_current_context()
    if debug:
        log_to_stderr(logging.WARNING)
        context.call_on_close(partial(logger.setLevel, logger.level))
        logger.setLevel(logging.DEBUG)
    else:
        silent = logging.NullHandler()  # Python would print warnings by itself
        logger.addHandler(silent)
        context.call_on_close(partial(logger.removeHandler, silent))
