"""A store belongs to one public URL at a time, for as long as a program that has it lives."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import anyio

from ._background import background_task
from ._logging import ThrottledLogger
from .errors import StoreError
from .stores import Store

__all__ = ["Ownership"]

TTL = 15.0
"""Seconds after which a store is free again whose owner died."""

RENEW_AFTER = 5.0
"""Seconds between renewals."""

LOOK_AFTER = 0.5
"""Seconds between looks whether a store is free."""

MARGIN = 1.0
"""Seconds more that are waited for: an owner that has not lapsed by then is alive."""

DISOWN_TIMEOUT = 2.0

now: Callable[[], float] = time.monotonic
if hasattr(time, "CLOCK_BOOTTIME"):  # it goes on while the machine is suspended, as a server's does
    now = partial(time.clock_gettime, time.CLOCK_BOOTTIME)

logger = logging.getLogger(__name__)


class Ownership:
    """Has the store, as a context manager, for the programs behind one public URL.

    Processes that share the URL share the store. Entering waits for another URL's owner to lapse,
    and raises StoreError when that one lives. A program that slept or could not reach the store may
    have lost it: ``is_sure`` says so before anybody else does.
    """

    def __init__(self, store: Store, public_url: str) -> None:
        self._store = store
        self._url = _normal(public_url)
        self._holder = secrets.token_hex(16)
        self._sure_until = -math.inf
        self._beside = AsyncExitStack()
        self._log = ThrottledLogger(logger)

    async def __aenter__(self) -> Self:
        await self._take()
        await self._beside.enter_async_context(background_task(self._keep(), "ownership"))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the store up, so that another URL may have it."""
        await self._beside.aclose()
        with anyio.move_on_after(DISOWN_TIMEOUT, shield=True):
            try:
                await self._store.disown(self._holder)
            except StoreError as error:
                logger.warning("the store is not free for %.0f s: %s", TTL, error)

    def is_sure(self) -> bool:
        """Return whether the store is this program's for certain: nobody else can have it now."""
        return now() < self._sure_until

    async def _own(self) -> str | None:
        asked_at = now()  # what the store counts from is later
        owner = await self._store.own(self._url, holder=self._holder, ttl=TTL)
        self._sure_until = asked_at + TTL if owner is None else -math.inf
        return owner

    async def _take(self) -> None:
        until, waiting = time.monotonic() + TTL + MARGIN, False
        while (owner := await self._own()) is not None:
            if time.monotonic() > until:
                msg = (
                    f"the store belongs to the program at {_shown(owner)}, which is running: give"
                    " this one another store, or end the other first"
                )
                raise StoreError(msg)
            if not waiting:
                waiting = True
                logger.warning(
                    "waiting for %s, which has the store, for %.0f s", _shown(owner), TTL + MARGIN
                )
            await anyio.sleep(LOOK_AFTER)
        if waiting:
            logger.info("the store was let go; what waits in it is handled here")

    async def _keep(self) -> None:
        lost, pause = False, RENEW_AFTER
        while True:
            await anyio.sleep(pause)
            pause = LOOK_AFTER  # unless it is renewed
            try:
                owner = await self._own()
            except StoreError as error:
                self._log.log(logging.ERROR, "renew", "cannot keep the store: %s", error)
            except Exception:  # noqa: BLE001 - the store would be lost with this task
                self._log.log(logging.ERROR, "renew", "cannot keep the store", exc_info=True)
            else:
                self._say(owner, lost=lost)
                lost = owner is not None
                if not lost:
                    pause = RENEW_AFTER

    def _say(self, owner: str | None, *, lost: bool) -> None:
        if owner is not None and not lost:
            logger.error(
                "the store belongs to the program at %s now: this one was asleep, or could not"
                " reach the store, for more than %.0f s; it takes the store again when it is free",
                _shown(owner),
                TTL,
            )
        elif owner is None and lost:
            logger.warning("the store is this program's again")


def _normal(url: str) -> str:
    """Return the one way to write a URL that may be written in several."""
    parts = urlsplit(url)
    port = ":443" if parts.scheme == "https" else ":80"
    netloc = parts.netloc.lower().removesuffix(port).removesuffix(":")
    return parts._replace(netloc=netloc, path=parts.path.rstrip("/")).geturl()


def _shown(url: str) -> str:
    """Return the host of a URL, and the port if it has one."""
    return urlsplit(url).netloc.rpartition("@")[2]
