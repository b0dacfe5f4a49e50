"""The HTTP client of our own connections: httpx over aiohttp, without what no call needs.

It has no cookies, follows no redirects and merges nothing into a request that never changes. What
httpx does besides is a third of a call.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import os
import re
import ssl
from collections.abc import Generator
from typing import Any

import aiohttp
import httpx
import httpx_aiohttp
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions
from multidict import CIMultiDict
from yarl import URL

from ._version import __version__

__all__ = ["CALL_SECONDS", "CONNECT_SECONDS", "BearerAuth", "make_client", "parse_url"]

MAX_CONNECTIONS = 500
"""So many calls at once: each token's budget is far below it, so that none waits for another's."""

CALL_SECONDS = 30.0
CONNECT_SECONDS = 10.0

_HEADERS = (
    ("User-Agent", f"asana-webhooks/{__version__}"),
    ("Accept-Encoding", "gzip"),  # what httpx offers besides may unpack one chunk to any size
)

_DIGEST_KEY = os.urandom(32)


class BearerAuth(httpx.Auth):
    """Sends a token. ``digest`` tells it from others in this process, and gives nothing away."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"
        self.digest = hashlib.blake2b(token.encode(), key=_DIGEST_KEY).digest()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request with the token."""
        request.headers["Authorization"] = self._header
        yield request


class _NoCookies(httpx.Cookies):
    def extract_cookies(self, response: httpx.Response) -> None:
        """Keep none; to look for them is a tenth of a call."""


class _Client(httpx.AsyncClient):
    """Sends what it is given and the headers above; it has no cookies and no other defaults."""

    cookies = _NoCookies()  # type: ignore[override] # nobody sets others

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Return the request; ``headers``, ``content`` and ``timeout`` are understood."""
        timeout: httpx.Timeout = options.get("timeout", self.timeout)
        content: bytes = options.get("content") or b""
        parsed = parse_url(url) if isinstance(url, str) else url
        headers = [("Host", parsed.netloc.decode()), *_HEADERS, *options["headers"].items()]
        if content or method in ("POST", "PUT"):
            headers.append(("Content-Length", str(len(content))))
        request = httpx.Request(
            method,
            parsed,
            headers=headers,
            stream=httpx.ByteStream(content),
            extensions={"timeout": timeout.as_dict()},
        )
        request.read()
        return request

    async def send(
        self, request: httpx.Request, *, stream: bool = False, auth: Any = None, **options: Any
    ) -> httpx.Response:
        """Return the response to a request. Redirects are not followed."""
        if not (stream and isinstance(auth, httpx.Auth)):
            return await super().send(request, stream=stream, auth=auth, **options)
        async with contextlib.aclosing(auth.async_auth_flow(request)) as rounds:
            request = await anext(rounds)
            while True:
                response = await self._send_once(request)
                try:
                    request = await rounds.asend(response)
                    await response.aread()
                except StopAsyncIteration:
                    return response
                except BaseException:
                    await response.aclose()
                    raise

    async def _send_once(self, request: httpx.Request) -> httpx.Response:
        response = await self._transport_for_url(request.url).handle_async_request(request)
        response.request = request
        return response


class _Transport(httpx_aiohttp.AiohttpTransport):
    """Sends requests whose headers and body are complete."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response, its body unread. Raises what httpx's own transport would."""
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        raw = request.headers.raw
        with map_aiohttp_exceptions():
            response = await self.client.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=CIMultiDict((name.decode(), value.decode()) for name, value in raw),
                data=request.content or None,
                allow_redirects=False,
                timeout=_timeout(**request.extensions["timeout"]),
            )
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=AiohttpResponseStream(response)
        )


@functools.lru_cache(maxsize=32)
def _timeout(
    connect: float | None, read: float | None, write: float | None, pool: float | None
) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=connect, sock_read=read, connect=pool)


# URLs


_PLAIN = re.compile(r"(?:[A-Za-z0-9_~!$&'()*+,;=:@/-]|(?<!/)\.|%[0-9A-F]{2})*")
"""Paths and queries that are the same when httpx has parsed them."""

_HAS_PARTS = hasattr(getattr(httpx.URL("http://asana"), "_uri_reference", None), "_replace")


def parse_url(url: str) -> httpx.URL:
    """Return the same as ``httpx.URL(url)``, but parse the host of a place only once."""
    head, mark, query = url.partition("?")
    start = head.find("/", head.find("//") + 2)
    is_plain = _PLAIN.fullmatch(head, max(start, 0)) and _PLAIN.fullmatch(query)
    if start < 0 or not (_HAS_PARTS and is_plain):
        return httpx.URL(url)
    origin = _origin(head[:start])
    parsed = copy.copy(origin)
    parsed._uri_reference = origin._uri_reference._replace(
        path=head[start:], query=query if mark else None
    )
    return parsed


@functools.lru_cache(maxsize=8)
def _origin(origin: str) -> httpx.URL:
    return httpx.URL(origin)


def make_client(proxy: str | None) -> httpx.AsyncClient:
    """Return a client over aiohttp that keeps no cookies and follows no redirects."""
    context = _trusting(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

    def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            proxy=proxy,
        )

    return _Client(
        transport=_Transport(verify=context, client=open_session),
        timeout=httpx.Timeout(CALL_SECONDS, connect=CONNECT_SECONDS),
    )


@functools.lru_cache(maxsize=1)
def _trusting(*_variables: str | None) -> ssl.SSLContext:
    """Return a context that trusts what the environment's variables, or certifi, say.

    Reading the certificates blocks for 20 ms: once a process, and not for each client and account.
    """
    return httpx.create_ssl_context()
