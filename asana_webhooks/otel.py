"""OpenTelemetry: spans of what is received and processed, and metrics of the inbox.

Names follow the semantic conventions for messaging; whatever has none there begins with
``asana_webhooks``. No gid, route, secret or body is in a name, an attribute or a label. Needs the
extra ``otel``, and an SDK that the program has set up: without one nothing is recorded. What goes
through ``client.events()`` has no attempts, and so no spans and durations of processing.

=======================================  ================  =========================================
metric                                   unit              what it tells
=======================================  ================  =========================================
``messaging.process.duration``           s, histogram      one attempt to handle a delivery
``asana_webhooks.deliveries``            {delivery}        ``outcome``: stored, duplicate, handled,
                                                           retried, dead
``asana_webhooks.events``                {event}           ``outcome``: unwanted by any handler;
                                                           duplicate, which is not handed over; or
                                                           recovered from the events stream
``asana_webhooks.failures``              {failure}         of one handler with one event
``asana_webhooks.notices``               {notice}          by ``kind``
``asana_webhooks.refused``               {request}         by ``reason``
``asana_webhooks.inbox.waiting``         {delivery}        of all processes that share the store
``asana_webhooks.inbox.oldest_age``      s                 likewise; 0 when nothing waits
``asana_webhooks.inbox.dead_letters``    {delivery}        likewise
``asana_webhooks.webhooks.silence``      s                 the longest time since a heartbeat
``asana_webhooks.continuity.gaps``       {gap}             open ones, of all processes
``asana_webhooks.continuity.dropped``    {event}           which Asana never delivered, likewise
``asana_webhooks.continuity.unproven``   s                 the longest time since the last event of
                                                           which it is proven that none is missing
=======================================  ================  =========================================

Source: https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import anyio

from .errors import StoreError
from .models import Delivery, Event
from .protocol import Request, Response
from .telemetry import Stats, Telemetry

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, TraceFlags
except ImportError as error:
    msg = "OpenTelemetry needs its API: pip install 'asana-webhooks[otel]'"
    raise ImportError(msg) from error

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetry"]

logger = logging.getLogger(__name__)

SCOPE = "asana_webhooks"
SYSTEM, DESTINATION = "asana", "webhooks"

BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds between which attempts are counted; those of the semantic conventions."""

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

Observe = Callable[[CallbackOptions], list[Observation]]


class OpenTelemetry(Telemetry):
    """Reports to OpenTelemetry what a client does: ``WebhooksClient(telemetry=OpenTelemetry())``.

    The providers are the program's global ones unless others are given. Every ``interval``
    seconds, and when the client closes, a snapshot of its stats is taken for the metrics.
    One object for one client; of several with one meter provider, the first reports the stats.

    Raises ValueError for an interval that is not positive.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        interval: float = 15.0,
    ) -> None:
        if not interval > 0:
            msg = f"interval is a positive number of seconds, not {interval}"
            raise ValueError(msg)
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        self._interval = interval
        self._latest: Stats | None = None
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._durations = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="Attempts to handle a delivery",
            explicit_bucket_boundaries_advisory=BOUNDARIES,
        )
        _observe(meter, self._snapshot)

    @contextlib.contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        """Surround the work on one request with a span."""
        with self._span("receive") as span:
            try:
                yield
            except BaseException as error:
                _fail(span, error)
                raise

    def answered(self, response: Response) -> None:
        """Note in the span how the request was answered."""
        span = trace.get_current_span()
        span.set_attribute("http.response.status_code", response.status)
        if response.reason:
            span.set_attribute("asana_webhooks.refused", response.reason)
        if response.status >= 500:
            span.set_status(StatusCode.ERROR, response.reason)

    def traceparent(self) -> str:
        """Return the span that is under way as a ``traceparent``, '' without one."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @contextlib.contextmanager
    def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
        """Surround one attempt with a span of its own, linked to that of the receipt."""
        started = time.perf_counter()
        outcome = _attributes("process")
        with self._span("process", links=_links(delivery.trace)) as span:
            span.set_attribute("messaging.message.body.size", len(delivery.body))
            span.set_attribute("asana_webhooks.attempt", delivery.attempts + 1)
            try:
                yield
            except BaseException as error:
                outcome["error.type"] = _fail(span, error.__cause__ or error)
                raise
            finally:
                self._durations.record(time.perf_counter() - started, outcome)

    def _span(self, operation: str, links: Sequence[Link] = ()) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(
            f"{operation} {DESTINATION}",
            kind=SpanKind.CONSUMER,
            links=links,
            attributes=_attributes(operation),
            record_exception=False,  # its text may quote what Asana sent
            set_status_on_exception=False,
        )

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        """Take a snapshot now and then, and a last one when cancelled."""
        try:
            while True:
                await self._look(stats)
                await anyio.sleep(self._interval)
        finally:
            with anyio.move_on_after(1.0, shield=True):
                await self._look(stats)

    async def _look(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        try:
            self._latest = await stats()
        except StoreError as error:
            logger.warning("no snapshot for the metrics: %s", error)

    def _snapshot(self) -> Stats | None:
        return self._latest


def _attributes(operation: str) -> dict[str, str | int]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": DESTINATION,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _fail(span: Span, error: BaseException) -> str:
    """Note in the span what kind of error ended it, and return the kind."""
    kind = type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)
    return kind


