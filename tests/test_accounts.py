"""Accounts: many Asana users in one client, at the local Asana with a token for each of them."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import anyio
import httpx
import pytest
from conftest import eventually, over_each_store, until
from support.tracebacks import shown_by

from asana_webhooks import (
    Account,
    AccountTokenError,
    AuthenticationError,
    Event,
    MemoryStore,
    Notice,
    WebhookFilter,
    WebhooksClient,
    _asana_transport,
)
from asana_webhooks import _accounts as module
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store
from asana_webhooks.testing import advance

NAMES = ("acme", "globex", "initech")


class Users:
    """Users of the local Asana, each with a token and a project that others do not see.

    ``loads`` counts how often the token of each was asked for.
    """

    def __init__(self, asana: AsanaSimulator) -> None:
        self.asana = asana
        self.tokens: dict[str, str | httpx.Auth] = {}
        self.gids: dict[str, str] = {}
        self.projects: dict[str, str] = {}
        self.loads = Counter[str]()

    async def add(self, name: str) -> None:
        self.tokens[name] = f"token-of-{name}"
        user = await self.asana.add_user(name, token=f"token-of-{name}")
        self.gids[name] = user
        self.projects[name] = await self.asana.create_project(name, user=user, members=[])

    async def load(self, account: str) -> str | httpx.Auth:
        self.loads[account] += 1
        return self.tokens[account]

    async def change(self, name: str) -> str:
        """Create a task in the project of a user."""
        return await self.asana.create_task("Fix it", project=self.projects[name])

    def webhooks(self, name: str) -> list[str]:
        """Return the gids of the webhooks on the project of a user."""
        webhooks = self.asana.webhooks.values()
        return [each.gid for each in webhooks if each.resource == self.projects[name]]

    def assert_own_tokens(self) -> None:
        """Fail if any call that names what is of one user was made by another."""
        owners = {gid: name for name, gid in self.projects.items()}
        owners |= {gid: name for name in self.projects for gid in self.webhooks(name)}
        for call in self.asana.calls():
            assert call.token in {f"token-of-{name}" for name in self.projects}
            named = {*call.path.split("/"), *call.query.replace("=", "&").split("&")}
            for gid in named & owners.keys():
                assert call.token == f"token-of-{owners[gid]}", call


@pytest.fixture
async def users(asana: AsanaSimulator) -> Users:
    users = Users(asana)
    for name in NAMES:
        await users.add(name)
    return users


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def make(
    asana: AsanaSimulator, free_port: int, users: Users, store: Store, notices: list[Notice]
) -> Callable[..., WebhooksClient]:
    """Return a function that makes clients of these users, which share a store."""

    def make(**options: Any) -> WebhooksClient:
        options = {
            "tokens": users.load,
            "public_url": f"http://127.0.0.1:{free_port}/hooks",
            "port": free_port,
            "store": store,
            "base_url": asana.base_url,
            "reconcile": None,
            **options,
        }
        client = WebhooksClient(**options)

        @client.on_notice()
        async def note(notice: Notice) -> None:
            notices.append(notice)

        return client

    return make


Make = Callable[..., WebhooksClient]


def accounts_of(notices: list[Notice], kind: str) -> list[str]:
    return [each.source.account for each in notices if each.kind == kind]


async def keep_all(client: WebhooksClient, users: Users) -> None:
    for name in NAMES:
        client.account(name).keep(users.projects[name])
    for name in NAMES:
        await client.account(name).kept()


# Whose token


async def test_each_account_is_called_for_with_its_own_token_alone(
    make: Make, users: Users, asana: AsanaSimulator
) -> None:
    client = make(reconcile=3600.0)
    async with client:
        await keep_all(client, users)
        for name in NAMES:
            account = client.account(name)
            (gid,) = users.webhooks(name)
            await account.ensure(users.projects[name], filters=[WebhookFilter(action="added")])
            await account.update_webhook(gid, filters=[WebhookFilter(action="changed")])
            await account.get_webhook(gid)
            await account.prune()
        await advance(asana, 3600.0, client=client)
        await client.reconcile()
        users.assert_own_tokens()
        for name in NAMES:
            await client.account(name).leave(users.projects[name])
        users.assert_own_tokens()
    assert not asana.webhooks
    assert users.loads == dict.fromkeys(NAMES, 1)


@over_each_store
async def test_after_a_restart_the_accounts_of_the_store_are_looked_after(
    make: Make, users: Users, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    async with make() as client:
        await keep_all(client, users)
    (lost,) = users.webhooks("acme")
    del asana.webhooks[lost]  # type: ignore[attr-defined] # its face is read-only
    before = len(asana.calls())
    async with make() as client:
        await until(lambda: accounts_of(notices, "lost") == ["acme"])
        everyone = set(users.gids.values())
        await until(lambda: {call.user for call in asana.calls()[before:]} == everyone)
    users.assert_own_tokens()


async def test_token_is_loaded_once_for_calls_at_once(make: Make, users: Users) -> None:
    began, goes_on = asyncio.Event(), asyncio.Event()

    async def load(account: str) -> str | httpx.Auth:
        began.set()
        await goes_on.wait()
        return await users.load(account)

    async with make(tokens=load) as client, anyio.create_task_group() as tasks:
        acme = client.account("acme")
        for _ in range(5):
            tasks.start_soon(_list_workspaces, acme)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await _list_workspaces(acme)
        await began.wait()
        goes_on.set()
    assert users.loads["acme"] == 1


async def _list_workspaces(account: Account) -> int:
    return len([each async for each in account.iter_workspaces()])


async def test_token_is_loaded_anew_when_asana_refuses_it(
    make: Make, users: Users, asana: AsanaSimulator
) -> None:
    async with make() as client:
        acme = client.account("acme")
        await _list_workspaces(acme)
        await asana.remove_user(users.gids["acme"])
        with pytest.raises(AuthenticationError):  # it is the same one: asking again cannot help
            await _list_workspaces(acme)
        assert users.loads["acme"] == 2
        users.tokens["acme"] = "token-of-acme-2"
        await asana.add_user("acme again", token="token-of-acme-2")
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(_list_workspaces, acme)
    assert users.loads["acme"] == 3
    assert asana.calls()[-1].token == "token-of-acme-2"


class Signed(httpx.Auth):
    """An authentication that shows a new token after each refusal."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = f"Bearer {self.tokens[0]}"
        response = yield request
        if response.status_code == 401:
            self.tokens.pop(0)
            request.headers["Authorization"] = f"Bearer {self.tokens[0]}"
            yield request


