"""What a snapshot tells after traffic that is known."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import anyio
import httpx
import msgspec
import pytest
from conftest import eventually, guard, until

from asana_webhooks import Event, MemoryStore, WebhooksClient, sign
from asana_webhooks import telemetry as module
from asana_webhooks.models import Counts, Route
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.telemetry import Counters, Stats, WebhookStats

MakeClient = Callable[..., WebhooksClient]

UNREADABLE = b'{"events":null}'


def hurry(client: WebhooksClient) -> None:
    """Let failing deliveries come again at once."""
    assert client._components is not None
    client._components.inbox._first_delay = 0.001


async def last_body(asana: AsanaSimulator) -> bytes:
    await asana.settled()
    return asana.deliveries[-1].body


async def test_snapshot_of_a_client_that_did_nothing_is_empty(make_client: MakeClient) -> None:
    async with make_client() as client:
        assert await client.stats() == Stats(
            waiting=0,
            oldest_age=None,
            dead_letters=0,
            stored=0,
            duplicates=0,
            handled=0,
            retried=0,
            dead=0,
            refused={},
            webhooks=(),
        )


async def test_what_waits_is_counted_with_the_age_of_the_oldest(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        before = datetime.now(UTC)
        for name in ("Fix the login", "Fix the logout"):
            await asana.create_task(name, project=asana.project)
        await asana.settled()
        stats = await client.stats()
        most = (datetime.now(UTC) - before).total_seconds()
    assert (stats.waiting, stats.stored, stats.handled) == (2, 2, 0)
    assert stats.oldest_age is not None
    assert 0 <= stats.oldest_age <= most


async def test_repeats_are_duplicates_whether_they_can_be_read_or_not(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        body = await last_body(asana)
        for repeated in (body, body, UNREADABLE, UNREADABLE):
            assert await asana.deliver(webhook.gid, repeated) == 200
        stats = await client.stats()
    assert (stats.stored, stats.duplicates) == (1, 3)
    assert (stats.dead, stats.dead_letters) == (1, 1)


async def test_refusals_are_counted_by_reason(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    async with make_client() as client, httpx.AsyncClient() as http:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        for _ in range(2):
            assert await asana.deliver(webhook.gid, b"{}", signature="0" * 64) == 401
        await http.get(webhook.target or "")
        await http.post(f"http://127.0.0.1:{free_port}/hooks/{'x' * 32}")
        await http.get(f"http://127.0.0.1:{free_port}/healthz")
        assert (await client.stats()).refused == {
            "the signature does not fit the body": 2,
            "a webhook target takes POST only": 1,
            "no webhook here": 1,
        }


async def test_what_handlers_make_of_deliveries_is_counted(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client(max_attempts=2)
    failures = {"1": 0, "2": 1, "3": 9}  # of handlers, for each gid

    @client.on()
    async def handle(event: Event) -> None:
        failures[event.resource.gid] -= 1
        if failures[event.resource.gid] >= 0:
            raise RuntimeError("not yet")

    hurry(client)
    async with client:
        await client.ensure(asana.project)
        for gid in failures:
            event = {"action": "changed", "resource": {"gid": gid}, "created_at": created_at()}
            await asana.emit(asana.project, event)
        await asana.settled()
        running = asyncio.create_task(client.run())
        await eventually(client.dead_letters)
        await until(lambda: failures["2"] < 0)
        stats = await eventually_idle(client)
    await running
    assert (stats.stored, stats.handled, stats.retried, stats.dead) == (3, 2, 2, 1)
    assert (stats.waiting, stats.oldest_age, stats.dead_letters) == (0, None, 1)


def created_at() -> str:
    return datetime.now(UTC).isoformat()


async def eventually_idle(client: WebhooksClient) -> Stats:
    with guard():
        while (stats := await client.stats()).waiting:
            await anyio.sleep(0.002)
    return stats


async def test_events_of_the_iterator_are_handled_deliveries_too(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.create_task("Fix the logout", project=asana.project)
        seen = 0
        async for _ in client.events():
            seen += 1
            if seen == 3:  # the first of the second delivery
                break
        assert (await client.stats()).handled == 1


async def test_silence_of_each_webhook_is_told(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        task = await asana.create_task("Fix the login", project=asana.project)
        busy = await client.ensure(asana.project)
        quiet = await client.ensure(task)
        await asana.create_task("Fix the logout", project=asana.project)
        await asana.settled()
        first, second = (await client.stats()).webhooks
    assert (first.gid, first.resource) == (busy.gid, asana.project)
    assert (second.gid, second.resource) == (quiet.gid, task)
    assert first.since_delivery is not None
    assert second.since_delivery is None
    for webhook in (first, second):
        assert webhook.since_heartbeat is not None
        assert 0 <= webhook.since_heartbeat < 10


async def test_deleted_webhook_is_no_longer_told_of(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await client.delete_webhook(webhook.gid)
        assert (await client.stats()).webhooks == ()


async def test_snapshot_holds_no_route_secret_or_body(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        body = await last_body(asana)
        await asana.deliver(webhook.gid, body + b" ", signature=sign(body, "another"))
        stats = await client.stats()
        (route,) = await store.list_routes()
    text = repr(stats) + msgspec.json.encode(stats).decode()
    assert webhook.gid in text
    for secret in (route.id, route.secret, route.target, "login", sign(body, route.secret or "")):
        assert secret is not None
        assert secret not in text


# Counters alone


COUNTS = Counts(waiting=0, dead_letters=0)


def a_route(**fields: object) -> Route:
    route = Route(id="r", target="https://hooks.example.com/r", resource="12")
    return msgspec.structs.replace(route, **fields)


def test_silence_grows_from_the_last_delivery_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    counters = Counters()
    counters.note_delivery("r")
    clock.now = 130.0
    counters.note_delivery("r")
    counters.note_delivery("another")
    clock.now = 135.5
    assert counters.snapshot(COUNTS, [a_route()]).webhooks == (
        WebhookStats(gid=None, resource="12", since_delivery=5.5, since_heartbeat=None),
    )


def test_time_that_lies_ahead_is_no_negative_age() -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    counts = Counts(waiting=1, dead_letters=0, oldest_at=later)
    stats = Counters().snapshot(counts, [a_route(heartbeat_at=later)])
    assert stats.oldest_age == 0.0
    assert stats.webhooks[0].since_heartbeat == 0.0


def test_ages_are_seconds() -> None:
    counts = Counts(waiting=1, dead_letters=0, oldest_at=datetime.now(UTC) - timedelta(hours=1))
    age = Counters().snapshot(counts, []).oldest_age
    assert age is not None
    assert 3600 <= age < 3610


def test_snapshot_stays_as_it_was() -> None:
    counters = Counters()
    counters.refused["no webhook here"] += 1
    stats = counters.snapshot(COUNTS, [])
    counters.refused["no webhook here"] += 1
    assert stats.refused == {"no webhook here": 1}
