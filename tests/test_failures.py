"""One event with one handler fails alone: the judgement by itself, and through an inbox."""

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
from conftest import eventually, until
from support.inboxes import confirm, draining, event, is_empty, put, routed

from asana_webhooks import Event, Failure, GiveUp, MemoryStore, TryAgain
from asana_webhooks._failures import MAX_REASON, BackOff, described, reason_of
from asana_webhooks._handlers import HandlerError
from asana_webhooks.models import DeadLetter, Progress, decode_event
from asana_webhooks.router import Router
from asana_webhooks.telemetry import Counters

BACK_OFF = BackOff(max_attempts=3, first_delay=1.5, longest_delay=700.0)


def failure(handler: str, cause: BaseException) -> HandlerError:
    made = HandlerError(handler)
    made.__cause__ = cause
    return made


# The judgement


@pytest.mark.parametrize("attempts", range(1, 30))
def test_delays_double_with_jitter_up_to_the_longest(attempts: int) -> None:
    longest = min(1.5 * 2.0 ** (attempts - 1), 700.0)
    delays = [BACK_OFF.delay(attempts) for _ in range(50)]
    assert all(longest / 2 <= delay <= longest for delay in delays)
    assert len(set(delays)) > 1


def test_failed_handlers_are_tried_again_until_the_last_attempt() -> None:
    one, two = failure("one", KeyError()), failure("two", OSError())
    verdict = BACK_OFF.judge([one, two], 2)
    assert (verdict.again, verdict.dead, verdict.attempts) == ((one, two), (), 2)
    assert 1.5 <= verdict.delay <= 3.0
    verdict = BACK_OFF.judge([one, two], 3)
    assert (verdict.again, verdict.dead, verdict.delay) == ((), (one, two), 0.0)


def test_handler_that_gives_up_is_not_tried_again_and_the_others_are() -> None:
    one, two = failure("one", GiveUp("gone")), failure("two", OSError())
    verdict = BACK_OFF.judge([one, two], 1)
    assert (verdict.again, verdict.dead) == ((two,), (one,))


def test_delay_is_the_longest_that_a_handler_chose() -> None:
    failures = [failure("one", TryAgain(after=40.0)), failure("two", TryAgain(after=50.0))]
    assert BACK_OFF.judge(failures, 1).delay == 50.0
    assert BACK_OFF.judge([*failures, failure("three", OSError())], 1).delay == 50.0
    assert BACK_OFF.judge(failures, 3).again == ()  # it counts as an attempt


class Busy(TryAgain):
    def __init__(self) -> None:  # which leaves out what the class above does
        Exception.__init__(self, "busy")


class Gone(GiveUp):
    def __init__(self) -> None:
        Exception.__init__(self, "gone")


def test_decision_of_a_class_of_the_programs_own_need_not_call_the_one_above() -> None:
    assert BACK_OFF.judge([failure("one", Busy())], 1).delay == 60.0
    verdict = BACK_OFF.judge([failure("one", Gone())], 1)
    letter = decode_event(event(1).encode())
    assert reason_of(letter, verdict).endswith("handler one gave up: ")


@pytest.mark.parametrize("after", ["soon", None, -1.0, math.nan, math.inf])
def test_delay_that_cannot_be_is_the_usual_one(after: Any) -> None:
    decision = TryAgain()
    decision.after = after
    assert 0.75 <= BACK_OFF.judge([failure("one", decision)], 1).delay <= 1.5


def test_reason_names_event_action_resource_handlers_and_errors() -> None:
    of = decode_event(event("1204").encode())
    failures = [failure("a:b", GiveUp("no such task")), failure("c:d", KeyError("x\ny"))]
    assert reason_of(of, BACK_OFF.judge(failures, 3)) == (
        f"event {of.key} (changed task 1204): handler a:b gave up: no such task;"
        " handler c:d failed 3 times: KeyError('x\\ny')"
    )


def test_reason_is_one_line_of_bounded_length_whatever_is_in_it() -> None:
    text = event("1\\n2" * 1000, action="\\u001b[31m")
    of = decode_event(text.encode())
    many = [failure("h" * 100, ValueError("x" * 1000)) for _ in range(20)]
    reason = reason_of(of, BACK_OFF.judge(many, 3))
    assert len(reason) <= MAX_REASON
    assert reason.isprintable()
    assert described(of).isprintable()


# Through an inbox


