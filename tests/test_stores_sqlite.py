"""The SQLite store beyond the contract: the file, its faults, its thread."""

# ruff: noqa: S608 - the tests write SQL of their own
from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from conftest import guard, until
from cryptography.fernet import Fernet
from msgspec.structs import replace
from support.tracebacks import shown_by

from asana_webhooks.errors import StoreError
from asana_webhooks.models import (
    Delivery,
    Progress,
    Retry,
    Route,
    Settlement,
    State,
    WebhookFilter,
    Write,
)
from asana_webhooks.stores import DUPLICATES_KNOWN_FOR, RETIRED_KNOWN_FOR
from asana_webhooks.stores.sqlite import SqliteStore, _digests, _file, _statements, _writer
from asana_webhooks.stores.sqlite._file import SQL
from asana_webhooks.stores.sqlite._tables import Tables

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOBODY = 65534


def delivery(number: int = 0, *, route: str = "r1", size: int = 10) -> Delivery:
    digest = hashlib.sha256(str(number).encode()).digest()
    body = b"%d".ljust(size) % number
    return Delivery(route=route, body=body, digest=digest, received_at=NOON)


def route(id_: str = "r1") -> Route:
    return Route(id=id_, target=f"https://hooks.example.com/{id_}", resource="12", created_at=NOON)


def handled(*deliveries: Delivery) -> Settlement:
    return Settlement(removed=tuple(each.id for each in deliveries))


def put_off(*deliveries: Delivery, delay: float) -> Settlement:
    return Settlement(
        retries=tuple(Retry(delivery=replace(each, attempts=1), delay=delay) for each in deliveries)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if "store" in thread.name] == []


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Yield a directory that other users reach, unlike those of pytest."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def make_read_only(directory: Path) -> None:
    directory.chmod(0o555)


@contextmanager
def as_a_plain_user() -> Iterator[None]:
    """Run as nobody if the tests run as root, who may write what is read-only."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


async def in_thread(store: SqliteStore, do: Callable[[Tables], Any]) -> Any:
    return await store._opened().submit(do)


async def execute(store: SqliteStore, sql: str) -> list[Any]:
    rows: list[Any] = await in_thread(store, lambda tables: tables._execute(sql).fetchall())
    return rows


@asynccontextmanager
async def one_batch(store: SqliteStore) -> AsyncIterator[None]:
    """Have all calls that are started inside done in one transaction."""
    entered, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(_: Tables) -> None:
        loop.call_soon_threadsafe(entered.set)
        go_on.wait(10)

    waiting = store._opened().submit(wait)
    await entered.wait()
    try:
        yield
        for _ in range(3):
            await asyncio.sleep(0)  # every task of the test has made its call
    finally:
        go_on.set()
        await waiting


async def gather(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


# The file


@pytest.mark.parametrize("name", [":memory:", "", "store\0.db"])
def test_path_that_is_no_files_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no file's path"):
        SqliteStore(name)


async def test_name_like_a_uri_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "file:store.db?mode=memory"
    monkeypatch.chdir(tmp_path)
    async with SqliteStore(name) as store:
        await store.put(delivery())
    assert modes(tmp_path / name) == {name: 0o600}
    async with SqliteStore(name) as store:
        assert (await store.counts()).waiting == 1


async def test_files_are_for_their_user_alone_from_the_beginning(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "_narrow", lambda _: None)
    umask = os.umask(0)
    try:
        async with SqliteStore(path) as store:
            await store.put(delivery())
            files = modes(path)
    finally:
        os.umask(umask)
    assert files == {"store.db": 0o600, "store.db-shm": 0o600, "store.db-wal": 0o600}


async def test_commits_wait_for_the_disk(store: SqliteStore) -> None:
    assert await execute(store, "PRAGMA journal_mode") == [("wal",)]
    assert await execute(store, "PRAGMA synchronous") == [(2,)]


async def test_only_what_ends_with_the_machine_does_not_wait_for_the_disk(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[int] = []

    @contextmanager
    def noting(connection: sqlite3.Connection) -> Iterator[None]:
        with _file.transaction(connection):
            yield
            levels.extend(connection.execute("PRAGMA synchronous").fetchone())

    monkeypatch.setattr(_statements, "transaction", noting)
    await store.own("https://hooks.example.com", holder="a", ttl=15)
    await store.hold("slots", holder="a", ttl=15)
    await store.reserve(route(), ttl=60)
    assert levels == [1, 1, 1]
    await store.add_candidate("r1", "secret")
    await store.confirm("r1", gid="77", secret="secret")
    await store.put(delivery())
    assert levels[3:] == [2, 2, 2]
    claim = await take(store)
    await store.renew(claim, lease=30)
    await store.claim_more(claim, limit=1)
    assert levels[6:] == [1, 1, 1]
    await store.settle(claim, put_off(*claim.deliveries, delay=9))
    await store.end_claim(claim)
    await store.put_state(State(scope="/12", text="{}"))
    await store.put_write(Write(id="w1", resources=("12",), text="{}"))
    assert levels[9:] == [2, 2, 2, 2]
    async with one_batch(store):
        calls = [store.put(delivery(1)), store.claim(limit=1, lease=30)]
        tasks = [asyncio.ensure_future(call) for call in calls]
    await gather(*tasks)
    assert levels[-1] == 2


async def test_wider_mode_of_an_existing_file_is_narrowed(path: Path) -> None:
    async with SqliteStore(path):
        pass
    os.chmod(path, 0o644)
    async with SqliteStore(path):
        assert set(modes(path).values()) == {0o600}


async def test_mode_that_cannot_be_narrowed_is_warned_about(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore(path):
        pass
    os.chmod(path, 0o644)

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    async with SqliteStore(path):
        assert f"others may be able to read {path}" in caplog.text


async def test_everything_is_found_again_after_closing(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.reserve(route(), ttl=60)
        await store.add_candidate("r1", "secret")
        await store.put(delivery(1), candidate="secret")
        await store.put(delivery(2, route="r2"))
        await store.put(delivery(3), reason="odd")
        await store.put_state(State(scope="/12", text="{}"))
    async with SqliteStore(path) as store:
        assert await store.get_state("/12") == State(scope="/12", version=1, text="{}")
        assert (await store.counts()).waiting == 2
        assert not await store.put(delivery(2, route="r2"))
        assert [letter.reason for letter in await store.dead_letters()] == ["odd"]
        assert await store.confirm("r1", gid="77", secret="secret")
        assert {(await take(store)).route, (await take(store)).route} == {"r1", "r2"}


def keep(path: Path) -> tuple[bytes, int]:
    """Return what must stay of a file that is refused."""
    return path.read_bytes(), path.stat().st_mode


def modes(path: Path) -> dict[str, int]:
    """Return the mode of the file and of its neighbours."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}


async def take(store: SqliteStore, *, lease: float = 30.0) -> Any:
    claim = await store.claim(limit=100, lease=lease)
    assert claim is not None
    return claim


async def test_lease_outlives_the_process_that_has_it(path: Path) -> None:
    now = [1000.0]
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        await store.put(delivery())
        first = await take(store, lease=30)
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        assert await store.claim(limit=1, lease=30) is None
        now[0] += 30
        assert (await take(store)).fence > first.fence


async def test_clock_that_began_anew_leaves_nothing_waiting(path: Path) -> None:
    now = [1.0]
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        now[0] = 5000.0
        await store.reserve(route("r0"), ttl=60)
        for number in range(6):
            await store.put(delivery(number, route=f"r{number // 2 + 1}"))
        claim = await take(store, lease=30)
        await store.settle(claim, put_off(claim.deliveries[0], delay=600.0))
        await store.end_claim(claim)
        await take(store, lease=30)
    async with SqliteStore(path, clock=lambda: 4999.0) as store:
        assert await store.get_route("r0") is None
        claims = [await take(store) for _ in range(3)]
        # of the leased route only the first: the other one was under way when the machine stopped
        assert sorted(len(claim.deliveries) for claim in claims) == [1, 2, 2]
    async with SqliteStore(path, clock=lambda: 4999.0) as store:
        assert await store.claim(limit=1, lease=30) is None


async def test_clock_that_began_anew_ends_ownerships_and_begins_the_time_of_retired_routes(
    path: Path,
) -> None:
    now = [900_000.0]
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        await confirm(store, "r1")
        await store.retire("r1")
        await store.own("https://hooks.example.com", holder="a", ttl=15)
        await store.hold("slots", holder="a", ttl=15)
    now[0] = 10.0
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        assert await store.hold("slots", holder="b", ttl=15, limit=1) == 1
        assert await store.own("https://other.example.com", holder="b", ttl=15) is None
        now[0] += RETIRED_KNOWN_FOR.total_seconds() - 1
        assert await store.get_route("r1") is not None
        now[0] += 1
        assert await store.get_route("r1") is None


