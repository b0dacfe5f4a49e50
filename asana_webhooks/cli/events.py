"""How an event, or whatever strangers sent, reads on one line."""

from __future__ import annotations

from ..models import Event

__all__ = ["describe", "one_line"]


def describe(event: Event) -> str:
    """Return what happened: the resource, the action, and where or to which field."""
    resource, parent, change = event.resource, event.parent, event.change
    text = f"{resource.resource_type} {resource.gid} {event.action}"
    if parent is not None:
        preposition = "from" if event.action == "removed" else "to"
        text += f" {preposition} {parent.resource_type} {parent.gid}"
    return f"{text}: {change.field}" if change is not None else text


def one_line(text: str) -> str:
    """Return text that moves no cursor and breaks no line, whoever wrote it."""
    return text if text.isprintable() else repr(text)[1:-1]
