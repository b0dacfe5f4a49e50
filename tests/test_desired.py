"""Webhooks that were ensured are looked after, with a real client and the local Asana."""

import asyncio
import gc
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import eventually, until

from asana_webhooks import (
    ConnectionFailedError,
    MemoryStore,
    StoreError,
    Webhook,
    WebhookFilter,
    WebhooksApi,
    WebhooksClient,
)
from asana_webhooks._desired import DesiredWebhooks, Filters
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator

MakeClient = Callable[..., WebhooksClient]

SOON = 0.01
ADDED = WebhookFilter(resource_type="task", action="added")
REMOVED = WebhookFilter(resource_type="task", action="removed")
ANY_FILTER: dict[str, Any] = {"fields": None, "resource_subtype": None}


def remove(asana: AsanaSimulator, gid: str) -> None:
    """Delete a webhook as Asana does: without a word."""
    del asana.webhooks[gid]  # type: ignore[attr-defined] # its face is read-only


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    """Nothing that looks is left behind."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if "looking after" in task.get_name()}
    assert left == set()


# Through the client


async def test_webhook_that_asana_deleted_is_established_again(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(look_after=SOON) as client:
        first = await client.ensure(asana.project, filters=[ADDED])
        await asana.settled()
        remove(asana, first.gid)
        await until(lambda: asana.webhooks)
        (gid,) = asana.webhooks
        assert gid != first.gid
        assert asana.webhooks[gid].filters == [
            {**ANY_FILTER, "resource_type": "task", "action": "added"}
        ]
        await asana.settled()
        task = await asana.create_task("Fix the login", project=asana.project)
        assert (await anext(client.events())).resource.gid == task
    assert f"webhook {first.gid} is gone from Asana; it is established again" in caplog.messages


async def test_webhook_that_is_inactive_is_replaced_though_the_first_try_fails(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(look_after=SOON) as client:
        first = await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("no-handshake")
        asana.webhooks[first.gid].active = False
        await until(lambda: "could not be looked after" in caplog.text)
        assert first.gid not in asana.webhooks
        asana.faults.clear()
        await until(lambda: asana.webhooks)
        assert first.gid not in asana.webhooks


async def test_what_lives_is_left_alone(make_client: MakeClient, asana: AsanaSimulator) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        await until(lambda: len(looks) >= 3)
        assert set(asana.webhooks) == {webhook.gid}


@asynccontextmanager
async def looking(client: WebhooksClient) -> AsyncIterator[list[str]]:
    """Give the list in which the resource of each look is noted when it has ended."""
    assert client._components is not None
    establishment = client._components.establishment
    looks: list[str] = []
    original = establishment.ensure

    async def ensure(resource: str, **options: Any) -> Webhook:
        try:
            return await original(resource, **options)
        finally:
            looks.append(resource)

    establishment.ensure = ensure  # type: ignore[method-assign] # notes, and passes on
    yield looks


async def test_each_that_was_ensured_is_looked_after(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client:
        task = await asana.create_task("Fix the login", project=asana.project)
        for resource in (asana.project, task):
            remove(asana, (await client.ensure(resource)).gid)
        watched = {asana.project, task}
        await until(lambda: {webhook.resource for webhook in asana.webhooks.values()} == watched)


async def test_webhook_that_was_only_established_is_not_looked_after(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        task = await asana.create_task("Fix the login", project=asana.project)
        established = await client.establish(asana.project)
        await client.ensure(task)
        remove(asana, established.gid)
        await until(lambda: len(looks) >= 3)
        assert set(looks) == {task}


async def test_filters_that_were_updated_are_kept(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        await client.update_webhook(webhook.gid, filters=[REMOVED])
        looks.clear()
        await until(lambda: len(looks) >= 2)
        record = asana.webhooks[webhook.gid]
        assert [kept["action"] for kept in record.filters] == ["removed"]
        remove(asana, webhook.gid)
        await until(lambda: asana.webhooks)
        (again,) = asana.webhooks.values()
        assert [kept["action"] for kept in again.filters] == ["removed"]


async def test_filters_that_were_ensured_last_are_kept(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        await client.ensure(asana.project, filters=[ADDED])
        webhook = await client.ensure(asana.project, filters=[REMOVED])
        looks.clear()
        await until(lambda: len(looks) >= 2)
        record = asana.webhooks[webhook.gid]
        assert [kept["action"] for kept in record.filters] == ["removed"]


async def test_updating_another_webhook_of_the_resource_changes_nothing(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        ensured = await client.ensure(asana.project, filters=[ADDED])
        other = await client.establish(asana.project, filters=[ADDED])
        await client.update_webhook(other.gid, filters=[REMOVED])
        looks.clear()
        await until(lambda: len(looks) >= 2)
        kept = {gid: record.filters[0]["action"] for gid, record in asana.webhooks.items()}
        assert kept == {ensured.gid: "added", other.gid: "removed"}


async def test_deleted_webhook_is_looked_after_no_longer(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        task = await asana.create_task("Fix the login", project=asana.project)
        webhook = await client.ensure(asana.project)
        kept = await client.ensure(task)
        await client.delete_webhook(webhook.gid)
        looks.clear()
        await until(lambda: len(looks) >= 3)
        assert set(looks) == {task}
        assert set(asana.webhooks) == {kept.gid}


async def test_deleting_another_webhook_of_the_resource_does_not_end_the_looking(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client(look_after=SOON) as client:
        ensured = await client.ensure(asana.project)
        other = await client.establish(asana.project)
        await client.delete_webhook(other.gid)
        remove(asana, ensured.gid)
        await until(lambda: asana.webhooks)


async def test_deleted_webhook_that_was_to_be_replaced_is_looked_after_no_longer(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(look_after=0.2) as client, looking(client) as looks:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(task)
        webhook = await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("no-handshake")
        remove(asana, webhook.gid)
        await until(lambda: "could not be looked after" in caplog.text)
        await client.delete_webhook(webhook.gid)
        asana.faults.clear()
        looks.clear()
        await until(lambda: len(looks) >= 2)
        assert set(looks) == {task}
        assert [record.resource for record in asana.webhooks.values()] == [task]


@pytest.mark.parametrize("what", ["delete", "update"])
async def test_change_waits_for_a_look_under_way_and_holds(
    make_client: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The look has read the webhook already and is about to act on it."""
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        reached, go_on = held_after_reading(client, monkeypatch)
        await reached.wait()
        changing = asyncio.create_task(change(client, what, webhook.gid))
        await asyncio.wait([changing], timeout=2 * SOON)  # it would be done, if it did not wait
        go_on.set()
        await changing
        await until(lambda: looks)
        looks.clear()
        if what == "delete":
            assert not asana.webhooks
        else:
            await until(lambda: len(looks) >= 2)
            (record,) = asana.webhooks.values()
            assert [kept["action"] for kept in record.filters] == ["removed"]


