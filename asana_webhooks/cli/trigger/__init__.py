"""``asana-webhooks trigger``: an event at will, at a local Asana or straight at a receiver."""

from __future__ import annotations

from typing import Any

import click

from ..options import JSON, STORE
from ..output import print_records

__all__ = ["EVENTS", "command"]

EVENTS = {
    "task.added": "A task is created in the project.",
    "task.changed": "A task is given another name.",
    "task.completed": "A task is completed.",
    "task.reopened": "A completed task is opened again.",
    "task.assigned": "A task is given an assignee, or has none any more.",
    "task.removed": "A task is taken out of the project.",
    "task.deleted": "A task is deleted.",
    "task.undeleted": "A deleted task comes back.",
    "subtask.added": "A subtask is created below a task.",
    "story.added": "A task is commented on.",
    "section.added": "A section is created in the project.",
    "project.changed": "The notes of the project change.",
}
"""The events, and what happens for each."""


def _list_events(context: click.Context, _: click.Parameter, asked: bool) -> None:  # noqa: FBT001 - click passes it so
    if asked:
        known = [{"event": name, "what_happens": text} for name, text in EVENTS.items()]
        print_records(known, as_json=False, none="")
        context.exit()


@click.command("trigger")
@click.argument("event", type=click.Choice([*EVENTS]), metavar="EVENT")
@click.option("--task", help="The gid of a task; one is created, or made up, unless given.")
@click.option("--project", help="The gid of the project; 8675309 at a local Asana.")
@click.option(
    "--base-url",
    envvar="ASANA_BASE_URL",
    show_envvar=True,
    help="The local Asana, as `asana-webhooks simulate` prints it.",
)
@click.option("--deliver", is_flag=True, help="Post a signed delivery, without any Asana.")
@STORE
@click.option("--resource", help="With --deliver: the gid of what the webhook watches.")
@click.option("--to", help="With --deliver: where the receiver is; the route is appended.")
@JSON
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_events,
    help="Tell which events there are, and end.",
)
def command(**options: Any) -> None:
    """Cause an event at a local Asana, or deliver one to a receiver.

    A user of the local Asana does what causes EVENT, and each webhook that sees it is told. The
    gids of what was clicked on are printed. --list tells which events there are.

    With --deliver nothing happens at any Asana: a body with the event, as Asana would post it, is
    signed with the secret that --store holds for a webhook, and posted to its receiver.
    """
    from .events import run

    run(**options)
