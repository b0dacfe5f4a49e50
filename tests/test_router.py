import functools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from asana_webhooks.models import Change, Event, Resource
from asana_webhooks.router import Router


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


@pytest.fixture
def router() -> Router:
    return Router()


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
def test_handler_gets_the_events_that_fit(
    router: Router,
    wanted: dict[str, str],
    given: Event,
    fits: bool,  # noqa: FBT001 - a column of the table
) -> None:
    @router.on(**wanted)
    async def handler(event: Event) -> None: ...

    assert [each.handler for each in router.handlers(given)] == ([handler] if fits else [])


def test_handlers_of_an_event_come_in_the_order_of_registration(router: Router) -> None:
    async def first(event: Event) -> None: ...
    async def other(event: Event) -> None: ...
    async def second(event: Event) -> None: ...

    router.on()(first)
    router.on(action="added")(other)
    router.on("task")(second)
    assert [each.handler for each in router.handlers(COMPLETED)] == [first, second]


def test_handler_that_is_registered_twice_runs_twice(router: Router) -> None:
    async def handler(event: Event) -> None: ...

    router.on(action="changed")(handler)
    router.on(resource_type="task")(handler)
    assert len(router.handlers(COMPLETED)) == 2


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
def test_whatever_is_async_is_a_handler_and_its_name_shows_no_arguments(
    router: Router, handler: Callable[..., Any], name: str
) -> None:
    assert router.on()(handler) is handler
    (subscription,) = router.handlers(COMPLETED)
    assert subscription.name == name


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


@pytest.mark.parametrize("name", ["resource_type", "subtype", "action", "field"])
@pytest.mark.parametrize("value", [["task"], 5, True, b"task"], ids=ascii)
def test_pattern_that_is_no_text_is_refused_by_its_name(
    router: Router, name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a text.* or None for any, not"):
        router.on(**{name: value})


def test_decorator_without_parentheses_is_refused(router: Router) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        router.on(takes_a_token)  # type: ignore[arg-type] # the mistake itself
    assert not router
