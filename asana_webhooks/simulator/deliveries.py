"""Deliveries to each webhook: when they are sent, and what follows when a target fails.

Events are gathered for a moment, so that those of one moment go in one body. The bodies of one
webhook go out one after the other, those of different webhooks side by side. What is not answered
200 or 204 in time is posted again with exponential back-off; 24 hours after its last success a
webhook has one more attempt before it is deleted. 410 deletes it at once. A heartbeat is a body
without events: one at the handshake, one every eight hours. Two faults hold everything up: what
waits then goes out when they end.

Source: https://developers.asana.com/docs/webhooks-guide
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .faults import Fault, Faults
from .http_sender import SUCCESS, Answer, DeliverySender
from .state import State, WebhookRecord

__all__ = ["Deliveries", "Start"]

logger = logging.getLogger(__name__)

GONE = 410
HEARTBEAT_INTERVAL = timedelta(hours=8)

Start = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]
"""Starts a task with a name; the simulator ends it when it ends itself."""

Events = Iterable[Mapping[str, Any]]


@dataclass(slots=True, eq=False)
class _Delivery:
    """Events on their way in one body; ``placed`` is set when no other will overtake it."""

    events: list[msgspec.Raw]
    due: datetime
    attempts: int = 0
    placed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"events": self.events})


@dataclass(slots=True, eq=False)
class _Line:
    """The deliveries of one webhook that still wait, the first one first."""

    webhook: WebhookRecord
    waiting: list[_Delivery] = field(default_factory=list)


class Deliveries:
    """Delivers events; ``gather_for``, ``retry_delay`` and ``give_up_after`` are seconds."""

    def __init__(
        self,
        state: State,
        carrier: DeliverySender,
        faults: Faults,
        start: Start,
        *,
        gather_for: float,
        retry_delay: float,
        give_up_after: float,
    ) -> None:
        self._state = state
        self._clock = state.clock
        self._sender = carrier
        self._faults = faults
        self._start = start
        self._gather_for = gather_for
        self._retry_delay = timedelta(seconds=retry_delay)
        self._give_up_after = timedelta(seconds=give_up_after)
        self._overtaken_within = timedelta(seconds=2 * gather_for + 1)
        self._gathered: dict[str, list[msgspec.Raw]] = {}
        self._lines: dict[str, _Line] = {}
        self._workers: set[asyncio.Task[Any]] = set()
        self._stopped = False

    def gather(self, webhook: WebhookRecord, events: Events) -> None:
        """Have these events delivered, in one body with what else happens in a moment."""
        if not self._gather_for:
            self._send(webhook, _encoded(events))
        elif webhook.gid in self._gathered:
            self._gathered[webhook.gid] += _encoded(events)
        else:
            self._gathered[webhook.gid] = _encoded(events)
            self._work(self._send_gathered(webhook), f"events for webhook {webhook.gid}")

    async def send_first(self, webhook: WebhookRecord, events: Events) -> None:
        """Send a webhook its first events, and return after the first attempt."""
        line = self._lines[webhook.gid] = _Line(webhook)
        first = _Delivery(_encoded(events), self._clock.now())
        first.placed.set()
        line.waiting.append(first)
        await self._attempt(line)
        self._work_off(line)

    def send_heartbeats(self, webhook: WebhookRecord) -> None:
        """Send a heartbeat now, and every eight hours until the webhook is deleted."""
        self._beat(webhook, self._clock.now())

    async def settled(self) -> None:
        """Return when nothing is gathered, under way or waiting for its next attempt.

        What a fault holds up is not waited for.
        """
        while self._workers:
            await asyncio.wait(self._workers)

    def stop(self) -> None:
        """Start nothing any more."""
        self._stopped = True

    def _work(self, work: Coroutine[Any, Any, None], name: str) -> None:
        worker = self._start(work, name)
        self._clock.follow(worker)
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _send_gathered(self, webhook: WebhookRecord) -> None:
        await self._clock.sleep(self._gather_for, unless=webhook.deleted)
        self._send(webhook, self._gathered.pop(webhook.gid))

    def _beat(self, webhook: WebhookRecord, due: datetime) -> None:
        if not webhook.deleted.is_set():
            if not self._sender.has(Fault.OUTAGE, webhook):
                self._send(webhook, [])
            later = due + HEARTBEAT_INTERVAL
            self._clock.call_at(later, lambda: self._beat(webhook, later))

    def _send(self, webhook: WebhookRecord, events: list[msgspec.Raw]) -> None:
        line = self._lines.get(webhook.gid)
        if line is None:
            line = self._lines[webhook.gid] = _Line(webhook)
            self._work_off(line)
        delivery = _Delivery(events, self._clock.now())
        line.waiting.insert(self._place(delivery, line), delivery)

    def _place(self, delivery: _Delivery, line: _Line) -> int:
        """Return where in its line a delivery goes: at the end, or before one it overtakes."""
        end = len(line.waiting)
        if not self._sender.has(Fault.REORDERED, line.webhook):
            delivery.placed.set()
        elif end and not line.waiting[-1].placed.is_set():
            line.waiting[-1].placed.set()
            delivery.placed.set()
            return end - 1
        return end

    def _work_off(self, line: _Line) -> None:
        if self._stopped:
            return
        self._work(self._drain(line), f"deliveries of webhook {line.webhook.gid}")

    async def _drain(self, line: _Line) -> None:
        while await self._is_due(line):
            if self._is_held_up(line):
                return
            await self._attempt(line)
        del self._lines[line.webhook.gid]

    async def _is_due(self, line: _Line) -> bool:
        deleted = line.webhook.deleted
        if line.waiting and line.waiting[0].attempts:
            await self._clock.sleep_until(line.waiting[0].due, unless=deleted)
        elif line.waiting:
            await self._be_overtaken(line.waiting[0])
        return bool(line.waiting) and not deleted.is_set()

    def _is_held_up(self, line: _Line) -> bool:
        """Return whether nothing may be posted now; if so, the line goes on when it may."""
        webhook = line.webhook
        return (
            self._faults.call_at_end(Fault.OUTAGE, lambda: self._work_off(line))
            or self._faults.call_at_end(Fault.DELAYED, lambda: self._work_off(line))
            or webhook.faults.call_at_end(Fault.DELAYED, lambda: self._work_off(line))
        )

    async def _be_overtaken(self, delivery: _Delivery) -> None:
        latest = delivery.due + self._overtaken_within
        await self._clock.sleep_until(latest, unless=delivery.placed)
        delivery.placed.set()

    async def _attempt(self, line: _Line) -> None:
        webhook, first = line.webhook, line.waiting[0]
        if first.attempts and self._sender.has(Fault.SUPERSET, webhook):
            first.events += [event for other in line.waiting[1:] for event in other.events]
            del line.waiting[1:]
        first.attempts += 1
        answer = await self._sender.carry(webhook, first.body, number=first.attempts)
        if answer.status in SUCCESS:
            self._note_success(webhook)
            line.waiting.remove(first)
        else:
            self._note_failure(webhook, first, answer)

    def _note_success(self, webhook: WebhookRecord) -> None:
        webhook.last_success_at = self._clock.now()
        webhook.delivery_retry_count = 0
        webhook.next_attempt_after = webhook.failure_deletion_timestamp = None

    def _note_failure(self, webhook: WebhookRecord, delivery: _Delivery, answer: Answer) -> None:
        now = self._clock.now()
        deletion = (webhook.last_success_at or webhook.created_at) + self._give_up_after
        delivery.due = min(now + self._retry_delay * 2 ** (delivery.attempts - 1), deletion)
        webhook.last_failure_at = now
        webhook.last_failure_content = answer.content
        webhook.delivery_retry_count = delivery.attempts - 1
        webhook.next_attempt_after = delivery.due
        webhook.failure_deletion_timestamp = deletion
        if answer.status == GONE or now >= deletion:
            logger.info("webhook %s is deleted: %s", webhook.gid, answer.status or "no success")
            self._state.delete(webhook)


def _encoded(events: Events) -> list[msgspec.Raw]:
    return [msgspec.Raw(msgspec.json.encode(event)) for event in events]
