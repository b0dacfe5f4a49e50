import functools
import gc
import linecache
import math
import pickle
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from asana_webhooks import router as module
from asana_webhooks._establish import check_filters
from asana_webhooks.client import WebhooksClient
from asana_webhooks.models import Change, Event, Resource, Source, WebhookFilter
from asana_webhooks.router import Failure, GiveUp, Pattern, Router, TryAgain
from asana_webhooks.testing import make_event


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
        pytest.param({"subtype": ""}, COMPLETED, False, id="empty text is no wildcard"),
    ],
)
def test_handler_gets_the_events_that_fit(
    router: Router,
    wanted: dict[str, Any],
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


def test_handler_that_is_registered_twice_gets_an_event_once(router: Router) -> None:
    async def handler(event: Event) -> None: ...
    async def other(event: Event) -> None: ...

    router.on(action="changed")(handler)
    router.on()(other)
    router.on(resource_type="task")(handler)
    assert [each.handler for each in router.handlers(COMPLETED)] == [handler, other]
    assert [each.handler for each in router.handlers(event(action="added"))] == [handler, other]
    assert [each.handler for each in router.handlers(event("story"))] == [handler, other]
    assert [each.handler for each in router.handlers(event("story", action="added"))] == [other]


def test_router_is_true_with_a_handler(router: Router) -> None:
    assert not router

    @router.on()
    async def handler(event: Event) -> None: ...

    assert router


def from_source(**fields: str) -> Event:
    source = Source(**{"webhook": "1700", "resource": "1400", **fields})  # type: ignore[arg-type] # texts
    return make_event("task", action="added", source=source)


@pytest.mark.parametrize(
    ("wanted", "given", "fits"),
    [
        pytest.param({"resource": "1400"}, from_source(), True, id="resource"),
        pytest.param({"resource": "1401"}, from_source(), False, id="another resource"),
        pytest.param({"resource": "1400"}, COMPLETED, False, id="resource, without a source"),
        pytest.param({"account": "acme"}, from_source(account="acme"), True, id="account"),
        pytest.param(
            {"account": "acme"}, from_source(account="other"), False, id="another account"
        ),
        pytest.param({"account": "acme"}, from_source(), False, id="account, without one"),
        pytest.param({"account": ""}, from_source(), True, id="no account"),
        pytest.param({"account": ""}, from_source(account="acme"), False, id="none, with one"),
        pytest.param({"account": ""}, COMPLETED, True, id="no account, without a source"),
        pytest.param({}, from_source(account="acme"), True, id="any"),
        pytest.param(
            {"resource": "1400", "account": "acme"},
            from_source(resource="1401", account="acme"),
            False,
            id="only one of two",
        ),
    ],
)
def test_handler_gets_the_events_of_a_resource_or_account(
    router: Router,
    wanted: dict[str, Any],
    given: Event,
    fits: bool,  # noqa: FBT001 - a column of the table
) -> None:
    @router.on(**wanted)
    async def handler(event: Event) -> None: ...

    for _ in range(2):  # the second time from memory
        assert [each.handler for each in router.handlers(given)] == ([handler] if fits else [])


def test_events_of_several_sources_are_told_apart(router: Router) -> None:
    async def first(event: Event) -> None: ...
    async def second(event: Event) -> None: ...

    router.on(resource="1400")(first)
    router.on(resource="1401", account="acme")(second)
    for _ in range(2):
        assert names(router, from_source()) == ["first"]
        assert names(router, from_source(resource="1401")) == []
        assert names(router, from_source(resource="1401", account="acme")) == ["second"]
        assert names(router, from_source(resource="1402")) == []


def names(router: Router, event: Event) -> list[str]:
    return [each.name.rpartition(".")[2] for each in router.handlers(event)]


def test_handler_that_is_registered_late_gets_events_of_a_kind_that_was_seen(
    router: Router,
) -> None:
    async def late(event: Event) -> None: ...

    assert names(router, COMPLETED) == []
    router.on("task")(late)
    assert names(router, COMPLETED) == ["late"]


def test_memory_of_kinds_is_bounded(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY", 3)

    @router.on(field="1")
    async def handler(event: Event) -> None: ...

    for _ in range(2):
        for field in map(str, range(10)):
            assert names(router, make_event(field=field)) == (["handler"] if field == "1" else [])
    assert len(router._known) <= 3


@pytest.mark.parametrize("gid", ["", "my-project", "12 "])
def test_resource_that_is_no_gid_is_refused(router: Router, gid: str) -> None:
    with pytest.raises(ValueError, match="resource must be a gid"):
        router.on(resource=gid)


# Routers of several modules


def handler_called(name: str) -> Callable[[Event], Coroutine[Any, Any, None]]:
    async def handler(event: Event) -> None: ...

    handler.__qualname__ = name
    return handler


def test_included_handlers_come_where_their_router_was_included(router: Router) -> None:
    other, inner = Router(), Router()
    router.on()(handler_called("first"))
    other.on()(handler_called("second"))
    router.include(other)
    router.on()(handler_called("last"))
    other.include(inner)
    inner.on()(handler_called("third"))
    assert [each.name.partition(":")[2] for each in router.handlers(COMPLETED)] == [
        *("first", "second", "third", "last")
    ]
    assert router


def test_router_may_be_included_before_it_has_handlers(router: Router) -> None:
    other = Router()
    router.include(other)
    assert not router
    assert not router.handlers(COMPLETED)
    other.on()(handler_called("late"))
    assert router
    assert len(router.handlers(COMPLETED)) == 1


def test_router_may_be_included_in_two_clients() -> None:
    first, second, shared = Router(), Router(), Router()
    first.include(shared)
    second.include(shared)
    shared.on()(handler_called("late"))
    assert len(first.handlers(COMPLETED)) == len(second.handlers(COMPLETED)) == 1


def test_client_hands_on_what_is_registered_with_it(router: Router) -> None:
    client = WebhooksClient("a-token", public_url="https://hooks.example.com", store="memory:")
    pattern: dict[str, Any] = {"subtype": "milestone", "action": "changed", "field": "name"}
    pattern |= {"resource_type": "task", "resource": "1400", "account": "acme", "echoes": True}

    @client.on(**pattern, name="celebrate")
    async def handler(event: Event) -> None: ...

    @client.on_failure
    async def report(failure: Failure) -> None: ...

    client.include(router)
    router.on("story")(handler_called("included"))
    source = Source(webhook="1700", resource="1400", account="acme")
    wanted = make_event("task", subtype="milestone", field="name", source=source)
    assert [each.name for each in client._router.handlers(wanted)] == ["celebrate"]
    assert names(client._router, make_event("story")) == [f"{__name__}:included"]
    assert [each.handler for each in client._router.failure_handlers] == [report]
    assert client._router.handlers(wanted)[0].patterns == (Pattern(**pattern),)


def test_router_keeps_none_alive_that_included_it() -> None:
    shared, including = Router(), Router()
    including.include(shared)
    gone = weakref.ref(including)
    del including
    gc.collect()
    assert gone() is None


def test_router_is_not_included_twice_nor_in_itself(router: Router) -> None:
    child, sibling, grandchild, other = Router(), Router(), Router(), Router()
    router.include(child)
    router.include(sibling)
    child.include(grandchild)
    other.include(grandchild)
    for outer, inner in [
        *((router, router), (router, child), (router, grandchild), (child, router)),
        *((grandchild, router), (child, grandchild), (router, other), (grandchild, child)),
        *((child, sibling), (grandchild, sibling)),
    ]:
        with pytest.raises(ValueError, match="cannot be included twice, nor in itself"):
            outer.include(inner)
    child.on()(handler_called("handler"))
    assert len(router.handlers(COMPLETED)) == 1


@pytest.mark.parametrize(
    "odd", [None, "module", handler_called("on")], ids=["none", "text", "function"]
)
def test_only_a_router_can_be_included(router: Router, odd: Any) -> None:
    with pytest.raises(TypeError, match="only a Router can be included, not"):
        router.include(odd)


# Names


def test_handler_may_be_given_a_name(router: Router) -> None:
    router.on(name="celebrate")(handler_called("anything"))
    assert [each.name for each in router.handlers(COMPLETED)] == ["celebrate"]


def test_two_handlers_of_one_name_are_refused(router: Router) -> None:
    router.on("task")(handler_called("same"))
    with pytest.raises(ValueError, match=rf"two handlers are called {__name__}:same.*on\(name=…\)"):
        router.on("story")(handler_called("same"))
    router.on("story", name="other")(handler_called("same"))
    with pytest.raises(ValueError, match="two handlers are called other"):
        router.on(name="other")(handler_called("third"))
    assert [each.name for each in router.handlers(COMPLETED)] == [f"{__name__}:same"]


def test_names_are_compared_with_those_of_included_routers(router: Router) -> None:
    child, other = Router(), Router()
    router.include(child)
    router.on()(handler_called("same"))
    with pytest.raises(ValueError, match="two handlers are called"):
        child.on()(handler_called("same"))
    other.on()(handler_called("same"))
    with pytest.raises(ValueError, match="two handlers are called"):
        router.include(other)
    assert not child
    assert len(router.handlers(COMPLETED)) == 1
    other.on()(handler_called("more"))  # nothing is left of the refused inclusion
    assert len(router.handlers(COMPLETED)) == 1
    Router().include(other)


def test_one_handler_may_be_registered_in_two_routers(router: Router) -> None:
    child, handler = Router(), handler_called("handler")
    router.include(child)
    child.on("task")(handler)
    router.on("story")(handler)
    assert len(router.handlers(COMPLETED)) == len(router.handlers(event("story"))) == 1


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        pytest.param(["{folder}/bot.py"], "bot:handle", id="file"),
        pytest.param(["-m", "bot"], "bot:handle", id="module"),
        pytest.param(["-m", "package.bot"], "package.bot:handle", id="module of a package"),
        pytest.param(["-c", "{program}"], "__main__:handle", id="text"),
    ],
)
def test_handler_of_the_program_itself_has_the_name_that_an_import_would_give_it(
    tmp_path: Path, arguments: list[str], shown: str
) -> None:
    program = (
        "from asana_webhooks import Router\n"
        "from asana_webhooks.testing import make_event\n"
        "router = Router()\n"
        "@router.on()\n"
        "async def handle(event): ...\n"
        "print(router.handlers(make_event())[0].name)\n"
    )
    (tmp_path / "package").mkdir()
    for path in (tmp_path / "bot.py", tmp_path / "package" / "bot.py"):
        path.write_text(program)
    command = [each.format(folder=tmp_path, program=program) for each in arguments]
    run = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == shown


