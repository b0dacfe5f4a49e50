"""Posting a recorded request once more, to this receiver or to a program on this machine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from .recording import Attempt, Record

__all__ = ["check_url", "forward", "passed_on", "post", "session"]

TIMEOUT = 10.0
"""Seconds that a program has to answer: as long as Asana would wait."""

NOT_PASSED_ON = frozenset(
    {
        *("connection", "content-length", "expect", "forwarded", "host", "keep-alive", "te"),
        *("proxy-authorization", "proxy-connection", "trailer", "transfer-encoding", "upgrade"),
    }
)
"""Headers about the way a request came, or that the next connection has of its own."""


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError when nothing can be posted to it."""
    with contextlib.suppress(ValueError):  # a port that is none, an open bracket
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    msg = f"{url!r} is no address to post to; write it like http://127.0.0.1:3000/hooks"
    raise ValueError(msg)


def passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of a request that go to another receiver with it.

    Source: RFC 9110, section 7.6.1.
    """
    known = list(headers)
    named = {
        option.strip().lower()
        for name, value in known
        if name.lower() == "connection"
        for option in value.split(",")
    }
    return [(k, v) for k, v in known if k.lower() not in NOT_PASSED_ON | named]


def session() -> aiohttp.ClientSession:
    """Return a session, to be entered, that sends what it is given and nothing besides."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    )


async def post(http: aiohttp.ClientSession, url: str, record: Record) -> int:
    """Return the status that the record's bytes and headers are answered with.

    Raises OSError, aiohttp.ClientError or TimeoutError when no answer comes.
    """
    headers = passed_on(record.headers)
    async with http.post(
        URL(url), data=record.body, headers=headers, allow_redirects=False
    ) as response:
        return response.status


async def forward(http: aiohttp.ClientSession, url: str, record: Record) -> Attempt:
    """Return how it went to post a record to a program."""
    started = time.monotonic()
    status: int | None = None
    try:
        status = await post(http, url, record)
        text = f"{status} from {urlsplit(url).netloc}"
    except TimeoutError:
        text = f"no answer from {urlsplit(url).netloc} within {TIMEOUT:g} s"
    except (aiohttp.ClientError, OSError) as error:
        text = f"{urlsplit(url).netloc} cannot be reached: {type(error).__name__}"
    ok = status is not None and 200 <= status < 300
    return Attempt("forward", ok, text, time.monotonic() - started, datetime.now(UTC))
