"""The first heartbeat of a webhook: what is said when none was verified."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import pytest
from conftest import until

from asana_webhooks import MemoryStore, StoreError, WebhooksClient
from asana_webhooks._background import background_task
from asana_webhooks._clock import Clock
from asana_webhooks._heartbeats import FirstHeartbeats
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator, Fault
from asana_webhooks.testing import advance

SECRET = "s" * 32


async def nobody(seconds: float) -> None:
    """Pass no other time."""


class Harness:
    """First heartbeats that are being looked at, by a clock that a test drives."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = Clock()
        self.heartbeats = FirstHeartbeats(self.store, self.clock)

    async def confirm(self, id_: str = "r" * 32, gid: str = "12") -> Route:
        target = f"https://hooks.example.com/{id_}"
        await self.store.reserve(Route(id=id_, target=target, resource="34"), ttl=60)
        await self.store.add_candidate(id_, SECRET)
        await self.store.confirm(id_, gid=gid, secret=SECRET)
        route = await self.store.get_route(id_)
        assert route is not None
        self.heartbeats.expect(route)
        return route

    async def pass_time(self, seconds: float) -> None:
        await until(lambda: self.clock._sleepers)
        await self.clock.advance(seconds, beside=nobody)


@pytest.fixture
async def here() -> AsyncIterator[Harness]:
    harness = Harness()
    async with harness.store, background_task(harness.heartbeats.run(), "heartbeats"):
        await until(lambda: harness.clock._sleepers)
        yield harness


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


async def test_webhook_without_a_first_heartbeat_is_a_warning_after_ten_seconds(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    route = await here.confirm()
    await here.pass_time(9.9)
    assert warnings(caplog) == []
    await here.pass_time(1.0)
    (said,) = warnings(caplog)
    assert said.startswith("webhook 12 of 34: no heartbeat was verified within 10 s")
    assert "asana-webhooks doctor" in said
    assert route.id not in said
    await here.pass_time(100.0)
    assert len(warnings(caplog)) == 1


async def test_each_webhook_has_ten_seconds_of_its_own(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await here.confirm("a" * 32, "1")
    await here.pass_time(6.0)
    await here.confirm("b" * 32, "2")
    await here.pass_time(6.0)
    assert [said[:9] for said in warnings(caplog)] == ["webhook 1"]
    await here.pass_time(6.0)
    assert [said[:9] for said in warnings(caplog)] == ["webhook 1", "webhook 2"]


async def heartbeat(here: Harness, route: Route) -> None:
    await here.store.note_heartbeat(route.id, datetime.now(UTC))


async def deletion(here: Harness, route: Route) -> None:
    await here.store.retire(route.id)


@pytest.mark.parametrize("happens", [heartbeat, deletion])
async def test_nothing_is_said_of_a_webhook_that_is_well_or_gone(
    here: Harness,
    caplog: pytest.LogCaptureFixture,
    happens: Callable[[Harness, Route], Awaitable[None]],
) -> None:
    await happens(here, await here.confirm())
    await here.pass_time(20.0)
    assert warnings(caplog) == []


async def test_nothing_is_said_of_a_route_that_the_store_forgot(
    here: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    here.heartbeats.expect(Route(id="x" * 32, target="https://h/x", resource="1"))
    await here.pass_time(20.0)
    assert warnings(caplog) == []


async def test_store_that_fails_is_said_and_the_next_is_looked_at(
    here: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(route: str) -> Route | None:
        msg = "the disk is gone"
        raise StoreError(msg)

    await here.confirm("a" * 32, "1")
    with monkeypatch.context() as broken:
        broken.setattr(here.store, "get_route", fail)
        await here.pass_time(11.0)
    await here.confirm("b" * 32, "2")
    await here.pass_time(11.0)
    first, second = warnings(caplog)
    assert first == "whether a first heartbeat came could not be seen: the disk is gone"
    assert second.startswith("webhook 2")


async def test_what_was_expected_ends_with_the_run_and_it_may_run_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here = Harness()
    async with here.store:
        for gid in ("1", "2"):
            async with background_task(here.heartbeats.run(), "heartbeats"):
                await until(lambda: here.clock._sleepers)
                await here.confirm(gid * 32, gid)
                if gid == "2":
                    await here.pass_time(11.0)
    assert [said[:9] for said in warnings(caplog)] == ["webhook 2"]


@pytest.mark.parametrize(("faults", "said"), [([], 0), ([Fault.TAMPERED], 1)])
async def test_client_says_so_ten_seconds_after_it_established_a_webhook(
    make_client: Callable[..., WebhooksClient],
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
    faults: list[Fault],
    said: int,
) -> None:
    async with make_client() as client:
        for fault in faults:
            asana.faults.add(fault)
        await client.establish(asana.project)
        await advance(asana, 11.0, client=client)
    assert sum("no heartbeat was verified" in text for text in warnings(caplog)) == said
