import asyncio

import anyio
import pytest
from conftest import guard

from asana_webhooks._deadline import Deadline


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_what_ends_in_time_returns_its_value() -> None:
    assert await Deadline(10.0).wait_for(answer(7)) == 7


async def test_what_raises_raises() -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await Deadline(10.0).wait_for(fail())


async def test_what_takes_too_long_is_cancelled_and_the_task_goes_on() -> None:
    cancelled = False

    async def hang() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise

    with pytest.raises(TimeoutError):
        await Deadline(0.01).wait_for(hang())
    assert cancelled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await answer(1) == 1


async def test_only_those_that_are_late_end() -> None:
    deadline, go_on = Deadline(0.6), asyncio.Event()

    async def late() -> str:
        with pytest.raises(TimeoutError):
            await deadline.wait_for(asyncio.Event().wait())
        go_on.set()
        return "late"

    async def later() -> bool:
        await asyncio.sleep(0.5)
        return await deadline.wait_for(go_on.wait())

    assert [*await asyncio.gather(late(), later())] == ["late", True]


async def test_cancellation_from_outside_passes_through() -> None:
    task = asyncio.create_task(Deadline(10.0).wait_for(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_from_outside_wins_when_both_come() -> None:
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            task.cancel()  # from outside, while the deadline's is being delivered

    task = asyncio.create_task(Deadline(0.01).wait_for(stubborn()))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_one_that_makes_something_else_of_its_end_leaves_the_task_as_it_was() -> None:
    async def turn(what: Exception | int) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if isinstance(what, Exception):
                raise what from None
            return what
        return 0

    deadline = Deadline(0.01)
    assert await deadline.wait_for(turn(7)) == 7
    with pytest.raises(LookupError):
        await deadline.wait_for(turn(LookupError()))
    with pytest.raises(TimeoutError):
        await deadline.wait_for(asyncio.Event().wait())


async def test_one_that_does_not_heed_is_cancelled_once() -> None:
    times = 0

    async def slow_to_end() -> None:
        nonlocal times
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            times += 1
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0.03)
            raise

    with pytest.raises(TimeoutError):
        await Deadline(0.01).wait_for(slow_to_end())
    assert times == 1


async def test_it_watches_no_longer_than_there_is_something_to_watch() -> None:
    deadline = Deadline(0.008)
    await deadline.wait_for(answer(1))
    with guard():
        while deadline._watching:
            await asyncio.sleep(0.001)
    assert await deadline.wait_for(answer(2)) == 2


def test_it_serves_the_next_loop_when_one_was_closed_while_it_watched() -> None:
    async def hang() -> None:
        with guard(), pytest.raises(TimeoutError):
            await deadline.wait_for(asyncio.Event().wait())

    deadline = Deadline(0.01)
    assert asyncio.run(deadline.wait_for(answer(1))) == 1
    asyncio.run(hang())
