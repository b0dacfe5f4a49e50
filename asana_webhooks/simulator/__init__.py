"""A local Asana on a real socket, to develop and test against without an account.

::

    async with AsanaSimulator() as asana:
        # any client, with base_url=asana.base_url and any token, makes a webhook on asana.project
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.complete_task(task)
        await asana.settled()
        await asana.advance(hours=9)  # with the heartbeat that comes after eight, in milliseconds

It knows the five operations on webhooks, the handshake, signed deliveries with retries, heartbeats,
a clock that can be driven, and named faults; the work that causes events, which Asana's own clients
can do too, by many of its users; the stream of events with its sync tokens; OAuth with scopes;
pages, limits and announced changes. ``docs/simulator.md`` lists the operations that it serves.
Other processes drive it by the calls of ``control.py``; ``watch`` is told what goes over the wire,
and what never does. Of the package it shares only the signature, so that a mistake of the client is
not also a mistake here. Everything lives in memory.
"""

from __future__ import annotations

from .faults import Fault, Faults, WebhookFaults
from .observers import Attempt, Call, Dropped, Handshake
from .simulator import AsanaSimulator
from .state import WebhookRecord

__all__ = [
    "AsanaSimulator",
    "Attempt",
    "Call",
    "Dropped",
    "Fault",
    "Faults",
    "Handshake",
    "WebhookFaults",
    "WebhookRecord",
]
