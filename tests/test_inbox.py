import asyncio
import contextlib
import gc
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import anyio
import msgspec
import pytest
from conftest import eventually, guard, until
from support.inboxes import NOW, confirm, draining, event, is_empty, progress_in, put

from asana_webhooks import Event, MemoryStore, StoreError, _claims, _workers
from asana_webhooks._background import background_task
from asana_webhooks._handlers import HandlerError
from asana_webhooks._inbox import Inbox
from asana_webhooks.models import Claim, Delivery, Progress, Route, Settlement
from asana_webhooks.router import Router
from asana_webhooks.stores import Store
from asana_webhooks.telemetry import Counters, Telemetry


class PanicException(BaseException):
    """The error that a library in Rust raises when it panics."""


class Seen:
    """A handler that notes the gids it gets, and fails for some of them."""

    def __init__(self) -> None:
        self.gids: list[str] = []
        self.failing: dict[str, BaseException] = {}

    async def __call__(self, event: Event) -> None:
        self.gids.append(event.resource.gid)
        if event.resource.gid in self.failing:
            raise self.failing[event.resource.gid]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def test_events_are_handled_in_order_and_leave_the_store(
    store: MemoryStore, seen: Seen
) -> None:
    await put(store, "a", event(1), event(2))
    await put(store, "a", event(3))
    async with draining(store, seen):
        await until(lambda: len(seen.gids) == 3)
    assert seen.gids == ["1", "2", "3"]
    assert (await store.counts()).waiting == 0
    assert await store.dead_letters() == []


async def test_what_arrives_while_it_waits_is_handled_at_once(
    store: MemoryStore, seen: Seen
) -> None:
    async with draining(store, seen, poll=3600.0) as inbox:
        await asyncio.sleep(0)
        await put(store, "a", event(1))
        inbox.arrived()
        await until(lambda: seen.gids == ["1"])


async def test_what_arrives_while_its_webhook_is_worked_on_is_handled_right_after(
    store: MemoryStore, seen: Seen
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: Event) -> None:
        started.set()
        await go_on.wait()
        await seen(event)

    await put(store, "a", event(1))
    async with draining(store, slow, poll=3600.0) as inbox:
        await started.wait()
        await put(store, "a", event(2))
        inbox.arrived()
        await asyncio.sleep(0.01)  # until it has looked, and found the webhook taken
        go_on.set()
        await until(lambda: seen.gids == ["1", "2"])


async def test_what_another_process_stored_is_found_by_looking(
    store: MemoryStore, seen: Seen
) -> None:
    async with draining(store, seen, poll=0.001):
        await put(store, "a", event(1))
        await until(lambda: seen.gids == ["1"])


async def test_nothing_is_claimed_while_it_may_not(store: MemoryStore, seen: Seen) -> None:
    permits: list[bool] = []
    await put(store, "a", event(1))
    async with draining(store, seen, poll=0.001, may_claim=lambda: bool(permits)):
        await asyncio.sleep(0.02)
        assert seen.gids == []
        permits.append(True)
        await until(lambda: seen.gids == ["1"])


async def test_worker_that_has_ended_a_claim_takes_no_other_while_it_may_not(
    store: MemoryStore, seen: Seen
) -> None:
    permits = [True]

    async def handle(event: Event) -> None:
        seen.gids.append(event.resource.gid)
        permits.clear()

    await put(store, "a", event(1))
    await put(store, "b", event(2))
    async with draining(store, handle, poll=0.001, concurrency=1, may_claim=lambda: bool(permits)):
        await until(lambda: len(seen.gids) == 1)
        await asyncio.sleep(0.02)
        assert len(seen.gids) == 1
        permits.append(True)
        await until(lambda: len(seen.gids) == 2)


async def test_stream_that_may_not_claim_ends_when_the_inbox_is_closed(store: MemoryStore) -> None:
    await put(store, "a", event(1))
    async with Inbox(store, may_claim=lambda: False) as inbox:
        stream = asyncio.create_task(anext(inbox.stream(), None))
        await asyncio.sleep(0.01)
        assert not stream.done()
        inbox.stop()
        with guard():
            assert await stream is None


async def test_webhooks_are_side_by_side_and_each_one_in_order(store: MemoryStore) -> None:
    running: set[str] = set()
    most, finished = 0, asyncio.Event()
    order: list[str] = []

    async def handler(event: Event) -> None:
        nonlocal most
        webhook = event.resource.gid[0]
        assert webhook not in running
        running.add(webhook)
        most = max(most, len(running))
        if len(running) == 3:
            finished.set()
        await finished.wait()
        order.append(event.resource.gid)
        running.discard(webhook)

    for number in range(2):
        for webhook in ("a", "b", "c"):
            await put(store, webhook, event(f"{webhook}-{number}"))
    async with draining(store, handler):
        await until(lambda: len(order) == 6)
    assert most == 3
    for webhook in ("a", "b", "c"):
        assert [gid for gid in order if gid[0] == webhook] == [f"{webhook}-0", f"{webhook}-1"]


async def test_no_more_webhooks_at_once_than_asked_for(store: MemoryStore) -> None:
    running, most, handled = 0, 0, 0

    async def handler(event: Event) -> None:
        nonlocal running, most, handled
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        handled += 1

    for webhook in range(20):
        await put(store, str(webhook), event(1))
    async with draining(store, handler, concurrency=3):
        await until(lambda: handled == 20)
    assert most == 3


# Failing handlers


async def test_event_that_fails_is_tried_again_alone(store: MemoryStore, seen: Seen) -> None:
    seen.failing["2"] = RuntimeError("not yet")
    await put(store, "a", event(1), event(2), event(3))
    async with draining(store, seen):
        await until(lambda: seen.gids.count("2") >= 2)
        seen.failing.clear()
        await eventually(lambda: is_empty(store))
    assert seen.gids[:3] == ["1", "2", "3"]
    assert set(seen.gids[3:]) == {"2"}


async def test_event_that_fails_does_not_hold_up_those_behind_it(
    store: MemoryStore, seen: Seen
) -> None:
    seen.failing["1"] = RuntimeError("never")
    await put(store, "a", event(1), event(2))
    await put(store, "a", event(3))
    async with draining(store, seen, first_delay=600.0):
        await until(lambda: seen.gids == ["1", "2", "3"])
    assert (await store.counts()).waiting == 1


async def test_event_that_always_fails_becomes_a_dead_letter_alone(
    store: MemoryStore, seen: Seen
) -> None:
    seen.failing["2"] = RuntimeError("never")
    await put(store, "a", event(1), event(2), event(3), event(4))
    async with draining(store, seen, max_attempts=3):
        await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert sorted(seen.gids) == ["1", "2", "2", "2", "3", "4"]
    (letter,) = await store.dead_letters()
    assert letter.body == b'{"events":[%b]}' % event(2).encode()
    assert letter.handlers == ("test_inbox:Seen",)
    assert "failed 3 times: RuntimeError('never')" in letter.reason
    assert "(changed task 2)" in letter.reason


