"""The token of an account, which a program keeps itself, and the lock under which it changes.

Asana may replace a refresh token when it is used, and the old one is worth nothing then. So one
process at a time renews the token of an account: the one that holds its name in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias, TypeVar

import anyio

from .._background import background_task
from ..errors import AccountTokenError, AsanaWebhooksError, StoreError
from ..stores import Store
from ._tokens import Token

__all__ = ["LoadAccountToken", "SaveAccountToken", "StoredToken", "store_lock"]

T = TypeVar("T")

LoadAccountToken: TypeAlias = Callable[[str], Awaitable[Token | None]]
"""Returns the token that is kept of an account; None, or a LookupError, says that there is none."""

SaveAccountToken: TypeAlias = Callable[[str, Token | None], Awaitable[object]]
"""Keeps the token of an account in place of the last one; None: deletes it."""

KEEP_SECONDS = 20.0
"""How long loading or saving a token may take."""

TTL = 15.0
"""Seconds after which others may renew when a process was killed that renewed."""

RENEW_AFTER = 5.0
"""Seconds between two times at which the lock is held again."""

LOCK_SECONDS = 90.0
"""How long the lock is waited for: a renewal takes 70 s at most, for the call and the save."""

LOOK_AGAIN = 0.05
"""Seconds, at least, between looks whether the lock is free; at most twice as many."""


class StoredToken:
    """The token of one account, as ``load`` and ``save`` keep it; it changes under a lock.

    Calls raise AccountTokenError when those fail or take too long, and pass on what is of this
    package.
    """

    def __init__(
        self,
        account: str,
        *,
        load: LoadAccountToken,
        save: SaveAccountToken,
        lock: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.lock = lock
        self._account = account
        self._load = load
        self._save = save

    async def load(self) -> Token | None:
        """Return the token that is kept; None when there is none."""
        return await self._called("loaded", self._loaded())

    async def save(self, token: Token) -> None:
        """Replace the token; it is kept when this returns."""
        await self._called("saved", self._save(self._account, token))

    async def forget(self) -> None:
        """Delete the token."""
        await self._called("deleted", self._save(self._account, None))

    async def _loaded(self) -> Token | None:
        try:
            token: object = await self._load(self._account)
        except LookupError:
            return None
        if token is None or isinstance(token, Token):
            return token
        msg = f"load must return a Token, not {type(token).__name__}"
        del token  # it may be a secret, and tracebacks have frames
        raise TypeError(msg)

    async def _called(self, verb: str, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(KEEP_SECONDS):
                return await call
        except AsanaWebhooksError:
            raise
        except Exception as error:
            said = f"the token of account {self._account!r} could not be {verb}"
            failed = AccountTokenError(401, (f"{said}: {type(error).__name__}",))
            failed.hint = "see what the load and save of the OAuthApp raise"
            raise failed from error


@contextlib.asynccontextmanager
async def store_lock(store: Store, name: str) -> AsyncIterator[None]:
    """Hold a name in the store, alone among all processes that share it.

    A process that is killed holds it for another ``TTL`` seconds. Raises StoreError when it is
    not free within ``LOCK_SECONDS``, and when the store fails.
    """
    holder = secrets.token_hex(16)
    try:
        await _take(store, name, holder)
        async with background_task(_keep(store, name, holder), "holding a lock"):
            yield
    finally:
        with anyio.move_on_after(TTL, shield=True), contextlib.suppress(StoreError):
            await store.disown(holder)  # else it lapses


async def _take(store: Store, name: str, holder: str) -> None:
    try:
        async with asyncio.timeout(LOCK_SECONDS):
            while not await store.hold(name, holder=holder, ttl=TTL, limit=1):  # noqa: ASYNC110
                # Another process has it, which tells nobody when it ends.
                await anyio.sleep(LOOK_AGAIN * (1 + random.random()))  # noqa: S311 - no secret
    except TimeoutError:
        msg = f"{name} was locked for {LOCK_SECONDS:g} s: end the process that hangs"
        raise StoreError(msg) from None


async def _keep(store: Store, name: str, holder: str) -> None:
    while True:
        await anyio.sleep(RENEW_AFTER)
        with contextlib.suppress(StoreError):  # there is time for another try
            await store.hold(name, holder=holder, ttl=TTL, limit=1)
