"""OAuth against a small authorization server on a real socket."""

import asyncio
import functools
import logging
import os
import pickle
import re
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
import anyio.from_thread
import httpx
import msgspec
import pytest
from conftest import guard, until
from support import oauth_server
from support.oauth_server import CLIENT_ID, CLIENT_SECRET, OAuthServer
from support.plain_http import NO_TLS

from asana_webhooks import (
    AsanaWebhooksError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    LoginRequiredError,
    PermissionDeniedError,
    RateLimitedError,
    Resource,
    ServerError,
    StoreError,
    WebhooksApi,
)
from asana_webhooks.auth import (
    OUT_OF_BAND,
    AsanaOAuth,
    Authorization,
    Token,
    TokenFile,
    _files,
    login,
)
from asana_webhooks.auth import _oauth as oauth_module

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
EXPIRED = Token(access_token="access-0", refresh_token="refresh-0", expires_at=LONG_AGO)
WORKING = Token(access_token="access-0", refresh_token="refresh-0")

MakeOAuth = Callable[..., AsanaOAuth]


@pytest.fixture
async def server() -> AsyncIterator[OAuthServer]:
    async with oauth_server.run() as running:
        yield running


@pytest.fixture
def make(server: OAuthServer) -> MakeOAuth:
    """Return a function that makes the authentication of one app at the server."""

    def make(token: Token | TokenFile | None = EXPIRED, **options: Any) -> AsanaOAuth:
        options = {"base_url": server.base_url, **options}
        return AsanaOAuth(CLIENT_ID, CLIENT_SECRET, token=token, **options)

    return make


@pytest.fixture
async def file(tmp_path: Path) -> TokenFile:
    kept = TokenFile(tmp_path / "token.json")
    await kept.save(EXPIRED)
    return kept


async def call(auth: AsanaOAuth, server: OAuthServer) -> list[str]:
    async with WebhooksApi(auth, base_url=server.base_url) as api:
        return [workspace.gid async for workspace in api.iter_workspaces()]


