"""The way to one Asana: its address, the proxy, the connections; and the time there."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from ._addresses import is_loopback
from ._asana_http import make_client
from ._asana_responses import parse_date

__all__ = [
    "AsanaClock",
    "Connections",
    "check_base_url",
    "find_base_url",
    "find_proxy",
    "heads",
]

BASE_URL = "https://app.asana.com/api/1.0"
BASE_URL_VARIABLE = "ASANA_BASE_URL"

DRIFT = 1e-4
"""By how much, as a part of the time, two clocks go apart."""

MAX_ANNOUNCED = 100
"""So many changes of the API are announced; an endless supply is not kept."""

logger = logging.getLogger(__name__)

_CHANGES = re.compile(r",(?=\s*name=)")


class AsanaClock:
    """Tells the time by Asana's clock, as its last answer told it; before any, by ours.

    From then on it goes by the uptime, so that no change of our wall clock moves it. Each answer
    tells a whole second only; several of them tell between which times it is.
    """

    def __init__(self) -> None:
        self._noted: tuple[datetime, float] | None = None  # Asana's time, and our uptime then
        self._ahead: _Ahead | None = None
        self.driven: Callable[[], float] = lambda: 0.0
        """By how many seconds a test has driven this program's timers ahead of real time."""

    @property
    def is_set(self) -> bool:
        """Whether an answer of Asana has told the time."""
        return self._noted is not None

    def now(self) -> datetime:
        """Return the time, aware."""
        if self._noted is None:
            return datetime.now(UTC)
        at, noted = self._noted
        return at + timedelta(seconds=self.uptime() - noted)

    def span(self) -> tuple[datetime, datetime]:
        """Return between which times, aware, it is now at Asana; before any answer by our clock."""
        if self._ahead is None:
            now = datetime.now(UTC)
            return now, now
        uptime = self.uptime()
        earliest, latest = self._ahead.at(uptime)
        return (
            datetime.fromtimestamp(uptime + earliest, UTC),
            datetime.fromtimestamp(uptime + latest, UTC),
        )

    def note(self, headers: Mapping[str, str], asked_at: float) -> None:
        """Go by the headers of an answer, if they are Asana's and tell the time.

        The headers are those of ``heads``. ``asked_at`` is the uptime when the call was sent.
        """
        # A hotel's page has the time of the hotel; Asana's answers are JSON.
        at = parse_date(headers.get("date"))
        if at is not None and headers.get("content-type", "").startswith("application/json"):
            now = self.uptime()
            self._noted = at, now
            told = _Ahead(at.timestamp() - now, at.timestamp() + 1.0 - asked_at, now)
            self._ahead = told if self._ahead is None else told.within(self._ahead)

    def uptime(self) -> float:
        """Return the seconds for which the machine runs, driven ones included."""
        return _uptime() + self.driven()


class _Ahead(NamedTuple):
    """Between how many seconds Asana's clock was ahead of the uptime, when that was ``noted``."""

    earliest: float
    latest: float
    noted: float

    def at(self, uptime: float) -> tuple[float, float]:
        """Return between how many seconds it is at another time: the clocks go apart."""
        drift = DRIFT * (uptime - self.noted)
        return self.earliest - drift, self.latest + drift

    def within(self, before: _Ahead) -> _Ahead:
        """Return what is true by both; this alone if they contradict, for a clock was set."""
        earliest, latest = before.at(self.noted)
        earliest, latest = max(self.earliest, earliest), min(self.latest, latest)
        return _Ahead(earliest, latest, self.noted) if earliest <= latest else self


def heads(headers: httpx.Headers) -> dict[str, str]:
    """Return headers by their names in small letters; those that are repeated joined by commas."""
    known: dict[str, str] = {}
    for raw_name, raw_value in headers.raw:
        name, value = raw_name.lower().decode("latin-1"), raw_value.decode("latin-1")
        known[name] = f"{known[name]}, {value}" if name in known else value
    return known


def _uptime() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):  # on Linux
        return time.clock_gettime(time.CLOCK_BOOTTIME)  # it goes on while the machine sleeps
    return time.monotonic()


class Connections:
    """The connections to the Asana at ``base_url``, which several transports may share.

    ``given`` is a client to be used in place of a pool of our own; it is never closed here. Raises
    ValueError for a base URL or a proxy that cannot work, before any I/O.
    """

    def __init__(self, base_url: str | None, given: httpx.AsyncClient | None) -> None:
        self.base_url = find_base_url(base_url)
        self.host = urlsplit(self.base_url).netloc
        self.clock = AsanaClock()
        self._proxy = find_proxy(self.base_url) if given is None else None
        self._given = given
        self._own: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # which the connections belong to
        self._closed = False
        self._announced: set[str] = set()

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

    def client(self) -> httpx.AsyncClient:
        """Return the client to send with. Raises RuntimeError in another event loop."""
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

    def chunks(self, response: httpx.Response) -> AsyncIterable[bytes]:
        """Return what yields the body of a response, decompressed, to be read once."""
        is_read = response.is_stream_consumed  # by what authenticates
        if self._given is not None or is_read or "Content-Encoding" in response.headers:
            return response.aiter_bytes()
        stream = response.stream  # nobody has read of it, and nothing has to be undone
        return stream if isinstance(stream, httpx.AsyncByteStream) else response.aiter_bytes()

    def announce(self, changes: str) -> None:
        """Log the changes of the API of an ``Asana-Change``, each once.

        Source: https://developers.asana.com/docs/deprecations
        """
        for change in _CHANGES.split(changes) if changes else ():
            text = change.strip()[:200]
            if text and text not in self._announced and len(self._announced) < MAX_ANNOUNCED:
                self._announced.add(text)
                logger.warning("Asana announces a change of its API: %r", text)


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
