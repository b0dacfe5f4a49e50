"""How a body is signed and carried to the target of a webhook, and what goes wrong on the way.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from ..signature import sign
from .faults import Fault, Faults
from .posts import Answer, Posts
from .state import WebhookRecord
from .traffic import Attempt, Watch

__all__ = ["Carrier"]

logger = logging.getLogger(__name__)


class Carrier:
    """Makes signed posts; ``attempts`` lists every one that came to an end, in order."""

    def __init__(self, posts: Posts, faults: Faults, watch: Watch) -> None:
        self.attempts: list[Attempt] = []
        self._posts = posts
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
        answer = await self._posts.post(webhook.target, body, _signed(signature))
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
        answer = await self._posts.post(webhook.target, body, _signed(signature), cut=cut)
        answer = self._come_back(webhook, answer)
        self._list(webhook, body, signature, answer, number)
        return answer

    def _come_back(self, webhook: WebhookRecord, answer: Answer) -> Answer:
        """Return what becomes of an answer on its way."""
        if answer.status is None:
            return answer
        if self.has(Fault.SLOW_ANSWERS, webhook):
            return self._posts.too_late()
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
        logger.debug("%r", attempt)
        self._watch(attempt)


def _signed(signature: str) -> dict[str, str]:
    return {"X-Hook-Signature": signature}


def _instead(status: HTTPStatus) -> Answer:
    return Answer(status.value, content=f"{status.value} {status.phrase}\n\n")
