"""A login in a browser, as the routes of a web application.

    GET url           a cookie, and the way to Asana: state and verifier are made of the cookie
    GET url/callback  does the state fit the cookie? was it used? code → token → saved → connected

Nothing is kept of a login that has begun. The cookie holds its account, its end and a random text;
the state that Asana sends back can be made of it only with the client secret. So a state proves
that the cookie is genuine, and the cookie that the browser is the one that began. The verifier is
made likewise, and never leaves the process but for Asana. That a login is over is known in the
store, so any process that shares it may answer either request.

Source: RFC 6749, 10.12; RFC 7636; RFC 9700, 4.7
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, urlsplit

import msgspec

from .._addresses import is_loopback
from .._logging import ThrottledLogger, one_line
from ..errors import AsanaWebhooksError, LoginRequiredError, StoreError
from ..stores import Store
from ._app import OAuthApp
from ._pages import PAGE_HEADERS, render
from ._tokens import Authorization, Token, read_code

__all__ = ["AccountOf", "Answer", "Connected", "Logins"]

AccountOf: TypeAlias = Callable[[Any], Awaitable[str | None]]
"""Returns the account of a request, which is aiohttp's or an ASGI scope; None: nobody's."""

Connected: TypeAlias = Callable[[str, Token], Awaitable[str | None]]
"""Is told of an account that has logged in; returns the URL to show then, None for a plain page."""

LOGIN_SECONDS = 600.0
"""How long a login may take, from its beginning to Asana's redirect."""

_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
"""Matches states and cookies as they are made here."""

_LOCATION = re.compile(r"[!-~\u00a1-\U0010ffff]+")
"""Matches what may stand in a header as a URL: no spaces, and no control characters."""

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """An answer to a browser: a page, or the way to somewhere else."""

    status: int
    headers: dict[str, str]
    body: str = ""


class _Login(msgspec.Struct, frozen=True):
    """A login as its cookie holds it; ``account`` is None for that of the Asana user's gid."""

    account: str | None
    ends_at: float
    nonce: str


