"""Signed posts to the targets of webhooks, and what goes wrong on the way.

A target has ten seconds to answer. Redirects are not followed: what a target names is not what a
create call was allowed to name.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import NamedTuple

import aiohttp
from yarl import URL

from ..signature import sign
from .faults import Fault, Faults
from .observers import Attempt, Watch
from .state import WebhookRecord

__all__ = ["SUCCESS", "Answer", "DeliverySender", "HttpSender"]

SUCCESS = frozenset({200, 204})

MOST_ATTEMPTS = 10_000
"""How many posts are remembered: a local Asana may run for months."""
CONTENT_LIMIT = 1_000  # bytes of a failed answer that a webhook's record keeps
CUT = "the connection was cut"


class Answer(NamedTuple):
    """The answer of a target; ``content`` is what a webhook's record says of a failure."""

    status: int | None = None
    echo: str | None = None
    content: str = ""


class HttpSender:
    """Posts to targets inside ``async with``; ``timeout`` is in seconds of real time."""

    _session: aiohttp.ClientSession

    def __init__(self, *, timeout: float) -> None:
        self._timeout = timeout

    async def __aenter__(self) -> HttpSender:
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


logger = logging.getLogger(__name__)


class DeliverySender:
    """Makes signed posts; ``attempts`` lists the last 10,000 that ended, in order."""

    def __init__(self, posts: HttpSender, faults: Faults, watch: Watch) -> None:
        self.attempts: list[Attempt] = []
        self._http = posts
        self._faults = faults
        self._watch = watch

    def has(self, fault: Fault, webhook: WebhookRecord) -> bool:
        """Return whether this fault is on, for all webhooks or for this one."""
        return fault in self._faults or fault in webhook.faults

    async def post(
        self, webhook: WebhookRecord, body: bytes, *, signature: str | None = None
    ) -> int | None:
        """Post exactly these bytes, with no fault, and return the status, None without an answer.

        They are signed with the webhook's secret, or with ``signature`` as it is.
        """
        signature = sign(body, webhook.secret) if signature is None else signature
        answer = await self._http.post(webhook.target, body, _signed(signature))
        self._list(webhook, body, signature, answer, number=1)
        return answer.status

    async def carry(self, webhook: WebhookRecord, body: bytes, *, number: int) -> Answer:
        """Carry a body to the target as well as the faults allow, and return what came back."""
        answer = await self._carry_once(webhook, body, number)
        if self.has(Fault.DUPLICATE, webhook):
            answer = await self._carry_once(webhook, body, number)
        return answer

    async def _carry_once(self, webhook: WebhookRecord, body: bytes, number: int) -> Answer:
        signature = sign(body, webhook.secret)
        if self.has(Fault.TAMPERED, webhook):
            body = body.replace(b":", b": ", 1)
        cut = self.has(Fault.CUT_CONNECTIONS, webhook)
        answer = await self._http.post(webhook.target, body, _signed(signature), cut=cut)
        answer = self._come_back(webhook, answer)
        self._list(webhook, body, signature, answer, number)
        return answer

    def _come_back(self, webhook: WebhookRecord, answer: Answer) -> Answer:
        """Return what becomes of an answer on its way."""
        if answer.status is None:
            return answer
        if self.has(Fault.SLOW_ANSWERS, webhook):
            return self._http.too_late()
        if self.has(Fault.SERVER_ERROR_ANSWERS, webhook):
            return _instead(HTTPStatus.SERVICE_UNAVAILABLE)
        if self.has(Fault.RATE_LIMITED_ANSWERS, webhook):
            return _instead(HTTPStatus.TOO_MANY_REQUESTS)
        return answer

    def _list(
        self, webhook: WebhookRecord, body: bytes, signature: str, answer: Answer, number: int
    ) -> None:
        error = answer.content if answer.status is None else ""
        attempt = Attempt(webhook.gid, body, signature, answer.status, error, number)
        self.attempts.append(attempt)
        del self.attempts[:-MOST_ATTEMPTS]
        logger.debug("%r", attempt)
        self._watch(attempt)


def _signed(signature: str) -> dict[str, str]:
    return {"X-Hook-Signature": signature}


def _instead(status: HTTPStatus) -> Answer:
    return Answer(status.value, content=f"{status.value} {status.phrase}\n\n")