async def test_replayed_dead_letter_is_handed_over_again(store: MemoryStore, seen: Seen) -> None:
    seen.failing["2"] = RuntimeError("once")
    await put(store, "a", event(1), event(2))
    async with draining(store, seen, max_attempts=1) as inbox:
        letters = await eventually(store.dead_letters)
        seen.failing.clear()
        assert await store.replay([letter.id for letter in letters]) == 1
        inbox.arrived()
        await until(lambda: seen.gids == ["1", "2", "2"])
    assert await store.dead_letters() == []


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError("x"), SystemExit(3), RecursionError("deep"), asyncio.CancelledError()),
        *(GeneratorExit(), PanicException("in Rust"), pytest.fail.Exception("by hand")),
        BaseExceptionGroup("one", [PanicException("in Rust")]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_is_a_failed_attempt_and_the_worker_lives(
    store: MemoryStore, seen: Seen, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen.failing["1"] = error
    await put(store, "a", event(1))
    await put(store, "b", event(2))
    async with draining(store, seen, max_attempts=1):
        await until(lambda: "2" in seen.gids)
        await eventually(store.dead_letters)
    (record,) = [record for record in caplog.records if "failed on event" in record.message]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("who", ["itself", "another task"])
async def test_handler_that_the_program_cancels_is_a_failed_attempt_and_the_worker_lives(
    store: MemoryStore, who: str
) -> None:
    gids: list[str] = []
    requests: list[int] = []

    async def cancelled_once(event: Event) -> None:
        worker = asyncio.current_task()
        assert worker is not None
        gids.append(event.resource.gid)
        requests.append(worker.cancelling())
        if len(gids) == 1:
            if who == "itself":
                worker.cancel()
                worker.cancel()  # as a program does that is impatient
            else:
                asyncio.get_running_loop().call_soon(worker.cancel)
            await anyio.sleep_forever()

    counters = Counters()
    await put(store, "a", event(1))
    await put(store, "a", event(2))
    async with draining(store, cancelled_once, concurrency=1, telemetry=counters):
        await until(lambda: counters.outcomes["handled"] == 2)
    assert gids == ["1", "2", "1"]
    assert requests == [0, 0, 0]  # a TaskGroup of the next handler would take it for its own
    assert told(counters) == (2, 1, 0)


async def test_cancellation_that_a_handler_swallowed_is_not_taken_for_the_end(
    store: MemoryStore,
) -> None:
    gids: list[str] = []

    async def swallow_then_fail(event: Event) -> None:
        gids.append(event.resource.gid)
        if len(gids) == 1:
            worker = asyncio.current_task()
            assert worker is not None
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
        elif len(gids) == 2:
            raise asyncio.CancelledError

    await put(store, "a", event(1))
    await put(store, "a", event(2))
    async with draining(store, swallow_then_fail, concurrency=1):
        await until(lambda: gids == ["1", "2", "2"])


async def test_loop_that_ends_while_a_handler_runs_is_no_failed_attempt(
    store: MemoryStore,
) -> None:
    started, counters, before = asyncio.Event(), Counters(), asyncio.all_tasks()

    async def hang(event: Event) -> None:
        started.set()
        await anyio.sleep_forever()

    await put(store, "a", event(1))
    async with draining(store, hang, telemetry=counters):
        await started.wait()
        for task in asyncio.all_tasks() - before:  # as asyncio.run does in the end
            task.cancel()
        claim = await eventually(lambda: store.claim(limit=1, lease=1.0))
    assert claim is not None
    assert claim.deliveries[0].attempts == 0
    assert told(counters) == (0, 0, 0)


def test_interrupt_that_a_handler_raises_ends_the_program(store: MemoryStore) -> None:
    async def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    async def program() -> None:
        await put(store, "a", event(1))
        async with draining(store, interrupt):
            await anyio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(program())
    gc.collect()  # the task, whose exception asyncio logs then, and not in another test


# Handlers that do not end


async def test_handler_that_runs_for_too_long_is_a_failed_attempt_and_others_go_on(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    gids: list[str] = []

    async def hang_at_first(event: Event) -> None:
        gids.append(event.resource.gid)
        if event.resource.gid == "1":
            await anyio.sleep_forever()

    await put(store, "a", event(1))
    await put(store, "b", event(2))
    async with draining(store, hang_at_first, concurrency=1, handler_timeout=0.01, max_attempts=2):
        (letter,) = await eventually(store.dead_letters)
        await until(lambda: "2" in gids)
    assert gids.count("1") == 2
    assert letter.reason.endswith("failed 2 times: TimeoutError('cancelled after 0.01 s')")
    assert "attempt 1 of 2" in caplog.text


class Swallowing:
    """A handler that swallows its cancellation for some gids, until it is let go."""

    def __init__(self, *gids: str) -> None:
        self.swallowed = gids
        self.go_on = asyncio.Event()
        self.began: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, event: Event) -> None:
        gid = event.resource.gid
        self.began.append(gid)
        while gid in self.swallowed and not self.go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.go_on.wait()
        self.ended.append(gid)


async def test_handler_that_swallows_its_cancellation_loses_its_slot_and_its_event_has_failed(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    handler, counters, before = Swallowing("1"), Counters(), asyncio.all_tasks()
    await put(store, "a", event(1), event(2))
    await put(store, "a", event(3))
    options: dict[str, Any] = {
        "concurrency": 1,
        "handler_timeout": 0.01,
        "grace": 0.01,
        "max_attempts": 1,
    }
    async with draining(store, handler, telemetry=counters, **options):
        (letter,) = await eventually(store.dead_letters)
        await until(lambda: handler.ended == ["2", "3"])
        assert "Swallowing goes on although it was cancelled" in caplog.text
        assert "TimeoutError" in letter.reason
        handler.go_on.set()
        await until(lambda: handler.ended == ["2", "3", "1"])
        await put(store, "a", event(4))
        await until(lambda: "4" in handler.ended)
        await eventually(lambda: is_empty(store))
    assert handler.began == ["1", "2", "3", "4"]
    assert told(counters) == (3, 0, 1)
    assert "a lease ran out" not in caplog.text
    await until(lambda: asyncio.all_tasks() == before)


async def test_ten_handlers_that_swallow_their_cancellation_do_not_stop_the_drain(
    store: MemoryStore,
) -> None:
    gids = [str(number) for number in range(10)]
    handler = Swallowing(*gids)
    for gid in gids:
        await put(store, gid, event(gid))
    async with draining(store, handler, handler_timeout=0.01, grace=0.01, first_delay=600.0):
        await until(lambda: len(handler.began) == 10)
        await put(store, "a", event("last"))
        await until(lambda: handler.ended == ["last"])
    handler.go_on.set()
    await until(lambda: len(handler.ended) == 11)


async def test_drain_ends_although_a_handler_swallows_its_cancellation(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_workers, "LAST_GRACE", 0.01)
    handler = Swallowing("2")
    await put(store, "a", event(1), event(2), event(3))
    with guard():
        async with draining(store, handler, grace=0.01, concurrency=1):
            await until(lambda: handler.began == ["1", "2"])
    assert "Swallowing goes on although it was cancelled" in caplog.text
    assert await progress_in(store) == [(Progress(upto=1), 0)]
    handler.go_on.set()
    await until(lambda: handler.ended == ["1", "2"])
    assert handler.began == ["1", "2"]


async def test_handler_that_swallows_the_end_of_its_grace_begins_no_other_event(
    store: MemoryStore,
) -> None:
    began: list[str] = []

    async def return_late(event: Event) -> None:
        began.append(event.resource.gid)
        with contextlib.suppress(asyncio.CancelledError):
            await anyio.sleep_forever()

    await put(store, "a", event(1), event(2))
    async with draining(store, return_late, grace=0.01, concurrency=1):
        await until(lambda: began)
    assert began == ["1"]
    assert await progress_in(store) == [(Progress(upto=1), 0)]


# Deliveries that end the process


async def put_suspect(
    store: Store, *events: str, crashes: int, attempts: int = 0, route: str = "suspect"
) -> None:
    """Store a delivery as it is after its claims ended so often without a word."""
    body = ('{"events":[' + ",".join(events) + "]}").encode()
    assert await store.put(
        Delivery(
            route=route,
            body=body,
            digest=body,
            received_at=NOW,
            crashes=crashes,
            attempts=attempts,
        )
    )


@pytest.mark.parametrize("how", ["drain", "stream"])
async def test_each_event_of_a_delivery_that_ended_a_process_is_kept_as_handled_at_once(
    how: str,
) -> None:
    steps: list[str] = []

    class Noting(MemoryStore):
        async def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
            steps.extend(f"kept {each.progress}" for each in settlement.kept)
            return await super().settle(claim, settlement)

    store = Noting()
    await put_suspect(store, event(1), event(1), event(2), crashes=1, attempts=2)
    if how == "drain":

        async def note(event: Event) -> None:
            steps.append(event.resource.gid)

        async with draining(store, note):
            await eventually(lambda: is_empty(store))
    else:
        async with Inbox(store, poll=0.001) as inbox:
            stream = inbox.stream()
            for _ in range(3):
                steps.append((await anext(stream)).resource.gid)
            following = asyncio.create_task(anext(stream))
            await eventually(lambda: is_empty(store))
        with pytest.raises(StopAsyncIteration):
            await following
    assert steps == ["1", 'kept {"upto":1}', "1", 'kept {"upto":2}', "2"]


@pytest.mark.parametrize("progress", ['{"upto":2}', '{"upto":-1}', '{"done":[1]}', "{"])
async def test_delivery_whose_progress_cannot_be_becomes_a_dead_letter(
    store: MemoryStore, seen: Seen, caplog: pytest.LogCaptureFixture, progress: str
) -> None:
    await put(store, "r1", event(1))
    claim = await store.claim(limit=1, lease=30)
    assert claim is not None
    kept = msgspec.structs.replace(claim.deliveries[0], progress=progress)
    assert await store.end_claim(claim, Settlement(kept=(kept,))) is not None
    await put(store, "r2", event(2))
    async with draining(store, seen):
        await eventually(lambda: is_empty(store))
    assert seen.gids == ["2"]
    (letter,) = await store.dead_letters()
    assert letter.reason == "how many of its events were handled was damaged in the store"
    assert letter.progress == ""
    assert [each.levelname for each in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("how", ["drain", "stream"])
@pytest.mark.parametrize(
    ("crashes", "attempts", "is_buried"),
    [(1, 0, False), (1, 9, False), (10, 0, False), (11, 0, True), (3, 8, True), (30, 30, True)],
)
async def test_delivery_that_ended_its_process_too_often_becomes_a_dead_letter(
    store: MemoryStore,
    seen: Seen,
    how: str,
    crashes: int,
    attempts: int,
    is_buried: bool,  # noqa: FBT001 - a column of the table
) -> None:
    await put_suspect(store, event(1), crashes=crashes, attempts=attempts)
    await put(store, "other", event(2))
    if how == "drain":
        async with draining(store, seen):
            await eventually(lambda: is_empty(store))
    else:
        async with Inbox(store, poll=0.001) as inbox:
            stream = inbox.stream()
            seen.gids.append((await anext(stream)).resource.gid)
            if not is_buried:
                seen.gids.append((await anext(stream)).resource.gid)
            following = asyncio.create_task(anext(stream))
            await eventually(lambda: is_empty(store))
        with pytest.raises(StopAsyncIteration):
            await following
    assert sorted(seen.gids) == (["2"] if is_buried else ["1", "2"])
    reasons = [letter.reason for letter in await store.dead_letters()]
    what = "ended the process, or blocked it for longer than a lease,"
    said = f"(changed task 1): its handlers {what} {crashes - 1} times"
    assert [reason[-len(said) :] for reason in reasons] == ([said] if is_buried else [])


async def test_of_those_that_may_have_ended_the_process_one_is_handled_at_a_time(
    store: MemoryStore, seen: Seen
) -> None:
    go_on = asyncio.Event()

    async def wait_for_first(event: Event) -> None:
        await seen(event)
        if event.resource.gid == "1":
            await go_on.wait()

    await put_suspect(store, event(1), crashes=2, route="a")
    await put_suspect(store, event(2), crashes=5, route="b")
    await put_suspect(store, event(3), crashes=1, route="c")
    await put(store, "d", event(4))
    async with draining(store, wait_for_first, poll=0.001):
        await until(lambda: seen.gids == ["1"])
        await anyio.wait_all_tasks_blocked()
        claim = await store.claim(limit=1, lease=60.0)
        assert claim is not None  # its crashes do not grow if the process ends now
        assert [delivery.crashes for delivery in claim.deliveries] == [5]
        assert await store.end_claim(claim) is not None
        assert seen.gids == ["1"]
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert sorted(seen.gids) == ["1", "2", "3", "4"]


async def test_suspect_that_goes_on_for_longer_than_a_lease_keeps_no_others_waiting(
    store: MemoryStore, seen: Seen
) -> None:
    go_on = asyncio.Event()

    async def wait_for_first(event: Event) -> None:
        await seen(event)
        if event.resource.gid == "1":
            await go_on.wait()

    await put_suspect(store, event(1), crashes=2, route="a")
    await put_suspect(store, event(2), crashes=2, route="b")
    async with draining(store, wait_for_first, lease=0.1, handler_timeout=None):
        await until(lambda: seen.gids == ["1", "2"])
        go_on.set()
        await eventually(lambda: is_empty(store))


@pytest.mark.parametrize(("crashes", "is_buried"), [(2, False), (3, True)])
async def test_end_of_a_process_in_which_others_were_handled_too_buries_nothing(
    store: MemoryStore,
    seen: Seen,
    crashes: int,
    is_buried: bool,  # noqa: FBT001 - a column of the table
) -> None:
    await put_suspect(store, event(1), crashes=crashes)
    async with draining(store, seen, max_attempts=1):
        await eventually(lambda: is_empty(store))
    assert len(await store.dead_letters()) == is_buried
    assert seen.gids == ([] if is_buried else ["1"])


class SlowStore(MemoryStore):
    """Notes its claims; that of the route ``slow`` comes back late, and claims end late."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []
        self.come_back = asyncio.Event()
        self.give_back = asyncio.Event()

    async def claim(self, **options: Any) -> Claim | None:
        self.steps.append("claim")
        claim = await super().claim(**options)
        if claim is not None:
            self.steps.append(claim.route)
            if claim.route == "slow":
                await self.come_back.wait()
        return claim

    async def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        if claim.deliveries[0].crashes:
            await self.give_back.wait()
        self.steps.append(f"end {claim.route}")
        return await super().end_claim(claim, settlement)


async def test_suspect_is_handled_when_no_claim_that_may_bring_another_is_left() -> None:
    store = SlowStore()
    go_on = {"0": asyncio.Event(), "1": asyncio.Event()}

    async def handle(event: Event) -> None:
        store.steps.append(f"handle {event.resource.gid}")
        if event.resource.gid in go_on:
            await go_on[event.resource.gid].wait()

    async def steps_until_blocked() -> list[str]:
        await anyio.wait_all_tasks_blocked()
        steps, store.steps = store.steps, []
        return steps

    await put(store, "long", event(0))
    await put(store, "short", event(3))
    await put_suspect(store, event(2), crashes=5, route="slow")
    await put_suspect(store, event(1), crashes=2, route="first")
    async with draining(store, handle, grace=0.01) as inbox:
        await until(lambda: "first" in store.steps)
        assert (await steps_until_blocked())[-3:] == ["slow", "claim", "first"]
        store.come_back.set()
        assert await steps_until_blocked() == []  # the other one is on its way back
        store.give_back.set()
        assert await steps_until_blocked() == ["end slow", "handle 1"]
        go_on["0"].set()
        inbox.arrived()
        assert await steps_until_blocked() == ["end long"]
        store.give_back.clear()
        go_on["1"].set()
        assert await steps_until_blocked() == []
        store.give_back.set()
        await eventually(lambda: is_empty(store))
    assert store.steps[:5] == ["end first", "claim", "slow", "handle 2", "end slow"]


async def test_streams_that_wait_for_or_with_a_suspect_end_with_their_inbox() -> None:
    store = SlowStore()
    store.give_back.set()
    await put_suspect(store, event(2), crashes=5, route="slow")
    await put_suspect(store, event(1), crashes=2, route="first")
    async with Inbox(store) as inbox:
        slow = asyncio.create_task(anext(inbox.stream()))
        await until(lambda: "slow" in store.steps)
        waiting = [asyncio.create_task(anext(inbox.stream())) for _ in range(2)]
        await until(lambda: "first" in store.steps)
        await anyio.wait_all_tasks_blocked()
        assert not any(task.done() for task in waiting)
    slow.cancel()
    for task in waiting:
        with pytest.raises(StopAsyncIteration):
            await task
    assert store.steps == ["claim", "slow", "claim", "first", "end first"]


async def test_drain_that_waits_for_its_turn_with_a_suspect_can_be_stopped(
    store: MemoryStore, seen: Seen
) -> None:
    async def wait(event: Event) -> None:
        await seen(event)
        await anyio.sleep_forever()

    await put_suspect(store, event(1), crashes=2, route="a")
    await put_suspect(store, event(2), crashes=2, route="b")
    with guard():
        async with draining(store, wait, grace=0.01):
            await until(lambda: seen.gids == ["1"])
            await anyio.wait_all_tasks_blocked()
    assert seen.gids == ["1"]


async def test_failure_of_a_delivery_that_ended_processes_counts_beside_them(
    store: MemoryStore, seen: Seen
) -> None:
    seen.failing["1"] = RuntimeError("too")
    await put_suspect(store, event(1), crashes=9, attempts=1)
    async with draining(store, seen):
        (letter,) = await eventually(store.dead_letters)
    assert seen.gids == ["1"]
    assert "failed 10 times" in letter.reason


class ManyLinesError(Exception):
    def __repr__(self) -> str:
        return "two\nlines\x1b[31m"


class BrokenError(Exception):
    def __repr__(self) -> str:
        raise PanicException


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyError("gid"), "KeyError('gid')"),
        (ManyLinesError(), "two lines [31m"),
        (BrokenError(), "BrokenError"),
        (ValueError("x" * 1000), "ValueError('" + "x" * 188),
    ],
    ids=["plain", "lines", "broken", "long"],
)
async def test_reason_of_a_dead_letter_is_one_line_whatever_was_raised(
    store: MemoryStore, seen: Seen, error: Exception, shown: str
) -> None:
    seen.failing["1"] = error
    await put(store, "a", event(1))
    async with draining(store, seen, max_attempts=1):
        (letter,) = await eventually(store.dead_letters)
    assert letter.reason.endswith(f"failed 1 time: {shown}")


async def test_log_of_a_failure_names_handler_event_and_resource(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    keys: list[str] = []

    async def note_and_fail(event: Event) -> None:
        keys.append(event.key)
        raise RuntimeError

    await put(store, "a", event(1))
    async with draining(store, note_and_fail, max_attempts=1):
        await until(lambda: "failed on event" in caplog.text)
        (letter,) = await store.dead_letters()
    (record,) = caplog.records
    name = (
        "test_inbox:test_log_of_a_failure_names_handler_event_and_resource.<locals>.note_and_fail"
    )
    assert record.getMessage() == (
        f"handler {name} failed on event {keys[0]} (changed task 1), attempt 1 of 1,"
        f" now dead letter {letter.id}"
    )


# Bad bodies


async def test_one_odd_event_becomes_a_dead_letter_and_its_neighbours_are_handled(
    store: MemoryStore, seen: Seen
) -> None:
    await put(store, "a", event(1), '{"action":7}', event(2))
    async with draining(store, seen):
        letters = await eventually(store.dead_letters)
    assert seen.gids == ["1", "2"]
    assert [letter.body for letter in letters] == [b'{"events":[{"action":7}]}']
    assert (await store.counts()).waiting == 0


async def test_odd_event_before_one_that_fails_is_not_forgotten(
    store: MemoryStore, seen: Seen
) -> None:
    seen.failing["1"] = RuntimeError("once")
    await put(store, "a", "7", event(1))
    async with draining(store, seen):
        await until(lambda: len(seen.gids) >= 2)
        seen.failing.clear()
        letters = await eventually(store.dead_letters)
    assert [letter.body for letter in letters] == [b'{"events":[7]}']


async def test_unreadable_delivery_becomes_a_dead_letter(
    store: MemoryStore, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    await put(store, "a", body=b"[" * 100_000)
    async with draining(store, seen):
        letters = await eventually(store.dead_letters)
    assert letters[0].body == b"[" * 100_000
    assert f"dead letter {letters[0].id} of a webhook that is gone: " in caplog.text


async def test_dead_letter_is_logged_with_its_webhook(
    store: MemoryStore, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    await confirm(store, "a", gid="71")
    await put(store, "a", body=b"[")
    async with draining(store, seen):
        (letter,) = await eventually(store.dead_letters)
        await until(lambda: f"dead letter {letter.id} of webhook 71: " in caplog.text)


# Stopping


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_drain_that_is_stopped_lets_the_running_handler_end_and_begins_no_more(
    store: MemoryStore, how: str
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def slow(event: Event) -> None:
        started.set()
        await go_on.wait()
        ended.append(event.resource.gid)

    await put(store, "a", event(1))
    await put(store, "a", event(2))
    router = Router()
    router.on()(slow)
    async with Inbox(store, order="webhook") as inbox:
        task = asyncio.create_task(inbox.drain(router))
        await started.wait()
        if how == "cancelled":
            task.cancel()
        else:
            inbox.stop()
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        await asyncio.wait([task])
    assert task.cancelled() is (how == "cancelled")
    assert ended == ["1"]
    assert await progress_in(store) == [(Progress(), 0)]  # given back, not left leased


async def test_handler_that_does_not_end_is_cancelled_and_its_delivery_kept_in_place(
    store: MemoryStore,
) -> None:
    handled: list[str] = []

    async def hang_at_second(event: Event) -> None:
        if event.resource.gid == "2":
            await asyncio.Event().wait()
        handled.append(event.resource.gid)

    await put(store, "a", event(1), event(2))
    await put(store, "a", event(3))
    async with draining(store, hang_at_second, grace=0.01, order="webhook"):
        await until(lambda: handled == ["1"])
    assert await progress_in(store) == [(Progress(upto=1), 0), (Progress(), 0)]


async def test_closing_ends_the_drain(store: MemoryStore, seen: Seen) -> None:
    router = Router()
    router.on()(seen)
    async with Inbox(store) as inbox:
        task = asyncio.create_task(inbox.drain(router))
        await put(store, "a", event(1))
        inbox.arrived()
        await until(lambda: seen.gids == ["1"])
    with guard():
        await task


async def test_task_of_a_handler_is_told_from_others(store: MemoryStore) -> None:
    said: list[bool] = []

    async def ask(event: Event) -> None:
        said.append(inbox.is_worker())

    await put(store, "a", event(1))
    async with draining(store, ask) as inbox:
        await until(lambda: said)
        assert not inbox.is_worker()
    assert said == [True]


async def test_second_drain_at_once_is_refused(store: MemoryStore, seen: Seen) -> None:
    async with draining(store, seen) as inbox:
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="already"):
            await inbox.drain(Router())


@pytest.mark.parametrize("how", ["the task", "a scope"])
async def test_closing_that_is_cancelled_leaves_no_task_behind(
    store: MemoryStore, how: str
) -> None:
    before, started = asyncio.all_tasks(), asyncio.Event()
    router, scope = Router(), anyio.CancelScope()

    @router.on()
    async def slow(event: Event) -> None:
        started.set()
        await anyio.sleep_forever()

    async def close() -> None:
        with scope:
            await inbox.__aexit__(None, None, None)

    await put(store, "a", event(1))
    inbox = await Inbox(store, grace=0.1).__aenter__()
    draining = asyncio.create_task(inbox.drain(router))
    await started.wait()
    closing = asyncio.create_task(close())
    await anyio.wait_all_tasks_blocked()
    (closing if how == "the task" else scope).cancel()
    await asyncio.wait([closing, draining])
    assert asyncio.all_tasks() == before


async def test_workers_claim_side_by_side_while_there_is_much(seen: Seen) -> None:
    claiming, most = 0, 0

    class Slow(MemoryStore):
        async def claim(self, **options: Any) -> Claim | None:
            nonlocal claiming, most
            claiming += 1
            most = max(most, claiming)
            for _ in range(10):
                await asyncio.sleep(0)
            claiming -= 1
            return await super().claim(**options)

    store = Slow()
    for number in range(40):
        await put(store, f"r{number}", event(number))
    async with draining(store, seen, concurrency=4):
        await until(lambda: len(seen.gids) == 40)
        await eventually(lambda: is_empty(store))
    assert most == 4
    assert sorted(map(int, seen.gids)) == list(range(40))


async def test_mistake_of_our_own_is_logged_and_not_repeated_without_a_pause(
    store: MemoryStore, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    tried = 0

    class Wrong(Telemetry):
        def processing(self, delivery: Delivery, event: Event) -> AbstractContextManager[object]:
            nonlocal tried
            tried += 1
            raise ValueError

    await put(store, "a", event(1))
    async with draining(store, seen, telemetry=Wrong(), poll=3600.0, grace=0.01):
        await until(lambda: "deliveries will be handled again" in caplog.text)
        await anyio.wait_all_tasks_blocked()
    assert tried == 1


async def test_task_of_a_handler_that_is_cancelled_too_late_costs_no_worker(seen: Seen) -> None:
    claims = 0
    workers: list[asyncio.Task[object] | None] = []

    class Slow(MemoryStore):
        async def claim(self, **options: Any) -> Claim | None:
            nonlocal claims
            claims += 1
            if claims == 2:  # of the worker that has ended the first
                assert workers[0] is not None
                workers[0].cancel()
                await asyncio.sleep(0)
            return await super().claim(**options)

    async def keep_the_task(event: Event) -> None:
        workers.append(asyncio.current_task())
        await seen(event)

    store = Slow()
    await put(store, "a", event(1))
    await put(store, "b", event(2))
    async with draining(store, keep_the_task, concurrency=1):
        await until(lambda: seen.gids == ["1", "2"])
        await eventually(lambda: is_empty(store))


async def test_others_have_their_turn_although_store_and_handlers_never_wait(
    store: MemoryStore, seen: Seen
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def compute(event: Event) -> None:
        end = time.monotonic() + 0.002
        while time.monotonic() < end:
            pass
        await seen(event)

    for number in range(60):
        await put(store, f"r{number % 30}", event(number))
    async with draining(store, compute, concurrency=4), background_task(take_turns(), "other"):
        await until(lambda: len(seen.gids) == 60)
        assert turns >= 10


@pytest.mark.parametrize(
    ("option", "error"),
    [
        *(({"concurrency": number}, ValueError) for number in (0, -1)),
        *(({"max_attempts": number}, ValueError) for number in (0, -1)),
        *(({"concurrency": number}, TypeError) for number in (True, 1.0, "3", None)),
        *(({"max_attempts": number}, TypeError) for number in (True, math.nan, "3", None)),
        *(({"first_delay": number}, ValueError) for number in (0, -1.0, math.nan, math.inf)),
        *(({"longest_delay": number}, ValueError) for number in (0.0, math.nan, math.inf, 0.5)),
        *(({"handler_timeout": number}, ValueError) for number in (0, -0.1, math.nan, math.inf)),
        *(({"first_delay": number}, TypeError) for number in (True, "1", None)),
        *(({"longest_delay": number}, TypeError) for number in (True, "1", None)),
        *(({"handler_timeout": number}, TypeError) for number in (True, "1")),
    ],
    ids=str,
)
def test_number_that_cannot_work_is_refused_by_name(
    store: MemoryStore, option: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = option
    with pytest.raises(error, match=f"^{name} "):
        Inbox(store, **option)


async def test_no_task_is_left_behind(store: MemoryStore, seen: Seen) -> None:
    before = asyncio.all_tasks()
    await put(store, "a", event(1))
    async with draining(store, seen) as inbox:
        await until(lambda: seen.gids == ["1"])
    assert asyncio.all_tasks() == before
    assert not inbox._claims.active
    assert not inbox._tasks.running


# Leases


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_lease_of_a_long_handler_is_renewed() -> None:
    renewals = 0

    class Counting(MemoryStore):
        async def renew(self, claim: Claim, *, lease: float) -> bool:
            nonlocal renewals
            renewals += 1
            return await super().renew(claim, lease=lease)

    store, go_on, handled = Counting(clock=Clock()), asyncio.Event(), asyncio.Event()

    async def long(event: Event) -> None:
        await go_on.wait()
        handled.set()

    await put(store, "a", event(1))
    async with draining(store, long, lease=0.3):
        await until(lambda: renewals >= 3)
        go_on.set()
        await handled.wait()
    assert (await store.counts()).waiting == 0


async def test_lease_is_renewed_when_a_third_of_it_is_over(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "sleep", sleep)
    async with Inbox(store, lease=60.0):
        await anyio.wait_all_tasks_blocked()
    assert 20.0 in slept


async def test_leases_of_many_claims_are_renewed_together() -> None:
    renewing, most, all_at_once = 0, 0, asyncio.Event()

    class Counting(MemoryStore):
        async def renew(self, claim: Claim, *, lease: float) -> bool:
            nonlocal renewing, most
            renewing += 1
            most = max(most, renewing)
            if renewing == 10:
                all_at_once.set()
            await all_at_once.wait()
            renewing -= 1
            return await super().renew(claim, lease=lease)

    store = Counting(clock=Clock())
    for number in range(10):
        await put(store, f"r{number}", event(number))

    async def wait(event: Event) -> None:
        await all_at_once.wait()

    async with draining(store, wait, lease=0.3):
        await until(all_at_once.is_set)
        await eventually(lambda: is_empty(store))
    assert most == 10


async def test_worker_that_lost_its_lease_settles_nothing_and_begins_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    store, started, go_on = MemoryStore(clock=clock), asyncio.Event(), asyncio.Event()
    handled: list[str] = []

    async def slow(event: Event) -> None:
        started.set()
        await go_on.wait()
        if event.resource.gid == "2":
            await until(lambda: "a lease ran out" in caplog.text)
        handled.append(event.resource.gid)

    for number in (1, 2, 3):
        await put(store, "a", event(number))
    async with draining(store, slow, poll=3600.0, order="webhook"):
        await started.wait()
        clock.now += 31.0
        other = await store.claim(limit=10, lease=30.0)
        assert other is not None
        assert len(other.deliveries) == 1  # what crashed once is claimed alone
        go_on.set()
        await until(lambda: len(handled) == 2)
        await anyio.wait_all_tasks_blocked()
    assert handled == ["1", "2"]
    assert (await store.counts()).waiting == 3


async def test_lost_lease_that_renewing_finds_stops_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    claims = 0

    class Lost(MemoryStore):
        async def claim(self, **options: Any) -> Claim | None:
            nonlocal claims
            claim = await super().claim(**options)
            claims += claim is not None
            return claim

        async def renew(self, claim: Claim, *, lease: float) -> bool:
            return False

    store, go_on = Lost(), asyncio.Event()
    claim_of: dict[str, int] = {}

    async def slow(event: Event) -> None:
        await go_on.wait()
        claim_of[event.resource.gid] = claims

    await put(store, "a", event(1))
    await put(store, "a", event(2))
    async with draining(store, slow, lease=0.003, concurrency=1, order="webhook"):
        await until(lambda: "a lease ran out" in caplog.text)
        go_on.set()
        await until(lambda: "2" in claim_of)
    assert claim_of["2"] > 1  # not with the claim that was lost


async def test_renewal_that_comes_after_the_work_was_finished_is_no_lost_lease(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renewing, go_on, renewed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def renew(self, claim: Claim, *, lease: float) -> bool:
            renewing.set()
            await go_on.wait()
            renewed.set()
            return await super().renew(claim, lease=lease)

    async def until_renewing(event: Event) -> None:
        await renewing.wait()

    store = Slow(clock=Clock())
    await put(store, "a", event(1))
    async with draining(store, until_renewing, lease=0.3):
        await eventually(lambda: is_empty(store))
        go_on.set()
        await renewed.wait()
        await asyncio.sleep(0)
    assert caplog.text == ""


# A failing store


class Flaky(MemoryStore):
    """Fails in the named calls as often as asked for."""

    error: type[Exception] = StoreError

    def __init__(self, **failures: int) -> None:
        super().__init__()
        self.failures = failures

    def _maybe_fail(self, call: str) -> None:
        if self.failures.get(call, 0):
            self.failures[call] -= 1
            raise self.error(f"{call} failed")

    async def claim(self, **options: Any) -> Claim | None:
        self._maybe_fail("claim")
        return await super().claim(**options)

    async def claim_more(self, claim: Claim, *, limit: int) -> Claim | None:
        self._maybe_fail("claim_more")
        return await super().claim_more(claim, limit=limit)

    async def get_route(self, route: str) -> Route | None:
        self._maybe_fail("get_route")
        return await super().get_route(route)

    async def list_routes(self, *resource: Any, **account: Any) -> list[Route]:
        self._maybe_fail("list_routes")
        return await super().list_routes(*resource, **account)

    async def remembered(self, scope: str, **options: Any) -> bytes:
        self._maybe_fail("remembered")
        return await super().remembered(scope, **options)

    async def settle(self, claim: Claim, settlement: Settlement) -> tuple[str, ...] | None:
        self._maybe_fail("settle")
        return await super().settle(claim, settlement)

    async def end_claim(
        self, claim: Claim, settlement: Settlement | None = None
    ) -> tuple[str, ...] | None:
        self._maybe_fail("end_claim")
        return await super().end_claim(claim, settlement)

    async def renew(self, claim: Claim, *, lease: float) -> bool:
        self._maybe_fail("renew")
        return await super().renew(claim, lease=lease)


class BrokenFlaky(Flaky):
    """Fails with what no store should raise."""

    error = LookupError


@pytest.mark.parametrize("kind", [Flaky, BrokenFlaky])
@pytest.mark.parametrize("call", ["claim", "end_claim", "remembered"])
async def test_drain_outlives_a_store_that_fails_once(
    caplog: pytest.LogCaptureFixture, seen: Seen, call: str, kind: type[Flaky]
) -> None:
    store = kind(**{call: 1})
    await confirm(store, "a", gid="71")
    await put(store, "a", event(1), "7")
    async with draining(store, seen, lease=0.01):
        await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert set(seen.gids) == {"1"}
    assert f"{call} failed" in caplog.text


async def test_what_was_handled_while_the_store_is_restarted_is_not_handled_again(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_claims, "FINISH_PAUSE", 0.001)
    store = Flaky(settle=1, end_claim=20)
    await confirm(store, "a")
    await put(store, "a", event(1))
    await put(store, "a", event(2))
    async with draining(store, seen):
        await eventually(lambda: is_empty(store))
    assert sorted(seen.gids) == ["1", "2"]
    assert not store.failures["end_claim"]


async def test_inbox_that_is_closed_does_not_wait_for_a_store_that_is_away(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_claims, "FINISH_PAUSE", 3600.0)
    monkeypatch.setattr(_claims, "FINISH_TIMEOUT", 3600.0)
    store = Flaky(end_claim=1)
    await put(store, "a", event(1))
    async with Inbox(store, poll=0.01) as inbox:
        stream = inbox.stream()
        await anext(stream)
    assert not store.failures["end_claim"]


async def test_drain_outlives_a_store_that_cannot_say_whose_a_route_is(
    caplog: pytest.LogCaptureFixture, seen: Seen
) -> None:
    store = Flaky(get_route=2, list_routes=1)
    await put(store, "a", event(1))
    async with draining(store, seen):
        await eventually(lambda: is_empty(store))
    assert seen.gids == ["1"]
    assert "list_routes failed" in caplog.text


async def test_deliveries_of_a_route_whose_record_is_damaged_are_handled(seen: Seen) -> None:
    store = Flaky(get_route=1)
    await put(store, "a", event(1))
    async with draining(store, seen):
        await eventually(lambda: is_empty(store))
    assert seen.gids == ["1"]


@pytest.mark.parametrize("kind", [Flaky, BrokenFlaky])
async def test_what_arrives_meanwhile_is_handled_although_asking_failed_once(
    caplog: pytest.LogCaptureFixture, seen: Seen, kind: type[Flaky]
) -> None:
    store, go_on = kind(claim_more=1), asyncio.Event()

    async def wait_for_first(event: Event) -> None:
        await seen(event)
        if event.resource.gid == "1":
            await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, wait_for_first):
        await until(lambda: seen.gids == ["1"])
        await put(store, "a", event(2))
        await until(lambda: seen.gids == ["1", "2"])
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert "claim_more failed" in caplog.text


@pytest.mark.parametrize("kind", [Flaky, BrokenFlaky])
async def test_renewing_outlives_a_store_that_fails(
    caplog: pytest.LogCaptureFixture, kind: type[Flaky]
) -> None:
    store, go_on = kind(renew=1), asyncio.Event()

    async def long(event: Event) -> None:
        await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, long, lease=0.3):
        await until(lambda: "cannot renew a lease" in caplog.text)
        assert "renew failed" in caplog.text
        await until(lambda: not store.failures["renew"])
        go_on.set()
        await eventually(lambda: is_empty(store))


@pytest.mark.parametrize("how", ["drain", "stream"])
async def test_what_was_handled_before_settling_failed_is_not_handled_again(
    seen: Seen, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    store = Flaky(settle=1)

    async def wait_for_failure(event: Event) -> None:
        await seen(event)
        if event.resource.gid == "1":
            await until(lambda: not store.failures["settle"])

    for number in range(3):
        await put(store, "a", event(number))
    if how == "drain":
        async with draining(store, wait_for_failure, order="webhook"):
            await eventually(lambda: is_empty(store))
    else:
        async with Inbox(store, poll=0.001) as inbox:
            async for got in inbox.stream():
                await wait_for_failure(got)
                if len(seen.gids) == 3:
                    inbox.stop()
    assert seen.gids == ["0", "1", "2"]
    assert "settle failed" in caplog.text


# The stream


async def test_event_of_the_stream_counts_as_handled_when_the_next_is_asked_for(
    store: MemoryStore,
) -> None:
    await put(store, "a", event(1), event(2))
    async with Inbox(store, poll=0.01) as inbox:
        async for got in inbox.stream():
            if got.resource.gid == "2":
                break
        del got
        gc.collect()
        await until(lambda: not inbox._claims.active)
    assert await progress_in(store) == [(Progress(upto=1), 0)]


async def test_stream_that_is_left_is_taken_up_by_the_next(store: MemoryStore) -> None:
    for number in range(3):
        await put(store, "a", event(number))
    gids = []
    async with Inbox(store, poll=0.001) as inbox:
        async for got in inbox.stream():
            gids.append(got.resource.gid)
            if got.resource.gid == "1":
                break
        async for got in inbox.stream():
            gids.append(got.resource.gid)
            if got.resource.gid == "2":
                break
    assert gids == ["0", "1", "1", "2"]


async def test_stream_ends_when_the_inbox_is_closed(store: MemoryStore) -> None:
    gids = []
    async with anyio.create_task_group() as tasks, Inbox(store, poll=3600.0) as inbox:

        async def consume() -> None:
            async for got in inbox.stream():
                gids.append(got.resource.gid)

        tasks.start_soon(consume)
        await put(store, "a", event(1))
        inbox.arrived()
        await until(lambda: gids == ["1"])
        await eventually(lambda: is_empty(store))
    assert gids == ["1"]


async def test_stream_outlives_a_store_that_fails_once(caplog: pytest.LogCaptureFixture) -> None:
    store = Flaky(end_claim=1)
    await put(store, "a", event(1), "7")
    async with Inbox(store, poll=0.001, lease=0.01) as inbox:
        stream = inbox.stream()
        assert (await anext(stream)).resource.gid == "1"
        following = asyncio.create_task(anext(stream))
        await eventually(store.dead_letters)
        assert "end_claim failed" in caplog.text
    with pytest.raises(StopAsyncIteration):
        await following


async def test_stream_that_outlives_its_inbox_gave_its_delivery_back(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await put(store, "a", event(1), event(2), event(3))
    async with Inbox(store, poll=0.001) as inbox:
        stream = inbox.stream()
        await anext(stream)
        await anext(stream)
    assert await progress_in(store) == [(Progress(upto=1), 0)]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert not caplog.records


async def test_inbox_that_was_never_opened_can_be_closed(store: MemoryStore) -> None:
    await Inbox(store).__aexit__(None, None, None)


async def test_stream_stops_at_a_lost_lease() -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    await put(store, "a", event(1))
    await put(store, "a", event(2))
    async with Inbox(store, poll=0.001) as inbox:
        stream = inbox.stream()
        first = await anext(stream)
        clock.now += 31.0
        other = await store.claim(limit=10, lease=30.0)
        assert other is not None
        await asyncio.gather(*(inbox._claims._renew(work) for work in inbox._claims.active))
        await store.end_claim(other)
        second = await anext(stream)
        await stream.aclose()
    assert first.key == second.key  # at least once: it comes again, recognisably


# Many


async def test_backlog_at_start_is_dispatched_at_once_and_in_bounded_portions(
    seen: Seen,
) -> None:
    most = 0

    class Measured(MemoryStore):
        async def claim(self, **options: Any) -> Claim | None:
            nonlocal most
            claim = await super().claim(**options)
            most = max(most, len(claim.deliveries) if claim else 0)
            return claim

    store = Measured()
    for number in range(1000):
        await put(store, str(number % 7), event(number))
    async with draining(store, seen):
        await until(lambda: len(seen.gids) == 1000)
    assert sorted(map(int, seen.gids)) == list(range(1000))
    assert most <= _claims.BATCH


# What is told of it


def told(counters: Counters) -> tuple[int, int, int]:
    outcomes = counters.outcomes
    return outcomes["handled"], outcomes["retried"], outcomes["dead"]


async def test_deliveries_are_counted_as_what_becomes_of_them(
    store: MemoryStore, seen: Seen
) -> None:
    counters = Counters()
    seen.failing = {"3": RuntimeError("always")}
    await put(store, "a", event(1), event(2))
    await put(store, "b", event(3))
    await put(store, "c", event(4), '{"odd":1}')
    await put(store, "d", body=b"unreadable")
    async with draining(store, seen, max_attempts=3, telemetry=counters):
        await until(lambda: sum(told(counters)) == 7)
        assert told(counters) == (2, 2, 3)
    assert counters.failures == 3
    assert (await store.counts()).dead_letters == 3


async def test_letter_that_a_lost_lease_kept_from_being_left_is_not_counted(
    seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    class Lost(MemoryStore):
        async def end_claim(
            self, claim: Claim, settlement: Settlement | None = None
        ) -> tuple[str, ...] | None:
            return None

    store, counters = Lost(), Counters()
    await put(store, "a", body=b"unreadable")
    async with draining(store, seen, telemetry=counters):
        await until(lambda: "a lease ran out" in caplog.text)
    assert told(counters) == (0, 0, 0)
    assert "a dead letter" not in caplog.text


async def test_delivery_is_counted_by_the_attempt_that_handled_it(store: MemoryStore) -> None:
    counters = Counters()
    gids: list[str] = []

    async def fail_once(event: Event) -> None:
        gids.append(event.resource.gid)
        if gids == ["1", "2"]:
            raise RuntimeError("not yet")

    await put(store, "a", event(1), event(2), event(3))
    async with draining(store, fail_once, telemetry=counters):
        await until(lambda: counters.outcomes["handled"] == 2)
    assert gids == ["1", "2", "3", "2"]
    assert told(counters) == (2, 1, 0)


async def test_each_attempt_with_an_event_is_told(store: MemoryStore) -> None:
    steps: list[str] = []

    class Telling(Telemetry):
        @contextmanager
        def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
            steps.append("begin")
            try:
                yield
            except HandlerError as failure:
                steps.append(f"failed by {failure.__cause__}")
                raise
            steps.append("end")

    failures = [RuntimeError("one")]

    async def handle(event: Event) -> None:
        steps.append(event.resource.gid)
        if event.resource.gid == "2" and failures:
            raise failures.pop()

    await put(store, "a", event(1), event(2))
    async with draining(store, handle, telemetry=Telling()):
        await until(lambda: steps.count("end") == 2)
    assert steps == [
        *("begin", "1", "end"),
        *("begin", "2", "failed by one"),
        *("begin", "2", "end"),
    ]


async def test_event_that_no_handler_wants_is_counted_and_its_kind_said_once(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counters, router, gids = Counters(), Router(), []

    @router.on("task", action="added")
    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    await put(store, "a", event(1), event(2), event(3, action="added"))
    await put(store, "b", event(4), event(5, action="deleted"), event(6, field="name"))
    async with Inbox(store, telemetry=counters) as inbox, anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.drain, router)
        await eventually(lambda: is_empty(store))
        inbox.stop()
    assert gids == ["3"]
    assert counters.unwanted_events == 5
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == [
        "no handler wants events of type 'task' with action 'changed'; they count as handled",
        "no handler wants events of type 'task' with action 'deleted'; they count as handled",
        "no handler wants events of type 'task' with action 'changed' of field 'name';"
        " they count as handled",
    ]


async def test_kinds_of_unwanted_events_that_are_said_are_bounded(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counters, kinds = Counters(), 2 * _workers.MAX_UNWANTED
    await put(store, "a", *(event(1, action=f"action {number}") for number in range(kinds)))
    async with Inbox(store, telemetry=counters) as inbox, anyio.create_task_group() as tasks:
        tasks.start_soon(inbox.drain, Router())
        await eventually(lambda: is_empty(store))
        inbox.stop()
    assert counters.unwanted_events == kinds
    assert len(caplog.records) == _workers.MAX_UNWANTED


async def test_account_with_many_deliveries_keeps_no_event_of_another_waiting() -> None:
    counted = Counter[str]()
    before: list[int] = []

    async def handle(event: Event) -> None:
        counted[event.source.account] += 1
        if event.source.account == "quiet":
            before.append(counted["noisy"])
        await anyio.sleep(0.001)

    async with MemoryStore() as store:
        await confirm(store, "quiet", gid="1", resource="1", account="quiet")
        for number in range(10):
            await confirm(store, f"n{number}", gid=f"2{number}", resource="2", account="noisy")
        for number in range(6_000):
            await put(store, f"n{number % 10}", event(number))
        async with draining(store, handle, poll=1.0, concurrency=10) as inbox:
            await until(lambda: counted["noisy"] > 500)
            await put(store, "quiet", event("quiet"))
            inbox.arrived()
            await until(lambda: before)
    assert before[0] < 4_000