async def test_account_may_be_authenticated_by_an_object(
    make: Make, users: Users, asana: AsanaSimulator
) -> None:
    await asana.remove_user(await asana.add_user("gone", token="old"))
    users.tokens["acme"] = Signed("old", "token-of-acme")
    async with make() as client:
        await _list_workspaces(client.account("acme"))
    assert [call.status for call in asana.calls("GET", "/workspaces")] == [401, 200]
    assert asana.calls()[-1].token == "token-of-acme"
    assert users.loads == {"acme": 1}


@pytest.mark.parametrize(
    ("raised", "is_final"), [(KeyError("acme"), True), (OSError("no database"), False)]
)
async def test_account_without_a_token_makes_no_call(
    make: Make, asana: AsanaSimulator, *, raised: Exception, is_final: bool
) -> None:
    async def load(account: str) -> str:
        raise raised

    async with make(tokens=load) as client:
        with pytest.raises(AccountTokenError, match=f"'acme'.*{type(raised).__name__}") as caught:
            await _list_workspaces(client.account("acme"))
    assert caught.value.is_final is is_final
    assert not asana.calls()


async def test_call_of_the_client_itself_says_whose_token_is_missing(make: Make) -> None:
    async def load(account: str) -> str:
        raise KeyError(account)

    async with make(tokens=load) as client:
        with pytest.raises(AccountTokenError, match=r"return one for '' too") as caught:
            await _list_workspaces(client)
    assert "remove the account" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "two words", b"two words"])
async def test_what_is_no_token_is_refused_without_being_shown(
    make: Make, asana: AsanaSimulator, token: Any
) -> None:
    async def load(account: str) -> str:
        return token  # type: ignore[no-any-return]

    async with make(tokens=load) as client:
        with pytest.raises(AccountTokenError) as caught:
            await _list_workspaces(client.account("acme"))
    assert "two words" not in shown_by(caught.value)
    assert not asana.calls()


