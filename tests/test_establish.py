import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from conftest import eventually
from msgspec.structs import replace
from support.ports import free_tcp_port

from asana_webhooks import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    EstablishmentError,
    HandshakeMismatchError,
    HandshakeMissingError,
    MemoryStore,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    StoreError,
    Webhook,
    WebhookFilter,
    WebhooksApi,
    WebhooksClient,
)
from asana_webhooks import _establish as module
from asana_webhooks._establish import check_filters, check_given_filters, check_public_url
from asana_webhooks.models import Claim, Resource, Route
from asana_webhooks.simulator import AsanaSimulator

REAL = "https://app.asana.com/api/1.0"
LOCAL = "http://127.0.0.1:8000/api/1.0"


@pytest.fixture(autouse=True)
def quick_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_UPS", (0.0, 0.0, 0.01))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def client(
    make_client: Callable[..., WebhooksClient], store: MemoryStore
) -> AsyncIterator[WebhooksClient]:
    async with make_client(store=store) as client:
        yield client


def api_of(client: WebhooksClient) -> WebhooksApi:
    """Return the calls by which the client establishes."""
    return client._parts().establishment._api


async def held(store: MemoryStore) -> Claim | None:
    return await store.claim(limit=100, lease=1.0)


# The good ending


async def test_established_webhook_is_confirmed_with_the_secret_of_both_ways(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    webhook = await client.establish(asana.project)

    (route,) = await store.list_routes()
    assert route.state == "confirmed"
    assert route.gid == webhook.gid
    assert route.secret == webhook.secret == asana.webhooks[webhook.gid].secret
    assert route.candidates == ()
    assert webhook.target == route.target == asana.webhooks[webhook.gid].target


async def test_each_webhook_has_an_unguessable_route_of_its_own(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    await client.establish(asana.project)
    await client.establish(asana.project)

    first, second = await store.list_routes()
    assert first.id != second.id
    assert len(first.id) == len(second.id) == 32  # 192 bits in base 64


async def test_reservation_is_stored_before_the_create_call(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("slow-handshake")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.establish(asana.project))
        await asana.create_started.wait()
        (route,) = await store.list_routes(asana.project)
        asana.release_handshake.set()
    assert route.state == "reserved"


async def test_filters_travel_to_asana_and_into_the_store(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    wanted = WebhookFilter(resource_type="task", action="changed", fields=["completed"])
    webhook = await client.establish(asana.project, filters=[wanted])
    assert webhook.filters == (wanted,)
    (route,) = await store.list_routes()
    assert route.filters == (wanted,)


# Strangers, and what comes early


@pytest.mark.parametrize("fault", ["stranger-first", "stranger-after", "handshake-twice"])
async def test_genuine_secret_wins(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore, fault: str
) -> None:
    asana.faults.add(fault)
    webhook = await client.establish(asana.project)
    (route,) = await store.list_routes()
    assert route.secret == asana.webhooks[webhook.gid].secret
    assert route.secret != asana.stranger_secret


async def test_five_strangers_make_it_fail_closed(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("strangers-flood")
    with pytest.raises(HandshakeMissingError) as caught:
        await client.establish(asana.project)
    refused = "a handshake for this route, answered 403: this route takes no more secrets"
    assert caught.value.seen.count(refused) == 2
    assert f"{refused}, 2 times. Check that" in str(caught.value)
    assert await store.list_routes() == []
    assert not asana.webhooks


async def test_events_before_the_201_are_kept(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("early-events")
    await client.establish(asana.project)
    await asana.settled()
    claim = await held(store)
    assert claim is not None
    assert len(claim.deliveries) == 1
    assert {attempt.status for attempt in asana.deliveries} == {200}


async def is_waiting(store: MemoryStore) -> bool:
    return (await store.counts()).waiting > 0


async def test_events_before_the_201_wait_until_it_came(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    for fault in ("early-events", "slow-201"):
        asana.faults.add(fault)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.establish(asana.project))
        await asana.handshake_done.wait()
        await eventually(lambda: is_waiting(store))
        assert await held(store) is None
        asana.release_201.set()
    assert await held(store) is not None


# The bad endings


async def test_missing_handshake_joins_what_asana_said_with_what_was_seen(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("no-handshake")
    with pytest.raises(HandshakeMissingError) as caught:
        await client.establish(asana.project)
    assert "did not respond with the handshake secret" in caught.value.asana[0]
    assert caught.value.seen == ()
    assert "no handshake at all" in str(caught.value)
    assert "Check that http://127.0.0.1:" in str(caught.value)
    assert "declare the webhook with client.keep(...)" in str(caught.value)
    assert isinstance(caught.value.__cause__, BadRequestError)
    assert await store.list_routes() == []


async def test_handshake_that_arrives_at_a_wrong_path_is_mentioned(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator, free_port: int
) -> None:
    # The route is cut off on the way: as a proxy does that rewrites paths.
    client = make_client()
    async with client:
        creating = client.create_webhook(asana.project, f"http://127.0.0.1:{free_port}/elsewhere")
        with pytest.raises(BadRequestError, match="404"):
            await creating
        assert client._opened().endpoint.seen("route", 0.0) == (
            "a handshake for an unknown path, answered 404: no webhook here",
        )


async def test_other_secret_in_the_201_deletes_the_webhook_and_what_was_held(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    for fault in ("wrong-secret", "early-events"):
        asana.faults.add(fault)
    with pytest.raises(HandshakeMismatchError):
        await client.establish(asana.project)
    assert not asana.webhooks
    assert await store.list_routes() == []
    assert (await store.counts()).waiting == 0


async def test_201_without_a_secret_adopts_the_only_candidate_loudly(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asana.faults.add("no-secret")
    webhook = await client.establish(asana.project)
    assert webhook.secret == asana.webhooks[webhook.gid].secret
    assert any(
        record.levelno == logging.WARNING and "held no secret" in record.message
        for record in caplog.records
    )


async def test_201_without_a_secret_does_not_choose_between_candidates(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    for fault in ("no-secret", "stranger-first"):
        asana.faults.add(fault)
    with pytest.raises(HandshakeMismatchError, match="several"):
        await client.establish(asana.project)
    assert not asana.webhooks
    assert await store.list_routes() == []


@pytest.mark.parametrize("fault", ["lost-201", "server-error"])
@pytest.mark.parametrize("workspace", [None, "1331"])
async def test_lost_answer_is_made_good_by_looking_the_target_up(
    make_client: Callable[..., WebhooksClient],
    asana: AsanaSimulator,
    store: MemoryStore,
    fault: str,
    workspace: str | None,
) -> None:
    async with make_client(store=store, workspace=workspace) as client:
        other = await client.establish(asana.project)
        asana.faults.add(fault)
        webhook = await client.establish(asana.project)
    first, route = await store.list_routes()
    assert first.gid == other.gid
    assert route.gid == webhook.gid
    assert route.secret == asana.webhooks[webhook.gid].secret


def several_workspaces(
    monkeypatch: pytest.MonkeyPatch, client: WebhooksClient, refusals: dict[str, ApiError | None]
) -> None:
    """Show the token these workspaces before its own: empty ones, and those that refuse."""
    api = api_of(client)
    own_workspaces, own_webhooks = api.iter_workspaces, api.iter_webhooks

    async def iter_workspaces() -> AsyncIterator[Resource]:
        for gid in refusals:
            yield Resource(gid=gid)
        async for workspace in own_workspaces():
            yield workspace

    async def iter_webhooks(workspace: str, **options: Any) -> AsyncIterator[Webhook]:
        refusal = refusals.get(workspace)
        if refusal is not None:
            raise refusal
        if workspace not in refusals:
            async for webhook in own_webhooks(workspace, **options):
                yield webhook

    monkeypatch.setattr(api, "iter_workspaces", iter_workspaces)
    monkeypatch.setattr(api, "iter_webhooks", iter_webhooks)


ELSEWHERE: dict[str, ApiError | None] = {
    "11": None,
    "12": ApiError(402, ("Payment required",)),
    "13": PermissionDeniedError(403, ("Forbidden",)),
    "14": NotFoundError(404, ("Unknown",)),
}


async def test_lost_webhook_is_found_behind_workspaces_that_are_empty_or_refused(
    client: WebhooksClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    several_workspaces(monkeypatch, client, ELSEWHERE)
    asana.faults.add("lost-201")
    webhook = await client.establish(asana.project)
    assert set(asana.webhooks) == {webhook.gid}


async def test_workspaces_that_were_refused_are_named_when_nothing_was_found(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang_up(*_: Any, **__: Any) -> Webhook:
        raise ConnectionFailedError("the connection was cut")

    several_workspaces(monkeypatch, client, ELSEWHERE)
    monkeypatch.setattr(WebhooksApi, "create_webhook", hang_up)
    with pytest.raises(ConnectionFailedError, match="was cut") as caught:
        await client.establish(asana.project)
    assert caught.value.__notes__ == [
        f"it was not looked for in workspace {gid}: {refusal}"
        for gid, refusal in ELSEWHERE.items()
        if refusal is not None
    ]
    assert await store.list_routes() == []


async def test_workspace_that_was_refused_at_an_earlier_look_only_is_not_named(
    client: WebhooksClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang_up(*_: Any, **__: Any) -> Webhook:
        raise ConnectionFailedError("the connection was cut")

    async def refuse_once(*_: Any, **__: Any) -> AsyncIterator[Webhook]:
        if refusals:
            raise refusals.pop()
        for webhook in list[Webhook]():
            yield webhook

    refusals = [PermissionDeniedError(403, ("Forbidden",))]
    monkeypatch.setattr(WebhooksApi, "create_webhook", hang_up)
    monkeypatch.setattr(api_of(client), "iter_webhooks", refuse_once)
    with pytest.raises(ConnectionFailedError) as caught:
        await client.establish(asana.project)
    assert not hasattr(caught.value, "__notes__")


async def test_webhook_that_may_be_left_in_a_workspace_that_was_refused_is_said(
    client: WebhooksClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asana.faults.add("slow-201")
    several_workspaces(monkeypatch, client, ELSEWHERE)
    await cancelled_while(client, asana, asana.handshake_done.wait)
    asana.release_201.set()
    left = (
        "a webhook may be left at Asana, without a receiver: Asana answered 402: Payment required"
    )
    assert left in caplog.text


async def test_lost_answer_with_several_candidates_deletes_the_webhook(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    for fault in ("lost-201", "stranger-first"):
        asana.faults.add(fault)
    with pytest.raises(HandshakeMismatchError):
        await client.establish(asana.project)
    assert not asana.webhooks
    assert await store.list_routes() == []


async def test_lost_answer_without_a_webhook_raises_it_and_leaves_nothing(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hang_up(*_: Any, **__: Any) -> Webhook:
        raise ConnectionFailedError("the connection was cut")

    monkeypatch.setattr(WebhooksApi, "create_webhook", hang_up)
    with pytest.raises(ConnectionFailedError, match="was cut"):
        await client.establish(asana.project)
    assert await store.list_routes() == []


async def test_lost_answer_that_cannot_be_looked_up_says_so(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> AsyncIterator[Resource]:
        raise AuthenticationError(401, ("Not Authorized",))

    asana.faults.add("server-error")
    monkeypatch.setattr(api_of(client), "iter_workspaces", refuse)
    with pytest.raises(ServerError) as caught:
        await client.establish(asana.project)
    assert "could not be found out" in caught.value.__notes__[0]
    assert await store.list_routes() == []


async def test_look_for_a_lost_webhook_that_takes_too_long_says_so(
    client: WebhooksClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> AsyncIterator[Resource]:
        await asyncio.Event().wait()
        yield Resource(gid="1331")

    asana.faults.add("lost-201")
    monkeypatch.setattr(api_of(client), "iter_workspaces", hang)
    monkeypatch.setattr(module, "CLEAN_UP_TIMEOUT", 0.05)
    with pytest.raises(ConnectionFailedError) as caught:
        await client.establish(asana.project)
    assert caught.value.__notes__ == [
        "whether a webhook was made could not be found out: it took too long"
    ]


@pytest.mark.slow
async def test_create_call_without_a_connection_leaves_nothing_to_look_for(
    make_client: Callable[..., WebhooksClient],
    store: MemoryStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nobody = f"http://127.0.0.1:{free_tcp_port()}/api/1.0"
    async with make_client(store=store, base_url=nobody) as client:
        with pytest.raises(ConnectionFailedError, match="refused") as caught:
            await client.establish("8675309", timeout=0.4)
        assert await store.list_routes() == []
    assert not caught.value.sent
    assert "unknown" not in str(caught.value)
    assert "looking for its webhook" not in caplog.text


async def test_create_call_that_takes_too_long_is_a_lost_answer(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("slow-handshake")
    with pytest.raises(ConnectionFailedError, match="within 0.2 s"):
        await client.establish(asana.project, timeout=0.2)
    assert await store.list_routes() == []
    asana.release_handshake.set()
    await asana.settled()
    assert not asana.webhooks  # the late handshake found no route


@pytest.mark.parametrize(
    ("resource", "filters", "error"),
    [
        pytest.param("404404", None, BadRequestError, id="unknown resource"),
        pytest.param("1331", None, BadRequestError, id="workspace without filters"),
    ],
)
async def test_refused_create_call_raises_asanas_error_and_leaves_nothing(
    client: WebhooksClient,
    store: MemoryStore,
    resource: str,
    filters: None,
    error: type[Exception],
) -> None:
    with pytest.raises((error, NotFoundError)):
        await client.establish(resource, filters=filters)
    assert await store.list_routes() == []


@pytest.mark.parametrize("call", ["establish", "ensure"])
@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        ({"resource": "two words"}, ValueError, "resource must be a gid"),
        ({"resource": 1204619}, ValueError, "resource must be a gid"),
        ({"timeout": 0.0}, ValueError, "timeout must be a number of seconds"),
        ({"timeout": float("inf")}, ValueError, "timeout must be a number of seconds"),
        ({"filters": [{"resource_type": "task"}]}, TypeError, "WebhookFilter"),
    ],
    ids=["no-gid", "number", "no-time", "for-ever", "dict"],
)
async def test_what_cannot_be_asked_for_is_refused_before_anything_is_stored(
    make_client: Callable[..., WebhooksClient],
    asana: AsanaSimulator,
    call: str,
    wrong: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    class Untouched(MemoryStore):
        async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
            raise AssertionError

    async with make_client(store=Untouched()) as client:
        with pytest.raises(error, match=match):
            await getattr(client, call)(**{"resource": asana.project, **wrong})


async def test_rate_limit_that_outlasts_the_timeout_is_raised_as_such(
    make_client: Callable[..., WebhooksClient],
) -> None:
    async with (
        AsanaSimulator(retry_after=30) as asana,
        make_client(base_url=asana.base_url) as client,
    ):
        await client.establish(asana.project)  # now it knows whose token it has
        asana.faults.add("rate-limited")
        with pytest.raises(RateLimitedError) as caught:
            await client.establish(asana.project, timeout=29)
    assert caught.value.retry_after == pytest.approx(30, abs=1)


async def test_handshake_answered_by_somebody_else_deletes_the_webhook(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator, store: MemoryStore
) -> None:
    class Deaf(MemoryStore):
        """Says that a handshake was kept, and keeps none: as if another receiver had it."""

        async def add_candidate(self, route: str, secret: str) -> bool:
            return True

    deaf = Deaf()
    async with make_client(store=deaf) as client:
        with pytest.raises(HandshakeMissingError, match="something else answered"):
            await client.establish(asana.project)
    assert not asana.webhooks
    assert await deaf.list_routes() == []


async def test_reservation_that_ran_out_deletes_the_webhook(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    class Late(MemoryStore):
        async def confirm(
            self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
        ) -> bool:
            return False

    late = Late()
    async with make_client(store=late) as client:
        with pytest.raises(HandshakeMissingError, match="ran out"):
            await client.establish(asana.project)
    assert not asana.webhooks
    assert await late.list_routes() == []


async def test_asanas_answer_waits_for_one_call_of_the_store(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    calls: list[str] = []

    class Noting(MemoryStore):
        async def get_route(self, route: str) -> Route | None:
            calls.append("get_route")
            return await super().get_route(route)

        async def list_routes(
            self, resource: str | None = None, *, account: str | None = None
        ) -> list[Route]:
            calls.append("list_routes")
            return await super().list_routes(resource, account=account)

        async def add_candidate(self, route: str, secret: str) -> bool:
            calls.append("add_candidate")
            return await super().add_candidate(route, secret)

        async def confirm(
            self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
        ) -> bool:
            calls.append("confirm")
            return await super().confirm(route, gid=gid, secret=secret, leaving=leaving)

    async with make_client(store=Noting()) as client:
        await client.establish(asana.project)
    after = calls[calls.index("add_candidate") + 1 :]
    assert after[: after.index("confirm")] == []


async def test_store_that_fails_to_list_while_asana_answers_leaves_no_webhook(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    class Damaged(MemoryStore):
        async def list_routes(
            self, resource: str | None = None, *, account: str | None = None
        ) -> list[Route]:
            if resource is not None:
                raise StoreError("it is damaged")
            return await super().list_routes(resource, account=account)

    async with make_client(store=Damaged()) as client:
        with pytest.raises(StoreError, match="it is damaged"):
            await client.establish(asana.project)
    assert not asana.webhooks


async def test_store_that_fails_to_confirm_leaves_no_webhook(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    class Full(MemoryStore):
        async def confirm(
            self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
        ) -> bool:
            raise StoreError("the disk is full")

    async with make_client(store=Full()) as client:
        with pytest.raises(StoreError, match="disk is full"):
            await client.establish(asana.project)
    assert not asana.webhooks


async def test_webhook_that_cannot_be_deleted_is_named_in_the_log(
    client: WebhooksClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refuse(api: WebhooksApi, gid: str) -> None:
        raise AuthenticationError(401, ("Not Authorized",))

    asana.faults.add("wrong-secret")
    monkeypatch.setattr(WebhooksApi, "delete_webhook", refuse)
    with pytest.raises(HandshakeMismatchError):
        await client.establish(asana.project)
    (gid,) = asana.webhooks
    assert f"webhook {gid} may be left at Asana" in caplog.text


async def test_webhook_whose_deletion_is_not_answered_is_named_in_the_log_and_forgotten(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hang(api: WebhooksApi, gid: str) -> None:
        await asyncio.Event().wait()

    asana.faults.add("wrong-secret")
    monkeypatch.setattr(module, "CLEAN_UP_TIMEOUT", 0.05)
    monkeypatch.setattr(WebhooksApi, "delete_webhook", hang)
    with pytest.raises(HandshakeMismatchError):
        await client.establish(asana.project)
    (gid,) = asana.webhooks
    left = f"webhook {gid} may be left at Asana, delete it by hand"
    assert f"{left}: cleaning up did not end" in caplog.text
    assert await store.list_routes() == []


# Cancellation


async def cancelled_while(
    client: WebhooksClient, asana: AsanaSimulator, reached: Callable[[], Any]
) -> None:
    task = asyncio.create_task(client.establish(asana.project))
    await reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_before_the_create_call_leaves_nothing(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    reserving = asyncio.Event()

    class Slow(MemoryStore):
        async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
            reserving.set()
            await anyio.sleep(0.01)
            return await super().reserve(route, ttl=ttl, exclusive=exclusive)

    store = Slow()
    async with make_client(store=store) as client:
        await cancelled_while(client, asana, reserving.wait)
        assert await store.list_routes() == []
    assert not asana.create_started.is_set()


@pytest.mark.parametrize("call", ["establish", "ensure"])
async def test_cancelled_when_the_reservation_is_just_stored_leaves_nothing(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator, call: str
) -> None:
    reserved = asyncio.Event()

    class Slow(MemoryStore):
        async def reserve(self, route: Route, *, ttl: float, exclusive: bool = False) -> bool:
            done = await super().reserve(route, ttl=ttl, exclusive=exclusive)
            if not reserved.is_set():
                reserved.set()
                await asyncio.Event().wait()
            return done

    async with make_client(store=Slow()) as client:
        task = asyncio.create_task(getattr(client, call)(asana.project))
        await reserved.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with anyio.fail_after(5):  # the next call need not wait until a reservation expires
            await client.ensure(asana.project)


async def test_cancelled_during_the_create_call_leaves_nothing(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    asana.faults.add("slow-handshake")
    await cancelled_while(client, asana, asana.create_started.wait)
    assert await store.list_routes() == []
    asana.release_handshake.set()
    await asana.settled()
    assert not asana.webhooks


async def test_cancelled_after_the_handshake_leaves_no_orphan_at_asana(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up = api_of(client).iter_webhooks

    def release_then_look_up(*args: Any, **options: Any) -> AsyncIterator[Webhook]:
        asana.release_201.set()  # Asana comes to its end although the caller has hung up
        return look_up(*args, **options)

    asana.faults.add("slow-201")
    monkeypatch.setattr(api_of(client), "iter_webhooks", release_then_look_up)
    monkeypatch.setattr(module, "LOOK_UPS", (0.0, 0.1, 0.1))
    await cancelled_while(client, asana, asana.handshake_done.wait)
    await asana.settled()
    assert await store.list_routes() == []
    assert not asana.webhooks


async def test_cancelled_after_the_handshake_looks_a_limited_number_of_times(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    async def none_yet(*_: Any, **__: Any) -> AsyncIterator[Webhook]:
        nonlocal looks
        looks += 1
        none: list[Webhook] = []
        for webhook in none:
            yield webhook

    asana.faults.add("slow-201")
    monkeypatch.setattr(api_of(client), "iter_webhooks", none_yet)
    await cancelled_while(client, asana, asana.handshake_done.wait)
    assert looks == 3
    assert await store.list_routes() == []
    asana.release_201.set()


async def test_cancelled_after_the_201_leaves_no_orphan_at_asana(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    confirming = asyncio.Event()

    class Slow(MemoryStore):
        async def confirm(
            self, route: str, *, gid: str, secret: str, leaving: Sequence[str] = ()
        ) -> bool:
            confirmed = await super().confirm(route, gid=gid, secret=secret, leaving=leaving)
            confirming.set()
            await asyncio.Event().wait()
            return confirmed

    store = Slow()
    async with make_client(store=store) as client:
        await cancelled_while(client, asana, confirming.wait)
        assert await store.list_routes() == []
    assert not asana.webhooks


async def test_clean_up_that_fails_does_not_swallow_the_cancellation(
    client: WebhooksClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse() -> AsyncIterator[Resource]:
        raise AuthenticationError(401, ("Not Authorized",))

    asana.faults.add("slow-201")
    monkeypatch.setattr(api_of(client), "iter_workspaces", refuse)
    await cancelled_while(client, asana, asana.handshake_done.wait)
    assert "may be left at Asana" in caplog.text
    asana.release_201.set()


async def test_store_that_fails_to_forget_does_not_swallow_the_cancellation(
    make_client: Callable[..., WebhooksClient],
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def drop(self, route: str) -> Route | None:
            raise StoreError("the disk is full")

    asana.faults.add("slow-handshake")
    async with make_client(store=Broken()) as client:
        await cancelled_while(client, asana, asana.create_started.wait)
    assert "unwanted route may be left in the store: the disk is full" in caplog.text


async def test_webhook_is_looked_for_when_the_store_cannot_say_what_was_echoed(
    make_client: Callable[..., WebhooksClient], asana: AsanaSimulator
) -> None:
    class Broken(MemoryStore):
        async def drop(self, route: str) -> Route | None:
            asana.release_201.set()  # Asana comes to its end although the caller has hung up
            await asana.settled()
            raise StoreError("the disk is full")

    asana.faults.add("slow-201")
    async with make_client(store=Broken()) as client:
        await cancelled_while(client, asana, asana.handshake_done.wait)
    assert not asana.webhooks


async def test_clean_up_that_takes_too_long_is_given_up_and_says_so(
    client: WebhooksClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hang() -> AsyncIterator[Resource]:
        await asyncio.Event().wait()
        yield Resource(gid="1331")

    asana.faults.add("slow-201")
    monkeypatch.setattr(module, "CLEAN_UP_TIMEOUT", 0.05)
    monkeypatch.setattr(api_of(client), "iter_workspaces", hang)
    await cancelled_while(client, asana, asana.handshake_done.wait)
    assert "may be left at Asana, without a receiver: cleaning up did not end" in caplog.text
    asana.release_201.set()


async def test_cancelled_while_looking_for_a_lost_webhook_leaves_nothing(
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looking = asyncio.Event()
    workspaces = api_of(client).iter_workspaces

    async def hang_once() -> AsyncIterator[Resource]:
        if not looking.is_set():
            looking.set()
            await asyncio.Event().wait()
        async for workspace in workspaces():
            yield workspace

    asana.faults.add("lost-201")
    monkeypatch.setattr(api_of(client), "iter_workspaces", hang_once)
    await cancelled_while(client, asana, looking.wait)
    assert await store.list_routes() == []
    assert not asana.webhooks


# ensure


async def test_ensure_finds_the_webhook_that_the_store_holds(
    client: WebhooksClient, asana: AsanaSimulator
) -> None:
    first = await client.ensure(asana.project)
    second = await client.ensure(asana.project)
    assert second.gid == first.gid
    assert second.secret == first.secret
    assert len(asana.webhooks) == 1


async def test_many_ensures_at_once_make_one_webhook(
    client: WebhooksClient, asana: AsanaSimulator
) -> None:
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(client.ensure(asana.project)) for _ in range(10)]
    assert len({task.result().gid for task in made}) == 1
    assert len(asana.webhooks) == 1


async def test_ensure_goes_on_when_the_call_that_it_waited_for_fails(
    client: WebhooksClient, asana: AsanaSimulator
) -> None:
    asana.faults.add("slow-handshake")
    first = asyncio.create_task(client.ensure(asana.project))
    await asana.create_started.wait()
    second = asyncio.create_task(client.ensure(asana.project))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    asana.faults.discard("slow-handshake")
    webhook = await second
    asana.release_handshake.set()
    await asana.settled()
    assert set(asana.webhooks) == {webhook.gid}


async def test_ensure_waits_no_longer_than_its_timeout_for_what_a_killed_process_reserved(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore, free_port: int
) -> None:
    looks = 0
    list_routes = store.list_routes

    async def count(*resource: Any, **account: Any) -> list[Route]:
        nonlocal looks
        looks += 1
        return await list_routes(*resource, **account)

    store.list_routes = count  # type: ignore[method-assign] # counts, and passes on
    left = Route(
        id="left", target=f"http://127.0.0.1:{free_port}/hooks/left", resource=asana.project
    )
    await store.reserve(left, ttl=75.0)
    with anyio.fail_after(30), pytest.raises(EstablishmentError, match="for 1 s: call again"):
        await client.ensure(asana.project, timeout=1.0)
    assert looks <= 7  # after 0.05, 0.15, 0.35, 0.75 and 1 s
    assert not asana.create_started.is_set()
    await store.drop("left")
    await client.ensure(asana.project)


async def test_ensure_updates_filters_that_differ(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    first = await client.ensure(asana.project)
    wanted = [WebhookFilter(resource_type="task", action="added")]
    second = await client.ensure(asana.project, filters=wanted)
    assert second.gid == first.gid
    assert second.filters == tuple(wanted)
    (route,) = await store.list_routes()
    assert route.filters == tuple(wanted)


async def test_ensure_leaves_equal_filters_alone(
    client: WebhooksClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(*fields: str) -> WebhookFilter:
        return WebhookFilter(resource_type="task", action="changed", fields=fields)

    async def refuse(*_: Any, **__: Any) -> Webhook:
        raise AssertionError("nothing differs")

    two = WebhookFilter(resource_type="task", action="added")
    await client.ensure(asana.project, filters=[one("name", "notes"), two])
    monkeypatch.setattr(WebhooksApi, "update_webhook", refuse)
    await client.ensure(asana.project, filters=[two, one("notes", "name")])


async def test_ensure_replaces_a_webhook_that_asana_deleted(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    first = await client.ensure(asana.project)
    del asana.webhooks[first.gid]  # type: ignore[attr-defined] # its face is read-only
    second = await client.ensure(asana.project)
    assert second.gid != first.gid
    (route,) = await store.list_routes()
    assert route.gid == second.gid


async def test_ensure_replaces_a_webhook_whose_secret_cannot_be_read(
    client: WebhooksClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    first = await client.ensure(asana.project)
    (route,) = await store.list_routes()
    store._routes[route.id] = replace(route, secret=None)  # as damaged ciphertext is listed
    second = await client.ensure(asana.project)
    assert set(asana.webhooks) == {second.gid} != {first.gid}
    (route,) = await store.list_routes()
    assert (route.gid, route.secret) == (second.gid, second.secret)


async def test_ensure_replaces_a_webhook_that_is_inactive(
    client: WebhooksClient, asana: AsanaSimulator
) -> None:
    first = await client.ensure(asana.project)
    asana.webhooks[first.gid].active = False
    second = await client.ensure(asana.project)
    assert set(asana.webhooks) == {second.gid}
    assert second.gid != first.gid


async def test_ensure_makes_a_webhook_of_its_own_for_another_address(
    make_client: Callable[..., WebhooksClient],
    client: WebhooksClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    free_port: int,
) -> None:
    first = await client.ensure(asana.project)
    await client.aclose()  # it has the store as long as it is open
    moved = make_client(store=store, public_url=f"http://127.0.0.1:{free_port}/new")
    async with moved:
        second = await moved.ensure(asana.project)
    assert second.gid != first.gid
    assert second.target is not None
    assert second.target.startswith(f"http://127.0.0.1:{free_port}/new/")


# Before any I/O


@pytest.mark.parametrize(
    "url",
    [
        "hooks.example.com/asana",
        "ftp://hooks.example.com",
        "https://",
        "https://hooks.example.com:99999",
        "https://hooks.example.com:0",
        "https://[::1",
        "https://localhost/asana",
        "https://sub.localhost",
        "https://printer.local",
        "https://intranet",
        "https://127.0.0.1",
        "https://10.1.2.3/hooks",
        "https://192.168.0.7",
        "https://[::1]:8443",
        "https://[fd00::1]",
        "https://169.254.169.254",
        "https://hooks.example.com/asana?key=1",
        "https://hooks.example.com/asana#part",
        "https://user:password@hooks.example.com",
        "https://hooks.example.com/asana\n",
        " https://hooks.example.com/asana",
        "https://hooks.example.com/as ana",
    ],
)
def test_address_that_asana_would_refuse_is_refused_at_construction(url: str) -> None:
    with pytest.raises(ValueError, match="public_url|public internet"):
        WebhooksClient("a-token", public_url=url)


@pytest.mark.parametrize("url", ["https://hooks.example.com/asana", "https://8.8.8.8:8443/"])
def test_public_address_is_accepted(url: str) -> None:
    check_public_url(url, REAL)


def test_local_address_is_accepted_by_a_local_asana() -> None:
    check_public_url("http://localhost:8080/asana", LOCAL)


def test_http_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    check_public_url("http://hooks.example.com", REAL)
    assert "public_url is http" in caplog.text


@pytest.mark.parametrize(
    ("item", "rule"),
    [
        (WebhookFilter(resource_type="task", action="completed"), "one of added, changed"),
        (WebhookFilter(resource_type="task", action="added", fields=["name"]), "'changed' only"),
        (WebhookFilter(resource_type="task", fields=["name"]), "'changed' only"),
    ],
)
async def test_filter_that_asana_would_refuse_is_refused_with_the_rule(
    client: WebhooksClient, asana: AsanaSimulator, item: WebhookFilter, rule: str
) -> None:
    for call in (client.establish, client.ensure):
        with pytest.raises(ValueError, match=rule):
            await call(asana.project, filters=[item])
    assert not asana.create_started.is_set()


@pytest.mark.parametrize(
    ("item", "warning"),
    [
        (WebhookFilter(resource_type="tsak"), "no resource type 'tsak'; did you mean 'task'"),
        (
            WebhookFilter(resource_type="task", resource_subtype="milestones"),
            "no task of the subtype 'milestones'; did you mean 'milestone'",
        ),
        (
            WebhookFilter(resource_type="task", action="changed", fields=["name", "complete"]),
            "no task with a field 'complete'; did you mean 'completed'",
        ),
    ],
)
async def test_filter_with_a_misspelt_word_is_warned_of_where_it_was_given(
    client: WebhooksClient, asana: AsanaSimulator, item: WebhookFilter, warning: str
) -> None:
    for call in (client.establish, client.ensure):
        with pytest.warns(UserWarning, match=warning) as warned:
            await call(asana.project, filters=[item])
        assert [each.filename for each in warned] == [__file__]


def test_filters_that_asana_takes_pass() -> None:
    check_filters(None)
    check_given_filters(None)
    check_given_filters([WebhookFilter(resource_type="task", action="changed", fields=["name"])])


async def test_nothing_secret_is_logged(
    client: WebhooksClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for fault in ("stranger-first", "early-events"):
        asana.faults.add(fault)
    webhook = await client.establish(asana.project)
    await asana.settled()
    await client.delete_webhook(webhook.gid)
    route = (webhook.target or "").rsplit("/")[-1]
    for secret in ("a-token", webhook.secret, asana.stranger_secret, route):
        assert secret is not None
        assert secret not in caplog.text


def test_times_are_aware() -> None:
    assert Route(id="r", target="t", resource="1").created_at <= datetime.now(UTC)
