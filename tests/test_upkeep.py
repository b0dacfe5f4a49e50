"""The webhooks that a store holds: whose they are, how they end, and what was left elsewhere."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from conftest import until
from support.ports import free_tcp_port

from asana_webhooks import (
    ConnectionFailedError,
    EstablishmentError,
    MemoryStore,
    Notice,
    PermissionDeniedError,
    ServerError,
    Webhook,
    WebhookFilter,
    WebhooksClient,
)
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import advance

MakeClient = Callable[..., WebhooksClient]

ADDED = WebhookFilter(resource_type="task", action="added")
REFUSED = PermissionDeniedError(403, ("Forbidden",))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class OtherUser:
    """Stands for the user of another token: all tokens of the local Asana are one user's."""

    async def gid(self) -> str:
        return "777"


def become_other_user(client: WebhooksClient) -> None:
    client._configured().accounts.get("").establishment.user = OtherUser()  # type: ignore[assignment] # a stand-in


def refuse(
    client: WebhooksClient, call: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have Asana answer a call of the upkeep with an error."""

    async def refused(*_: object, **__: object) -> Webhook:
        raise error

    monkeypatch.setattr(client._configured().accounts.get("").upkeep._api, call, refused)


async def states(store: MemoryStore) -> list[tuple[str, bool]]:
    return [(route.state, route.leaving) for route in await store.list_routes()]


# Whose it is


async def test_user_of_the_token_is_kept_with_each_webhook(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        (route,) = await store.list_routes()
        assert route.user == asana.user


@pytest.mark.parametrize("by", ["call", "look"])
async def test_webhook_of_an_earlier_version_gets_its_user_at_the_first_look(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore, by: str
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        (route,) = await store.list_routes()
        store._change(route.id, user=None)
        if by == "call":
            await client.ensure(asana.project)
        else:
            await advance(asana, 900, client=client)
        (route,) = await store.list_routes()
        assert route.user == asana.user


async def test_webhook_of_another_user_is_neither_replaced_nor_left(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
    other = make_client(store=store)
    become_other_user(other)
    async with other:
        for work in (other.ensure(asana.project), other.leave(asana.project)):
            with pytest.raises(EstablishmentError) as caught:
                await work
            said = str(caught.value)
            assert f"webhook {webhook.gid} of {asana.project}" in said
            assert "is user 1201's, and the token is user 777's" in said
            assert f"client.forget('{webhook.gid}')" in said
            assert "replace=True" in said
    assert set(asana.webhooks) == {webhook.gid}
    assert await states(store) == [("confirmed", False)]


async def test_kept_webhook_of_another_user_is_named_and_its_absence_proves_nothing(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
    other = make_client(store=store, base_url=asana.base_url)
    other._transport._auth = make_client()._transport._auth
    become_other_user(other)
    other.keep(asana.project)
    async with other:
        await until(lambda: other._configured().accounts.get("").desired._pending()[0].cause)
        with pytest.raises(TimeoutError, match="is user 1201's"):
            await other.kept(timeout=0.01)
        del asana.webhooks[webhook.gid]  # type: ignore[attr-defined] # its face is read-only
        await advance(asana, 1000, client=other)
    assert await states(store) == [("confirmed", False)]


async def test_token_that_may_not_know_its_user_is_nobodys(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        transport = client._transport
        original = transport.call

        async def call(method: str, path: str, *args: Any, **options: Any) -> bytes:
            if path == "/users/me":
                raise REFUSED
            return await original(method, path, *args, **options)

        transport.call = call  # type: ignore[method-assign] # a token without this scope
        for _ in range(2):
            webhook = await client.ensure(asana.project)
            (route,) = await store.list_routes()
            assert (route.gid, route.user) == (webhook.gid, None)


# What Asana refuses


async def test_webhook_that_asana_refuses_is_named_with_the_way_out(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        refuse(client, "get_webhook", REFUSED, monkeypatch)
        with pytest.raises(EstablishmentError) as caught:
            await client.ensure(asana.project)
        assert f"refuses webhook {webhook.gid} of {asana.project}" in str(caught.value)
        assert f"client.forget('{webhook.gid}')" in str(caught.value)
        assert isinstance(caught.value.__cause__, PermissionDeniedError)
        assert await states(store) == [("confirmed", False)]


async def test_missing_webhook_that_asana_refuses_is_a_notice_and_stays(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notices: list[Notice] = []
    client = make_client(store=store)

    @client.on_notice("unauthorized")
    async def note(notice: Notice) -> None:
        notices.append(notice)

    async with client:
        webhook = await client.ensure(asana.project)
        refuse(client, "get_webhook", REFUSED, monkeypatch)
        del asana.webhooks[webhook.gid]  # type: ignore[attr-defined] # its face is read-only
        await advance(asana, 900, client=client)
        assert [each.source.webhook for each in notices] == [webhook.gid]
        assert await states(store) == [("confirmed", False)]


async def test_forgotten_webhook_is_left_alone_at_asana_and_another_is_made_if_it_is_kept(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        await client.forget(webhook.gid)
        await client.kept()
        assert webhook.gid in asana.webhooks
        assert len(asana.webhooks) == 2
        with pytest.raises(ValueError, match=f"holds no webhook {webhook.gid}"):
            await client.forget(webhook.gid)
        with pytest.raises(ValueError, match="gid must be"):
            await client.forget("all")


@pytest.mark.parametrize("hidden", [False, True], ids=["visible", "refused"])
async def test_replaced_webhook_is_deleted_if_it_may_be(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    hidden: bool,
) -> None:
    async with make_client(store=store) as client:
        first = await client.ensure(asana.project)
        if hidden:
            refuse(client, "delete_webhook", REFUSED, monkeypatch)
        second = await client.ensure(asana.project, filters=[ADDED], replace=True)
        assert set(asana.webhooks) == {second.gid} | ({first.gid} if hidden else set())
        (route,) = await store.list_routes()
        assert route.gid == second.gid
        assert ("a webhook is left at Asana" in caplog.text) == hidden


async def test_forgotten_webhook_that_nobody_keeps_is_not_made_again(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(await asana.create_task("Fix the login", project=asana.project))
        webhook = await client.establish(asana.project)
        await client.forget(webhook.gid)
        await advance(asana, 2000, client=client)
        assert len(asana.webhooks) == 2


async def test_webhook_that_two_processes_find_lost_is_one_notice(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.establish(asana.project)
        upkeep = client._configured().accounts.get("").upkeep
        (route,) = await upkeep.routes()
        del asana.webhooks[webhook.gid]  # type: ignore[attr-defined] # its face is read-only
        assert await upkeep.find(route) is None
        assert await upkeep.find(route) is None
        assert (await client.stats()).notices["lost"] == 1


# Leaving


async def test_what_is_left_is_deleted_and_kept_no_longer(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        client.keep(asana.project)
        await client.kept()
        await client.establish(asana.project)
        await client.leave(asana.project)
        assert not asana.webhooks
        assert await store.list_routes() == []
        await advance(asana, 2000, client=client)
        assert not asana.webhooks
        await client.leave(asana.project)
        client.keep(asana.project)
        await client.kept()
        assert len(asana.webhooks) == 1


async def test_leaving_without_asana_is_an_intent_that_is_carried_out_later(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        with monkeypatch.context() as patched:
            refuse(client, "delete_webhook", ConnectionFailedError("no answer"), patched)
            await client.leave(asana.project)
            assert "is deleted as soon as Asana can be told: no answer" in caplog.text
            await advance(asana, 60, client=client)
            assert await states(store) == [("confirmed", True)]
        await advance(asana, 120, client=client)
        assert not asana.webhooks
        assert await store.list_routes() == []


async def test_leaving_is_carried_out_by_the_next_process(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        refuse(client, "delete_webhook", ServerError(503), monkeypatch)
        await client.leave(asana.project)
    async with make_client(store=store, look_after=None) as client:
        await until(lambda: not asana.webhooks)
        again = await client.ensure(asana.project)
        assert set(asana.webhooks) == {again.gid}
        assert await states(store) == [("confirmed", False)]


async def test_leaving_what_asana_refuses_to_delete_says_so_and_is_said_once_later(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        refuse(client, "delete_webhook", REFUSED, monkeypatch)
        with pytest.raises(EstablishmentError, match=f"refuses webhook {webhook.gid}"):
            await client.leave(asana.project)
        await advance(asana, 4000, client=client)
        assert caplog.text.count("a webhook is left at Asana") == 1
        assert await states(store) == [("confirmed", True)]
        await client.forget(webhook.gid)
        assert await store.list_routes() == []


# Another public URL


@pytest.mark.parametrize("work", ["ensure", "establish"])
async def test_webhook_of_an_earlier_address_is_deleted_when_its_successor_is_confirmed(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore, work: str
) -> None:
    async with make_client(store=store) as client:
        first = await client.ensure(asana.project)
        other = await asana.create_task("Fix the login", project=asana.project)
        kept = await client.ensure(other)
    port = free_tcp_port()
    moved = make_client(store=store, port=port, public_url=f"http://127.0.0.1:{port}/moved")
    async with moved:
        second = await getattr(moved, work)(asana.project)
        if work == "establish":
            assert set(asana.webhooks) == {first.gid, kept.gid, second.gid}
            await advance(asana, 900, client=moved)
        assert set(asana.webhooks) == {kept.gid, second.gid}
        gids = {route.gid for route in await store.list_routes()}
        assert gids == {kept.gid, second.gid}


async def test_deletion_at_the_earlier_address_that_fails_is_carried_out_later(
    make_client: MakeClient,
    asana: AsanaSimulator,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
    port = free_tcp_port()
    moved = make_client(store=store, port=port, public_url=f"http://127.0.0.1:{port}/moved")
    async with moved:
        with monkeypatch.context() as patched:
            refuse(moved, "delete_webhook", ConnectionFailedError("no answer"), patched)
            second = await moved.ensure(asana.project)
            assert len(asana.webhooks) == 2
            assert f"that {asana.project} had before is deleted later: no answer" in caplog.text
        await advance(asana, 900, client=moved)
        assert set(asana.webhooks) == {second.gid}


async def test_orphan_that_an_earlier_version_left_at_its_address_goes_too(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        old = Route(
            id="o" * 32, target="http://127.0.0.1:1/old/" + "o" * 32, resource=asana.project
        )
        await store.reserve(old, ttl=60)
        await store.add_candidate(old.id, "s" * 32)
        await store.confirm(old.id, gid="99", secret="s" * 32)
        await client.ensure(asana.project)
        (route,) = await store.list_routes()
        assert route.gid == webhook.gid


# Pruning


async def test_pruning_deletes_what_leads_here_without_a_secret(
    make_client: MakeClient, asana: AsanaSimulator, store: MemoryStore
) -> None:
    async with make_client() as forgetful:
        orphan = await forgetful.ensure(asana.project)
    async with make_client(store=store) as client:
        kept = await client.ensure(asana.project)
        assert [each.gid for each in await client.prune(dry_run=True)] == [orphan.gid]
        assert set(asana.webhooks) == {orphan.gid, kept.gid}
        assert [each.gid for each in await client.prune(workspace=asana.workspace)] == [orphan.gid]
        assert set(asana.webhooks) == {kept.gid}
        assert await client.prune() == []
        with pytest.raises(ValueError, match="workspace must be a gid"):
            await client.prune(workspace="all")


async def test_pruning_says_nothing_of_routes(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asana_webhooks")
    async with make_client() as forgetful:
        orphan = await forgetful.ensure(asana.project)
    async with make_client() as client:
        await client.prune()
    assert (orphan.target or "").rpartition("/")[2] not in caplog.text