@pytest.mark.parametrize("ended_by", ["load", "remove_account"])
async def test_loading_that_is_cancelled_cancels_no_call(make: Make, ended_by: str) -> None:
    began = asyncio.Event()

    async def load(account: str) -> str:
        began.set()
        if ended_by == "load":
            raise asyncio.CancelledError
        await anyio.sleep_forever()
        raise AssertionError

    async with make(tokens=load) as client:
        call = asyncio.create_task(_list_workspaces(client.account("acme")))
        await began.wait()
        if ended_by == "remove_account":
            await client.remove_account("acme")
        with pytest.raises(AccountTokenError, match=r"'acme'.*cancelled"):
            await call


async def test_user_is_asked_for_again_when_the_token_is_another(
    make: Make, users: Users, asana: AsanaSimulator
) -> None:
    async with make() as client:
        acme = client.account("acme")
        assert (await acme.me())["gid"] == users.gids["acme"]
        await asana.remove_user(users.gids["acme"])
        users.tokens["acme"] = "token-of-another"
        another = await asana.add_user("another", token="token-of-another")
        await _list_workspaces(acme)
        assert (await acme.me())["gid"] == another


async def test_loading_ends_after_its_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOAD_SECONDS", 0.01)

    async def load(account: str) -> str:
        await anyio.sleep_forever()
        raise AssertionError

    async with make(tokens=load) as client:
        with pytest.raises(AccountTokenError, match="TimeoutError"):
            await _list_workspaces(client.account("acme"))


# Troubles of one account


async def test_token_that_no_longer_works_disturbs_no_other_account(
    make: Make, users: Users, asana: AsanaSimulator, notices: list[Notice]
) -> None:
    client = make(reconcile=3600.0)
    handled = list[str]()

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.source.account)

    async with client.running():
        await keep_all(client, users)
        await asana.remove_user(users.gids["acme"])
        await advance(asana, 7_200.0, client=client)
        assert accounts_of(notices, "unauthorized") == ["acme"]
        assert [each.source.resource for each in notices if each.kind == "unauthorized"] == [""]
        await users.change("globex")
        await until(lambda: "globex" in handled)
        before = len(asana.calls(token="token-of-initech"))
        await advance(asana, 3_600.0, client=client)
        events = asana.calls("GET", f"/projects/{users.projects['initech']}/events")
        assert len(asana.calls(token="token-of-initech")) > before
        assert all(call.status == 200 for call in events[1:])


async def test_mistake_of_one_account_is_logged_and_ends_no_other(
    make: Make, users: Users, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = make()
    async with client:
        await keep_all(client, users)
        acme = client.account("acme")

        def fail() -> float:
            msg = "no number"
            raise ArithmeticError(msg)

        monkeypatch.setattr(acme._parts().desired, "_pause", fail)
        acme.keep(users.projects["acme"])
        await until(lambda: "'acme' is looked after no longer" in caplog.text)
        running = {each.get_name() for each in asyncio.all_tasks()}
        assert "asana-webhooks looking after globex" in running
        assert "asana-webhooks looking after acme" not in running


async def test_account_whose_token_hangs_holds_up_no_other(make: Make, users: Users) -> None:
    async def load(account: str) -> str | httpx.Auth:
        if account == "acme":
            await anyio.sleep_forever()
        return await users.load(account)

    client = make(tokens=load)
    async with client:
        for name in NAMES:
            client.account(name).keep(users.projects[name])
        await client.account("globex").kept()
        await client.account("initech").kept()
        assert users.webhooks("acme") == []


# Events


async def test_event_tells_its_account_and_leads_to_it(make: Make, users: Users) -> None:
    client = make()
    handled = list[tuple[str, Account]]()

    @client.on("task", action="added", account="globex")
    async def of_globex(event: Event) -> None:
        handled.append(("globex", client.of(event)))

    @client.on("task", action="added")
    async def of_any(event: Event) -> None:
        handled.append(("any", client.of(event)))

    async with client.running():
        await keep_all(client, users)
        await users.change("acme")
        await users.change("globex")
        acme, globex = client.account("acme"), client.account("globex")
        wanted = {("any", acme), ("any", globex), ("globex", globex)}
        await until(lambda: set(handled) == wanted)
        stats = await client.stats()
        continuity = await client.continuity()
        assert {each.account for each in stats.webhooks} == set(NAMES)
        assert {each.source.account for each in continuity} == set(NAMES)


async def test_two_accounts_may_watch_one_project(
    make: Make, users: Users, asana: AsanaSimulator
) -> None:
    client = make()
    handled = list[str]()

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.source.account)

    async with client.running():
        for name in ("acme", "globex"):
            await client.account(name).ensure(asana.project)
        await asana.create_task("Fix it", project=asana.project)
        await until(lambda: set(handled) == {"acme", "globex"})
        await client.account("acme").leave(asana.project)
        assert len(asana.webhooks) == 1