@pytest.mark.parametrize(
    ("main", "shown"),
    [
        pytest.param({"__file__": "/srv/bot.py"}, "bot", id="file"),
        pytest.param({"__file__": "/srv/bot.py", "__spec__": None}, "bot", id="without a spec"),
        pytest.param(
            {"__spec__": ModuleSpec("package.bot", None), "__file__": "/srv/package/bot.py"},
            "package.bot",
            id="module",
        ),
        pytest.param({}, "__main__", id="text"),
    ],
)
def test_name_of_the_program_is_found_where_it_was_started(
    router: Router, monkeypatch: pytest.MonkeyPatch, main: dict[str, Any], shown: str
) -> None:
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(**main))
    handler = handler_called("handle")
    handler.__module__ = "__main__"
    router.on()(handler)
    assert [each.name for each in router.handlers(COMPLETED)] == [f"{shown}:handle"]


# Failures


async def test_handlers_of_failures_come_in_the_order_of_registration(router: Router) -> None:
    child, told = Router(), []

    @router.on_failure
    async def first(failure: Failure) -> None:
        told.append(("first", failure.handler))

    router.include(child)

    @child.on_failure
    async def second(failure: Failure) -> None:
        told.append(("second", failure.handler))

    failure = Failure(event=COMPLETED, handler="bot:handle", error=KeyError("x"), attempt=1)
    for each in router.failure_handlers:
        await each.handler(failure)
    assert told == [("first", "bot:handle"), ("second", "bot:handle")]
    assert [each.name.rpartition(".")[2] for each in router.failure_handlers] == ["first", "second"]
    assert not router  # nothing handles events


