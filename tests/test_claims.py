"""Claims that are lost, given back, or of webhooks that Asana could not keep up with."""

import asyncio
import logging
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import eventually, until
from support.inboxes import confirm, draining, event, is_empty, put, routed

from asana_webhooks import Event, MemoryStore, Source, StoreError
from asana_webhooks import _claims as module
from asana_webhooks import _inbox as inbox_module
from asana_webhooks._inbox import Inbox
from asana_webhooks.models import Claim, Counts, Delivery, Route
from asana_webhooks.router import Router
from asana_webhooks.telemetry import Telemetry

GAP = '{"action":"sync_error","message":"could not keep up"}'


async def test_word_of_a_gap_is_no_dead_letter_and_its_neighbours_are_handled() -> None:
    store, gaps, gids = MemoryStore(), list[tuple[str, str]](), list[str]()

    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    def note_gap(source: Source, message: str) -> None:
        gaps.append((source.resource, message))

    await confirm(store, "a", resource="12")
    await put(store, "a", event(1), GAP, event(2))
    async with draining(store, note, on_gap=note_gap):
        await eventually(lambda: is_empty(store))
    assert gaps == [("12", "could not keep up")]
    assert sorted(gids) == ["1", "2"]
    assert await store.dead_letters() == []


async def test_word_of_a_gap_is_logged_when_nobody_asks_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    await confirm(store, "a", resource="12")
    await put(store, "a", GAP)
    async with draining(store):
        await eventually(lambda: is_empty(store))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "Asana sent not all events of resource 12: 'could not keep up'"


@pytest.mark.parametrize("text", ['{"action":"sync_error","message":7}', '{"odd":1}', "7"])
async def test_what_only_looks_like_a_gap_is_a_dead_letter(text: str) -> None:
    store, gaps = MemoryStore(), list[str]()
    await put(store, "a", text)
    async with draining(store, on_gap=lambda source, message: gaps.append(message)):
        await eventually(store.dead_letters)
    assert gaps == []


async def test_routes_whose_webhooks_are_remembered_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Counting(MemoryStore):
        async def get_route(self, route: str) -> Route | None:
            asked.append(route)
            return await super().get_route(route)

    monkeypatch.setattr(module, "MAX_ROUTES", 2)
    store = Counting()
    for route in "abc":
        await confirm(store, route, resource=str(ord(route)))
    async with draining(store):
        for number, route in enumerate("abcca"):
            await put(store, route, event(number))
            await eventually(lambda: is_empty(store))
    assert asked == ["a", "b", "c", "a"]


class Growing(MemoryStore):
    """Answers late, or that the lease is lost, when it is asked for more."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.is_lost = False

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        self.asked.set()
        if self.is_lost:
            return None
        more = await super().claim_more(claim, limit=limit)
        await self.go_on.wait()
        return more


async def test_what_was_claimed_later_is_given_back_with_a_claim_that_has_ended() -> None:
    store, go_on, gids = Growing(), asyncio.Event(), list[str]()

    async def wait_for_first(event: Event) -> None:
        gids.append(event.resource.gid)
        if event.resource.gid == "1":
            await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, wait_for_first):
        await until(lambda: gids)
        await put(store, "a", event(2))
        await store.asked.wait()
        go_on.set()
        await until(lambda: gids == ["1", "2"])  # by the next claim
        store.go_on.set()
        await eventually(lambda: is_empty(store))
    assert gids == ["1", "2"]


async def test_lost_lease_that_asking_for_more_finds_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, go_on = Growing(), asyncio.Event()
    store.is_lost = True

    async def wait(event: Event) -> None:
        await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, wait):
        await until(lambda: "a lease ran out" in caplog.text)
        go_on.set()


class Failing(Telemetry):
    """Raises what no observer should, as often as told."""

    def __init__(self, times: int) -> None:
        self.times = times

    def processing(self, delivery: Delivery, event: Event) -> AbstractContextManager[object]:
        if self.times:
            self.times -= 1
            raise LookupError("no exporter")
        return super().processing(delivery, event)


async def test_mistake_in_the_middle_gives_the_claim_back_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, gids = MemoryStore(), list[str]()

    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    await put(store, "a", event(1), event(2))
    await put(store, "b", event(3))
    async with draining(store, note, telemetry=Failing(1), concurrency=1):
        await eventually(lambda: is_empty(store))
    assert sorted(gids) == ["1", "2", "3"]
    assert "no exporter" in caplog.text


async def test_next_handler_does_not_run_when_the_lease_is_lost_under_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lost(MemoryStore):
        lost = True

        async def renew(self, claim: Claim, *, lease: float) -> bool:
            return not self.lost

    store, calls = Lost(), list[str]()

    async def first(event: Event) -> None:
        calls.append("first")
        if store.lost:
            await until(lambda: "a lease ran out" in caplog.text)
            store.lost = False

    async def second(event: Event) -> None:
        calls.append("second")

    await put(store, "a", event(1))
    async with draining(store, first, second, lease=0.03):
        await until(lambda: "second" in calls)
        await eventually(lambda: is_empty(store))
    assert calls == ["first", "first", "second"]


# Deliveries that nobody hands over


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "IDLE_LOOK", 0.005)


async def put_at(store: MemoryStore, at: datetime) -> None:
    body = b'{"events":[]}'
    assert await store.put(Delivery(route="a", body=body, digest=bytes(32), received_at=at))


async def never(event: Event) -> None: ...


SAID = "deliveries have waited for 30 s and nobody runs the handlers that are registered"


@pytest.mark.usefixtures("hurried")
async def test_deliveries_that_wait_for_handlers_nobody_runs_are_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore()
    await put_at(store, datetime.now(UTC) - timedelta(seconds=31))
    async with Inbox(store, router=routed(never)):
        await until(lambda: SAID in caplog.text)
        await asyncio.sleep(0.03)
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("why", ["no handlers", "fresh", "store away", "run"])
async def test_deliveries_that_wait_are_not_said_when_all_is_well(
    caplog: pytest.LogCaptureFixture, why: str
) -> None:
    looks = 0

    class Looked(MemoryStore):
        async def counts(self) -> Counts:
            nonlocal looks
            looks += 1
            if why == "store away":
                raise StoreError("away")
            return await super().counts()

    store = Looked()
    await put_at(store, datetime.now(UTC) - timedelta(seconds=1 if why == "fresh" else 31))
    options: dict[str, Any] = {"router": Router() if why == "no handlers" else routed(never)}
    if why == "run":
        options["may_claim"] = lambda: False
    async with Inbox(store, **options) as inbox:
        running = asyncio.create_task(inbox.drain(routed(never))) if why == "run" else None
        await asyncio.sleep(0.05)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
    assert SAID not in caplog.text
    assert (looks > 1) is (why in ("fresh", "store away"))
