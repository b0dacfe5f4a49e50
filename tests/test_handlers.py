import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from conftest import guard, until

from asana_webhooks import _handlers as module
from asana_webhooks._handlers import BLOCKED_FOR, LONG, HandlerError, HandlerRunner
from asana_webhooks.models import Event, Resource
from asana_webhooks.router import Router

EVENT = Event(
    created_at=datetime(2026, 7, 4, tzinfo=UTC),
    action="changed",
    resource=Resource(gid="1", resource_type="task"),
)

AsyncHandler = Callable[[Event], Coroutine[Any, Any, object]]


def never(failure: HandlerError) -> None:
    raise AssertionError(failure)


async def run(
    *handlers: AsyncHandler,
    timeout: float | None = None,
    grace: float = 60.0,
    stopping: bool = False,
    abandon: Callable[[HandlerError], None] = never,
) -> None:
    """Run handlers on an event, as a worker does."""
    router = Router()
    for handler in handlers:
        router.on()(handler)
    runner = HandlerRunner(
        timeout=timeout,
        grace=grace,
        is_stopping=lambda: stopping,
        abandon=abandon,
        on_wait=lambda: None,
    )

    async def work() -> None:
        for subscription in router.handlers(EVENT):
            await runner.run(subscription, EVENT)

    try:
        await runner.watch(work())
    finally:
        runner.close()


async def failure_of(handler: AsyncHandler, **options: Any) -> HandlerError:
    with pytest.raises(HandlerError) as caught:
        await run(handler, **options)
    return caught.value


# Failed attempts


class PanicException(BaseException):
    """The error that a library in Rust raises when it panics."""


def fails_with(error: BaseException) -> AsyncHandler:
    async def failing(event: Event) -> None:
        await asyncio.sleep(0)
        raise error

    return failing


def fails_at_once_with(error: BaseException) -> AsyncHandler:
    async def failing(event: Event) -> None:
        raise error

    return failing


def fails_when_called_with(error: BaseException) -> AsyncHandler:
    async def failing(event: Event) -> None: ...

    class Failing(functools.partial[Coroutine[Any, Any, None]]):
        def __call__(self, /, *_: object, **__: object) -> Coroutine[Any, Any, None]:
            raise error  # before there is a coroutine

    return Failing(failing)


@pytest.mark.parametrize("failing", [fails_with, fails_at_once_with, fails_when_called_with])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ValueError("odd"), id="exception"),
        pytest.param(SystemExit(3), id="SystemExit"),
        pytest.param(RecursionError(), id="RecursionError"),
        pytest.param(MemoryError(), id="MemoryError"),
        pytest.param(TimeoutError(), id="TimeoutError"),
        pytest.param(StopAsyncIteration(), id="StopAsyncIteration"),
        pytest.param(ExceptionGroup("several", [ValueError()]), id="ExceptionGroup"),
        pytest.param(asyncio.CancelledError(), id="CancelledError of its own"),
        pytest.param(PanicException("at src/lib.rs:1"), id="panic"),
        pytest.param(GeneratorExit(), id="GeneratorExit"),
        pytest.param(pytest.fail.Exception("by hand"), id="pytest's Failed"),
        pytest.param(pytest.exit.Exception("by hand"), id="pytest's Exit"),
        pytest.param(BaseExceptionGroup("one", [PanicException()]), id="BaseExceptionGroup"),
    ],
)
async def test_whatever_a_handler_raises_is_a_failed_attempt_with_the_cause(
    failing: Callable[[BaseException], AsyncHandler], error: BaseException
) -> None:
    failure = await failure_of(failing(error))
    assert failure.__cause__ is error
    assert failure.handler == f"test_handlers:{failing.__name__}.<locals>.failing"


async def test_handler_that_calls_itself_for_ever_is_a_failed_attempt() -> None:
    async def handler(event: Event) -> None:
        await handler(event)

    assert isinstance((await failure_of(handler)).__cause__, RecursionError)


