"""The way of calls to Asana: token, address, proxy, connections, and which calls are repeated.

=====================  ==========================================================================
operation              is repeated after
=====================  ==========================================================================
GET, PUT, DELETE       no answer, 429, 500, 502, 503, 504
POST                   429 only: it was refused, so it had no effect; after any other failure it
                       may have had one, and Asana takes no key that would make a repeat harmless
=====================  ==========================================================================

Up to 5 tries, with exponential back-off and jitter; none follows a failure that comes later than
45 seconds after the start of the first. A ``Retry-After`` of up to a minute is waited for. A
longer one, or one that outlasts a timeout of anyio around the call, is the caller's to wait: the
error is raised at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import httpx
import httpx_aiohttp
import msgspec

from ._addresses import is_loopback
from ._asana_responses import accept, is_untrusted, parse_date, unanswered
from ._options import Rule, optional
from ._version import __version__
from .errors import (
    AsanaWebhooksError,
    ConnectionFailedError,
    RateLimitedError,
    ServerError,
)

__all__ = [
    "CALL_SECONDS",
    "HTTP_CLIENT",
    "AsanaTransport",
    "check_base_url",
    "find_auth",
    "find_base_url",
    "find_proxy",
    "make_client",
]

BASE_URL = "https://app.asana.com/api/1.0"
BASE_URL_VARIABLE = "ASANA_BASE_URL"
TOKEN_VARIABLES = ("ASANA_ACCESS_TOKEN", "ASANA_PAT", "ASANA_PERSONAL_ACCESS_TOKEN")
MAX_CONNECTIONS = 50  # as many calls as Asana lets one token make at once
ASK_SECONDS, ASK_AFTER = 2.0, 60.0
"""Seconds that a question for the time may take, and between two of them."""

CALL_SECONDS = 30.0
CONNECT_SECONDS = 10.0

MAX_ANSWER = 10 * 1024 * 1024

MAX_TRIES = 5
RETRY_SECONDS = 45.0
"""No try follows a failure that comes so many seconds after the start of the first."""

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
JITTER = 1.0
LONGEST_RETRY_AFTER = 60.0

QUIET_SECONDS = 5.0
"""A call that waits for its next try beyond so many seconds says so, once."""

logger = logging.getLogger(__name__)


def _is_client(value: object) -> bool:
    methods = ("build_request", "send")
    return not isinstance(value, httpx.Client) and all(hasattr(value, name) for name in methods)


HTTP_CLIENT = optional(Rule((object,), "an httpx.AsyncClient, or what is used as one", _is_client))

_TOKEN = re.compile(r"[!-~]+")
_CHANGES = re.compile(r",(?=\s*name=)")


class AsanaTransport:
    """Sends calls to the Asana at ``base_url``, and repeats those that may be repeated.

    Calls may run concurrently, in one event loop. Raises ValueError for a token or a base URL that
    cannot work, before any I/O.
    """

    def __init__(
        self,
        token: str | httpx.Auth | None,
        *,
        base_url: str | None,
        http_client: httpx.AsyncClient | None,
    ) -> None:
        self.base_url = find_base_url(base_url)
        self._auth = find_auth(token, http_client)
        self._proxy = find_proxy(self.base_url) if http_client is None else None
        self._given = http_client
        self._own: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # which the connections belong to
        self._closed = False
        self._announced: set[str] = set()
        self._clock: tuple[datetime, float] | None = None  # Asana's time, and our uptime then
        self._asked_at = -ASK_AFTER  # for the time, by the monotonic clock
        self._asking = anyio.Lock()
        self.driven: Callable[[], float] = lambda: 0.0
        """By how many seconds a test has driven this program's timers ahead of real time."""

    async def aclose(self) -> None:
        """Close the connections; a client that was given stays open. May be called twice."""
        self._closed = True
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    def reopen(self) -> None:
        """Allow calls again after ``aclose``, in whichever event loop makes the first."""
        self._closed = False

    def check_not_closed(self) -> None:
        """Raise RuntimeError after ``aclose``."""
        if self._closed:
            msg = "this client was closed; enter it again with `async with`"
            raise RuntimeError(msg)

    def now(self) -> datetime:
        """Return the time by Asana's clock, as its last answer told it; before any, by ours.

        From then on it goes by the uptime, so that no change of our wall clock moves it.
        """
        if self._clock is None:
            return datetime.now(UTC)
        at, noted = self._clock
        return at + timedelta(seconds=self._uptime() - noted)

    async def learn_time(self) -> None:
        """Ask Asana for the time, unless an answer told it before; once a minute at the most.

        It fails in silence: then nothing but our clock is known.
        """
        if self._clock is not None:
            return
        async with self._asking:  # who comes second waits for the answer too
            asked = time.monotonic()
            if self._clock is not None or asked < self._asked_at + ASK_AFTER:
                return
            self._asked_at = asked
            with contextlib.suppress(AsanaWebhooksError), anyio.move_on_after(ASK_SECONDS):
                await self.call("GET", "/users/me", {"opt_fields": "gid"}, seconds=ASK_SECONDS)

    async def call(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        *,
        content: dict[str, Any] | None = None,
        seconds: float | None = None,
    ) -> bytes:
        """Return the body of Asana's answer.

        Each try ends after ``seconds``; None: after 30, or earlier by the client's own timeouts.
        Raises the ApiError of the last refusal, ConnectionFailedError when no answer came.
        """
        request = self._prepared(method, path, query, content)
        if seconds is not None:
            request["timeout"] = httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        started, quiet, tries = time.monotonic(), True, 0
        while True:
            tries += 1
            try:
                return await self._try(request, seconds or CALL_SECONDS)
            except AsanaWebhooksError as error:
                spent = time.monotonic() - started
                pause = _pause_after(error, method=method, tries=tries, spent=spent)
                if pause is None:
                    raise
                if quiet and spent + pause > QUIET_SECONDS:
                    quiet = False
                    text = "%s %s waits for Asana, the next try follows in %.0f s: %s"
                    logger.info(text, method, path, pause, error)
            await asyncio.sleep(pause)

    def _prepared(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        content: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Return what httpx makes the request of, anew for each try."""
        url = f"{self.base_url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json"}
        request: dict[str, Any] = {"method": method, "url": url, "headers": headers}
        if content is not None:
            request["content"] = msgspec.json.encode({"data": content})
            headers["Content-Type"] = "application/json"
        return request

    async def _try(self, prepared: dict[str, Any], seconds: float) -> bytes:
        client = self._client()
        auth = {} if self._auth is None else {"auth": self._auth}
        try:
            request = client.build_request(**prepared)
            # httpx limits each read; this limits the whole, however slowly it drips.
            async with asyncio.timeout(seconds):
                response = await client.send(request, stream=True, follow_redirects=False, **auth)
                async with contextlib.aclosing(response):
                    body = await _read(response)
        except (httpx.RequestError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            host = urlsplit(self.base_url).netloc
            raise unanswered(error, method=prepared["method"], host=host) from error
        status, headers = response.status_code, response.headers
        logger.debug("%s %s: %d", request.method, request.url, status)
        self._announce(headers.get("Asana-Change", ""))
        content = accept(status, headers.get("Retry-After"), body)
        self._note_time(headers)
        return content

    def _client(self) -> httpx.AsyncClient:
        self.check_not_closed()
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        if self._own is None:
            self._own, self._loop = make_client(self._proxy), loop
        elif self._loop is not loop:
            msg = (
                "this client is in use on another event loop: close it there, or make one for each"
            )
            raise RuntimeError(msg)
        return self._own

    def _note_time(self, headers: httpx.Headers) -> None:
        # A hotel's page has the time of the hotel; Asana's answers are JSON.
        at = parse_date(headers.get("Date"))
        if at is not None and headers.get("Content-Type", "").startswith("application/json"):
            self._clock = at, self._uptime()

    def _uptime(self) -> float:
        return _uptime() + self.driven()

    def _announce(self, changes: str) -> None:
        # Asana warns of deprecations here: https://developers.asana.com/docs/deprecations
        for change in _CHANGES.split(changes):
            text = change.strip()[:200]
            if text and text not in self._announced and len(self._announced) < 100:
                self._announced.add(text)
                logger.warning("Asana announces a change of its API: %r", text)


def _uptime() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):  # on Linux
        return time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while the machine sleeps
    return time.monotonic()


async def _read(response: httpx.Response) -> bytes | None:
    """Return the body, None when it is larger than MAX_ANSWER or badly compressed."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_ANSWER:
                return None
    except httpx.DecodingError:
        return None
    return bytes(body)


def _pause_after(
    error: AsanaWebhooksError, *, method: str, tries: int, spent: float
) -> float | None:
    """Return for how many seconds to wait for the next try after this error, None for no more."""
    if tries >= MAX_TRIES or spent > RETRY_SECONDS:
        return None
    jitter = random.uniform(0.0, JITTER)  # noqa: S311 - nothing to be guessed
    if isinstance(error, RateLimitedError) and error.retry_after is not None:
        # All who were refused hear the same number; the jitter keeps them from coming back as one.
        pause = error.retry_after + jitter
        left = anyio.current_effective_deadline() - anyio.current_time()
        return pause if error.retry_after <= LONGEST_RETRY_AFTER and pause < left else None
    if isinstance(error, RateLimitedError) or (method != "POST" and _is_transient(error)):
        return min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) + jitter
    return None


