"""Notices: what is told, how often, to whom, and that no handler harms anything."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, get_args

import anyio
import pytest
from conftest import guard, until

from asana_webhooks import Notice, Source, Webhook, WebhooksClient
from asana_webhooks import notices as module
from asana_webhooks._background import background_task
from asana_webhooks._clock import Clock
from asana_webhooks.models import NoticeKind, Route
from asana_webhooks.notices import LEVELS, Notices, judge, source_of
from asana_webhooks.simulator import AsanaSimulator

NOW = datetime(2026, 7, 4, 10, 11, 12, tzinfo=UTC)
SOURCE = Source(webhook="12", resource="34")
OTHER = Source(webhook="13", resource="35")

MakeClient = Callable[..., WebhooksClient]


def make(**options: Any) -> tuple[Notices, list[Notice]]:
    """Return notices, and the list of those that are counted."""
    counted: list[Notice] = []
    return Notices(count=counted.append, now=lambda: NOW, **{"clock": Clock(), **options}), counted


def keep(notices: Notices, kind: Any = None) -> list[Notice]:
    """Register a handler, and return the list in which it puts what it gets."""
    got: list[Notice] = []

    @notices.on(kind)
    async def handle(notice: Notice) -> None:
        got.append(notice)

    return got


# What is told


def test_notice_is_counted_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    notices, counted = make()
    source = Source(webhook="12", resource="34", account="ac\nme")
    notices.tell("lost", source, "gone\nfrom Asana")
    assert counted == [Notice(kind="lost", source=source, at=NOW, detail="gone from Asana")]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "webhook 12, resource 34, account 'ac me': lost: gone from Asana"
    )


def test_every_kind_has_its_level_in_the_log() -> None:
    assert {*LEVELS} == {*get_args(NoticeKind)}


def test_notice_of_no_webhook_is_one_of_asana(caplog: pytest.LogCaptureFixture) -> None:
    make()[0].tell("limited", Source(webhook="", resource=""), "slow down")
    assert caplog.messages == ["Asana: limited: slow down"]


def test_detail_is_cut() -> None:
    notices, counted = make()
    notices.tell("mangled", SOURCE, "x" * 100_000)
    assert counted[0].detail == "x" * module.MAX_DETAIL


def test_gap_says_from_when_to_when() -> None:
    notices, counted = make()
    start = NOW - timedelta(hours=2)
    notices.tell("gap", SOURCE, "the cursor expired", start=start, end=NOW)
    assert (counted[0].start, counted[0].end) == (start, NOW)


def test_source_of_a_route_names_its_webhook_and_hides_its_address() -> None:
    route = Route(id="r" * 32, target="https://h/r", resource="34", account="acme", gid="12")
    source = source_of(route)
    assert source == Source(webhook="12", resource="34", account="acme")
    assert route.id not in repr(source)


# How often


@pytest.mark.parametrize("kind", sorted(module.STATES))
def test_state_is_told_once_for_a_resource_until_it_is_over(kind: NoticeKind) -> None:
    notices, counted = make()
    replaced = Source(webhook="99", resource=SOURCE.resource)
    for source in (SOURCE, replaced, OTHER):
        notices.tell(kind, source, "so it is")
    assert [notice.source for notice in counted] == [SOURCE, OTHER]
    notices.over(kind, SOURCE)
    notices.tell(kind, SOURCE, "so it is again")
    assert len(counted) == 3


@pytest.mark.parametrize("kind", ["established", "mangled", "gap"])
def test_what_is_no_state_is_told_each_time(kind: NoticeKind) -> None:
    notices, counted = make()
    notices.tell(kind, SOURCE, "it happened")
    notices.tell(kind, SOURCE, "it happened")
    assert len(counted) == 2


@pytest.mark.parametrize("kind", ["lost", "failing", "silent"])
def test_restored_follows_trouble_of_the_same_source_once(kind: NoticeKind) -> None:
    notices, counted = make()
    notices.tell("restored", SOURCE, "nothing was wrong")
    notices.tell(kind, SOURCE, "wrong")
    notices.tell("restored", OTHER, "nothing was wrong here")
    notices.tell("restored", SOURCE, "well again")
    notices.tell("restored", SOURCE, "still well")
    notices.tell(kind, SOURCE, "wrong again")
    assert [notice.kind for notice in counted] == [kind, "restored", kind]


def test_webhook_that_is_restored_leaves_its_account_as_it_was() -> None:
    notices, counted = make()
    notices.tell("limited", SOURCE, "slow down")
    notices.tell("restored", SOURCE, "nothing was wrong with the webhook")
    notices.tell("failing", SOURCE, "wrong")
    notices.tell("restored", SOURCE, "well again")
    notices.tell("limited", SOURCE, "slow down, still")
    assert [notice.kind for notice in counted] == ["limited", "failing", "restored"]


def test_state_of_which_nothing_was_told_may_be_over() -> None:
    notices, counted = make()
    notices.over("limited", SOURCE)
    assert counted == []


def test_sources_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SOURCES", 2)
    notices, counted = make()
    for resource in ("1", "2", "1", "3", "1", "2"):
        notices.tell("lost", Source(webhook="", resource=resource), "gone")
    assert [notice.source.resource for notice in counted] == ["1", "2", "3", "2"]


# To whom


async def test_handlers_get_the_kinds_that_they_want_in_order() -> None:
    notices, _ = make()
    everything, lost = keep(notices), keep(notices, "lost")
    async with notices:
        for kind in ("established", "lost", "restored"):
            notices.tell(kind, SOURCE, "so it is")
    assert [notice.kind for notice in everything] == ["established", "lost", "restored"]
    assert [notice.kind for notice in lost] == ["lost"]


async def test_one_notice_after_the_other_is_handled() -> None:
    notices, _ = make()
    steps: list[str] = []

    @notices.on()
    async def slow(notice: Notice) -> None:
        steps.append(f"{notice.detail} begins")
        await asyncio.sleep(0.001)
        steps.append(f"{notice.detail} ends")

    async with notices:
        notices.tell("mangled", SOURCE, "1")
        notices.tell("mangled", SOURCE, "2")
    assert steps == ["1 begins", "1 ends", "2 begins", "2 ends"]


async def test_notices_are_given_while_it_is_entered_and_again_when_entered_again() -> None:
    notices, counted = make()
    got = keep(notices)
    notices.tell("mangled", SOURCE, "before")
    for detail in ("first", "second"):
        async with notices:
            notices.tell("mangled", SOURCE, detail)
        notices.tell("mangled", SOURCE, "between")
    assert [notice.detail for notice in got] == ["first", "second"]
    assert len(counted) == 5


def test_notices_may_be_entered_in_another_loop() -> None:
    notices, _ = make()
    got = keep(notices)

    async def enter() -> None:
        async with notices:
            notices.tell("mangled", SOURCE, "")

    asyncio.run(enter())
    asyncio.run(enter())
    assert len(got) == 2


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3), asyncio.CancelledError()])
async def test_whatever_a_handler_raises_others_are_called(
    caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    notices, _ = make()

    @notices.on()
    async def fail(notice: Notice) -> None:
        raise error

    got = keep(notices)
    async with notices:
        notices.tell("mangled", SOURCE, "1")
        notices.tell("mangled", SOURCE, "2")
    assert [notice.detail for notice in got] == ["1", "2"]
    failures = [text for text in caplog.messages if "fail failed with a notice" in text]
    assert len(failures) == (0 if isinstance(error, asyncio.CancelledError) else 2)


async def test_handler_that_takes_too_long_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notices, _ = make(handler_timeout=0.01)
    cancelled = []

    @notices.on()
    async def hang(notice: Notice) -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.append(notice)
            raise

    got = keep(notices)
    async with notices:
        notices.tell("mangled", SOURCE, "")
        await until(lambda: got)
    assert len(cancelled) == 1
    assert any("hang is cancelled" in text for text in caplog.messages)


async def test_nobody_waits_for_a_handler_that_swallows_its_cancellation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CANCEL_GRACE", 0.01)
    notices, _ = make(handler_timeout=0.01)
    released, ended = asyncio.Event(), asyncio.Event()

    @notices.on()
    async def stubborn(notice: Notice) -> None:
        while not released.is_set():
            with suppress(asyncio.CancelledError):
                await released.wait()
        ended.set()

    got = keep(notices)
    async with notices:
        notices.tell("mangled", SOURCE, "")
        await until(lambda: got)
    assert any("stubborn goes on although it was cancelled" in text for text in caplog.messages)
    released.set()
    with guard():
        await ended.wait()


async def test_end_waits_a_moment_only_for_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.01)
    notices, _ = make(handler_timeout=None)
    cancelled = []

    @notices.on()
    async def hang(notice: Notice) -> None:
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.append(notice)
            raise

    with guard():
        async with notices:
            notices.tell("mangled", SOURCE, "")
    assert len(cancelled) == 1


async def test_waiting_notices_are_bounded_and_the_newest_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    notices, counted = make()
    got = keep(notices)
    async with notices:
        for detail in "1234":
            notices.tell("mangled", SOURCE, detail)
    assert [notice.detail for notice in got] == ["3", "4"]
    assert len(counted) == 4
    assert "a notice is left out: its handlers are too slow" in caplog.messages


async def test_notice_that_no_handler_wants_takes_no_room(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    notices, _ = make()
    got = keep(notices, "lost")
    async with notices:
        notices.tell("lost", SOURCE, "")
        notices.tell("mangled", SOURCE, "")
    assert len(got) == 1
    assert not any("left out" in text for text in caplog.messages)


async def test_who_drives_the_clock_has_it_wait_for_the_handlers() -> None:
    clock, got = Clock(), list[str]()
    notices, _ = make(clock=clock)

    @notices.on()
    async def slow(notice: Notice) -> None:
        await asyncio.sleep(0.01)
        got.append(notice.detail)

    async def timer() -> None:
        await clock.sleep(60.0)
        notices.tell("mangled", SOURCE, "odd")

    async def nobody(seconds: float) -> None: ...

    async with notices, background_task(timer(), "timer"):
        await until(lambda: len(clock._sleepers) == 2)
        await clock.advance(60.0, beside=nobody)
        assert got == ["odd"]


# Registration


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("losst", ValueError, "there is no notice 'losst'; did you mean 'lost'?"),
        ("x", ValueError, "there are established, mangled"),
        (7, TypeError, "a text, or None for all, not int"),
    ],
)
def test_kind_that_there_is_not_is_refused(kind: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said.replace("?", r"\?")):
        make()[0].on(kind)


def test_decorator_without_parentheses_is_refused() -> None:
    async def handle(notice: Notice) -> None: ...

    on: Any = make()[0].on
    with pytest.raises(TypeError, match="with parentheses"):
        on(handle)


def test_handler_that_is_not_async_is_refused_by_its_name() -> None:
    def handle(notice: Notice) -> None: ...

    register: Any = make()[0].on()
    with pytest.raises(TypeError, match="handle must be `async def`"):
        register(handle)


async def test_handler_may_be_a_method_or_a_partial() -> None:
    notices, _ = make()

    class Chat:
        def __init__(self) -> None:
            self.said: list[str] = []

        async def say(self, notice: Notice) -> None:
            self.said.append(notice.detail)

        async def say_in(self, room: str, notice: Notice) -> None:
            self.said.append(f"{room}: {notice.detail}")

    chat = Chat()
    notices.on()(chat.say)
    notices.on()(partial(chat.say_in, "ops"))
    async with notices:
        notices.tell("mangled", SOURCE, "odd")
    assert chat.said == ["odd", "ops: odd"]


# Judging a webhook


HOUR = timedelta(hours=1)
ROUTE_ID = "r" * 32


def a_route(**changes: Any) -> Route:
    usual: dict[str, Any] = {
        "id": ROUTE_ID,
        "target": f"https://hooks.example.com/{ROUTE_ID}",
        "resource": "34",
        "state": "confirmed",
        "gid": "12",
        "created_at": NOW - 30 * HOUR,
        "confirmed_at": NOW - 30 * HOUR,
        "heartbeat_at": NOW - HOUR,
    }
    return Route(**{**usual, **changes})


def a_webhook(**changes: Any) -> Webhook:
    usual: dict[str, Any] = {
        "last_success_at": NOW - HOUR,
        "last_failure_at": NOW - 2 * HOUR,
        "last_failure_content": "an old failure",
        "delivery_retry_count": 0,
    }
    return Webhook(gid="12", **{**usual, **changes})


def details(webhook: Webhook, route: Route) -> dict[NoticeKind, str]:
    return dict(judge(webhook, route, NOW))


@pytest.mark.parametrize(
    "webhook",
    [
        a_webhook(),
        a_webhook(last_failure_at=None, last_failure_content=""),
        a_webhook(last_success_at=NOW - 2 * HOUR),
        Webhook(gid="12"),
    ],
    ids=["failed before", "never failed", "at once", "compact"],
)
def test_webhook_whose_last_delivery_succeeded_is_well(webhook: Webhook) -> None:
    assert details(webhook, a_route()) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"delivery_retry_count": 16}, "deliveries fail, 16 retries in a row"),
        ({"last_failure_at": NOW}, "the last failure was at 2026-07-04 10:11:12 UTC"),
        ({"last_success_at": None}, "none has succeeded"),
        (
            {"failure_deletion_timestamp": NOW + HOUR},
            "Asana deletes the webhook at 2026-07-04 11:11:12 UTC unless one succeeds",
        ),
    ],
    ids=["retries", "failed last", "never succeeded", "to be deleted"],
)
def test_webhook_whose_deliveries_fail_is_failing(changes: dict[str, Any], said: str) -> None:
    found = details(a_webhook(**changes), a_route())
    assert list(found) == ["failing"]
    assert said in found["failing"]
    assert "its answer was 'an old failure'" in found["failing"]


def test_answer_that_failed_is_quoted_bounded_in_one_line_without_the_route() -> None:
    said = f"<pre>Cannot POST /hooks/{ROUTE_ID}</pre>\n" + "x" * 10_000
    found = details(a_webhook(delivery_retry_count=1, last_failure_content=said), a_route())
    detail = found["failing"]
    assert "Cannot POST /hooks/<route></pre> xxx" in detail
    assert ROUTE_ID not in detail
    assert len(detail) < 500


def test_failure_without_times_and_answer_is_told_all_the_same() -> None:
    assert details(Webhook(gid="12", delivery_retry_count=2), a_route()) == {
        "failing": "deliveries fail, 2 retries in a row; none has succeeded"
    }


@pytest.mark.parametrize(
    ("route", "is_silent"),
    [
        (a_route(heartbeat_at=NOW - 9 * HOUR), True),
        (a_route(heartbeat_at=NOW - 9 * HOUR + timedelta(seconds=1)), False),
        (a_route(heartbeat_at=None), True),
        (a_route(heartbeat_at=None, confirmed_at=NOW - HOUR), False),
        (a_route(heartbeat_at=None, confirmed_at=None), True),
        (a_route(heartbeat_at=NOW + HOUR), False),
    ],
    ids=["nine hours", "less", "never one", "new", "of an old store", "clock was set back"],
)
def test_webhook_without_a_heartbeat_for_nine_hours_is_silent(
    route: Route, *, is_silent: bool
) -> None:
    assert ("silent" in details(a_webhook(), route)) is is_silent


def test_silence_says_since_when() -> None:
    since = NOW - timedelta(hours=10, minutes=30)
    found = details(a_webhook(), a_route(heartbeat_at=since))
    assert found["silent"] == (
        "no heartbeat came since 2026-07-03 23:41:12 UTC, 10 hours ago;"
        " Asana sends one every eight hours"
    )
    found = details(a_webhook(), a_route(heartbeat_at=None))
    assert found["silent"].startswith("no heartbeat has come since 2026-07-03 04:11:12 UTC")


def test_webhook_may_be_failing_and_silent() -> None:
    found = details(a_webhook(delivery_retry_count=3), a_route(heartbeat_at=None))
    assert [*found] == ["failing", "silent"]


@pytest.mark.parametrize("state", ["reserved", "retired"])
def test_route_that_is_not_confirmed_has_no_troubles(state: Any) -> None:
    route = a_route(state=state, heartbeat_at=None)
    assert details(a_webhook(delivery_retry_count=3), route) == {}


# The client


async def test_client_gives_notices_while_it_is_entered(make_client: MakeClient) -> None:
    client = make_client()
    got: list[Notice] = []

    @client.on_notice("mangled")
    async def handle(notice: Notice) -> None:
        got.append(notice)

    async with client:
        assert client._components is not None
        client._components.notices.tell("mangled", SOURCE, "odd")
        await until(lambda: got)
        assert (await client.stats()).notices == {"mangled": 1}
    assert abs(got[0].at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_altered_delivery_is_a_notice_of_its_webhook(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client()
    got: list[Notice] = []

    @client.on_notice("mangled")
    async def handle(notice: Notice) -> None:
        got.append(notice)

    async with client:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        assert await asana.deliver(webhook.gid, b"{}", signature="none") == 401
        await until(lambda: got)
    assert got[0].source == Source(webhook=webhook.gid, resource=asana.project)
    assert "X-Hook-Signature is missing" in got[0].detail


async def test_notice_handler_cannot_close_its_client(make_client: MakeClient) -> None:
    client = make_client()
    errors: list[Exception] = []

    @client.on_notice()
    async def handle(notice: Notice) -> None:
        try:
            await client.aclose()
        except RuntimeError as error:
            errors.append(error)

    async with client:
        assert client._components is not None
        client._components.notices.tell("mangled", SOURCE, "odd")
        await until(lambda: errors)
    assert "a handler cannot close its client" in str(errors[0])


async def test_client_without_a_receiver_has_no_notices() -> None:
    async with WebhooksClient("a-token") as client:
        with pytest.raises(RuntimeError, match="give it a public_url"):
            client.on_notice()
