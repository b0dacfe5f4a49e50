"""That a delivery was stored, told from process to process, so that no worker waits for its look.

A hint is worth no more than the time that it saves: one may be lost, and workers look anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import anyio

from .errors import StoreError
from .stores import Store

__all__ = ["announce", "hear"]

logger = logging.getLogger(__name__)

PAUSE = 5.0
"""Seconds before hearing is tried again after it has failed."""


async def announce(store: Store, arrived: asyncio.Event) -> None:
    """Tell other processes whenever the event is set, until cancelled."""
    while True:
        await arrived.wait()
        arrived.clear()
        with contextlib.suppress(StoreError):
            await store.announce()


async def hear(store: Store, arrived: asyncio.Event) -> None:
    """Set the event whenever another process tells, until cancelled or where none can."""
    while True:
        try:
            return await store.watch(arrived.set)
        except StoreError as error:
            logger.debug("deliveries of other processes are only looked for: %s", error)
        await anyio.sleep(PAUSE)