@pytest.mark.parametrize(
    "content",
    [b"hello", b"# Notes\n" * 1000, os.urandom(8192)],
    ids=["short", "a text", "a key"],
)
async def test_file_that_is_no_database_is_refused_and_kept(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:  # noqa: ASYNC230 - nothing else runs
        file.write(content)
    kept = keep(path)
    with pytest.raises(StoreError, match=r"store\.db failed: it is not a SQLite database: choose"):
        await SqliteStore(path).__aenter__()
    assert keep(path) == kept


@pytest.mark.parametrize(
    "script",
    ["CREATE TABLE t (x)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"],
    ids=["a table", "a version", "an identity"],
)
async def test_database_of_another_program_is_refused_and_kept(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(script)
    kept = keep(path)
    with pytest.raises(StoreError, match="belongs to another program: choose another path"):
        await SqliteStore(path).__aenter__()
    assert keep(path) == kept


async def test_file_of_the_first_version_is_brought_up_to_date(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in _file.MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "INSERT INTO routes (id, target, place, resource, state, gid, secret, created_at)"
            " VALUES ('r1', 'https://h.example/r1', 'https://h.example', '12', 'confirmed', '77',"
            " 'secret', 0)"
        )
        connection.execute(
            "INSERT INTO deliveries (route, digest, received_at, due, body)"
            " VALUES ('r1', x'00', 0, 0, x'7b7d')"
        )
        connection.execute("INSERT INTO queues (route, due) VALUES ('r1', 0)")
    async with SqliteStore(path) as store:
        found = await store.get_route("r1")
        assert found is not None
        assert (found.secret, found.gid) == ("secret", "77")
        claim = await store.claim(limit=1, lease=30)
        assert claim is not None
        assert [each.body for each in claim.deliveries] == [b"{}"]


async def test_store_of_a_newer_version_is_refused_and_kept(path: Path) -> None:
    async with SqliteStore(path):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    kept = keep(path)
    with pytest.raises(StoreError, match="made by a newer version of asana-webhooks: install"):
        await SqliteStore(path).__aenter__()
    assert keep(path) == kept


async def fill(path: Path, count: int = 200) -> None:
    async with SqliteStore(path) as store:
        await gather(*(store.put(delivery(number, size=1000)) for number in range(count)))


def damage(path: Path) -> None:
    """Overwrite all pages but the first few."""
    content = path.read_bytes()
    start = 40 * 4096
    path.write_bytes(content[:start] + b"\xa5" * (len(content) - start))


async def test_damaged_file_is_refused_and_kept(path: Path) -> None:
    await fill(path)
    damage(path)
    kept = keep(path)
    with pytest.raises(StoreError, match=r"it is damaged: move it away, save what 'sqlite3 FILE"):
        await SqliteStore(path).__aenter__()
    assert keep(path) == kept


async def test_truncated_file_is_refused_and_kept(path: Path) -> None:
    await fill(path)
    os.truncate(path, 50 * 4096)
    kept = keep(path)
    with pytest.raises(StoreError, match="it is damaged"):
        await SqliteStore(path).__aenter__()
    assert keep(path) == kept


async def test_damage_that_is_met_later_fails_the_call_that_meets_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(path)
    damage(path)
    monkeypatch.setattr(_file, "LARGEST_CHECKED", 0)
    async with SqliteStore(path) as store:
        with pytest.raises(StoreError, match="it is damaged"):
            await store.claim(limit=200, lease=30)
        assert await store.list_routes() == []


async def test_missing_directory_is_named_as_the_cause(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file or directory; check that its directory"):
        await SqliteStore(tmp_path / "missing" / "store.db").__aenter__()
    assert os.listdir(tmp_path) == []


async def test_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it cannot be opened"):
        await SqliteStore(tmp_path).__aenter__()


async def test_directory_that_may_not_be_written_is_an_error(public_directory: Path) -> None:
    make_read_only(public_directory)
    with as_a_plain_user(), pytest.raises(StoreError, match="Permission denied; check that"):
        await SqliteStore(public_directory / "store.db").__aenter__()


async def test_file_that_may_not_be_written_is_an_error(public_directory: Path) -> None:
    path = public_directory / "store.db"
    async with SqliteStore(path):
        pass
    os.chmod(path, 0o444)
    with as_a_plain_user(), pytest.raises(StoreError, match="read-only: let this user write"):
        await SqliteStore(path).__aenter__()


async def test_file_in_a_directory_that_may_not_be_written_is_an_error(
    public_directory: Path,
) -> None:
    path = public_directory / "store.db"
    with as_a_plain_user():
        async with SqliteStore(path):
            pass
    make_read_only(public_directory)
    with as_a_plain_user(), pytest.raises(StoreError, match="write the file and its directory"):
        await SqliteStore(path).__aenter__()


# Opening and closing


async def test_store_is_used_between_opening_and_closing_only(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="is not open"):
        await store.counts()
    async with store:
        assert (await store.counts()).waiting == 0
        with pytest.raises(StoreError, match="is open already"):
            await store.__aenter__()
        assert (await store.counts()).waiting == 0
    with pytest.raises(StoreError, match="is not open"):
        await store.put(delivery())
    with pytest.raises(StoreError, match="is not open"):
        await store.claim(limit=1, lease=30)


async def test_store_can_be_opened_after_it_failed_to_open(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "later" / "store.db")
    with pytest.raises(StoreError):
        await store.__aenter__()
    (tmp_path / "later").mkdir()
    async with store:
        assert await store.put(delivery())


async def test_closing_lets_what_was_asked_finish(path: Path) -> None:
    async with SqliteStore(path) as store:
        async with asyncio.TaskGroup() as tasks:
            async with one_batch(store):
                puts = [asyncio.ensure_future(store.put(delivery(n))) for n in range(5)]
            closing_ = tasks.create_task(store.__aexit__(None, None, None))
        assert [put.result() for put in puts] == [True] * 5
        assert closing_.result() is None
        await store.__aenter__()
        assert (await store.counts()).waiting == 5


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_cancelling_does_not_cut_closing_short(path: Path, by: str) -> None:
    store = await SqliteStore(path).__aenter__()
    go_on = threading.Event()
    loop = asyncio.get_running_loop()
    asleep = store._opened().submit(lambda _: go_on.wait(10))
    put = asyncio.ensure_future(store.put(delivery()))
    await asyncio.sleep(0)
    ended: list[str] = []

    async def close() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            try:
                await store.__aexit__(None, None, None)
            finally:
                ended.append("after the last call" if put.done() else "too early")

    scopes: list[anyio.CancelScope] = []
    task = asyncio.create_task(close())
    await asyncio.sleep(0)
    if by == "task":
        task.cancel()
        loop.call_later(0.01, task.cancel)
    else:
        scopes[0].cancel()
    loop.call_later(0.05, go_on.set)
    await asyncio.wait([task])
    assert task.cancelled() is (by == "task")
    assert ended == ["after the last call"]
    assert await asleep
    assert await put


async def test_closing_gives_up_on_a_disk_that_does_not_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "CLOSE_TIMEOUT", 0.02)
    store = await SqliteStore(path).__aenter__()
    go_on = threading.Event()
    thread = store._opened()._thread
    asleep = store._opened().submit(lambda _: go_on.wait(10))
    with pytest.raises(StoreError, match="was not closed: its disk does not answer"):
        await store.__aexit__(None, None, None)
    go_on.set()
    assert await asleep
    await asyncio.to_thread(thread.join)


async def test_cancelling_while_it_opens_leaves_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def open_slowly(*arguments: Any) -> sqlite3.Connection:
        go_on.wait(10)
        return open_(*arguments)

    open_ = _file.open_file
    monkeypatch.setattr("asana_webhooks.stores.sqlite._writer.open_file", open_slowly)
    store = SqliteStore(path)
    opening = asyncio.create_task(store.__aenter__())
    await asyncio.sleep(0)
    opening.cancel()
    asyncio.get_running_loop().call_later(0.01, go_on.set)
    await asyncio.wait([opening])
    assert opening.cancelled()
    with pytest.raises(StoreError, match="is not open"):
        await store.counts()


def test_loop_that_ended_before_the_store_hangs_nobody(path: Path) -> None:
    async def leave_open() -> Any:
        store = await SqliteStore(path).__aenter__()
        opened = store._opened()
        opened.submit(lambda _: go_on.wait(10))
        return opened

    go_on = threading.Event()
    left = asyncio.run(leave_open())
    go_on.set()
    left._jobs.put(None)
    left._thread.join(10)
    assert not left._thread.is_alive()


def descriptors_below(folder: Path) -> list[str]:
    """Return what this process has open there."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one by which the folder is read
            found.append(os.readlink(link))
    return [name for name in found if name.startswith(str(folder))]


async def test_opening_that_fails_at_its_end_leaves_no_file_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_file.FileGuard, "__init__", fail)
    with pytest.raises(StoreError, match="Too many open files"):
        await SqliteStore(path).__aenter__()
    assert descriptors_below(path.parent) == []


async def test_closing_leaves_no_file_open(path: Path) -> None:
    async with SqliteStore(path) as store:
        assert await store.put(delivery())
        assert descriptors_below(path.parent) != []
    assert descriptors_below(path.parent) == []


# Batches


async def test_calls_that_gather_share_one_commit(store: SqliteStore) -> None:
    statements: list[str] = []
    await in_thread(store, lambda tables: tables._connection.set_trace_callback(statements.append))
    async with asyncio.TaskGroup() as tasks, one_batch(store):
        puts = [store.put(delivery(number)) for number in range(300)]
        tasks.create_task(store.get_route("r1"))
    assert all(await gather(*puts))
    assert statements.count("COMMIT") == 3  # of the trace itself, of the wait, of everything else
    assert len({statement for statement in statements if "INTO deliveries" in statement}) < 10
    assert (await store.counts()).waiting == 300


async def test_failing_batch_fails_each_of_its_calls_and_the_next_works(
    store: SqliteStore,
) -> None:
    def fail(tables: Tables) -> None:
        tables._execute("SELECT * FROM nowhere")

    async with asyncio.TaskGroup() as tasks, one_batch(store):
        calls = [store.put(delivery()), store.counts(), in_thread(store, fail)]
        answers = tasks.create_task(gather(*calls))
    for error in answers.result():
        assert isinstance(error, StoreError)
        assert "no such table: nowhere" in str(error)
        assert isinstance(error.__cause__, sqlite3.OperationalError)
    assert (await store.counts()).waiting == 0
    assert await store.put(delivery())


async def test_call_that_cannot_be_stored_costs_no_other_its_answer(store: SqliteStore) -> None:
    odd = delivery(1, route="a route \udcff")
    async with asyncio.TaskGroup() as tasks, one_batch(store):
        calls = [store.put(delivery(0)), store.put(odd), store.put(delivery(2))]
        answers = tasks.create_task(gather(*calls))
    first, error, last = answers.result()
    assert (first, last) == (True, True)
    assert isinstance(error, StoreError)
    assert str(error).endswith("failed: a text that was to be stored is no valid Unicode")
    assert (await store.counts()).waiting == 2


async def test_cancelled_put_is_not_stored_and_harms_no_other(store: SqliteStore) -> None:
    async with one_batch(store):
        cancelled = asyncio.ensure_future(store.put(delivery(1)))
        other = asyncio.ensure_future(store.put(delivery(2)))
        await asyncio.sleep(0)
        cancelled.cancel()
    assert await other
    assert cancelled.cancelled()
    assert (await store.counts()).waiting == 1
    assert await store.put(delivery(1))


async def test_cancelled_settlement_is_done_all_the_same(store: SqliteStore) -> None:
    await store.put(delivery())
    claim = await take(store)
    async with one_batch(store):
        settling = asyncio.create_task(store.settle(claim, handled(*claim.deliveries)))
        await asyncio.sleep(0)
        settling.cancel()
    assert (await store.counts()).waiting == 0
    assert settling.cancelled()


@pytest.mark.parametrize("there_is_one", [True, False])
async def test_cancelled_claim_is_given_back(store: SqliteStore, there_is_one: bool) -> None:  # noqa: FBT001 - a parameter
    if there_is_one:
        await store.put(delivery())
    async with one_batch(store):
        claim = asyncio.create_task(store.claim(limit=10, lease=30))
        await asyncio.sleep(0)
        claim.cancel()
    await asyncio.wait([claim])
    assert claim.cancelled()
    again = await store.claim(limit=10, lease=30)
    assert (again is not None) == there_is_one


async def test_cancelled_call_for_more_gives_back_what_it_was_given(store: SqliteStore) -> None:
    for number in range(2):
        await store.put(delivery(number))
    claim = await store.claim(limit=1, lease=30)
    assert claim is not None
    async with one_batch(store):
        more = asyncio.create_task(store.claim_more(claim, limit=10))
        await asyncio.sleep(0)
        more.cancel()
    await asyncio.wait([more])
    assert more.cancelled()
    again = await store.claim_more(claim, limit=10)
    assert again is not None
    assert [int(each.body) for each in again.deliveries] == [1]


async def test_call_for_more_that_is_cancelled_after_the_claim_ended_harms_nobody(
    store: SqliteStore,
) -> None:
    await store.put(delivery())
    claim = await take(store)
    await store.put(delivery(1))
    async with one_batch(store):
        more = asyncio.create_task(store.claim_more(claim, limit=10))
        end = asyncio.create_task(store.end_claim(claim))
        await asyncio.sleep(0)
        more.cancel()
    assert await end is not None
    assert [int(each.body) for each in (await take(store)).deliveries] == [0, 1]


async def test_claim_that_goes_on_names_no_more_than_it_holds(store: SqliteStore) -> None:
    await store.put(delivery(0))
    claim = await take(store)
    held = claim.deliveries
    for number in range(1, 50):
        await store.put(delivery(number))
        more = await store.claim_more(claim, limit=10)
        assert more is not None
        assert await store.settle(claim, handled(*held)) is not None
        held = more.deliveries
    ((claimed,),) = await execute(store, "SELECT claimed FROM queues")
    assert claimed == "49,50"


async def test_settlement_that_cannot_be_stored_is_kept_in_no_part(store: SqliteStore) -> None:
    await store.put(delivery(0))
    claim = await take(store)
    alone = replace(delivery(0), progress="a name \udcff")
    new = Retry(delivery=alone, delay=0.0)
    settlement = replace(handled(*claim.deliveries), retries=(new,), scope="12", events=bytes(32))
    with pytest.raises(StoreError, match="no valid Unicode"):
        await store.settle(claim, settlement)
    assert await store.remembered("12") == b""
    assert await store.end_claim(claim) is not None
    assert (await take(store)).deliveries == claim.deliveries


async def test_claim_that_is_cancelled_with_the_store_closing_is_given_back(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put(delivery())
        async with one_batch(store):
            claim = asyncio.create_task(store.claim(limit=10, lease=30))
            await asyncio.sleep(0)
            claim.cancel()
    async with SqliteStore(path) as store:
        assert await store.claim(limit=10, lease=30) is not None


async def test_busy_event_loop_does_not_keep_calls_from_being_done(store: SqliteStore) -> None:
    put = asyncio.ensure_future(store.put(delivery()))
    with guard():
        while not put.done():
            start = time.perf_counter()
            while time.perf_counter() < start + 0.0002:
                pass
            await asyncio.sleep(0)
    assert await put


# Faults


async def test_full_disk_fails_calls_until_there_is_space(store: SqliteStore) -> None:
    assert await store.put(delivery(0))
    ((pages,),) = await execute(store, "PRAGMA page_count")
    await execute(store, f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="the disk is full: free some space"):
        await store.put(delivery(1, size=100_000))
    await execute(store, f"PRAGMA max_page_count = {pages + 1000}")
    assert await store.put(delivery(1, size=100_000))
    assert (await store.counts()).waiting == 2


async def test_file_that_is_moved_away_fails_calls_until_it_is_back(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # which does not matter
    moved = f"{path}.moved"
    assert await store.put(delivery(0))
    os.rename(path, moved)
    with pytest.raises(StoreError, match="moved or deleted while it was open: put it back"):
        await store.put(delivery(1))
    shutil.copyfile(moved, path)
    with pytest.raises(StoreError, match="moved or deleted while it was open: put it back"):
        await store.put(delivery(2))
    os.replace(moved, path)
    assert await store.put(delivery(3))


async def test_locked_file_fails_calls_until_it_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "BUSY_TIMEOUT", 0.02)
    async with SqliteStore(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="another process keeps it locked: wait"):
                await store.put(delivery())
            with pytest.raises(StoreError, match="another process keeps it locked"):
                await SqliteStore(path).__aenter__()
        assert await store.put(delivery())


def start(script: str, *arguments: Any) -> subprocess.Popen[str]:
    """Return a Python process that runs this script."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(script: str, *arguments: Any) -> str:
    """Return what a Python process prints that runs this script, and does not fail."""
    with start(script, *arguments) as child:
        printed, _ = child.communicate(timeout=50)
    assert child.returncode == 0
    return printed


PRELUDE = """
import asyncio, hashlib, resource, sys
from datetime import datetime, UTC
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Delivery, Settlement
from asana_webhooks.stores.sqlite import SqliteStore

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

def delivery(number, size=10):
    digest = hashlib.sha256(str(number).encode()).digest()
    body = (b"%d" % number).ljust(size)
    return Delivery(route=f"r{number % 4}", body=body, digest=digest, received_at=NOON)
"""


async def test_process_that_nearly_always_writes_leaves_others_their_turn(path: Path) -> None:
    script = """
import sqlite3, time
other = sqlite3.connect(sys.argv[1], isolation_level=None)
print("busy", flush=True)
while True:
    other.execute("BEGIN IMMEDIATE")
    time.sleep(0.05)  # as a slow disk takes
    other.execute("COMMIT")
    time.sleep(0.0002)
"""
    async with SqliteStore(path) as store:
        with start(script, path) as busy:
            assert busy.stdout is not None
            assert busy.stdout.readline() == "busy\n"
            try:
                for number in range(10):
                    assert await store.put(delivery(number))
            finally:
                busy.kill()


async def test_limit_on_the_size_of_files_fails_calls_until_it_is_lifted(path: Path) -> None:
    printed = run(
        """
async def main():
    async with SqliteStore(sys.argv[1]) as store:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
        stored = 0
        try:
            while True:
                stored += await store.put(delivery(stored, 20_000))
        except StoreError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        stored += await store.put(delivery(stored, 20_000))
        print(stored)

asyncio.run(main())
""",
        path,
    )
    error, stored = printed.splitlines()
    assert "reading or writing failed: check the disk and its quota" in error
    async with SqliteStore(path) as store:
        assert (await store.counts()).waiting == int(stored)


async def test_what_was_stored_when_the_process_was_killed_is_there(path: Path) -> None:
    script = """
async def put(store, first):
    for number in range(first, 100_000, 8):
        await store.put(delivery(number))
        print(number, flush=True)

async def main():
    async with SqliteStore(sys.argv[1]) as store:
        await asyncio.gather(*(put(store, first) for first in range(8)))

asyncio.run(main())
"""
    with start(script, path) as child:
        assert child.stdout is not None
        printed = [child.stdout.readline() for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        printed += child.stdout.readlines()
    answered = {int(line) for line in printed if line.endswith("\n")}
    assert len(answered) >= 200
    async with SqliteStore(path) as store:
        claims = [await take(store) for _ in range(4)]
        found = {int(d.body) for claim in claims for d in claim.deliveries}
        assert answered & set(range(400)) <= found
        assert len(answered) <= (await store.counts()).waiting


async def test_second_process_shares_the_work_and_repeats_none(path: Path) -> None:
    script = """
async def main():
    async with SqliteStore(sys.argv[1]) as store:
        idle = 0
        while idle < 20:
            claim = await store.claim(limit=3, lease=30)
            if claim is None:
                idle += 1
                await asyncio.sleep(0.01)
                continue
            for delivery in claim.deliveries:
                print(delivery.route, int(delivery.body), flush=True)
                assert await store.settle(claim, Settlement(removed=(delivery.id,))) is not None
            assert await store.end_claim(claim) is not None

asyncio.run(main())
"""
    ours: list[tuple[str, int]] = []
    async with SqliteStore(path) as store:
        await gather(*(store.put(delivery(n, route=f"r{n % 4}")) for n in range(200)))
        claim = await store.claim(limit=1, lease=30)
        assert claim is not None
        with start(script, path) as child:
            assert child.stdout is not None
            printed = child.stdout.readline()  # both have a part of the work now
            while claim is not None:
                ours += [(d.route, int(d.body)) for d in claim.deliveries]
                assert await store.end_claim(claim, handled(*claim.deliveries)) is not None
                await asyncio.sleep(0.001)
                claim = await store.claim(limit=1, lease=30)
            theirs = [line.split() for line in (printed + child.stdout.read()).splitlines()]
        assert child.returncode == 0
        assert (await store.counts()).waiting == 0
    others = [(route, int(number)) for route, number in theirs]
    assert others
    assert ours
    assert sorted(number for _, number in ours + others) == list(range(200))
    for part in (ours, others):
        for id_ in ("r0", "r1", "r2", "r3"):
            mine = [number for route, number in part if route == id_]
            assert mine == sorted(mine)


async def test_second_process_sees_a_full_inbox(path: Path) -> None:
    async with SqliteStore(path, max_waiting=3) as store:
        await store.put(delivery(99))
        run(
            """
async def main():
    async with SqliteStore(sys.argv[1]) as store:
        for number in range(2):
            await store.put(delivery(number))

asyncio.run(main())
""",
            path,
        )
        with pytest.raises(StoreError, match="inbox is full"):
            await store.put(delivery(3))
        assert not await store.put(delivery(1))


@pytest.mark.slow
async def test_processes_that_create_the_file_at_once_share_it(path: Path) -> None:
    script = """
async def main():
    async with SqliteStore(sys.argv[1]) as store:
        await store.put(delivery(int(sys.argv[2])))

asyncio.run(main())
"""
    numbers = [asyncio.to_thread(run, script, path, number) for number in range(4)]
    assert await gather(*numbers) == ["", "", "", ""]
    async with SqliteStore(path) as store:
        assert (await store.counts()).waiting == 4


# Cost


@pytest.mark.parametrize(
    "name",
    [
        *("confirm", "count_held", "drop", "find_candidate", "forget_routes"),
        *("free_held", "get_route", "count_crashes", "end_claim", "find_due", "find_digests"),
        *("find_seen", "find_last_digest", "forget_digests", "forget_last_digests"),
        *("get_claimed", "keep", "remove", "renew", "take", "take_more"),
        *("find_deliveries", "find_remembered"),
        *("get_dead_letter", "list_dead_letters"),
        *("get_state", "change_state", "drop_state", "set_state_version", "list_states_in"),
        *("forget_holders_of", "count_other_holders", "has_writes", "get_write"),
        *("drop_old_write", "drop_written", "find_written", "list_writes", "get_caused"),
        *("is_in_use", "drop_routes_of", "drop_dead_letters_of", "drop_writes_of"),
        *("drop_states_of", "drop_remembered_of"),
    ],
)
async def test_statement_searches_and_sorts_by_an_index(store: SqliteStore, name: str) -> None:
    text = SQL[name].format("?, ?")
    values: Any = (None,) * text.count("?")
    if ":" in text:
        names = ("route", "secret", "now", "skipping", "account", "resource", "id", "at")
        values = dict.fromkeys(names)
    plan = await in_thread(
        store, lambda tables: tables._execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
    )
    steps = [step[3] for step in plan]
    assert steps
    slow = [step for step in steps if "SCAN" in step or "TEMP" in step]
    assert set(slow) <= {
        "SCAN meta",  # which has one row
        "SCAN CONSTANT ROW",
        "SCAN writes USING COVERING INDEX writes_account",  # whether there is one
    }


async def steps_of_a_day(store: SqliteStore, number: int) -> list[int]:
    """Return the steps of SQLite's machine that each call in the life of a delivery takes."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    async def measure(call: Any) -> Any:
        nonlocal steps
        steps = 0
        result = await call
        taken.append(steps)
        return result

    taken: list[int] = []
    id_ = f"day {number}"
    await in_thread(store, lambda tables: tables._connection.set_progress_handler(count, 1))
    await measure(store.reserve(route(id_), ttl=60))
    await measure(store.add_candidate(id_, "secret"))
    await measure(store.put(delivery(number, route=id_), candidate="secret"))
    await measure(store.confirm(id_, gid="77", secret="secret"))
    await measure(store.put(delivery(number + 1, route=id_), candidate="secret"))
    claim = await measure(store.claim(limit=1, lease=30))
    assert claim.route == id_
    more = await measure(store.claim_more(claim, limit=10))
    assert len(more.deliveries) == 1
    await measure(store.settle(claim, put_off(claim.deliveries[0], delay=3600.0)))
    settlement = replace(handled(*more.deliveries), scope=id_, events=bytes(32))
    await measure(store.end_claim(claim, settlement))
    await measure(store.remembered(id_))
    await measure(store.put_state(State(scope=id_, text="{}"), deliveries=[delivery(number)]))
    await measure(store.put_state(State(scope=id_, version=1, text="{}")))
    assert (await measure(store.get_state(id_))).version == 2
    assert await measure(store.drop_state(id_, 2))
    await measure(store.put_write(Write(id=id_, account=id_, resources=(id_,), text="{}")))
    assert await measure(store.take_write(id_, "0", bytes(16)))
    assert len(await measure(store.list_writes([id_]))) == 1
    assert await measure(store.hold(id_, holder="a", ttl=60)) == 1
    assert await measure(store.list_states(id_)) == []
    assert await measure(store.forget_account(id_))
    assert len(await measure(store.peek("nothing waits"))) == 0
    await in_thread(store, lambda tables: tables._connection.set_progress_handler(None, 1))
    return taken


async def test_calls_cost_the_same_however_much_waits(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put_write(Write(id="w", resources=("12",), text="{}"))
        few = await steps_of_a_day(store, 10_000)
        for number in range(100):
            await store.reserve(route(f"r{number}"), ttl=60)
            await store.add_candidate(f"r{number}", "secret")
            await store.put_state(State(scope=f"/{number}", text="{}"))
            await store.put_write(Write(id=f"{number}", resources=(f"{number}",), text="{}"))
        await gather(
            *(
                store.put(delivery(number, route=f"r{number % 100}"), candidate="secret")
                for number in range(2000)
            )
        )
        for number in range(50):
            await store.confirm(f"r{number}", gid="77", secret="secret")
        for _ in range(50):
            await take(store, lease=3600)
        many = await steps_of_a_day(store, 20_000)
    assert max(round(m / f, 1) for m, f in zip(many, few, strict=True)) == 1.0


# Files of earlier versions


SUPPORT = Path(__file__).parent / "support"
OLD_KEY = base64.urlsafe_b64encode(b"the key of an old file: 32 bytes").decode()
OLD_NOW = 1002.0
"""A reading of the clock soon after the old files were written."""


def restore(path: Path, dump: str) -> None:
    """Write a file as an earlier version left it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((SUPPORT / dump).read_text())


@pytest.fixture(params=["version_2", "version_2_encrypted", "version_3", "version_4"])
def open_old(request: pytest.FixtureRequest, path: Path) -> Callable[..., SqliteStore]:
    """Return what opens a file that an earlier version of the schema wrote."""
    restore(path, f"sqlite_{request.param}.sql")
    keys = [OLD_KEY] if "encrypted" in request.param else None

    def open_it(clock: Callable[[], float] = lambda: OLD_NOW) -> SqliteStore:
        return SqliteStore(path, clock=clock, encryption_keys=keys)

    return open_it


async def handle_all(store: SqliteStore) -> list[tuple[str, bytes, int, int]]:
    """Claim and settle all that is due; return what it was."""
    found = []
    while claim := await store.claim(limit=100, lease=30):
        for each in claim.deliveries:
            upto = Progress.decode(each.progress).upto
            found.append((each.route, each.body[11:-2], each.attempts, upto))
        assert await store.end_claim(claim, handled(*claim.deliveries)) is not None
    return found


async def test_old_file_has_its_routes_and_secrets(open_old: Callable[..., SqliteStore]) -> None:
    async with open_old() as store:
        listed = {found.id: found for found in await store.list_routes()}
        assert set(listed) == {"confirmed", "leased", "reserved"}
        confirmed = listed["confirmed"]
        assert (confirmed.gid, confirmed.resource) == ("71", "11")
        assert (confirmed.secret, confirmed.heartbeat_at) == ("secret-of-confirmed", NOON)
        assert confirmed.filters == (WebhookFilter(resource_type="task"),)
        assert (confirmed.account, confirmed.user, confirmed.confirmed_at) == ("", None, NOON)
        assert not confirmed.leaving
        assert listed["reserved"].candidates == ("genuine-candidate", "strange-candidate")
        assert listed["reserved"].confirmed_at is None


async def test_deliveries_and_dead_letters_of_an_old_file_are_handled(
    open_old: Callable[..., SqliteStore],
) -> None:
    now = [OLD_NOW]
    async with open_old(lambda: now[0]) as store:
        assert (await store.counts()).waiting == 7
        assert sorted(await handle_all(store)) == [
            ("confirmed", b"5", 0, 0),
            ("retired", b"6", 0, 0),
        ]
        now[0] += 30  # the lease of a process that was killed runs out
        claim = await take(store)
        assert (claim.fence, claim.previous) == (2, 1)
        assert claim.deliveries[0].body[11:-2] == b"7"
        await store.end_claim(claim)
        assert await handle_all(store) == [("leased", b"7", 0, 0), ("leased", b"8", 0, 0)]
        now[0] += 100
        assert await handle_all(store) == [("confirmed", b"4", 2, 1)]
        first, second, *_ = await store.dead_letters()
        assert [first.reason, second.reason] == ["given up", "not JSON"]
        assert await store.replay([first.id, second.id]) == 2
        assert await handle_all(store) == [
            ("confirmed", b"3", 0, 1),
            ("confirmed", b"9", 0, 0),
        ]


async def test_handshake_of_an_old_file_goes_on(open_old: Callable[..., SqliteStore]) -> None:
    async with open_old() as store:
        await handle_all(store)
        assert await store.confirm("reserved", gid="74", secret="genuine-candidate")
        assert (await store.counts()).waiting == 4
        assert await handle_all(store) == [("reserved", b"1", 0, 0)]


async def test_duplicates_of_what_an_old_file_knows_are_recognised(
    open_old: Callable[..., SqliteStore],
) -> None:
    async with open_old() as store:
        for number in range(1, 10):
            assert not await store.put(delivery(number))
        later = NOON + DUPLICATES_KNOWN_FOR + timedelta(seconds=10)
        await gather(*(store.put(replace(delivery(n), received_at=later)) for n in range(10, 300)))
        assert await execute(store, "SELECT count(*) FROM seen") == [(0,)]
        assert await store.put(replace(delivery(1), received_at=later))


async def test_room_in_an_old_file_is_counted_without_what_is_held(path: Path) -> None:
    restore(path, "sqlite_version_2.sql")
    async with SqliteStore(path, clock=lambda: OLD_NOW, max_waiting=6) as store:
        assert await store.put(delivery(10))
        with pytest.raises(StoreError, match="inbox is full"):
            await store.put(delivery(11))


async def test_continuity_begins_in_an_old_file(open_old: Callable[..., SqliteStore]) -> None:
    async with open_old() as store:
        before = await store.list_states()
        assert [each.body[11:-2] for each in await store.peek("confirmed")] == [b"4", b"5"]
        new = State(scope="/10", text="{}")
        assert await store.put_state(new, deliveries=[delivery(10, route="confirmed")])
        assert len(await store.peek("confirmed")) == 3
        assert (await store.counts()).waiting == 8
    async with open_old() as store:
        assert await store.list_states() == [replace(new, version=1), *before]


async def test_route_that_an_old_file_retired_is_forgotten_after_48_hours(
    open_old: Callable[..., SqliteStore],
) -> None:
    now = [OLD_NOW]
    async with open_old(lambda: now[0]) as store:
        await handle_all(store)
        now[0] += RETIRED_KNOWN_FOR.total_seconds() - 3
        found = await store.get_route("retired")
        assert found is not None
        assert (found.state, found.gid, found.retired_as) == ("retired", "73", None)
        now[0] += 3
        assert await store.get_route("retired") is None


@pytest.mark.parametrize(
    "damage", ["'x'", "x'00'", "CAST(x'ff' AS TEXT)", "4611686018427387904", "-1"]
)
async def test_progress_of_an_old_file_that_cannot_be_read_is_a_dead_letter(
    path: Path, damage: str
) -> None:
    restore(path, "sqlite_version_3.sql")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE deliveries SET done = {damage} WHERE id = 5")
        connection.execute(f"UPDATE dead_letters SET done = {damage} WHERE id = 1")
    async with SqliteStore(path, clock=lambda: OLD_NOW) as store:
        assert await handle_all(store) == [("retired", b"6", 0, 0)]
        dead = await store.dead_letters()
        assert [letter.body[11:-2] for letter in dead] == [b"3", b"9", b"5"]
        assert {letter.progress for letter in dead} == {""}


async def test_dead_letters_of_an_old_file_leave_their_ids_to_nobody(path: Path) -> None:
    restore(path, "sqlite_version_3.sql")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM dead_letters")
    async with SqliteStore(path, clock=lambda: OLD_NOW) as store:
        await store.put(delivery(99), reason="odd")
        assert [letter.id for letter in await store.dead_letters()] == ["3"]


async def test_accounts_and_states_of_an_old_file_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(path, "sqlite_version_4.sql")
    now = [OLD_NOW]
    async with SqliteStore(path, clock=lambda: now[0]) as store:
        leaving = {found.id: found.leaving for found in await store.list_routes()}
        assert leaving == {"confirmed": False, "leased": True, "reserved": False}
        assert await store.list_states("acme") == [
            State(scope="acme/21", version=1, text='{"v":2}')
        ]
        with monkeypatch.context() as patched:
            patched.setattr(time, "time_ns", lambda: int(NOON.timestamp()) * 10**9)
            assert await store.remembered("acme/21") == bytes(range(32)) * 2
        assert len(await store.dead_letters()) == 3
        now[0] += RETIRED_KNOWN_FOR.total_seconds()
        found = await store.get_route("acme")  # a dead letter of it is left
        assert found is not None
        assert (found.account, found.user, found.retired_as) == ("acme", "502", "lost")
        assert await store.forget_account("acme")
        assert await store.get_route("acme") is None
        assert await store.list_states("acme") == []
        assert len(await store.dead_letters()) == 2


@pytest.mark.parametrize("version", [1, 2, 3, 4])
async def test_old_file_gets_the_schema_of_a_new_one(tmp_path: Path, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        for migration in _file.MIGRATIONS[:version]:
            for statement in migration:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
    schemas = []
    for name in ("old.db", "new.db"):
        async with SqliteStore(tmp_path / name) as store:
            schemas.append(await execute(store, "SELECT name, sql FROM sqlite_master ORDER BY 1"))
    assert schemas[0] == schemas[1]


# What was cut or deleted under the program


def size_of(path: Path) -> int:
    return path.stat().st_size


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


async def test_deleted_log_fails_calls_and_an_orderly_end_saves_what_it_held(path: Path) -> None:
    async with SqliteStore(path) as store:
        assert await store.put(delivery(1))
        log_of(path).unlink()
        for call in (store.put(delivery(2)), store.get_route("r1"), store.put(delivery(3))):
            with pytest.raises(StoreError, match="write-ahead log was deleted or cut"):
                await call
    async with SqliteStore(path) as store:
        assert not await store.put(delivery(1))


@pytest.mark.parametrize("left", [0, 32, 5000])
async def test_log_that_was_cut_fails_calls(path: Path, left: int) -> None:
    async with SqliteStore(path) as store:
        for number in range(3):
            assert await store.put(delivery(number))
        os.truncate(log_of(path), left)
        with pytest.raises(StoreError, match="write-ahead log was deleted or cut"):
            await store.claim(limit=1, lease=30)


async def test_log_that_was_begun_anew_by_another_process_is_no_fault(path: Path) -> None:
    async with SqliteStore(path) as store:
        assert await store.put(delivery(1))
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert log_of(path).stat().st_size == 0
        assert (await store.counts()).waiting == 1
        assert await store.put(delivery(2))


@pytest.mark.parametrize("left", [0, 1, 20])
async def test_file_that_was_cut_fails_calls(path: Path, left: int) -> None:
    await fill(path)
    async with SqliteStore(path) as store:
        os.truncate(path, left * 4096)
        for call in (store.put(delivery(999)), store.get_route("r1")):
            with pytest.raises(StoreError, match=r"it was cut while it was open|it is damaged"):
                await call


async def test_file_that_became_shorter_because_pages_were_given_back_is_no_fault(
    path: Path,
) -> None:
    await fill(path)
    async with SqliteStore(path) as store:
        size = size_of(path)
        await store.counts()
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("DELETE FROM deliveries")
            other.execute("UPDATE meta SET waiting = 0")
            other.execute("PRAGMA incremental_vacuum(1)")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert size_of(path) < size
        assert await store.put(delivery(999))
        assert (await store.counts()).waiting == 1


@pytest.mark.parametrize("how", ["emptied", "deleted"])
async def test_log_without_its_file_is_refused_and_kept(
    path: Path, tmp_path: Path, how: str
) -> None:
    async with SqliteStore(path) as store:
        assert await store.put(delivery(1))
        copy = tmp_path / "copy.db"
        shutil.copyfile(path, copy)
        shutil.copyfile(log_of(path), log_of(copy))  # as after a kill
    whole, log = copy.read_bytes(), log_of(copy).read_bytes()
    if how == "emptied":
        os.truncate(copy, 0)
    else:
        copy.unlink()
    with pytest.raises(StoreError, match="is empty or gone, but its write-ahead log is there"):
        await SqliteStore(copy).__aenter__()
    assert log_of(copy).read_bytes() == log
    copy.write_bytes(whole)
    async with SqliteStore(copy) as store:
        assert (await store.counts()).waiting == 1


async def test_length_of_a_file_that_is_too_large_to_check_is_checked(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "LARGEST_CHECKED", 0)
    await fill(path)
    copy = tmp_path / "copy.db"
    async with SqliteStore(path) as store:
        assert await store.put(delivery(999))
        shutil.copyfile(path, copy)
        shutil.copyfile(log_of(path), log_of(copy))  # as after a kill: SQLite trusts the log
    os.truncate(copy, 30 * 4096)
    with pytest.raises(StoreError, match="it is damaged"):
        await SqliteStore(copy).__aenter__()


async def test_log_that_was_replaced_by_a_copy_fails_calls(path: Path) -> None:
    async with SqliteStore(path) as store:
        assert await store.put(delivery(1))
        copy = path.with_name("copy")
        shutil.copyfile(log_of(path), copy)
        os.replace(copy, log_of(path))
        with pytest.raises(StoreError, match="write-ahead log was deleted or cut"):
            await store.put(delivery(2))


async def test_directory_that_is_none_any_more_fails_calls_until_it_is_back(
    tmp_path: Path,
) -> None:
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    async with SqliteStore(folder / "store.db") as store:
        folder.rename(moved)
        folder.touch()
        with pytest.raises(StoreError, match="Not a directory; check that its directory exists"):
            await store.put(delivery(1))
        folder.unlink()
        moved.rename(folder)
        assert await store.put(delivery(1))


@contextmanager
def guarding(path: Path, *, frames: int = 0, pages: int = 0) -> Iterator[_file.FileGuard]:
    """Guard files of which the index says that there are so many frames and pages."""
    index = bytearray(136)
    struct.pack_into("=HII", index, 14, 4096, frames, pages)
    log_of(path).touch()
    path.with_name(f"{path.name}-shm").write_bytes(index)
    with closing(_file.FileGuard(str(path))) as guarded:
        yield guarded


def test_index_that_was_cut_is_seen(path: Path) -> None:  # no open store would survive it
    path.touch()
    with guarding(path) as guarded:
        assert guarded.problem() is None
        os.truncate(path.with_name(f"{path.name}-shm"), 0)
        assert guarded.problem() == _file.LOG_LOST


def test_log_that_is_begun_anew_between_two_looks_is_no_fault(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.touch()
    with guarding(path, frames=9) as guarded:
        assert guarded.problem() == _file.LOG_LOST
        before = guarded._read_index()
        headers = iter([before, before._replace(frames=0)])
        monkeypatch.setattr(guarded, "_read_index", lambda: next(headers))
        assert guarded.problem() is None


def test_file_that_was_cut_to_what_is_no_database_is_seen(path: Path) -> None:
    path.write_bytes(b"x" * 8192)
    with guarding(path, pages=2) as guarded:
        os.truncate(path, 4096)
        assert guarded.problem() == _file.CUT


def test_file_that_became_shorter_and_is_locked_is_not_taken_for_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_file, "BUSY_TIMEOUT", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        with guarding(path, pages=9) as guarded:
            guarded._size = 9 * 4096
            assert guarded.problem() == _file.REMEDIES[sqlite3.SQLITE_BUSY]


async def test_log_that_is_deleted_while_a_call_is_done_fails_that_call(
    store: SqliteStore, path: Path
) -> None:
    def reserve_and_delete(tables: Tables) -> bool:
        log_of(path).unlink()
        return tables.reserve(route(), ttl=60)

    with pytest.raises(StoreError, match="write-ahead log was deleted or cut"):
        await in_thread(store, reserve_and_delete)


# Rows that cannot be read


SECRET = "genuine-secret-0123456789"


async def confirm(store: SqliteStore, id_: str) -> None:
    assert await store.reserve(route(id_), ttl=60)
    assert await store.add_candidate(id_, SECRET)
    assert await store.confirm(id_, gid=f"gid_of_{id_[:6]}", secret=SECRET)


@pytest.mark.parametrize(
    "damage",
    [
        "received_at = 'long ago'",
        "received_at = 9223372036854775807",
        "digest = 'text'",
        "attempts = x'00'",
        "trace = CAST(x'ff' AS TEXT)",
        "body = 7",
        "crashes = 'a'",
        "progress = x'00'",
        "progress = CAST(x'ff' AS TEXT)",
        "attempts = -1",
        "attempts = 9223372036854775807",
    ],
)
async def test_delivery_that_cannot_be_read_becomes_a_dead_letter_and_stalls_nobody(
    store: SqliteStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        await store.put(delivery(number))
    await execute(store, f"UPDATE deliveries SET {damage} WHERE id = 1")
    claim = await take(store)
    assert [int(each.body) for each in claim.deliveries] == [1, 2]
    (dead,) = await store.dead_letters()
    assert (dead.route, dead.reason) == ("r1", "unreadable: its row in the store is damaged")
    assert dead.body == (b"" if "body" in damage else delivery(0).body)
    assert caplog.messages == [f"delivery 1 became a dead letter: {dead.reason}"]
    await store.end_claim(claim, handled(*claim.deliveries))
    assert (await store.counts()).waiting == 0


async def test_one_more_that_cannot_be_read_becomes_a_dead_letter(store: SqliteStore) -> None:
    await store.put(delivery(0))
    claim = await take(store)
    for number in (1, 2):
        await store.put(delivery(number))
    await execute(store, "UPDATE deliveries SET body = 7 WHERE id = 2")
    more = await store.claim_more(claim, limit=10)
    assert more is not None
    assert [int(each.body) for each in more.deliveries] == [2]
    assert [dead.route for dead in await store.dead_letters()] == ["r1"]


@pytest.mark.parametrize(
    "damage", ["events = 7", "events = CAST(x'ff' AS TEXT)", "at = 'x'", "at = 9223372036854775807"]
)
async def test_remembered_events_that_cannot_be_read_are_left_out(
    store: SqliteStore, damage: str
) -> None:
    await store.put(delivery(0))
    claim = await take(store)
    for events in (b"first", b"second"):
        await store.settle(claim, Settlement(scope="12", events=events))
    await execute(store, f"UPDATE remembered SET {damage} WHERE id = 1")
    assert await store.remembered("12") == b"second"


@pytest.mark.parametrize("damage", ["x'00'", "CAST(x'ff' AS TEXT)"])
async def test_state_whose_text_cannot_be_read_is_empty_and_can_be_replaced(
    store: SqliteStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for scope in ("/12", "/13"):
        await store.put_state(State(scope=scope, text="{}"))
    await execute(store, f"UPDATE states SET text = {damage} WHERE scope = '/12'")
    damaged = State(scope="/12", version=1, text="")
    assert await store.get_state("/12") == damaged
    assert await store.list_states() == [damaged, State(scope="/13", version=1, text="{}")]
    assert set(caplog.messages) == {
        "the text of the state of '/12' was damaged, and is taken for empty"
    }
    assert await store.put_state(replace(damaged, text="anew"))
    assert await store.get_state("/12") == State(scope="/12", version=2, text="anew")


@pytest.mark.parametrize("call", ["get_state", "list_states"])
@pytest.mark.parametrize("damage", ["0", "-1", "9223372036854775807", "'x'", "x'00'"])
async def test_version_of_a_state_that_cannot_be_read_begins_again_above_all(
    store: SqliteStore, damage: str, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = State(scope="/12", text="{}")
    await store.put_state(before)
    await execute(store, f"UPDATE states SET version = {damage}")
    found = await store.get_state("/12") if call == "get_state" else (await store.list_states())[0]
    assert found is not None
    assert found.version > 1_000_000
    assert caplog.messages == ["the version of the state of '/12' was damaged, and begins again"]
    assert not await store.put_state(replace(before, version=1))
    assert await store.put_state(replace(found, text="anew"))
    assert await store.get_state("/12") == State(
        scope="/12", version=found.version + 1, text="anew"
    )


async def test_state_whose_scope_cannot_be_read_is_left_out(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    for scope in ("/12", "/13"):
        await store.put_state(State(scope=scope, text="{}"))
    await execute(store, "UPDATE states SET scope = CAST(x'ff' AS TEXT) WHERE scope = '/12'")
    assert [found.scope for found in await store.list_states()] == ["/13"]
    assert caplog.messages == ["1 states are left out: their scopes were damaged in the store"]


async def test_state_that_cannot_be_stored_as_a_whole_is_not_stored(store: SqliteStore) -> None:
    new = [delivery(0), replace(delivery(1), progress="\udcff")]
    with pytest.raises(StoreError, match="no valid Unicode"):
        await store.put_state(State(scope="/12", text="{}"), deliveries=new)
    assert await store.list_states() == []
    assert (await store.counts()).waiting == 0


async def test_delivery_that_cannot_be_read_does_not_end_the_pages_of_a_peek(
    store: SqliteStore,
) -> None:
    for number in range(5):
        await store.put(delivery(number))
    await execute(store, "UPDATE deliveries SET body = 7 WHERE id IN (2, 3, 4)")
    (first,) = await store.peek("r1", limit=1)
    (last,) = await store.peek("r1", after=first.id, limit=2)
    assert [int(each.body) for each in (first, last)] == [0, 4]
    assert len(await store.dead_letters()) == 3
    assert (await store.counts()).waiting == 2


@pytest.mark.parametrize("form", ["0", "-1", "1e1", "1.0", " 1", "x"])
async def test_nothing_is_behind_what_is_no_id(store: SqliteStore, form: str) -> None:
    await store.put(delivery(0))
    assert await store.peek("r1", after=form) == []


async def test_events_are_forgotten_while_others_come(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_statements, "PRUNE_EVERY", 4)
    await store.put(delivery(0))
    claim = await take(store)
    for number in range(8):
        await store.settle(claim, Settlement(scope="12", events=b"%d" % number))
    await execute(store, "UPDATE remembered SET at = at - 2 * 86400000000 WHERE id <= 6")
    for number in range(8, 12):
        await store.settle(claim, Settlement(scope="12", events=b"%d" % number))
    assert await store.remembered("12") == b"67891011"
    assert await execute(store, "SELECT min(id) FROM remembered") == [(7,)]


@pytest.mark.parametrize(
    "damage",
    ["id = x'37'", "text = x'00'", "resources = '['", "resources = 7", "resources = x'ff'"],
)
async def test_write_that_cannot_be_read_is_left_out(
    store: SqliteStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    sound = Write(id="w1", resources=("12", "13"), text="{}")
    await store.put_write(sound)
    await store.put_write(Write(id="w2", resources=("12",), text="{}"))
    await execute(store, f"UPDATE writes SET {damage} WHERE number = 2")
    assert await store.list_writes(["12"]) == [sound]
    assert caplog.text.count("a write is left out: its row was damaged in the store") == 1


async def test_route_of_which_nothing_can_be_read_is_passed_over(store: SqliteStore) -> None:
    await store.put(delivery(0))
    await execute(store, "UPDATE deliveries SET body = 7")
    await store.put(delivery(1, route="r2"))
    assert (await take(store)).route == "r2"
    assert await store.claim(limit=10, lease=30) is None


@pytest.mark.parametrize(
    "damage",
    [
        *("fence = 'a'", "fence = 9223372036854775807", "fence = -1"),
        *("leased = x'00'", "claimed = CAST(x'ff' AS TEXT)"),
    ],
)
async def test_queue_that_cannot_be_read_is_made_again(store: SqliteStore, damage: str) -> None:
    for number in range(2):
        await store.put(delivery(number))
    await store.put(delivery(2, route="r2"))
    await execute(store, f"UPDATE queues SET {damage} WHERE route = 'r1'")
    claims = [await take(store), await take(store)]
    assert sorted(len(claim.deliveries) for claim in claims) == [1, 2]


async def test_queue_that_is_made_again_takes_no_word_of_claims_before(
    store: SqliteStore,
) -> None:
    await store.put(delivery(0))
    lost = await take(store)
    await execute(store, "UPDATE queues SET fence = 'a'")
    await execute(store, "UPDATE queues SET due = 0")
    claim = await take(store)
    assert claim.previous == 0
    assert claim.fence > lost.fence
    assert await store.settle(lost, handled(*lost.deliveries)) is None


async def test_queue_that_was_lost_begins_again_with_higher_fences(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put(delivery(0))
        lost = await take(store)
        await execute(store, "DELETE FROM queues")
    async with SqliteStore(path) as store:
        claim = await take(store)
        assert claim.previous == 0
        assert claim.fence > lost.fence


def write_without_types(path: Path, statement: str) -> None:
    """Run a statement on the queues as if their columns had no type, beside an open store."""
    untyped = "replace(sql, 'route TEXT PRIMARY', 'route PRIMARY')"
    typed = "replace(sql, 'route PRIMARY', 'route TEXT PRIMARY')"
    for change, then in ((untyped, "SELECT 1"), (typed, statement)):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute(then)
            other.execute("PRAGMA writable_schema = ON")
            other.execute(f"UPDATE sqlite_master SET sql = {change} WHERE name = 'queues'")


async def test_queue_whose_route_is_no_text_at_all_is_said_and_not_tried_without_end(
    store: SqliteStore, path: Path
) -> None:
    await store.put(delivery(0))
    write_without_types(path, "UPDATE queues SET route = 5")
    async with asyncio.timeout(10):
        with pytest.raises(StoreError, match="queues is damaged and cannot be made again"):
            await store.claim(limit=1, lease=30)
    assert await store.put(delivery(1, route="r2"))


BROKEN = ["'x'", "CAST(x'ff' AS TEXT)", "x'fffe'", "x''", "1e300", "9e999", "4611686018427387904"]


async def reopened_with(path: Path, damage: str) -> SqliteStore:
    """Return a store of two deliveries, of two webhooks, that was damaged while it was closed."""
    async with SqliteStore(path) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
        for number, id_ in enumerate(("r1", "r2")):
            assert await store.put(delivery(number, route=id_))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    return SqliteStore(path)


@pytest.mark.parametrize("value", [*BROKEN, "-1"])
@pytest.mark.parametrize("column", ["waiting", "clock", "fence"])
@pytest.mark.parametrize("when", ["closed", "open"])
async def test_damaged_meta_is_mended_and_everything_goes_on(
    path: Path, when: str, column: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage = f"UPDATE meta SET {column} = {value}"
    store = await reopened_with(path, damage if when == "closed" else "SELECT 1")
    async with asyncio.timeout(10), store:
        if when == "open":
            await execute(store, damage)
        assert (await store.counts()).waiting == 2
        assert await store.put(delivery(2))
        claims = [await take(store), await take(store)]
        assert sorted(len(claim.deliveries) for claim in claims) == [1, 2]
        for claim in claims:
            assert claim.fence > 0
            assert await store.end_claim(claim, handled(*claim.deliveries)) is not None
        assert (await store.counts()).waiting == 0
    assert len(caplog.messages) <= 1
    if column == "fence":
        assert caplog.messages == ["the fence in table meta was damaged, and begins again"]


async def test_fence_that_was_damaged_begins_above_those_of_forgotten_routes(path: Path) -> None:
    async with SqliteStore(path) as store:
        await store.put(delivery(0))
        old = await take(store)
        await execute(store, "UPDATE meta SET fence = 'x'")
        await execute(store, "DELETE FROM queues")
    async with SqliteStore(path) as store:
        new = await take(store)
        assert new.fence > old.fence
        assert await store.settle(old, handled(*old.deliveries)) is None


async def test_lost_row_of_meta_is_made_again(path: Path) -> None:
    async with await reopened_with(path, "DELETE FROM meta") as store:
        assert (await store.counts()).waiting == 2
        assert len((await take(store)).deliveries) == 1
        await execute(store, "DELETE FROM meta")
        with pytest.raises(StoreError, match="table meta of the file has lost its row: restart"):
            await store.put(delivery(2))


@pytest.mark.parametrize("table", ["deliveries", "queues"])
@pytest.mark.parametrize("value", BROKEN)
async def test_damaged_time_counts_as_come_and_is_said_once(
    path: Path, table: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await reopened_with(path, f"UPDATE {table} SET due = {value} WHERE route = 'r1'")
    async with store:
        assert {(await take(store)).route, (await take(store)).route} == {"r1", "r2"}
    assert caplog.messages == ["1 times were damaged in the store, and count as come"]


async def test_queue_that_forgot_its_deliveries_is_made_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await reopened_with(path, "UPDATE queues SET due = NULL") as store:
        assert {(await take(store)).route, (await take(store)).route} == {"r1", "r2"}
    assert caplog.messages == [
        "2 queues were made again: their rows in the store were damaged",
    ]


@pytest.mark.parametrize("value", [*BROKEN, "-1"])
async def test_delivery_held_for_what_is_no_candidate_becomes_a_dead_letter(
    path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage = f"UPDATE deliveries SET candidate = {value} WHERE route = 'r1'"
    async with await reopened_with(path, damage) as store:
        assert (await take(store)).route == "r2"
        (dead,) = await store.dead_letters()
        assert (dead.route, dead.body) == ("r1", delivery(0).body)
        assert (await store.counts()).waiting == 1
    assert caplog.messages == [f"delivery 1 became a dead letter: {dead.reason}"]


@pytest.mark.parametrize("value", BROKEN)
async def test_delivery_of_a_damaged_route_is_handed_on_or_a_dead_letter(
    path: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await reopened_with(path, f"UPDATE deliveries SET route = {value} WHERE route = 'r1'")
    async with store:
        bodies = []
        while claim := await store.claim(limit=9, lease=60):
            bodies += [each.body for each in claim.deliveries]
        bodies += [letter.body for letter in await store.dead_letters()]
        assert sorted(bodies) == [delivery(0).body, delivery(1).body]
        assert any("damaged" in line for line in caplog.messages)


async def test_route_that_became_a_blob_harms_no_other(path: Path) -> None:
    damage = "UPDATE queues SET route = CAST(route AS BLOB) WHERE route = 'r1'"
    async with asyncio.timeout(10), await reopened_with(path, damage) as store:
        assert {(await take(store)).route, (await take(store)).route} == {"r1", "r2"}
        assert await store.claim(limit=9, lease=60) is None
        assert await store.dead_letters() == []


async def test_store_that_is_sound_is_opened_without_a_word(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with await reopened_with(path, "SELECT 1") as store:
        assert await store.reserve(route("r3"), ttl=60)
        assert await store.add_candidate("r3", SECRET)
        assert await store.put(delivery(3, route="r3"), candidate=SECRET)
        claim = await take(store)
        await store.settle(claim, put_off(claim.deliveries[0], delay=3600.0))
    async with SqliteStore(path) as store:
        assert (await store.counts()).waiting == 3
        assert len((await take(store)).deliveries) == 1
        assert await store.claim(limit=9, lease=60) is None
        assert await store.confirm("r3", gid="77", secret=SECRET)
        assert len((await take(store)).deliveries) == 1
    assert caplog.messages == []


async def test_deliveries_of_a_route_that_cannot_be_read_become_dead_letters(
    store: SqliteStore,
) -> None:
    await store.put(delivery(0))
    for table in ("deliveries", "queues"):
        await execute(store, f"UPDATE {table} SET route = CAST(x'72ff' AS TEXT)")
    await store.put(delivery(1, route="r2"))
    assert (await take(store)).route == "r2"
    assert await store.claim(limit=10, lease=30) is None
    (dead,) = await store.dead_letters()
    assert (dead.route, dead.body) == ("", delivery(0).body)


async def test_dead_letter_that_cannot_be_read_is_listed_with_what_can(store: SqliteStore) -> None:
    await store.put(delivery(0), reason="odd")
    await store.put(delivery(1), reason="odd")
    await execute(
        store,
        "UPDATE dead_letters SET route = CAST(x'ff' AS TEXT), reason = CAST(x'ff' AS TEXT),"
        " received_at = 'x',"
        " buried_at = 9223372036854775807, progress = x'00' WHERE id = 1",
    )
    first, second = await store.dead_letters()
    assert (first.route, first.reason) == ("", "unreadable: its row in the store is damaged")
    assert (first.progress, first.body) == ("", delivery(0).body)
    assert await store.get_dead_letter(second.id) == second
    assert await store.discard([first.id]) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "created_at = 'x'",
        "created_at = 9223372036854775807",
        "filters = '{'",
        "filters = CAST(x'ff' AS TEXT)",
        "state = 'odd'",
        "target = CAST(x'ff' AS TEXT)",
        "heartbeat_at = 'x'",
        "account = x'00'",
        "user = x'00'",
        "confirmed_at = 'x'",
        "leaving = 'x'",
        "retired_as = 'x'",
    ],
)
async def test_route_whose_row_cannot_be_read_is_set_aside(
    store: SqliteStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    await confirm(store, "r1")
    await confirm(store, "r2")
    await execute(store, f"UPDATE routes SET {damage} WHERE id = 'r1'")
    for _ in range(2):
        assert [found.id for found in await store.list_routes()] == ["r2"]
    assert [line.partition(": ")[0] for line in caplog.messages] == [
        "webhook gid_of_r1 of resource 12 is set aside"
    ]
    with pytest.raises(StoreError, match="a webhook in table routes is damaged"):
        await store.get_route("r1")
    assert await store.get_route("r2") is not None


def delivery_with_a_time(number: int) -> Delivery:
    at = f"2026-03-01T12:{number // 60:02}:{number % 60:02}.000Z"
    body = b'{"events":[{"action":"changed","created_at":"%b"}]}' % at.encode()
    return replace(delivery(number), body=body)


async def pages_written(store: SqliteStore, path: Path, numbers: range) -> int:
    """Return how many pages the log grew by when these were put at once."""
    before = size_of(log_of(path))
    await gather(*(store.put(delivery_with_a_time(number)) for number in numbers))
    return (size_of(log_of(path)) - before) // (4096 + 24)


async def test_deliveries_that_come_together_change_few_pages(
    store: SqliteStore, path: Path
) -> None:
    await execute(store, "PRAGMA wal_autocheckpoint = 0")
    await pages_written(store, path, range(2000))
    assert await pages_written(store, path, range(2000, 2050)) <= 20  # of random digests 40 more


@pytest.mark.parametrize("make", [delivery, delivery_with_a_time])
async def test_digests_are_forgotten_while_others_come(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], Delivery]
) -> None:
    monkeypatch.setattr(_digests, "PRUNE_EVERY", 8)
    old, others = [make(number) for number in range(30)], map(make, range(30, 1000))
    for each in old:
        assert await store.put(each)
    for each in old:
        assert not await store.put(each)
    await execute(store, "UPDATE digests SET at = at - 2 * 86400000000 - 1")
    assert await store.put(old[0])
    for each in itertools.islice(others, 60):  # and twice as many are looked at
        assert await store.put(each)
    assert await execute(store, "SELECT count(*) FROM digests") == [(61,)]
    assert not await store.put(old[0])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"events":[]}',
        b'{"events":[{"created_at":"',
        b'{"events":[{"created_at":""}]}',
        b'{"events":[{"created_at":"%b"}]}' % (b"2" * 100),
    ],
    ids=["empty", "no events", "cut", "no time", "a long time"],
)
async def test_repeat_is_recognised_whatever_its_body_is(store: SqliteStore, body: bytes) -> None:
    for number in range(2):
        each = replace(delivery(number), body=body)
        assert await store.put(each)
        assert not await store.put(each)


async def test_digest_that_cannot_be_read_is_unknown(store: SqliteStore) -> None:
    await store.put(delivery(0), reason="odd")
    await execute(store, "UPDATE digests SET at = 'x'")
    assert await store.put(delivery(0), reason="odd")
    assert not await store.put(delivery(0), reason="odd")


KEY = Fernet.generate_key().decode()


async def break_secret(path: Path, id_: str, column: str) -> None:
    async with SqliteStore(path, encryption_keys=[KEY]) as store:
        await execute(store, f"UPDATE routes SET {column} WHERE id = '{id_}'")


@pytest.mark.parametrize(
    "damage", ["seal = 'gAAAA'", "seal = CAST(x'ff' AS TEXT)", "secret = CAST(x'ff' AS TEXT)"]
)
async def test_webhook_whose_secret_cannot_be_decrypted_is_set_aside(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SqliteStore(path, encryption_keys=[KEY]) as store:
        await confirm(store, "broken-route")
        await confirm(store, "sound-route")
    await break_secret(path, "broken-route", damage)
    async with SqliteStore(path, encryption_keys=[KEY]) as store:
        (line,) = caplog.messages
        assert line.startswith("webhook gid_of_broken of resource 12 is set aside: ")
        listed = {found.id: found.secret for found in await store.list_routes()}
        assert listed == {"broken-route": None, "sound-route": SECRET}
        with pytest.raises(StoreError, match="cannot be decrypted|encryption_keys"):
            await store.get_route("broken-route")
        assert await store.retire("broken-route")
        assert await store.reserve(route("another"), ttl=60)


async def test_store_of_which_no_secret_can_be_decrypted_is_refused(path: Path) -> None:
    async with SqliteStore(path, encryption_keys=[KEY]) as store:
        await confirm(store, "r1")
    await break_secret(path, "r1", "seal = 'gAAAA'")
    with pytest.raises(StoreError, match="establish the webhooks again"):
        await SqliteStore(path, encryption_keys=[KEY]).__aenter__()


@pytest.mark.parametrize("column", ["secret", "seal"])
@pytest.mark.parametrize("value", ["'x'", "CAST(x'ff' AS TEXT)", "x'fffe'", "x''", "7"])
async def test_damaged_secret_of_a_store_without_keys_blames_no_key_and_hinders_no_other(
    path: Path, column: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage = f"UPDATE routes SET {column} = {value} WHERE id = 'r1'"
    async with await reopened_with(path, damage) as store:
        found = await store.get_route("r2")
        assert found is not None
        assert found.secret == SECRET
    assert not any("key" in line for line in caplog.messages)
    if column == "seal":
        (line,) = caplog.messages
        assert line.startswith("webhook gid_of_r1 of resource 12 is set aside: its secret cannot")


async def test_secrets_in_clear_beside_lost_ones_do_not_hide_that_the_key_is_lost(
    path: Path,
) -> None:
    async with SqliteStore(path, encryption_keys=[KEY]) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
    await break_secret(path, "r1", f"secret = '{SECRET}', seal = NULL")
    with pytest.raises(StoreError, match="establish the webhooks again"):
        await SqliteStore(path).__aenter__()


# What errors show


@pytest.mark.parametrize(
    "column", ["routes SET secret", "routes SET seal", "routes SET target", "deliveries SET trace"]
)
async def test_damaged_text_is_quoted_nowhere(
    store: SqliteStore, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    await confirm(store, "r1")
    await store.put(delivery(0))
    canary = b"canary-0123456789\xff"
    await execute(store, f"UPDATE {column} = CAST(x'{canary.hex()}' AS TEXT)")
    for call in (store.get_route("r1"), store.list_routes(), store.claim(limit=1, lease=30)):
        try:
            await call
        except StoreError as error:
            assert "canary" not in shown_by(error)  # noqa: PT017 - not every call meets it
    assert "canary" not in caplog.text


@pytest.mark.parametrize("broken", ["candidates", "routes", "digests", "meta"])
async def test_traceback_of_a_failing_store_shows_no_secret(
    store: SqliteStore, broken: str
) -> None:
    await store.reserve(route("secret-route"), ttl=60)
    await store.add_candidate("secret-route", SECRET)
    await execute(store, f"ALTER TABLE {broken} RENAME TO elsewhere")
    held = delivery(1, route="secret-route")
    calls = [
        store.add_candidate("secret-route", f"{SECRET}-2"),
        store.confirm("secret-route", gid="77", secret=SECRET),
        store.put(held, candidate=SECRET),
        store.put(replace(held, body=SECRET.encode())),
        store.get_route("secret-route"),
    ]
    failed = [each for each in await gather(*calls) if isinstance(each, StoreError)]
    assert failed
    for error in failed:
        assert "secret-" not in shown_by(error)


@pytest.mark.parametrize("broken", ["queues", "remembered"])
async def test_traceback_of_a_settlement_that_fails_shows_neither_route_nor_body(
    store: SqliteStore, broken: str
) -> None:
    body = SECRET.encode()
    assert await store.put(replace(delivery(1, route="secret-route"), body=body))
    claim = await take(store)
    await execute(store, f"ALTER TABLE {broken} RENAME TO elsewhere")
    again = Retry(delivery=claim.deliveries[0], delay=0.0)
    settlement = Settlement(retries=(again,), scope="12", events=body)
    for failed in await gather(store.settle(claim, settlement), store.end_claim(claim, settlement)):
        assert isinstance(failed, StoreError)
        assert "secret-" not in shown_by(failed)


@pytest.mark.parametrize("broken", ["states", "deliveries", "queues"])
async def test_traceback_of_a_state_that_is_not_stored_shows_neither_route_nor_body(
    store: SqliteStore, broken: str
) -> None:
    await execute(store, f"ALTER TABLE {broken} RENAME TO elsewhere")
    new = replace(delivery(1, route="secret-route"), body=SECRET.encode())
    with pytest.raises(StoreError) as caught:
        await store.put_state(State(scope="/12", text=SECRET), deliveries=[new])
    assert "secret-" not in shown_by(caught.value)


async def test_error_that_was_not_expected_says_where_it_was_raised(store: SqliteStore) -> None:
    def fail(tables: Tables) -> None:
        secret = SECRET
        raise KeyError(secret)

    with pytest.raises(StoreError, match="unexpected KeyError") as caught:
        await in_thread(store, fail)
    assert "in fail" in "".join(caught.value.__notes__)
    assert SECRET not in shown_by(caught.value)


# The thread and the loop


class BusyOnce(sqlite3.Connection):
    """A connection that another process keeps from changing the mode of the journal, once."""

    refused = 0

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and not BusyOnce.refused:
            BusyOnce.refused += 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(sql, *values)


async def test_file_that_another_process_is_just_creating_is_opened_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = partial(sqlite3.connect, factory=BusyOnce)
    monkeypatch.setattr("sqlite3.connect", connect)
    async with SqliteStore(path) as store:
        assert await store.put(delivery())
    assert BusyOnce.refused == 1


async def test_event_loop_hardly_rests_while_the_thread_waits_for_the_disk(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = 0

    def rest(seconds: float) -> None:
        nonlocal rests
        rests += threading.current_thread() is threading.main_thread()
        sleep(seconds)

    sleep = time.sleep
    monkeypatch.setattr("time.sleep", rest)
    go_on = threading.Event()
    slow = store._opened().submit(lambda _: go_on.wait(10))
    asyncio.get_running_loop().call_later(1.0, go_on.set)
    assert await slow
    assert 1 <= rests <= 12  # it was 90


async def test_pages_that_are_free_are_given_back_when_nothing_is_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "IDLE", 0.02)
    monkeypatch.setattr(_writer, "STEP_PAUSE", 0.001)
    async with SqliteStore(path) as store:
        await gather(*(store.put(delivery(number, size=500_000)) for number in range(40)))
        while claim := await store.claim(limit=100, lease=30):
            await store.end_claim(claim, handled(*claim.deliveries))
        await until(lambda: path.stat().st_size < 6_000_000)
        assert log_of(path).stat().st_size < 6_000_000
        assert await store.put(delivery(99))
    async with SqliteStore(path) as store:
        assert (await store.counts()).waiting == 1


async def test_what_has_come_to_its_end_is_forgotten_though_nothing_new_comes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_writer, "IDLE", 0.02)
    monkeypatch.setattr(_writer, "FORGET_EVERY", 0.0)
    now = [1000.0]
    tables = ("routes", "queues", "owners", "holders", "digests", "remembered", "writes")

    async def left(store: SqliteStore) -> list[str]:
        rows = [await execute(store, f"SELECT count(*) FROM {table}") for table in tables]
        return [table for table, ((count,),) in zip(tables, rows, strict=True) if count]

    async with SqliteStore(path, clock=lambda: now[0]) as store:
        await confirm(store, "r1")
        await store.own("https://hooks.example.com", holder="a", ttl=15)
        await store.hold("slots", holder="a", ttl=15)
        await store.put_write(Write(id="w1", resources=("12",), text="{}"))
        await store.put(delivery())
        claim = await take(store)
        settlement = replace(handled(*claim.deliveries), scope="12", events=bytes(32))
        await store.end_claim(claim, settlement)
        for table in ("remembered", "writes"):
            await execute(store, f"UPDATE {table} SET at = at - 3 * 86400000000")
        await store.retire("r1")
        now[0] += RETIRED_KNOWN_FOR.total_seconds()
        with guard():
            while await left(store):
                await anyio.sleep(0.1)  # in which nothing is asked
        await store.put(delivery())
        assert (await take(store)).fence > claim.fence
