"""Webhooks that a program wants, kept by a real client at the local Asana."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from conftest import eventually, until

from asana_webhooks import (
    AuthenticationError,
    ConnectionFailedError,
    Event,
    MemoryStore,
    Notice,
    StoreError,
    Webhook,
    WebhookFilter,
    WebhooksApi,
    WebhooksClient,
)
from asana_webhooks import _desired as module
from asana_webhooks._background import background_task
from asana_webhooks._desired import DesiredWebhooks
from asana_webhooks.errors import RateLimitedError
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator, Call
from asana_webhooks.testing import advance

MakeClient = Callable[..., WebhooksClient]

ADDED = WebhookFilter(resource_type="task", action="added")
REMOVED = WebhookFilter(resource_type="task", action="removed")
LOOK = 900.0
"""Seconds from one look to the next, at the most."""


def remove(asana: AsanaSimulator, gid: str) -> None:
    """Delete a webhook as Asana does: without a word."""
    del asana.webhooks[gid]  # type: ignore[attr-defined] # its face is read-only


def actions(asana: AsanaSimulator) -> list[list[str]]:
    """Return the actions that the filters of each webhook pass."""
    return [[each["action"] for each in record.filters] for record in asana.webhooks.values()]


def watched(asana: AsanaSimulator) -> list[str]:
    return sorted(record.resource for record in asana.webhooks.values())


def desired_of(client: WebhooksClient) -> DesiredWebhooks:
    return client._parts().desired


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    """Nothing that keeps or looks is left behind."""
    before = asyncio.all_tasks()
    yield
    left = {each.get_name() for each in asyncio.all_tasks() - before}
    assert not {name for name in left if "looking after" in name or "keeping" in name}


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def make(make_client: MakeClient, notices: list[Notice]) -> MakeClient:
    """Return a function that makes clients whose notices are noted."""

    def made(**options: Any) -> WebhooksClient:
        client = make_client(**options)

        @client.on_notice()
        async def note(notice: Notice) -> None:
            notices.append(notice)

        return client

    return made


def kinds(notices: list[Notice], resource: str) -> list[str]:
    return [each.kind for each in notices if each.source.resource == resource]


# What is kept


async def test_what_is_kept_is_established_as_soon_as_the_client_is_entered(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    client = make()
    client.keep(asana.project, filters=[ADDED])
    async with client:
        await client.kept()
        (route,) = await client._opened().store.list_routes()
        assert watched(asana) == [asana.project]
        assert actions(asana) == [["added"]]
        assert route.gid in asana.webhooks
        await until(lambda: kinds(notices, asana.project) == ["established"])


async def test_handlers_that_come_while_a_webhook_is_established_change_its_filters(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        pass

    asana.faults.add("slow-handshake")
    client.keep(asana.project)
    async with client:
        await until(asana.create_started.is_set)
        client.on("task", action="removed", name="another")(handle)
        await checkpoint()
        await checkpoint()
        asana.release_handshake.set()
        await client.kept()
        assert [sorted(each) for each in actions(asana)] == [["added", "removed"]]


async def test_what_is_kept_later_is_established_too(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        await client.kept()
        task = await asana.create_task("Fix the login", project=asana.project)
        client.keep(asana.project)
        client.keep(task)
        await client.kept()
        assert watched(asana) == sorted([asana.project, task])


async def kept_filters(client: WebhooksClient, actions: list[str]) -> bool:
    (route,) = await client._opened().store.list_routes()
    return [each.action for each in route.filters or ()] == actions


async def test_filters_that_are_left_out_are_those_that_the_handlers_need(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()

    @client.on("task", action="added")
    async def handle(event: Event) -> None: ...

    client.keep(asana.project)
    async with client:
        await client.kept()
        assert actions(asana) == [["added"]]

        @client.on("task", action="removed")
        async def handle_too(event: Event) -> None: ...

        await until(lambda: actions(asana) == [["added", "removed"]])
        await eventually(lambda: kept_filters(client, ["added", "removed"]))
        client.keep(asana.project, filters=None)
        await until(lambda: actions(asana) == [[]])


async def test_what_is_kept_without_handlers_delivers_every_event(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        client.keep(asana.project)
        await client.kept()
        assert actions(asana) == [[]]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"resource": "Bugs"}, ValueError),
        ({"filters": [WebhookFilter(action="completed")]}, ValueError),
        ({"filters": ADDED}, TypeError),
        ({"timeout": 0}, ValueError),
    ],
    ids=["resource", "action", "no list", "timeout"],
)
async def test_what_cannot_be_kept_is_refused_at_once(
    make: MakeClient, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make().keep(**{"resource": "12"} | options)


async def test_client_without_public_url_keeps_nothing() -> None:
    with pytest.raises(RuntimeError, match="give it a public_url"):
        WebhooksClient("a-token").keep("12")


async def test_what_cannot_be_established_stalls_nothing_and_is_said_once(
    make: MakeClient,
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make()
    client.keep("404404")
    client.keep(asana.project)
    async with client:
        await until(lambda: watched(asana) == [asana.project])
        with pytest.raises(TimeoutError) as caught:
            await client.kept(timeout=0.05)
        assert "404404: Asana answered" in str(caught.value)
        assert asana.project not in str(caught.value)
        await advance(asana, hours=1, client=client)
        said = [text for text in caplog.messages if "404404 could not be" in text]
        assert len(said) == 1
        await client.leave("404404")
        await client.kept()


async def test_nothing_is_named_as_not_established_before_it_was_tried(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    asana.faults.add("slow-handshake")
    client = make()
    client.keep(asana.project)
    async with client:
        with pytest.raises(TimeoutError, match=r"after 0\.05 s: 8675309: it was not tried yet"):
            await client.kept(timeout=0.05)
        asana.release_handshake.set()
        await client.kept(timeout=None)


@pytest.mark.slow
async def test_asana_out_of_reach_is_one_warning_and_all_are_established_when_it_is_back(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    asana.faults.add("no-handshake")
    tasks = [await asana.create_task(f"{n}", project=asana.project) for n in range(20)]
    client = make()
    for task in tasks:
        client.keep(task)
    async with client:
        await advance(asana, minutes=30, client=client)
        assert caplog.text.count("could not be established") == 1
        asana.faults.clear()
        await advance(asana, minutes=11, client=client)
        await client.kept()
        assert watched(asana) == sorted(tasks)


def test_what_is_kept_is_waited_for_in_another_event_loop_too(free_port: int) -> None:
    class Away(MemoryStore):
        async def list_routes(self, *resource: Any, **account: Any) -> list[Route]:
            msg = "the store is away"
            raise StoreError(msg)

    base_url = f"http://127.0.0.1:{free_port}"
    client = WebhooksClient(
        "a-token", public_url=base_url, port=free_port, store=Away(), base_url=base_url
    )
    client.keep("12")

    async def wait() -> None:
        async with client:
            with pytest.raises(TimeoutError, match="12: "):
                await client.kept(timeout=0.1)

    asyncio.run(wait())
    asyncio.run(wait())


async def test_what_was_established_before_the_client_was_closed_is_looked_for_again(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()
    client.keep(asana.project)
    async with client:
        await client.kept()
    remove(asana, next(iter(asana.webhooks)))
    async with client:
        await client.kept()
        assert watched(asana) == [asana.project]


async def test_what_is_to_have_other_filters_is_not_kept_before_it_has_them(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()
    client.keep(asana.project, filters=[ADDED])
    async with client:
        await client.kept()
        client.keep(asana.project, filters=[REMOVED])
        await client.kept()
        assert actions(asana) == [["removed"]]


async def test_many_are_established_side_by_side_but_not_all_at_once(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    tasks = [await asana.create_task(f"{n}", project=asana.project) for n in range(12)]
    asana.faults.add("slow-201")
    client = make()
    for task in tasks:
        client.keep(task)
    async with client:
        await until(lambda: len(asana.webhooks) == module.AT_ONCE)
        await checkpoint()
        assert len(asana.webhooks) == module.AT_ONCE
        asana.release_201.set()
        await client.kept()
        assert len(asana.webhooks) == 12


@pytest.fixture
def calls() -> list[Call]:
    return []


@pytest.fixture
async def limited(calls: list[Call]) -> AsyncIterator[AsanaSimulator]:
    """A local Asana with the limits that a paying customer has."""

    def note(seen: object) -> None:
        if isinstance(seen, Call):
            calls.append(seen)

    async with AsanaSimulator(
        retry_delay=0.01,
        gather_for=0,
        watch=note,
        rate_limit=1500,
        concurrent_gets=50,
        concurrent_writes=15,
    ) as asana:
        yield asana


@pytest.mark.slow
async def test_two_hundred_are_kept_within_the_limits_and_found_again_in_a_few_calls(
    make_client: MakeClient, limited: AsanaSimulator, calls: list[Call]
) -> None:
    tasks = [await limited.create_task(f"{n}", project=limited.project) for n in range(200)]
    store = MemoryStore()
    for _ in range(2):
        calls.clear()
        client = make_client(store=store, base_url=limited.base_url)
        for task in tasks:
            client.keep(task)
        async with client:
            await client.kept(timeout=None)
        assert watched(limited) == sorted(tasks)
        assert {call.status for call in calls} <= {200, 201, 412, 429}
    assert len(calls) <= 5


async def test_many_that_are_kept_later_are_found_again_by_a_list(
    make_client: MakeClient, limited: AsanaSimulator, calls: list[Call]
) -> None:
    tasks = [await limited.create_task(f"{n}", project=limited.project) for n in range(20)]
    store = MemoryStore()
    for _ in range(2):
        calls.clear()
        async with make_client(store=store, base_url=limited.base_url, look_after=None) as client:
            await client.kept()
            for task in tasks:
                client.keep(task)
            await client.kept()
    assert len(limited.webhooks) == 20
    assert len(calls) <= 4


async def test_what_is_ensured_while_it_waits_for_its_turn_is_not_established_twice(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        desired = desired_of(client)
        async with desired.lock(asana.project):
            client.keep(asana.project)
            await until(lambda: desired._desired[asana.project].task)
            await desired._upkeep.ensure(asana.project, filters=None, timeout=60.0)
            desired._desired[asana.project].established = True
        await until(lambda: desired._desired[asana.project].task is None)
        assert watched(asana) == [asana.project]


# Looking after it


async def test_webhook_that_asana_deleted_is_noticed_and_established_again(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    async with make() as client:
        first = await client.ensure(asana.project, filters=[ADDED])
        remove(asana, first.gid)
        await advance(asana, LOOK, client=client)
        (gid,) = asana.webhooks
        assert gid != first.gid
        assert actions(asana) == [["added"]]
        expected = ["established", "lost", "established", "restored"]
        await until(lambda: kinds(notices, asana.project) == expected)
        assert notices[1].source.webhook == first.gid
        route = await client._opened().store.get_route((first.target or "").rpartition("/")[2])
        assert route is not None
        assert route.retired_as == "lost"


async def test_looks_go_on_and_cost_no_call_for_each_webhook(
    make_client: MakeClient, limited: AsanaSimulator, calls: list[Call]
) -> None:
    tasks = [await limited.create_task(f"{n}", project=limited.project) for n in range(30)]
    async with make_client(base_url=limited.base_url) as client:
        for task in tasks:
            client.keep(task)
        await client.kept()
        calls.clear()
        await advance(limited, hours=2, client=client)
        assert 8 <= len([call for call in calls if call.path.endswith("/webhooks")]) <= 9
        assert len([call for call in calls if not call.path.endswith("/events")]) <= 18


async def test_webhook_that_is_inactive_is_replaced_though_the_first_try_fails(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        first = await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("no-handshake")
        asana.webhooks[first.gid].active = False
        await advance(asana, LOOK, client=client)
        assert not asana.webhooks
        asana.faults.clear()
        await advance(asana, 300.0, client=client)
        assert watched(asana) == [asana.project]


async def test_webhook_that_was_only_established_is_lost_and_not_brought_back(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    async with make() as client:
        established = await client.establish(asana.project)
        remove(asana, established.gid)
        await advance(asana, LOOK, client=client)
        assert not asana.webhooks
        assert await client._opened().store.list_routes() == []
        await until(lambda: kinds(notices, asana.project) == ["established", "lost"])


async def test_webhook_that_a_list_lacks_but_asana_knows_is_kept(
    make: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        asked = lists_nothing(client, monkeypatch)
        await advance(asana, LOOK, client=client)
        assert asked == [webhook.gid]
        assert set(asana.webhooks) == {webhook.gid}
        (route,) = await client._opened().store.list_routes()
        assert route.state == "confirmed"


def lists_nothing(client: WebhooksClient, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have Asana's lists be empty, and return the list of gids that are asked for."""
    api, asked = client._parts().upkeep._api, list[str]()
    original = api.get_webhook

    async def nothing(*_: object, **__: object) -> AsyncIterator[Webhook]:
        no_webhooks: tuple[Webhook, ...] = ()
        for webhook in no_webhooks:
            yield webhook

    async def get_webhook(gid: str) -> Webhook:
        asked.append(gid)
        return await original(gid)

    monkeypatch.setattr(api, "iter_webhooks", nothing)
    monkeypatch.setattr(api, "get_webhook", get_webhook)
    return asked


