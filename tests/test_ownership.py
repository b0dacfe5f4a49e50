"""Ownership of a store: by the program behind its public URL, for as long as it lives."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import eventually, guard, until

from asana_webhooks import Event, MemoryStore, SqliteStore, StoreError, WebhooksClient
from asana_webhooks import _ownership as module
from asana_webhooks._background import background_task
from asana_webhooks._ownership import Ownership
from asana_webhooks.models import Claim
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store

MakeClient = Callable[..., WebhooksClient]

ONE, OTHER = "https://one.example.com/hooks", "https://other.example.com:8443/hooks"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a moment where a program waits for seconds."""
    monkeypatch.setattr(module, "RENEW_AFTER", 0.001)
    monkeypatch.setattr(module, "LOOK_AFTER", 0.001)


async def owner_of(store: Store) -> str | None:
    """Return which URL has the store; the one that asks has it only when nobody else has."""
    owner = await store.own("https://asking.example.com", holder="asks", ttl=60.0)
    await store.disown("asks")
    return owner


async def test_store_belongs_to_the_public_url_until_it_is_let_go(store: MemoryStore) -> None:
    async with Ownership(store, ONE):
        assert await owner_of(store) == ONE
    assert await owner_of(store) is None


async def test_processes_of_one_public_url_share_the_store(store: MemoryStore) -> None:
    with guard():
        async with Ownership(store, ONE):
            async with Ownership(store, ONE + "/"):
                pass
            assert await owner_of(store) == ONE


