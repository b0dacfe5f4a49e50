"""How an event reads on one line."""

from __future__ import annotations

from ..models import Event

__all__ = ["describe"]


def describe(event: Event) -> str:
    """Return what happened: the resource, the action, and where or to which field."""
    resource, parent, change = event.resource, event.parent, event.change
    text = f"{resource.resource_type} {resource.gid} {event.action}"
    if parent is not None:
        preposition = "from" if event.action == "removed" else "to"
        text += f" {preposition} {parent.resource_type} {parent.gid}"
    return f"{text}: {change.field}" if change is not None else text