async def change(client: WebhooksClient, what: str, gid: str) -> None:
    if what == "delete":
        await client.delete_webhook(gid)
    else:
        await client.update_webhook(gid, filters=[REMOVED])


def held_after_reading(
    client: WebhooksClient, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the next look between its reading of the webhook and what it does then."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    api = client._opened().establishment._api
    original = api.get_webhook

    async def get_webhook(gid: str) -> Webhook:
        webhook = await original(gid)
        reached.set()
        await go_on.wait()
        return webhook

    monkeypatch.setattr(api, "get_webhook", get_webhook)
    return reached, go_on


async def test_asana_that_fails_is_one_warning_and_the_next_look_succeeds(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(look_after=SOON) as client, looking(client) as looks:
        webhook = await client.ensure(asana.project)
        failures = [ConnectionFailedError("Asana did not answer")]
        api = client._opened().establishment._api
        original = api.get_webhook

        async def get_webhook(gid: str) -> Webhook:
            if failures:
                raise failures.pop()
            return await original(gid)

        api.get_webhook = get_webhook  # type: ignore[assignment,method-assign] # fails once
        looks.clear()
        await until(lambda: len(looks) >= 3)
        assert set(asana.webhooks) == {webhook.gid}
    (record,) = (record for record in caplog.records if record.name == "asana_webhooks._desired")
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage() == (
        f"the webhook of {asana.project} could not be looked after: Asana did not answer"
    )


@pytest.mark.parametrize("error", [StoreError("the disk is full"), RuntimeError("a bug")])
async def test_whatever_fails_does_not_end_the_looking(
    make_client: MakeClient,
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    class Failing(MemoryStore):
        failures: list[Exception] = []  # noqa: RUF012 - of one test

        async def list_routes(self, resource: str | None = None) -> Any:
            if self.failures:
                raise self.failures.pop()
            return await super().list_routes(resource)

    store = Failing()
    async with make_client(look_after=SOON, store=store) as client:
        webhook = await client.ensure(asana.project)
        store.failures = [error, error]  # the look, and the question what it left behind
        await until(lambda: "could not be looked after" in caplog.text)
        remove(asana, webhook.gid)
        await until(lambda: asana.webhooks)
    (record,) = (record for record in caplog.records if record.name.endswith("_desired"))
    expected = isinstance(error, StoreError)
    assert record.levelno == (logging.WARNING if expected else logging.ERROR)
    assert (record.exc_info is None) == expected


async def test_none_never_looks(make_client: MakeClient, asana: AsanaSimulator) -> None:
    async with make_client(look_after=None) as client:
        await client.ensure(asana.project)
        await until(lambda: not looking_tasks())


def looking_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if "looking after" in task.get_name()}


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -math.inf, math.nan])
async def test_interval_that_is_not_positive_is_refused(seconds: float) -> None:
    url = "https://hooks.example.com"
    with pytest.raises(ValueError, match="look_after must be a number of seconds"):
        WebhooksClient("a-token", public_url=url, store="memory:", look_after=seconds)


