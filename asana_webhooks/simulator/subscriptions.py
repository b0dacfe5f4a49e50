"""Subscriptions: webhooks and streams of events, and how many of both there may be.

A stream is one subscription of an app to a resource for as long as any of its tokens is good.

Source: https://developers.asana.com/docs/webhooks-guide#limits
"""

from __future__ import annotations

from collections.abc import Iterable

from .responses import Refused

__all__ = ["check_room"]

PER_RESOURCE = 1_000
PER_APP = 10_000


def check_room(subscriptions: Iterable[tuple[str, str]], app: str, resource: str) -> None:
    """Return when the app may have one more subscription to the resource.

    ``subscriptions`` are the app and the resource of each one that there is. Raises Refused with
    403 when the resource has 1,000 of them, or the app 10,000. The numbers are Asana's; how it
    words the refusal is not documented.
    """
    on_resource = of_app = 0
    for whose, what in subscriptions:
        on_resource += what == resource
        of_app += whose == app
    if on_resource >= PER_RESOURCE:
        raise Refused(403, f"resource: The limit of {PER_RESOURCE} webhooks and streams is reached")
    if of_app >= PER_APP:
        raise Refused(403, f"You have {PER_APP} webhooks and streams already, which is the limit")