def _is_transient(error: AsanaWebhooksError) -> bool:
    if isinstance(error, ServerError):
        return error.status in (500, 502, 503, 504)
    return isinstance(error, ConnectionFailedError) and not is_untrusted(error)


class _BearerAuth(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._header
        yield request


def find_auth(
    token: str | httpx.Auth | None, http_client: httpx.AsyncClient | None
) -> httpx.Auth | None:
    """Return what authenticates each call, None when the given client does so by itself."""
    if isinstance(token, httpx.Auth):
        return token
    if token is not None:
        return _bearer("token", token)
    for name in TOKEN_VARIABLES:
        if value := os.environ.get(name):
            return _bearer(name, value)
    if http_client is not None and (http_client.auth or "Authorization" in http_client.headers):
        return None
    msg = f"no access token: pass token=, or set one of {', '.join(TOKEN_VARIABLES)}"
    raise ValueError(msg)


def _bearer(name: str, token: str) -> _BearerAuth:
    # Of another type or with another character, it would fail later, in errors that quote it.
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return _BearerAuth(token)
    msg = (
        f"{name} is no access token: it must be text of visible ASCII characters, without blanks"
        " or a line break at the end, and without the word Bearer"
    )
    raise ValueError(msg)


def find_base_url(base_url: str | None) -> str:
    """Return this URL, None: that of the environment, else Asana's; raises ValueError if wrong."""
    if base_url is not None:
        return check_base_url(base_url)
    told = os.environ.get(BASE_URL_VARIABLE)
    return check_base_url(told, name=BASE_URL_VARIABLE) if told else BASE_URL


def check_base_url(base_url: str, *, name: str = "base_url") -> str:
    """Return the URL without a slash at its end; raises ValueError when it cannot be Asana's."""
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, UnicodeEncodeError):  # the latter for what no URL can hold
        url = httpx.URL()
    is_place = url.host and (url.port is None or 0 < url.port < 65_536)
    if url.scheme in ("http", "https") and is_place and not (url.userinfo or url.query):
        return str(url.copy_with(fragment=None)).rstrip("/")
    msg = f"{name} must be http:// or https:// with a host, without user, password or query"
    raise ValueError(msg)