async def test_closing_while_it_establishes_leaves_no_webhook_and_no_route(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(look_after=SOON, store=store) as client:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("slow-201")
        remove(asana, webhook.gid)
        await eventually(lambda: has_candidate(store))
    assert looking_tasks() == set()
    assert await store.list_routes() == []
    asana.release_201.set()
    assert not asana.webhooks


async def has_candidate(store: MemoryStore) -> bool:
    return any(route.candidates for route in await store.list_routes())


async def test_closing_in_a_cancelled_scope_while_it_establishes_leaves_nothing_either(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    with anyio.CancelScope() as scope:
        async with make_client(look_after=SOON, store=store) as client:
            webhook = await client.ensure(asana.project)
            await asana.settled()
            asana.faults.add("slow-201")
            remove(asana, webhook.gid)
            await eventually(lambda: has_candidate(store))
            scope.cancel()
            await checkpoint()
    assert looking_tasks() == set()
    assert await store.list_routes() == []
    asana.release_201.set()
    assert not asana.webhooks


# Deleted by another, which shares the store


async def delete_beside(client: WebhooksClient, asana: AsanaSimulator, gid: str) -> None:
    """Delete a webhook as `asana-webhooks delete` does: at Asana, then in the store."""
    store = client._opened().store
    async with WebhooksApi("a-token", base_url=asana.base_url) as api:
        await api.delete_webhook(gid)
    (route,) = [route for route in await store.list_routes() if route.gid == gid]
    await store.retire(route.id)


async def test_webhook_that_another_process_deleted_is_not_brought_back(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(look_after=0.2) as client, looking(client) as looks:
        task = await asana.create_task("Fix the login", project=asana.project)
        kept = await client.ensure(task)
        deleted = await client.ensure(asana.project)
        await delete_beside(client, asana, deleted.gid)
        await until(lambda: "it is looked after no longer" in caplog.text)
        looks.clear()
        await until(lambda: len(looks) >= 2)
        assert set(looks) == {task}
        assert set(asana.webhooks) == {kept.gid}
        assert caplog.text.count("it is looked after no longer") == 1
        said = f"webhook {deleted.gid} of {asana.project} was deleted by another"
        assert said in caplog.text
        again = await client.ensure(asana.project)  # whoever ensures it wants it
        assert set(asana.webhooks) == {kept.gid, again.gid}


async def test_webhook_that_another_process_replaced_is_still_looked_after(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with make_client(look_after=0.2, store=store) as client, looking(client) as looks:
        first = await client.ensure(asana.project)
        await delete_beside(client, asana, first.gid)
        second = await client._opened().establishment.establish(
            asana.project, filters=None, timeout=60.0
        )
        looks.clear()
        await until(lambda: len(looks) >= 2)
        assert set(asana.webhooks) == {second.gid}
        remove(asana, second.gid)
        await until(lambda: asana.webhooks)
    assert "no longer" not in caplog.text


async def test_webhook_whose_replacement_failed_though_the_store_did_too_is_replaced_later(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MemoryStore):
        fails = False

        async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
            if self.fails:
                raise StoreError("the disk is full")
            return await super().reserve(route, ttl=ttl, exclusive=exclusive)

        async def list_routes(self, resource: str | None = None) -> list[Route]:
            routes = await super().list_routes(resource)
            if self.fails and not routes:
                raise StoreError("the disk is full")
            return routes

    store = Failing()
    async with make_client(look_after=SOON, store=store) as client:
        first = await client.ensure(asana.project)
        store.fails = True
        remove(asana, first.gid)
        await until(lambda: caplog.text.count("could not be looked after") >= 2)
        store.fails = False
        await until(lambda: asana.webhooks)
    assert "no longer" not in caplog.text


# Alone


class Establisher:
    """Notes what is ensured, and how."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Filters, float]] = []
        self.gids: dict[str, str] = {}
        self.at_once = self.most_at_once = 0

    async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
        self.calls.append((resource, filters, timeout))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await checkpoint()
        self.at_once -= 1
        return Webhook(gid=self.gids.get(resource, f"gid of {resource}"))

    async def holds(self, resource: str) -> bool:
        return True


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were waited for, in seconds; they pass on the clock only."""
    pauses: list[float] = []

    @contextmanager
    def move_on_after(seconds: float) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            pauses.append(seconds)
            scope.cancel()
            yield scope

    monkeypatch.setattr(anyio, "move_on_after", move_on_after)
    monkeypatch.setattr(anyio, "current_time", lambda: sum(pauses))
    return pauses


async def look_until(desired: DesiredWebhooks, enough: Callable[[], bool]) -> None:
    """Look after them until there was enough of it."""
    task = asyncio.create_task(desired.run())
    await until(enough)
    task.cancel()
    await asyncio.wait([task])


async def test_looks_are_spread_over_the_interval_one_after_another(moments: list[float]) -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=3600.0)
    resources = [str(number) for number in range(600)]
    async with anyio.create_task_group() as tasks:
        for resource in resources:
            tasks.start_soon(partial(desired.ensure, resource, filters=None, timeout=60.0))
    establisher.calls.clear()
    establisher.most_at_once = 0
    await look_until(desired, lambda: len(establisher.calls) >= 1200)
    looked_at = [resource for resource, _, _ in establisher.calls[:1200]]
    assert sorted(looked_at[:600]) == sorted(resources)
    assert looked_at[:600] == looked_at[600:]
    assert sum(moments[:600]) <= 3600.0
    assert min(moments[:600]) > 5.0
    assert establisher.most_at_once == 1


async def test_jitter_shortens_a_pause_by_a_tenth_at_most(moments: list[float]) -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=100.0)
    await desired.ensure("12", filters=None, timeout=60.0)
    await look_until(desired, lambda: len(moments) >= 200)
    assert len(set(moments)) > 100
    assert 90 <= min(moments) < 95
    assert 95 < max(moments) <= 100


async def test_what_is_added_brings_the_next_look_nearer() -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=50.0)
    await desired.ensure("1", filters=None, timeout=60.0)
    task = asyncio.create_task(desired.run())
    for number in range(2, 1002):
        await desired.ensure(str(number), filters=None, timeout=60.0)
    establisher.calls.clear()
    await until(lambda: len(establisher.calls) >= 2)
    task.cancel()
    assert [resource for resource, _, _ in establisher.calls[:2]] == ["1", "2"]


async def test_looking_goes_on_after_there_was_nothing_left_to_look_after() -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=0.02)
    task = asyncio.create_task(desired.run())
    await desired.ensure("12", filters=None, timeout=60.0)
    await until(lambda: len(establisher.calls) >= 2)
    desired.leave("gid of 12")
    await anyio.sleep(0.05)  # the moment of its next look passes
    establisher.calls.clear()
    await desired.ensure("13", filters=None, timeout=60.0)
    await until(lambda: len(establisher.calls) >= 3)
    task.cancel()
    await asyncio.wait([task])
    assert {resource for resource, _, _ in establisher.calls} == {"13"}