def test_handler_of_failures_must_be_async_and_take_one_argument(router: Router) -> None:
    async def without() -> None: ...

    with pytest.raises(TypeError, match="sync must be `async def`"):
        router.on_failure(sync)  # type: ignore[type-var] # the mistake itself
    with pytest.raises(TypeError, match="without must take one argument, the failure"):
        router.on_failure(without)  # type: ignore[type-var] # the mistake itself
    with pytest.raises(TypeError, match="write on_failure, without parentheses"):
        router.on_failure()  # pyright: ignore[reportArgumentType] # the mistake itself
    assert not router.failure_handlers


def test_decisions_of_a_handler_say_what_they_decide() -> None:
    assert (
        GiveUp("the task is gone").reason == str(GiveUp("the task is gone")) == "the task is gone"
    )
    assert GiveUp().reason == ""
    assert TryAgain(after=5).after == 5
    assert TryAgain().after == 60.0
    assert TryAgain(0).after == 0
    for decision in (GiveUp("gone"), TryAgain(after=5.0)):
        again = pickle.loads(pickle.dumps(decision))  # noqa: S301 - made here
        assert (type(again), vars(again)) == (type(decision), vars(decision))


@pytest.mark.parametrize(
    ("after", "error"),
    [
        ("5", TypeError),
        (True, TypeError),
        (None, TypeError),
        (-1, ValueError),
        (math.nan, ValueError),
    ],
)
def test_delay_that_is_no_number_of_seconds_is_refused(after: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="^after must be a number of seconds, at least 0"):
        TryAgain(after=after)