class Handlers:
    """Makes handlers that note what they get, and fail as they are told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[tuple[str, str], BaseException] = {}

    def named(self, name: str) -> Callable[[Event], Any]:
        async def handle(event: Event) -> None:
            self.calls.append((name, event.resource.gid))
            if (name, event.resource.gid) in self.failing:
                raise self.failing[name, event.resource.gid]

        handle.__qualname__ = name
        return handle

    def count(self, name: str, gid: str) -> int:
        return self.calls.count((name, gid))


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await confirm(store, "a", gid="71", resource="12")
    return store


def pending(letter: DeadLetter) -> tuple[tuple[str, ...], list[str]]:
    """Return the handlers of a dead letter, without their module, and the gids of its events."""
    names = tuple(name.rpartition(":")[2] for name in letter.handlers)
    return names, [each["resource"]["gid"] for each in json.loads(letter.body)["events"]]


@pytest.mark.parametrize("order", ["resource", "webhook"])
async def test_neighbours_of_a_poisonous_event_are_handled_once(
    store: MemoryStore, handlers: Handlers, order: str
) -> None:
    handlers.failing["h", "POISON"] = RuntimeError("never")
    await put(store, "a", *map(event, ("A", "POISON", "B", "C", "D")))
    async with draining(store, handlers.named("h"), max_attempts=5, order=order):
        (letter,) = await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert pending(letter) == (("h",), ["POISON"])
    assert {gid: handlers.count("h", gid) for gid in "ABCD"} == dict.fromkeys("ABCD", 1)
    assert handlers.count("h", "POISON") == 5


@pytest.mark.parametrize("failing", ["first", "second"])
async def test_other_handlers_of_an_event_run_once(
    store: MemoryStore, handlers: Handlers, failing: str
) -> None:
    handlers.failing[failing, "1"] = RuntimeError("never")
    await put(store, "a", event(1))
    names = ("first", "second", "third")
    async with draining(store, *map(handlers.named, names), max_attempts=4):
        (letter,) = await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert pending(letter) == ((failing,), ["1"])
    assert handlers.calls[:3] == [(name, "1") for name in names]
    assert handlers.calls[3:] == [(failing, "1")] * 3


async def test_handlers_that_fail_in_turn_each_have_what_is_left_for_them(
    store: MemoryStore, handlers: Handlers
) -> None:
    handlers.failing = {("one", "1"): OSError(), ("two", "1"): OSError()}
    await put(store, "a", event(1))
    async with draining(store, *map(handlers.named, ("one", "two", "three")), first_delay=0.05):
        await until(lambda: len(handlers.calls) == 3)
        del handlers.failing["one", "1"]
        await until(lambda: handlers.count("two", "1") == 3)
        handlers.failing.clear()
        await eventually(lambda: is_empty(store))
    assert handlers.calls[:5] == [
        *(("one", "1"), ("two", "1"), ("three", "1")),
        *(("one", "1"), ("two", "1")),
    ]
    assert set(handlers.calls[5:]) == {("two", "1")}


async def test_event_of_which_one_handler_gave_up_is_a_dead_letter_for_that_one(
    store: MemoryStore, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.failing = {("one", "1"): GiveUp("the task is gone"), ("two", "1"): OSError()}
    await put(store, "a", event(1))
    async with draining(store, *map(handlers.named, ("one", "two"))):
        (letter,) = await eventually(store.dead_letters)
        handlers.failing.clear()
        await eventually(lambda: is_empty(store))
    assert pending(letter) == (("one",), ["1"])
    assert letter.reason.endswith("one gave up: the task is gone")
    assert handlers.count("one", "1") == 1
    assert handlers.count("two", "1") > 1
    words = [record.getMessage().rpartition(", ")[2] for record in caplog.records]
    assert words[0] == f"now dead letter {letter.id}"
    assert words[1].startswith("again in ")


async def test_one_of_which_all_gave_up_after_it_was_tried_again_is_removed(
    store: MemoryStore, handlers: Handlers
) -> None:
    handlers.failing["one", "1"] = OSError()
    await put(store, "a", event(1))
    async with draining(store, handlers.named("one")):
        await until(lambda: handlers.calls)
        handlers.failing["one", "1"] = GiveUp()
        await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))


async def test_handler_chooses_when_it_is_tried_again(
    store: MemoryStore, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.failing["one", "1"] = TryAgain(after=0.02)
    await put(store, "a", event(1))
    async with draining(
        store, handlers.named("one"), first_delay=600.0, longest_delay=600.0, max_attempts=3
    ):
        await eventually(store.dead_letters)
    assert handlers.count("one", "1") == 3
    assert caplog.text.count("again in 0.0 s") == 2


@pytest.mark.parametrize("beside", [False, True])
async def test_event_is_tried_again_in_time_however_seldom_it_is_looked_for_others(
    store: MemoryStore, handlers: Handlers, *, beside: bool
) -> None:
    go_on = asyncio.Event()

    async def wait(event: Event) -> None:
        if event.resource.gid == "2":
            await go_on.wait()

    handlers.failing["one", "1"] = OSError()
    await put(store, "a", event(1), *([event(2)] if beside else []))
    async with draining(
        store, handlers.named("one"), wait, max_attempts=4, first_delay=0.05, poll=3600.0
    ):
        await eventually(store.dead_letters)
        go_on.set()
        await eventually(lambda: is_empty(store))
    assert handlers.count("one", "1") == 4


async def test_retries_that_fall_due_together_are_looked_for_once(
    store: MemoryStore, handlers: Handlers
) -> None:
    gids = [str(number) for number in range(200)]
    handlers.failing = {("one", gid): TryAgain(after=0.5) for gid in gids}
    await put(store, "a", *map(event, gids))
    async with draining(store, handlers.named("one"), poll=3600.0) as inbox:
        await until(lambda: len(handlers.calls) == 200 and inbox._claims._due)
        assert len(inbox._claims._due) < 20
        inbox.stop()
        assert not inbox._claims._due


async def test_failure_is_one_error_with_traceback_and_resource(
    store: MemoryStore, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.failing["one", "1204"] = RuntimeError("no")
    await put(store, "a", event(1204))
    counters = Counters()
    async with draining(store, handlers.named("one"), max_attempts=2, telemetry=counters):
        await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("(changed task 1204)" in record.getMessage() for record in caplog.records)
    assert all(record.exc_info for record in caplog.records)
    assert counters.failures == 2


# Handlers that are no more


async def test_event_whose_handler_is_registered_no_more_becomes_a_dead_letter(
    store: MemoryStore, handlers: Handlers
) -> None:
    handlers.failing = {("gone", "1"): OSError(), ("stays", "1"): OSError()}
    await put(store, "a", event(1))
    async with draining(store, *map(handlers.named, ("gone", "stays"))):
        await until(lambda: len(handlers.calls) >= 2)
    handlers.calls.clear()
    handlers.failing.clear()
    async with draining(store, handlers.named("stays"), handlers.named("new")):
        (letter,) = await eventually(store.dead_letters)
        await eventually(lambda: is_empty(store))
    assert pending(letter) == (("gone",), ["1"])
    assert letter.reason.endswith("gone gave up: no handler of this name is registered any more")
    assert handlers.calls == [("stays", "1")]


async def test_replay_of_an_event_that_no_named_handler_is_left_for_goes_to_all(
    store: MemoryStore, handlers: Handlers
) -> None:
    await put(store, "a", event(1))
    claim = await store.claim(limit=1, lease=60.0)
    assert claim is not None
    from asana_webhooks.models import Settlement

    (delivery,) = claim.deliveries
    letter = DeadLetter(
        route="a",
        body=delivery.body,
        reason="its process ended",
        received_at=delivery.received_at,
        buried_at=delivery.received_at,
    )
    await store.end_claim(claim, Settlement(removed=(delivery.id,), letters=(letter,)))
    await store.replay([each.id for each in await store.dead_letters()])
    async with draining(store, handlers.named("one"), handlers.named("two")):
        await eventually(lambda: is_empty(store))
    assert handlers.calls == [("one", "1"), ("two", "1")]


async def test_replay_goes_to_the_handler_that_failed_alone(
    store: MemoryStore, handlers: Handlers
) -> None:
    handlers.failing["one", "1"] = GiveUp()
    await put(store, "a", event(1))
    async with draining(store, handlers.named("one"), handlers.named("two")):
        (letter,) = await eventually(store.dead_letters)
        handlers.failing.clear()
        await store.replay([letter.id])
        await eventually(lambda: is_empty(store))
    assert handlers.calls == [("one", "1"), ("two", "1"), ("one", "1")]


# Restarts


async def test_finished_handlers_of_an_event_are_not_run_again_after_a_restart(
    store: MemoryStore, handlers: Handlers
) -> None:
    go_on = asyncio.Event()

    async def hang(event: Event) -> None:
        handlers.calls.append(("hangs", event.resource.gid))
        await go_on.wait()

    await put(store, "a", event(1), event(2))
    router = routed(handlers.named("first"), hang, handlers.named("last"))
    async with draining(store, router=router, grace=0.01):
        await until(lambda: handlers.count("hangs", "2"))
    go_on.set()
    async with draining(store, router=router):
        await eventually(lambda: is_empty(store))
    assert handlers.count("first", "1") == handlers.count("last", "1") == 1
    assert handlers.count("first", "2") == handlers.count("last", "2") == 1
    assert handlers.count("hangs", "1") == 2


async def test_finished_handlers_of_an_event_are_written_while_others_run(
    store: MemoryStore, handlers: Handlers
) -> None:
    go_on = asyncio.Event()

    async def hang(event: Event) -> None:
        await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, handlers.named("first"), hang):
        await until(lambda: any(_partly(store)))
        assert _partly(store) == [{0: ("test_failures:first",)}]
        go_on.set()
        await eventually(lambda: is_empty(store))


def _partly(store: MemoryStore) -> list[dict[int, tuple[str, ...]]]:
    taken = store._queues["a"].taken.values() if "a" in store._queues else ()
    return [Progress.decode(entry.delivery.progress).partly for entry in taken]


async def test_drain_that_is_stopped_begins_no_other_handler_of_an_event(
    store: MemoryStore, handlers: Handlers
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(event: Event) -> None:
        started.set()
        await go_on.wait()

    await put(store, "a", event(1))
    async with draining(store, slow, handlers.named("next")) as inbox:
        await started.wait()
        inbox.stop()
        go_on.set()
    assert handlers.calls == []
    claim = await store.claim(limit=1, lease=60.0)
    assert claim is not None
    (names,) = Progress.decode(claim.deliveries[0].progress).partly.values()
    assert [name.rpartition(".")[2] for name in names] == ["slow"]


async def test_next_handler_runs_when_one_does_not_let_go_of_its_task(
    store: MemoryStore, handlers: Handlers
) -> None:
    go_on = asyncio.Event()

    async def swallow(event: Event) -> None:
        for _ in range(9):
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    await put(store, "a", event(1))
    options: dict[str, Any] = {"handler_timeout": 0.01, "grace": 0.01, "max_attempts": 1}
    async with draining(store, swallow, handlers.named("next"), **options):
        (letter,) = await eventually(store.dead_letters)
        assert handlers.calls == [("next", "1")]
        assert "TimeoutError" in letter.reason
        go_on.set()
    assert len(await store.dead_letters()) == 1


# Handlers of failures


async def test_handlers_of_failures_see_each_and_the_dead_letter(
    store: MemoryStore, handlers: Handlers
) -> None:
    error, told = RuntimeError("never"), list[Failure]()
    handlers.failing["one", "1"] = error
    router = routed(handlers.named("one"))

    @router.on_failure
    async def note(failure: Failure) -> None:
        told.append(failure)

    await put(store, "a", event(1))
    async with draining(store, router=router, max_attempts=2):
        await until(lambda: len(told) == 2)
        (letter,) = await store.dead_letters()
    first, last = told
    assert (first.attempt, last.attempt) == (1, 2)
    assert first.dead_letter is None
    assert last.dead_letter == letter
    assert letter.handlers == (last.handler,) == ("test_failures:one",)
    assert last.error is error
    assert last.event.resource.gid == "1"


@pytest.mark.parametrize("how", ["raises", "hangs", "swallows its cancellation"])
async def test_handler_of_failures_that_fails_is_logged_and_harms_nothing(
    store: MemoryStore, handlers: Handlers, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    handlers.failing["one", "1"] = OSError()
    router, told, go_on = routed(handlers.named("one")), list[str](), asyncio.Event()

    @router.on_failure
    async def odd(failure: Failure) -> None:
        if how == "raises":
            raise LookupError
        for _ in range(9):
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                if how == "hangs":
                    raise

    @router.on_failure
    async def note(failure: Failure) -> None:
        told.append(failure.handler)

    await put(store, "a", event(1), event(2))
    options: dict[str, Any] = {"handler_timeout": 0.5, "grace": 0.01, "max_attempts": 1}
    async with draining(store, router=router, concurrency=1, **options):
        await until(lambda: handlers.count("one", "2"))
        await eventually(lambda: is_empty(store))
        if how == "swallows its cancellation":
            assert "odd goes on although it was cancelled" in caplog.text
        else:
            await until(lambda: told)
            assert "handler of failures" in caplog.text
        go_on.set()
    assert len(await store.dead_letters()) == 1


def test_router_without_handlers_of_failures_has_none() -> None:
    assert Router().failure_handlers == ()


async def test_handler_of_failures_that_goes_on_for_ever_is_no_failure_of_the_event_behind() -> (
    None
):
    store, handled, router, end = MemoryStore(), list[str](), Router(), asyncio.Event()
    await confirm(store, "a")
    await put(store, "a", event(1), event(2))
    assert await store.claim(limit=1, lease=0.0)  # a process that ended: events are one by one

    @router.on()
    async def handle(event: Event) -> None:
        handled.append(event.resource.gid)
        if event.resource.gid == "1":
            raise GiveUp

    @router.on_failure
    async def stay(_: Failure) -> None:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    async with draining(store, router=router, handler_timeout=0.01, grace=0.01):
        await eventually(lambda: is_empty(store))
        end.set()
    assert handled == ["1", "2"]
    assert (await store.counts()).dead_letters == 1
