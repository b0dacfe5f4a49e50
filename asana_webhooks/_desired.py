"""The webhooks that a program wants: those that it ensured are looked after while it runs.

Asana deletes a webhook after 24 hours without a success and tells nobody. Only a look shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from weakref import WeakValueDictionary

import anyio

from .errors import AsanaWebhooksError
from .models import Webhook, WebhookFilter

__all__ = ["DesiredWebhooks"]

JITTER = 0.1
"""By which part a pause may be shorter, so that replicas do not look all at once."""

logger = logging.getLogger(__name__)

Filters = Sequence[WebhookFilter] | None


class Establisher(Protocol):
    """An ``Establishment``, as far as it is needed here."""

    async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
        """Return the living webhook for the resource, or a new one."""
        ...

    async def holds(self, resource: str) -> bool:
        """Return whether the store has a webhook for the resource, or one that is being made."""
        ...


class _Desired(NamedTuple):
    """The webhook that a program wants for a resource, as it asked for it last.

    ``lost`` is true after a look that failed and left the store without a webhook, or may have.
    """

    gid: str
    filters: Filters
    timeout: float
    lost: bool = False


class DesiredWebhooks:
    """Ensures again, every ``interval`` seconds, what a program has ensured once; None: never.

    One look follows another, spread evenly over the interval. What a program changes meanwhile
    stays as the program wants it. A webhook that was deleted on purpose, here or in another
    process that shares the store, is looked after no longer: then the store has no route for the
    resource, though it was not a look that retired it.
    """

    def __init__(self, establishment: Establisher, *, interval: float | None) -> None:
        self._establishment = establishment
        self._interval = math.inf if interval is None else interval
        self._desired: dict[str, _Desired] = {}  # the one that was looked at longest ago first
        self._added = asyncio.Event()
        self._locks = WeakValueDictionary[str, asyncio.Lock]()  # a lock lives while it is in use

    def lock(self, resource: str) -> asyncio.Lock:
        """Return the lock to hold while the webhook of this resource is changed."""
        return self._locks.setdefault(resource, asyncio.Lock())

    async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
        """Return the webhook of this resource, and look after it from now on."""
        async with self.lock(resource):
            webhook = await self._establishment.ensure(resource, filters=filters, timeout=timeout)
            self._put_last(resource, _Desired(webhook.gid, filters, timeout))
            self._added.set()
            return webhook

    def set_filters(self, gid: str, filters: Filters) -> None:
        """Go by these filters from now on, if this webhook is looked after."""
        for resource, desired in self._desired.items():
            if desired.gid == gid:
                self._desired[resource] = desired._replace(filters=filters)

    def leave(self, gid: str) -> None:
        """Look after this webhook no longer."""
        self._desired = {
            resource: desired for resource, desired in self._desired.items() if desired.gid != gid
        }

    async def run(self) -> None:
        """Look after them until cancelled; what fails is logged and tried at the next look."""
        looked_at = anyio.current_time()
        while math.isfinite(self._interval):
            if not self._desired:
                await self._addition()
                looked_at = anyio.current_time()
            await self._pause(looked_at)
            looked_at = anyio.current_time()
            for resource in list(self._desired)[:1]:
                await self._look(resource)

    async def _pause(self, looked_at: float) -> None:
        """Return at the moment of the next look; more webhooks bring it nearer."""
        part = random.uniform(1 - JITTER, 1)  # noqa: S311 - jitter is no secret
        while self._desired:
            moment = looked_at + self._interval * part / len(self._desired)
            with anyio.move_on_after(moment - anyio.current_time()) as scope:
                await self._addition()
            if scope.cancelled_caught:
                return

    async def _addition(self) -> None:
        self._added.clear()
        await self._added.wait()

    async def _look(self, resource: str) -> None:
        async with self.lock(resource):
            desired = self._desired.get(resource)
            if desired is None:  # left since
                return
            try:
                looked = await self._ensured(resource, desired)
            except AsanaWebhooksError as error:
                logger.warning("the webhook of %s could not be looked after: %s", resource, error)
                looked = desired._replace(lost=await self._may_be_lost(resource))
            except Exception:
                logger.exception("the webhook of %s could not be looked after", resource)
                looked = desired._replace(lost=await self._may_be_lost(resource))
            if looked is None:
                text = "webhook %s of %s was deleted by another: it is looked after no longer"
                logger.warning(text, desired.gid, resource)
                self._desired.pop(resource, None)
            elif resource in self._desired:
                self._put_last(resource, looked)

    async def _ensured(self, resource: str, desired: _Desired) -> _Desired | None:
        """Return the webhook, ensured again; None when it was deleted on purpose."""
        if not desired.lost and not await self._establishment.holds(resource):
            return None
        webhook = await self._establishment.ensure(
            resource, filters=desired.filters, timeout=desired.timeout
        )
        return desired._replace(gid=webhook.gid, lost=False)

    async def _may_be_lost(self, resource: str) -> bool:
        with contextlib.suppress(Exception):  # the look that failed says why
            return not await self._establishment.holds(resource)
        return True

    def _put_last(self, resource: str, desired: _Desired) -> None:
        self._desired.pop(resource, None)
        self._desired[resource] = desired
