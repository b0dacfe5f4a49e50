"""Choosing among dead letters, over each store that needs no server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import guard, until

from asana_webhooks import DeadLetter, Event, MemoryStore, SqliteStore, WebhooksClient
from asana_webhooks._dead_letters import iter_dead_letters
from asana_webhooks.models import Delivery, Route, Settlement
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores import Store

MakeClient = Callable[..., WebhooksClient]

NOW = datetime.now(UTC)
SECRET = "0123456789abcdef"


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "s.db")
    async with made:
        yield made


async def confirm(store: Store, name: str, *, resource: str, gid: str) -> None:
    route = Route(id=name, target=f"https://hooks.example.com/{name}", resource=resource)
    assert await store.reserve(route, ttl=60)
    assert await store.add_candidate(name, SECRET)
    assert await store.confirm(name, gid=gid, secret=SECRET)


async def bury(store: Store, name: str, *, route: str = "r1", reason: str = "odd") -> None:
    """Leave a dead letter whose body is its name."""
    body = name.encode()
    delivery = Delivery(route=route, body=body, digest=body.ljust(32), received_at=NOW)
    assert await store.put(delivery, reason=reason)


async def bury_at(store: Store, name: str, at: datetime) -> None:
    body = name.encode()
    delivery = Delivery(route="r1", body=body, digest=body.ljust(32), received_at=NOW)
    assert await store.put(delivery)
    claim = await store.claim(limit=1, lease=60)
    assert claim is not None
    letter = DeadLetter(route="r1", body=body, reason="old", received_at=NOW, buried_at=at)
    removed = (claim.deliveries[0].id,)
    assert await store.end_claim(claim, Settlement(removed=removed, letters=(letter,))) is not None


async def names(store: Store, **wanted: Any) -> list[str]:
    return [letter.body.decode() async for letter in iter_dead_letters(store, **wanted)]


@pytest.fixture
async def filled(store: Store) -> Store:
    """Three webhooks of two resources; one is retired, and one letter is of no known route."""
    await confirm(store, "r1", resource="100", gid="1")
    await confirm(store, "r2", resource="200", gid="2")
    await confirm(store, "r3", resource="200", gid="3")
    await bury(store, "a", route="r1", reason="not a delivery: truncated")
    await bury(store, "b", route="r2", reason="handler Celebrate failed 10 times: KeyError('x')")
    await bury(store, "c", route="r3", reason="not a delivery: too deeply nested")
    await bury(store, "d", route="unknown", reason="handler notify failed 10 times: OSError()")
    await bury(store, "e", route="r2", reason="older than 26 h: late or replayed")
    assert await store.retire("r3")
    return store


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        pytest.param({}, "abcde", id="all"),
        pytest.param({"resource": "100"}, "a", id="resource"),
        pytest.param({"resource": "200"}, "bce", id="resource, retired route too"),
        pytest.param({"resource": "2"}, "", id="resource as a whole"),
        pytest.param({"webhook": "2"}, "be", id="webhook"),
        pytest.param({"webhook": "3"}, "c", id="retired webhook"),
        pytest.param({"webhook": "4"}, "", id="unknown webhook"),
        pytest.param({"reason": "not a delivery"}, "ac", id="reason"),
        pytest.param({"reason": "CELEBRATE"}, "b", id="reason, whatever the case"),
        pytest.param({"reason": "keyerror"}, "b", id="reason, whatever its case"),
        pytest.param({"reason": ""}, "abcde", id="empty reason"),
        pytest.param({"buried_before": NOW + timedelta(days=1)}, "abcde", id="until tomorrow"),
        pytest.param({"buried_before": NOW - timedelta(days=1)}, "", id="until yesterday"),
        pytest.param({"resource": "200", "reason": "failed"}, "b", id="resource and reason"),
        pytest.param({"resource": "100", "webhook": "2"}, "", id="resource of another webhook"),
    ],
)
async def test_letters_that_fit_all_that_is_given_are_found(
    filled: Store, wanted: dict[str, Any], found: str
) -> None:
    assert await names(filled, **wanted) == list(found)


async def test_letters_buried_before_a_time_are_found(store: Store) -> None:
    for days, name in ((9, "a"), (5, "b"), (1, "c")):
        await bury_at(store, name, NOW - timedelta(days=days))
    assert await names(store, buried_before=NOW - timedelta(days=4)) == ["a", "b"]
    assert await names(store, buried_before=NOW - timedelta(days=5)) == ["a"]  # before, not at


async def test_no_letters_are_no_error(store: Store) -> None:
    assert await names(store) == []


@pytest.mark.parametrize("count", [100, 101, 250])
async def test_all_pages_are_gone_through(store: Store, count: int) -> None:
    for number in range(count):
        await bury(store, str(number))
    assert await names(store) == [str(number) for number in range(count)]


@pytest.mark.parametrize("what", ["replay", "discard"])
async def test_letters_may_be_moved_while_they_are_gone_through(store: Store, what: str) -> None:
    for number in range(210):
        await bury(store, str(number), reason="even" if number % 2 == 0 else "odd")
    found = []
    async for letter in iter_dead_letters(store, reason="even"):
        assert await getattr(store, what)([letter.id]) == 1
        found.append(letter.body.decode())
    assert found == [str(number) for number in range(0, 210, 2)]
    assert await names(store) == [str(number) for number in range(1, 210, 2)]
    assert (await store.counts()).waiting == (105 if what == "replay" else 0)


async def test_what_is_buried_meanwhile_is_left_out(store: Store) -> None:
    await bury(store, "a")
    found = []
    with guard():
        async for letter in iter_dead_letters(store):
            found.append(letter.body.decode())
            await bury(store, f"{found[-1]}!")
    assert found == ["a"]
    assert await names(store) == ["a", "a!"]


async def test_letters_of_a_machine_whose_clock_is_ahead_are_found(store: Store) -> None:
    await bury_at(store, "a", datetime.now(UTC) + timedelta(hours=3))
    await bury(store, "b")
    assert await names(store) == ["a", "b"]


async def test_no_more_letters_are_gone_through_than_there_were_at_the_beginning(
    store: Store,
) -> None:
    for number in range(150):
        await bury(store, str(number))
    found = []
    with guard():
        async for letter in iter_dead_letters(store):
            found.append(letter.body.decode())
            await bury(store, f"{found[-1]}!")
    assert found == [str(number) for number in range(150)]


# Through the client


async def test_replaying_what_fails_again_comes_to_an_end(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client(max_attempts=1)
    gids: list[str] = []

    @client.on("task", action="added")
    async def fail(event: Event) -> None:
        if event.parent is None or event.parent.gid != asana.project:
            return
        gids.append(event.resource.gid)
        raise RuntimeError("not yet")

    async with client:
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        for name in ("Fix the login", "Fix the logout"):
            await asana.create_task(name, project=asana.project)
        await until(lambda: len(gids) == 2)
        while len(await client.dead_letters()) < 2:
            await anyio.sleep(0.002)
        replayed = 0
        with guard():
            async for letter in client.iter_dead_letters(resource=asana.project, reason="not yet"):
                replayed += await client.replay([letter.id])
                await until(lambda: len(gids) == 2 + replayed)  # noqa: B023 - awaited at once
                while len(await client.dead_letters()) < 2:
                    await anyio.sleep(0.002)
    await running
    assert replayed == 2


async def test_letter_is_found_by_its_id_and_discarded(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        assert await asana.deliver(webhook.gid, b'{"events":null}') == 200
        letters = [letter async for letter in client.iter_dead_letters(webhook=webhook.gid)]
        (letter,) = letters
        assert await client.get_dead_letter(letter.id) == letter
        assert await client.discard([letter.id]) == 1
        assert await client.get_dead_letter(letter.id) is None
        assert await client.discard([letter.id]) == 0
        assert await client.dead_letters() == []


async def test_letters_of_a_deleted_webhook_are_found(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await asana.deliver(webhook.gid, b'{"events":null}')
        await client.delete_webhook(webhook.gid)
        choices: list[dict[str, Any]] = [{"webhook": webhook.gid}, {"resource": asana.project}]
        for wanted in choices:
            assert len([letter async for letter in client.iter_dead_letters(**wanted)]) == 1


async def test_letters_of_a_client_that_is_not_open_are_an_error(make_client: MakeClient) -> None:
    with pytest.raises(RuntimeError, match="async with client"):
        make_client().iter_dead_letters()
