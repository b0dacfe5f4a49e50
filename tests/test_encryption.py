"""Secrets at rest, in each store that outlives the process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from asana_webhooks.errors import StoreError
from asana_webhooks.models import Delivery, Route
from asana_webhooks.stores import Store
from asana_webhooks.stores.sqlite import SqliteStore

OLD, NEW, OTHER = (Fernet.generate_key().decode() for _ in range(3))
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET, RIVAL = "genuine-secret-0123456789", "stranger-secret-0123456789"

Make = Callable[[Sequence[str] | None], Store]
Dump = Callable[[], bytes]


@pytest.fixture(name="make")
def _make(tmp_path: Path) -> Make:
    """Return what opens the same store again, with these keys."""
    return lambda keys: SqliteStore(tmp_path / "store.db", encryption_keys=keys)


@pytest.fixture(name="dump")
def _dump(tmp_path: Path) -> Dump:
    """Return what shows all that is kept."""
    return lambda: b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))


def route(id_: str = "r1") -> Route:
    return Route(id=id_, target=f"https://h.example/{id_}", resource="12", created_at=NOON)


def delivery(number: int, route: str = "r1") -> Delivery:
    text = str(number).encode()
    digest = hashlib.sha256(text).digest()
    return Delivery(route=route, body=text, digest=digest, received_at=NOON)


async def reserve(store: Store, id_: str = "r1") -> None:
    assert await store.reserve(route(id_), ttl=60)
    assert await store.add_candidate(id_, SECRET)
    assert await store.add_candidate(id_, RIVAL)


async def confirm(store: Store, id_: str = "r1") -> None:
    await reserve(store, id_)
    assert await store.confirm(id_, gid="77", secret=SECRET)


async def secret_of(store: Store, id_: str = "r1") -> str | None:
    found = await store.get_route(id_)
    assert found is not None
    return found.secret


async def test_secrets_and_candidates_are_nowhere_in_clear(make: Make, dump: Dump) -> None:
    async with make([NEW]) as store:
        await confirm(store, "r1")
        await reserve(store, "r2")
        kept = dump()
    kept += dump()
    assert SECRET.encode() not in kept
    assert RIVAL.encode() not in kept


async def test_store_without_keys_keeps_them_in_clear(make: Make, dump: Dump) -> None:
    async with make(None) as store:
        await confirm(store)
        assert SECRET.encode() in dump()


async def test_encrypted_candidates_work_like_others(make: Make) -> None:
    async with make([NEW]) as store:
        await reserve(store)
        assert await store.add_candidate("r1", SECRET)
        found = await store.get_route("r1")
        assert found is not None
        assert found.candidates == (SECRET, RIVAL)
        for number, candidate in enumerate((SECRET, RIVAL)):
            assert await store.put(delivery(number), candidate=candidate)
        assert not await store.put(delivery(9), candidate="unknown-secret-01234567")
        assert not await store.confirm("r1", gid="77", secret="unknown-secret-01234567")
        assert await store.confirm("r1", gid="77", secret=SECRET)
        assert not await store.put(delivery(10), candidate=RIVAL)
        assert await store.put(delivery(11), candidate=SECRET)
        assert not await store.add_candidate("r1", RIVAL)
        assert await store.add_candidate("r1", SECRET)
        claim = await store.claim(limit=9, lease=9)
        assert claim is not None
        assert [each.body for each in claim.deliveries] == [b"0", b"11"]


async def test_dropped_route_is_returned_with_its_candidates(make: Make) -> None:
    async with make([NEW]) as store:
        await reserve(store)
        dropped = await store.drop("r1")
    assert dropped is not None
    assert dropped.candidates == (SECRET, RIVAL)


async def test_listed_routes_have_their_secrets(make: Make) -> None:
    async with make([NEW]) as store:
        await confirm(store)
        assert [each.secret for each in await store.list_routes()] == [SECRET]
        await store.retire("r1")
        assert await secret_of(store) is None


async def test_keys_are_rotated_in_steps_while_others_serve(make: Make) -> None:
    async with make([OLD]) as store:
        await confirm(store)
    async with make([OLD, NEW]) as serving, make([NEW, OLD]) as rotating:
        await confirm(rotating, "r2")
        assert [await secret_of(serving, id_) for id_ in ("r1", "r2")] == [SECRET, SECRET]
    async with make([NEW]) as store:
        assert [await secret_of(store, id_) for id_ in ("r1", "r2")] == [SECRET, SECRET]


async def test_candidates_are_encrypted_anew_too(make: Make) -> None:
    async with make([OLD]) as store:
        await reserve(store)
    async with make([NEW, OLD]):
        pass
    async with make([NEW]) as store:
        assert await store.confirm("r1", gid="77", secret=SECRET)
        assert await secret_of(store) == SECRET


async def test_what_was_in_clear_is_encrypted_when_keys_come(make: Make, dump: Dump) -> None:
    async with make(None) as store:
        await confirm(store, "r1")
        await reserve(store, "r2")
    assert SECRET.encode() in dump()
    async with make([NEW]) as store:
        assert await secret_of(store) == SECRET
        assert await store.put(delivery(1, "r2"), candidate=SECRET)
        assert await store.confirm("r2", gid="78", secret=SECRET)
    assert SECRET.encode() not in dump()
    assert RIVAL.encode() not in dump()


@pytest.mark.parametrize("keys", [None, [OTHER]], ids=["no key", "another key"])
async def test_lost_key_is_an_error_that_names_the_remedy(make: Make, keys: list[str]) -> None:
    async with make([OLD]) as store:
        await confirm(store)
    with pytest.raises(StoreError, match="establish the webhooks again") as caught:
        async with make(keys):
            pass
    assert SECRET not in str(caught.value)
    async with make([OLD]) as store:
        assert await secret_of(store) == SECRET


async def test_key_that_goes_while_serving_is_an_error_and_not_a_false_answer(make: Make) -> None:
    async with make([OLD]) as serving:
        await confirm(serving)
        async with make([NEW, OLD]):
            with pytest.raises(StoreError, match="encryption_keys"):
                await serving.get_route("r1")


def test_key_that_is_none_is_refused_at_construction(make: Make) -> None:
    with pytest.raises(ValueError, match="32 bytes in URL-safe base64"):
        make(["too short"])
    with pytest.raises(TypeError, match="encryption_keys must be a list of texts"):
        make(NEW)
