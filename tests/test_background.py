import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from asana_webhooks._background import background_task


class Work:
    """Work that goes on until it is cancelled, and then cleans up."""

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing
        self.steps: list[str] = []

    async def __call__(self) -> str:
        self.steps.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.steps.append("cleaned up")
            if self.failing:
                raise OSError("no clean-up")
        raise AssertionError("it sleeps for ever")


@pytest.fixture(autouse=True)
async def tidy() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert {
        task
        for task in asyncio.all_tasks() - before
        if task.get_name().startswith("asana-webhooks")
    } == set()


async def test_work_runs_beside_the_body_and_ends_with_it() -> None:
    work = Work()
    async with background_task(work(), "work") as task:
        await checkpoint()
        assert work.steps == ["begun"]
        assert task.get_name() == "asana-webhooks work"
    assert work.steps == ["begun", "cleaned up"]
    assert task.cancelled()


async def test_work_that_ended_by_itself_keeps_its_result() -> None:
    async def answer() -> int:
        return 42

    async with background_task(answer(), "answer") as task:
        await asyncio.wait([task])
    assert task.result() == 42


async def test_error_of_the_work_is_that_of_the_body() -> None:
    with pytest.raises(OSError, match="no clean-up"):
        async with background_task(Work(failing=True)(), "work"):
            await checkpoint()


async def test_error_of_the_body_ends_the_work() -> None:
    work = Work()

    async def fail() -> None:
        async with background_task(work(), "work"):
            await checkpoint()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert work.steps == ["begun", "cleaned up"]


async def test_clean_up_is_waited_for_when_the_body_is_cancelled() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        async with background_task(work(), "work"):
            await checkpoint()
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    assert work.steps == ["begun", "cleaned up"]


async def test_body_may_be_entered_and_left_in_different_tasks() -> None:
    work = Work()
    context = background_task(work(), "work")
    await asyncio.create_task(context.__aenter__())
    await checkpoint()
    await asyncio.create_task(context.__aexit__(None, None, None))
    assert work.steps == ["begun", "cleaned up"]
