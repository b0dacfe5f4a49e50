"""Arrivals of deliveries, told from process to process."""

from __future__ import annotations

import asyncio
import logging

import anyio

from ._logging import ThrottledLogger
from .errors import StoreError
from .stores import Store

__all__ = ["listen_for_arrivals", "notify_arrivals"]

LISTEN_PAUSE = 5.0
"""Seconds before listening is tried again after it has failed."""

logger = logging.getLogger(__name__)


async def notify_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Tell other processes whenever the event is set, until cancelled."""
    log = ThrottledLogger(logger)
    while True:
        await arrived.wait()
        arrived.clear()
        try:
            await store.notify()
        except StoreError as error:
            logger.debug("other processes are not told of deliveries: %s", error)
        except Exception:
            log.log(
                logging.ERROR, "notify", "cannot tell other processes of deliveries", exc_info=True
            )


async def listen_for_arrivals(store: Store, arrived: asyncio.Event) -> None:
    """Set the event whenever another process tells, until cancelled or where none can."""
    log = ThrottledLogger(logger)
    while True:
        try:
            return await store.listen(arrived.set)
        except StoreError as error:
            logger.debug("deliveries of other processes are only looked for: %s", error)
        except Exception:
            log.log(logging.ERROR, "listen", "cannot hear of other processes", exc_info=True)
        await anyio.sleep(LISTEN_PAUSE)
