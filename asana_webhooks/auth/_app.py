"""One OAuth app of a service, and the users who let it act for them."""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from weakref import WeakValueDictionary

import httpx

from .._asana_transport import HTTP_CLIENT
from .._options import NAMES, TEXT, Rule, check_options, is_async, optional
from ..stores import Store
from ._endpoints import Endpoints
from ._oauth import AsanaOAuth
from ._stored import LoadAccountToken, SaveAccountToken, StoredToken, store_lock
from ._tokens import Authorization, Token

__all__ = ["OAuthApp"]

_OPTIONS = {
    "client_id": Rule((str,), "what Asana's developer console shows", bool),
    "client_secret": optional(Rule((str,), "a text that is not empty", bool)),
    "load": Rule((object,), "an async def, which takes an account", is_async),
    "save": Rule((object,), "an async def, which takes an account and a token", is_async),
    "scopes": NAMES,
    "base_url": optional(TEXT),
    "http_client": HTTP_CLIENT,
}
"""Rules for the constructor's options."""


class OAuthApp:
    """Authenticates the calls of many accounts, for ``WebhooksClient(tokens=…)``.

    ``await load(account)`` returns the Token that the program keeps of an account; None, or a
    LookupError, says that there is none. ``await save(account, token)`` keeps each new one in its
    place, and deletes it for None. A token is saved before it is used. Each may take 20 seconds.
    The other options are those of ``AsanaOAuth``.

    One process at a time renews the token of an account, and loads it again first, since another
    may have renewed it: they take turns by the client's store, which they share. A client
    without ``public_url`` has no store; then no other process may have its tokens. For one client.
    Raises ValueError or TypeError for an option that cannot work.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str | None = None,
        *,
        load: LoadAccountToken,
        save: SaveAccountToken,
        scopes: Sequence[str] = (),
        base_url: str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        self._load = load
        self._save = save
        self._secret = client_secret
        self._scopes = tuple(scopes)
        self._endpoints = Endpoints(
            client_id, client_secret, base_url=base_url, http_client=http_client
        )

        def make(token: StoredToken) -> AsanaOAuth:
            return AsanaOAuth(
                client_id,
                client_secret,
                token=token,
                scopes=scopes,
                base_url=base_url,
                http_client=http_client,
            )

        self._make = make
        self._store: Callable[[], Store] | None = None
        self._accounts = WeakValueDictionary[str, AsanaOAuth]()

    async def __call__(self, account: str) -> AsanaOAuth:
        """Return what authenticates the calls of an account.

        Raises LookupError when no token is kept of it, AccountTokenError when ``load`` fails.
        """
        oauth = self.of(account)
        if await oauth.stored() is None:
            msg = f"no token is kept of account {account!r}"
            raise LookupError(msg)
        return oauth

    def of(self, account: str) -> AsanaOAuth:
        """Return the login of an account, whether it has a token or not."""
        oauth = self._accounts.get(account)
        if oauth is None:
            lock = _Lock(account, self)
            token = StoredToken(account, load=self._load, save=self._save, lock=lock)
            oauth = self._accounts[account] = self._make(token)
        return oauth

    def share(self, store: Callable[[], Store]) -> None:
        """Take turns with other processes by this store, which is asked for when it is needed."""
        self._store = store

    # Logins

    def derive(self, purpose: str, text: str) -> str:
        """Return 43 characters that only a process with the client secret can make.

        Raises ValueError when the app has none.
        """
        if self._secret is None:
            msg = "a login in a browser needs the client_secret of the OAuthApp"
            raise ValueError(msg)
        message = f"asana-webhooks {purpose}\0{text}".encode()
        digest = hmac.digest(self._secret.encode(), message, "sha256")
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def authorization(self, redirect_uri: str, state: str, verifier: str) -> Authorization:
        """Return the login that has this state and this verifier."""
        return self._endpoints.begin(redirect_uri, self._scopes, state=state, verifier=verifier)

    async def exchange(self, code: str, authorization: Authorization) -> Token:
        """Return the token that a code stands for; it is kept nowhere."""
        return await self._endpoints.exchange(code, authorization)

    def _lock(self, account: str, own: asyncio.Lock) -> AbstractAsyncContextManager[None]:
        return own if self._store is None else store_lock(self._store(), f"oauth/{account}")


class _Lock:
    """Returns the lock of an account: the store's, without one that of this process."""

    def __init__(self, account: str, app: OAuthApp) -> None:
        self._account = account
        self._app = app
        self._own = asyncio.Lock()

    def __call__(self) -> AbstractAsyncContextManager[None]:
        return self._app._lock(self._account, self._own)