async def test_webhook_that_was_confirmed_after_a_list_began_cannot_be_missing_from_it(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        upkeep = client._parts().upkeep
        listed = await upkeep.list_webhooks()
        webhook = await client.ensure(asana.project)
        (route,) = await upkeep.routes()
        assert route.gid == webhook.gid
        assert not upkeep.is_missing(route, listed)
        assert upkeep.is_missing(route, (await upkeep.list_webhooks())._replace(webhooks={}))


async def test_workspace_that_is_refused_proves_nothing(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        upkeep = client._parts().upkeep
        (route,) = await upkeep.routes()
        listed = await upkeep.list_webhooks()
        gone = listed._replace(webhooks={}, everywhere=False)
        assert upkeep.is_missing(route, gone)
        assert not upkeep.is_missing(route, gone._replace(whole=frozenset()))
        remove(asana, webhook.gid)
        elsewhere = await upkeep.list_webhooks("2")
        assert (elsewhere.everywhere, elsewhere.whole) == (False, frozenset())


async def test_many_that_are_missing_at_once_are_a_notice_of_their_own(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    tasks = [await asana.create_task(f"{n}", project=asana.project) for n in range(11)]
    async with make() as client:
        for task in tasks:
            client.keep(task)
        await client.kept()
        asana.webhooks.clear()  # type: ignore[attr-defined] # its face is read-only
        await advance(asana, LOOK, client=client)
        await client.kept()
        assert watched(asana) == sorted(tasks)
        await until(lambda: [each.kind for each in notices].count("lost") == 12)
        assert "11 webhooks are missing from Asana's list" in notices[11].detail


async def test_record_that_shows_failures_is_a_notice_and_so_is_its_end(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        record = asana.webhooks[webhook.gid]
        record.delivery_retry_count = 16
        record.failure_deletion_timestamp = asana.now
        await advance(asana, 2 * LOOK, client=client)
        await until(lambda: kinds(notices, asana.project) == ["established", "failing"])
        assert "16 retries" in notices[-1].detail
        record.delivery_retry_count, record.failure_deletion_timestamp = 0, None
        await advance(asana, LOOK, client=client)
        expected = ["established", "failing", "restored"]
        await until(lambda: kinds(notices, asana.project) == expected)


async def test_silence_of_nine_hours_is_a_notice(
    make: MakeClient, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    async with make() as client:
        await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("cut-connections")
        await advance(asana, hours=8.5, client=client)
        assert "silent" not in kinds(notices, asana.project)
        await advance(asana, hours=1, client=client)
        await until(lambda: "silent" in kinds(notices, asana.project))


async def test_none_never_looks_but_keeps_what_it_is_told_to(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make(look_after=None) as client:
        client.keep(asana.project)
        await client.kept()
        (gid,) = asana.webhooks
        remove(asana, gid)
        await advance(asana, days=1, client=client)
        assert not asana.webhooks


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -float("inf"), float("nan")])
async def test_interval_that_is_not_positive_is_refused(seconds: float) -> None:
    url = "https://hooks.example.com"
    with pytest.raises(ValueError, match="look_after must be a number of seconds"):
        WebhooksClient("a-token", public_url=url, store="memory:", look_after=seconds)


@pytest.mark.parametrize("error", [StoreError("the disk is full"), RuntimeError("a bug")])
async def test_whatever_fails_does_not_end_the_looking(
    make: MakeClient,
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    class Failing(MemoryStore):
        failures: list[Exception] = []  # noqa: RUF012 - of one test

        async def list_routes(self, *resource: Any, **account: Any) -> Any:
            if self.failures:
                raise self.failures.pop()
            return await super().list_routes(*resource, **account)

    store = Failing()
    async with make(store=store, reconcile=None) as client:
        webhook = await client.ensure(asana.project)
        store.failures = [error]
        await advance(asana, LOOK, client=client)
        remove(asana, webhook.gid)
        await advance(asana, LOOK + 60, client=client)
        assert watched(asana) == [asana.project]
    (record,) = (each for each in caplog.records if each.name.endswith("_desired"))
    expected = isinstance(error, StoreError)
    assert record.levelno == (logging.WARNING if expected else logging.ERROR)
    assert (record.exc_info is None) == expected


async def test_lists_that_are_refused_are_made_good_by_asking_for_each(
    make: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        remove(asana, webhook.gid)
        monkeypatch.setattr(client._parts().upkeep, "list_webhooks", refused)
        await advance(asana, LOOK, client=client)
        await client.kept()
        assert watched(asana) == [asana.project]


async def refused() -> None:
    raise ValueError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AuthenticationError(401, ("Not Authorized",)), "unauthorized"),
        (RateLimitedError(429, ("Slow down",)), "limited"),
    ],
    ids=["unauthorized", "limited"],
)
async def test_token_that_is_refused_is_a_notice_and_is_tried_again(
    make: MakeClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    notices: list[Notice],
    error: Exception,
    kind: str,
) -> None:
    if isinstance(error, RateLimitedError):
        error.retry_after = 120.0
    async with make() as client:
        webhook = await client.ensure(asana.project)
        upkeep = client._parts().upkeep
        original, failures = upkeep.list_webhooks, [error, error]

        async def list_webhooks() -> object:
            if failures:
                raise failures.pop()
            return await original()

        monkeypatch.setattr(upkeep, "list_webhooks", list_webhooks)
        remove(asana, webhook.gid)
        await advance(asana, LOOK + 300.0, client=client)
        assert not failures
        assert watched(asana) == [asana.project]
        await until(lambda: kinds(notices, "") == [kind])


# What a program changes meanwhile


async def test_filters_that_were_updated_are_kept(make: MakeClient, asana: AsanaSimulator) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        await client.update_webhook(webhook.gid, filters=[REMOVED])
        await advance(asana, LOOK, client=client)
        assert actions(asana) == [["removed"]]
        remove(asana, webhook.gid)
        await advance(asana, LOOK, client=client)
        assert actions(asana) == [["removed"]]


@pytest.mark.parametrize("kept", [..., [REMOVED]], ids=["handlers'", "others"])
@pytest.mark.parametrize("given", [None, [ADDED]], ids=["every event", "some"])
async def test_ensure_overrides_the_filters_that_are_kept_and_says_so_once(
    make: MakeClient,
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
    kept: Any,
    given: list[WebhookFilter] | None,
) -> None:
    client = make()

    @client.on("task", action="removed")
    async def handle(event: Event) -> None: ...

    client.keep(asana.project, filters=kept)
    async with client:
        await client.kept()
        assert actions(asana) == [["removed"]]
        await client.ensure(asana.project, filters=given)
        await client.ensure(asana.project, filters=given)
        await advance(asana, LOOK, client=client)
        assert actions(asana) == [["added"] if given else []]
        (said,) = [text for text in caplog.messages if "overrides keep" in text]
        assert asana.project in said
        assert ("every event" in said) is (given is None)
        client.keep(asana.project, filters=kept)
        await until(lambda: actions(asana) == [["removed"]])


@pytest.mark.parametrize("kept", [None, [ADDED]], ids=["every event", "some"])
async def test_ensure_with_the_filters_that_are_kept_says_nothing(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture, kept: Any
) -> None:
    client = make()
    client.keep(asana.project, filters=kept)
    async with client:
        await client.kept()
        await client.ensure(asana.project, filters=kept)
        assert "overrides keep" not in caplog.text


async def test_filters_that_another_program_changed_are_brought_up_to_date(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        async with WebhooksApi("a-token", base_url=asana.base_url) as api:
            await api.update_webhook(webhook.gid, filters=[REMOVED])
        await advance(asana, LOOK, client=client)
        assert actions(asana) == [["added"]]
        assert set(asana.webhooks) == {webhook.gid}


async def test_updating_another_webhook_of_the_resource_changes_nothing(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        ensured = await client.ensure(asana.project, filters=[ADDED])
        other = await client.establish(asana.project, filters=[ADDED])
        await client.update_webhook(other.gid, filters=[REMOVED])
        await advance(asana, LOOK, client=client)
        kept = {gid: record.filters[0]["action"] for gid, record in asana.webhooks.items()}
        assert kept == {ensured.gid: "added", other.gid: "removed"}


async def test_deleted_webhook_is_kept_no_longer(make: MakeClient, asana: AsanaSimulator) -> None:
    async with make() as client:
        task = await asana.create_task("Fix the login", project=asana.project)
        client.keep(task)
        webhook = await client.ensure(asana.project)
        await client.kept()
        await client.delete_webhook(webhook.gid)
        await advance(asana, 2 * LOOK, client=client)
        assert watched(asana) == [task]


async def test_deleting_another_webhook_of_the_resource_does_not_end_the_keeping(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        ensured = await client.ensure(asana.project)
        other = await client.establish(asana.project)
        await client.delete_webhook(other.gid)
        remove(asana, ensured.gid)
        await advance(asana, LOOK, client=client)
        assert watched(asana) == [asana.project]


async def test_deleted_webhook_that_was_to_be_replaced_is_kept_no_longer(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        asana.faults.add("no-handshake")
        remove(asana, webhook.gid)
        await advance(asana, LOOK, client=client)
        await client.delete_webhook(webhook.gid)
        asana.faults.clear()
        await advance(asana, 2 * LOOK, client=client)
        assert not asana.webhooks


@pytest.mark.parametrize("what", ["delete", "update", "leave"])
async def test_change_waits_for_work_under_way_and_holds(
    make: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The webhook has been read already, and is about to be changed."""
    async with make() as client:
        webhook = await client.ensure(asana.project, filters=[ADDED])
        reached, go_on = held_after_reading(client, monkeypatch)
        client.keep(asana.project, filters=[ADDED])
        desired_of(client)._desired[asana.project].established = False
        desired_of(client).wake()
        await reached.wait()
        changing = asyncio.create_task(change(client, what, webhook))
        await asyncio.wait([changing], timeout=0.02)  # it would be done, if it did not wait
        go_on.set()
        await changing
        await advance(asana, LOOK, client=client)
        assert actions(asana) == ([["removed"]] if what == "update" else [])


async def change(client: WebhooksClient, what: str, webhook: Webhook) -> None:
    if what == "delete":
        await client.delete_webhook(webhook.gid)
    elif what == "leave":
        assert webhook.resource is not None
        await client.leave(webhook.resource.gid)
    else:
        await client.update_webhook(webhook.gid, filters=[REMOVED])


def held_after_reading(
    client: WebhooksClient, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the next reading of a webhook between the reading and what is done then."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    api = client._parts().upkeep._api
    original = api.get_webhook

    async def get_webhook(gid: str) -> Webhook:
        webhook = await original(gid)
        reached.set()
        await go_on.wait()
        return webhook

    monkeypatch.setattr(api, "get_webhook", get_webhook)
    return reached, go_on


async def test_leaving_ends_a_create_call_that_is_under_way(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    asana.faults.add("slow-201")
    async with make(store=store) as client:
        client.keep(asana.project)
        await eventually(lambda: has_candidate(store))
        await client.leave(asana.project)
        await client.kept(timeout=1.0)
        assert await store.list_routes() == []
        asana.release_201.set()
        await until(lambda: not asana.webhooks)


async def has_candidate(store: MemoryStore) -> bool:
    return any(route.candidates for route in await store.list_routes())


@pytest.mark.parametrize("cancelled", [False, True], ids=["closed", "cancelled"])
async def test_closing_while_it_establishes_leaves_no_webhook_and_no_route(
    make: MakeClient, asana: AsanaSimulator, *, cancelled: bool
) -> None:
    store = MemoryStore()
    asana.faults.add("slow-201")
    with anyio.CancelScope() as scope:
        async with make(store=store) as client:
            client.keep(asana.project)
            await eventually(lambda: has_candidate(store))
            if cancelled:
                scope.cancel()
                await checkpoint()
    assert await store.list_routes() == []
    asana.release_201.set()
    await until(lambda: not asana.webhooks)


# Other processes that share the store


async def delete_beside(client: WebhooksClient, asana: AsanaSimulator, gid: str) -> None:
    """Delete a webhook as `asana-webhooks delete` does: at Asana, then in the store."""
    store = client._opened().store
    async with WebhooksApi("a-token", base_url=asana.base_url) as api:
        await api.delete_webhook(gid)
    (route,) = [route for route in await store.list_routes() if route.gid == gid]
    await store.retire(route.id)


async def test_webhook_that_another_process_deleted_is_not_brought_back(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        client.keep(asana.project)
        await client.kept()
        (gid,) = asana.webhooks
        await delete_beside(client, asana, gid)
        await advance(asana, 2 * LOOK, client=client)
        assert not asana.webhooks
        said = f"webhook {gid} of {asana.project} was deleted by another"
        assert caplog.text.count(said) == 1
        again = await client.ensure(asana.project)  # whoever ensures it wants it
        assert set(asana.webhooks) == {again.gid}


async def test_webhook_that_another_process_found_lost_is_established_again(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    async with make() as client:
        webhook = await client.ensure(asana.project)
        store = client._opened().store
        remove(asana, webhook.gid)
        (route,) = await store.list_routes()
        await store.retire(route.id, lost=True)
        await advance(asana, LOOK, client=client)
        await client.kept()
        assert watched(asana) == [asana.project]


async def test_webhook_that_another_process_replaced_is_still_kept(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        first = await client.ensure(asana.project)
        await delete_beside(client, asana, first.gid)
        second = await client._parts().establishment.establish(
            asana.project, filters=None, timeout=60.0
        )
        await advance(asana, LOOK, client=client)
        assert set(asana.webhooks) == {second.gid}
        remove(asana, second.gid)
        await advance(asana, LOOK, client=client)
        assert watched(asana) == [asana.project]
    assert "no longer" not in caplog.text


async def test_webhook_that_another_process_is_making_is_waited_for(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        first = await client.ensure(asana.project)
        await delete_beside(client, asana, first.gid)
        parts = client._opened()
        route = Route(id="r" * 32, target="http://elsewhere/x", resource=asana.project)
        await parts.store.reserve(route, ttl=3600)
        await advance(asana, LOOK, client=client)
    assert "no longer" not in caplog.text


# Where another server listens


async def test_server_that_does_not_listen_yet_is_waited_for_without_a_word(
    make: MakeClient, asana: AsanaSimulator, free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(serve=False)
    client.keep(asana.project)
    async with client:
        await until(asana.create_started.is_set)
        await anyio.sleep(0.1)
        assert "could not be established" not in caplog.text
        from aiohttp import web

        app = web.Application()
        app.add_subapp("/hooks", client.aiohttp_app())
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", free_port).start()
        try:
            await client.kept(timeout=20.0)
        finally:
            await runner.cleanup()
        assert watched(asana) == [asana.project]


async def test_server_that_never_listens_is_a_warning_after_a_while(
    make: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    client = make(serve=False)
    client.keep(asana.project)
    async with client:
        await advance(asana, 10.0, client=client)
        assert "could not be established" not in caplog.text
        await advance(asana, 60.0, client=client)
        assert caplog.text.count("could not be established") == 1
        assert "Does the server listen already?" in caplog.text
        assert "client.keep" not in caplog.text  # which was done


# Alone


async def test_locks_live_while_they_are_in_use(make: MakeClient) -> None:
    async with make() as client:
        desired = desired_of(client)
        async with desired.lock("12"):
            assert desired.lock("12").locked()
            assert not desired.lock("13").locked()
        gc.collect()
        assert len(desired._locks) == 0


def test_pauses_double_up_to_ten_minutes() -> None:
    pauses = [module._pause_after(failures) for failures in range(1, 40)]
    assert 0.9 <= pauses[0] <= 1.0
    assert 1.8 <= pauses[1] <= 2.0
    assert all(540 <= pause <= 600 for pause in pauses[10:])
    assert len(set(pauses)) == len(pauses)


async def test_what_could_not_be_ensured_is_not_kept(
    make: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Webhook:
        msg = "Asana did not answer"
        raise ConnectionFailedError(msg)

    async with make() as client:
        monkeypatch.setattr(client._parts().upkeep, "ensure", fail)
        with pytest.raises(ConnectionFailedError):
            await client.ensure(asana.project)
        await client.kept(timeout=1.0)


async def test_running_client_hands_events_to_handlers_that_come_later(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client, seen = make(), list[str]()
    client.keep(asana.project, filters=None)
    async with client.running() as same:
        assert same is client
        await client.kept()
        task = await asana.create_task("Fix the login", project=asana.project)

        @client.on("task", action="added")
        async def handle(event: Event) -> None:
            seen.append(event.resource.gid)

        await until(lambda: task in seen)
    assert not client.is_open
    with pytest.raises(RuntimeError, match="closed"):
        await client.get_webhook("1")


async def test_work_beside_a_running_client_may_use_it(
    make: MakeClient, asana: AsanaSimulator
) -> None:
    client = make()
    async with client.running(), background_task(client.ensure(asana.project), "ensuring") as work:
        webhook = await work
        assert set(asana.webhooks) == {webhook.gid}
