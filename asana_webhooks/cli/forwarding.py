"""Posting a recorded request once more, to this receiver or to a program on this machine."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from .recording import Attempt, Record

__all__ = ["check_url", "forward", "post", "session"]

TIMEOUT = 10.0
"""Seconds that a program has to answer: as long as Asana would wait."""

OF_THE_CONNECTION = frozenset(
    {
        *("connection", "content-length", "expect", "host", "keep-alive", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
"""Headers that are about one connection, or that the next one has of its own."""


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError when nothing can be posted to it."""
    with contextlib.suppress(ValueError):  # a port that is none, an open bracket
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    msg = f"{url!r} is no address to post to; write it like http://127.0.0.1:3000/hooks"
    raise ValueError(msg)


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
    headers = [(k, v) for k, v in record.headers if k.lower() not in OF_THE_CONNECTION]
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