async def browse(url: str) -> tuple[int, str]:
    """Open a URL as a browser does, and follow where it leads."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def consent(url: str) -> str:
    """Open the consent page, and return the URL of the redirect."""
    session = aiohttp.ClientSession()
    async with session, session.get(url, allow_redirects=False) as response:
        return response.headers["Location"]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def renewals() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "renew the access" in task.get_name()]


def no_space(number: int) -> None:
    raise OSError(28, "No space left on device")


# Renewing


async def test_fifty_calls_with_an_expired_token_renew_it_once(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make()
    async with WebhooksApi(auth, base_url=server.base_url) as api:

        async def look() -> list[str]:
            return [workspace.gid async for workspace in api.iter_workspaces()]

        assert await asyncio.gather(*(look() for _ in range(50))) == [["1199"]] * 50
    assert server.asked == ["refresh_token"]
    assert set(server.calls) == {"access-1"}


async def test_fifty_calls_that_are_refused_at_once_renew_once(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make(WORKING)
    async with httpx.AsyncClient(verify=NO_TLS, auth=auth) as client:
        answers = await asyncio.gather(
            *(client.get(f"{server.base_url}/workspaces") for _ in range(50))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert server.asked == ["refresh_token"]


async def test_renewal_that_fails_fails_once_for_all_who_wait(
    make: MakeOAuth, server: OAuthServer
) -> None:
    server.refresh.clear()
    auth = make()
    results = await asyncio.gather(*(call(auth, server) for _ in range(10)), return_exceptions=True)
    assert {type(result) for result in results} == {LoginRequiredError}
    assert server.asked == ["refresh_token"]


async def test_good_token_is_used_as_it_is(make: MakeOAuth, server: OAuthServer) -> None:
    server.access.add("access-0")
    later = datetime.now(UTC) + timedelta(hours=1)
    auth = make(msgspec.structs.replace(EXPIRED, expires_at=later))
    assert await call(auth, server) == ["1199"]
    assert await call(auth, server) == ["1199"]
    assert server.asked == []


async def test_token_is_renewed_a_little_before_its_end(
    make: MakeOAuth, server: OAuthServer
) -> None:
    server.access.add("access-0")
    soon = datetime.now(UTC) + timedelta(seconds=oauth_module.MARGIN / 2)
    assert await call(make(msgspec.structs.replace(EXPIRED, expires_at=soon)), server)
    assert server.calls == ["access-1"]


async def test_refused_call_is_sent_again_with_a_new_token(
    make: MakeOAuth, server: OAuthServer
) -> None:
    assert await call(make(WORKING), server) == ["1199"]
    assert server.calls == ["access-0", "access-1"]


async def test_call_that_is_refused_twice_fails(make: MakeOAuth, server: OAuthServer) -> None:
    server.accepts_access_tokens = False
    with pytest.raises(AuthenticationError, match="Asana answered 401: Not Authorized") as caught:
        await call(make(WORKING), server)
    assert not isinstance(caught.value, LoginRequiredError)
    assert server.asked == ["refresh_token"]
    assert server.calls == ["access-0", "access-1"]


async def test_call_that_was_refused_late_takes_the_token_that_others_renewed(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make(WORKING)
    flow = auth.async_auth_flow(httpx.Request("GET", server.base_url))
    await anext(flow)
    assert await call(auth, server) == ["1199"]
    again = await flow.asend(httpx.Response(401))
    assert again.headers["Authorization"] == "Bearer access-1"
    await flow.aclose()
    assert server.asked == ["refresh_token"]


async def test_refresh_token_is_kept_when_asana_sends_no_new_one(
    make: MakeOAuth, server: OAuthServer
) -> None:
    server.rotates, server.lifetime = False, None
    saved: list[Token] = []
    assert await call(make(save=saved.append), server) == ["1199"]
    (token,) = saved
    assert (token.access_token, token.refresh_token) == ("access-1", "refresh-0")
    assert token.expires_at is None


async def test_new_token_lives_as_long_as_asana_says(make: MakeOAuth, server: OAuthServer) -> None:
    saved: list[Token] = []
    assert await call(make(save=saved.append), server) == ["1199"]
    (token,) = saved
    assert not token.expires_within(3590)
    assert token.expires_within(3601)
    assert token.user is not None
    assert (token.user.gid, token.user.name) == ("4321", "Greg Sanchez")


async def test_user_is_remembered_when_asana_does_not_repeat_it(
    make: MakeOAuth, server: OAuthServer
) -> None:
    greg = Resource(gid="4321", name="Greg Sanchez")
    server.access.add("a")
    server.answers = [(200, {"access_token": "a"})]
    saved: list[Token] = []
    auth = make(msgspec.structs.replace(EXPIRED, user=greg), save=saved.append)
    assert await call(auth, server) == ["1199"]
    assert [token.user for token in saved] == [greg]


async def test_given_client_carries_its_own_renewal(make: MakeOAuth, server: OAuthServer) -> None:
    async with httpx.AsyncClient(verify=NO_TLS) as client:
        auth = make(http_client=client)
        client.auth = auth
        response = await client.get(f"{server.base_url}/workspaces")
    assert response.status_code == 200
    assert server.asked == ["refresh_token"]


async def test_renewal_needs_no_connection_but_that_of_the_call(
    make: MakeOAuth, server: OAuthServer
) -> None:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(verify=NO_TLS, limits=limits, timeout=5) as client:
        api = WebhooksApi(
            make(WORKING, http_client=client), base_url=server.base_url, http_client=client
        )
        assert [workspace.gid async for workspace in api.iter_workspaces()] == ["1199"]


# Saving


@pytest.mark.parametrize("is_async", [False, True], ids=["function", "coroutine function"])
async def test_new_token_is_saved_before_it_is_used(
    make: MakeOAuth, server: OAuthServer, *, is_async: bool
) -> None:
    calls_before: list[int] = []

    def save(token: Token) -> None:
        assert token.refresh_token == "refresh-2"
        calls_before.append(len(server.calls))

    async def save_slowly(token: Token) -> None:
        await anyio.sleep(0.05)
        save(token)

    await call(make(save=save_slowly if is_async else save), server)
    assert calls_before == [0]
    assert server.calls == ["access-1"]


async def test_token_that_could_not_be_saved_is_not_used_and_saved_by_the_next_call(
    make: MakeOAuth, server: OAuthServer
) -> None:
    saved: list[Token] = []
    failures = [RuntimeError("the disk is full")]

    async def save(token: Token) -> None:
        if failures:
            raise failures.pop()
        saved.append(token)

    auth = make(save=save)
    with pytest.raises(RuntimeError, match="the disk is full"):
        await call(auth, server)
    assert server.calls == []
    assert await call(auth, server) == ["1199"]
    assert server.asked == ["refresh_token"]
    assert [token.refresh_token for token in saved] == ["refresh-2"]


async def test_token_that_could_not_be_saved_gives_way_to_one_from_elsewhere(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = make(file)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(StoreError):
            await call(auth, server)
    server.refresh.add("refresh-elsewhere")
    elsewhere = Token(access_token="a", refresh_token="refresh-elsewhere", expires_at=LONG_AGO)
    await file.save(elsewhere)
    assert await call(auth, server) == ["1199"]
    assert "refresh-elsewhere" not in server.refresh
    assert server.asked == ["refresh_token", "refresh_token"]


async def test_process_that_dies_before_it_saves_leaves_the_old_token(
    server: OAuthServer, file: TokenFile, tmp_path: Path
) -> None:
    program = """
        import asyncio, os, sys
        from asana_webhooks import WebhooksApi
        from asana_webhooks.auth import AsanaOAuth, TokenFile, _files

        _files.os.replace = lambda old, new: os._exit(9)  # killed with the new file written

        async def main():
            auth = AsanaOAuth(
                "1204619", "the-client-secret", token=TokenFile(sys.argv[1]), base_url=sys.argv[2]
            )
            async with WebhooksApi(auth, base_url=sys.argv[2]) as api:
                [workspace async for workspace in api.iter_workspaces()]

        asyncio.run(main())
    """
    path = tmp_path / "token.json"
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(path), server.base_url]
    run = await anyio.run_process(arguments, check=False)
    assert run.returncode == 9
    assert file.load() == EXPIRED
    assert server.calls == []
    with anyio.fail_after(5):  # its lock ended with it
        async with file.lock():
            pass


# Several who share a file


async def test_two_who_share_a_file_renew_once(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, tmp_path: Path
) -> None:
    one, other = make(file), make(TokenFile(tmp_path / "token.json"))
    answers = await asyncio.gather(call(one, server), call(other, server))
    assert [*answers] == [["1199"], ["1199"]]
    assert server.asked == ["refresh_token"]


async def test_one_who_was_away_takes_the_token_that_was_renewed_elsewhere(
    make: MakeOAuth, server: OAuthServer, file: TokenFile
) -> None:
    server.access.add("access-0")
    await file.save(WORKING)
    away = make(file)
    assert await call(away, server) == ["1199"]
    server.access.clear()
    assert await call(make(file), server) == ["1199"]
    assert await call(away, server) == ["1199"]
    assert server.asked == ["refresh_token"]


async def test_one_who_was_away_renews_with_the_refresh_token_that_is_stored(
    make: MakeOAuth, server: OAuthServer, file: TokenFile
) -> None:
    server.access.add("access-0")
    await file.save(WORKING)
    away = make(file)
    assert await call(away, server) == ["1199"]
    server.access.clear()
    assert await call(make(file), server) == ["1199"]
    stored = file.load()
    assert stored is not None
    await file.save(msgspec.structs.replace(stored, expires_at=LONG_AGO))
    assert await call(away, server) == ["1199"]
    assert server.asked == ["refresh_token", "refresh_token"]


async def test_login_in_another_process_is_noticed(
    make: MakeOAuth, server: OAuthServer, tmp_path: Path
) -> None:
    kept = TokenFile(tmp_path / "token.json")
    auth = make(kept)
    with pytest.raises(LoginRequiredError, match="nobody is logged in"):
        await call(auth, server)
    await kept.save(EXPIRED)
    assert await call(auth, server) == ["1199"]


# The file


async def test_file_is_replaced_as_a_whole_and_for_its_owner_alone(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, tmp_path: Path
) -> None:
    path = tmp_path / "token.json"
    path.chmod(0o644)
    (tmp_path / "reader.json").hardlink_to(path)  # who opened it before
    await call(make(file), server)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TokenFile(tmp_path / "reader.json").load() == EXPIRED
    assert names_in(tmp_path) == ["reader.json", "token.json", "token.json.lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no modes of files")
@pytest.mark.parametrize("earlier", [None, 0o644, 0o666], ids=["new", "readable", "writable"])
async def test_no_other_user_can_hold_the_lock(
    file: TokenFile, tmp_path: Path, earlier: int | None
) -> None:
    lock = tmp_path / "token.json.lock"
    if earlier is not None:
        lock.touch()
        lock.chmod(earlier)
    umask = os.umask(0)
    try:
        async with file.lock():
            assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    finally:
        os.umask(umask)


async def test_slow_disk_does_not_hold_up_the_event_loop_and_the_save_is_ended(
    file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def fsync(number: int) -> None:
        reached.set()
        assert go_on.wait(30)

    monkeypatch.setattr(os, "fsync", fsync)
    saving = asyncio.create_task(file.save(WORKING))
    await until(reached.is_set)  # the event loop turns meanwhile
    saving.cancel()
    await anyio.wait_all_tasks_blocked()
    assert not saving.done()
    assert file.load() == EXPIRED
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert file.load() == WORKING


async def test_file_gives_back_what_was_saved(file: TokenFile, tmp_path: Path) -> None:
    assert file.load() == EXPIRED
    assert repr(file) == f"TokenFile('{tmp_path}/token.json')"
    file.forget()
    file.forget()
    assert file.load() is None


async def test_failed_save_leaves_the_old_file_and_nothing_else(
    file: TokenFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(StoreError, match="cannot be written: No space left on device; check"):
        await file.save(WORKING)
    assert names_in(tmp_path) == ["token.json"]
    assert file.load() == EXPIRED


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param("access-0", id="no JSON"),
        pytest.param('{"refresh_token": "refresh-0"}', id="no access token"),
        pytest.param('{"access_token": "with a\\nbreak"}', id="no header can carry it"),
        pytest.param('{"access_token": "a", "expires_at": "2020-01-01T00:00:00"}', id="naive"),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_file_without_a_token_is_refused_without_quoting_it(content: str, tmp_path: Path) -> None:
    path = tmp_path / "token.json"
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        TokenFile(path).load()
    assert str(caught.value) == f"{path} holds no token: delete it and log in again"


@pytest.mark.skipif(sys.platform == "win32", reason="directories are no files there")
async def test_unusable_path_is_refused_with_the_next_step(tmp_path: Path) -> None:
    directory = TokenFile(tmp_path)
    with pytest.raises(StoreError, match="cannot be read: Is a directory; check its directory"):
        directory.load()
    with pytest.raises(StoreError, match="cannot be deleted: .*; check its directory"):
        directory.forget()
    nowhere = TokenFile(tmp_path / "nowhere" / "token.json")
    with pytest.raises(StoreError, match="cannot be written: No such file or directory"):
        await nowhere.save(EXPIRED)
    with pytest.raises(StoreError, match="token.json.lock cannot be locked: No such file or"):
        await nowhere.lock().__aenter__()


async def test_file_that_is_no_lock_is_refused(file: TokenFile, tmp_path: Path) -> None:
    (tmp_path / "token.json.lock").write_bytes(b"\xff" * 4096)
    with pytest.raises(StoreError, match="cannot be locked: file is not a database"):
        await file.lock().__aenter__()


async def test_lock_in_a_place_that_takes_none_is_reported_at_once(
    file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadOnly(sqlite3.Connection):
        def execute(self, *args: Any) -> Any:
            error = sqlite3.OperationalError("attempt to write a readonly database")
            error.sqlite_errorcode = sqlite3.SQLITE_READONLY
            raise error

    connect = functools.partial(sqlite3.connect, factory=ReadOnly)
    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(StoreError, match="cannot be locked: attempt to write a readonly"):
        await file.lock().__aenter__()


async def test_lock_that_another_holds_for_too_long_is_reported(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "LOCK_SECONDS", 0.05)
    async with file.lock():
        with pytest.raises(StoreError, match="was locked for 0.05 s: end the process that hangs"):
            await call(make(file), server)
    assert await call(make(file), server) == ["1199"]


# Cancellation


async def test_cancelled_call_loses_no_refresh_token_and_leaves_no_lock(
    make: MakeOAuth, server: OAuthServer, file: TokenFile
) -> None:
    auth = make(file)
    server.gate.clear()
    task = asyncio.create_task(call(auth, server))
    await until(lambda: server.waiting)  # the old refresh token is worthless from here on
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    server.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    stored = file.load()
    assert stored is not None
    assert stored.refresh_token == "refresh-2"
    with anyio.fail_after(5):
        assert await call(auth, server) == ["1199"]
        assert await call(make(file), server) == ["1199"]
    assert server.asked == ["refresh_token"]


async def test_call_in_a_cancelled_scope_loses_no_refresh_token(
    make: MakeOAuth, server: OAuthServer, file: TokenFile
) -> None:
    async def cancel_and_open() -> None:
        await until(lambda: server.waiting)
        scope.cancel()
        for _ in range(100):  # the call would be over by now
            await asyncio.sleep(0)
        assert renewals()
        assert not ended
        server.gate.set()

    ended: list[bool] = []
    server.gate.clear()
    opening = asyncio.create_task(cancel_and_open())
    with anyio.CancelScope() as scope:
        try:
            await call(make(file), server)
        finally:
            ended.append(True)
    await opening
    stored = file.load()
    assert stored is not None
    assert stored.refresh_token == "refresh-2"


async def test_cancelled_call_does_not_take_others_along(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make()
    server.gate.clear()
    tasks = [asyncio.create_task(call(auth, server)) for _ in range(3)]
    await until(lambda: server.waiting)
    tasks[0].cancel()
    server.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == [["1199"], ["1199"]]
    assert server.asked == ["refresh_token"]


async def test_cancelled_call_does_not_wait_for_ever(
    make: MakeOAuth, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_module, "PATIENCE", 0.05)
    auth = make()
    server.gate.clear()
    with anyio.move_on_after(0.05) as scope, guard():
        await call(auth, server)
    assert scope.cancelled_caught
    server.gate.set()
    assert await call(auth, server) == ["1199"]
    assert server.asked == ["refresh_token"]


async def test_failure_that_nobody_waits_for_is_not_reported_by_the_event_loop(
    make: MakeOAuth, server: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth_module, "PATIENCE", 0.0)
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    done: list[bool] = []

    async def save(token: Token) -> None:
        await asyncio.sleep(0)
        done.append(True)
        raise RuntimeError("not saved")

    server.gate.clear()
    task = asyncio.create_task(call(make(save=save), server))
    await until(lambda: server.waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.gate.set()
    await until(lambda: done)
    await until(lambda: not renewals())
    assert reports == []


def test_interrupted_program_saves_the_token_before_it_ends(tmp_path: Path) -> None:
    kept = TokenFile(tmp_path / "token.json")

    async def main() -> None:
        await kept.save(EXPIRED)
        auth = AsanaOAuth(CLIENT_ID, CLIENT_SECRET, token=kept, base_url=server.base_url)
        interrupting = asyncio.create_task(interrupt(asyncio.current_task()))
        await call(auth, server)
        await interrupting

    async def interrupt(task: asyncio.Task[Any] | None) -> None:
        await until(lambda: server.waiting)
        assert task is not None
        task.cancel()
        for _ in range(100):  # the program would be over by now
            await asyncio.sleep(0)
        portal.call(server.gate.set)

    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(oauth_server.run()) as server,
    ):
        portal.call(server.gate.clear)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    stored = kept.load()
    assert stored is not None
    assert stored.refresh_token == "refresh-2"


async def test_renewal_that_the_end_of_the_program_cancels_does_no_further_harm(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make()
    server.gate.clear()
    task = asyncio.create_task(call(auth, server))
    await until(lambda: server.waiting)
    (renewal,) = renewals()
    renewal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.gate.set()
    server.refresh.add("refresh-0")
    assert await call(auth, server) == ["1199"]


# Refusals


async def test_revoked_access_asks_for_a_login_and_quotes_nothing(
    make: MakeOAuth, server: OAuthServer
) -> None:
    server.refresh.clear()
    with pytest.raises(LoginRequiredError) as caught:
        await call(make(WORKING), server)
    assert str(caught.value) == (
        "invalid_grant: The token *** is invalid (log in again: the access was revoked, or the"
        " code was used, is too old or was made for another redirect_uri)"
    )
    assert caught.value.status == 400
    assert isinstance(caught.value, AuthenticationError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


async def test_token_without_a_refresh_token_ends_in_a_login(
    make: MakeOAuth, server: OAuthServer
) -> None:
    with pytest.raises(LoginRequiredError, match="came without a refresh token .log in again"):
        await call(make(Token(access_token="access-0")), server)
    assert server.calls == ["access-0"]
    assert server.asked == []


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
async def test_wrong_client_secret_is_no_matter_of_the_user(
    code: str, make: MakeOAuth, server: OAuthServer
) -> None:
    server.answers = [(401, {"error": code})]
    with pytest.raises(AuthenticationError) as caught:
        await call(make(), server)
    assert not isinstance(caught.value, LoginRequiredError)
    assert str(caught.value) == (
        f"Asana answered 401: {code} (check client_id and client_secret in Asana's developer"
        " console; Asana may ask for a secret beside the proof (PKCE))"
    )


async def test_app_without_a_secret_sends_none(server: OAuthServer) -> None:
    auth = AsanaOAuth(CLIENT_ID, token=EXPIRED, base_url=server.base_url)
    with pytest.raises(AuthenticationError, match="invalid_client"):
        await call(auth, server)


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        pytest.param(
            400,
            {"error": "invalid_request", "error_description": "No\ncode"},
            BadRequestError,
            "Asana answered 400: invalid_request: No code",
            id="another OAuth error",
        ),
        pytest.param(400, {"error": 7}, BadRequestError, "no explanation", id="odd error"),
        pytest.param(400, "<html>", BadRequestError, "no explanation", id="page of a proxy"),
        pytest.param(400, "[" * 100_000, BadRequestError, "no explanation", id="deep error"),
        pytest.param(
            403,
            {"errors": [{"message": "Forbidden"}]},
            PermissionDeniedError,
            "Asana answered 403: Forbidden",
            id="error of the API",
        ),
        pytest.param(429, "", RateLimitedError, "Asana answered 429", id="too many"),
        pytest.param(502, "", ServerError, "Asana answered 502", id="server error"),
        pytest.param(200, "<html>", DecodeError, "holds no access token", id="no JSON"),
        pytest.param(200, [], DecodeError, "holds no access token", id="no object"),
        pytest.param(200, {}, DecodeError, "holds no access token", id="no token"),
        pytest.param(
            200, {"access_token": "a b"}, DecodeError, "holds no access token", id="odd token"
        ),
        pytest.param(
            200,
            {"access_token": "a", "expires_in": "soon"},
            DecodeError,
            "holds no access token",
            id="odd lifetime",
        ),
        pytest.param(
            200,
            {"access_token": "a", "expires_in": 10**30},
            DecodeError,
            "holds no access token",
            id="endless lifetime",
        ),
    ],
)
async def test_other_answer_is_the_error_of_its_kind(
    status: int,
    body: Any,
    kind: type[AsanaWebhooksError],
    message: str,
    make: MakeOAuth,
    server: OAuthServer,
) -> None:
    server.answers = [(status, body)]
    async with httpx.AsyncClient(verify=NO_TLS, auth=make()) as client:
        with pytest.raises(kind, match=re.escape(message)) as caught:
            await client.get(f"{server.base_url}/workspaces")
    assert type(caught.value) is kind


async def test_token_is_good_without_a_user(make: MakeOAuth, server: OAuthServer) -> None:
    saved: list[Token] = []
    server.access.add("a")
    server.answers = [(200, {"access_token": "a", "data": {"id": 1}})]
    assert await call(make(save=saved.append), server) == ["1199"]
    assert saved == [Token(access_token="a", refresh_token="refresh-0")]


async def test_unreachable_asana_is_a_failed_connection(free_port: int) -> None:
    base_url = f"http://127.0.0.1:{free_port}"
    auth = AsanaOAuth(CLIENT_ID, CLIENT_SECRET, token=EXPIRED, base_url=base_url)
    async with httpx.AsyncClient(verify=NO_TLS, auth=auth) as client:
        with pytest.raises(ConnectionFailedError) as caught:
            await client.get(base_url)
    assert str(caught.value).startswith(f"no answer from 127.0.0.1:{free_port}: the connection")
    assert "webhook" not in str(caught.value)


async def test_missing_scope_is_named_as_asana_names_it(
    make: MakeOAuth, server: OAuthServer
) -> None:
    said = "This app lacks the scope workspaces:read"
    server.api_answers = [(403, {"errors": [{"message": said}]})]
    server.access.add("access-0")
    with pytest.raises(PermissionDeniedError, match=f"{said} .check the token's scopes"):
        await call(make(WORKING), server)
    assert server.asked == []


def test_client_without_an_event_loop_is_refused() -> None:
    with (
        httpx.Client(auth=AsanaOAuth(CLIENT_ID, token=WORKING)) as client,
        pytest.raises(RuntimeError, match="works with httpx.AsyncClient only"),
    ):
        client.get("http://127.0.0.1")


@pytest.mark.parametrize(
    ("client_id", "options", "message"),
    [
        pytest.param("", {}, "client_id must be", id="no client"),
        pytest.param("1", {"base_url": "asana"}, "base_url must be", id="no URL"),
        pytest.param(
            "1", {"token": TokenFile("x"), "save": print}, "saves by itself", id="saved twice"
        ),
    ],
)
def test_options_that_cannot_work_are_refused(
    client_id: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AsanaOAuth(client_id, **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"access_token": "secret\n"}, "visible ASCII", id="line break"),
        pytest.param({"access_token": ""}, "visible ASCII", id="empty"),
        pytest.param(
            {"access_token": "a", "expires_at": datetime(2030, 1, 1)},  # noqa: DTZ001 - the mistake
            "must be aware",
            id="naive time",
        ),
    ],
)
def test_token_that_cannot_work_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Token(**fields)
    assert "secret" not in str(caught.value)


def test_missing_authlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "authlib", None)
    with pytest.raises(ValueError, match="needs Authlib: pip install 'asana-webhooks.oauth.'"):
        AsanaOAuth(CLIENT_ID)


def test_authlib_is_loaded_when_it_is_used() -> None:
    program = "import asana_webhooks.auth, sys; print('authlib' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


# Logging in


def test_url_of_a_login_has_all_that_asana_asks_for() -> None:
    auth = AsanaOAuth(
        CLIENT_ID,
        base_url="http://127.0.0.1:8000/asana/api/1.0/",
        redirect_uri="https://app.example.com/back",
        scopes=["webhooks:read", "tasks:read"],
    )
    authorization = auth.authorization_url()
    address, _, parameters = authorization.url.partition("?")
    assert address == "http://127.0.0.1:8000/asana/-/oauth_authorize"
    query = {name: value for name, (value,) in parse_qs(parameters).items()}
    assert re.fullmatch(r"[\w-]{43}", query.pop("code_challenge"))
    assert query == {
        "response_type": "code",
        "client_id": CLIENT_ID,
        "redirect_uri": "https://app.example.com/back",
        "scope": "webhooks:read tasks:read",
        "state": authorization.state,
        "code_challenge_method": "S256",
    }
    assert len(authorization.verifier) >= 43
    assert authorization.verifier not in authorization.url
    again = auth.authorization_url()
    assert again.state != authorization.state
    assert again.verifier != authorization.verifier


def test_login_without_scopes_asks_for_all_of_the_app_at_asana() -> None:
    authorization = AsanaOAuth("1").authorization_url()
    assert authorization.url.startswith("https://app.asana.com/-/oauth_authorize?")
    assert "scope=" not in authorization.url
    assert authorization.redirect_uri == OUT_OF_BAND


async def test_web_application_keeps_the_login_in_its_session(
    make: MakeOAuth, server: OAuthServer
) -> None:
    saved: list[Token] = []
    auth = make(None, save=saved.append, redirect_uri="http://127.0.0.1:9/back")
    session = msgspec.json.encode(auth.authorization_url())
    authorization = msgspec.json.decode(session, type=Authorization)
    token = await auth.fetch_token(await consent(authorization.url), authorization)
    assert saved == [token]
    assert await call(auth, server) == ["1199"]
    assert server.calls == [token.access_token]


async def test_code_copied_by_hand_is_enough(make: MakeOAuth, server: OAuthServer) -> None:
    auth = make(None)
    authorization = auth.authorization_url()
    (code,) = parse_qs(urlsplit(await consent(authorization.url)).query)["code"]
    await auth.fetch_token(f" {code}\n", authorization)
    assert await call(auth, server) == ["1199"]


async def test_code_of_another_login_is_refused_by_the_proof(make: MakeOAuth) -> None:
    auth = make(None)
    (code,) = parse_qs(urlsplit(await consent(auth.authorization_url().url)).query)["code"]
    with pytest.raises(LoginRequiredError, match="invalid_grant"):
        await auth.fetch_token(code, auth.authorization_url())


BACK = "http://127.0.0.1:9/back"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(f"{BACK}?code=1&state=other", "belongs to another login", id="wrong state"),
        pytest.param(f"{BACK}?code=1", "belongs to another login", id="no state"),
        pytest.param(f"{BACK}?code=1&state=%C3%A4", "belongs to another", id="odd state"),
        pytest.param(f"{BACK}?error=x&state=other", "belongs to another", id="refused elsewhere"),
        pytest.param("", "belongs to another login", id="nothing"),
        pytest.param(f"{BACK}?state=STATE", "brought no code", id="no code"),
        pytest.param(f"{BACK}?code=&state=STATE", "brought no code", id="empty code"),
        pytest.param(
            f"{BACK}?error=access_denied&state=STATE",
            "the login was refused: access_denied (log in again and allow the access)",
            id="refused",
        ),
        pytest.param(
            f"{BACK}?error=forbidden_scopes&state=STATE",
            "forbidden_scopes (register these scopes for the app in Asana's developer console)",
            id="scopes",
        ),
        pytest.param(f"{BACK}?error=a%0Ab&state=STATE", "refused: a b (log in again)", id="odd"),
    ],
)
async def test_redirect_that_brings_no_token_is_refused(
    answer: str, message: str, make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make(None)
    authorization = auth.authorization_url()
    with pytest.raises(LoginRequiredError, match=re.escape(message)):
        await auth.fetch_token(answer.replace("STATE", authorization.state), authorization)
    assert server.asked == []


async def test_login_without_a_state_is_refused(make: MakeOAuth, server: OAuthServer) -> None:
    forged = Authorization("", "", "verifier", BACK)
    with pytest.raises(LoginRequiredError, match="belongs to another login"):
        await make(None).fetch_token(f"{BACK}?code=1", forged)
    assert server.asked == []


async def test_new_login_takes_the_place_of_a_token_that_could_not_be_saved(
    make: MakeOAuth, server: OAuthServer
) -> None:
    failures = [RuntimeError("the disk is full")]

    def save(token: Token) -> None:
        if failures:
            raise failures.pop()

    auth = make(save=save)
    with pytest.raises(RuntimeError):
        await call(auth, server)
    authorization = auth.authorization_url()
    token = await auth.fetch_token(await consent(authorization.url), authorization)
    server.access.discard(token.access_token)
    assert await call(auth, server) == ["1199"]
    assert server.asked == ["refresh_token", "authorization_code", "refresh_token"]


# With a browser on this machine


async def test_browser_logs_in(make: MakeOAuth, server: OAuthServer, file: TokenFile) -> None:
    auth = make(file, redirect_uri="http://127.0.0.1:0/callback")
    pages: list[tuple[int, str]] = []

    async def show(url: str) -> None:
        pages.append(await browse(url))

    with guard():
        token = await login(auth, show)
    assert file.load() == token
    assert await call(auth, server) == ["1199"]
    ((status, page),) = pages
    assert status == 200
    assert "Asana's answer has arrived" in page
    assert not any(secret in page for secret in server.secrets)
    assert "http" not in page


async def test_login_listens_at_the_port_that_it_is_given(
    make: MakeOAuth, server: OAuthServer, free_port: int
) -> None:
    auth = make(None, redirect_uri=f"http://localhost:{free_port}")
    tasks: list[asyncio.Task[tuple[int, str]]] = []

    def show(url: str) -> None:
        assert parse_qs(urlsplit(url).query)["redirect_uri"] == [f"http://localhost:{free_port}"]
        tasks.append(asyncio.create_task(browse(url)))

    with guard():
        await login(auth, show)
    assert (await tasks[0])[0] == 200
    assert await call(auth, server) == ["1199"]


async def test_only_the_first_redirect_of_this_login_counts(
    make: MakeOAuth, server: OAuthServer
) -> None:
    auth = make(None, redirect_uri="http://127.0.0.1:0/callback")
    seen: list[int] = []

    async def show(url: str) -> None:
        redirect = await consent(url)
        here = redirect.partition("?")[0]
        seen.append((await browse(f"{here}?code=forged&state=other"))[0])
        seen.append((await browse(f"{here}?code=forged"))[0])
        seen.append((await browse(here.replace("callback", "favicon.ico")))[0])
        async with aiohttp.ClientSession() as session, session.head(redirect) as response:
            seen.append(response.status)
        seen.append((await browse(redirect))[0])
        seen.append((await browse(redirect.replace("code=", "code=another")))[0])

    with guard():
        await login(auth, show)
    assert seen == [400, 400, 404, 405, 200, 409]
    assert await call(auth, server) == ["1199"]


async def test_refusal_of_the_user_ends_the_login(make: MakeOAuth, server: OAuthServer) -> None:
    server.refuses = "access_denied"
    auth = make(None, redirect_uri="http://127.0.0.1:0/callback")
    pages: list[tuple[int, str]] = []

    async def show(url: str) -> None:
        pages.append(await browse(url))

    with (
        guard(),
        pytest.raises(LoginRequiredError, match="access_denied .log in again and allow"),
    ):
        await login(auth, show)
    assert "The login was refused" in pages[0][1]
    assert server.asked == []


async def test_login_ends_when_nobody_comes(make: MakeOAuth) -> None:
    auth = make(None, redirect_uri="http://127.0.0.1:0/callback")
    with pytest.raises(LoginRequiredError, match="nobody logged in within 0.01 seconds"):
        await login(auth, lambda url: None, timeout=0.01)


async def test_cancelled_login_frees_its_port(make: MakeOAuth, free_port: int) -> None:
    auth = make(None, redirect_uri=f"http://127.0.0.1:{free_port}/callback")
    shown: list[str] = []
    task = asyncio.create_task(login(auth, shown.append))
    await until(lambda: shown)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", free_port)
    with pytest.raises(OSError, match="address already in use"):
        await login(auth, shown.append)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "redirect_uri",
    [
        OUT_OF_BAND,
        "https://127.0.0.1:8765/callback",
        "http://app.example.com:8765/callback",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:port/callback",
    ],
)
async def test_redirect_that_cannot_come_here_is_refused(
    redirect_uri: str, make: MakeOAuth
) -> None:
    with pytest.raises(ValueError, match="redirect_uri must be like http://127.0.0.1:8765"):
        await login(make(None, redirect_uri=redirect_uri), print)


# Logging out


async def test_revoked_token_is_forgotten_here_and_at_asana(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, tmp_path: Path
) -> None:
    auth = make(file)
    assert await call(auth, server) == ["1199"]
    await auth.revoke()
    assert server.revoked == ["refresh-2"]
    assert file.load() is None
    with pytest.raises(LoginRequiredError, match="nobody is logged in"):
        await call(auth, server)
    await auth.revoke()
    assert server.revoked == ["refresh-2"]


async def test_token_that_could_not_be_saved_is_the_one_to_revoke(
    make: MakeOAuth, server: OAuthServer
) -> None:
    async def save(token: Token) -> None:
        raise RuntimeError("the disk is full")

    auth = make(save=save)
    with pytest.raises(RuntimeError):
        await call(auth, server)
    await auth.revoke()
    assert server.revoked == ["refresh-2"]


async def test_token_in_memory_is_forgotten(make: MakeOAuth, server: OAuthServer) -> None:
    auth = make()
    await auth.revoke()
    assert server.revoked == ["refresh-0"]
    with pytest.raises(LoginRequiredError, match="nobody is logged in"):
        await call(auth, server)


async def test_failed_revocation_keeps_the_token(make: MakeOAuth, server: OAuthServer) -> None:
    auth = make(Token(access_token="access-0"))
    with pytest.raises(BadRequestError, match="invalid_request"):
        await auth.revoke()
    server.access.add("access-0")
    assert await call(auth, server) == ["1199"]


# Secrets


async def test_no_secret_is_ever_logged_or_shown(
    make: MakeOAuth, server: OAuthServer, file: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    auth = make(file, redirect_uri="http://127.0.0.1:0/callback")
    begun: list[str] = []

    async def show(url: str) -> None:
        begun.append(url)
        await browse(url)

    token = await login(auth, show)
    authorization = auth.authorization_url()
    server.access.clear()
    assert await call(auth, server) == ["1199"]
    server.refresh.clear()
    server.access.clear()
    with pytest.raises(LoginRequiredError) as caught:
        await call(auth, server)
    await auth.revoke()
    shown = [repr(value) for value in (auth, file, token, authorization, caught.value)]
    shown += [repr([*value.__rich_repr__()]) for value in (token, authorization)]
    written = [caplog.text, *shown, str(caught.value), *(str(token), f"{authorization}")]
    (state,) = parse_qs(urlsplit(begun[0]).query)["state"]
    secrets = server.secrets | {state, authorization.state, authorization.verifier}
    assert "the access token was renewed" in caplog.text
    assert [secret for secret in secrets if any(secret in text for text in written)] == []
