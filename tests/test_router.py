import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from asana_webhooks import router as module
from asana_webhooks.models import Change, Event, Resource
from asana_webhooks.router import BLOCKED_FOR, HandlerError, Router


def event(
    resource_type: str | None = "task",
    subtype: str | None = "default_task",
    action: str = "changed",
    change: Change | None = None,
) -> Event:
    return Event(
        created_at=datetime(2026, 7, 4, tzinfo=UTC),
        action=action,
        resource=Resource(gid="1", resource_type=resource_type, resource_subtype=subtype),
        change=change,
    )


COMPLETED = event(change=Change(field="completed", action="changed"))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    return clock


# Which events a handler gets


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        pytest.param({}, COMPLETED, True, id="any event"),
        pytest.param(
            {}, event(resource_type=None, subtype=None), True, id="any, even without type"
        ),
        pytest.param({"resource_type": "task"}, COMPLETED, True, id="type"),
        pytest.param({"resource_type": "story"}, COMPLETED, False, id="another type"),
        pytest.param({"resource_type": "task"}, event(resource_type=None), False, id="no type"),
        pytest.param({"subtype": "default_task"}, COMPLETED, True, id="subtype"),
        pytest.param({"subtype": "milestone"}, COMPLETED, False, id="another subtype"),
        pytest.param({"subtype": "milestone"}, event(subtype=None), False, id="no subtype"),
        pytest.param({"action": "changed"}, COMPLETED, True, id="action"),
        pytest.param({"action": "added"}, COMPLETED, False, id="another action"),
        pytest.param({"action": "Changed"}, COMPLETED, False, id="action in another case"),
        pytest.param({"field": "completed"}, COMPLETED, True, id="field"),
        pytest.param({"field": "completed_at"}, COMPLETED, False, id="another field"),
        pytest.param({"field": "completed"}, event(), False, id="field, without a change"),
        pytest.param({"field": "completed"}, event(change=Change()), False, id="no field"),
        pytest.param(
            {
                "resource_type": "task",
                "subtype": "default_task",
                "action": "changed",
                "field": "completed",
            },
            COMPLETED,
            True,
            id="everything",
        ),
        pytest.param(
            {"resource_type": "task", "action": "changed", "field": "name"},
            COMPLETED,
            False,
            id="all but one",
        ),
        pytest.param({"resource_type": ""}, COMPLETED, False, id="empty text is no wildcard"),
    ],
)
async def test_handler_gets_the_events_that_fit(
    router: Router,
    wanted: dict[str, str],
    given: Event,
    fits: bool,  # noqa: FBT001 - a column of the table
) -> None:
    got: list[Event] = []

    @router.on(**wanted)
    async def handler(event: Event) -> None:
        got.append(event)

    await router.dispatch(given)
    assert got == ([given] if fits else [])


async def test_handlers_run_one_after_the_other_as_registered(router: Router) -> None:
    steps: list[str] = []

    def register(name: str, **wanted: str) -> None:
        @router.on(**wanted)
        async def handler(event: Event) -> None:
            steps.append(f"{name} begins")
            await asyncio.sleep(0)
            steps.append(f"{name} ends")

    register("first")
    register("other", action="added")
    register("second", resource_type="task")
    await router.dispatch(COMPLETED)
    assert steps == ["first begins", "first ends", "second begins", "second ends"]


async def test_event_that_nobody_wants_is_dispatched(router: Router) -> None:
    await router.dispatch(COMPLETED)


async def test_handler_that_is_registered_twice_runs_twice(router: Router) -> None:
    got: list[Event] = []

    async def handler(event: Event) -> None:
        got.append(event)

    router.on(action="changed")(handler)
    router.on(resource_type="task")(handler)
    await router.dispatch(COMPLETED)
    assert len(got) == 2


def test_router_is_true_with_a_handler(router: Router) -> None:
    assert not router

    @router.on()
    async def handler(event: Event) -> None: ...

    assert router


# What may be a handler


async def takes_a_token(token: str, event: Event) -> None:
    raise ValueError


