"""The script that lets a shell complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

PROGRAM = "asana-webhooks"
VARIABLE = "_ASANA_WEBHOOKS_COMPLETE"
"""The variable by which click is asked for completions of a program of this name."""


WHERE = """\b
bash, in ~/.bashrc:      eval "$(asana-webhooks completion bash)"
zsh, in ~/.zshrc:        eval "$(asana-webhooks completion zsh)"
fish, in config.fish:    asana-webhooks completion fish | source
"""


@click.command("completion", epilog=WHERE)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, /, *, shell: str) -> None:
    """Print the script that lets a shell complete commands and options."""
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101 - click knows the shells of the choice
    click.echo(script(context.find_root().command, {}, PROGRAM, VARIABLE).source())
