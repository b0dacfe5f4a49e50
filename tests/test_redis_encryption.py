"""Secrets at rest on a real Valkey, also while several processes use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.valkey_server import TO_A_DISK, ClockedRedisStore, ValkeyServer, running_valkey, valkey
from test_encryption import *  # noqa: F403 - its tests, with the fixtures below instead of its own
from test_encryption import (
    NEW,
    OLD,
    OTHER,
    RIVAL,
    SECRET,
    Dump,
    Make,
    confirm,
    delivery,
    reserve,
    secret_of,
)
from test_stores import Clock, numbers, take
from test_stores import delivery as numbered

from asana_webhooks.errors import StoreError
from asana_webhooks.models import Counts
from asana_webhooks.stores import Store
from asana_webhooks.stores.redis import RedisStore, _scripts

pytestmark = pytest.mark.servers

__all__ = ["valkey"]

Act = Callable[[Store], Awaitable[object]]


@pytest.fixture
def server(valkey: ValkeyServer) -> ValkeyServer:
    """Return the server with nothing on it."""
    with valkey.client() as client:
        client.flushall()
    return valkey


@pytest.fixture
def make(server: ValkeyServer) -> Make:
    return lambda keys: RedisStore(server.url, encryption_keys=keys)


@pytest.fixture
def dump(server: ValkeyServer) -> Dump:
    return lambda: b"".join(repr(item).encode() for item in everything(server).items())


def everything(server: ValkeyServer) -> dict[bytes, Any]:
    """Return each key with its value."""
    with server.client() as client:
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
            b"stream": client.xrange,
        }
        return {key: read[client.type(key)](key) for key in sorted(client.scan_iter())}


class InterruptedStore(RedisStore):
    """A store whose opening lets another process act between its look and its change."""

    def __init__(self, url: str, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(url, encryption_keys=[NEW, OLD])
        self._run = self._server.run
        self._server.run = self._run_and_act  # type: ignore[method-assign] # the other acts here
        self._acts = [act]
        self.looks = 0

    async def _run_and_act(self, script: _scripts.Script, *arguments: bytes | str | int) -> Any:
        answer = await self._run(script, *arguments)
        if script is _scripts.LIST_SECRETS:
            self.looks += 1
            if self._acts:
                await self._acts.pop()()
        return answer


async def rotate_while(server: ValkeyServer, act: Act) -> int:
    """Open a store with a new key while another process acts; return how often it looked."""
    async with RedisStore(server.url, encryption_keys=[OLD, NEW]) as serving:
        await reserve(serving, "r1")
        await reserve(serving, "r2")
        for number, candidate in enumerate((SECRET, RIVAL)):
            assert await serving.put(numbered(number), candidate=candidate)
        rotating = InterruptedStore(server.url, partial(act, serving))
        async with rotating:
            pass
    return rotating.looks


async def test_secret_that_is_confirmed_while_keys_rotate_is_kept_and_sealed_anew(
    server: ValkeyServer, make: Make
) -> None:
    async def act(serving: Store) -> None:
        assert await serving.confirm("r1", gid="77", secret=SECRET)

    assert await rotate_while(server, act) == 2
    async with make([NEW]) as store:
        found = await store.get_route("r1")
        assert found is not None
        assert (found.state, found.gid, found.secret) == ("confirmed", "77", SECRET)
        assert found.candidates == ()
        assert numbers(await take(store)) == [0]


async def test_route_that_is_dropped_while_keys_rotate_stays_dropped(
    server: ValkeyServer, make: Make
) -> None:
    async def act(serving: Store) -> None:
        dropped = await serving.drop("r1")
        assert dropped is not None
        assert dropped.candidates == (SECRET, RIVAL)

    assert await rotate_while(server, act) == 2
    assert [key for key in everything(server) if key.endswith(b":r1")] == []
    async with make([NEW]) as store:
        assert await store.get_route("r1") is None
        assert [each.id for each in await store.list_routes()] == ["r2"]


async def test_secret_that_is_forgotten_while_keys_rotate_stays_forgotten(
    server: ValkeyServer, make: Make
) -> None:
    async def act(serving: Store) -> None:
        assert await serving.confirm("r1", gid="77", secret=SECRET)
        assert await serving.retire("r1")

    assert await rotate_while(server, act) == 2
    fields = everything(server)[b"{asana-webhooks}:route:r1"]
    assert not [name for name in fields if name.startswith((b"secret", b"seal", b"candidate"))]
    async with make([NEW]) as store:
        assert await secret_of(store) is None


async def test_two_processes_rotate_keys_at_once(server: ValkeyServer, make: Make) -> None:
    async def act(serving: Store) -> None:
        async with make([NEW, OLD]):
            pass

    assert await rotate_while(server, act) == 2
    async with make([NEW]) as store:
        assert await store.confirm("r1", gid="77", secret=SECRET)
        assert await secret_of(store) == SECRET


async def test_processes_with_old_and_new_keys_accept_the_same_candidates(make: Make) -> None:
    async with make([OLD, NEW]) as older, make([NEW, OLD]) as newer:
        await reserve(older)
        assert await newer.add_candidate("r1", SECRET)
        assert await newer.put(delivery(1), candidate=SECRET)
        assert await newer.confirm("r1", gid="77", secret=SECRET)
        assert await older.put(delivery(2), candidate=SECRET)
        assert await secret_of(older) == await secret_of(newer) == SECRET


async def test_opening_changes_nothing_that_the_newest_key_sealed(
    server: ValkeyServer, make: Make
) -> None:
    async with make([NEW]) as store:
        await confirm(store, "r1")
        await reserve(store, "r2")
    kept = {key: value for key, value in everything(server).items() if b":route:" in key}
    async with make([NEW, OLD]):
        pass
    assert kept.items() <= everything(server).items()


async def test_expired_route_needs_no_key_any_more(server: ValkeyServer) -> None:
    clock = Clock()

    def at(keys: Sequence[str]) -> Store:
        return ClockedRedisStore(server, clock, "clocked", encryption_keys=keys)

    async with at([OLD]) as store:
        await reserve(store)
        assert await store.put(delivery(1), candidate=SECRET)
    with pytest.raises(StoreError, match="establish the webhooks again"):
        await at([OTHER]).__aenter__()
    clock.now += 60
    async with at([OTHER]) as store:
        assert [key for key in everything(server) if key.endswith(b":r1")] == []
        assert await store.counts() == Counts(waiting=0, dead_letters=0)


async def test_store_on_a_server_that_lost_a_route_is_opened(
    server: ValkeyServer, make: Make
) -> None:
    async with make([OLD]) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
    with server.client() as client:
        client.delete("{asana-webhooks}:route:r1")
    async with make([NEW, OLD]) as store:
        assert await secret_of(store, "r2") == SECRET


async def test_keys_are_rotated_on_a_server_without_memory(
    make: Make, server: ValkeyServer
) -> None:
    async with make([OLD]) as store:
        await confirm(store)
    with server.client() as client:
        client.config_set("maxmemory", "1")
    try:
        async with make([NEW, OLD]):
            pass
    finally:
        with server.client() as client:
            client.config_set("maxmemory", "0")
    async with make([NEW]) as store:
        assert await secret_of(store) == SECRET


async def test_secrets_of_many_routes_are_renewed_in_few_round_trips(
    server: ValkeyServer, make: Make
) -> None:
    async with make(None) as store, anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(confirm, store, f"r{number}")
    with server.client() as client:
        client.config_resetstat()
        async with make([NEW]) as store:
            statistics = client.info("commandstats")
            assert {each.secret for each in await store.list_routes()} == {SECRET}
    calls = [statistics.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in CALLS]
    assert sum(calls) <= 6  # three scripts, each of them perhaps sent again with its text


CALLS = ("eval", "evalsha")


async def test_encrypted_secrets_are_never_told_to_the_server() -> None:
    with running_valkey(*TO_A_DISK, "--slowlog-log-slower-than", "0") as server:
        async with RedisStore(server.url, encryption_keys=[NEW]) as store:
            await confirm(store)
            assert await store.put(delivery(1), candidate=SECRET)
        with server.client() as client:
            told = repr(client.slowlog_get(1000)).encode()
        server.stop()
        kept = [path.read_bytes() for path in Path(server.path).parent.rglob("*") if path.is_file()]
    assert b"sha256:" in told
    assert any(b"sha256:" in text for text in kept)
    assert not any(SECRET.encode() in text for text in (told, *kept))


def harm(server: ValkeyServer, field: str, value: bytes) -> None:
    with server.client() as client:
        client.hset("{asana-webhooks}:route:r1", field, value)


@pytest.mark.parametrize(
    ("field", "value"), [("seal", b"gAAAA"), ("seal", b"\xff"), ("secret", b"\xff")]
)
async def test_damaged_secret_sets_its_webhook_aside_and_no_other(
    server: ValkeyServer,
    make: Make,
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: bytes,
) -> None:
    async with make([OLD]) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
    harm(server, field, value)
    for keys in ([NEW, OLD], [NEW]):
        caplog.clear()
        async with make(keys) as store:
            (line,) = [each.getMessage() for each in caplog.records]
            assert line.startswith("webhook 77 of resource 12 is set aside: ")
            assert "r1" not in line
            assert await secret_of(store, "r2") == SECRET
            with pytest.raises(StoreError):
                await store.get_route("r1")
            assert "r2" in [each.id for each in await store.list_routes()]


@pytest.mark.parametrize("value", [b"x", b"\xff"])
async def test_damaged_secret_of_a_store_without_keys_blames_no_key_and_hinders_no_other(
    server: ValkeyServer, make: Make, caplog: pytest.LogCaptureFixture, value: bytes
) -> None:
    async with make([]) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
    harm(server, "seal", value)
    async with make([]) as store:
        assert await secret_of(store, "r2") == SECRET
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("webhook 77 of resource 12 is set aside: its secret cannot")


async def test_webhook_whose_secret_is_damaged_is_listed_without_it(
    server: ValkeyServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async with make([OLD]) as store:
        await confirm(store, "r1")
        await confirm(store, "r2")
        harm(server, "seal", b"gAAAA")
        for _ in range(2):
            listed = {each.id: each.secret for each in await store.list_routes()}
            assert listed == {"r1": None, "r2": SECRET}
    (line,) = [each.getMessage() for each in caplog.records]
    assert line.startswith("webhook 77 of resource 12 is set aside: ")
