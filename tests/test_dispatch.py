"""Order and turns: of the lanes by themselves, and of events through an inbox."""

import asyncio
import contextvars
import time
from collections import Counter
from typing import Any

import anyio
import pytest
from conftest import eventually, until
from support.inboxes import confirm, draining, event, is_empty, put

from asana_webhooks import Event, MemoryStore, _claims, _dispatch, _workers
from asana_webhooks._dispatch import Dispatcher, Line
from asana_webhooks.models import Claim


class Thing:
    def __init__(self, lane: str, name: str = "") -> None:
        self.lane = lane
        self.name = name or lane


def line_of(account: str, *lanes: str, later: tuple[str, ...] = ()) -> Line[Thing]:
    """Return a line with a thing for each lane; ``later`` is added when nothing is ready."""
    waiting = list(later)

    def refill() -> bool:
        if waiting:
            line.put(Thing(waiting.pop(0)))
            return True
        return False

    line: Line[Thing] = Line(account, refill)
    for number, lane in enumerate(lanes):
        line.put(Thing(lane, f"{account}{lane}{number}"))
    return line


def names(*things: Thing | None) -> list[str]:
    return [thing.name if thing else "" for thing in things]


# Lanes


def test_first_of_each_lane_is_ready_and_the_others_follow_it() -> None:
    line = line_of("", "x", "x", "y", "x")
    first, other = line.take(), line.take()
    assert names(first, other, line.take()) == ["x0", "y2", ""]
    assert first is not None
    line.done(first)
    second = line.take()
    assert names(second, line.take()) == ["x1", ""]
    assert second is not None
    line.done(second)
    assert names(line.take()) == ["x3"]


def test_item_that_was_put_back_keeps_its_place_in_its_lane() -> None:
    line = line_of("", "x", "x", "y")
    first = line.take()
    assert first is not None
    line.put_back(first)
    assert names(line.take(), line.take(), line.take()) == ["y2", "x0", ""]
    line.done(first)
    assert names(line.take()) == ["x1"]


def test_lane_that_came_to_its_end_begins_anew() -> None:
    line = line_of("", "x")
    first = line.take()
    assert first is not None
    line.done(first)
    assert line.take() is None
    line.put(Thing("x", "again"))
    assert names(line.take()) == ["again"]


def test_line_takes_more_only_when_none_is_ready() -> None:
    line = line_of("", "x", later=("x", "y"))
    assert names(line.take()) == ["x0"]
    assert names(line.take(), line.take()) == ["y", ""]  # the second x waits for the first


def test_line_takes_no_more_while_many_wait_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "MAX_BEHIND", 2)
    line = line_of("", "x", later=("x", "x", "y"))
    first = line.take()
    assert first is not None
    assert line.take() is None  # y comes after the two that wait
    line.done(first)
    assert names(line.take(), line.take()) == ["x", "y"]


def test_closed_line_gives_nothing() -> None:
    line = line_of("", "x", later=("y",))
    line.close()
    assert line.take() is None


# Turns


def test_accounts_have_their_turn_then_their_lines() -> None:
    dispatcher: Dispatcher[Thing] = Dispatcher()
    for line in (
        line_of("a", "1", "2", "3", "4"),
        line_of("a", "5", "6"),
        line_of("b", "7", "8", "9"),
    ):
        dispatcher.add(line)
        dispatcher.add(line)  # again is no second turn
    taken = [dispatcher.take() for _ in range(10)]
    assert names(*taken) == ["a10", "b70", "a50", "b81", "a21", "b92", "a61", "a32", "a43", ""]


def test_line_that_was_empty_has_its_turn_when_it_is_added_again() -> None:
    dispatcher: Dispatcher[Thing] = Dispatcher()
    line = line_of("a", "x", "x")
    dispatcher.add(line)
    first = dispatcher.take()
    assert dispatcher.take() is None
    assert first is not None
    line.done(first)
    dispatcher.add(line)
    assert names(dispatcher.take(), dispatcher.take()) == ["ax1", ""]


# Through an inbox


