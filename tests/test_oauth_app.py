"""One OAuth app, many accounts: their tokens kept by the program, renewed by one process."""

import asyncio
import gc
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from conftest import until
from support.oauth_logins import CLIENT_ID, CLIENT_SECRET, log_in

from asana_webhooks import (
    AccountTokenError,
    LoginRequiredError,
    MemoryStore,
    StoreError,
    WebhooksClient,
)
from asana_webhooks.auth import OAuthApp, Token, _stored
from asana_webhooks.auth._stored import store_lock
from asana_webhooks.simulator import AsanaSimulator

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Kept:
    """Tokens as a program keeps them, by account; ``saves`` are all that were saved."""

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.saves: list[tuple[str, Token | None]] = []
        self.failures: list[Exception] = []  # which the next loads or saves raise

    async def load(self, account: str) -> Token | None:
        if self.failures:
            raise self.failures.pop()
        return self.tokens.get(account)

    async def save(self, account: str, token: Token | None) -> None:
        if self.failures:
            raise self.failures.pop()
        await anyio.sleep(0.01)  # as a database takes
        self.saves.append((account, token))
        if token is None:
            del self.tokens[account]
        else:
            self.tokens[account] = token

    def expire(self, account: str) -> None:
        self.tokens[account] = msgspec.structs.replace(self.tokens[account], expires_at=LONG_AGO)


Make = Callable[..., WebhooksClient]


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    clients = {CLIENT_ID: CLIENT_SECRET}
    async with AsanaSimulator(retry_delay=0.01, rotates=True, oauth_clients=clients) as simulator:
        yield simulator


@pytest.fixture
async def kept(asana: AsanaSimulator) -> Kept:
    """Return tokens that hold an expired one of the account "acme"."""
    kept = Kept()
    kept.tokens["acme"] = await log_in(asana)
    kept.expire("acme")
    return kept


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def make(asana: AsanaSimulator, kept: Kept, store: MemoryStore, free_port: int) -> Make:
    """Return a function that makes clients that share a store, each as in a process of its own."""

    def make(**options: Any) -> WebhooksClient:
        app = OAuthApp(
            CLIENT_ID, CLIENT_SECRET, load=kept.load, save=kept.save, base_url=asana.base_url
        )
        public_url = f"http://127.0.0.1:{free_port}/hooks"
        shared = {"public_url": public_url, "store": store, "serve": False}
        return WebhooksClient(
            tokens=app, base_url=asana.base_url, reconcile=None, **(options or shared)
        )

    return make


def app_of(client: WebhooksClient) -> OAuthApp:
    assert isinstance(client._load, OAuthApp)
    return client._load


@asynccontextmanager
async def tokens_in_hand(store: MemoryStore) -> AsyncIterator[None]:
    """Hold the lock of the account as another process does."""
    async with store_lock(store, "oauth/acme"):
        yield


# One process at a time


PROGRAM = """
    import asyncio, os, sys
    from datetime import UTC, datetime
    from pathlib import Path

    import msgspec

    from asana_webhooks import WebhooksClient
    from asana_webhooks.auth import OAuthApp, Token

    base_url, directory, times = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)

    async def load(account):
        return msgspec.json.decode((directory / account).read_bytes(), type=Token)

    async def save(account, token):
        await asyncio.sleep(0.02)
        ended = msgspec.structs.replace(token, expires_at=LONG_AGO)  # so each call renews
        new = directory / f"{account}.{os.getpid()}"
        new.write_bytes(msgspec.json.encode(ended))
        new.replace(directory / account)

    async def main():
        app = OAuthApp("the-app", "s3cret", load=load, save=save, base_url=base_url)
        url, store = "http://127.0.0.1:1/hooks", f"sqlite:///{directory / 'hooks.db'}"
        options = {"base_url": base_url, "reconcile": None, "look_after": None}
        async with WebhooksClient(tokens=app, public_url=url, store=store, serve=False, **options):
            print("open", flush=True)
            sys.stdin.readline()
            for _ in range(times):
                auth = app.of("acme")
                await auth._renewed(await auth.stored())

    asyncio.run(main())
"""


@pytest.mark.slow
async def test_processes_that_share_a_store_renew_in_turns(
    asana: AsanaSimulator, kept: Kept, tmp_path: Path
) -> None:
    (tmp_path / "acme").write_bytes(msgspec.json.encode(kept.tokens["acme"]))
    arguments = [sys.executable, "-c", textwrap.dedent(PROGRAM), asana.base_url, str(tmp_path), "5"]
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, stderr=pipe)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open\n"
    ends = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0, 0], ends


async def test_clients_that_share_a_store_renew_once(make: Make, kept: Kept) -> None:
    async with make() as one, make() as other:
        users = await asyncio.gather(one.account("acme").me(), other.account("acme").me())
    assert users[0] == users[1]
    assert [account for account, _ in kept.saves] == ["acme"]


async def test_one_who_was_away_takes_what_another_renewed(make: Make, kept: Kept) -> None:
    async with make() as one, make() as other:
        await one.account("acme").me()
        kept.expire("acme")
        await other.account("acme").me()
        oauth = app_of(one).of("acme")
        assert oauth._token is not None
        oauth._token = msgspec.structs.replace(oauth._token, expires_at=LONG_AGO)
        await one.account("acme").request("GET", "/users/me")
    assert len(kept.saves) == 2


async def test_renewal_waits_for_its_turn(make: Make, kept: Kept, store: MemoryStore) -> None:
    async with make() as client:
        async with tokens_in_hand(store):
            call = asyncio.create_task(client.account("acme").me())
            await until(
                lambda: any("renew the access" in t.get_name() for t in asyncio.all_tasks())
            )
            await anyio.sleep(0.05)
            assert kept.saves == []
        await call
    assert len(kept.saves) == 1


