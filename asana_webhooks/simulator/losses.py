"""Losses: events that this Asana never delivers, though its streams have them.

Sources: https://developers.asana.com/docs/webhooks-guide,
https://developers.asana.com/reference/events
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .faults import Fault
from .observers import Dropped, Watch
from .state import WebhookRecord

__all__ = ["SYNC_ERROR", "Losses"]

MOST_DROPPED = 10_000
"""How many dropped events are remembered."""

SYNC_ERROR = {
    "action": "sync_error",
    "message": "Events may have been missed. To keep resources in sync, fetch them again.",
}

Events = Sequence[Mapping[str, Any]]


class Losses:
    """Hands events over to ``deliver``, except those that a fault loses.

    ``has`` returns whether a fault is on for a webhook, and ``share`` is that of the fault
    ``dropped``, from 0 to 1; equal programs lose the same events. ``dropped`` lists the last 10,000
    that were lost, in order.
    """

    def __init__(
        self,
        has: Callable[[Fault, WebhookRecord], bool],
        share: float,
        watch: Watch,
        deliver: Callable[[WebhookRecord, Events], None],
    ) -> None:
        self.dropped: list[Dropped] = []
        self._has = has
        self._share = share
        self._watch = watch
        self._deliver = deliver
        self._dice = random.Random(0)  # noqa: S311 - chance, not a secret

    def pass_on(self, webhook: WebhookRecord, events: Events) -> None:
        """Have these events delivered, those that are not lost."""
        said = self._said(webhook, events)
        if said:
            self._deliver(webhook, said)

    def _said(self, webhook: WebhookRecord, events: Events) -> Events:
        if self._has(Fault.OUTAGE, webhook):
            self._drop(webhook, events)
            return []
        if self._has(Fault.SYNC_ERROR, webhook):
            self._drop(webhook, events)
            return [SYNC_ERROR]
        if not self._has(Fault.DROPPED, webhook):
            return events
        lost = [self._dice.random() < self._share for _ in events]
        self._drop(webhook, [event for event, gone in zip(events, lost, strict=True) if gone])
        return [event for event, gone in zip(events, lost, strict=True) if not gone]

    def _drop(self, webhook: WebhookRecord, events: Events) -> None:
        for event in events:
            self.dropped.append(Dropped(webhook.gid, event))
            self._watch(self.dropped[-1])
        del self.dropped[:-MOST_DROPPED]