async def test_owner_that_died_is_waited_for_and_its_store_taken(
    store: MemoryStore, clock: Clock, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert await store.own(OTHER, holder="died", ttl=module.TTL) is None
    taking = asyncio.create_task(Ownership(store, ONE).__aenter__())
    await until(lambda: "waiting for" in caplog.text)
    assert not taking.done()
    clock.now += module.TTL
    ownership = await taking
    assert await owner_of(store) == ONE
    await ownership.__aexit__(None, None, None)
    (waiting, taken) = [record.getMessage() for record in caplog.records]
    assert waiting == "waiting for other.example.com:8443, which has the store, for 16 s"
    assert "let go" in taken
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://one.example.com/hooks", "HTTPS://One.Example.COM:443/hooks/"),
        ("http://one.example.com", "http://one.example.com:80/"),
        ("https://[2001:db8::443]", "https://[2001:DB8::443]:443//"),
        ("https://one.example.com/Hooks", "https://one.example.com:/Hooks"),
    ],
)
async def test_public_url_that_is_written_in_another_way_is_the_same_owner(
    store: MemoryStore, one: str, other: str
) -> None:
    with guard():
        async with Ownership(store, one), Ownership(store, other):
            assert await owner_of(store) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://one.example.com/hooks", "https://one.example.com/Hooks"),
        ("https://one.example.com", "http://one.example.com"),
        ("https://one.example.com", "https://one.example.com:80"),
        ("https://[2001:db8::443]", "https://[2001:db8::]"),
    ],
)
async def test_other_path_scheme_or_port_is_another_owner(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    monkeypatch.setattr(module, "MARGIN", -module.TTL)
    async with Ownership(store, one):
        with guard(), pytest.raises(StoreError, match="belongs to"):
            await Ownership(store, other).__aenter__()


async def test_owner_that_lives_keeps_its_store_and_the_error_says_who_it_is_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(module, "TTL", 0.3)
    monkeypatch.setattr(module, "MARGIN", 0.1)
    store = MemoryStore()
    async with Ownership(store, OTHER):
        with guard(), pytest.raises(StoreError) as caught:
            await Ownership(store, ONE).__aenter__()
        assert await owner_of(store) == OTHER
    assert str(caught.value) == (
        "the store belongs to the program at other.example.com:8443, which is running: give this"
        " one another store, or end the other first"
    )


async def test_it_is_renewed_when_a_third_of_its_time_is_over(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.sleep_forever()

    monkeypatch.setattr("asana_webhooks._ownership.anyio.sleep", sleep)
    async with Ownership(store, ONE):
        await anyio.wait_all_tasks_blocked()
    assert (slept, module.TTL) == ([5.0], 15.0)


async def test_program_that_slept_says_that_it_lost_the_store_and_takes_it_when_it_is_free(
    store: MemoryStore, clock: Clock, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[tuple[int, str]]:
        return [(record.levelno, record.getMessage()) for record in caplog.records]

    async with Ownership(store, ONE):
        clock.now += module.TTL
        assert await store.own(OTHER, holder="other", ttl=60.0) is None  # before it is renewed
        await until(said)
        await asyncio.sleep(0.02)  # it looks again and again, and says it once
        ((level, text),) = said()
        assert level == logging.ERROR
        assert "belongs to the program at other.example.com:8443 now" in text
        await store.disown("other")
        await until(lambda: len(said()) == 2)
        assert await owner_of(store) == ONE
    assert said()[1] == (logging.WARNING, "the store is this program's again")


async def test_it_is_sure_until_the_time_is_over_for_which_it_last_had_the_store(
    store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "now", clock)
    ownership = Ownership(store, ONE)
    assert not ownership.is_sure()
    async with ownership:
        assert ownership.is_sure()
        clock.now += module.TTL - 0.1
        assert ownership.is_sure()
        clock.now += 0.1
        assert not ownership.is_sure()


async def test_store_that_takes_its_time_to_answer_does_not_make_it_sure_for_longer(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(MemoryStore):
        async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
            owner = await super().own(public_url, holder=holder, ttl=ttl)
            clock.now += module.TTL
            return owner

    monkeypatch.setattr(module, "now", clock)
    async with Ownership(Slow(clock=clock), ONE) as ownership:
        assert not ownership.is_sure()


async def test_store_that_fails_is_asked_again_after_a_moment_so_that_work_soon_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Flaky(MemoryStore):
        calls = 0

        async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
            self.calls += 1
            if self.calls in (2, 3):
                raise StoreError("no route to host")
            return await super().own(public_url, holder=holder, ttl=ttl)

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            await anyio.sleep_forever()

    monkeypatch.setattr("asana_webhooks._ownership.anyio.sleep", sleep)
    async with Ownership(Flaky(), ONE):
        await anyio.wait_all_tasks_blocked()
    assert slept == [5.0, 0.5, 0.5, 5.0]


@pytest.mark.parametrize("error", [StoreError("no route to host"), LookupError("no route")])
async def test_renewing_goes_on_after_whatever_a_store_raised(
    quick: None, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    class Flaky(MemoryStore):
        calls = 0

        async def own(self, public_url: str, *, holder: str, ttl: float) -> str | None:
            self.calls += 1
            if self.calls == 2:
                raise error
            return await super().own(public_url, holder=holder, ttl=ttl)

    store = Flaky()
    async with Ownership(store, ONE):
        await until(lambda: store.calls > 3)
    assert "cannot keep the store" in caplog.text
    assert "no route" in caplog.text


async def test_store_that_cannot_be_let_go_is_said_and_does_not_hold_up_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def disown(self, holder: str) -> None:
            raise StoreError("the server is gone")

    async with Ownership(Broken(), ONE):
        pass
    assert "the store is not free for 15 s: the server is gone" in caplog.text


# Through the client


async def test_client_has_its_store_while_it_is_open(make_client: MakeClient) -> None:
    store = MemoryStore()
    async with make_client(store=store, public_url="http://127.0.0.1:1/hooks/", serve=False):
        assert await owner_of(store) == "http://127.0.0.1:1/hooks"
    assert await owner_of(store) is None


async def test_client_of_another_public_url_is_refused_and_leaves_nothing_open(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_port: int
) -> None:
    monkeypatch.setattr(module, "MARGIN", -module.TTL)
    async with SqliteStore(tmp_path / "s.db") as other:
        await other.own(OTHER, holder="other", ttl=60.0)
        client = make_client(store=f"sqlite:///{tmp_path}/s.db")
        with guard(), pytest.raises(StoreError, match=r"other\.example\.com:8443"):
            await client.__aenter__()
        assert not client.is_open
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", free_port)


async def test_what_waits_is_handled_by_the_public_url_that_took_the_store_over(
    make_client: MakeClient, asana: AsanaSimulator, clock: Clock, quick: None
) -> None:
    store, gids = MemoryStore(clock=clock), []
    async with make_client(store=store) as first:
        await first.ensure(asana.project)
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.settled()
    assert await store.own(OTHER, holder="died", ttl=module.TTL) is None
    second = make_client(store=store)

    @second.on("task")
    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    entering = asyncio.create_task(second.__aenter__())
    await asyncio.sleep(0.01)
    assert not entering.done()
    clock.now += module.TTL
    await entering
    running = asyncio.create_task(second.run())

    async def is_empty() -> bool:
        return (await store.counts()).waiting == 0

    await eventually(is_empty)
    await second.aclose()
    await running
    assert set(gids) == {task}


@pytest.mark.parametrize("how", ["handlers", "events"])
async def test_client_that_lost_the_store_while_it_slept_takes_no_event_until_it_has_it_again(
    make_client: MakeClient,
    asana: AsanaSimulator,
    clock: Clock,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(module, "now", clock)
    store, gids, claims = MemoryStore(clock=clock), [], []
    claim = store.claim

    async def note_claim(**options: Any) -> Claim | None:
        claims.append(await owner_of(store))
        return await claim(**options)

    monkeypatch.setattr(store, "claim", note_claim)
    client = make_client(store=store)

    @client.on("task")
    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    async def consume() -> None:
        async for event in client.events():
            if event.resource.resource_type == "task":
                gids.append(event.resource.gid)

    async with client:
        await client.ensure(asana.project)
        clock.now += module.TTL  # it sleeps
        assert await store.own(OTHER, holder="other", ttl=60.0) is None
        await asana.create_task("Of the other", project=asana.project)
        await asana.settled()
        async with background_task(client.run() if how == "handlers" else consume(), "consumer"):
            await asyncio.sleep(0.1)
            assert gids == []
            assert claims == []
            await store.disown("other")
            await until(lambda: gids)
        assert OTHER not in claims