class Watching:
    """A handler that takes its time, and notes what is under way for each resource."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.seconds = seconds
        self.under_way: Counter[str] = Counter()
        self.most = 0
        self.overlaps = 0
        self.ended: list[tuple[str, int]] = []

    async def __call__(self, event: Event) -> None:
        gid = event.resource.gid
        self.overlaps += self.under_way[gid]
        self.under_way[gid] += 1
        self.most = max(self.most, self.under_way.total())
        await asyncio.sleep(self.seconds)
        self.under_way[gid] -= 1
        self.ended.append((gid, event.created_at.second))


@pytest.mark.parametrize("packed", ["one delivery", "a delivery each"])
async def test_twelve_tasks_with_handlers_of_a_second_take_little_more_than_one(
    packed: str,
) -> None:
    store, handler = MemoryStore(), Watching(seconds=1.0)
    events = [event(number) for number in range(12)]
    for some in [events] if packed == "one delivery" else [[each] for each in events]:
        await put(store, "a", *some)
    began = time.monotonic()
    async with draining(store, handler, concurrency=12):
        await eventually(lambda: is_empty(store))
    assert time.monotonic() - began < 2.0
    assert handler.most == 12


async def test_events_of_one_resource_neither_overlap_nor_change_places() -> None:
    store, handler = MemoryStore(), Watching()
    for second in range(0, 40, 2):
        await put(
            store, "a", *(event(gid, second=at) for at in (second, second + 1) for gid in "xyz")
        )
    async with draining(store, handler, concurrency=8):
        await eventually(lambda: is_empty(store))
    assert handler.overlaps == 0
    assert handler.most == 3
    for gid in "xyz":
        assert [at for of, at in handler.ended if of == gid] == list(range(40))


async def test_order_of_a_webhook_has_one_event_after_the_other() -> None:
    store, handler = MemoryStore(), Watching()
    await put(store, "a", *(event(gid) for gid in range(9)))
    await put(store, "b", event(9))
    async with draining(store, handler, order="webhook"):
        await eventually(lambda: is_empty(store))
    assert [gid for gid, _ in handler.ended if gid != "9"] == [str(gid) for gid in range(9)]
    assert handler.most == 2


async def test_event_that_is_tried_again_does_not_overlap_with_another_of_its_resource() -> None:
    store, watching, failed = MemoryStore(), Watching(), list[Event]()

    async def fail_once(event: Event) -> None:
        await watching(event)
        if event.created_at.second == 0 and not failed:
            failed.append(event)
            raise RuntimeError

    await put(store, "a", *(event("x", second=second) for second in range(20)))
    async with draining(store, fail_once):
        await eventually(lambda: is_empty(store))
    assert watching.overlaps == 0
    assert sorted(watching.ended) == [("x", 0), *(("x", second) for second in range(20))]


async def test_concurrency_counts_events_of_all_webhooks() -> None:
    store, handler = MemoryStore(), Watching()
    for webhook in "abc":
        await put(store, webhook, *(event(f"{webhook}{number}") for number in range(10)))
    async with draining(store, handler, concurrency=4):
        await eventually(lambda: is_empty(store))
    assert handler.most == 4


async def test_webhook_with_little_to_do_need_not_wait_for_one_with_much() -> None:
    store, handler = MemoryStore(), Watching(seconds=0.02)
    await put(store, "much", *(event(number) for number in range(200)))
    async with draining(store, handler, concurrency=2):
        await until(lambda: handler.ended)
        await put(store, "little", event("other"))
        await until(lambda: ("other", 0) in handler.ended)
    assert len(handler.ended) < 100


async def test_account_with_one_webhook_has_as_many_turns_as_one_with_many() -> None:
    store, handler = MemoryStore(), Watching()
    for number in range(6):
        await confirm(store, f"many-{number}", resource=str(number), account="many")
        await put(store, f"many-{number}", *(event(f"many{number}-{at}") for at in range(100)))
    await confirm(store, "one", resource="9", account="one")
    await put(store, "one", *(event(f"one-{number}") for number in range(90)))
    async with draining(store, handler, concurrency=2):
        await until(lambda: ("one-89", 0) in handler.ended)
    gids = [gid for gid, _ in handler.ended]
    turns = gids[gids.index("one-0") :]
    assert len(turns) < 225
    assert len({gid.partition("-")[0] for gid in turns}) == 7  # and all webhooks have theirs


async def test_event_of_an_account_does_not_wait_for_all_webhooks_of_another() -> None:
    store, handler = MemoryStore(), Watching()
    for number in range(13):
        await confirm(store, f"many-{number}", resource=str(number), account="many")
        for at in range(60):
            await put(store, f"many-{number}", event(f"many{number}-{at}"))
    await confirm(store, "one", resource="99", account="one")
    async with draining(store, handler, concurrency=1, poll=3600.0) as inbox:
        await until(lambda: handler.ended)
        before = len(handler.ended)
        await put(store, "one", event("one"))
        inbox.arrived()
        await until(lambda: ("one", 0) in handler.ended)
    assert len(handler.ended) - before < 100  # of 780


async def test_arrival_is_looked_for_by_few() -> None:
    class Slow(Asked):
        claims = 0

        async def claim(self, **options: Any) -> Claim | None:
            self.claims += 1
            await asyncio.sleep(0.002)
            return await super().claim(**options)

    store, handler = Slow(), Watching(seconds=0.05)
    async with draining(store, handler, poll=3600.0) as inbox:
        await until(lambda: store.claims)
        await anyio.wait_all_tasks_blocked()
        before = store.claims
        await put(store, "a", *map(event, range(9)))
        inbox.arrived()
        await eventually(lambda: is_empty(store))
        await until(lambda: store.claims > before)
        assert store.claims - before < 6
    assert handler.most == 9


async def test_many_webhooks_are_claimed_side_by_side() -> None:
    class Slow(MemoryStore):
        under_way = most = 0

        async def claim(self, **options: Any) -> Claim | None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0.002)
            self.under_way -= 1
            return await super().claim(**options)

    store, handler = Slow(), Watching(seconds=0.0)
    for number in range(100):
        await put(store, f"r{number}", event(number))
    async with draining(store, handler, concurrency=8):
        await eventually(lambda: is_empty(store))
    assert store.most == 8


async def test_what_a_handler_sets_in_its_context_is_not_seen_by_those_beside_it() -> None:
    store, go_on, seen = MemoryStore(), asyncio.Event(), list[str]()
    variable = contextvars.ContextVar("variable", default="unset")

    async def look_and_set(event: Event) -> None:
        seen.append(variable.get())
        variable.set(event.resource.gid)
        await go_on.wait()

    await put(store, "a", event(1), event(2), event(3))
    async with draining(store, look_and_set):
        await until(lambda: len(seen) == 3)
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert seen == ["unset"] * 3


async def test_what_arrives_while_a_handler_of_its_webhook_runs_is_handled_beside_it() -> None:
    store, go_on, gids = MemoryStore(), asyncio.Event(), list[str]()

    async def wait_for_first(event: Event) -> None:
        gids.append(event.resource.gid)
        if event.resource.gid == "1":
            await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, wait_for_first, poll=3600.0) as inbox:
        await until(lambda: gids == ["1"])
        for number in (2, 3):
            await put(store, "a", event(number))
            inbox.arrived()
            await until(lambda: gids[-1] == str(number))  # noqa: B023 - awaited at once
        go_on.set()
        await eventually(lambda: is_empty(store))


async def test_what_came_due_while_a_handler_of_its_webhook_runs_is_found_by_looking() -> None:
    store, go_on, gids = MemoryStore(), asyncio.Event(), list[str]()

    async def wait_or_fail_once(event: Event) -> None:
        gids.append(event.resource.gid)
        if event.resource.gid == "1":
            await go_on.wait()
        elif gids.count("2") == 1:
            raise RuntimeError

    await put(store, "a", event(1), event(2))
    async with draining(store, wait_or_fail_once):
        await until(lambda: gids == ["1", "2", "2"])
        go_on.set()
        await eventually(lambda: is_empty(store))


class Asked(MemoryStore):
    """Counts how much is claimed of a webhook that is worked on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.held = 0
        self.most = 0

    async def claim(self, **options: Any) -> Claim | None:
        claim = await super().claim(**options)
        if claim is not None:
            self.held = len(claim.deliveries)
        return claim

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        self.asked += 1
        more = await super().claim_more(claim, limit=limit)
        self.held += len(more.deliveries) if more else 0
        self.most = max(self.most, self.held)
        return more


