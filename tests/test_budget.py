"""The budget of a token: which calls may be made, and whose turn is next."""

import asyncio
import gc
import random
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import ref

import anyio
import httpx
import pytest
import respx
from conftest import guard, until
from support import asana_api
from support.asana_api import ONE, TOKEN

from asana_webhooks import (
    MemoryStore,
    RateLimitedError,
    WebhooksApi,
    WebhooksClient,
    _asana_transport,
    _budget,
    _sharing,
)
from asana_webhooks._asana_transport import AsanaTransport
from asana_webhooks._background import background_task
from asana_webhooks._budget import Budget, Kind, Priority, Slot, Slots, budget_of
from asana_webhooks._sharing import BudgetShares
from asana_webhooks.errors import StoreError
from asana_webhooks.models import Notice
from asana_webhooks.simulator import AsanaSimulator

mocked = asana_api.asana

MakeClient = Callable[..., WebhooksClient]

READ, WRITE, CREATE = Kind


def nobody() -> None:
    pytest.fail("nothing waits for a minute")


async def taken(budget: Budget, kind: Kind, count: int) -> list[Slot]:
    """Return so many slots of a budget, which has room for them."""
    with anyio.fail_after(5):
        return [
            await budget.enter(kind, Priority.PROGRAM, on_long_wait=nobody) for _ in range(count)
        ]


