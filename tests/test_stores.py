"""The contract of a store, kept by each."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from support.tracebacks import shown_by

from asana_webhooks._echoes import Echoes
from asana_webhooks._writes import Writes
from asana_webhooks.errors import StoreError
from asana_webhooks.models import (
    Claim,
    Counts,
    DeadLetter,
    Delivery,
    Event,
    Retry,
    Route,
    Settlement,
    State,
    WebhookFilter,
    Write,
)
from asana_webhooks.stores import (
    DUPLICATES_KNOWN_FOR,
    MAX_CANDIDATES,
    MAX_CLAIM_BYTES,
    MAX_HELD,
    MAX_HELD_BYTES,
    MAX_STATE_BYTES,
    RETIRED_KNOWN_FOR,
    Store,
)
from asana_webhooks.stores.memory import MemoryStore
from asana_webhooks.stores.sqlite import SqliteStore
from asana_webhooks.testing import make_event

NOON = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock:
    """A monotonic clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(name="make_store", params=["memory", "sqlite"])
def _make_store(  # other modules take all of this one but the names with an underscore
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> Callable[..., Store]:
    def make(**options: Any) -> Store:
        if request.param == "memory":
            return MemoryStore(clock=clock, **options)
        return SqliteStore(tmp_path / "store.db", clock=clock, **options)

    return make


@pytest.fixture
async def store(make_store: Callable[..., Store]) -> AsyncIterator[Store]:
    async with make_store() as opened:
        yield opened


@pytest.fixture
async def small_store(make_store: Callable[..., Store]) -> AsyncIterator[Store]:
    """Yield a store with room for two deliveries."""
    async with make_store(max_waiting=2) as opened:
        yield opened


@pytest.fixture
def let_pass(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Return what moves the clock on, and with it the time of day that outlives a restart."""

    def let_pass(span: timedelta) -> None:
        clock.now += span.total_seconds()
        monkeypatch.setattr(time, "time_ns", lambda: real() + int(clock.now - began) * 10**9)

    real, began = time.time_ns, clock.now
    return let_pass


def route(id_: str = "r1", **fields: Any) -> Route:
    target = f"https://hooks.example.com/asana/{id_}"
    return Route(**{"id": id_, "target": target, "resource": "12", "created_at": NOON, **fields})


def delivery(number: int = 0, *, route: str = "r1", at: datetime = NOON) -> Delivery:
    text = str(number).encode()
    digest = hashlib.sha256(text).digest()
    return Delivery(route=route, body=b'{"events":[%b]}' % text, digest=digest, received_at=at)


def letter(reason: str = "given up", **fields: Any) -> DeadLetter:
    known = {"route": "r1", "body": b"{}", "received_at": NOON, "buried_at": NOON}
    return DeadLetter(**{**known, "reason": reason, **fields})


def number_of(stored: Delivery | DeadLetter) -> int:
    """Return the number that ``delivery`` made it, or that of its letter, with."""
    return int(stored.body[11:-2])


def numbers(claim: Claim | None) -> list[int]:
    """Return the numbers that the deliveries of a claim were made with."""
    assert claim is not None
    return [number_of(delivery) for delivery in claim.deliveries]


def handled(deliveries: Sequence[Delivery]) -> Settlement:
    return Settlement(removed=tuple(delivery.id for delivery in deliveries))


def kept(delivery: Delivery, *, attempts: int = 0, progress: str = "") -> Settlement:
    return Settlement(kept=(replace(delivery, attempts=attempts, progress=progress),))


def tried_again(
    delivery: Delivery, *, delay: float = 0.0, attempts: int = 0, progress: str = ""
) -> Settlement:
    again = replace(delivery, attempts=attempts, progress=progress)
    return Settlement(retries=(Retry(delivery=again, delay=delay),))


def buried(delivery: Delivery, letters: Sequence[DeadLetter]) -> Settlement:
    return Settlement(removed=(delivery.id,), letters=tuple(letters))


def alone(number: int, **fields: Any) -> Delivery:
    """Return an event that is taken out of its delivery, to be tried again."""
    return replace(delivery(number), digest=bytes(32), **fields)


async def take(store: Store, *, limit: int = 100, lease: float = 30.0) -> Claim:
    claim = await store.claim(limit=limit, lease=lease)
    assert claim is not None
    return claim


async def claim_more(store: Store, claim: Claim, *, limit: int = 100) -> tuple[Delivery, ...]:
    more = await store.claim_more(claim, limit=limit)
    assert more is not None
    return more.deliveries


async def put(store: Store, *wanted: int, route: str = "r1") -> None:
    for number in wanted:
        assert await store.put(delivery(number, route=route))


async def takes(store: Store, wanted: int) -> bool:
    """Return whether the store takes this delivery, or has it from an earlier try."""
    try:
        await store.put(delivery(wanted))
    except StoreError:
        return False
    return True


async def bury_at_once(store: Store, wanted: range, at: datetime = NOON) -> None:
    await asyncio.gather(*(store.put(delivery(number, at=at), reason="odd") for number in wanted))


async def confirm(store: Store, id_: str = "r1", **fields: Any) -> None:
    assert await store.reserve(route(id_, **fields), ttl=60)
    assert await store.add_candidate(id_, "secret")
    assert await store.confirm(id_, gid="77", secret="secret")


async def get(store: Store, id_: str = "r1") -> Route:
    found = await store.get_route(id_)
    assert found is not None
    return found


async def get_undated(store: Store, id_: str = "r1") -> Route:
    """Return a route without the time at which it was confirmed."""
    return replace(await get(store, id_), confirmed_at=None)


async def test_store_keeps_the_contract(store: Store) -> None:
    assert isinstance(store, Store)


# Routes


async def test_reserved_route_is_returned_as_it_was_given(store: Store) -> None:
    india = timezone(timedelta(hours=5, minutes=30))
    given = route(
        filters=(
            WebhookFilter(resource_type="task", action="changed", fields=("name", "due_on")),
            WebhookFilter(resource_type="story"),
        ),
        created_at=datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=india),
        heartbeat_at=NOON,
        account="acmé 1",
        user="1204",
    )
    assert await store.reserve(given, ttl=60)
    found = await store.get_route("r1")
    assert found == given
    assert await store.list_routes() == [given]


@pytest.mark.parametrize("id_", ["r2", "", "r1/", "\x00", "\udcff"])
async def test_unknown_route_is_none(store: Store, id_: str) -> None:
    await store.reserve(route(), ttl=60)
    assert await store.get_route(id_) is None


async def test_route_that_exists_is_not_reserved_again(store: Store) -> None:
    assert await store.reserve(route(), ttl=60)
    assert not await store.reserve(route(resource="13"), ttl=60)
    assert await store.get_route("r1") == route()


async def test_reserved_route_is_unknown_after_its_time(store: Store, clock: Clock) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    assert await store.put(delivery(), candidate="secret")
    clock.now += 59.9
    assert await store.get_route("r1") is not None
    clock.now += 0.1
    assert await store.get_route("r1") is None
    assert await store.list_routes() == []
    assert not await store.add_candidate("r1", "secret")
    assert not await store.confirm("r1", gid="77", secret="secret")
    assert not await store.put(delivery(1), candidate="secret")
    assert await store.drop("r1") is None
    assert (await store.counts()).waiting == 0


async def test_expired_route_makes_room_for_its_id(store: Store, clock: Clock) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    clock.now += 60
    assert await store.reserve(route(resource="13"), ttl=60)
    assert await store.get_route("r1") == route(resource="13")


async def test_confirmed_route_does_not_expire(store: Store, clock: Clock) -> None:
    await confirm(store)
    clock.now += 1e6
    assert await store.reserve(route("r2"), ttl=60)
    assert await store.get_route("r1") is not None


async def test_route_that_was_dropped_and_reserved_anew_has_the_new_time(
    store: Store, clock: Clock
) -> None:
    await store.reserve(route(), ttl=60)
    await store.drop("r1")
    await store.reserve(route(), ttl=90)
    clock.now += 60
    await store.reserve(route("r2"), ttl=60)
    assert await store.get_route("r1") is not None


@pytest.mark.parametrize("state", ["reserved", "confirmed"])
async def test_exclusive_reservation_is_refused_beside_another_of_the_resource(
    store: Store, state: str
) -> None:
    await store.reserve(route(), ttl=60)
    if state == "confirmed":
        await store.add_candidate("r1", "secret")
        await store.confirm("r1", gid="77", secret="secret")
    assert not await store.reserve(route("r2"), ttl=60, exclusive=True)
    assert await store.get_route("r2") is None
    assert await store.reserve(route("r2"), ttl=60)


async def test_exclusive_reservation_ignores_other_resources_and_other_addresses(
    store: Store,
) -> None:
    await store.reserve(route(), ttl=60)
    elsewhere = "https://hooks.example.com/other/r3"
    deeper = "https://hooks.example.com/asana/deeper/r4"
    assert await store.reserve(route("r2", resource="13"), ttl=60, exclusive=True)
    assert await store.reserve(route("r3", target=elsewhere), ttl=60, exclusive=True)
    assert await store.reserve(route("r4", target=deeper), ttl=60, exclusive=True)


async def test_exclusive_reservation_ignores_retired_dropped_and_expired_routes(
    store: Store, clock: Clock
) -> None:
    await confirm(store)
    await store.retire("r1")
    assert await store.reserve(route("r2"), ttl=60, exclusive=True)
    await store.drop("r2")
    assert await store.reserve(route("r3"), ttl=60, exclusive=True)
    clock.now += 60
    assert await store.reserve(route("r4"), ttl=60, exclusive=True)


async def test_exclusive_reservation_ignores_other_accounts(store: Store) -> None:
    await store.reserve(route(account="acme"), ttl=60)
    assert await store.reserve(route("r2", account="other"), ttl=60, exclusive=True)
    assert await store.reserve(route("r3"), ttl=60, exclusive=True)
    for id_, account in [("r4", "acme"), ("r5", "other"), ("r6", "")]:
        assert not await store.reserve(route(id_, account=account), ttl=60, exclusive=True)


async def test_exclusive_reservation_ignores_routes_that_are_leaving(store: Store) -> None:
    await confirm(store)
    await store.leave("r1")
    assert await store.reserve(route("r2"), ttl=60, exclusive=True)
    assert not await store.reserve(route("r3"), ttl=60, exclusive=True)


async def test_of_many_exclusive_reservations_at_once_one_is_made(store: Store) -> None:
    answers: list[bool] = []

    async def reserve(id_: str) -> None:
        answers.append(await store.reserve(route(id_), ttl=60, exclusive=True))

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(reserve, f"r{number}")
    assert sorted(answers) == [False] * 15 + [True]
    assert len(await store.list_routes()) == 1


async def test_routes_are_listed_oldest_first(store: Store) -> None:
    for id_, hour in [("r1", 3), ("r2", 1), ("r3", 2), ("r4", 1)]:
        created_at = NOON + timedelta(hours=hour)
        await store.reserve(route(id_, created_at=created_at), ttl=60)
    assert [found.id for found in await store.list_routes()] == ["r2", "r4", "r3", "r1"]


async def test_routes_are_listed_by_resource_without_the_retired(store: Store) -> None:
    await confirm(store, "r1")
    await confirm(store, "r2")
    await store.reserve(route("r3"), ttl=60)
    await confirm(store, "r4", resource="13")
    await store.retire("r1")
    assert [found.id for found in await store.list_routes("12")] == ["r2", "r3"]
    assert [found.id for found in await store.list_routes("13")] == ["r4"]
    assert [found.id for found in await store.list_routes()] == ["r2", "r3", "r4"]
    assert await store.list_routes("14") == []


async def test_routes_are_listed_by_account(store: Store) -> None:
    for number, (account, resource) in enumerate(
        [("", "12"), ("acme", "12"), ("acmé", "12"), ("acme", "13"), ("ACME", "12"), ("acme", "12")]
    ):
        await store.reserve(route(f"r{number}", account=account, resource=resource), ttl=60)
    await confirm(store, "r6", account="acme", resource="12")
    await confirm(store, "r7", account="acme", resource="12")
    await store.retire("r7")

    async def listed(*resource: str, account: str | None) -> list[str]:
        return sorted(each.id for each in await store.list_routes(*resource, account=account))

    assert await listed(account="") == ["r0"]
    assert await listed(account="acme") == ["r1", "r3", "r5", "r6"]
    assert await listed(account="acmé") == ["r2"]
    assert await listed(account="acm") == []
    assert await listed("12", account="acme") == ["r1", "r5", "r6"]
    assert await listed("12", account=None) == ["r0", "r1", "r2", "r4", "r5", "r6"]
    assert await listed(account=None) == ["r0", "r1", "r2", "r3", "r4", "r5", "r6"]


async def test_candidates_are_kept_in_their_order(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    for secret in ["one", "two", "one"]:
        assert await store.add_candidate("r1", secret)
    assert await store.get_route("r1") == route(candidates=("one", "two"))
    assert await store.list_routes() == [route(candidates=("one", "two"))]


async def test_more_candidates_than_four_are_refused(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    secrets = tuple(f"secret {number}" for number in range(MAX_CANDIDATES))
    for secret in secrets:
        assert await store.add_candidate("r1", secret)
    assert not await store.add_candidate("r1", "a fifth")
    assert await store.add_candidate("r1", secrets[2])
    found = await store.get_route("r1")
    assert found is not None
    assert found.candidates == secrets


async def test_candidate_for_an_unknown_route_is_refused(store: Store) -> None:
    assert not await store.add_candidate("r1", "secret")


async def test_confirmed_route_knows_its_own_secret_only(store: Store) -> None:
    await confirm(store)
    assert await store.add_candidate("r1", "secret")
    assert not await store.add_candidate("r1", "another")


async def test_confirming_keeps_gid_and_secret_and_drops_candidates(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "one")
    await store.add_candidate("r1", "two")
    assert await store.confirm("r1", gid="77", secret="two")
    assert await get_undated(store) == route(state="confirmed", gid="77", secret="two")


async def test_confirming_with_what_is_no_candidate_changes_nothing(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    assert not await store.confirm("r1", gid="77", secret="another")
    assert not await store.confirm("r2", gid="77", secret="secret")
    assert await store.get_route("r1") == route(candidates=("secret",))


async def test_route_is_confirmed_once(store: Store) -> None:
    await confirm(store)
    assert not await store.confirm("r1", gid="78", secret="secret")
    assert await get_undated(store) == route(state="confirmed", gid="77", secret="secret")


async def test_time_of_confirming_is_that_of_the_wall(store: Store) -> None:
    before = datetime.now(UTC)
    await confirm(store)
    confirmed_at = (await get(store)).confirmed_at
    assert confirmed_at is not None
    assert before <= confirmed_at <= datetime.now(UTC)
    await store.retire("r1")
    assert (await get(store)).confirmed_at == confirmed_at


async def test_confirmed_route_keeps_its_account_and_its_user(store: Store) -> None:
    await confirm(store, account="acme", user="1204")
    found = await get(store)
    assert (found.account, found.user) == ("acme", "1204")


async def test_confirming_lets_older_routes_leave(store: Store) -> None:
    for id_ in ("old", "older", "other"):
        await confirm(store, id_)
    await store.reserve(route("reserved"), ttl=60)
    await confirm(store, "gone")
    await store.retire("gone")
    await reserve(store, "secret")
    leaving = ["old", "older", "reserved", "gone", "unknown"]
    assert await store.confirm("r1", gid="77", secret="secret", leaving=leaving)
    assert {found.id for found in await store.list_routes() if found.leaving} == {"old", "older"}
    assert not (await get(store, "gone")).leaving


async def test_confirming_that_is_refused_lets_no_route_leave(store: Store) -> None:
    await confirm(store, "old")
    await reserve(store, "secret")
    assert not await store.confirm("r1", gid="77", secret="another", leaving=["old"])
    assert not await store.confirm("old", gid="77", secret="secret", leaving=["old"])
    assert not (await get(store, "old")).leaving


async def test_leaving_route_still_receives(store: Store) -> None:
    await confirm(store)
    assert await store.leave("r1")
    assert await store.leave("r1")
    found = await get_undated(store)
    assert found == route(state="confirmed", gid="77", secret="secret", leaving=True)
    assert [each.id for each in await store.list_routes("12")] == ["r1"]
    assert await store.put(delivery(1), candidate="secret")
    assert numbers(await take(store)) == [1]
    assert await store.retire("r1")
    assert not await store.leave("r1")


async def test_only_confirmed_routes_leave(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    assert not await store.leave("r1")
    assert not await store.leave("unknown")
    assert await store.get_route("r1") == route()


async def test_user_of_a_route_is_kept(store: Store) -> None:
    await confirm(store)
    assert (await get(store)).user is None
    for user in ("1204", "1205"):
        await store.set_user("r1", user)
        assert (await get(store)).user == user


@pytest.mark.parametrize("filters", [None, [], [WebhookFilter(action="added")]])
async def test_filters_are_replaced(store: Store, filters: list[WebhookFilter] | None) -> None:
    await store.reserve(route(filters=(WebhookFilter(resource_type="task"),)), ttl=60)
    await store.set_filters("r1", filters)
    found = await store.get_route("r1")
    assert found is not None
    assert found.filters == (None if filters is None else tuple(filters))


async def test_last_heartbeat_is_kept(store: Store) -> None:
    await confirm(store)
    await store.note_heartbeat("r1", NOON)
    await store.note_heartbeat("r1", NOON + timedelta(hours=8))
    found = await store.get_route("r1")
    assert found is not None
    assert found.heartbeat_at == NOON + timedelta(hours=8)


async def test_words_about_an_unknown_route_do_nothing(store: Store) -> None:
    await store.set_filters("r1", [WebhookFilter(action="added")])
    await store.set_user("r1", "1204")
    await store.note_heartbeat("r1", NOON)
    assert await store.list_routes() == []


async def test_route_is_retired_once_and_forgets_its_secret(store: Store) -> None:
    await confirm(store)
    assert await store.retire("r1")
    assert not await store.retire("r1")
    assert await get_undated(store) == route(state="retired", gid="77", retired_as="deleted")
    assert not await store.add_candidate("r1", "secret")
    assert not await store.put(delivery(), candidate="secret")


@pytest.mark.parametrize(("lost", "expected"), [(True, "lost"), (False, "deleted")])
async def test_retired_route_tells_how_it_went(store: Store, *, lost: bool, expected: str) -> None:
    await confirm(store)
    assert (await get(store)).retired_as is None
    assert await store.retire("r1", lost=lost)
    assert not await store.retire("r1", lost=not lost)
    assert (await get(store)).retired_as == expected


async def test_only_confirmed_routes_are_retired(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    assert not await store.retire("r1")
    assert not await store.retire("r2")
    assert await store.get_route("r1") == route()


async def test_retired_route_is_forgotten_after_48_hours(store: Store, clock: Clock) -> None:
    await confirm(store)
    await store.retire("r1")
    clock.now += RETIRED_KNOWN_FOR.total_seconds() - 1
    assert (await get(store)).state == "retired"
    clock.now += 1
    assert await store.get_route("r1") is None
    assert await store.reserve(route("r1"), ttl=60)


async def test_retired_route_is_known_while_deliveries_of_it_wait(
    store: Store, clock: Clock
) -> None:
    await confirm(store)
    await put(store, 1)
    await store.retire("r1")
    clock.now += 2 * RETIRED_KNOWN_FOR.total_seconds()
    assert not await store.reserve(route("r1"), ttl=60)
    assert (await get(store)).state == "retired"
    claim = await take(store)
    await store.end_claim(claim, handled(claim.deliveries))
    assert await store.get_route("r1") is None


@pytest.mark.parametrize("act", ["discard", "replay"])
async def test_retired_route_is_known_while_dead_letters_of_it_are_left(
    store: Store, clock: Clock, act: str
) -> None:
    await confirm(store, account="acme")
    await store.put(delivery(1), reason="odd")
    await put(store, 2)
    claim = await take(store)
    await store.retire("r1")
    clock.now += 2 * RETIRED_KNOWN_FOR.total_seconds()
    await store.end_claim(claim, buried(claim.deliveries[0], [letter()]))
    for dead in await store.dead_letters():
        assert (await get(store)).account == "acme"
        await getattr(store, act)([dead.id])
    if act == "replay":
        assert (await get(store)).account == "acme"
        claim = await take(store)
        assert len(claim.deliveries) == 2
        await store.end_claim(claim, handled(claim.deliveries))
    assert await store.get_route("r1") is None


async def test_deliveries_of_a_retired_route_are_still_handled(store: Store) -> None:
    await confirm(store)
    await put(store, 1)
    await store.retire("r1")
    assert numbers(await take(store)) == [1]


async def test_dropping_returns_the_route_as_it_was_and_forgets_it(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    assert await store.put(delivery(), candidate="secret")
    assert await store.drop("r1") == route(candidates=("secret",))
    assert await store.drop("r1") is None
    assert await store.get_route("r1") is None
    assert (await store.counts()).waiting == 0
    assert not await store.put(delivery(1), candidate="secret")


async def test_only_reserved_routes_are_dropped(store: Store) -> None:
    await confirm(store)
    assert await store.drop("r1") is None
    assert await store.get_route("r1") is not None


async def test_one_of_confirm_and_drop_at_once_succeeds(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    confirmed: list[bool] = []
    dropped: list[Route | None] = []

    async def confirm_it() -> None:
        confirmed.append(await store.confirm("r1", gid="77", secret="secret"))

    async def drop_it() -> None:
        dropped.append(await store.drop("r1"))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(confirm_it)
        tasks.start_soon(drop_it)
    assert confirmed[0] == (dropped[0] is None)


# Putting


async def test_delivery_is_claimed_as_it_was_put(store: Store) -> None:
    given = Delivery(
        route="r1", body=b"\x00\xff{}", digest=bytes(range(32)), received_at=NOON + MICROSECOND
    )
    assert await store.put(given)
    (got,) = (await take(store)).deliveries
    assert got.id
    assert (got.route, got.body, got.digest, got.received_at, got.attempts, got.progress) == (
        *("r1", b"\x00\xff{}", bytes(range(32)), NOON + MICROSECOND),
        *(0, ""),
    )


@pytest.mark.parametrize("late", [timedelta(), -DUPLICATES_KNOWN_FOR, DUPLICATES_KNOWN_FOR])
async def test_same_digest_within_48_hours_is_a_duplicate(store: Store, late: timedelta) -> None:
    assert await store.put(delivery())
    assert not await store.put(delivery(at=NOON + late))
    assert (await store.counts()).waiting == 1


async def test_same_digest_after_48_hours_is_a_new_delivery(store: Store) -> None:
    later = NOON + DUPLICATES_KNOWN_FOR + MICROSECOND
    assert await store.put(delivery())
    assert await store.put(delivery(at=later))
    assert not await store.put(delivery(at=later))
    assert (await store.counts()).waiting == 2


async def test_duplicate_is_recognised_after_the_delivery_was_handled(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    await store.end_claim(claim, handled(claim.deliveries))
    assert not await store.put(delivery(1))
    assert await store.claim(limit=1, lease=30) is None


async def test_of_the_same_delivery_many_times_at_once_one_is_kept(store: Store) -> None:
    answers: list[bool] = []

    async def put_it() -> None:
        answers.append(await store.put(delivery()))

    async with anyio.create_task_group() as tasks:
        for _ in range(64):
            tasks.start_soon(put_it)
    assert sorted(answers) == [False] * 63 + [True]
    assert len((await take(store)).deliveries) == 1


async def test_duplicates_are_known_among_many_for_48_hours_and_no_longer(store: Store) -> None:
    await bury_at_once(store, range(600))
    later = NOON + DUPLICATES_KNOWN_FOR
    await bury_at_once(store, range(600, 1300), at=later)
    for number in (0, 300, 599):
        assert not await store.put(delivery(number, at=later))
    await bury_at_once(store, range(1300, 2000), at=later + MICROSECOND)
    for number in (0, 300, 599):
        assert await store.put(delivery(number, at=later + MICROSECOND))
    for number in (600, 1299):
        assert not await store.put(delivery(number, at=later))


async def test_seen_digest_that_came_again_is_remembered_from_then_on(store: Store) -> None:
    later = NOON + DUPLICATES_KNOWN_FOR + MICROSECOND
    await bury_at_once(store, range(1))
    await bury_at_once(store, range(1), at=later)
    await bury_at_once(store, range(1, 600), at=later)  # enough to have the first sight forgotten
    assert not await store.put(delivery(0, at=later))


async def test_held_delivery_waits_for_its_candidate(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "one")
    await store.add_candidate("r1", "two")
    for number, candidate in [(1, "one"), (2, "two"), (3, "one")]:
        assert await store.put(delivery(number), candidate=candidate)
    assert not await store.put(delivery(1), candidate="one")
    assert await store.claim(limit=10, lease=30) is None
    assert (await store.counts()).waiting == 3
    await store.confirm("r1", gid="77", secret="one")
    assert (await store.counts()).waiting == 2
    assert numbers(await take(store)) == [1, 3]


async def test_confirming_without_held_deliveries_makes_nothing_claimable(store: Store) -> None:
    await confirm(store)
    assert await store.claim(limit=10, lease=30) is None


async def test_delivery_for_a_candidate_that_was_confirmed_is_due_at_once(store: Store) -> None:
    await confirm(store)
    assert await store.put(delivery(1), candidate="secret")
    assert not await store.put(delivery(2), candidate="another")
    assert numbers(await take(store)) == [1]


async def test_delivery_for_no_candidate_is_neither_kept_nor_remembered(store: Store) -> None:
    assert not await store.put(delivery(), candidate="secret")
    await store.reserve(route(), ttl=60)
    assert not await store.put(delivery(), candidate="secret")
    await store.add_candidate("r1", "secret")
    assert await store.put(delivery(), candidate="secret")


async def test_delivery_with_a_reason_is_a_dead_letter_at_once(store: Store) -> None:
    before = datetime.now(UTC)
    assert await store.put(delivery(5), reason="not JSON")
    assert not await store.put(delivery(5), reason="not JSON")
    assert not await store.put(delivery(5))
    assert (await store.counts()).waiting == 0
    assert await store.claim(limit=10, lease=30) is None
    (dead,) = await store.dead_letters()
    assert (dead.route, dead.body, dead.reason) == ("r1", delivery(5).body, "not JSON")
    assert (dead.received_at, dead.progress) == (NOON, "")
    assert before <= dead.buried_at <= datetime.now(UTC)


async def test_full_inbox_takes_no_more(small_store: Store) -> None:
    await put(small_store, 1, 2)
    with pytest.raises(StoreError, match="inbox is full"):
        await small_store.put(delivery(3))
    claim = await take(small_store, limit=1)
    await small_store.end_claim(claim, handled(claim.deliveries))
    await put(small_store, 3)
    assert (await small_store.counts()).waiting == 2


async def test_full_inbox_still_knows_duplicates_and_takes_dead_letters(small_store: Store) -> None:
    await put(small_store, 1, 2)
    assert not await small_store.put(delivery(1))
    assert await small_store.put(delivery(3), reason="odd")


async def test_full_inbox_refuses_those_beyond_the_limit_of_many_at_once(
    small_store: Store,
) -> None:
    kept: list[int] = []
    refused: list[int] = []

    async def put_it(number: int) -> None:
        try:
            await put(small_store, number)
            kept.append(number)
        except StoreError:
            refused.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(put_it, number)
    assert (len(kept), len(refused)) == (2, 8)
    assert sorted(numbers(await take(small_store))) == sorted(kept)


async def hold(store: Store, *wanted: int, candidate: str = "secret", size: int = 0) -> None:
    for number in wanted:
        held = replace(delivery(number), body=bytes(size)) if size else delivery(number)
        assert await store.put(held, candidate=candidate)


async def reserve(store: Store, *candidates: str) -> None:
    assert await store.reserve(route(), ttl=60)
    for candidate in candidates:
        assert await store.add_candidate("r1", candidate)


async def test_what_is_held_takes_no_room_in_the_inbox(small_store: Store) -> None:
    await reserve(small_store, "secret")
    await hold(small_store, 1, 2, 3)
    await put(small_store, 4, 5, route="r2")
    with pytest.raises(StoreError, match="inbox is full, 2 deliveries wait"):
        await small_store.put(delivery(6, route="r2"))
    await hold(small_store, 7)
    assert (await small_store.counts()).waiting == 6


async def test_what_was_held_counts_when_it_is_confirmed_and_is_never_refused(
    small_store: Store,
) -> None:
    await reserve(small_store, "secret")
    await hold(small_store, 1, 2, 3)
    assert await small_store.confirm("r1", gid="77", secret="secret")
    with pytest.raises(StoreError, match="inbox is full"):
        await small_store.put(delivery(4))
    claim = await take(small_store)
    assert numbers(claim) == [1, 2, 3]
    await small_store.end_claim(claim, handled(claim.deliveries))
    await put(small_store, 4)


async def test_what_goes_with_its_candidate_makes_no_room_that_was_never_taken(
    small_store: Store,
) -> None:
    await reserve(small_store, "secret")
    await hold(small_store, 1, 2, 3)
    await small_store.drop("r1")
    await put(small_store, 4, 5)
    with pytest.raises(StoreError, match="inbox is full"):
        await small_store.put(delivery(6))


async def test_more_than_a_hundred_deliveries_are_not_held_for_one_candidate(store: Store) -> None:
    await reserve(store, "stranger", "genuine")
    await hold(store, *range(MAX_HELD), candidate="stranger")
    for number in (MAX_HELD, MAX_HELD + 1):
        with pytest.raises(StoreError, match="held for a handshake that is not confirmed"):
            await store.put(delivery(number), candidate="stranger")
    await hold(store, MAX_HELD, candidate="genuine")
    assert (await store.counts()).waiting == MAX_HELD + 1


async def test_of_many_held_at_once_those_beyond_the_bound_are_refused(store: Store) -> None:
    await reserve(store, "stranger")
    refused: list[int] = []

    async def put_it(number: int) -> None:
        try:
            await store.put(delivery(number), candidate="stranger")
        except StoreError:
            refused.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(MAX_HELD + 20):
            tasks.start_soon(put_it, number)
    assert len(refused) == 20
    assert (await store.counts()).waiting == MAX_HELD


async def test_bytes_that_are_held_for_one_candidate_are_bounded(store: Store) -> None:
    await reserve(store, "stranger", "genuine")
    await hold(store, 1, 2, 3, candidate="stranger", size=MAX_HELD_BYTES // 3)
    await hold(store, 4, candidate="stranger", size=MAX_HELD_BYTES % 3)
    with pytest.raises(StoreError, match="held for a handshake"):
        await hold(store, 5, candidate="stranger", size=1)
    await hold(store, 5, candidate="genuine", size=1)


async def test_traceback_of_a_put_that_is_refused_shows_no_secret(small_store: Store) -> None:
    secret = "genuine-secret-0123456789"
    await reserve(small_store, secret)
    await hold(small_store, 1, candidate=secret, size=MAX_HELD_BYTES)
    with pytest.raises(StoreError) as held:
        await hold(small_store, 2, candidate=secret)
    await small_store.confirm("r1", gid="77", secret=secret)
    await put(small_store, 3)
    with pytest.raises(StoreError) as full:
        await hold(small_store, 4, candidate=secret)
    for caught in (held, full):
        assert secret not in shown_by(caught.value)


# Claiming


async def test_nothing_is_claimed_from_an_empty_inbox(store: Store) -> None:
    assert await store.claim(limit=10, lease=30) is None


async def test_claim_needs_a_limit(store: Store) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        await store.claim(limit=0, lease=30)


async def test_deliveries_are_claimed_oldest_first_up_to_the_limit(store: Store) -> None:
    await put(store, 3, 1, 2)
    claim = await take(store, limit=2)
    assert numbers(claim) == [3, 1]
    await store.end_claim(claim, handled(claim.deliveries))
    assert numbers(await take(store, limit=2)) == [2]


async def test_route_whose_delivery_waited_longest_is_claimed_first(
    store: Store, clock: Clock
) -> None:
    for number, id_ in enumerate(["r3", "r1", "r2", "r1"]):
        clock.now += 1
        await put(store, number, route=id_)
    claims = [await take(store) for _ in range(3)]
    assert [claim.route for claim in claims] == ["r3", "r1", "r2"]
    assert numbers(claims[1]) == [1, 3]


async def test_route_is_leased_to_one_at_a_time(store: Store) -> None:
    await put(store, 1, 2)
    await put(store, 3, route="r2")
    first = await take(store, limit=1)
    second = await take(store, limit=1)
    assert {first.route, second.route} == {"r1", "r2"}
    await put(store, 4)
    assert await store.claim(limit=10, lease=30) is None


async def test_workers_at_once_never_share_a_route(store: Store) -> None:
    for number in range(60):
        await put(store, number, route=f"r{number % 6}")
    at_work: set[str] = set()
    seen: list[int] = []

    async def work() -> None:
        while claim := await store.claim(limit=2, lease=30):
            assert claim.route not in at_work
            at_work.add(claim.route)
            seen.extend(numbers(claim))
            await anyio.lowlevel.checkpoint()
            assert await store.settle(claim, handled(claim.deliveries)) is not None
            at_work.remove(claim.route)
            assert await store.end_claim(claim) is not None

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(work)
    assert sorted(seen) == list(range(60))
    for first in range(6):
        assert [n for n in seen if n % 6 == first] == list(range(first, 60, 6))


async def test_lease_that_ran_out_is_taken_over_with_a_higher_fence(
    store: Store, clock: Clock
) -> None:
    await put(store, 1, 2)
    first = await take(store, limit=1, lease=30)
    clock.now += 29.9
    assert await store.claim(limit=10, lease=30) is None
    clock.now += 0.1
    second = await take(store)
    assert second.fence > first.fence
    assert second.deliveries == (replace(first.deliveries[0], crashes=1),)


async def test_word_of_a_worker_whose_lease_was_taken_over_does_nothing(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    late = await take(store, lease=30)
    clock.now += 30
    owner = await take(store, lease=30)
    (mine,) = late.deliveries
    assert await store.settle(late, handled([mine])) is None
    assert await store.settle(late, Settlement()) is None
    assert await store.settle(late, kept(mine, attempts=9, progress="p9")) is None
    assert await store.settle(late, tried_again(mine, attempts=9, progress="p9")) is None
    assert await store.settle(late, buried(mine, [letter()])) is None
    new = Retry(delivery=alone(9), delay=0.0)
    assert await store.settle(late, Settlement(retries=(new,), scope="12", events=b"x")) is None
    assert await store.claim_more(late, limit=1) is None
    assert not await store.renew(late, lease=99)
    assert await store.end_claim(late, handled([mine])) is None
    assert (await store.counts()).waiting == 1
    assert await store.dead_letters() == []
    assert await store.remembered("12") == b""
    assert await store.claim(limit=10, lease=30) is None
    clock.now += 30
    assert (await take(store)).deliveries == (replace(owner.deliveries[0], crashes=2),)


async def test_word_of_a_worker_that_gave_its_lease_back_does_nothing(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await store.end_claim(claim) is not None
    assert await store.end_claim(claim, handled(claim.deliveries)) is None
    assert await store.settle(claim, handled(claim.deliveries)) is None
    assert await store.claim_more(claim, limit=1) is None
    assert not await store.renew(claim, lease=30)
    assert numbers(await take(store)) == [1]


async def test_word_about_a_route_without_deliveries_does_nothing(store: Store) -> None:
    claim = Claim(route="r1", fence=1, deliveries=())
    assert await store.settle(claim, Settlement()) is None
    assert await store.claim_more(claim, limit=1) is None
    assert await store.end_claim(claim) is None


async def test_fences_of_a_route_grow_also_when_nothing_was_left(store: Store) -> None:
    fences = []
    for number in range(3):
        await put(store, number)
        claim = await take(store)
        fences.append(claim.fence)
        await store.end_claim(claim, handled(claim.deliveries))
    assert fences == sorted(set(fences))


async def test_renewed_lease_lasts_from_then_on(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await take(store, lease=30)
    clock.now += 20
    assert await store.renew(claim, lease=30)
    clock.now += 29.9
    assert await store.claim(limit=10, lease=30) is None
    clock.now += 0.1
    assert (await take(store)).fence > claim.fence


async def test_lease_that_nobody_took_over_can_still_be_used(store: Store, clock: Clock) -> None:
    await put(store, 1, 2)
    claim = await take(store, lease=30)
    clock.now += 100
    assert await store.settle(claim, handled(claim.deliveries[:1])) is not None
    assert await store.renew(claim, lease=30)
    assert await store.claim(limit=10, lease=30) is None
    assert await store.end_claim(claim, handled(claim.deliveries[1:])) is not None
    assert (await store.counts()).waiting == 0


async def test_removed_deliveries_are_gone_and_others_due_at_once(store: Store) -> None:
    await put(store, 1, 2, 3)
    claim = await take(store)
    assert (
        await store.settle(claim, handled([claim.deliveries[0], claim.deliveries[2]])) is not None
    )
    assert (await store.counts()).waiting == 1
    assert await store.end_claim(claim) is not None
    assert numbers(await take(store)) == [2]


async def test_many_deliveries_are_removed_at_once(store: Store) -> None:
    await put(store, *range(300))
    claim = await take(store, limit=299)
    assert numbers(claim) == list(range(299))
    assert await store.settle(claim, handled(claim.deliveries)) is not None
    assert (await store.counts()).waiting == 1


async def test_removal_of_what_is_gone_already_is_no_loss_of_the_lease(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await store.settle(claim, handled(claim.deliveries)) is not None
    assert await store.settle(claim, handled(claim.deliveries)) is not None
    assert await store.end_claim(claim, handled(claim.deliveries)) is not None
    assert (await store.counts()).waiting == 0


async def test_what_was_put_during_a_lease_is_due_when_it_ends(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    await put(store, 2)
    assert await store.end_claim(claim, handled(claim.deliveries)) is not None
    assert numbers(await take(store)) == [2]


async def test_released_delivery_waits_and_holds_up_nobody(store: Store, clock: Clock) -> None:
    await put(store, 1, 2, 3)
    claim = await take(store, limit=2)
    await store.settle(
        claim, tried_again(claim.deliveries[0], delay=5.0, attempts=1, progress="p2")
    )
    assert await store.end_claim(claim) is not None
    claim = await take(store)
    assert numbers(claim) == [2, 3]
    await store.end_claim(claim, handled(claim.deliveries))
    clock.now += 4.9
    assert await store.claim(limit=10, lease=30) is None
    assert (await store.counts()).waiting == 1
    clock.now += 0.1
    (again,) = (await take(store)).deliveries
    assert (again.attempts, again.progress, again.received_at) == (1, "p2", NOON)


async def test_delivery_released_without_delay_keeps_its_place(store: Store, clock: Clock) -> None:
    await put(store, 1, 2)
    clock.now += 1
    claim = await take(store)
    assert await store.settle(claim, tried_again(claim.deliveries[0], progress="p1")) is not None
    await store.end_claim(claim)
    claim = await take(store)
    assert numbers(claim) == [1, 2]
    assert claim.deliveries[0].progress == "p1"


async def test_new_delivery_is_due_before_one_that_was_released(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await take(store)
    await store.settle(claim, tried_again(claim.deliveries[0], delay=5.0, attempts=1))
    await store.end_claim(claim)
    await put(store, 2)
    claim = await take(store)
    assert numbers(claim) == [2]
    clock.now += 5
    await store.end_claim(claim)
    assert numbers(await take(store)) == [2, 1]


async def test_lapsed_lease_with_all_put_off_waits_for_the_first(
    store: Store, clock: Clock
) -> None:
    await put(store, 1, 2)
    claim = await take(store, lease=30)
    for delivery_, delay in zip(claim.deliveries, (50.0, 40.0), strict=True):
        await store.settle(claim, tried_again(delivery_, delay=delay, attempts=1))
    clock.now += 30
    assert await store.claim(limit=10, lease=30) is None
    clock.now += 10
    assert numbers(await take(store, lease=30)) == [2]


async def test_lapsed_lease_with_nothing_left_leaves_the_route_free(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    claim = await take(store, lease=30)
    await store.settle(claim, handled(claim.deliveries))
    clock.now += 30
    assert await store.claim(limit=10, lease=30) is None
    await put(store, 2)
    assert numbers(await take(store)) == [2]
    assert await store.end_claim(claim) is None


async def test_other_routes_are_claimed_behind_a_lapsed_lease_with_nothing_left(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    claim = await take(store, lease=30)
    await store.settle(claim, handled(claim.deliveries))
    clock.now += 31
    await put(store, 2, route="r2")
    assert (await take(store)).route == "r2"


async def test_claims_that_end_early_leave_nothing_behind(store: Store, clock: Clock) -> None:
    for number in range(80):
        await put(store, number)
        claim = await take(store, lease=3600)
        assert numbers(claim) == [number]
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
        clock.now += 1
    assert (await store.counts()).waiting == 0
    assert await store.claim(limit=10, lease=30) is None


# Settling


async def test_kept_delivery_stays_claimed_with_its_progress(store: Store) -> None:
    await put(store, 1, 2)
    claim = await take(store)
    first, second = claim.deliveries
    assert await store.settle(claim, kept(first, attempts=3, progress="p3")) is not None
    assert await claim_more(store, claim) == ()
    assert await store.claim(limit=10, lease=30) is None
    await store.end_claim(claim)
    again = await take(store)
    assert again.deliveries == (replace(first, attempts=3, progress="p3"), second)


async def test_each_of_several_deliveries_keeps_its_own_progress(store: Store) -> None:
    await put(store, *range(40))
    claim = await take(store)
    settlement = Settlement(
        kept=tuple(
            replace(each, attempts=number % 3, progress=f"p{number}")
            for number, each in enumerate(claim.deliveries[:30])
        )
    )
    assert await store.end_claim(claim, settlement) is not None
    told = [(each.attempts, each.progress) for each in (await take(store)).deliveries]
    assert told == [*((number % 3, f"p{number}") for number in range(30)), *[(0, "")] * 10]


@pytest.mark.parametrize(
    "progress",
    ["{}", '{"upto":2,"done":[4],"pending":["a.b:c"]}', "'\";\\ \n\té ☃ 𝄞 %s $1 {}", "x" * 100_000],
    ids=["short", "usual", "odd", "long"],
)
async def test_any_progress_comes_back_as_it_was(store: Store, progress: str) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await store.settle(claim, kept(claim.deliveries[0], progress=progress)) is not None
    assert await store.end_claim(claim, buried(alone(5), [letter(progress=progress)])) is not None
    claim = await take(store)
    assert [each.progress for each in claim.deliveries] == [progress]
    assert (
        await store.end_claim(claim, tried_again(claim.deliveries[0], progress=progress))
        is not None
    )
    assert [each.progress for each in await store.dead_letters()] == [progress]
    await store.replay([each.id for each in await store.dead_letters()])
    assert [each.progress for each in (await take(store)).deliveries] == [progress] * 2


async def test_event_alone_becomes_a_delivery_of_the_claims_route(
    store: Store, clock: Clock
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await put(store, 1)
    claim = await take(store)
    event = replace(
        delivery(7, route="another", at=NOON + MICROSECOND),
        attempts=2,
        progress='{"pending":["a:b"]}',
        trace=trace,
    )
    settlement = Settlement(
        removed=(claim.deliveries[0].id,), retries=(Retry(delivery=event, delay=5.0),)
    )
    assert await store.end_claim(claim, settlement) is not None
    assert (await store.counts()).waiting == 1
    clock.now += 4.9
    assert await store.claim(limit=10, lease=30) is None
    clock.now += 0.1
    claim = await take(store)
    (got,) = claim.deliveries
    assert claim.route == "r1"
    assert got.id
    assert got == replace(event, route="r1", digest=bytes(32), id=got.id)
    assert await store.end_claim(claim, handled(claim.deliveries)) is not None
    assert (await store.counts()).waiting == 0


async def test_events_alone_are_no_duplicates_of_each_other_or_of_their_delivery(
    store: Store,
) -> None:
    await put(store, 1)
    claim = await take(store)
    events = tuple(Retry(delivery=alone(1), delay=0.0) for _ in range(2))
    assert await store.end_claim(claim, Settlement(retries=events)) is not None
    assert numbers(await take(store)) == [1, 1, 1]
    assert await store.put(alone(2))


async def test_event_alone_is_due_behind_what_waits(store: Store, clock: Clock) -> None:
    await put(store, 1, 2)
    claim = await take(store, limit=1)
    clock.now += 1
    new = Retry(delivery=alone(9), delay=0.0)
    await store.end_claim(claim, replace(handled(claim.deliveries), retries=(new,)))
    assert numbers(await take(store)) == [2, 9]


async def test_events_alone_take_room_in_a_full_inbox_and_are_never_refused(
    small_store: Store,
) -> None:
    await put(small_store, 1, 2)
    claim = await take(small_store)
    events = tuple(Retry(delivery=alone(number), delay=0.0) for number in (7, 8, 9))
    assert await small_store.settle(claim, Settlement(retries=events)) is not None
    assert (await small_store.counts()).waiting == 5
    await small_store.settle(claim, handled(claim.deliveries))
    with pytest.raises(StoreError, match="inbox is full, [0-9]+ deliveries wait"):
        await small_store.put(delivery(3))
    await small_store.end_claim(claim)
    claim = await take(small_store)
    assert numbers(claim) == [7, 8, 9]
    await small_store.end_claim(claim, handled(claim.deliveries[:2]))
    await put(small_store, 3)


async def test_each_retry_has_its_own_delay(store: Store, clock: Clock) -> None:
    await put(store, 1, 2, 3)
    claim = await take(store)
    first, second, third = claim.deliveries
    settlement = Settlement(
        retries=(
            Retry(delivery=replace(first, attempts=1), delay=20.0),
            Retry(delivery=alone(7, attempts=2), delay=10.0),
            Retry(delivery=replace(third, attempts=3), delay=0.0),
            Retry(delivery=alone(8, attempts=4), delay=30.0),
        ),
        removed=(second.id,),
    )
    assert await store.end_claim(claim, settlement) is not None
    found = []
    for _ in range(4):
        claim = await take(store)
        found.append([(number_of(each), each.attempts) for each in claim.deliveries])
        await store.end_claim(claim, handled(claim.deliveries))
        clock.now += 10
    assert found == [[(3, 3)], [(7, 2)], [(1, 1)], [(8, 4)]]


async def test_settlement_does_all_of_its_parts(store: Store) -> None:
    await put(store, 1, 2, 3, 4, 5)
    claim = await take(store)
    removed, kept_, again, given_up, _ = claim.deliveries
    settlement = Settlement(
        removed=(removed.id, given_up.id),
        kept=(replace(kept_, progress="p2"),),
        retries=(
            Retry(delivery=replace(again, attempts=1), delay=9.0),
            Retry(delivery=alone(8, attempts=1), delay=0.0),
        ),
        letters=(letter("given up", body=given_up.body), letter("alone", body=alone(9).body)),
        scope="12",
        events=b"four",
    )
    assert await store.settle(claim, settlement) is not None
    assert await store.counts() == Counts(waiting=4, dead_letters=2, oldest_at=NOON)
    assert [number_of(each) for each in await store.dead_letters()] == [4, 9]
    assert await store.remembered("12") == b"four"
    await store.end_claim(claim)
    claim = await take(store)
    assert [(number_of(each), each.attempts, each.progress) for each in claim.deliveries] == [
        *((2, 0, "p2"), (5, 0, ""), (8, 1, "")),
    ]


async def test_settlement_of_hundreds_is_kept_whole(store: Store) -> None:
    await put(store, *range(600))
    claim = await take(store, limit=600)
    first, second, third = claim.deliveries[:200], claim.deliveries[200:400], claim.deliveries[400:]
    settlement = Settlement(
        removed=tuple(each.id for each in first),
        kept=tuple(replace(each, progress="kept") for each in second),
        retries=(
            *(Retry(delivery=replace(each, attempts=1), delay=0.0) for each in third),
            *(Retry(delivery=alone(number), delay=0.0) for number in range(600, 800)),
        ),
        letters=tuple(letter(f"reason {number}") for number in range(200)),
    )
    assert await store.end_claim(claim, settlement) is not None
    assert await store.counts() == Counts(waiting=600, dead_letters=200, oldest_at=NOON)
    claim = await take(store, limit=1000)
    assert numbers(claim) == list(range(200, 800))
    assert [each.progress for each in claim.deliveries[:200]] == ["kept"] * 200
    assert [each.attempts for each in claim.deliveries[200:400]] == [1] * 200
    letters = await store.dead_letters(limit=1000)
    assert [each.reason for each in letters] == [f"reason {number}" for number in range(200)]


async def test_settlements_of_one_claim_at_once_are_all_kept(store: Store) -> None:
    await put(store, *range(30))
    claim = await take(store)
    answers: list[tuple[str, ...] | None] = []

    async def settle(each: Delivery) -> None:
        settlement = Settlement(
            removed=(each.id,), letters=(letter(),), scope="12", events=bytes([number_of(each)])
        )
        answers.append(await store.settle(claim, settlement))

    async with anyio.create_task_group() as tasks:
        for each in claim.deliveries:
            tasks.start_soon(settle, each)
    assert [len(ids or ()) for ids in answers] == [1] * 30
    assert await store.counts() == Counts(waiting=0, dead_letters=30)
    assert sorted(await store.remembered("12")) == list(range(30))


async def test_what_the_claim_does_not_hold_is_passed_over(store: Store) -> None:
    await put(store, 1, 2)
    await put(store, 3, route="r2")
    earlier, elsewhere = await take(store), await take(store)
    await store.end_claim(earlier)
    claim = await take(store, limit=1)
    later = earlier.deliveries[1]
    strangers = (*elsewhere.deliveries, later, replace(later, id="x"), replace(later, id="99999"))
    settlement = Settlement(
        removed=tuple(each.id for each in strangers),
        kept=tuple(replace(each, attempts=5, progress="p5") for each in strangers),
        retries=tuple(Retry(delivery=replace(each, attempts=5), delay=5.0) for each in strangers),
        letters=(letter("kept all the same"),),
    )
    assert await store.settle(claim, settlement) is not None
    assert await store.counts() == Counts(waiting=3, dead_letters=1, oldest_at=NOON)
    await store.end_claim(claim, handled(claim.deliveries))
    await store.end_claim(elsewhere)
    again = [await take(store), await take(store)]
    assert {each.route: each.deliveries for each in again} == {
        "r1": (later,),
        "r2": elsewhere.deliveries,
    }


async def test_what_was_settled_is_passed_over_from_then_on(store: Store) -> None:
    await put(store, 1, 2)
    claim = await take(store)
    gone, again = claim.deliveries
    settlement = replace(tried_again(again, delay=9.0, attempts=1), removed=(gone.id, gone.id))
    assert await store.settle(claim, settlement) is not None
    for late in (handled([gone, again]), tried_again(gone), kept(again, attempts=7)):
        assert await store.settle(claim, late) is not None
    assert await store.end_claim(claim, tried_again(again, attempts=7)) is not None
    assert await store.counts() == Counts(waiting=1, dead_letters=0, oldest_at=NOON)
    assert await store.claim(limit=10, lease=30) is None


async def test_empty_settlement_only_tells_whether_the_lease_is_held(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await store.settle(claim, Settlement()) is not None
    assert await store.end_claim(claim, Settlement()) is not None
    assert await store.settle(claim, Settlement()) is None
    assert (await take(store)).deliveries == claim.deliveries


async def test_claim_that_ends_with_nothing_but_a_new_retry_leaves_it(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    await store.settle(claim, handled(claim.deliveries))
    new = Retry(delivery=alone(9), delay=0.0)
    assert await store.end_claim(claim, Settlement(retries=(new,))) is not None
    assert numbers(await take(store)) == [9]


# Claiming more


async def test_holder_of_a_route_takes_what_arrived_since(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await claim_more(store, claim) == ()
    await put(store, 2, 3, 4)
    await put(store, 5, route="r2")
    more = await claim_more(store, claim, limit=2)
    assert [number_of(each) for each in more] == [2, 3]
    assert all(each.id and each.route == "r1" for each in more)
    assert numbers(await take(store)) == [5]
    clock.now += 29
    assert await store.claim(limit=10, lease=30) is None
    assert await store.end_claim(claim, handled([*claim.deliveries, *more])) is not None
    assert numbers(await take(store)) == [4]


async def test_what_was_claimed_more_is_settled_as_the_rest(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    await put(store, 2, 3, 4)
    more = await claim_more(store, claim)
    removed, kept_, again = more
    settlement = Settlement(
        removed=(removed.id,),
        kept=(replace(kept_, progress="p3"),),
        retries=(Retry(delivery=replace(again, attempts=1), delay=0.0),),
    )
    assert await store.settle(claim, settlement) is not None
    await store.end_claim(claim)
    claim = await take(store)
    told = [(number_of(each), each.attempts, each.progress) for each in claim.deliveries]
    assert told == [(1, 0, ""), (3, 0, "p3"), (4, 1, "")]


async def test_what_is_not_due_is_not_claimed_more(store: Store, clock: Clock) -> None:
    await put(store, 1, 2)
    claim = await take(store)
    first, second = claim.deliveries
    await store.settle(claim, tried_again(first, delay=5.0, attempts=1))
    await store.settle(claim, tried_again(second, attempts=1))
    assert await claim_more(store, claim) == (replace(second, attempts=1),)
    assert await claim_more(store, claim) == ()
    clock.now += 5
    assert await claim_more(store, claim) == (replace(first, attempts=1),)


async def test_more_is_claimed_in_the_order_in_which_it_is_due(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await take(store, lease=60)
    await store.settle(claim, tried_again(claim.deliveries[0], delay=5.0))
    for number in (3, 2):
        clock.now += 4
        await put(store, number)
    more = await claim_more(store, claim)
    assert [number_of(each) for each in more] == [3, 1, 2]


async def test_claiming_more_needs_a_limit(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    with pytest.raises(ValueError, match="at least 1"):
        await store.claim_more(claim, limit=0)


async def test_lapsed_lease_that_nobody_took_over_can_still_claim_more(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    claim = await take(store, lease=30)
    await put(store, 2)
    clock.now += 100
    more = await claim_more(store, claim)
    assert await store.renew(claim, lease=30)
    assert await store.end_claim(claim, handled([*claim.deliveries, *more])) is not None
    assert (await store.counts()).waiting == 0


async def test_bodies_that_are_claimed_more_are_bounded_and_one_is_always_given(
    store: Store,
) -> None:
    await put(store, 0)
    claim = await take(store)
    sizes = [MAX_CLAIM_BYTES // 2, MAX_CLAIM_BYTES // 2, 1, MAX_CLAIM_BYTES + 1, 1]
    for number, size in enumerate(sizes, start=1):
        assert await store.put(replace(delivery(number), body=bytes(size)))
    claimed = []
    while more := await claim_more(store, claim):
        claimed.append([len(each.body) for each in more])
        await store.settle(claim, handled(more))
    assert claimed == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


async def test_counts_know_what_was_claimed_more(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    await store.put(delivery(2, at=NOON + MICROSECOND))
    await claim_more(store, claim)
    await store.settle(claim, handled(claim.deliveries))
    assert await store.counts() == Counts(waiting=1, dead_letters=0, oldest_at=NOON + MICROSECOND)


# Claiming without some accounts


async def test_routes_of_accounts_that_are_skipped_are_passed_over(
    store: Store, clock: Clock
) -> None:
    for number, account in enumerate(["acme", "", "acmé", "acme"]):
        clock.now += 1
        await confirm(store, f"r{number}", account=account)
        await put(store, number, route=f"r{number}")
    clock.now += 1
    await put(store, 9, route="unknown")

    async def claimed(*accounts: str) -> str | None:
        claim = await store.claim(limit=10, lease=30, skip_accounts=accounts)
        if claim is not None:
            await store.end_claim(claim)
        return None if claim is None else claim.route

    assert await claimed("acme") == "r1"
    assert await claimed("acme", "") == "r2"
    assert await claimed("acme", "acmé", "") is None
    assert await claimed("", "acmé", "nobody") == "r0"
    assert await claimed("ACME", "acm") == "r0"
    claim = await take(store)
    assert claim.route == "r0"
    assert await claimed("", "acmé") == "r3"
    assert await claimed("acme", "acmé") == "r1"
    await store.end_claim(claim, handled(claim.deliveries))
    assert await claimed() == "r1"


async def test_lease_that_ran_out_is_left_as_it_is_when_its_account_is_skipped(
    store: Store, clock: Clock
) -> None:
    await confirm(store, account="acme")
    await put(store, 1, 2)
    claim = await take(store, lease=30)
    clock.now += 31
    assert await store.claim(limit=10, lease=30, skip_accounts={"acme"}) is None
    assert await store.settle(claim, handled(claim.deliveries[:1])) == ()
    assert await store.claim(limit=10, lease=30, skip_accounts={"acme"}) is None
    assert crashes(await take(store)) == [(2, 1)]


async def test_many_due_routes_are_passed_over_to_the_one_that_is_not_skipped(
    store: Store, clock: Clock
) -> None:
    for number in range(40):
        await confirm(store, f"r{number}", account=f"noisy {number % 3}")
        await put(store, number, route=f"r{number}")
    clock.now += 1
    await confirm(store, "quiet", account="quiet")
    await put(store, 40, route="quiet")
    noisy = [f"noisy {number}" for number in range(3)]
    claim = await store.claim(limit=10, lease=30, skip_accounts=noisy)
    assert numbers(claim) == [40]
    assert await store.claim(limit=10, lease=30, skip_accounts=noisy) is None
    assert numbers(await take(store)) == [0]


# The claim before


async def test_claim_names_the_claim_of_its_route_before_it(store: Store) -> None:
    fences = {"r1": 0, "r2": 0}
    for id_ in fences:
        await confirm(store, id_)
    for number in range(6):
        await put(store, number, route=f"r{1 + number % 2}")
        claim = await take(store)
        assert claim.previous == fences[claim.route]
        fences[claim.route] = claim.fence
        await store.end_claim(claim, handled(claim.deliveries))


async def test_claim_names_the_one_that_lapsed_before_it(store: Store, clock: Clock) -> None:
    await confirm(store)
    await put(store, 1)
    first = await crash(store, clock)
    second = await crash(store, clock)
    assert (first.previous, second.previous) == (0, first.fence)
    third = await take(store, lease=30)
    await store.settle(third, handled(third.deliveries))
    clock.now += 30
    assert await store.claim(limit=10, lease=30) is None
    await put(store, 2)
    assert (await take(store)).previous == third.fence


async def test_claim_after_a_claim_that_took_more_names_it(store: Store) -> None:
    await confirm(store)
    await put(store, 1)
    claim = await take(store)
    await put(store, 2)
    await store.claim_more(claim, limit=10)
    await store.renew(claim, lease=30)
    await store.end_claim(claim)
    assert (await take(store)).previous == claim.fence


# Remembered events


async def remember(store: Store, scope: str, *events: bytes) -> None:
    """Settle these events, each by a claim of its own."""
    for number, packed in enumerate(events):
        id_ = f"of {scope} {len(packed)} {packed[:8].hex()} {number}"
        await store.put(replace(delivery(), digest=hashlib.sha256(id_.encode()).digest()))
        claim = await take(store)
        settlement = replace(handled(claim.deliveries), scope=scope, events=packed)
        assert await store.end_claim(claim, settlement) is not None


async def test_settled_events_are_remembered_in_order_and_by_scope(store: Store) -> None:
    assert await store.remembered("acmé 12") == b""
    packed = [bytes([number, 0, 255]) * (number + 1) for number in range(20)]
    await remember(store, "acmé 12", *packed)
    await remember(store, "", b"of none")
    await remember(store, "acmé", b"of acme")
    assert await store.remembered("acmé 12") == b"".join(packed)
    assert await store.remembered("") == b"of none"
    assert await store.remembered("acmé") == b"of acme"
    assert await store.remembered("12") == b""


async def test_events_that_were_settled_a_short_time_ago_are_told_without_the_others(
    store: Store, clock: Clock
) -> None:
    await remember(store, "12", b"one", b"two")
    clock.now += 1
    assert await store.remembered("12", within=timedelta(minutes=1)) == b"onetwo"
    assert await store.remembered("12", within=timedelta()) == b""
    assert await store.remembered("12", within=timedelta(days=20)) == b"onetwo"


async def test_events_are_remembered_when_a_claim_goes_on(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    assert await store.settle(claim, Settlement(scope="12", events=b"one")) is not None
    assert await store.settle(claim, Settlement(scope="13", events=b"other")) is not None
    assert await store.settle(claim, Settlement(scope="12")) is not None
    assert await store.settle(claim, Settlement(scope="12", events=b"two")) is not None
    assert await store.remembered("12") == b"onetwo"


async def test_many_bytes_of_events_are_remembered(store: Store) -> None:
    packed = [bytes([number]) * 300_000 for number in range(10)]
    await remember(store, "12", *packed)
    assert await store.remembered("12") == b"".join(packed)


async def test_events_are_forgotten_48_hours_after_they_were_settled(
    store: Store, let_pass: Callable[[timedelta], None]
) -> None:
    await remember(store, "12", b"first")
    await remember(store, "13", b"other")
    let_pass(timedelta(hours=1))
    await remember(store, "12", b"second")
    let_pass(DUPLICATES_KNOWN_FOR - timedelta(hours=1, seconds=10))
    assert await store.remembered("12") == b"firstsecond"
    let_pass(timedelta(seconds=20))
    assert await store.remembered("12") == b"second"
    assert await store.remembered("13") == b""
    await remember(store, "12", b"third")
    let_pass(timedelta(hours=1))
    assert await store.remembered("12") == b"third"


async def test_events_outlive_their_route(
    store: Store, let_pass: Callable[[timedelta], None]
) -> None:
    await confirm(store)
    await store.retire("r1")
    let_pass(timedelta(hours=1))
    await remember(store, "12", b"events")
    let_pass(RETIRED_KNOWN_FOR - timedelta(hours=1))
    assert await store.get_route("r1") is None
    assert await store.remembered("12") == b"events"


# Crashes


def crashes(claim: Claim) -> list[tuple[int, int]]:
    """Return the number of each delivery in a claim, and how often it crashed."""
    return [(int(each.body[11:-2]), each.crashes) for each in claim.deliveries]


async def crash(store: Store, clock: Clock) -> Claim:
    """Claim as a worker that is killed does, and let its lease run out."""
    claim = await take(store, lease=30)
    clock.now += 30
    return claim


async def test_what_a_lapsed_claim_held_is_claimed_one_by_one_in_order(
    store: Store, clock: Clock
) -> None:
    await put(store, 1, 2, 3)
    assert crashes(await crash(store, clock)) == [(1, 0), (2, 0), (3, 0)]
    await put(store, 4, 5)
    for number in (1, 2, 3):
        claim = await take(store)
        assert crashes(claim) == [(number, 1)]
        assert await store.end_claim(claim, handled(claim.deliveries)) is not None
    assert crashes(await take(store)) == [(4, 0), (5, 0)]


async def test_fresh_deliveries_are_claimed_without_the_one_that_crashed_behind_them(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    await crash(store, clock)
    claim = await take(store)
    await store.settle(claim, tried_again(claim.deliveries[0], delay=10.0, attempts=1))
    await store.end_claim(claim)
    await put(store, 2, 3)
    clock.now += 10
    await put(store, 4)
    claim = await take(store)
    assert crashes(claim) == [(2, 0), (3, 0)]
    await store.end_claim(claim, handled(claim.deliveries))
    claim = await take(store)
    assert crashes(claim) == [(1, 1)]
    await store.end_claim(claim, handled(claim.deliveries))
    assert crashes(await take(store)) == [(4, 0)]


async def test_each_lapsed_claim_counts_once(store: Store, clock: Clock) -> None:
    await put(store, 1)
    for count in range(4):
        assert crashes(await crash(store, clock)) == [(1, count)]


async def test_what_was_settled_before_the_crash_did_not_crash(store: Store, clock: Clock) -> None:
    await put(store, 1, 2, 3, 4)
    claim = await take(store, lease=30)
    removed, released, given_up, _ = claim.deliveries
    await store.settle(claim, handled([removed]))
    await store.settle(claim, tried_again(released, attempts=1))
    await store.settle(claim, buried(given_up, [letter()]))
    clock.now += 30
    claim = await take(store)
    assert crashes(claim) == [(2, 0)]
    await store.end_claim(claim, handled(claim.deliveries))
    assert crashes(await take(store)) == [(4, 1)]


async def test_released_delivery_has_crashed_once_at_most(store: Store, clock: Clock) -> None:
    await put(store, 1)
    for _ in range(3):
        await crash(store, clock)
    claim = await take(store)
    assert crashes(claim) == [(1, 3)]
    await store.settle(claim, tried_again(claim.deliveries[0], progress="p1"))
    await store.end_claim(claim)
    assert crashes(await take(store)) == [(1, 1)]


async def test_claim_that_ended_in_order_leaves_the_crashes_as_they_were(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    for _ in range(2):
        await crash(store, clock)
    for _ in range(2):
        claim = await take(store)
        assert crashes(claim) == [(1, 2)]
        await store.end_claim(claim)


async def test_lapsed_lease_that_was_used_after_all_is_no_crash(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await crash(store, clock)
    assert await store.end_claim(claim) is not None
    assert crashes(await take(store)) == [(1, 0)]


async def test_kept_delivery_has_crashed_once_at_most(store: Store, clock: Clock) -> None:
    await put(store, 1)
    for _ in range(3):
        await crash(store, clock)
    claim = await take(store, lease=30)
    assert crashes(claim) == [(1, 3)]
    await store.settle(claim, kept(claim.deliveries[0], attempts=1, progress="p1"))
    clock.now += 30
    (again,) = (await take(store)).deliveries
    assert (again.crashes, again.attempts, again.progress) == (2, 1, "p1")


async def test_what_was_claimed_more_crashes_with_the_claim(store: Store, clock: Clock) -> None:
    await put(store, 1)
    claim = await take(store, lease=30)
    await put(store, 2, 3)
    more = await claim_more(store, claim)
    await store.settle(claim, handled(more[:1]))
    await put(store, 4)
    clock.now += 30
    for number in (1, 3):
        claim = await take(store)
        assert crashes(claim) == [(number, 1)]
        await store.end_claim(claim, handled(claim.deliveries))
    assert crashes(await take(store)) == [(4, 0)]


async def test_none_is_claimed_more_from_the_first_on_that_crashed(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    await crash(store, clock)
    claim = await take(store)
    await store.end_claim(claim, tried_again(claim.deliveries[0], delay=10.0))
    await put(store, 2)
    claim = await take(store, lease=60)
    await put(store, 3)
    clock.now += 10
    await put(store, 4)
    more = await claim_more(store, claim)
    assert [number_of(each) for each in more] == [3]
    assert await claim_more(store, claim) == ()
    await store.end_claim(claim, handled([*claim.deliveries, *more]))
    claim = await take(store)
    assert crashes(claim) == [(1, 1)]
    await store.end_claim(claim, handled(claim.deliveries))
    assert crashes(await take(store)) == [(4, 0)]


async def test_event_alone_of_a_delivery_that_crashed_has_not_crashed(
    store: Store, clock: Clock
) -> None:
    await put(store, 1)
    await crash(store, clock)
    claim = await take(store)
    event = replace(claim.deliveries[0], id="")
    assert event.crashes == 1
    new = Retry(delivery=event, delay=0.0)
    await store.end_claim(claim, replace(handled(claim.deliveries), retries=(new,)))
    assert crashes(await take(store)) == [(1, 0)]


async def test_replayed_letter_has_not_crashed(store: Store, clock: Clock) -> None:
    await put(store, 1)
    await crash(store, clock)
    claim = await take(store)
    await store.settle(claim, buried(claim.deliveries[0], [letter(body=claim.deliveries[0].body)]))
    await store.end_claim(claim)
    await store.replay([dead.id for dead in await store.dead_letters()])
    assert crashes(await take(store)) == [(1, 0)]


# Bytes


async def test_bodies_of_a_claim_are_bounded_and_one_is_always_given(store: Store) -> None:
    sizes = [MAX_CLAIM_BYTES // 2, MAX_CLAIM_BYTES // 2, 1, MAX_CLAIM_BYTES + 1, 1]
    for number, size in enumerate(sizes):
        assert await store.put(replace(delivery(number), body=bytes(size)))
    claimed = []
    while claim := await store.claim(limit=100, lease=30):
        claimed.append([len(each.body) for each in claim.deliveries])
        await store.end_claim(claim, handled(claim.deliveries))
    assert claimed == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


async def test_bodies_of_listed_letters_are_bounded_and_one_is_always_there(store: Store) -> None:
    sizes = [MAX_CLAIM_BYTES // 2, MAX_CLAIM_BYTES // 2, 1, MAX_CLAIM_BYTES + 1, 1]
    for number, size in enumerate(sizes):
        assert await store.put(replace(delivery(number), body=bytes(size)), reason="odd")
    listed = []
    after = ""
    while letters := await store.dead_letters(after=after):
        listed.append([len(each.body) for each in letters])
        after = letters[-1].id
    assert listed == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]


# Ownership

URL, OTHER_URL = "https://hooks.example.com/asana", "https://other.example.com/asana"


async def test_store_belongs_to_one_address_at_a_time(store: Store, clock: Clock) -> None:
    assert await store.own(URL, holder="a", ttl=15) is None
    assert await store.own(OTHER_URL, holder="b", ttl=15) == URL
    clock.now += 14.9
    assert await store.own(OTHER_URL, holder="b", ttl=15) == URL
    clock.now += 0.1
    assert await store.own(OTHER_URL, holder="b", ttl=15) is None
    assert await store.own(URL, holder="a", ttl=15) == OTHER_URL


async def test_many_hold_the_store_for_one_address_and_each_renews_its_own(
    store: Store, clock: Clock
) -> None:
    assert await store.own(URL, holder="a", ttl=15) is None
    clock.now += 10
    assert await store.own(URL, holder="b", ttl=15) is None
    clock.now += 10
    assert await store.own(OTHER_URL, holder="c", ttl=15) == URL
    assert await store.own(URL, holder="b", ttl=15) is None
    clock.now += 14
    assert await store.own(OTHER_URL, holder="c", ttl=15) == URL
    clock.now += 1
    assert await store.own(OTHER_URL, holder="c", ttl=15) is None


async def test_store_is_free_when_its_last_holder_lets_go(store: Store) -> None:
    await store.own(URL, holder="a", ttl=15)
    await store.own(URL, holder="b", ttl=15)
    await store.disown("a")
    await store.disown("nobody")
    assert await store.own(OTHER_URL, holder="c", ttl=15) == URL
    await store.disown("b")
    assert await store.own(OTHER_URL, holder="c", ttl=15) is None


async def test_holder_may_go_to_another_address_when_it_is_alone(store: Store) -> None:
    await store.own(URL, holder="a", ttl=15)
    assert await store.own(OTHER_URL, holder="a", ttl=15) is None
    assert await store.own(URL, holder="b", ttl=15) == OTHER_URL


async def test_of_many_addresses_at_once_one_has_the_store(store: Store) -> None:
    answers: list[str | None] = []

    async def own(number: int) -> None:
        answers.append(await store.own(f"{URL}/{number}", holder=str(number), ttl=15))

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(own, number)
    assert answers.count(None) == 1
    assert len(set(answers)) == 2


async def test_holders_of_a_name_are_counted(store: Store, clock: Clock) -> None:
    assert await store.hold("budget é\n1", holder="a", ttl=15) == 1
    assert await store.hold("budget é\n1", holder="a", ttl=15) == 1
    assert await store.hold("budget é\n1", holder="b", ttl=5) == 2
    assert await store.hold("budget", holder="b", ttl=5) == 1
    assert await store.hold("", holder="b", ttl=5) == 1
    clock.now += 4.9
    assert await store.hold("budget é\n1", holder="c", ttl=5) == 3
    clock.now += 0.1
    assert await store.hold("budget é\n1", holder="c", ttl=15) == 2
    clock.now += 10
    assert await store.hold("budget é\n1", holder="c", ttl=15) == 1


async def test_renewal_never_shortens_a_hold(store: Store, clock: Clock) -> None:
    await store.hold("x", holder="a", ttl=30)
    await store.hold("x", holder="a", ttl=5)
    clock.now += 29
    assert await store.hold("x", holder="b", ttl=1) == 2
    await store.hold("x", holder="a", ttl=5)
    clock.now += 4.9
    assert await store.hold("x", holder="b", ttl=1) == 2


async def test_name_has_no_more_holders_than_its_limit(store: Store, clock: Clock) -> None:
    assert await store.hold("x", holder="a", ttl=30, limit=2) == 1
    assert await store.hold("x", holder="b", ttl=10, limit=2) == 2
    assert await store.hold("x", holder="c", ttl=30, limit=2) == 0
    assert await store.hold("x", holder="a", ttl=30, limit=2) == 2
    assert await store.hold("y", holder="c", ttl=30, limit=1) == 1
    clock.now += 10
    assert await store.hold("x", holder="c", ttl=30, limit=2) == 2


async def test_holder_that_is_refused_has_the_name_no_more(store: Store) -> None:
    for count, holder in enumerate("abc", start=1):
        assert await store.hold("x", holder=holder, ttl=30) == count
    assert await store.hold("x", holder="a", ttl=30, limit=2) == 0
    assert await store.hold("x", holder="b", ttl=30, limit=2) == 2
    assert await store.hold("x", holder="c", ttl=30, limit=1) == 0
    assert await store.hold("x", holder="b", ttl=30, limit=1) == 1


async def test_of_many_that_hold_a_name_at_once_its_limit_has_it(store: Store) -> None:
    answers: list[int] = []

    async def hold(number: int) -> None:
        answers.append(await store.hold("x", holder=str(number), ttl=15, limit=3))

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(hold, number)
    assert sorted(answers) == [0] * 13 + [1, 2, 3]


async def test_holder_that_lets_go_has_neither_address_nor_name(store: Store) -> None:
    await store.own(URL, holder="a", ttl=15)
    await store.hold("x", holder="a", ttl=15)
    await store.hold("y", holder="a", ttl=15)
    await store.hold("x", holder="b", ttl=15)
    await store.disown("a")
    assert await store.own(OTHER_URL, holder="b", ttl=15) is None
    assert await store.hold("x", holder="c", ttl=15) == 2
    assert await store.hold("y", holder="c", ttl=15) == 1


async def test_name_that_is_held_has_nothing_to_do_with_the_address(store: Store) -> None:
    assert await store.hold(URL, holder="a", ttl=15) == 1
    assert await store.own(OTHER_URL, holder="b", ttl=15) is None
    assert await store.hold(OTHER_URL, holder="a", ttl=15) == 1
    assert await store.own(OTHER_URL, holder="c", ttl=15) is None
    assert await store.hold(OTHER_URL, holder="c", ttl=15, limit=2) == 2


# Dead letters


async def test_settlement_tells_the_ids_of_its_letters_in_their_order(store: Store) -> None:
    await put(store, 1, 2)
    claim = await take(store)
    assert await store.settle(claim, Settlement()) == ()
    ids = await store.settle(claim, buried(claim.deliveries[0], [letter("a"), letter("b")]))
    assert ids is not None
    assert [dead.id for dead in await store.dead_letters()] == list(ids)
    last = await store.end_claim(claim, buried(claim.deliveries[1], [letter("c")]))
    assert last is not None
    found = [await store.get_dead_letter(id_) for id_ in (*ids, *last)]
    assert [dead and dead.reason for dead in found] == ["a", "b", "c"]
    assert await store.replay(last) == 1
    claim = await take(store)
    assert await store.end_claim(claim, handled(claim.deliveries)) == ()


async def test_settlements_at_once_tell_each_its_own_letters(store: Store) -> None:
    await put(store, *range(16))
    claim = await take(store)
    told: dict[str, tuple[str, ...] | None] = {}

    async def bury(number: int) -> None:
        letters = [letter(f"{number} {each}") for each in range(number % 3)]
        ids = await store.settle(claim, buried(claim.deliveries[number], letters))
        told.update({str(number): ids})

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(bury, number)
    for name, ids in told.items():
        assert ids is not None
        found = [await store.get_dead_letter(id_) for id_ in ids]
        reasons = [f"{name} {each}" for each in range(int(name) % 3)]
        assert [dead and dead.reason for dead in found] == reasons


async def test_buried_delivery_leaves_its_letters(store: Store) -> None:
    await put(store, 1, 2)
    claim = await take(store)
    letters = [
        letter("first", body=b"\x00", progress="p3"),
        letter("second", buried_at=NOON + MICROSECOND),
    ]
    assert await store.settle(claim, buried(claim.deliveries[0], letters)) is not None
    assert await store.settle(claim, buried(claim.deliveries[1], [])) is not None
    assert (await store.counts()).waiting == 0
    first, second = await store.dead_letters()
    assert (first.reason, first.body, first.progress) == ("first", b"\x00", "p3")
    assert first.received_at == NOON
    assert (second.reason, second.buried_at) == ("second", NOON + MICROSECOND)


async def test_dead_letters_are_listed_in_pages(store: Store) -> None:
    for number in range(5):
        await store.put(delivery(number), reason=f"reason {number}")
    first = await store.dead_letters(limit=2)
    second = await store.dead_letters(limit=2, after=first[-1].id)
    third = await store.dead_letters(limit=2, after=second[-1].id)
    assert [dead.reason for dead in (*first, *second, *third)] == [f"reason {n}" for n in range(5)]
    assert await store.dead_letters(after=third[-1].id) == []
    assert await store.dead_letters(after="no id of a store") == []


@pytest.mark.parametrize("form", ["0{}", " {}", "{}.0", "{}e0", "-{}", "{}\n", "{}\udcff", "{}\0"])
async def test_id_that_only_resembles_a_letters_is_unknown(store: Store, form: str) -> None:
    await store.put(delivery(1), reason="odd")
    (dead,) = await store.dead_letters()
    resembling = form.format(dead.id)
    assert await store.get_dead_letter(resembling) is None
    assert await store.discard([resembling]) == await store.replay([resembling]) == 0
    assert await store.dead_letters(after=resembling) == []
    assert await store.dead_letters() == [dead]


async def test_pages_go_on_behind_a_letter_that_is_gone(store: Store) -> None:
    for number in range(3):
        await store.put(delivery(number), reason=f"reason {number}")
    first, second, _ = await store.dead_letters()
    await store.replay([first.id, second.id])
    assert [dead.reason for dead in await store.dead_letters(after=second.id)] == ["reason 2"]


async def test_replayed_letter_is_due_again_from_where_it_stopped(store: Store) -> None:
    await confirm(store)
    await put(store, 1)
    claim = await take(store)
    (failed,) = claim.deliveries
    await store.settle(claim, buried(failed, [letter(body=failed.body, progress="p2")]))
    await store.end_claim(claim)
    await store.retire("r1")
    (dead,) = await store.dead_letters()
    assert await store.replay([dead.id, dead.id, "", "no id of a store", "999"]) == 1
    assert await store.dead_letters() == []
    assert (await store.counts()).waiting == 1
    claim = await take(store)
    (again,) = claim.deliveries
    assert (again.route, again.body, again.received_at) == ("r1", failed.body, NOON)
    assert (again.attempts, again.progress, again.digest) == (0, "p2", bytes(32))
    assert await store.end_claim(claim, handled(claim.deliveries)) is not None


async def test_letters_of_several_routes_are_replayed_at_once(store: Store) -> None:
    for number in range(4):
        await store.put(delivery(number, route=f"r{number % 2}"), reason="odd")
    ids = [dead.id for dead in await store.dead_letters()]
    assert await store.replay(ids) == 4
    claims = [await take(store), await take(store)]
    assert sorted(numbers(claim) for claim in claims) == [[0, 2], [1, 3]]


async def test_letter_is_found_by_its_id(store: Store) -> None:
    await bury_at_once(store, range(2))
    for known in await store.dead_letters():
        assert await store.get_dead_letter(known.id) == known
    for unknown in ("", "0", "x", "99999", "1-1", "\u0664"):
        assert await store.get_dead_letter(unknown) is None


async def test_discarded_letters_are_gone_for_good(store: Store) -> None:
    await bury_at_once(store, range(3))
    first, second, third = [letter.id for letter in await store.dead_letters()]
    assert await store.discard([first, third, "x", first]) == 2
    assert [letter.id for letter in await store.dead_letters()] == [second]
    assert await store.replay([first, third]) == 0
    assert await store.discard([]) == 0
    assert await store.counts() == Counts(waiting=0, dead_letters=1)


@pytest.mark.parametrize("act", ["replay", "discard"])
async def test_text_alone_is_no_list_of_ids(store: Store, act: str) -> None:
    await bury_at_once(store, range(2))
    first, second = await store.dead_letters()
    with pytest.raises(TypeError, match="also when there is one"):
        await getattr(store, act)(first.id + second.id)
    assert await store.dead_letters() == [first, second]


async def test_counts_tell_what_waits_and_since_when(store: Store) -> None:
    assert await store.counts() == Counts(waiting=0, dead_letters=0, oldest_at=None)
    await confirm(store, "r1")
    await confirm(store, "r2")
    for minute in (3, 1, 2):
        at = NOON + timedelta(minutes=minute)
        await store.put(delivery(minute, route=f"r{1 + minute % 2}", at=at))
    await store.put(delivery(9), reason="odd")
    # first in line are the one of minute 3, which came before the one of minute 1, and minute 2
    assert await store.counts() == Counts(
        waiting=3, dead_letters=1, oldest_at=NOON + timedelta(minutes=2)
    )


async def test_leased_delivery_counts_as_the_oldest(store: Store) -> None:
    await put(store, 1)
    claim = await take(store)
    assert (await store.counts()).oldest_at == NOON
    await store.end_claim(claim, handled(claim.deliveries))
    assert (await store.counts()).oldest_at is None


async def test_held_delivery_is_counted_but_not_in_line(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    await store.put(delivery(), candidate="secret")
    assert await store.counts() == Counts(waiting=1, dead_letters=0, oldest_at=None)


async def test_trace_of_a_delivery_comes_with_it(store: Store) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await store.put(replace(delivery(1), trace=trace))
    await store.put(delivery(2))
    claim = await take(store)
    assert [each.trace for each in claim.deliveries] == [trace, ""]
    await store.end_claim(claim)
    assert [each.trace for each in (await take(store)).deliveries] == [trace, ""]


# Continuity


def state(scope: str = "/12", *, version: int = 0, text: str = "{}") -> State:
    return State(scope=scope, version=version, text=text)


async def put_state(store: Store, *wanted: int, scope: str = "/12", route: str = "r1") -> None:
    """Make a state, with these deliveries."""
    new = [delivery(number, route=route) for number in wanted]
    assert await store.put_state(state(scope), deliveries=new)


async def peek_all(store: Store, *, route: str = "r1", limit: int = 100) -> list[Delivery]:
    """Return all that waits of a route, page by page."""
    found: list[Delivery] = []
    while page := await store.peek(route, after=found[-1].id if found else "", limit=limit):
        assert len(page) <= limit
        found += page
    return found


async def test_unknown_scope_has_no_state(store: Store) -> None:
    await put_state(store, scope="acme/12")
    for scope in ("", "/12", "acme", "acme/1", "acme/123", "ACME/12"):
        assert await store.get_state(scope) is None


async def test_version_of_a_state_goes_up_with_each_put(store: Store) -> None:
    assert await store.put_state(state(text="one"))
    assert await store.get_state("/12") == state(version=1, text="one")
    assert await store.put_state(state(version=1, text="two"))
    assert await store.put_state(state(version=2, text="two"))
    assert await store.get_state("/12") == state(version=3, text="two")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param('{"sync":"a\\n\\u0000", "é": "\U0001f600"}\n', id="any characters"),
        pytest.param("a" * (MAX_STATE_BYTES - 2) + "é", id="largest"),
    ],
)
async def test_text_of_a_state_comes_back_as_it_was(store: Store, text: str) -> None:
    assert await store.put_state(state("acmé 1/12", text=text))
    assert await store.get_state("acmé 1/12") == state("acmé 1/12", version=1, text=text)
    assert await store.put_state(state("acmé 1/12", version=1, text=text))
    assert await store.list_states() == [state("acmé 1/12", version=2, text=text)]


async def test_states_are_listed_by_their_scopes(store: Store) -> None:
    assert await store.list_states() == []
    scopes = ["b/2", "é/1", "/9", "B/1", "a-b/1", "a/2", "\U0001f600/1", "b/10", "\uffee/1", "ab/1"]
    for scope in scopes:
        assert await store.put_state(state(scope, text=f"of {scope}"))
    listed = [state(scope, version=1, text=f"of {scope}") for scope in sorted(scopes)]
    assert await store.list_states() == listed


@pytest.mark.parametrize("version", [0, 1, 3])
async def test_state_of_another_version_is_not_replaced(store: Store, version: int) -> None:
    await put_state(store)
    assert await store.put_state(state(version=1, text="kept"))
    changed = state(version=version, text="other")
    assert not await store.put_state(changed, deliveries=[delivery(1)])
    assert await store.get_state("/12") == state(version=2, text="kept")
    assert await store.claim(limit=10, lease=30) is None
    assert (await store.counts()).waiting == 0


async def test_state_that_is_not_there_has_version_0_only(store: Store) -> None:
    assert not await store.put_state(state(version=1), deliveries=[delivery(1)])
    assert await store.list_states() == []
    assert (await store.counts()).waiting == 0


@pytest.mark.parametrize("version", [0, 1])
async def test_of_many_puts_of_a_state_at_once_one_succeeds(store: Store, version: int) -> None:
    taken: list[int] = []

    async def change(number: int) -> None:
        new = state(version=version, text=str(number))
        if await store.put_state(new, deliveries=[delivery(number), delivery(number + 100)]):
            taken.append(number)

    if version:
        await put_state(store)
    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(change, number)
    (number,) = taken
    assert await store.get_state("/12") == state(version=version + 1, text=str(number))
    assert numbers(await take(store)) == [number, number + 100]


async def test_deliveries_of_a_state_are_due_at_once_behind_what_waits(
    store: Store, clock: Clock
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    india = timezone(timedelta(hours=5, minutes=30))
    await put(store, 1)
    clock.now += 1
    told = {"attempts": 2, "progress": '{"é":1}', "trace": trace}
    whole = replace(delivery(3, at=NOON.astimezone(india)), crashes=1, **told)
    await store.put_state(state(), deliveries=[whole, delivery(2)])
    assert (await store.counts()).waiting == 3
    first, second, third = (await take(store)).deliveries
    assert [number_of(each) for each in (first, second, third)] == [1, 3, 2]
    assert second == replace(alone(3, **told), id=second.id)
    assert third == replace(alone(2), id=third.id)


async def test_deliveries_of_a_state_go_to_their_routes(store: Store) -> None:
    new = [delivery(number, route=f"r{number % 3}") for number in range(7)]
    await store.put_state(state(), deliveries=new)
    claimed = {claim.route: numbers(claim) for claim in [await take(store) for _ in range(3)]}
    assert claimed == {"r0": [0, 3, 6], "r1": [1, 4], "r2": [2, 5]}


async def test_deliveries_of_a_state_are_due_after_the_claim_that_holds_their_route(
    store: Store,
) -> None:
    await put(store, 1)
    claim = await take(store)
    await put_state(store, 2)
    assert await store.claim(limit=10, lease=30) is None
    more = await claim_more(store, claim)
    assert [number_of(each) for each in more] == [2]
    assert await store.put_state(state(version=1), deliveries=[delivery(3)])
    await store.end_claim(claim, handled([*claim.deliveries, *more]))
    assert numbers(await take(store)) == [3]


async def test_full_inbox_takes_the_deliveries_of_a_state(small_store: Store) -> None:
    await put(small_store, 1, 2)
    await put_state(small_store, 3, 4)
    assert (await small_store.counts()).waiting == 4
    assert not await takes(small_store, 5)
    claim = await take(small_store)
    assert numbers(claim) == [1, 2, 3, 4]
    await small_store.end_claim(claim, handled(claim.deliveries[:3]))
    await put(small_store, 6)
    assert not await takes(small_store, 7)


async def test_deliveries_of_a_state_are_neither_duplicates_nor_known(store: Store) -> None:
    await put(store, 1)
    await put_state(store, 1, 1, 2)
    await put(store, 2)
    assert numbers(await take(store)) == [1, 1, 1, 2, 2]


async def test_hundreds_of_deliveries_are_put_with_a_state(store: Store) -> None:
    wanted = range(700)
    await put_state(store, *wanted)
    assert (await store.counts()).waiting == 700
    claimed = []
    while claim := await store.claim(limit=100, lease=30):
        claimed += numbers(claim)
        await store.end_claim(claim, handled(claim.deliveries))
    assert claimed == [*wanted]


async def test_state_is_dropped_in_the_version_that_is_named(store: Store) -> None:
    assert not await store.drop_state("/12", 0)
    await put_state(store)
    await put_state(store, scope="/13")
    assert await store.put_state(state(version=1))
    for version in (0, 1, 3):
        assert not await store.drop_state("/12", version)
    assert await store.drop_state("/12", 2)
    assert not await store.drop_state("/12", 2)
    assert await store.get_state("/12") is None
    assert await store.list_states() == [state("/13", version=1)]
    assert not await store.put_state(state(version=2))
    assert await store.put_state(state(text="anew"))
    assert await store.get_state("/12") == state(version=1, text="anew")


async def test_state_outlives_its_routes_and_its_deliveries(
    store: Store, let_pass: Callable[[timedelta], None]
) -> None:
    await confirm(store)
    await put_state(store, 1)
    claim = await take(store)
    await store.end_claim(claim, handled(claim.deliveries))
    await store.retire("r1")
    let_pass(10 * RETIRED_KNOWN_FOR)
    assert await store.get_route("r1") is None
    await put(store, 2)  # and what is old is forgotten
    assert await store.get_state("/12") == state(version=1)


async def test_states_are_listed_by_account(store: Store) -> None:
    for scope in ("/12", "acme/12", "acme/budget", "acmé/12", "ACME/12", "acme 1/12", "a_me/12"):
        assert await store.put_state(state(scope))
    assert [each.scope for each in await store.list_states("acme")] == ["acme/12", "acme/budget"]
    assert await store.list_states("acmé") == [state("acmé/12", version=1)]
    assert await store.list_states("a_me") == [state("a_me/12", version=1)]
    assert await store.list_states("a%") == []
    assert await store.list_states("") == [state("/12", version=1)]
    assert len(await store.list_states()) == 7


# Writes

KEY, OTHER_KEY = bytes(range(16)), bytes(16)


def write(id_: str = "w1", *resources: str, account: str = "", text: str = "{}") -> Write:
    return Write(id=id_, account=account, resources=resources or ("12",), text=text)


async def test_write_is_listed_by_each_of_its_resources(store: Store) -> None:
    both, one = write("w1", "12", "13"), write("w2", "13", text='{"é": "\\u0000"}\n')
    await store.put_write(both)
    await store.put_write(one)
    assert await store.list_writes(["12"]) == [both]
    assert await store.list_writes(["13"]) == [both, one]
    assert await store.list_writes({"11", "12", "13"}) == [both, one]
    assert await store.list_writes(["1", "123", ""]) == []
    assert await store.list_writes([]) == []


async def test_writes_are_listed_for_all_accounts(store: Store) -> None:
    writes = [write(f"of {account}", account=account) for account in ("", "acmé 1", "acme", "ACME")]
    for each in writes:
        await store.put_write(each)
    assert await store.list_writes(["12"]) == writes


async def test_write_that_is_put_again_is_replaced_in_its_place(store: Store) -> None:
    await store.put_write(write("w1", "12", "13", text="one"))
    await store.put_write(write("w2", text="two"))
    again = write("w1", "12", "14", text="changed")
    await store.put_write(again)
    assert await store.list_writes(["12"]) == [again, write("w2", text="two")]
    assert await store.list_writes(["13"]) == []
    assert await store.list_writes(["14"]) == [again]


async def test_writes_of_many_resources_are_found_among_many(store: Store) -> None:
    for number in range(100):
        await store.put_write(write(f"w{number}", f"{number}", f"{number + 1}"))
    wanted = [f"{number}" for number in range(0, 2000, 3)]
    found = await store.list_writes(wanted)
    assert [each.id for each in found] == [f"w{number}" for number in range(100) if number % 3 != 1]


async def test_part_of_a_write_caused_one_event(store: Store) -> None:
    await store.put_write(write())
    assert await store.take_write("w1", "changed é", KEY)
    assert await store.take_write("w1", "changed é", KEY)
    assert not await store.take_write("w1", "changed é", OTHER_KEY)
    assert await store.take_write("w1", "changed", OTHER_KEY)
    assert not await store.take_write("w1", "changed", KEY)


async def test_events_of_an_unknown_write_are_not_its(store: Store) -> None:
    await store.put_write(write())
    assert not await store.take_write("w2", "changed", KEY)
    await store.put_write(write("w2"))
    assert await store.take_write("w2", "changed", OTHER_KEY)


async def test_what_was_taken_of_a_write_stays_taken_when_it_is_put_again(store: Store) -> None:
    await store.put_write(write())
    assert await store.take_write("w1", "changed", KEY)
    await store.put_write(write("w1", "13", text="result"))
    assert not await store.take_write("w1", "changed", OTHER_KEY)
    assert await store.take_write("w1", "changed", KEY)


async def test_of_many_events_at_once_one_is_that_of_the_write(store: Store) -> None:
    await store.put_write(write())
    taken: list[int] = []

    async def take_as(number: int) -> None:
        if await store.take_write("w1", "changed", bytes([number] * 16)):
            taken.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(16):
            tasks.start_soon(take_as, number)
    assert len(taken) == 1
    assert await store.take_write("w1", "changed", bytes(taken * 16))


async def test_write_is_forgotten_48_hours_after_it_was_first_put(
    store: Store, let_pass: Callable[[timedelta], None]
) -> None:
    await store.put_write(write("w1", text="one"))
    await store.take_write("w1", "changed", KEY)
    let_pass(timedelta(hours=1))
    await store.put_write(write("w1", text="changed"))
    await store.put_write(write("w2"))
    let_pass(DUPLICATES_KNOWN_FOR - timedelta(hours=1, seconds=10))
    assert [each.id for each in await store.list_writes(["12"])] == ["w1", "w2"]
    assert await store.take_write("w1", "changed", KEY)
    let_pass(timedelta(seconds=20))
    assert await store.list_writes(["12"]) == [write("w2")]
    assert not await store.take_write("w1", "changed", KEY)
    await store.put_write(write("w1", text="anew"))
    assert await store.take_write("w1", "changed", OTHER_KEY)
    assert [each.id for each in await store.list_writes(["12"])] == ["w2", "w1"]


async def test_claim_tells_whether_there_are_writes(store: Store) -> None:
    await confirm(store)
    await put(store, 1)
    claim = await take(store)
    assert not claim.has_writes
    assert await store.claim_more(claim, limit=1) == replace(claim, deliveries=())
    await store.put_write(write(account="acme"))
    more = await store.claim_more(claim, limit=1)
    assert more is not None
    assert more.has_writes
    for id_ in ("r2", "unknown"):
        await put(store, len(id_), route=id_)
        assert (await take(store)).has_writes


async def test_more_of_a_claim_is_the_claim_with_other_deliveries(store: Store) -> None:
    await confirm(store)
    await put(store, 1)
    await store.end_claim(await take(store))
    claim = await take(store)
    assert claim.previous
    assert await store.claim_more(claim, limit=1) == replace(claim, deliveries=())
    await put(store, 2)
    more = await store.claim_more(claim, limit=1)
    assert more is not None
    assert more == replace(claim, deliveries=more.deliveries)
    assert numbers(more) == [2]


async def test_every_worker_judges_alike_what_the_program_caused(store: Store) -> None:
    now = datetime.now(UTC)
    user = {"gid": "8", "resource_type": "user"}
    data = {"completed": True}

    async def judge(event: Event) -> bool:
        judging = Echoes(store, lambda: now, ping_pong=None).of_claim()
        judging.add([replace(delivery(), body=event.raw)])
        assert await judging.judge(event, time.monotonic()) == 0.0
        return event.echo

    async with Writes(store, lambda: (now, now)).note(
        user="8", method="PUT", path="/tasks/5", data=data
    ):
        pass
    events = [
        make_event(field="completed", gid="5", user=user, created_at=now + each * MICROSECOND)
        for each in (0, 1000)
    ]
    assert [await judge(each) for each in events] == [True, False]
    assert [await judge(each) for each in reversed(events)] == [False, True]


# Forgetting an account


async def fill_account(store: Store, account: str) -> None:
    """Leave all that may be left of an account: its one route, which is retired, has its name."""
    await confirm(store, account, account=account, resource="12")
    number = sum(account.encode())
    await put(store, number, route=account)
    claim = await take(store)
    buried_ = replace(
        buried(claim.deliveries[0], [letter(account, route=account)]),
        scope=f"{account}/12",
        events=account.encode(),
    )
    await store.end_claim(claim, buried_)
    await store.put_state(state(f"{account}/12"))
    await store.put_state(state(f"{account}/budget"))
    await store.put_write(write(f"of {account}", account=account))
    await store.take_write(f"of {account}", "changed", KEY)
    await store.retire(account)


async def kept_of(store: Store, account: str) -> list[bool]:
    """Return of each kind whether something is kept of an account."""
    return [
        await store.get_route(account) is not None,
        account in [dead.route for dead in await store.dead_letters()],
        bool(await store.list_states(account)),
        bool(await store.remembered(f"{account}/12")),
        account in [each.account for each in await store.list_writes(["12"])],
        await store.take_write(f"of {account}", "changed", KEY),
    ]


async def test_all_that_is_kept_of_an_account_is_forgotten_and_nothing_else(
    store: Store,
) -> None:
    accounts = ["acmé", "acm", "acmé 1", "ACMÉ", "a_m", "a%"]
    for account in accounts:
        await fill_account(store, account)
    await store.put(delivery(1), reason="of a route that is not known")
    await put_state(store)
    for gone, account in enumerate(accounts):
        assert await store.forget_account(account)
        for number, each in enumerate(accounts):
            assert await kept_of(store, each) == [number > gone] * 6
    assert len(await store.dead_letters()) == 1
    assert await store.list_states() == [state(version=1)]
    assert await store.forget_account("acmé")
    assert await store.forget_account("nobody")


async def test_account_that_was_forgotten_may_come_again(
    store: Store, let_pass: Callable[[timedelta], None]
) -> None:
    await fill_account(store, "acme")
    assert await store.forget_account("acme")
    let_pass(DUPLICATES_KNOWN_FOR + timedelta(hours=1))
    assert await store.remembered("acme/12") == b""
    await confirm(store, "acme", account="acme")
    await store.put_write(write("of acme", account="acme"))
    assert await store.take_write("of acme", "changed", OTHER_KEY)
    await put(store, 1, route="acme")
    claim = await take(store)
    assert claim.has_writes
    await store.end_claim(claim, replace(handled(claim.deliveries), scope="acme/12", events=b"new"))
    assert await store.remembered("acme/12") == b"new"


@pytest.mark.parametrize("state_", ["reserved", "confirmed", "leaving"])
async def test_account_with_a_route_is_not_forgotten(store: Store, state_: str) -> None:
    await fill_account(store, "acme")
    if state_ == "reserved":
        await store.reserve(route(account="acme"), ttl=60)
    else:
        await confirm(store, account="acme")
    if state_ == "leaving":
        await store.leave("r1")
    assert not await store.forget_account("acme")
    assert await kept_of(store, "acme") == [True] * 6
    await store.drop("r1")
    await store.retire("r1")
    assert await store.forget_account("acme")


async def test_account_whose_reserved_route_expired_is_forgotten(
    store: Store, clock: Clock
) -> None:
    await store.reserve(route(account="acme"), ttl=60)
    assert not await store.forget_account("acme")
    clock.now += 60
    assert await store.forget_account("acme")


async def test_account_with_deliveries_is_not_forgotten(store: Store, clock: Clock) -> None:
    await fill_account(store, "acme")
    (dead,) = await store.dead_letters()
    await store.replay([dead.id])
    kept = [True, False, True, True, True, True]
    assert not await store.forget_account("acme")
    claim = await take(store)
    assert not await store.forget_account("acme")
    await store.end_claim(claim, tried_again(claim.deliveries[0], delay=5.0))
    assert not await store.forget_account("acme")
    assert await kept_of(store, "acme") == kept
    clock.now += 5
    claim = await take(store)
    assert await store.settle(claim, handled(claim.deliveries)) == ()
    assert await store.forget_account("acme")
    await store.end_claim(claim)
    assert await kept_of(store, "acme") == [False] * 6


async def test_account_without_a_name_is_not_forgotten(store: Store) -> None:
    with pytest.raises(ValueError, match="without a name"):
        await store.forget_account("")


# Peeking


async def test_route_without_deliveries_shows_none(store: Store) -> None:
    await confirm(store)
    await put(store, 1, route="r2")
    await store.put(delivery(2), reason="odd")
    for unknown in ("r1", "r", "r3", ""):
        assert await store.peek(unknown) == []
    assert [number_of(each) for each in await store.peek("r2")] == [1]


async def test_peeking_shows_what_a_claim_would_give_and_takes_nothing(store: Store) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert await store.put(replace(delivery(1), trace=trace))
    await put(store, 2)
    await put_state(store, 3)
    shown = await store.peek("r1")
    assert await store.peek("r1") == shown
    assert (await store.counts()).waiting == 3
    assert (await take(store)).deliveries == tuple(shown)


async def test_peeking_shows_what_is_due_due_later_or_leased_as_it_came(
    store: Store, clock: Clock
) -> None:
    await put(store, 1, 2, 3, 4)
    claim = await take(store, limit=3)
    first, second, third = claim.deliveries
    await store.settle(claim, tried_again(first, delay=600.0, attempts=1))
    await store.settle(claim, kept(second, attempts=2, progress="p"))
    await store.settle(claim, handled([third]))
    clock.now += 1
    await put(store, 5)
    await put_state(store, 6)
    await store.settle(claim, Settlement(retries=(Retry(delivery=alone(7), delay=0.0),)))
    shown = await store.peek("r1")
    assert [number_of(each) for each in shown] == [1, 2, 4, 5, 6, 7]
    assert shown[:2] == [replace(first, attempts=1), replace(second, attempts=2, progress="p")]
    await store.end_claim(claim)
    assert await store.peek("r1") == shown


async def test_peeking_shows_what_was_replayed_behind_the_rest(store: Store) -> None:
    assert await store.put(delivery(1), reason="odd")
    await put(store, 2)
    (dead,) = await store.dead_letters()
    await store.replay([dead.id])
    assert [number_of(each) for each in await store.peek("r1")] == [2, 1]


async def test_peeking_does_not_show_what_is_held_for_a_candidate(store: Store) -> None:
    await store.reserve(route(), ttl=60)
    await store.add_candidate("r1", "secret")
    assert await store.put(delivery(1), candidate="secret")
    assert await store.put(delivery(2))
    assert [number_of(each) for each in await store.peek("r1")] == [2]
    await store.confirm("r1", gid="77", secret="secret")
    assert {number_of(each) for each in await store.peek("r1")} == {1, 2}


async def test_peeking_shows_what_crashed_among_the_rest(store: Store, clock: Clock) -> None:
    await put(store, 1, 2, 3)
    await take(store, limit=2)
    clock.now += 30
    await take(store)
    await put(store, 4)
    shown = await store.peek("r1")
    assert [(number_of(each), each.crashes) for each in shown] == [(1, 1), (2, 1), (3, 0), (4, 0)]


@pytest.mark.parametrize("limit", [1, 7, 100, 1000])
async def test_what_waits_is_shown_in_pages(store: Store, limit: int) -> None:
    for number in range(120):
        await put(store, number, route=f"r{1 + number % 2}")
    shown = await peek_all(store, limit=limit)
    assert [number_of(each) for each in shown] == [*range(0, 120, 2)]


async def test_pages_go_on_behind_a_delivery_that_is_gone_and_miss_none_that_moves(
    store: Store, clock: Clock
) -> None:
    await put(store, *range(8))
    page = await store.peek("r1", limit=4)
    claim = await take(store, limit=6)
    await store.settle(claim, handled(claim.deliveries[2:4]))
    for put_off in (0, 5):
        await store.settle(claim, tried_again(claim.deliveries[put_off], delay=60.0))
    clock.now += 1
    await put(store, 8)
    rest = await store.peek("r1", after=page[-1].id)
    assert [number_of(each) for each in rest] == [4, 5, 6, 7, 8]


async def test_bodies_of_a_page_are_bounded_and_one_is_always_there(store: Store) -> None:
    sizes = [MAX_CLAIM_BYTES // 2, MAX_CLAIM_BYTES // 2, 1, MAX_CLAIM_BYTES + 1, 1]
    for number, size in enumerate(sizes):
        assert await store.put(replace(delivery(number), body=bytes(size)))
    shown = []
    after = ""
    while page := await store.peek("r1", after=after):
        shown.append([len(each.body) for each in page])
        after = page[-1].id
    assert shown == [sizes[:2], sizes[2:3], sizes[3:4], sizes[4:]]
