"""Keeping webhooks alive: those that were ensured are looked after while the program runs.

Asana deletes a webhook after 24 hours without a success and tells nobody. Only a look shows it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

import anyio

from .errors import AsanaWebhooksError
from .models import Webhook, WebhookFilter

__all__ = ["Upkeep"]

JITTER = 0.1
"""By which part a pause may be longer or shorter, so that replicas do not look all at once."""

logger = logging.getLogger(__name__)

Filters = Sequence[WebhookFilter] | None


class Ensure(Protocol):
    """An establishment's ``ensure``."""

    def __call__(self, resource: str, *, filters: Filters, timeout: float) -> Awaitable[Webhook]:
        """Return the living webhook for the resource, or a new one."""
        ...


class _Wanted(NamedTuple):
    """The webhook that a program wants for a resource, as it asked for it last."""

    gid: str
    filters: Filters
    timeout: float


class Upkeep:
    """Ensures again, every ``interval`` seconds, what a program has ensured once; None: never.

    What a program changes meanwhile stays as the program wants it. Raises ValueError for an
    interval that is none.
    """

    def __init__(self, ensure: Ensure, *, interval: float | None) -> None:
        if interval is not None and not interval > 0:
            msg = f"look_after is a positive number of seconds, or None for never, not {interval}"
            raise ValueError(msg)
        self._ensure = ensure
        self._interval = math.inf if interval is None else interval
        self._wanted: dict[str, _Wanted] = {}
        self._turns: dict[str, anyio.Lock] = {}

    def turn(self, resource: str) -> anyio.Lock:
        """Return the lock to hold while the webhook of this resource is changed."""
        return self._turns.setdefault(resource, anyio.Lock())

    async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
        """Return the webhook of this resource, and look after it from now on."""
        async with self.turn(resource):
            webhook = await self._ensure(resource, filters=filters, timeout=timeout)
            self._wanted[resource] = _Wanted(webhook.gid, filters, timeout)
            return webhook

    def change(self, gid: str, filters: Filters) -> None:
        """Go by these filters from now on, if this webhook is looked after."""
        for resource, wanted in self._wanted.items():
            if wanted.gid == gid:
                self._wanted[resource] = wanted._replace(filters=filters)

    def leave(self, gid: str) -> None:
        """Look after this webhook no longer."""
        self._wanted = {
            resource: wanted for resource, wanted in self._wanted.items() if wanted.gid != gid
        }

    async def run(self) -> None:
        """Look after them until cancelled; what fails is logged and tried at the next look."""
        while math.isfinite(self._interval):
            await anyio.sleep(self._interval * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - jitter is no secret
            for resource in list(self._wanted):
                await self._look(resource)

    async def _look(self, resource: str) -> None:
        async with self.turn(resource):
            wanted = self._wanted.get(resource)
            if wanted is None:  # left since
                return
            try:
                webhook = await self._ensure(
                    resource, filters=wanted.filters, timeout=wanted.timeout
                )
            except AsanaWebhooksError as error:
                logger.warning("the webhook of %s could not be looked after: %s", resource, error)
            except Exception:
                logger.exception("the webhook of %s could not be looked after", resource)
            else:
                if resource in self._wanted:
                    self._wanted[resource] = wanted._replace(gid=webhook.gid)
