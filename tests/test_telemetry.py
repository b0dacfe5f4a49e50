"""The seam: what a telemetry of one's own is told, and that the default does nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest
from conftest import until

from asana_webhooks import Event, MemoryStore, WebhooksClient
from asana_webhooks.models import Delivery
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.telemetry import SILENT, Stats

MakeClient = Callable[..., WebhooksClient]

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Notes:
    """A telemetry that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.traces: list[str] = []
        self.stats: Stats | None = None

    @contextmanager
    def receiving(self) -> Iterator[None]:
        self.told.append("receiving")
        yield
        self.told.append("received")

    def answered(self, status: int, reason: str) -> None:
        self.told.append(f"{status} {reason}".strip())

    def traceparent(self) -> str:
        return TRACEPARENT

    @contextmanager
    def processing(self, delivery: Delivery) -> Iterator[None]:
        self.traces.append(delivery.trace)
        try:
            yield
        except Exception as error:
            self.told.append(f"failed: {error.__cause__!r}")
            raise
        self.told.append("handled")

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        self.told.append("watching")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stats = await stats()


async def test_requests_are_told_with_their_answers(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    notes = Notes()
    async with make_client(telemetry=notes) as client, httpx.AsyncClient() as http:
        place = f"http://127.0.0.1:{client.port}"
        await http.post(f"{place}/{'x' * 32}")
        await http.get(f"{place}/readyz")
        await client.ensure(asana.project)
        await asana.settled()
    assert notes.told == [
        *("watching", "receiving", "404 no webhook here", "received"),
        *("receiving", "200", "received") * 2,  # the handshake and the heartbeat
    ]


async def test_attempts_are_told_with_the_trace_that_the_receipt_left(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    notes = Notes()
    client = make_client(telemetry=notes)
    failures = [RuntimeError("not yet")]

    @client.on()
    async def handle(event: Event) -> None:
        if failures:
            raise failures.pop()

    assert client._components is not None
    client._components.inbox._first_delay = 0.001
    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.create_task("Fix the login", project=asana.project)
        await until(lambda: "handled" in notes.told)
    await running
    assert notes.traces == [TRACEPARENT, TRACEPARENT]
    assert [told for told in notes.told if told.startswith(("failed", "handled"))] == [
        "failed: RuntimeError('not yet')",
        "handled",
    ]


async def test_last_snapshot_is_taken_while_the_store_is_open_and_nothing_works_any_more(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    class Closing(MemoryStore):
        closed = False

        async def __aexit__(self, *_: object) -> None:
            assert notes.stats is not None
            self.closed = True

    notes, store = Notes(), Closing()
    client = make_client(telemetry=notes, store=store)
    started = asyncio.Event()

    @client.on()
    async def handle(event: Event) -> None:
        started.set()
        await asyncio.sleep(0.01)  # while the client is closed

    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.create_task("Fix the login", project=asana.project)
        await started.wait()
    await running
    assert store.closed
    assert notes.stats is not None
    assert (notes.stats.stored, notes.stats.handled, notes.stats.waiting) == (1, 1, 0)


async def test_telemetry_that_fails_to_watch_fails_the_closing_and_leaves_nothing_open(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    class Broken(Notes):
        async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
            raise LookupError("no exporter")

    client = make_client(telemetry=Broken())
    with pytest.raises(LookupError, match="no exporter"):
        async with client:
            await client.get_webhooks(asana.workspace)
    with pytest.raises(RuntimeError, match="was closed"):
        await client.get_webhooks(asana.workspace)


async def test_default_sees_nothing() -> None:
    delivery = Delivery(route="r", body=b"", digest=b"", received_at=datetime.now(UTC))

    async def stats() -> Stats:
        raise AssertionError("nobody wants to know")

    with SILENT.receiving(), SILENT.processing(delivery):
        SILENT.answered(404, "no webhook here")
        assert SILENT.traceparent() == ""
    await SILENT.watch(stats)