# The end of an account


@over_each_store
async def test_removed_account_is_gone_from_asana_and_from_the_store(
    make: Make, users: Users, asana: AsanaSimulator, store: Store
) -> None:
    client = make()
    handled = list[str]()

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.source.account)

    async with client.running():
        await keep_all(client, users)
        await client.remove_account("acme")
        assert users.webhooks("acme") == []
        await eventually(lambda: _is_forgotten(store, "acme"))
        await users.change("acme")
        await users.change("globex")
        await until(lambda: set(handled) == {"globex"})
        loads = users.loads["acme"]
        await client.account("acme").ensure(users.projects["acme"])  # it comes back as a new one
        assert users.loads["acme"] == loads + 1
        users.assert_own_tokens()


async def _is_forgotten(store: Store, account: str) -> bool:
    routes, states = await store.list_routes(account=account), await store.list_states()
    is_known = isinstance(store, MemoryStore) and any(
        scope.startswith(f"{account}/") for scope in store._remembered
    )
    return not routes and not is_known and not any(account in state.scope for state in states)


@over_each_store
async def test_waiting_deliveries_of_a_removed_account_are_handled_before_it_is_forgotten(
    make: Make, users: Users, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, forget, tries = make(), store.forget_account, list[str]()

    async def noted(account: str) -> bool:
        tries.append(account)
        return await forget(account)

    monkeypatch.setattr(store, "forget_account", noted)
    handled = list[str]()

    @client.on("task", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.source.account)

    async with client:
        await keep_all(client, users)
        await users.change("acme")
        await eventually(lambda: _waits(client))
        await client.remove_account("acme")
        await until(lambda: tries)
        assert not await _is_forgotten(store, "acme")
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(client.run())
            await until(lambda: set(handled) == {"acme"})
            await eventually(lambda: _is_settled(client))
            await eventually(lambda: _is_forgotten(store, "acme"))
            running.cancel()


async def _waits(client: WebhooksClient) -> bool:
    return (await client.stats()).waiting > 0


async def _is_settled(client: WebhooksClient) -> bool:
    return not await _waits(client)


@over_each_store
async def test_removal_that_asana_was_not_told_of_is_ended_by_the_next_process(
    make: Make,
    users: Users,
    asana: AsanaSimulator,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asana_transport, "MAX_TRIES", 1)
    async with make() as client:
        await keep_all(client, users)
        asana.faults.add("outage")
        await client.remove_account("acme")
    asana.faults.clear()
    assert len(users.webhooks("acme")) == 1
    async with make():
        await until(lambda: users.webhooks("acme") == [])
        await eventually(lambda: _is_forgotten(store, "acme"))
        assert len(users.webhooks("globex")) == 1


async def test_account_that_the_next_process_keeps_is_not_removed_by_it(
    make: Make,
    users: Users,
    asana: AsanaSimulator,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_asana_transport, "MAX_TRIES", 1)
    async with make() as client:
        await keep_all(client, users)
        asana.faults.add("outage")
        await client.remove_account("acme")
    asana.faults.clear()
    client = make()
    client.account("acme").keep(users.projects["acme"])
    async with client:
        await client.account("acme").kept()
        await advance(asana, 120.0, client=client)
        assert len(users.webhooks("acme")) == 1
        assert all("removing" not in state.scope for state in await store.list_states())


@pytest.mark.parametrize("trouble", ["the token is refused", "there is no token"])
async def test_webhooks_that_the_token_may_not_delete_are_left_and_said(
    make: Make,
    users: Users,
    asana: AsanaSimulator,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    async with make() as client:
        await keep_all(client, users)
    await asana.remove_user(await asana.add_user("new", token="refused"))
    if trouble == "the token is refused":
        users.tokens["acme"] = "refused"
    else:
        del users.tokens["acme"]
    async with make() as client:
        await client.remove_account("acme")
        await eventually(lambda: _is_forgotten(store, "acme"))
    assert "is left at Asana, which ends it within a day" in caplog.text


async def test_account_that_is_kept_again_while_it_is_removed_stays(
    make: Make, users: Users, asana: AsanaSimulator, store: Store
) -> None:
    async with make() as client:
        await keep_all(client, users)
        await users.change("acme")
        await eventually(lambda: _waits(client))  # so that the removal waits
        await client.remove_account("acme")
        client.account("acme").keep(users.projects["acme"])
        await client.account("acme").kept()
        await advance(asana, 120.0, client=client)
        assert len(users.webhooks("acme")) == 1
        assert all("removing" not in state.scope for state in await store.list_states())


async def test_webhook_that_is_being_made_when_its_account_is_removed_is_not_left(
    make: Make, users: Users, asana: AsanaSimulator, store: Store
) -> None:
    asana.faults.add("slow-201")
    async with make() as client:
        client.account("acme").keep(users.projects["acme"])
        await asana.handshake_done.wait()
        await client.remove_account("acme")
        asana.release_201.set()
        await eventually(lambda: _is_forgotten(store, "acme"))
        assert users.webhooks("acme") == []


async def test_mistake_while_an_account_is_removed_ends_no_other_and_is_tried_again(
    make: Make,
    users: Users,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forget, failed = store.forget_account, list[str]()

    async def fail_once(account: str) -> bool:
        if not failed:
            failed.append(account)
            raise ArithmeticError
        return await forget(account)

    monkeypatch.setattr(store, "forget_account", fail_once)
    async with make() as client:
        await keep_all(client, users)
        await client.remove_account("acme")
        await until(lambda: "'acme' is removed later" in caplog.text)
        running = {each.get_name() for each in asyncio.all_tasks()}
        assert "asana-webhooks looking after globex" in running
        await eventually(lambda: _is_forgotten(store, "acme"))


# Names and options


@pytest.mark.parametrize("name", ["a/b", "a\nb", "x" * 201, "\x7f", "\ud800"])
def test_name_that_cannot_be_stored_is_refused(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match="1 to 200 characters"):
        make().account(name)


@pytest.mark.parametrize("name", ["x" * 200, "Größe 7", "a@b.example"])
def test_account_is_the_same_object_each_time(make: Make, name: str) -> None:
    client = make()
    assert client.account(name) is client.account(name)
    assert client.account(name).name == name
    assert client.account("") is client


def test_name_must_be_a_text(make: Make) -> None:
    with pytest.raises(TypeError, match="account must be a text, not int"):
        make().account(7)  # type: ignore[arg-type]


def test_token_and_tokens_are_refused_together(make: Make) -> None:
    with pytest.raises(ValueError, match="either token=.* or tokens="):
        make(token="a-token")


@pytest.mark.parametrize("tokens", ["a-token", lambda account: "a-token"])
def test_tokens_must_be_async(make: Make, tokens: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="tokens must be an async def"):
        make(tokens=tokens)


def test_client_with_one_token_has_no_other_account(
    make_client: Callable[..., WebhooksClient],
) -> None:
    with pytest.raises(RuntimeError, match="give it tokens="):
        make_client().account("acme")


async def test_account_without_a_name_cannot_be_removed(make: Make) -> None:
    async with make() as client:
        with pytest.raises(ValueError, match="1 to 200 characters"):
            await client.remove_account("")


async def test_client_with_one_token_says_whose_webhooks_it_leaves_alone(
    make: Make, users: Users, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as client:
        await keep_all(client, users)
    with caplog.at_level(logging.WARNING, "asana_webhooks"):
        async with make(tokens=None, token="token-of-acme"):
            await until(lambda: caplog.text.count("are not looked after") == len(NAMES))


async def test_calls_of_accounts_need_no_receiver(asana: AsanaSimulator, users: Users) -> None:
    async with WebhooksClient(tokens=users.load, base_url=asana.base_url) as client:
        assert await _list_workspaces(client.account("acme")) == 1
        assert await _list_workspaces(client.account("globex")) == 1
    assert [call.token for call in asana.calls()] == ["token-of-acme", "token-of-globex"]


async def test_client_may_be_entered_again(make: Make, users: Users) -> None:
    client = make()
    for _ in range(2):
        async with client:
            await keep_all(client, users)
    assert all(len(users.webhooks(name)) == 1 for name in NAMES)
