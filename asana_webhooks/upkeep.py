"""Keeping webhooks alive: those that were ensured are looked after while the program runs.

Asana deletes a webhook after 24 hours without a success and tells nobody. Only a look shows it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Sequence
from typing import Protocol

import anyio

from .errors import AsanaWebhooksError
from .models import WebhookFilter

__all__ = ["Upkeep"]

JITTER = 0.1
"""By which part a pause may be longer or shorter, so that replicas do not look all at once."""

logger = logging.getLogger(__name__)

Filters = Sequence[WebhookFilter] | None


class Ensure(Protocol):
    """A client's ``ensure``."""

    def __call__(self, resource: str, *, filters: Filters) -> Awaitable[object]: ...


class Upkeep:
    """Ensures again, every ``interval`` seconds, what a program has ensured once.

    Never, when that is infinite.
    """

    def __init__(self, ensure: Ensure, *, interval: float) -> None:
        self._ensure = ensure
        self._interval = interval
        self._wanted: dict[str, Filters] = {}

    def want(self, resource: str, filters: Filters) -> None:
        """Look after the webhook of this resource, with the filters that were asked for last."""
        self._wanted[resource] = filters

    def change(self, resource: str, filters: Filters) -> None:
        """Go by these filters, if this webhook is looked after."""
        if resource in self._wanted:
            self._wanted[resource] = filters

    def leave(self, resource: str) -> None:
        """Look after it no longer."""
        self._wanted.pop(resource, None)

    async def run(self) -> None:
        """Look after them until cancelled; what fails is logged and tried at the next look."""
        while math.isfinite(self._interval):
            await anyio.sleep(self._interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - jitter is no secret
            for resource in list(self._wanted):
                await self._look(resource)

    async def _look(self, resource: str) -> None:
        if resource not in self._wanted:  # left since
            return
        try:
            await self._ensure(resource, filters=self._wanted[resource])
        except AsanaWebhooksError as error:
            logger.warning("the webhook of %s could not be looked after: %s", resource, error)
        except Exception:
            logger.exception("the webhook of %s could not be looked after", resource)