async def test_it_is_ensured_again_as_it_was_ensured() -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=1.0)
    webhook = await desired.ensure("12", filters=[ADDED], timeout=7.0)
    assert webhook.gid == "gid of 12"
    await desired._look("12")
    assert establisher.calls == [("12", [ADDED], 7.0)] * 2


async def test_what_could_not_be_ensured_is_not_looked_after() -> None:
    class Failing(Establisher):
        async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
            raise ConnectionFailedError("Asana did not answer")

    desired = DesiredWebhooks(Failing(), interval=1.0)
    with pytest.raises(ConnectionFailedError):
        await desired.ensure("12", filters=None, timeout=60.0)
    assert desired._desired == {}


async def test_what_is_left_while_others_are_looked_after_is_passed_over() -> None:
    establisher = Establisher()
    desired = DesiredWebhooks(establisher, interval=1.0)
    await desired.ensure("12", filters=None, timeout=60.0)
    desired.leave("gid of 12")
    await desired._look("12")
    assert len(establisher.calls) == 1


@pytest.mark.parametrize("fails", [False, True], ids=["looked", "failed"])
async def test_what_is_left_during_its_look_is_not_taken_up_again(*, fails: bool) -> None:
    class Leaving(Establisher):
        async def ensure(self, resource: str, *, filters: Filters, timeout: float) -> Webhook:
            webhook = await super().ensure(resource, filters=filters, timeout=timeout)
            desired.leave("gid of 12")
            if fails and len(self.calls) == 2:
                raise ConnectionFailedError("Asana did not answer")
            return webhook

    establisher = Leaving()
    desired = DesiredWebhooks(establisher, interval=1.0)
    await desired.ensure("12", filters=None, timeout=60.0)
    await desired._look("12")
    assert desired._desired == {}
    assert len(establisher.calls) == 2


async def test_webhook_that_was_replaced_goes_by_its_new_gid() -> None:
    establisher = Establisher()
    establisher.gids["12"] = "first"
    desired = DesiredWebhooks(establisher, interval=1.0)
    await desired.ensure("12", filters=[ADDED], timeout=60.0)
    establisher.gids["12"] = "second"
    await desired._look("12")
    desired.leave("first")
    desired.set_filters("second", [REMOVED])
    await desired._look("12")
    desired.leave("second")
    await desired._look("12")
    assert [filters for _, filters, _ in establisher.calls] == [[ADDED], [ADDED], [REMOVED]]


async def test_locks_live_while_they_are_in_use() -> None:
    desired = DesiredWebhooks(Establisher(), interval=1.0)
    async with desired.lock("12"):
        assert desired.lock("12").locked()
        assert not desired.lock("13").locked()
    for number in range(100):
        await desired.ensure(str(number), filters=None, timeout=60.0)
    gc.collect()
    assert len(desired._locks) == 0
