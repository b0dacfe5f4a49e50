"""OAuth as an ``httpx.Auth``: authenticates each call, and renews the access token in time.

All calls that find the access token expired or refused wait for one renewal. It runs in a task of
its own, so that no call takes it along when it is cancelled::

    lock ─ read what is stored ─ renewed elsewhere? use that
                               └ else ask Asana ─ save ─ only then use it
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from typing import TypeVar

import anyio
import httpx

from .._asana_transport import HTTP_CLIENT
from .._options import NAMES, TEXT, Rule, check_options, optional
from ..errors import LoginRequiredError
from ._endpoints import Endpoints
from ._files import TokenFile
from ._stored import StoredToken
from ._tokens import OUT_OF_BAND, Authorization, Token, read_code

__all__ = ["AsanaOAuth"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MARGIN = 60.0
"""So many seconds before its end, an access token is renewed."""

PATIENCE = 5.0
"""For so many seconds, a call that is cancelled waits for the renewal that is under way."""


_FILLED = Rule((str,), "a text that is not empty", bool)
_OPTIONS = {
    "client_id": Rule((str,), "what Asana's developer console shows", bool),
    "client_secret": optional(_FILLED),
    "token": optional(Rule((Token, TokenFile, StoredToken), "a Token or a TokenFile")),
    "save": optional(Rule((object,), "a function", callable)),
    "redirect_uri": _FILLED,
    "scopes": NAMES,
    "base_url": optional(TEXT),
    "http_client": HTTP_CLIENT,
}
"""Rules for the constructor's options."""