class Logins:
    """Begins logins and ends them, for an application below ``url``.

    ``store`` returns the store that tells which are over, or raises RuntimeError. ``check`` raises
    ValueError for what is no name of an account. ``renewed`` is called with the account of each new
    token. Raises ValueError for a URL to which no code may be sent, and for an app that has no
    secret.
    """

    def __init__(
        self,
        app: OAuthApp,
        url: str,
        *,
        store: Callable[[], Store],
        check: Callable[[object], str],
        renewed: Callable[[str], None],
        account_of: AccountOf | None,
        connected: Connected | None,
    ) -> None:
        app.derive("check", "")  # which needs a secret
        self._app = app
        self._url = _checked(url)
        self._store = store
        self._check = check
        self._renewed = renewed
        self._account_of = account_of
        self._connected = connected
        self._log = ThrottledLogger(logger)
        # Browsers take a cookie of this prefix from this host alone, by TLS alone.
        is_secure = self._url.startswith("https:")
        self._cookie = "__Host-asana-login" if is_secure else "asana-login"
        self._flags = "; Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if is_secure else "")

    async def answer(self, method: str, path: str, query: str, cookies: str, asked: Any) -> Answer:
        """Return the answer to a request for a path below the URL.

        ``cookies`` is the header of that name, and ``asked`` what ``account_of`` is given.
        """
        if path not in ("", "/", "/callback"):
            return _page(404, "There is no such page.")
        if method != "GET":
            return _page(405, "Open this page in a browser.", Allow="GET")
        try:
            if path == "/callback":
                return await self._end(query, cookies)
            return await self._begin(asked)
        except (StoreError, RuntimeError) as error:
            self._log.log(logging.ERROR, "store", "no login can be ended: %s", error)
            return _page(503, "This cannot be done at the moment.", "Try again in a minute.")

    # The beginning

    async def _begin(self, asked: Any) -> Answer:
        account = None
        if self._account_of is not None:
            try:
                account = await self._account_of(asked)
                if account is not None:
                    self._check(account)
            except Exception as error:  # noqa: BLE001 - of the program, which a browser waits for
                return self._failed("account_of", error)
            if account is None:
                return _page(403, "Log in to this service before you connect it with Asana.")
        login = _Login(account, time.time() + LOGIN_SECONDS, secrets.token_urlsafe(16))
        kept = base64.urlsafe_b64encode(msgspec.json.encode(login)).decode().rstrip("=")
        cookie = f"{self._cookie}={kept}; Max-Age={LOGIN_SECONDS:.0f}{self._flags}"
        return _redirect(self._authorization(kept).url, cookie)

    def _authorization(self, kept: str) -> Authorization:
        state, verifier = self._app.derive("state", kept), self._app.derive("verifier", kept)
        return self._app.authorization(f"{self._url}/callback", state, verifier)

    # The end

    async def _end(self, query: str, cookies: str) -> Answer:
        kept = _cookie(cookies, self._cookie)
        state = dict(parse_qsl(query)).get("state", "")
        login = self._login(kept, state)
        if login is None:
            return self._again(400, "This login has ended, or began in another browser.")
        if not await self._is_first(state):
            return self._again(409, "This login is over already.")
        authorization = self._authorization(kept)
        try:
            code = read_code(f"{self._url}/callback?{query}", state)
        except LoginRequiredError as error:
            return self._again(403, f"Asana let nobody in: {'; '.join(error.errors)}.")
        try:
            token = await self._app.exchange(code, authorization)
        except AsanaWebhooksError as error:
            self._log.log(logging.WARNING, "exchange", "a login failed: %s", one_line(str(error)))
            return self._again(502, "Asana did not complete the login.")
        return await self._keep(login.account, token)

    def _login(self, kept: str, state: str) -> _Login | None:
        """Return the login of a cookie; None when the state is not its own, and when it is over."""
        if not (_PLAIN.fullmatch(kept) and _PLAIN.fullmatch(state)):
            return None
        if not hmac.compare_digest(self._app.derive("state", kept), state):
            return None
        padded = kept + "=" * (-len(kept) % 4)
        login = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=_Login)
        return login if time.time() < login.ends_at else None

    async def _is_first(self, state: str) -> bool:
        """Return whether nobody has come back with this state before."""
        name = f"login/{hashlib.sha256(state.encode()).hexdigest()}"
        holder = secrets.token_hex(16)
        return await self._store().hold(name, holder=holder, ttl=LOGIN_SECONDS, limit=1) == 1

    async def _keep(self, account: str | None, token: Token) -> Answer:
        if account is None:
            if token.user is None:
                return self._again(502, "Asana did not tell who logged in.")
            account = token.user.gid
        try:
            await self._app.of(account).keep(token)
            self._renewed(account)
            then = None if self._connected is None else await self._connected(account, token)
            if then is not None:
                _check_location(then)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - of the program, which a browser waits for
            return self._failed(f"what keeps the login of account {account!r}", error)
        logger.info("account %r has logged in", account)
        over = f"{self._cookie}=; Max-Age=0{self._flags}"
        if then is not None:
            return _redirect(then, over)
        done = "Asana is connected.", "You may close this window."
        return _page(200, *done, **{"Set-Cookie": over})

    def _again(self, status: int, text: str) -> Answer:
        return _page(status, text, f"To begin again, open {self._url}")

    def _failed(self, what: str, error: Exception) -> Answer:
        # The texts of others' errors may quote the token.
        kind = type(error.__cause__ or error).__name__
        self._log.log(logging.ERROR, "program", "%s failed: %s", what, kind)
        return self._again(500, "Something failed at this service.")


def _checked(url: str) -> str:
    """Return the URL without a slash at its end.

    Raises ValueError unless codes may be sent to it.
    """
    with contextlib.suppress(ValueError):  # a host or a port that is none
        parts, port = urlsplit(url), urlsplit(url).port
        is_here = parts.scheme == "http" and is_loopback(parts.hostname or "")
        is_safe = port != 0 and (parts.scheme == "https" or is_here)
        is_plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        if parts.hostname and is_safe and is_plain:
            return url.rstrip("/")
    msg = (
        "url must be where browsers find the login: https://…, or http:// on this machine, without"
        " a query"
    )
    raise ValueError(msg)


def _check_location(url: str) -> None:
    """Raise ValueError, TypeError for no text, unless a header may lead to this URL."""
    if not _LOCATION.fullmatch(url):
        msg = "connected must return a URL without spaces and control characters"
        raise ValueError(msg)


def _cookie(header: str, name: str) -> str:
    """Return the value of a cookie, empty when there is none."""
    pairs = (pair.strip().partition("=") for pair in header.split(";"))
    return next((value for key, _, value in pairs if key == name), "")


def _page(status: int, *texts: str, **headers: str) -> Answer:
    kind = {"Content-Type": "text/html; charset=utf-8"}
    return Answer(status, {**PAGE_HEADERS, **kind, **headers}, render(*texts))


def _redirect(url: str, cookie: str) -> Answer:
    return Answer(303, {**PAGE_HEADERS, "Location": url, "Set-Cookie": cookie})
