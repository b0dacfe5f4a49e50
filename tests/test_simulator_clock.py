"""The clock of the local Asana: it goes by itself, and can be driven through hours at once."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace

import anyio
import pytest
from conftest import guard, until

from asana_webhooks.simulator import clock as module
from asana_webhooks.simulator.clock import Clock

HOUR = 3600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def start(clock: Clock, *seconds: float, log: list[float], work: float = 0.0) -> asyncio.Task[None]:
    """Start a followed task that sleeps so often, and notes each time to the minute, in seconds."""
    started = clock.now()

    async def sleeper() -> None:
        for each in seconds:
            await clock.sleep(each)
            log.append(round((clock.now() - started).total_seconds() / 60) * 60)
            await asyncio.sleep(work)

    task = asyncio.create_task(sleeper(), name="a sleeper")
    clock.follow(task)
    return task


def test_time_is_real_and_in_whole_milliseconds(clock: Clock) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    now = clock.now()
    assert before < now <= datetime.now(UTC)
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0


async def test_sleep_ends_by_itself_when_nobody_drives(clock: Clock) -> None:
    before = clock.now()
    await clock.sleep(0.01)
    assert clock.now() >= before + timedelta(seconds=0.01)
    await clock.sleep_until(before + timedelta(seconds=0.02))
    assert clock.now() >= before + timedelta(seconds=0.02)


async def test_sleep_is_not_over_before_its_time_when_the_machine_s_clock_is_slow(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SimpleNamespace(time=lambda: 1_800_000_000 + time.monotonic() / 2)
    monkeypatch.setattr(module, "time", slow)
    before = clock.now()
    await clock.sleep(0.01)
    assert clock.now() >= before + timedelta(seconds=0.01)


async def test_sleep_until_what_has_passed_is_over_at_once(clock: Clock) -> None:
    with guard():
        await clock.sleep(0)
        await clock.sleep(-HOUR)
        await clock.sleep_until(clock.now() - timedelta(hours=1))


async def test_event_ends_a_sleep(clock: Clock) -> None:
    event = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.sleep(HOUR, unless=event))
        await anyio.wait_all_tasks_blocked()
        event.set()
    with guard():
        await clock.sleep(HOUR, unless=event)


async def test_sleeper_whose_event_is_set_counts_as_awake(clock: Clock) -> None:
    event = asyncio.Event()
    log: list[str] = []

    async def work() -> None:
        await clock.sleep(HOUR, unless=event)
        await asyncio.sleep(0.005)
        log.append("done")

    clock.follow(asyncio.create_task(work()))
    await clock.advance(1, patience=5)
    assert log == []
    event.set()
    await clock.advance(0, patience=5)
    assert log == ["done"]


async def test_hours_pass_at_once_through_every_timer_in_order(clock: Clock) -> None:
    log: list[float] = []
    start(clock, HOUR, 3 * HOUR, log=log)
    start(clock, 2 * HOUR, 8 * HOUR, log=log)
    before = clock.now()
    await clock.advance(9 * HOUR, patience=5)
    assert log == [HOUR, 2 * HOUR, 4 * HOUR]
    assert clock.now() >= before + timedelta(hours=9)
    await clock.advance(HOUR, patience=5)
    assert log == [HOUR, 2 * HOUR, 4 * HOUR, 10 * HOUR]


async def test_time_stands_still_while_work_is_done(clock: Clock) -> None:
    log: list[float] = []
    start(clock, *[HOUR] * 8, log=log, work=0.005)
    await clock.advance(8 * HOUR, patience=5)
    assert log == [HOUR * each for each in range(1, 9)]


async def test_timers_of_one_moment_go_in_the_order_of_those_who_sleep(clock: Clock) -> None:
    order: list[str] = []

    async def sleeper(name: str, moment: datetime) -> None:
        await clock.sleep_until(moment)
        order.append(f"{name} wakes")
        await asyncio.sleep(0)
        order.append(f"{name} ends")

    moment = clock.now() + timedelta(hours=1)
    for name in ("first", "second"):
        clock.follow(asyncio.create_task(sleeper(name, moment)))
    await clock.advance(HOUR, patience=5)
    assert order == ["first wakes", "first ends", "second wakes", "second ends"]


async def test_work_that_is_under_way_is_done_first(clock: Clock) -> None:
    log: list[float] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        await clock.sleep(1)
        log.append(1)

    clock.follow(asyncio.create_task(work()))
    await clock.advance(1, patience=5)
    assert log == [1]


async def test_rest_of_a_sleep_takes_its_real_time(clock: Clock) -> None:
    log: list[float] = []
    task = start(clock, HOUR, log=log)
    await clock.advance(HOUR - 0.3, patience=5)
    assert not task.done()
    await until(task.done)
    assert log == [HOUR]


async def test_no_timer_of_before_rings_when_time_was_driven(clock: Clock) -> None:
    errors: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: errors.append(context["message"]))
    task = start(clock, 0.04, log=[])
    await anyio.wait_all_tasks_blocked()
    latest = loop.time() + 0.05
    await clock.advance(0.03, patience=5)
    await until(task.done)
    await until(lambda: loop.time() > latest)
    assert errors == []


async def test_sleeper_that_nobody_follows_is_woken_and_not_waited_for(clock: Clock) -> None:
    task = asyncio.create_task(clock.sleep(HOUR))
    await anyio.wait_all_tasks_blocked()
    await clock.advance(HOUR, patience=5)
    await until(task.done)


async def test_callbacks_are_called_in_order_until_the_clock_is_stopped(clock: Clock) -> None:
    log: list[float] = []
    start(clock, 2 * HOUR, log=log)
    begun = clock.now()
    for hours in (3, 1, 30):
        clock.call_at(begun + timedelta(hours=hours), partial(log.append, hours * HOUR))
    await clock.advance(4 * HOUR, patience=5)
    assert log == [HOUR, 2 * HOUR, 3 * HOUR]
    clock.stop()
    await clock.advance(40 * HOUR, patience=5)
    assert log == [HOUR, 2 * HOUR, 3 * HOUR]


async def test_callback_comes_by_itself_when_nobody_drives(clock: Clock) -> None:
    called = asyncio.Event()
    clock.call_at(clock.now() + timedelta(seconds=0.01), called.set)
    with guard():
        await called.wait()


async def test_cancelled_sleeper_is_forgotten(clock: Clock) -> None:
    log: list[float] = []
    task = start(clock, HOUR, log=log)
    await anyio.wait_all_tasks_blocked()
    task.cancel()
    await clock.advance(2 * HOUR, patience=5)
    assert task.cancelled()
    assert log == []


async def test_time_driven_by_two_adds_up(clock: Clock) -> None:
    log: list[float] = []
    start(clock, HOUR, HOUR, HOUR, log=log, work=0.005)
    before = clock.now()
    async with asyncio.TaskGroup() as group:
        group.create_task(clock.advance(HOUR, patience=5))
        group.create_task(clock.advance(HOUR, patience=5))
    assert log == [HOUR, 2 * HOUR]
    assert clock.now() >= before + timedelta(hours=2)


async def test_work_without_an_end_is_named_and_time_stays_there(clock: Clock) -> None:
    before = clock.now()
    log: list[float] = []
    task = start(clock, HOUR, HOUR, log=log, work=60)
    with pytest.raises(
        TimeoutError, match=r"^at [-\d]+ [:\d]+ nothing ended for 0\.01 s: a sleeper$"
    ):
        await clock.advance(9 * HOUR, patience=0.01)
    at = before + timedelta(hours=1)
    assert at <= clock.now() < at + timedelta(minutes=1)
    task.cancel()
    await clock.advance(HOUR, patience=5)
    assert clock.now() >= before + timedelta(hours=2)