class Callers:
    """Calls that wait in a budget, by name; ``went`` are those that have a slot, in their order."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.went: list[str] = []
        self.tasks: dict[str, asyncio.Task[Slot]] = {}

    def add(self, name: str, kind: Kind, priority: Priority = Priority.PROGRAM) -> None:
        self.tasks[name] = asyncio.create_task(self._enter(name, kind, priority))

    async def _enter(self, name: str, kind: Kind, priority: Priority) -> Slot:
        slot = await self._budget.enter(kind, priority, on_long_wait=nobody)
        self.went.append(name)
        return slot


# Which calls may be made


def full(slots: Slots, kind: Kind) -> int:
    """Return how many calls of a kind there is room for, and make them."""
    count = 0
    while slots.has_room(kind):
        slots.under_way[kind] += 1
        count += 1
    return count


@pytest.mark.parametrize(
    ("holders", "reads", "creations", "writes_beside"),
    [(0, 50, 10, 5), (1, 50, 10, 5), (2, 25, 5, 2), (4, 12, 2, 1), (15, 3, 1, 0), (99, 1, 1, 0)],
)
def test_slots_are_asanas_limits_divided_among_the_holders(
    holders: int, reads: int, creations: int, writes_beside: int
) -> None:
    slots = Slots()
    slots.share(holders)
    assert full(slots, READ) == reads
    assert full(slots, CREATE) == creations
    assert full(slots, WRITE) == writes_beside
    assert full(slots, CREATE) == 0


def test_writes_may_take_all_slots_of_writes() -> None:
    slots = Slots()
    assert full(slots, WRITE) == 15
    assert full(slots, CREATE) == 0
    assert full(slots, READ) == 50


def test_rate_is_kept_in_any_window_whenever_the_calls_come() -> None:
    slots, made, now = Slots(), list[float](), 0.0
    slots.limit_rate(7)
    chance = random.Random(7)  # noqa: S311 - no secret
    for _ in range(200):
        now = max(now + chance.choice([0.0, 0.1, 9.0, 40.0]), slots.next_at())
        slots.note_call(now)
        made.append(now)
    assert all(later - first >= 60.0 for first, later in zip(made, made[7:], strict=False))
    assert any(later - first < 62.0 for first, later in zip(made, made[7:], strict=False))


def test_least_rate_counts_and_is_divided_among_the_holders() -> None:
    slots = Slots()
    for rate in (None, 60, 6, 600, None):
        slots.limit_rate(rate)
    slots.share(3)
    slots.note_call(1.0)
    assert slots.next_at() < 1.0
    slots.note_call(2.0)
    assert slots.next_at() == pytest.approx(1.0 + _budget.WINDOW)


def test_hold_is_not_shortened_by_another() -> None:
    slots = Slots()
    slots.hold(1.0, 9.0)
    slots.hold(2.0, 3.0)
    assert slots.next_at() == 10.0


def refused_at(slots: Slots, now: float, *, calls: int, refused: int, seconds: float) -> None:
    """Make so many calls at a moment, of which the last are refused for so many seconds."""
    for number in range(calls):
        slots.note_call(now)
        if number >= calls - refused:
            slots.hold(now, seconds)


def allowed(slots: Slots, now: float) -> int:
    """Return how many calls may be made at a moment, and make them."""
    count = 0
    while slots.next_at() <= now and count < 10_000:
        slots.note_call(now)
        count += 1
    return count


def test_rate_is_learnt_from_a_refusal_and_grows_slowly_from_then_on() -> None:
    slots = Slots()
    refused_at(slots, 0.0, calls=180, refused=30, seconds=50.0)
    assert slots.next_at() >= 50.0
    assert allowed(slots, 70.0) == 150 + 2
    assert allowed(slots, 75.0) == 0
    assert allowed(slots, 200.0) == 150 + 3 * 2
    assert allowed(slots, 60.0 * 60) == 150 + 60 * 2
    refused_at(slots, 2 * 60.0 * 60, calls=160, refused=1, seconds=50.0)
    assert allowed(slots, 2 * 60.0 * 60 + 62.0) == 159 + 2


@pytest.mark.parametrize(
    ("calls", "seconds"),
    [pytest.param(400, 1.0, id="too many at once"), pytest.param(30, 50.0, id="others call too")],
)
def test_no_rate_is_learnt_from_another_refusal(calls: int, seconds: float) -> None:
    slots = Slots()
    refused_at(slots, 0.0, calls=calls, refused=1, seconds=seconds)
    assert allowed(slots, 70.0) >= 100
    if calls > 100:
        assert allowed(slots, 140.0) == 10_000


# Whose turn is next


async def test_priority_decides_and_then_who_came_first() -> None:
    budget = Budget()
    slots = await taken(budget, READ, 50)
    callers = Callers(budget)
    for number, priority in enumerate([*reversed(Priority), *Priority]):
        callers.add(f"{priority.name} {number}", READ, priority)
    await anyio.wait_all_tasks_blocked()
    assert budget.state("").waiting == 8
    assert callers.went == []
    for slot in slots[:8]:
        slot.leave()
        await anyio.wait_all_tasks_blocked()
    assert callers.went == [
        *("PROGRAM 3", "PROGRAM 4", "ESTABLISHING 2", "ESTABLISHING 5"),
        *("LOOKING_AFTER 1", "LOOKING_AFTER 6", "STREAMS 0", "STREAMS 7"),
    ]


async def test_calls_of_a_low_priority_have_a_turn_however_many_others_come() -> None:
    budget = Budget()
    slots = await taken(budget, READ, 50)
    callers = Callers(budget)
    callers.add("list", READ, Priority.LOOKING_AFTER)
    callers.add("stream", READ, Priority.STREAMS)
    for number in range(40):
        callers.add(str(number), READ)
    await anyio.wait_all_tasks_blocked()
    for slot in slots[:30]:
        slot.leave()
    await anyio.wait_all_tasks_blocked()
    assert len(callers.went) == 30
    assert {"list", "stream"} <= {*callers.went}
    assert callers.went[:9] == [str(number) for number in range(9)]


async def test_call_that_has_no_room_does_not_hold_up_one_of_another_kind() -> None:
    budget = Budget()
    creations = await taken(budget, CREATE, 10)
    callers = Callers(budget)
    callers.add("creation", CREATE)
    await anyio.wait_all_tasks_blocked()
    for number in range(6):
        callers.add(f"write {number}", WRITE, Priority.STREAMS)
    callers.add("read", READ, Priority.STREAMS)
    await anyio.wait_all_tasks_blocked()
    assert callers.went == [*(f"write {number}" for number in range(5)), "read"]
    creations[0].leave()
    await anyio.wait_all_tasks_blocked()
    assert callers.went[6:] == ["creation"]


async def test_cancelled_callers_leave_no_slot_behind() -> None:
    budget = Budget()
    slots = await taken(budget, WRITE, 15)
    callers = Callers(budget)
    for number in range(40):
        callers.add(str(number), WRITE)
    await anyio.wait_all_tasks_blocked()
    for name in ("0", "17", "39"):
        callers.tasks[name].cancel()  # while it waits
    slots[0].leave()
    callers.tasks["1"].cancel()  # it was given that slot, and does not know yet
    await anyio.wait_all_tasks_blocked()
    assert callers.went == ["2"]
    for task in callers.tasks.values():
        task.cancel()
    for slot in [*slots, callers.tasks["2"].result()]:
        slot.leave()
        slot.leave()  # it is one slot all the same
    await anyio.wait_all_tasks_blocked()
    state = budget.state("")
    assert (state.reads, state.writes, state.waiting) == (0, 0, 0)
    await taken(budget, WRITE, 15)


# What Asana refuses


async def test_refusal_holds_every_call_of_the_token(
    mocked: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asana_transport, "JITTER", 0.0)
    loop, made = asyncio.get_running_loop(), list[float]()

    def answer(request: httpx.Request) -> httpx.Response:
        made.append(loop.time())
        if len(made) == 1:
            return httpx.Response(429, headers={"Retry-After": "0.2"})
        return httpx.Response(200, json=ONE)

    mocked.route(path__regex="/webhooks/.*").side_effect = answer
    async with WebhooksApi(TOKEN) as api, WebhooksApi(TOKEN) as other:
        refused = asyncio.create_task(api.get_webhook("1"))
        await until(lambda: made)
        others = api.get_webhook("2"), other.get_webhook("3"), api.delete_webhook("4")
        await asyncio.gather(refused, *others)
    assert len(made) == 5
    assert min(made[1:]) - made[0] >= 0.2


async def test_hold_of_more_than_a_minute_is_for_the_callers_to_wait() -> None:
    budget = Budget()
    slots = await taken(budget, READ, 50)
    waiting = [asyncio.create_task(entered(budget)) for _ in range(3)]
    await anyio.wait_all_tasks_blocked()
    budget.hold(600.0)
    for refused in [*waiting, asyncio.create_task(entered(budget))]:
        with pytest.raises(RateLimitedError, match="it was not made") as caught, guard():
            await refused
        assert caught.value.retry_after == pytest.approx(600.0, abs=5.0)
    with pytest.raises(RateLimitedError, match="it was not made"):
        await slots[0].turn()
    assert budget.state("").waiting == 0
    assert budget.state("").held_for == pytest.approx(600.0, abs=5.0)


async def test_hold_that_outlasts_a_callers_timeout_is_told_at_once() -> None:
    budget = Budget()
    budget.hold(40.0)
    with anyio.fail_after(39), pytest.raises(RateLimitedError):
        await entered(budget)


async def test_calls_wait_for_a_hold_that_is_lengthened() -> None:
    budget, loop = Budget(), asyncio.get_running_loop()
    started = loop.time()
    budget.hold(0.05)
    waiting = asyncio.create_task(entered(budget))
    await anyio.wait_all_tasks_blocked()
    budget.hold(0.15)
    await waiting
    assert loop.time() - started >= 0.14


async def entered(budget: Budget) -> Slot:
    return await budget.enter(READ, Priority.PROGRAM, on_long_wait=nobody)


async def test_repetition_counts_as_a_call_and_its_slot_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_budget, "WINDOW", 0.2)
    budget, loop = Budget(), asyncio.get_running_loop()
    budget.limit_rate(2)
    started = loop.time()
    slot = await entered(budget)
    await slot.turn()
    await slot.turn()
    assert loop.time() - started < 0.1
    await slot.turn()
    assert loop.time() - started >= 0.19


async def test_calls_a_minute_are_no_more_than_the_client_says(
    mocked: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_budget, "WINDOW", 0.1)
    loop, made = asyncio.get_running_loop(), list[float]()

    def answer(request: httpx.Request) -> httpx.Response:
        made.append(loop.time())
        return httpx.Response(200, json=ONE)

    mocked.get("/webhooks/1").side_effect = answer
    async with WebhooksApi(TOKEN, calls_per_minute=5) as api:
        await asyncio.gather(*(api.get_webhook("1") for _ in range(16)))
    assert all(later - first >= 0.09 for first, later in zip(made, made[5:], strict=False))
    assert made[-1] - made[0] < 1.0


# Whose budget it is


async def test_all_who_call_by_a_token_have_one_budget_and_others_another() -> None:
    first, same = (transport(TOKEN) for _ in range(2))
    budget = first._budget()
    others = [
        transport("another"),
        transport(TOKEN, base_url="https://asana.example.com/api/1.0"),
        transport(httpx.Auth()),
        first.for_token("another"),
    ]
    assert same._budget() is first.at(Priority.STREAMS)._budget() is budget
    assert others[0].for_token(TOKEN)._budget() is budget
    assert all(other._budget() is not budget for other in others)
    assert others[0]._budget() is others[3]._budget()


def transport(token: str | httpx.Auth, base_url: str | None = None) -> AsanaTransport:
    return AsanaTransport(token, base_url=base_url, http_client=None)


def test_each_event_loop_has_a_budget_of_its_own() -> None:
    shared = transport(TOKEN)

    async def found() -> Budget:
        return shared._budget()

    assert asyncio.run(found()) is not asyncio.run(found())


async def test_budget_ends_with_those_who_have_it() -> None:
    budget = budget_of(b"digest", "https://asana.example.com")
    known = ref(budget)
    assert budget_of(b"digest", "https://asana.example.com") is budget
    del budget
    gc.collect()
    assert known() is None


# What is told


async def longer(items: list[Any], count: int) -> None:
    """Return when there are more items than so many."""
    await until(lambda: len(items) > count)


async def test_wait_of_more_than_a_minute_is_a_notice_once_until_it_is_over(
    asana: AsanaSimulator, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_budget, "LONG_WAIT", 0.01)
    told: list[Notice] = []
    client = make_client()

    @client.on_notice("limited")
    async def note(notice: Notice) -> None:
        told.append(notice)

    async with client:
        while len(told) < 2:
            known = len(told)
            slots = await taken(client._transport._budget(), READ, 50)
            calls = [asyncio.create_task(client.get_webhooks(asana.workspace)) for _ in range(5)]
            await longer(told, known)
            assert (await client.stats()).budgets[0].waiting == 5
            for slot in slots:
                slot.leave()
            await asyncio.gather(*calls)
            await client.get_webhooks(asana.workspace)
    assert len(told) == 2
    assert "more than Asana's limits" in told[0].detail
    assert told[0].source.account == ""


async def test_state_shows_what_is_under_way(make_client: MakeClient) -> None:
    async with make_client() as client:
        transport = client._transport
        transport.share(2)
        slots = await taken(transport._budget(), CREATE, 2)
        slots += await taken(transport._budget(), READ, 3)
        transport._budget().hold(30.0)
        (state,) = (await client.stats()).budgets
        assert (state.reads, state.writes) == (3, 2)
        assert (state.most_reads, state.most_writes) == (25, 7)
        assert 29.0 < state.held_for <= 30.0


# Processes that share a store


@pytest.fixture
def quick_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sharing, "RENEW_AFTER", 0.005)


def used(token: str) -> AsanaTransport:
    """Return a transport by which a call was made."""
    made = transport(token)
    made._budget().calls_made = 1
    return made


@pytest.mark.usefixtures("quick_shares")
async def test_processes_that_share_a_store_divide_a_tokens_slots_while_they_call() -> None:
    # Two tokens stand for the same one in two processes, which have a budget each.
    first, second = used("first"), used("second")
    async with MemoryStore() as store, background_task(dividing(store, first), "first"):
        async with background_task(dividing(store, second), "second"):
            await until(lambda: most(second) == (25, 7))
            first._budget().calls_made += 1
            await until(lambda: most(first) == (25, 7))
        first._budget().calls_made += 1
        await until(lambda: most(first) == (50, 15))


def dividing(store: MemoryStore, transport: AsanaTransport) -> Coroutine[Any, Any, None]:
    return BudgetShares(store, lambda: {"acme": transport}).run()


def most(transport: AsanaTransport) -> tuple[int, int]:
    state = transport.budget_state()
    return state.most_reads, state.most_writes


@pytest.mark.usefixtures("quick_shares")
async def test_budget_without_calls_is_not_held() -> None:
    asked: list[str] = []

    class Store(MemoryStore):
        async def hold(self, name: str, **options: Any) -> int:
            asked.append(name)
            return 1

    idle, busy = used("idle"), used("busy")
    async with Store() as store:
        shares = BudgetShares(store, lambda: {"": idle, "acme": busy})
        async with background_task(shares.run(), "shares"):
            while len(asked) < 6:
                known = len(asked)
                busy._budget().calls_made += 1
                await longer(asked, known)
    assert asked.count("budget/") == 1


@pytest.mark.usefixtures("quick_shares")
async def test_store_that_fails_leaves_the_budget_as_it_was(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryStore):
        async def hold(self, name: str, **options: Any) -> int:
            raise StoreError("the disk does not answer")

    calling = used("one")
    async with Broken() as store, background_task(dividing(store, calling), "shares"):
        await until(lambda: "the disk does not answer" in caplog.text)
        assert most(calling) == (50, 15)


# Against Asana's limits


async def test_nothing_is_reserved_before_the_create_call_has_its_slot(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        slots = await taken(client._transport._budget(), CREATE, 10)
        establishing = asyncio.create_task(client.establish(asana.project, timeout=5.0))
        await until(lambda: client._transport.budget_state().waiting)
        assert await store.list_routes() == []
        slots[0].leave()
        await establishing
        assert client._transport.budget_state().writes == 9
        establishing = asyncio.create_task(client.establish(asana.project))
        slots += await taken(client._transport._budget(), CREATE, 1)
        await until(lambda: client._transport.budget_state().waiting)
        establishing.cancel()
        await asyncio.wait([establishing])
        assert client._transport.budget_state().waiting == 0
        assert len(await store.list_routes()) == 1


async def test_undoing_a_failed_creation_waits_for_no_slot_of_its_own(
    make_client: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(MemoryStore):
        async def confirm(self, route: str, **options: Any) -> bool:
            raise StoreError("the disk does not answer")

    for kind in Kind:
        monkeypatch.setitem(_budget.AT_ONCE, kind, 1)
    async with make_client(store=Broken()) as client:
        with pytest.raises(StoreError, match="does not answer"), anyio.fail_after(10):
            await client.establish(asana.project)
        assert not asana.webhooks


async def test_many_webhooks_ensured_at_once_exceed_no_limit(make_client: MakeClient) -> None:
    class Slow(MemoryStore):
        """Answers handshakes late, so that create calls take their time."""

        async def add_candidate(self, route: str, secret: str) -> bool:
            await asyncio.sleep(0.03)
            return await super().add_candidate(route, secret)

    async with (
        AsanaSimulator(concurrent_gets=50, concurrent_writes=15, gather_for=0) as asana,
        make_client(base_url=asana.base_url, store=Slow(), reconcile=None) as client,
    ):
        projects = [await asana.create_project(f"Project {number}") for number in range(200)]
        # Each may take a second, though the last one waits for several.
        await asyncio.gather(*(client.ensure(project, timeout=5.0) for project in projects))
        assert len(asana.webhooks) == 200
        assert {call.status for call in asana.calls()} <= {200, 201}