async def test_more_is_claimed_of_a_webhook_only_while_it_has_room() -> None:
    store, go_on = Asked(), asyncio.Event()

    async def wait(event: Event) -> None:
        await go_on.wait()

    for second in range(40):
        await put(store, "a", *(event("x", second=second, field=str(at)) for at in range(10)))
    for number in range(500):
        await put(store, "a", event("x", field=str(number)))
    async with draining(store, wait):
        await until(lambda: store.asked)
        await asyncio.sleep(0.1)
        assert store.most <= 2 * _workers.ROOM
        go_on.set()
        await eventually(lambda: is_empty(store))


async def test_arrivals_by_the_hundred_are_asked_for_a_few_times_a_second() -> None:
    store, go_on = Asked(), asyncio.Event()

    async def wait(event: Event) -> None:
        if event.resource.gid == "1":
            await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, wait, poll=3600.0) as inbox:
        for number in range(200):
            await put(store, "b", event(number + 2))
            inbox.arrived()
            await asyncio.sleep(0.001)
        assert store.asked < 40
        go_on.set()
        await eventually(lambda: is_empty(store))


async def test_claims_end_when_so_much_is_held_and_go_on_when_that_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_claims, "MAX_BUFFERED", 1)
    store, go_on, gids = MemoryStore(), asyncio.Event(), list[str]()

    async def wait(event: Event) -> None:
        gids.append(event.resource.gid)
        await go_on.wait()

    await put(store, "a", event(1))
    await put(store, "b", event(2))
    async with draining(store, wait):
        await until(lambda: gids)
        await anyio.wait_all_tasks_blocked()
        assert gids == ["1"]
        go_on.set()
        await until(lambda: gids == ["1", "2"])
