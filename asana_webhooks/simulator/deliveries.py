"""How signed posts reach the targets, and what becomes of a webhook whose target fails.

The deliveries of one webhook go out one after the other, those of different webhooks side by side.
A target has ten seconds to answer 200 or 204; otherwise the same bytes are posted again with
exponential back-off, and after 24 hours without a success the webhook is deleted. 410 deletes it
at once. Redirects are not followed.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from ..signature import sign
from .state import State, WebhookRecord

__all__ = ["SUCCESS", "Answer", "Attempt", "Deliveries", "Start"]

logger = logging.getLogger(__name__)

SUCCESS = frozenset({200, 204})
GONE = 410
CONTENT_LIMIT = 1_000  # bytes of a failed answer that a webhook's record keeps

Start = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]
"""Starts a task with a name; the simulator ends it when it ends itself."""


class Attempt(NamedTuple):
    """One signed post: ``status`` is None, and ``error`` not empty, when no answer came."""

    webhook_gid: str
    body: bytes
    signature: str
    status: int | None
    error: str
    number: int

    def __repr__(self) -> str:
        """Return what tells attempts apart; an error's text may hold the target."""
        outcome = self.status or "no answer"
        return f"Attempt({self.webhook_gid}, {len(self.body)} bytes, no. {self.number}, {outcome})"


class Answer(NamedTuple):
    """What a target answered; ``content`` is what a webhook's record says of a failure."""

    status: int | None = None
    echo: str | None = None
    content: str = ""


@dataclass(slots=True)
class _Line:
    """What is still to be delivered for one webhook; ``attempts`` are those of the first body."""

    webhook: WebhookRecord
    bodies: deque[bytes] = field(default_factory=deque)
    attempts: int = 0


class Deliveries:
    """Posts to targets; ``attempts`` lists every signed post that came to an end, in order.

    ``retry_delay``, ``timeout`` and ``give_up_after`` are seconds. Its connections are open inside
    ``async with``.
    """

    _session: aiohttp.ClientSession

    def __init__(
        self,
        state: State,
        start: Start,
        *,
        retry_delay: float,
        timeout: float,
        give_up_after: float,
    ) -> None:
        self.attempts: list[Attempt] = []
        self._state = state
        self._start = start
        self._retry_delay = retry_delay
        self._timeout = timeout
        self._give_up_after = timedelta(seconds=give_up_after)
        self._lines: dict[str, _Line] = {}
        self._workers: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Deliveries:
        # A connection for each post: one kept alive may be closed by the target at the very moment
        # of the next post, which would then fail now and then.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def post(self, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post once to exactly this URL and return the answer, whatever it is."""
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._session.post(
                    URL(target, encoded=True),
                    data=body,
                    headers={"Content-Type": "application/json", **headers},
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(response)
        except TimeoutError:
            return Answer(content=f"no answer within {self._timeout:g} s")
        except (aiohttp.ClientError, OSError) as error:
            return Answer(content=f"{type(error).__name__}: {error}")

    async def deliver(
        self, webhook: WebhookRecord, body: bytes, *, number: int = 1, signature: str | None = None
    ) -> Answer:
        """Post these bytes once, signed with the webhook's secret, and list the attempt."""
        if signature is None:
            signature = sign(body, webhook.secret)
        answer = await self.post(webhook.target, body, {"X-Hook-Signature": signature})
        error = answer.content if answer.status is None else ""
        attempt = Attempt(webhook.gid, body, signature, answer.status, error, number)
        self.attempts.append(attempt)
        logger.debug("%r", attempt)
        return answer

    def send(self, webhook: WebhookRecord, body: bytes) -> None:
        """Have these bytes delivered after all that was sent to this webhook before."""
        line = self._lines.get(webhook.gid)
        if line is None:
            line = self._lines[webhook.gid] = _Line(webhook)
            self._work_off(line)
        line.bodies.append(body)

    async def send_first(self, webhook: WebhookRecord, body: bytes) -> None:
        """Send a webhook its first body, and return after the first attempt."""
        line = self._lines[webhook.gid] = _Line(webhook, deque([body]))
        await self._attempt(line)
        self._work_off(line)

    async def settled(self) -> None:
        """Return when no delivery is under way or waits for its next attempt."""
        while self._workers:
            await asyncio.wait(self._workers)

    def _work_off(self, line: _Line) -> None:
        worker = self._start(self._drain(line), f"deliveries of webhook {line.webhook.gid}")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _drain(self, line: _Line) -> None:
        while await self._is_due(line):
            await self._attempt(line)
        del self._lines[line.webhook.gid]

    async def _is_due(self, line: _Line) -> bool:
        deleted = line.webhook.deleted
        if line.attempts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._delay(line)):
                    await deleted.wait()
        return bool(line.bodies) and not deleted.is_set()

    async def _attempt(self, line: _Line) -> None:
        line.attempts += 1
        answer = await self.deliver(line.webhook, line.bodies[0], number=line.attempts)
        if answer.status in SUCCESS:
            self._note_success(line.webhook)
            line.bodies.popleft()
            line.attempts = 0
        else:
            self._note_failure(line, answer)

    def _delay(self, line: _Line) -> float:
        return self._retry_delay * 2.0 ** (line.attempts - 1)

    def _note_success(self, webhook: WebhookRecord) -> None:
        webhook.last_success_at = self._state.now()
        webhook.delivery_retry_count = 0
        webhook.next_attempt_after = webhook.failure_deletion_timestamp = None

    def _note_failure(self, line: _Line, answer: Answer) -> None:
        webhook, now = line.webhook, self._state.now()
        webhook.last_failure_at = now
        webhook.last_failure_content = answer.content
        webhook.delivery_retry_count = line.attempts - 1
        webhook.next_attempt_after = now + timedelta(seconds=self._delay(line))
        if webhook.failure_deletion_timestamp is None:
            webhook.failure_deletion_timestamp = now + self._give_up_after
        if answer.status == GONE or now >= webhook.failure_deletion_timestamp:
            logger.info("webhook %s is deleted: %s", webhook.gid, answer.status or "no success")
            self._state.delete(webhook)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    if response.status in SUCCESS:
        return Answer(response.status, response.headers.get("X-Hook-Secret"))
    content = await response.content.read(CONTENT_LIMIT)
    text = f"{response.status} {response.reason}\n\n{content.decode(errors='replace')}"
    return Answer(response.status, content=text)
