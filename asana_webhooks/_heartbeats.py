"""The first heartbeat of a webhook: Asana sends it at the handshake, and it proves the way."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from typing import NamedTuple

from ._clock import Clock
from .errors import StoreError
from .models import Route
from .stores import Store

__all__ = ["FirstHeartbeats"]

EXPECTED_WITHIN = 10.0
"""Seconds after the confirmation of a webhook in which its first heartbeat comes."""

logger = logging.getLogger(__name__)


class _Expected(NamedTuple):
    route: Route
    due: float  # by the clock's monotonic time


class FirstHeartbeats:
    """Warns of a new webhook when none of its heartbeats was verified in ten seconds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._expected: deque[_Expected] = deque()
        self._added = asyncio.Event()

    def expect(self, route: Route) -> None:
        """Look at a route, which was just confirmed, ten seconds from now."""
        self._expected.append(_Expected(route, self._clock.monotonic() + EXPECTED_WITHIN))
        self._added.set()

    async def run(self) -> None:
        """Look at what is expected until cancelled; what is expected by then is forgotten."""
        self._added = asyncio.Event()
        try:
            while True:
                await self._clock.sleep(self._pause(), unless=self._added)
                self._added.clear()
                while self._pause() <= 0.0:
                    await self._look(self._expected.popleft().route)
        finally:
            self._expected.clear()

    def _pause(self) -> float:
        """Return for how many seconds nothing is due."""
        if not self._expected:
            return math.inf
        return self._expected[0].due - self._clock.monotonic()

    async def _look(self, expected: Route) -> None:
        try:
            route = await self._store.get_route(expected.id)
        except StoreError as error:
            logger.warning("whether a first heartbeat came could not be seen: %s", error)
            return
        if route is None or route.state != "confirmed" or route.heartbeat_at is not None:
            return
        logger.warning(
            "webhook %s of %s: no heartbeat was verified within %g s of its handshake; Asana sends"
            " one at once, so deliveries may be lost or altered on their way: run"
            " `asana-webhooks doctor`",
            route.gid,
            route.resource,
            EXPECTED_WITHIN,
        )
