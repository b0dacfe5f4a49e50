"""How one post reaches a target, and what comes back.

A target has ten seconds to answer. Redirects are not followed: what a target names is not what a
create call was allowed to name.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

import aiohttp
from yarl import URL

__all__ = ["SUCCESS", "Answer", "Posts"]

SUCCESS = frozenset({200, 204})
CONTENT_LIMIT = 1_000  # bytes of a failed answer that a webhook's record keeps
CUT = "the connection was cut"


class Answer(NamedTuple):
    """What a target answered; ``content`` is what a webhook's record says of a failure."""

    status: int | None = None
    echo: str | None = None
    content: str = ""


class Posts:
    """Posts to targets inside ``async with``; ``timeout`` is in seconds of real time."""

    _session: aiohttp.ClientSession

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout

    async def __aenter__(self) -> Posts:
        # A connection for each post: one kept alive may be closed by the target at the very moment
        # of the next post, which would then fail now and then.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def post(
        self, target: str, body: bytes, headers: Mapping[str, str], *, cut: bool = False
    ) -> Answer:
        """Post once to exactly this URL and return the answer, whatever it is.

        With ``cut`` the connection ends when half of the body is sent.
        """
        length = {"Content-Length": str(len(body))}
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.post(
                    URL(target, encoded=True),
                    data=_half(body) if cut else body,
                    headers={"Content-Type": "application/json", **headers, **length},
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(response)
        except TimeoutError:
            return self.too_late()
        except (aiohttp.ClientError, OSError) as error:
            return Answer(content=CUT if cut else f"{type(error).__name__}: {error}")

    def too_late(self) -> Answer:
        """Return what stands for an answer that did not come in time."""
        return Answer(content=f"no answer within {self._timeout:g} s")


async def _half(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError(CUT)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    if response.status in SUCCESS:
        return Answer(response.status, response.headers.get("X-Hook-Secret"))
    content = await response.content.read(CONTENT_LIMIT)
    text = f"{response.status} {response.reason}\n\n{content.decode(errors='replace')}"
    return Answer(response.status, content=text)