class Speaking:
    def __init__(self, token: str) -> None:
        self.token = token

    def __repr__(self) -> str:
        return f"Speaking({self.token})"

    async def __call__(self, event: Event) -> None:
        raise ValueError

    async def method(self, event: Event) -> None:
        raise ValueError

    @classmethod
    async def class_method(cls, event: Event) -> None:
        raise ValueError

    @staticmethod
    async def static_method(event: Event) -> None:
        raise ValueError


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        pytest.param(
            functools.partial(takes_a_token, "hidden"), "takes_a_token", id="partial function"
        ),
        pytest.param(
            functools.partial(functools.partial(takes_a_token), "hidden"),
            "takes_a_token",
            id="partial of a partial",
        ),
        pytest.param(
            functools.partial(Speaking("hidden").method), "Speaking.method", id="partial method"
        ),
        pytest.param(Speaking("hidden"), "Speaking", id="object"),
        pytest.param(functools.partial(Speaking("hidden")), "Speaking", id="partial object"),
        pytest.param(Speaking("hidden").method, "Speaking.method", id="method"),
        pytest.param(Speaking.class_method, "Speaking.class_method", id="class method"),
        pytest.param(Speaking.static_method, "Speaking.static_method", id="static method"),
    ],
)
async def test_whatever_is_async_is_a_handler_and_its_name_shows_no_arguments(
    router: Router, handler: Callable[..., Any], name: str
) -> None:
    assert router.on()(handler) is handler
    with pytest.raises(HandlerError) as caught:
        await router.dispatch(COMPLETED)
    assert caught.value.handler == name
    assert isinstance(caught.value.__cause__, ValueError)


def sync(event: Event) -> None:
    raise AssertionError("called")


class SyncCallable:
    def __call__(self, event: Event) -> None:
        raise AssertionError("called")


async def generator(event: Event) -> Any:
    yield event


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        pytest.param(sync, "sync", id="function"),
        pytest.param(functools.partial(sync), "sync", id="partial"),
        pytest.param(SyncCallable(), "SyncCallable", id="object"),
        pytest.param(SyncCallable, "SyncCallable", id="class"),
        pytest.param(Speaking, "Speaking", id="class of async objects"),
        pytest.param("sync", "str", id="name of a function"),
        pytest.param(generator, "generator", id="async generator"),
        pytest.param(lambda event: takes_a_token("", event), "<lambda>", id="lambda"),
    ],
)
def test_function_that_is_not_async_is_refused_by_name(
    router: Router, handler: Any, name: str
) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be `async def`"):
        router.on()(handler)
    assert not router


def test_decorator_without_parentheses_is_refused(router: Router) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        router.on(takes_a_token)  # type: ignore[arg-type] # the mistake itself
    assert not router


# Failed attempts


class Interrupt(BaseException):
    """What is not for handlers to raise, like KeyboardInterrupt."""


def fails_with(error: BaseException) -> Callable[[Event], Any]:
    async def failing(event: Event) -> None:
        await asyncio.sleep(0)
        raise error

    return failing


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
    ],
)
async def test_handler_that_raises_is_a_failed_attempt_with_the_cause(
    router: Router, error: BaseException
) -> None:
    router.on()(fails_with(error))
    with pytest.raises(HandlerError) as caught:
        await router.dispatch(COMPLETED)
    assert caught.value.__cause__ is error
    assert caught.value.handler == "fails_with.<locals>.failing"


async def test_handler_that_calls_itself_for_ever_is_a_failed_attempt(
    router: Router,
) -> None:
    @router.on()
    async def handler(event: Event) -> None:
        await handler(event)

    with pytest.raises(HandlerError) as caught:
        await router.dispatch(COMPLETED)
    assert isinstance(caught.value.__cause__, RecursionError)


async def test_cancelled_child_of_a_handler_is_a_failed_attempt(router: Router) -> None:
    @router.on()
    async def handler(event: Event) -> None:
        child = asyncio.create_task(anyio.sleep_forever())
        child.cancel()
        await child

    with pytest.raises(HandlerError) as caught:
        await router.dispatch(COMPLETED)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


async def test_handlers_behind_one_that_failed_do_not_run(router: Router) -> None:
    ran: list[str] = []

    @router.on()
    async def before(event: Event) -> None:
        ran.append("before")

    router.on()(fails_with(ValueError()))

    @router.on()
    async def behind(event: Event) -> None:
        ran.append("behind")

    with pytest.raises(HandlerError):
        await router.dispatch(COMPLETED)
    assert ran == ["before"]


async def test_interrupt_is_no_failed_attempt(router: Router) -> None:
    router.on()(fails_with(Interrupt()))
    with pytest.raises(Interrupt):
        await router.dispatch(COMPLETED)


# Cancellation


@pytest.mark.parametrize("how", ["the task", "a scope"])
async def test_handler_that_is_cancelled_ends_and_who_dispatched_it_is_told(
    router: Router, how: str
) -> None:
    said: list[str] = []

    @router.on()
    async def handler(event: Event) -> None:
        said.append("begins")
        try:
            await anyio.sleep_forever()
        finally:
            said.append("ends")

    async def dispatch(scope: anyio.CancelScope) -> None:
        with scope, pytest.raises(HandlerError) as caught:
            await router.dispatch(COMPLETED)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert "handler" in caught.value.handler

    scope = anyio.CancelScope()
    task = asyncio.create_task(dispatch(scope))
    await anyio.wait_all_tasks_blocked()
    assert said == ["begins"]
    (task if how == "the task" else scope).cancel()
    await task
    assert said == ["begins", "ends"]