class AsanaOAuth(httpx.Auth):
    """Authenticates calls with the access token of a user, for ``WebhooksClient(token=…)``.

    ``token`` is where the token is kept: a TokenFile; or a Token, or None before the login, and
    ``save``, a function or coroutine function that keeps each new one. Without ``save`` a
    refresh token that Asana replaces is lost with the process. ``scopes`` are those to ask for at
    a login; none asks for all that the app may have. ``client_secret`` may be None where Asana
    takes the proof (PKCE), which is always sent, for enough. ``http_client`` sends the token
    requests instead of a client made for each; who gives one closes it. ``base_url`` is where
    Asana is; None takes ASANA_BASE_URL, without it Asana itself.

    A new token is saved before it is used, and kept for the next try while saving it fails. A
    call raises LoginRequiredError when only a login helps; also an ApiError,
    ConnectionFailedError or DecodeError when the renewal fails, StoreError from a TokenFile, and
    what ``save`` raises. For one event loop. Raises ValueError or TypeError for an option that
    cannot work.
    """

    def __init__(
        self,
        client_id: str,
        client_secret: str | None = None,
        *,
        token: Token | TokenFile | StoredToken | None = None,
        save: Callable[[Token], Awaitable[object] | object] | None = None,
        redirect_uri: str = OUT_OF_BAND,
        scopes: Sequence[str] = (),
        base_url: str | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        check_options(_OPTIONS, locals())
        if isinstance(token, TokenFile | StoredToken) and save is not None:
            msg = "a TokenFile saves by itself: pass either token=TokenFile(…) or save="
            raise ValueError(msg)
        self.redirect_uri = redirect_uri
        self._scopes = tuple(scopes)
        self._endpoints = Endpoints(
            client_id, client_secret, base_url=base_url, http_client=http_client
        )
        self._kept = token if isinstance(token, TokenFile | StoredToken) else _Given(token, save)
        self._token: Token | None = None
        self._unsaved: tuple[Token | None, Token | None] = (None, None)  # the old one, the new
        self._renewing: asyncio.Task[Token] | None = None

    def authorization_url(self, *, redirect_uri: str | None = None) -> Authorization:
        """Return a new login: the URL to send the user to, and what ``fetch_token`` needs."""
        return self._endpoints.begin(redirect_uri or self.redirect_uri, self._scopes)

    async def fetch_token(self, answer: str, authorization: Authorization) -> Token:
        """Return the user's token, saved and in use from now on.

        ``answer`` is the whole URL that Asana sent the user back to, or the code that it showed.
        Raises LoginRequiredError when the URL belongs to another login, or the user refused.
        """
        code = read_code(answer, authorization.state)
        token = await self._endpoints.exchange(code, authorization)
        await self.keep(token)
        return token

    async def keep(self, token: Token) -> None:
        """Save a token that a login brought, and use it from now on."""
        async with self._kept.lock():
            await self._kept.save(token)
            self._token = token

    async def stored(self) -> Token | None:
        """Return the token that is kept, None for none; raises what loading it raises."""
        held = self._kept.load()
        return await held if inspect.isawaitable(held) else held

    async def revoke(self) -> None:
        """End the access at Asana, and forget the token; without one nothing happens."""
        async with self._kept.lock():
            held = await self.stored()
            if held is not None:
                held = self._unsaved_after(held) or held
                await self._endpoints.revoke(held.refresh_token or held.access_token)
            forgotten = self._kept.forget()
            if forgotten is not None:
                await forgotten
            self._token = None

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with the access token; once more with a new one if it is refused."""
        token = self._token or await self._load()
        if token.expires_within(MARGIN):
            token = await self._renewed(token)
        response = yield _signed(request, token)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            await response.aread()  # its connection may be the one that the renewal waits for
            yield _signed(request, await self._renewed(token))

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Raise RuntimeError: renewing needs an event loop."""
        msg = "AsanaOAuth works with httpx.AsyncClient only"
        raise RuntimeError(msg)

    async def _load(self) -> Token:
        held = _present(await self.stored())
        self._token = self._token or held  # a renewal, or a login, may have ended meanwhile
        return self._token

    async def _renewed(self, stale: Token) -> Token:
        """Return a token newer than this one, by one renewal however many calls ask."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(
                self._renew(stale), name="asana-webhooks: renew the access token"
            )
            self._renewing.add_done_callback(self._end_renewal)
        return await _outlast(self._renewing)

    def _end_renewal(self, task: asyncio.Task[Token]) -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # seen here, for nobody may be left who waits for it

    async def _renew(self, stale: Token) -> Token:
        async with self._kept.lock():
            held = _present(await self.stored())
            if held.access_token == stale.access_token or held.expires_within(MARGIN):
                held = await self._replace(held)
            self._token = held
        return held

    async def _replace(self, held: Token) -> Token:
        token = self._unsaved_after(held)
        if token is None:
            token = await self._endpoints.renew(held)
            self._unsaved = held, token
        await self._kept.save(token)
        self._unsaved = None, None
        logger.info("the access token was renewed, it ends at %s", token.expires_at)
        return token

    def _unsaved_after(self, held: Token) -> Token | None:
        """Return the token that replaced this one at Asana but could not be saved."""
        old, new = self._unsaved
        return new if old == held else None


class _Given:
    """A token in memory, which a function of the user keeps."""

    def __init__(
        self,
        token: Token | None,
        save: Callable[[Token], Awaitable[object] | object] | None,
    ) -> None:
        self._token = token
        self._save = save
        self._lock = asyncio.Lock()

    def lock(self) -> asyncio.Lock:
        return self._lock

    def load(self) -> Token | None:
        return self._token

    async def save(self, token: Token) -> None:
        result = None if self._save is None else self._save(token)
        if inspect.isawaitable(result):
            await result
        self._token = token

    def forget(self) -> None:
        self._token = None


def _present(token: Token | None) -> Token:
    if token is None:
        raise LoginRequiredError(401, ("nobody is logged in",))
    return token


def _signed(request: httpx.Request, token: Token) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token.access_token}"
    return request


async def _outlast(task: asyncio.Task[T]) -> T:
    """Return the task's result; when cancelled, wait a while for its end first.

    Asana may have replaced the refresh token already, and ``asyncio.run`` ends what still runs
    when the program's own task is over: the answer would be lost.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with anyio.move_on_after(PATIENCE, shield=True):
            await asyncio.wait([task])
        raise