def _links(traceparent: str) -> list[Link]:
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return []
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return [Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags)))]


def _observe(meter: metrics.Meter, snapshot: Callable[[], Stats | None]) -> None:
    """Have the metrics read from the latest snapshot whenever they are collected."""

    def from_snapshot(read: Callable[[Stats], list[Observation]]) -> Observe:
        def observe(_: CallbackOptions) -> list[Observation]:
            stats = snapshot()
            return [] if stats is None else read(stats)

        return observe

    def counter(name: str, unit: str, read: Callable[[Stats], list[Observation]]) -> None:
        meter.create_observable_counter(name, [from_snapshot(read)], unit=unit)

    def gauge(name: str, unit: str, read: Callable[[Stats], float]) -> None:
        callback = from_snapshot(lambda stats: [Observation(read(stats))])
        meter.create_observable_gauge(name, [callback], unit=unit)

    counter("asana_webhooks.deliveries", "{delivery}", _outcomes)
    counter("asana_webhooks.events", "{event}", _events)
    counter("asana_webhooks.failures", "{failure}", lambda stats: [Observation(stats.failures)])
    counter("asana_webhooks.notices", "{notice}", _notices)
    counter("asana_webhooks.refused", "{request}", _refusals)
    gauge("asana_webhooks.inbox.waiting", "{delivery}", lambda stats: stats.waiting)
    gauge("asana_webhooks.inbox.oldest_age", "s", lambda stats: stats.oldest_age or 0.0)
    gauge("asana_webhooks.inbox.dead_letters", "{delivery}", lambda stats: stats.dead_letters)
    gauge("asana_webhooks.webhooks.silence", "s", _longest_silence)
    gauge("asana_webhooks.continuity.gaps", "{gap}", lambda stats: stats.gaps)
    gauge("asana_webhooks.continuity.dropped", "{event}", lambda stats: stats.dropped)
    gauge("asana_webhooks.continuity.unproven", "s", _longest_unproven)


def _outcomes(stats: Stats) -> list[Observation]:
    counted = {
        "stored": stats.stored,
        "duplicate": stats.duplicates,
        "handled": stats.handled,
        "retried": stats.retried,
        "dead": stats.dead,
    }
    return [Observation(count, {"outcome": outcome}) for outcome, count in counted.items()]


def _events(stats: Stats) -> list[Observation]:
    counted = {
        "unwanted": stats.unwanted,
        "duplicate": stats.duplicate_events,
        "recovered": stats.recovered,
    }
    return [Observation(count, {"outcome": outcome}) for outcome, count in counted.items()]


def _notices(stats: Stats) -> list[Observation]:
    return [Observation(count, {"kind": kind}) for kind, count in stats.notices.items()]


def _refusals(stats: Stats) -> list[Observation]:
    return [Observation(count, {"reason": reason}) for reason, count in stats.refused.items()]


def _longest_silence(stats: Stats) -> float:
    return max((webhook.since_heartbeat or 0.0 for webhook in stats.webhooks), default=0.0)


def _longest_unproven(stats: Stats) -> float:
    return max((webhook.since_proven or 0.0 for webhook in stats.webhooks), default=0.0)