def find_proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for this URL, None without one.

    This machine is never asked through a proxy.
    """
    # aiohttp's trust_env would do, but reads ~/.netrc too, and fails if it names Asana's host.
    url = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or is_loopback(url.hostname or "") or proxy_bypass(url.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme in ("http", "https"):
        return proxy
    msg = f"the proxy for {url.scheme} in the environment is not http://: pass http_client= for it"
    raise ValueError(msg)


class _NoCookies(httpx.Cookies):
    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep none; to look for them is a tenth of a call."""


class _Client(httpx.AsyncClient):
    """Sends what it is given and the headers below; it has no cookies and no other defaults."""

    cookies = _NoCookies()  # type: ignore[override] # nobody sets others

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Return the request; ``headers``, ``content`` and ``timeout`` are understood."""
        timeout: httpx.Timeout = options.get("timeout", self.timeout)
        return httpx.Request(
            method,
            url,
            headers=[*_HEADERS, *options["headers"].items()],
            content=options.get("content"),
            extensions={"timeout": timeout.as_dict()},
        )


_HEADERS = (
    ("User-Agent", f"asana-webhooks/{__version__}"),
    ("Accept-Encoding", "gzip"),  # what httpx offers besides may unpack one chunk to any size
)


def make_client(proxy: str | None) -> httpx.AsyncClient:
    """Return a client over aiohttp that keeps no cookies and follows no redirects."""
    context = _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy,
        )

    return _Client(
        transport=httpx_aiohttp.AiohttpTransport(verify=context, client=open_session),
        timeout=httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS),
    )


@functools.lru_cache(maxsize=1)
def _trusting(*_variables: str | None) -> ssl.SSLContext:
    """Return a context that trusts what the environment's variables, or certifi, say.

    Reading the certificates blocks for 20 ms: once a process, and not for each client and account.
    """
    return httpx.create_ssl_context()
