"""The budget of a token, divided among the processes that share a store.

Each process holds the name of the account in the store while it makes calls, and takes one part of
the budget for each that does. One that begins has its part at once, the others make room for it
within ``RENEW_AFTER`` seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import anyio

from ._asana_transport import AsanaTransport
from ._logging import ThrottledLogger
from .errors import StoreError
from .stores import Store

__all__ = ["BudgetShares"]

RENEW_AFTER = 20.0
"""Seconds between two looks, in which a name is held again."""

TTL = 3 * RENEW_AFTER
"""Seconds after which a process that makes no calls, or was killed, leaves its part to others."""

DISOWN_TIMEOUT = 2.0

logger = logging.getLogger(__name__)


class BudgetShares:
    """Divides the budgets of accounts; ``transports`` returns those that this process has, by name.

    A budget in which no call was made between two looks is not held again.
    """

    def __init__(
        self, store: Store, transports: Callable[[], Mapping[str, AsanaTransport]]
    ) -> None:
        self._store = store
        self._transports = transports
        self._counted: dict[str, int] = {}  # the calls of an account at the last look
        self._log = ThrottledLogger(logger)

    async def run(self) -> None:
        """Hold and divide, until cancelled; then leave the parts to others."""
        holders = set[str]()
        try:
            while True:
                for account, transport in self._transports().items():
                    if transport.calls_made != self._counted.get(account, 0):
                        self._counted[account] = transport.calls_made
                        holders.add(transport.holder)
                        await self._divide(account, transport)
                used = self._transports()
                self._counted = {name: made for name, made in self._counted.items() if name in used}
                await anyio.sleep(RENEW_AFTER)
        finally:
            with anyio.move_on_after(DISOWN_TIMEOUT, shield=True):
                for holder in holders:
                    await self._leave(holder)

    async def _divide(self, account: str, transport: AsanaTransport) -> None:
        try:
            count = await self._store.hold(f"budget/{account}", holder=transport.holder, ttl=TTL)
        except StoreError as error:
            self._log.log(logging.WARNING, "hold", "the budget is not divided: %s", error)
        else:
            transport.share(count)

    async def _leave(self, holder: str) -> None:
        try:
            await self._store.disown(holder)
        except StoreError as error:
            self._log.log(logging.WARNING, "leave", "a part of the budget lapses later: %s", error)