# Filters that let pass what handlers want


@pytest.mark.parametrize(
    ("wanted", "filters"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([{}], None, id="everything"),
        pytest.param([{"resource_type": "task"}, {}], None, id="one thing and everything"),
        pytest.param([{"account": "other"}], None, id="another account"),
        pytest.param([{"resource": "1401"}], None, id="another resource"),
        pytest.param([{"resource": "1400"}], None, id="everything of this resource"),
        pytest.param(
            [{"resource_type": "task"}, {"action": "vanished"}], None, id="action of no filter"
        ),
        pytest.param(
            [{"resource_type": "task", "subtype": "milestone", "action": "added"}],
            [{"resource_type": "task", "resource_subtype": "milestone", "action": "added"}],
            id="one of each",
        ),
        pytest.param(
            [{"resource_type": "task", "action": "changed", "field": "name"}],
            [{"resource_type": "task", "action": "changed", "fields": ["name"]}],
            id="field",
        ),
        pytest.param(
            [{"field": "name"}],
            [{"action": "changed", "fields": ["name"]}],
            id="field of any action",
        ),
        pytest.param(
            [
                {"resource_type": "task", "field": "name"},
                {"resource_type": "story"},
                {"resource_type": "task", "field": "notes"},
                {"resource_type": "task", "field": "name"},
            ],
            [
                {"resource_type": "task", "action": "changed", "fields": ["name", "notes"]},
                {"resource_type": "story"},
            ],
            id="fields are joined",
        ),
        pytest.param(
            [
                {"resource_type": "task", "field": "name"},
                {"resource_type": "task", "action": "changed"},
                {"resource_type": "task", "field": "notes"},
            ],
            [{"resource_type": "task", "action": "changed"}],
            id="any field covers one",
        ),
        pytest.param(
            [
                {"resource_type": "task", "subtype": "milestone", "action": "added"},
                {"resource_type": "task"},
            ],
            [{"resource_type": "task"}],
            id="type covers subtype and action",
        ),
        pytest.param(
            [{"field": "name"}, {"resource_type": "task", "field": "name"}],
            [{"action": "changed", "fields": ["name"]}],
            id="field of any type covers that of one",
        ),
        pytest.param(
            [{"field": "name"}, {"resource_type": "task", "field": "notes"}],
            [
                {"action": "changed", "fields": ["name"]},
                {"resource_type": "task", "action": "changed", "fields": ["notes"]},
            ],
            id="another field is not covered",
        ),
        pytest.param(
            [{"field": "name"}, {"action": "changed", "resource_type": "task"}],
            [
                {"action": "changed", "fields": ["name"]},
                {"resource_type": "task", "action": "changed"},
            ],
            id="some fields do not cover all",
        ),
        pytest.param(
            [
                {"resource_type": "task", "resource": "1400", "account": ""},
                {"resource_type": "story", "resource": "1401"},
                {"resource_type": "tag", "account": "other"},
                {"resource": "1401"},
            ],
            [{"resource_type": "task"}],
            id="of this resource and account alone",
        ),
    ],
)
def test_filters_let_pass_what_handlers_want(
    router: Router, wanted: list[dict[str, Any]], filters: list[dict[str, Any]] | None
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, pattern in enumerate(wanted):
            router.on(**pattern, name=str(number))(handler_called("handler"))
    made = None if filters is None else [WebhookFilter(**each) for each in filters]
    assert router.wanted_filters("1400") == made
    check_filters(made)


# Words that Asana does not have


@pytest.mark.parametrize(
    ("pattern", "warning"),
    [
        pytest.param({"resource_type": "taks"}, "type 'taks'; did you mean 'task'?", id="type"),
        pytest.param({"resource_type": "Task"}, "type 'Task'; did you mean 'task'?", id="case"),
        pytest.param(
            {"resource_type": "milestone"},
            "type 'milestone'; did you mean 'task', subtype='milestone'?",
            id="subtype for a type",
        ),
        pytest.param(
            {"resource_type": "comments"},
            "type 'comments'; did you mean 'story', subtype='comment_added'?",
            id="comment",
        ),
        pytest.param(
            {"resource_type": "rocket"}, "type 'rocket', as far as is known", id="unknown type"
        ),
        pytest.param(
            {"action": "change"}, "action 'change'; did you mean action='changed'?", id="action"
        ),
        pytest.param(
            {"action": "created"}, "action 'created'; did you mean action='added'?", id="created"
        ),
        pytest.param(
            {"resource_type": "task", "action": "completed"},
            "action 'completed'; did you mean action='changed', field='completed'?",
            id="field for an action",
        ),
        pytest.param(
            {"action": "hearted"},
            "action 'hearted'; did you mean action='changed', field='hearted'?",
            id="field that is like an action",
        ),
        pytest.param(
            {"action": "complete"},
            "action 'complete'; did you mean action='changed', field='completed'?",
            id="misspelt field for an action",
        ),
        pytest.param(
            {"action": "launched", "field": "name"},
            "action 'launched'; its actions are added, changed, removed, deleted, undeleted",
            id="unknown action",
        ),
        pytest.param(
            {"resource_type": "task", "action": "added", "field": "name"},
            "no event of the action 'added' has a field; did you mean action='changed'?",
            id="field with another action",
        ),
        pytest.param(
            {"resource_type": "task", "field": "complete"},
            "no task with a field 'complete'; did you mean 'completed'?",
            id="field",
        ),
        pytest.param(
            {"field": "assigne"},
            "no resource with a field 'assigne'; did you mean 'assignee'?",
            id="field of any type",
        ),
        pytest.param(
            {"resource_type": "story", "subtype": "comments_added"},
            "no story of the subtype 'comments_added'; did you mean 'comment_added'?",
            id="subtype",
        ),
    ],
)
def test_word_that_asana_does_not_have_is_warned_of_where_it_stands(
    router: Router, pattern: dict[str, Any], warning: str
) -> None:
    with pytest.warns(UserWarning, match=re.escape(warning)) as warned:
        router.on(**pattern)(handler_called("handler"))
    assert [each.filename for each in warned] == [__file__]
    assert not router.handlers(COMPLETED)  # a word is not mended


async def test_warning_names_the_line_that_called_the_client() -> None:
    client = WebhooksClient("a-token", public_url="https://hooks.example.com", store="memory:")
    with pytest.warns(UserWarning, match="did you mean 'task'") as warned:
        client.on("taks")
    assert linecache.getline(warned[0].filename, warned[0].lineno).strip() == 'client.on("taks")'


@pytest.mark.parametrize(
    "pattern",
    [
        {},
        {"resource_type": "task", "subtype": "milestone", "action": "changed", "field": "due_on"},
        {"resource_type": "task", "field": "launch_site"},
        {"resource_type": "story", "subtype": "launched"},
        {"resource_type": "tag", "subtype": "milestones"},
        {"resource_type": "user", "field": "complete"},
        {"subtype": "comment_added", "action": "added"},
    ],
    ids=str,
)
def test_word_that_asana_has_or_may_have_soon_is_taken_without_a_warning(
    router: Router, pattern: dict[str, Any]
) -> None:
    router.on(**pattern)  # any warning fails the test


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
    assert subscription.name == f"{__name__}:{name}"


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


@pytest.mark.parametrize(
    "name", ["resource_type", "subtype", "action", "field", "resource", "account"]
)
@pytest.mark.parametrize("value", [["task"], 5, True, b"task"], ids=ascii)
def test_pattern_that_is_no_text_is_refused_by_its_name(
    router: Router, name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be a text.* or None for any, not"):
        router.on(**{name: value})


async def without() -> None:
    raise AssertionError("called")


async def needs_more(event: Event, *, token: str) -> None:
    raise AssertionError("called")


class Method:
    async def handle(self, event: Event) -> None:
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        pytest.param(without, "without", id="none"),
        pytest.param(takes_a_token, "takes_a_token", id="two"),
        pytest.param(needs_more, "needs_more", id="one more by name"),
        pytest.param(
            functools.partial(takes_a_token, "hidden", COMPLETED), "takes_a_token", id="all bound"
        ),
        pytest.param(Method.handle, "Method.handle", id="method of no object"),
    ],
)
def test_handler_that_does_not_take_one_argument_is_refused_by_name(
    router: Router, handler: Any, name: str
) -> None:
    with pytest.raises(TypeError, match=f"^handler {name} must take one argument, the event$"):
        router.on()(handler)
    assert not router


def injected(function: Callable[..., Any]) -> Callable[[Event], Any]:
    @functools.wraps(function)
    async def wrapper(event: Event) -> None:
        await function("token", event)

    return wrapper


async def takes_more(event: Event, again: bool = False, *others: object) -> None:  # noqa: FBT001, FBT002 - any signature
    raise AssertionError("called")


@pytest.mark.parametrize(
    "handler", [injected(takes_a_token), takes_more, AsyncMock()], ids=["wrapped", "more", "mock"]
)
def test_handler_that_can_take_one_argument_is_taken(router: Router, handler: Any) -> None:
    router.on()(handler)
    assert router


def test_decorator_without_parentheses_is_refused(router: Router) -> None:
    with pytest.raises(TypeError, match="parentheses"):
        router.on(takes_a_token)  # type: ignore[arg-type] # the mistake itself
    assert not router
