"""How calls reach Asana: the token, the address, the proxy and the pool of connections."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
import httpx_aiohttp

from ._addresses import is_loopback
from ._version import __version__

__all__ = [
    "CALL_SECONDS",
    "CONNECT_SECONDS",
    "check_base_url",
    "find_auth",
    "find_proxy",
    "make_client",
]

TOKEN_VARIABLES = ("ASANA_ACCESS_TOKEN", "ASANA_PAT", "ASANA_PERSONAL_ACCESS_TOKEN")
MAX_CONNECTIONS = 50  # as many calls as Asana lets one token make at once
CALL_SECONDS = 30.0
CONNECT_SECONDS = 10.0

_TOKEN = re.compile(r"[!-~]+")


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


def check_base_url(base_url: str) -> str:
    """Return the URL without a slash at its end; raises ValueError when it cannot be Asana's."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL()
    is_place = url.host and (url.port is None or 0 < url.port < 65_536)
    if url.scheme in ("http", "https") and is_place and not (url.userinfo or url.query):
        return str(url.copy_with(fragment=None)).rstrip("/")
    msg = "base_url must be http:// or https:// with a host, without user, password or query"
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
    context = httpx.create_ssl_context()

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