@pytest.mark.parametrize("limit", [anyio.fail_after, asyncio.timeout])
async def test_timeout_of_the_handler_itself_is_a_failed_attempt(
    router: Router, limit: Callable[[float], Any]
) -> None:
    @router.on()
    async def handler(event: Event) -> None:
        scope = limit(0)
        if hasattr(scope, "__aenter__"):
            async with scope:
                await anyio.sleep_forever()
        with scope:
            await anyio.sleep_forever()

    with pytest.raises(HandlerError) as caught:
        await router.dispatch(COMPLETED)
    assert isinstance(caught.value.__cause__, TimeoutError)


async def test_dispatching_goes_on_after_a_handlers_own_timeout(router: Router) -> None:
    got: list[bool] = []

    @router.on()
    async def gives_up(event: Event) -> None:
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        got.append(scope.cancelled_caught)

    router.on()(fails_with(asyncio.CancelledError()))
    with pytest.raises(HandlerError):
        await router.dispatch(COMPLETED)
    assert got == [True]


# Handlers that block the loop


async def test_handler_that_blocks_the_loop_is_named(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    @router.on()
    async def slow(event: Event) -> None:
        await asyncio.sleep(0)
        clock.now += BLOCKED_FOR + 1

    await router.dispatch(COMPLETED)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().endswith(
        "<locals>.slow blocked the event loop for 1.5 s; use await, or a thread"
    )


async def test_handler_that_blocks_and_then_fails_is_named(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    @router.on()
    async def slow(event: Event) -> None:
        clock.now += BLOCKED_FOR + 1
        raise ValueError

    with pytest.raises(HandlerError):
        await router.dispatch(COMPLETED)
    assert len(caplog.records) == 1


async def test_handler_that_blocks_as_long_as_it_may_is_not_named(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    @router.on()
    async def quick(event: Event) -> None:
        for _ in range(10):
            clock.now += BLOCKED_FOR
            await asyncio.sleep(0)

    await router.dispatch(COMPLETED)
    assert caplog.records == []


async def test_time_in_which_a_handler_waits_is_not_counted(
    router: Router, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    released = anyio.Event()

    @router.on()
    async def patient(event: Event) -> None:
        await released.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(router.dispatch, COMPLETED)
        await anyio.wait_all_tasks_blocked()
        clock.now += 3600
        released.set()
    assert caplog.records == []


# Watching changes nothing


class Turn(Awaitable[Any]):
    """What a loop sees of a waiting coroutine, driven by hand."""

    def __await__(self) -> Generator[str, Any, Any]:
        return (yield "waits")


async def asks_twice() -> list[Any]:
    got: list[Any] = []
    for _ in range(2):
        try:
            got.append(await Turn())
        except BaseException as error:  # noqa: BLE001 - all of it is noted
            got.append(type(error))
    return got


@pytest.mark.parametrize("watched", [False, True], ids=["bare", "watched"])
def test_watched_coroutine_is_driven_like_a_bare_one(watched: bool) -> None:  # noqa: FBT001 - both are compared
    coroutine = asks_twice()
    steps = module._Watched(coroutine, "h").__await__() if watched else coroutine.__await__()
    assert steps.send(None) == "waits"
    assert steps.send("a value") == "waits"
    with pytest.raises(StopIteration) as stopped:
        steps.throw(asyncio.CancelledError())
    assert stopped.value.value == ["a value", asyncio.CancelledError]


def test_watched_coroutine_goes_on_after_an_exception_that_it_handled() -> None:
    steps = module._Watched(asks_twice(), "h").__await__()
    assert steps.send(None) == "waits"
    assert steps.throw(ValueError()) == "waits"
    with pytest.raises(StopIteration) as stopped:
        steps.send("a value")
    assert stopped.value.value == [ValueError, "a value"]


def test_exception_of_a_watched_coroutine_is_passed_on() -> None:
    async def fails() -> None:
        await Turn()
        raise LookupError

    steps = module._Watched(fails(), "h").__await__()
    steps.send(None)
    with pytest.raises(LookupError):
        steps.send(None)


def test_watched_coroutine_that_is_given_up_is_closed() -> None:
    closed: list[bool] = []

    async def waits() -> None:
        try:
            await Turn()
        finally:
            closed.append(True)

    steps = module._Watched(waits(), "h").__await__()
    steps.send(None)
    steps.close()
    assert closed == [True]