async def test_lock_of_a_process_that_was_killed_lapses(
    make: Make, kept: Kept, store: MemoryStore
) -> None:
    await store.hold("oauth/acme", holder="killed", ttl=0.2, limit=1)
    async with make() as client:
        await client.account("acme").me()
    assert len(kept.saves) == 1


async def test_lock_is_held_for_as_long_as_a_renewal_takes(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored, "TTL", 0.2)
    monkeypatch.setattr(_stored, "RENEW_AFTER", 0.02)
    async with store_lock(store, "oauth/acme"):
        await anyio.sleep(0.3)
        assert await store.hold("oauth/acme", holder="other", ttl=1, limit=1) == 0
    assert await store.hold("oauth/acme", holder="other", ttl=1, limit=1) == 1


async def test_lock_that_is_not_let_go_is_an_error(
    make: Make, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored, "LOCK_SECONDS", 0.05)
    async with make() as client, tokens_in_hand(store):
        with pytest.raises(StoreError, match="oauth/acme was locked for 0.05 s"):
            await client.account("acme").me()


async def test_lock_is_free_after_a_renewal_that_failed(
    make: Make, kept: Kept, store: MemoryStore
) -> None:
    kept.tokens["acme"] = msgspec.structs.replace(kept.tokens["acme"], refresh_token="none")
    async with make() as client:
        with pytest.raises(LoginRequiredError):
            await client.account("acme").me()
    assert await store.hold("oauth/acme", holder="other", ttl=1, limit=1) == 1


async def test_client_without_a_store_renews_by_itself(
    make: Make, kept: Kept, asana: AsanaSimulator
) -> None:
    async with make(http_client=None) as client:
        await asyncio.gather(*(client.account("acme").me() for _ in range(5)))
    assert len(kept.saves) == 1


async def test_client_that_is_not_open_renews_nothing(make: Make, kept: Kept) -> None:
    client = make()
    with pytest.raises(RuntimeError, match="the client is not open"):
        await client.account("acme").me()
    await client.aclose()
    assert kept.saves == []


# Loading and saving


@pytest.mark.parametrize("says_none", [True, False], ids=["None", "LookupError"])
async def test_account_without_a_token_has_none_for_good(
    make: Make, kept: Kept, *, says_none: bool
) -> None:
    if not says_none:
        kept.failures.append(KeyError("globex"))
    async with make() as client:
        with pytest.raises(AccountTokenError, match="account 'globex'") as caught:
            await client.account("globex").me()
    assert caught.value.is_final


async def test_account_whose_token_cannot_be_loaded_may_have_one(make: Make, kept: Kept) -> None:
    kept.failures.append(OSError(f"no route to {CLIENT_SECRET}"))
    async with make() as client:
        with pytest.raises(AccountTokenError, match="could not be loaded: OSError") as caught:
            await client.account("acme").me()
        assert not caught.value.is_final
        assert CLIENT_SECRET not in str(caught.value)
        assert await client.account("acme").me()


async def test_what_is_loaded_is_a_token(make: Make, kept: Kept) -> None:
    kept.tokens["acme"] = "an access token"  # type: ignore[assignment] # as a program may
    async with make() as client:
        with pytest.raises(AccountTokenError, match="could not be loaded: TypeError"):
            await client.account("acme").me()


async def test_token_that_was_not_saved_is_saved_by_the_next_call(
    make: Make, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(account: str, token: Token | None) -> None:
        raise ConnectionError

    async with make() as client:
        oauth = app_of(client).of("acme")
        with monkeypatch.context() as patch:
            patch.setattr(oauth._kept, "_save", fail)
            with pytest.raises(AccountTokenError, match="could not be saved: ConnectionError"):
                await client.account("acme").me()
        assert await client.account("acme").me()
    assert len(kept.saves) == 1


async def test_save_that_hangs_ends(
    make: Make, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_stored, "KEEP_SECONDS", 0.005)
    async with make() as client:
        with pytest.raises(AccountTokenError, match="could not be saved: TimeoutError"):
            await client.account("acme").me()


async def test_login_elsewhere_is_noticed(make: Make, kept: Kept, asana: AsanaSimulator) -> None:
    async with make() as client:
        with pytest.raises(AccountTokenError):
            await client.account("globex").me()
        kept.tokens["globex"] = await log_in(asana)
        assert await client.account("globex").me()


async def test_access_that_is_revoked_is_deleted(make: Make, kept: Kept) -> None:
    async with make() as client:
        await app_of(client).of("acme").revoke()
        assert kept.saves == [("acme", None)]
        with pytest.raises(AccountTokenError):
            await client.account("acme").me()


async def test_app_remembers_no_account_that_nobody_uses(kept: Kept) -> None:
    app = OAuthApp("the-app", load=kept.load, save=kept.save)
    oauth = await app("acme")
    assert await app("acme") is oauth
    del oauth
    gc.collect()
    assert not app._accounts


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"load": dict.get}, "load must be an async def, which takes an account"),
        ({"save": print}, "save must be an async def, which takes an account and a token"),
        ({"client_id": ""}, "client_id must be what Asana's developer console shows"),
        ({"scopes": "webhooks:read"}, "scopes must be a list of texts"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_option_that_cannot_work_is_refused(kept: Kept, options: dict[str, Any], says: str) -> None:
    usual: dict[str, Any] = {"client_id": "the-app", "load": kept.load, "save": kept.save}
    with pytest.raises((ValueError, TypeError), match=says):
        OAuthApp(**(usual | options))
