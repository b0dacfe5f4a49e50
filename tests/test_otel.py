"""Spans and metrics, read from the exporters in memory of OpenTelemetry's SDK."""

import asyncio
import importlib
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint
from conftest import guard, until
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.plain_http import NO_TLS

from asana_webhooks import (
    Event,
    MemoryStore,
    Notice,
    Resource,
    Source,
    StoreError,
    WebhooksClient,
)
from asana_webhooks import otel as module
from asana_webhooks.models import Counts, Delivery, NoticeKind, Route
from asana_webhooks.otel import OpenTelemetry
from asana_webhooks.protocol import UNKNOWN_ROUTE, Request
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.telemetry import Counters
from asana_webhooks.testing import make_event

MakeClient = Callable[..., WebhooksClient]

COMMON = {"messaging.system": "asana", "messaging.destination.name": "webhooks"}
RECEIVE = {**COMMON, "messaging.operation.name": "receive", "messaging.operation.type": "receive"}
PROCESS = {**COMMON, "messaging.operation.name": "process", "messaging.operation.type": "process"}


class Exported:
    """A tracer and a meter provider, and what they were told."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def telemetry(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(
            tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **options
        )

    def spans(self, operation: str) -> list[ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        return [span for span in spans if span.name == f"{operation} webhooks"]

    def metrics(self) -> dict[str, Any]:
        """Return each metric by its name."""
        data = self._reader.get_metrics_data()
        scopes = (
            [scope for each in data.resource_metrics for scope in each.scope_metrics]
            if data
            else []
        )
        assert {scope.scope.name for scope in scopes} <= {"asana_webhooks"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def values(self, name: str, label: str | None = None) -> dict[Any, float]:
        """Return a metric's values, by the one label that its points have."""
        points = self.metrics()[name].data.data_points
        for point in points:
            assert set(point.attributes) == ({label} if label else set())
        return {point.attributes.get(label): point.value for point in points}

    def texts(self) -> Iterator[str]:
        """Yield each name, attribute, event and description of whatever was exported."""
        for span in self._exporter.get_finished_spans():
            yield span.to_json()
        for metric in self.metrics().values():
            yield metric.to_json()

    def close(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


@pytest.fixture
def exported() -> Iterator[Exported]:
    exported = Exported()
    yield exported
    exported.close()


def hurry(client: WebhooksClient) -> None:
    """Have failing deliveries come again at once, and look often for those of others."""
    assert client._components is not None
    inbox = client._components.inbox
    inbox._back_off = inbox._back_off._replace(first_delay=0.001)
    inbox._poll = 0.01


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def identity(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def carrying(spans: list[ReadableSpan], status: int) -> list[ReadableSpan]:
    return [span for span in spans if attributes(span)["http.response.status_code"] == status]


# Spans


async def test_processing_is_linked_to_the_receipt(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    client = make_client(telemetry=exported.telemetry())
    gids: list[str] = []

    @client.on("story", action="added")
    async def handle(event: Event) -> None:
        gids.append(event.resource.gid)

    async with client:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.add_comment(task, "done")
        await until(lambda: exported.spans("process"))
    await running
    *first, receipt = exported.spans("receive")  # the handshake, the heartbeat, the delivery
    assert len(first) == 2
    assert receipt.kind == SpanKind.CONSUMER
    assert attributes(receipt) == {**RECEIVE, "http.response.status_code": 200}
    assert receipt.status.status_code == StatusCode.UNSET
    (processing,) = exported.spans("process")
    assert processing.kind == SpanKind.CONSUMER
    assert attributes(processing) == {
        **PROCESS,
        "messaging.message.body.size": len(asana.deliveries[-1].body),
        "asana_webhooks.attempt": 1,
    }
    assert processing.status.status_code == StatusCode.UNSET
    assert linked(processing) == [identity(receipt)]
    assert identity(processing)[0] != identity(receipt)[0]  # a trace of its own


async def test_trace_goes_through_the_store_to_another_client(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    at_worker = Exported()
    receiver = make_client(store=url, telemetry=exported.telemetry())
    worker = make_client(store=url, telemetry=at_worker.telemetry(), serve=False)
    hurry(worker)

    @worker.on("story", action="added")
    async def handle(event: Event) -> None:
        pass

    async with receiver, worker:
        task = await asana.create_task("Fix the login", project=asana.project)
        await receiver.ensure(asana.project)
        running = asyncio.create_task(worker.run())
        await asana.add_comment(task, "done")
        await until(lambda: at_worker.spans("process"))
    await running
    (processing,) = at_worker.spans("process")
    assert linked(processing) == [identity(exported.spans("receive")[-1])]
    assert at_worker.spans("receive") == exported.spans("process") == []
    at_worker.close()


async def test_span_of_the_application_around_it_is_the_parent(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    client = make_client(telemetry=exported.telemetry(), serve=False)
    tracer = exported.tracer_provider.get_tracer("application")
    transport = httpx.ASGITransport(app=client.asgi)
    async with client, httpx.AsyncClient(transport=transport, base_url="http://h") as http:
        with tracer.start_as_current_span("POST /hooks") as around:
            await http.post(f"/{'x' * 32}")
    (receipt,) = exported.spans("receive")
    assert receipt.parent is not None
    assert receipt.parent.span_id == around.get_span_context().span_id


async def test_failing_handler_is_an_error_without_its_text(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    client = make_client(telemetry=exported.telemetry(), max_attempts=2)
    hurry(client)

    @client.on("story", action="added")
    async def handle(event: Event) -> None:
        raise LookupError(f"canary {event.resource.gid}")

    async with client:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.add_comment(task, "done")
        await until(lambda: len(exported.spans("process")) == 2)
    await running
    for number, span in enumerate(exported.spans("process"), 1):
        assert attributes(span)["error.type"] == "LookupError"
        assert attributes(span)["asana_webhooks.attempt"] == number
        assert span.status.status_code == StatusCode.ERROR
        assert span.status.description is None
        assert span.events == ()
        assert linked(span) == [identity(exported.spans("receive")[-1])]
    assert "canary" not in "".join(exported.texts())
    (point,) = exported.metrics()["messaging.process.duration"].data.data_points
    assert point.attributes == {**PROCESS, "error.type": "LookupError"}
    assert point.count == 2
    outcomes = exported.values("asana_webhooks.deliveries", "outcome")
    assert (outcomes["retried"], outcomes["dead"], outcomes["handled"]) == (1, 1, 0)


async def test_handler_that_is_cut_off_did_not_succeed(exported: Exported) -> None:
    telemetry = exported.telemetry()

    async def attempt() -> None:
        with telemetry.processing(a_delivery(), make_event()):
            await anyio.sleep_forever()

    task = asyncio.create_task(attempt())
    await checkpoint()
    task.cancel()
    await asyncio.wait([task])
    (span,) = exported.spans("process")
    assert attributes(span)["error.type"] == "CancelledError"
    assert span.status.status_code == StatusCode.ERROR


def a_delivery(traceparent: str = "") -> Delivery:
    return Delivery(
        route="r", body=b"{}", digest=bytes(32), received_at=datetime.now(UTC), trace=traceparent
    )


async def test_refused_request_tells_its_reason(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    async with make_client(telemetry=exported.telemetry()) as client:
        webhook = await client.ensure(asana.project)
        await asana.deliver(webhook.gid, b"{}", signature="0" * 64)
    (refused,) = carrying(exported.spans("receive"), 401)
    assert attributes(refused)["asana_webhooks.refused"] == "the signature does not fit the body"
    assert refused.status.status_code == StatusCode.UNSET  # the sender's fault, and not ours
    reasons = exported.values("asana_webhooks.refused", "reason")
    assert reasons == {"the signature does not fit the body": 1}


async def test_delivery_that_the_store_did_not_take_is_an_error(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    class Full(MemoryStore):
        async def put(self, *_: Any, **__: Any) -> bool:
            raise StoreError("canary")

    async with make_client(store=Full(), telemetry=exported.telemetry()) as client:
        webhook = await client.ensure(asana.project)
        event = b'{"events":[{"action":"added"}]}'
        assert await asana.deliver(webhook.gid, event) == 503
    (refused,) = carrying(exported.spans("receive"), 503)
    assert refused.status.status_code == StatusCode.ERROR
    assert refused.status.description == "nothing was stored, send it again"
    assert "canary" not in "".join(exported.texts())


async def test_bug_of_ours_is_an_error_without_its_text(
    make_client: MakeClient,
    asana: AsanaSimulator,
    exported: Exported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def get_route(self, route: str) -> Route | None:
            raise KeyError(route)

    client = make_client(store=Broken(), telemetry=exported.telemetry())
    async with client, httpx.AsyncClient(verify=NO_TLS) as http:
        answer = await http.post(f"http://127.0.0.1:{client.port}/{'x' * 32}")
    assert answer.status_code == 500
    (span,) = exported.spans("receive")
    assert attributes(span) == {**RECEIVE, "error.type": "KeyError"}
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.events == ()


async def test_probe_has_no_span(make_client: MakeClient, exported: Exported) -> None:
    client = make_client(telemetry=exported.telemetry())
    async with client, httpx.AsyncClient(verify=NO_TLS) as http:
        await http.get(f"http://127.0.0.1:{client.port}/readyz")
    assert exported.spans("receive") == []


@pytest.mark.parametrize(
    "traceparent",
    [
        pytest.param("", id="none"),
        pytest.param("nonsense", id="nonsense"),
        pytest.param("00-" + "0" * 31 + "-" + "0" * 16 + "-01", id="too short"),
        pytest.param("ff-" + "a" * 32 + "-" + "b" * 16 + "-01", id="another version"),
        pytest.param("00-" + "A" * 32 + "-" + "B" * 16 + "-01", id="upper case"),
        pytest.param("00-" + "a" * 32 + "-" + "b" * 16 + "-01\n", id="line break"),
    ],
)
def test_what_is_no_traceparent_is_no_link(exported: Exported, traceparent: str) -> None:
    with exported.telemetry().processing(a_delivery(traceparent), make_event()):
        pass
    (span,) = exported.spans("process")
    assert linked(span) == []


@pytest.mark.parametrize("flags", [0, 1])
def test_link_is_what_the_traceparent_says(exported: Exported, flags: int) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-{flags:02x}"
    with exported.telemetry().processing(a_delivery(traceparent), make_event()):
        pass
    (span,) = exported.spans("process")
    (link,) = span.links
    assert linked(span) == [(int("a" * 32, 16), int("b" * 16, 16))]
    assert link.context.is_remote
    assert link.context.trace_flags == flags


def test_traceparent_is_of_the_span_that_is_under_way(exported: Exported) -> None:
    telemetry = exported.telemetry()
    assert telemetry.traceparent() == ""
    with telemetry.receiving(Request(method="POST", route="r")):
        context = trace.get_current_span().get_span_context()
        version, trace_id, span_id, flags = telemetry.traceparent().split("-")
        assert (version, int(trace_id, 16), int(span_id, 16), int(flags, 16)) == (
            ("00", context.trace_id, context.span_id, context.trace_flags)
        )
        assert len(telemetry.traceparent()) == 55
    assert telemetry.traceparent() == ""


async def test_without_an_sdk_nothing_is_recorded_and_all_works(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    client = make_client(store=store, telemetry=OpenTelemetry())
    gids: list[str] = []

    @client.on()
    async def handle(event: Event) -> None:
        gids.append(event.resource.gid)

    async with client:
        await client.ensure(asana.project)
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
        claim = await store.claim(limit=1, lease=0.0)
        assert claim is not None
        assert claim.deliveries[0].trace == ""
        await store.end_claim(claim)
        running = asyncio.create_task(client.run())
        await until(lambda: gids == [task, task])
    await running


# Metrics


UNITS = {
    "messaging.process.duration": "s",
    "asana_webhooks.deliveries": "{delivery}",
    "asana_webhooks.events": "{event}",
    "asana_webhooks.failures": "{failure}",
    "asana_webhooks.notices": "{notice}",
    "asana_webhooks.refused": "{request}",
    "asana_webhooks.inbox.waiting": "{delivery}",
    "asana_webhooks.inbox.oldest_age": "s",
    "asana_webhooks.inbox.dead_letters": "{delivery}",
    "asana_webhooks.webhooks.silence": "s",
    "asana_webhooks.continuity.gaps": "{gap}",
    "asana_webhooks.continuity.dropped": "{event}",
    "asana_webhooks.continuity.unproven": "s",
}


async def test_metrics_tell_what_the_last_snapshot_told(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    async with make_client(telemetry=exported.telemetry(interval=3600.0)) as client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.create_task("Fix the logout", project=asana.project)
        await asana.settled()
        await asana.deliver(webhook.gid, asana.deliveries[-1].body)
        await asana.deliver(webhook.gid, b'{"events":null}')
        await asana.deliver(webhook.gid, b"{}", signature="none")
        events = client.events()
        for _ in range(3):
            await anext(events)
        await events.aclose()
        told = exported.values("asana_webhooks.deliveries", "outcome")
        assert told["stored"] == 0  # of the snapshot that was taken at the start
    assert exported.values("asana_webhooks.deliveries", "outcome") == {
        "stored": 2,
        "duplicate": 1,
        "handled": 1,
        "retried": 0,
        "dead": 1,
    }
    assert sum(exported.values("asana_webhooks.refused", "reason").values()) == 1
    assert exported.values("asana_webhooks.inbox.waiting") == {None: 1}
    assert exported.values("asana_webhooks.inbox.dead_letters") == {None: 1}
    assert 0 < exported.values("asana_webhooks.inbox.oldest_age")[None] < 10
    assert 0 < exported.values("asana_webhooks.webhooks.silence")[None] < 10


def a_notice(kind: NoticeKind) -> Notice:
    source = Source(webhook="12", resource="34", account="acme")
    return Notice(kind=kind, source=source, at=datetime.now(UTC), detail="gone from Asana")


def test_events_failures_and_notices_are_counted(exported: Exported) -> None:
    telemetry, counters = exported.telemetry(), Counters()
    event = Event(created_at=datetime.now(UTC), action="added", resource=Resource(gid="1"))
    counters.unwanted(event)
    for _ in range(2):
        counters.duplicate(event)
    for _ in range(3):
        counters.failed(event, "bot:handle")
    counters.recovered(4)
    for kind in ("lost", "lost", "restored"):
        counters.noticed(a_notice(kind))
    telemetry._latest = counters.snapshot(Counts(waiting=0, dead_letters=0), [])
    assert exported.values("asana_webhooks.events", "outcome") == {
        "unwanted": 1,
        "duplicate": 2,
        "recovered": 4,
    }
    assert exported.values("asana_webhooks.failures") == {None: 3}
    assert exported.values("asana_webhooks.notices", "kind") == {"lost": 2, "restored": 1}
    assert not [text for text in exported.texts() if "acme" in text or "bot:handle" in text]


def test_names_and_units_are_those_that_are_described(exported: Exported) -> None:
    telemetry = exported.telemetry()
    counters = Counters()
    counters.answered(UNKNOWN_ROUTE)
    counters.noticed(a_notice("lost"))
    telemetry._latest = counters.snapshot(Counts(waiting=0, dead_letters=0), [])
    with telemetry.processing(a_delivery(), make_event()):
        pass
    assert {name: metric.unit for name, metric in exported.metrics().items()} == UNITS
    described = module.__doc__ or ""
    for name, unit in UNITS.items():
        (line,) = (line for line in described.splitlines() if f"``{name}``" in line)
        assert f" {unit}" in line


def test_durations_are_told_apart_within_seconds(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.03, 10.0, 12.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    telemetry = exported.telemetry()
    for _ in range(2):
        with telemetry.processing(a_delivery(), make_event()):
            pass
    (point,) = exported.metrics()["messaging.process.duration"].data.data_points
    assert point.sum == pytest.approx(2.03)
    assert point.explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert sum(1 for count in point.bucket_counts if count) == 2
    assert point.attributes == PROCESS


def test_nothing_is_told_before_the_first_snapshot(exported: Exported) -> None:
    exported.telemetry()
    assert exported.metrics() == {}


def test_longest_silence_is_that_of_heartbeats(exported: Exported) -> None:
    telemetry = exported.telemetry()
    now = datetime.now(UTC)
    routes = [
        Route(id=name, target=f"https://h.example/{name}", resource="1", heartbeat_at=at)
        for name, at in (("a", None), ("b", now.replace(year=now.year - 1)), ("c", now))
    ]
    telemetry._latest = Counters().snapshot(Counts(waiting=0, dead_letters=0), routes)
    silence = exported.values("asana_webhooks.webhooks.silence")[None]
    assert silence == pytest.approx(365 * 86_400, rel=0.01)


async def test_snapshots_are_taken_at_the_interval(exported: Exported) -> None:
    telemetry = exported.telemetry(interval=0.001)
    counters = Counters()

    async def stats() -> Any:
        counters.outcomes["stored"] += 1
        return counters.snapshot(Counts(waiting=0, dead_letters=0), [])

    watching = asyncio.create_task(telemetry.watch(stats))
    await until(lambda: counters.outcomes["stored"] >= 3)
    watching.cancel()
    before = counters.outcomes["stored"]
    await asyncio.wait([watching])
    assert counters.outcomes["stored"] == before + 1  # the last one


async def test_store_that_fails_during_a_snapshot_is_a_warning_and_no_end(
    make_client: MakeClient,
    asana: AsanaSimulator,
    exported: Exported,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(MemoryStore):
        failures = 1
        counted = 0

        async def counts(self) -> Counts:
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is full")
            self.counted += 1
            return await super().counts()

    store = Failing()
    async with make_client(store=store, telemetry=exported.telemetry(interval=0.001)):
        await until(lambda: store.counted >= 2)
        store.failures = 1
        await until(lambda: not store.failures)
        await until(lambda: store.counted >= 4)
    for record in caplog.records:
        assert (record.levelno, record.name) == (logging.WARNING, "asana_webhooks.otel")
        assert record.getMessage() == "no snapshot for the metrics: the disk is full"
    assert len(caplog.records) == 2
    assert exported.values("asana_webhooks.inbox.waiting") == {None: 0}


async def test_store_that_hangs_does_not_keep_the_client_from_closing(exported: Exported) -> None:
    telemetry = exported.telemetry()
    watching = asyncio.create_task(telemetry.watch(asyncio.get_running_loop().create_future))
    await checkpoint()
    watching.cancel()
    with guard():
        await asyncio.wait([watching])


@pytest.mark.parametrize("interval", [0, -1.0, math.nan])
def test_interval_that_is_not_positive_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="interval is a positive number of seconds"):
        OpenTelemetry(interval=interval)


# What it must not tell, and must not need


async def test_nothing_that_is_told_holds_a_gid_a_route_a_secret_or_a_body(
    make_client: MakeClient, asana: AsanaSimulator, exported: Exported
) -> None:
    store = MemoryStore()
    client = make_client(store=store, telemetry=exported.telemetry(), max_attempts=1)

    @client.on("task")
    async def handle(event: Event) -> None:
        raise RuntimeError(event.raw.decode())

    async with client:
        webhook = await client.ensure(asana.project)
        (route,) = await store.list_routes()
        running = asyncio.create_task(client.run())
        task = await asana.create_task("Fix the login", project=asana.project)
        await until(lambda: exported.spans("process"))
        async with httpx.AsyncClient(verify=NO_TLS) as http:
            for headers in ({"X-Hook-Secret": "stranger-" * 4}, {"X-Hook-Signature": "x"}, {}):
                await http.post(route.target, content=b"canary", headers=headers)
                await http.post(route.target + "x", content=b"canary", headers=headers)
        await asana.deliver(webhook.gid, b'{"events":"canary"}')
    await running
    texts = list(exported.texts())
    assert len(texts) > 10
    known = [task, asana.project, webhook.gid, route.id, route.secret, route.target, "stranger"]
    known += ["canary", "127.0.0.1", "a-token", "login", '"action']
    known += [attempt.signature for attempt in asana.deliveries]
    for text in texts:
        for value in known:
            assert value is not None
            assert value not in text


def test_client_without_telemetry_loads_nothing_of_opentelemetry() -> None:
    program = """
import asyncio, sys
from asana_webhooks import WebhooksClient
from asana_webhooks.simulator import AsanaSimulator

async def main():
    async with AsanaSimulator() as asana:
        client = WebhooksClient("t", public_url="http://127.0.0.1:1", store="memory:", port=0,
                                base_url=asana.base_url)
        async with client:
            await client.stats()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "asana_webhooks.otel")
    with pytest.raises(ImportError, match=r"pip install 'asana-webhooks\[otel\]'"):
        importlib.import_module("asana_webhooks.otel")