async def test_cancelled_child_of_a_handler_is_a_failed_attempt() -> None:
    async def handler(event: Event) -> None:
        child = asyncio.create_task(anyio.sleep_forever())
        child.cancel()
        await child

    assert isinstance((await failure_of(handler)).__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("failing", [fails_at_once_with, fails_when_called_with])
async def test_keyboard_interrupt_is_no_failed_attempt(
    failing: Callable[[BaseException], AsyncHandler],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        await run(failing(KeyboardInterrupt()))


# Cancellation


@pytest.mark.parametrize("how", ["the task", "a scope"])
async def test_handler_that_is_cancelled_with_the_whole_ends_and_that_goes_on(how: str) -> None:
    said: list[str] = []

    async def handler(event: Event) -> None:
        said.append("begins")
        try:
            await anyio.sleep_forever()
        finally:
            said.append("ends")

    async def work() -> None:
        with scope:
            await run(handler, stopping=True)

    scope = anyio.CancelScope()
    task = asyncio.create_task(work())
    await until(lambda: said)
    (task if how == "the task" else scope).cancel()
    await asyncio.wait([task])
    assert said == ["begins", "ends"]
    assert task.cancelled() if how == "the task" else scope.cancelled_caught


async def test_handler_that_the_program_cancels_has_failed_and_the_task_goes_on() -> None:
    async def handler(event: Event) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.cancel()  # as a program does that is impatient
        await anyio.sleep_forever()

    assert isinstance((await failure_of(handler)).__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # a TaskGroup of the next handler would take it for its own


@pytest.mark.parametrize("limit", [anyio.fail_after, asyncio.timeout])
async def test_timeout_of_the_handler_itself_is_a_failed_attempt(
    limit: Callable[[float], Any],
) -> None:
    async def handler(event: Event) -> None:
        scope = limit(0)
        if hasattr(scope, "__aenter__"):
            async with scope:
                await anyio.sleep_forever()
        with scope:
            await anyio.sleep_forever()

    assert isinstance((await failure_of(handler)).__cause__, TimeoutError)


# Handlers that do not end


async def sleep_for_ever(event: Event) -> None:
    await anyio.sleep_forever()


async def fail_late(event: Event) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise LookupError


async def return_late(event: Event) -> None:
    try:
        await anyio.sleep_forever()
    except asyncio.CancelledError:
        return


@pytest.mark.parametrize("late", [sleep_for_ever, fail_late, return_late])
async def test_handler_that_runs_for_too_long_is_cancelled_and_has_failed(
    late: AsyncHandler,
) -> None:
    with guard():
        failure = await failure_of(late, timeout=0.01)
    assert failure.handler == f"test_handlers:{late.__name__}"
    assert repr(failure.__cause__) == "TimeoutError('cancelled after 0.01 s')"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_traceback_of_a_handler_that_was_cancelled_shows_where_it_was() -> None:
    with guard():
        failure = await failure_of(sleep_for_ever, timeout=0.01)
    assert failure.__cause__ is not None
    cause = failure.__cause__.__cause__
    assert isinstance(cause, asyncio.CancelledError)
    traceback, names = cause.__traceback__, []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert "sleep_for_ever" in names


async def test_each_handler_has_the_whole_time() -> None:
    async def half(event: Event) -> None:
        await asyncio.sleep(0.4)

    with guard():
        await run(half, half, half, timeout=1.0)
        failure = await failure_of(sleep_for_ever, timeout=0.01)
    assert isinstance(failure.__cause__, TimeoutError)


async def test_time_begins_anew_for_the_handler_behind_one_that_was_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LONG", 0.05)

    async def until_named(event: Event) -> None:
        await until(lambda: "until_named has been running" in caplog.text)

    async def until_named_too(event: Event) -> None:
        await until(lambda: "until_named_too has been running" in caplog.text)

    await run(until_named, until_named_too, timeout=3600.0)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("timeout", [None, 300.0])
async def test_handler_that_runs_for_a_minute_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, timeout: float | None
) -> None:
    assert LONG == 60.0
    monkeypatch.setattr(module, "LONG", 0.01)

    async def slow(event: Event) -> None:
        await until(lambda: caplog.records)

    await run(slow, timeout=timeout)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "slow has been running for 0 s on event " + EVENT.key in record.getMessage()


async def test_handler_that_swallows_its_cancellation_is_abandoned_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    abandoned: list[HandlerError] = []
    go_on = asyncio.Event()

    async def swallow(event: Event) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    running = asyncio.create_task(
        failure_of(swallow, timeout=0.01, grace=0.01, abandon=abandoned.append)
    )
    await until(lambda: abandoned)
    assert "swallow goes on although it was cancelled" in caplog.text
    assert abandoned[0].handler.endswith("swallow")
    assert isinstance(abandoned[0].__cause__, TimeoutError)
    assert not running.done()
    go_on.set()
    assert isinstance((await running).__cause__, TimeoutError)


# Handlers that block the loop


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    return clock


async def test_handler_that_blocks_the_loop_is_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(event: Event) -> None:
        await asyncio.sleep(0)
        clock.now += BLOCKED_FOR + 1

    await run(slow)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(
        "<locals>.slow blocked the event loop for 1.5 s; use await, or a thread"
    )


async def test_handler_that_blocks_and_then_fails_is_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(event: Event) -> None:
        clock.now += BLOCKED_FOR + 1
        raise ValueError

    await failure_of(slow)
    assert len(caplog.records) == 1


async def test_handler_that_blocks_as_long_as_it_may_is_not_named(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def quick(event: Event) -> None:
        for _ in range(10):
            clock.now += BLOCKED_FOR
            await asyncio.sleep(0)

    await run(quick)
    assert caplog.records == []


async def test_handler_that_blocks_is_named_though_another_follows_in_the_same_step(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(event: Event) -> None:
        clock.now += BLOCKED_FOR + 1

    async def quick(event: Event) -> None:
        pass

    await run(quick, slow, quick)
    (record,) = caplog.records
    assert "<locals>.slow blocked" in record.getMessage()


async def test_time_in_which_a_handler_waits_is_not_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    released = anyio.Event()

    async def patient(event: Event) -> None:
        await released.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, patient)
        await anyio.wait_all_tasks_blocked()
        clock.now += 3600
        released.set()
    assert caplog.records == []


# A handler that is watched runs like any other


class Turn(Awaitable[Any]):
    """A waiting coroutine as a loop sees it, driven by hand."""

    def __await__(self) -> Generator[str, Any, Any]:
        return (yield "waits")


async def test_what_is_sent_and_thrown_reaches_the_handler() -> None:
    got: list[Any] = []

    async def ask_twice(event: Event) -> None:
        for _ in range(3):
            try:
                got.append(await Turn())
            except BaseException as error:  # noqa: BLE001 - all of it is noted
                got.append(type(error))

    steps = run(ask_twice)
    assert steps.send(None) == "waits"
    assert steps.send("a value") == "waits"
    assert steps.throw(asyncio.CancelledError()) == "waits"
    with pytest.raises(StopIteration):
        steps.send("another")
    assert got == ["a value", asyncio.CancelledError, "another"]


async def test_handler_whose_task_is_given_up_is_closed() -> None:
    closed: list[bool] = []

    async def wait(event: Event) -> None:
        try:
            await Turn()
        finally:
            closed.append(True)

    steps = run(wait)
    steps.send(None)
    steps.close()
    assert closed == [True]
