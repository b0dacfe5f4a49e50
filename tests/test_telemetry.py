"""The observer: what those who listen are told, and the snapshot that is counted from it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import anyio
import httpx
import msgspec
import pytest
from conftest import eventually, guard, until
from support.plain_http import NO_TLS

from asana_webhooks import (
    Event,
    MemoryStore,
    Notice,
    Resource,
    Source,
    WebhooksClient,
    _components,
    sign,
)
from asana_webhooks import telemetry as module
from asana_webhooks.models import Counts, Delivery, Route
from asana_webhooks.protocol import UNKNOWN_ROUTE, Request, Response
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.telemetry import (
    BudgetState,
    Counters,
    Outcome,
    Stats,
    Telemetry,
    Together,
    WebhookStats,
)
from asana_webhooks.testing import make_event

MakeClient = Callable[..., WebhooksClient]

A_NOTICE = Notice(
    kind="lost", source=Source(webhook="1", resource="2"), at=datetime.now(UTC), detail="gone"
)
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


class Notes(Telemetry):
    """A telemetry that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.traces: list[str] = []
        self.outcomes: list[Outcome] = []
        self.stats: Stats | None = None

    @contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        self.told.append("receiving")
        yield
        self.told.append("received")

    def answered(self, response: Response) -> None:
        self.told.append(f"{response.status} {response.reason}".strip())

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        self.outcomes.append(outcome)

    def traceparent(self) -> str:
        return TRACEPARENT

    @contextmanager
    def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
        self.traces.append(delivery.trace)
        try:
            yield
        except Exception as error:
            self.told.append(f"failed: {error.__cause__!r}")
            raise
        self.told.append("handled")

    async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
        self.told.append("watching")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stats = await stats()


async def test_requests_are_told_with_their_answers(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    notes = Notes()
    async with make_client(telemetry=notes) as client, httpx.AsyncClient(verify=NO_TLS) as http:
        place = f"http://127.0.0.1:{client.port}"
        await http.post(f"{place}/{'x' * 32}")
        await http.get(f"{place}/readyz")
        await client.ensure(asana.project)
        await asana.settled()
    assert notes.told == [
        *("watching", "receiving", "404 no webhook here", "received"),
        *("receiving", "200", "received") * 2,  # the handshake and the heartbeat
    ]


async def test_attempts_are_told_with_the_trace_that_the_receipt_left(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    notes = Notes()
    client = make_client(telemetry=notes)
    failures = [RuntimeError("not yet")]

    @client.on("story", action="added")
    async def handle(event: Event) -> None:
        if failures:
            raise failures.pop()

    hurry(client)
    async with client:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.add_comment(task, "done")
        await until(lambda: "handled" in notes.told)
    await running
    assert notes.traces == [TRACEPARENT, TRACEPARENT]
    assert notes.outcomes == ["stored", "retried", "handled"]
    assert [told for told in notes.told if told.startswith(("failed", "handled"))] == [
        "failed: RuntimeError('not yet')",
        "handled",
    ]


async def test_last_snapshot_is_taken_while_the_store_is_open_and_nothing_works_any_more(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    class Closing(MemoryStore):
        closed = False

        async def __aexit__(self, *_: object) -> None:
            assert notes.stats is not None
            self.closed = True

    notes, store = Notes(), Closing()
    client = make_client(telemetry=notes, store=store)
    started = asyncio.Event()

    @client.on("story", action="added")
    async def handle(event: Event) -> None:
        started.set()
        await asyncio.sleep(0.01)  # while the client is closed

    async with client:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(asana.project)
        running = asyncio.create_task(client.run())
        await asana.add_comment(task, "done")
        await started.wait()
    await running
    assert store.closed
    assert notes.stats is not None
    assert (notes.stats.stored, notes.stats.handled, notes.stats.waiting) == (1, 1, 0)


async def test_telemetry_that_fails_to_watch_is_said_and_watches_again(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_components, "OBSERVE_PAUSE", 0.001)

    class Broken(Notes):
        watched = 0

        async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
            self.watched += 1
            if self.watched == 1:
                raise LookupError("no exporter")
            await super().watch(stats)

    broken = Broken()
    async with make_client(telemetry=broken):
        await until(lambda: broken.watched == 2)
    assert broken.stats is not None
    (record,) = [record for record in caplog.records if "failed to watch" in record.getMessage()]
    assert (record.levelno, record.exc_info is not None) == (logging.ERROR, True)


async def test_telemetry_that_fails_in_its_clean_up_does_not_hold_up_the_closing(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Telemetry):
        async def watch(self, stats: Callable[[], Awaitable[Stats]]) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise LookupError("no exporter")

    with guard():
        async with make_client(telemetry=Broken()):
            await anyio.wait_all_tasks_blocked()
    assert "no exporter" in caplog.text


def a_delivery(route: str = "r") -> Delivery:
    return Delivery(route=route, body=b"", digest=b"", received_at=datetime.now(UTC))


def a_request() -> Request:
    return Request(method="POST", route="r")


async def no_stats() -> Stats:
    raise AssertionError("nobody wants to know")


async def test_telemetry_does_nothing_unless_it_is_overridden() -> None:
    silent = Telemetry()
    with silent.receiving(a_request()), silent.processing(a_delivery(), make_event()):
        silent.became(a_delivery(), "stored")
        silent.answered(UNKNOWN_ROUTE)
        tell_of_events(silent)
        silent.noticed(A_NOTICE)
        assert silent.traceparent() == ""
    await silent.watch(no_stats)


async def test_together_all_are_told_and_the_first_trace_counts() -> None:
    first, second, counters = Notes(), Notes(), Counters()
    together = Together(counters, first, second)
    with together.receiving(a_request()):
        assert together.traceparent() == TRACEPARENT
        together.became(a_delivery(), "stored")
        together.answered(UNKNOWN_ROUTE)
    with together.processing(a_delivery(), make_event()):
        tell_of_events(together)
    together.noticed(A_NOTICE)
    assert first.told == second.told == ["receiving", "404 no webhook here", "received", "handled"]
    assert first.outcomes == second.outcomes == ["stored"]
    assert (counters.outcomes["stored"], counters.refused["no webhook here"]) == (1, 1)
    stats = counters.snapshot(COUNTS, [])
    assert (stats.unwanted, stats.duplicate_events, stats.failures) == (1, 1, 1)
    assert stats.notices == {"lost": 1}
    assert Together(Telemetry(), Telemetry()).traceparent() == ""


def tell_of_events(telemetry: Telemetry) -> None:
    event = Event(created_at=datetime.now(UTC), action="added", resource=Resource(gid="1"))
    telemetry.unwanted(event)
    telemetry.duplicate(event)
    telemetry.failed(event, "module:handler")


class Broken(Telemetry):
    """Raises, at each thing that it is told, or when it is to be left."""

    def __init__(self, error: BaseException, *, leaving: bool = False) -> None:
        self.error = error
        self.leaving = leaving

    def answered(self, response: Response) -> None:
        raise self.error

    def traceparent(self) -> str:
        raise self.error

    def became(self, delivery: Delivery, outcome: Outcome, reason: str = "") -> None:
        raise self.error

    def unwanted(self, event: Event) -> None:
        raise self.error

    def duplicate(self, event: Event) -> None:
        raise self.error

    def failed(self, event: Event, handler: str) -> None:
        raise self.error

    def noticed(self, notice: Notice) -> None:
        raise self.error

    @contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        if not self.leaving:
            raise self.error
        try:
            yield
        finally:
            raise self.error

    @contextmanager
    def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
        with self.receiving(a_request()):
            yield


@pytest.mark.parametrize(
    "error", [ValueError("no exporter"), SystemExit(), asyncio.CancelledError(), StopIteration()]
)
@pytest.mark.parametrize("leaving", [False, True])
def test_what_an_observer_raises_is_said_once_and_the_others_are_told(
    error: BaseException,
    leaving: bool,  # noqa: FBT001 - a column of the table
    caplog: pytest.LogCaptureFixture,
) -> None:
    notes, counters = Notes(), Counters()
    together = Together(counters, Broken(error, leaving=leaving), notes)
    with together.receiving(a_request()):
        assert together.traceparent() == TRACEPARENT
        together.became(a_delivery(), "stored")
        together.answered(UNKNOWN_ROUTE)
    with together.processing(a_delivery(), make_event()):
        tell_of_events(together)
    together.noticed(A_NOTICE)
    assert notes.told == ["receiving", "404 no webhook here", "received", "handled"]
    assert (notes.outcomes, counters.outcomes["stored"]) == (["stored"], 1)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "the telemetry raised")
    assert record.exc_info is not None


def test_keyboard_interrupt_in_an_observer_is_not_kept_from_the_program() -> None:
    with pytest.raises(KeyboardInterrupt):
        Together(Broken(KeyboardInterrupt())).became(a_delivery(), "stored")


class Swallowing(Telemetry):
    """Ends the exception that passes."""

    @contextmanager
    def receiving(self, request: Request) -> Iterator[None]:
        with suppress(BaseException):
            yield

    @contextmanager
    def processing(self, delivery: Delivery, event: Event) -> Iterator[None]:
        with suppress(BaseException):
            yield


class Raising(Telemetry):
    """Raises the exception that passes, itself."""

    def receiving(self, request: Request) -> AbstractContextManager[object]:
        return self.processing(a_delivery(), make_event())

    def processing(self, delivery: Delivery, event: Event) -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.push(self.again)
        return stack

    def again(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("observer", "said"),
    [
        pytest.param(Broken(ValueError("no exporter")), 1, id="broken at the beginning"),
        pytest.param(Broken(ValueError("no exporter"), leaving=True), 1, id="broken at the end"),
        pytest.param(Swallowing(), 0, id="swallowing"),
        pytest.param(Raising(), 0, id="raising it itself"),
        pytest.param(Telemetry(), 0, id="silent"),
    ],
)
@pytest.mark.parametrize("surround", ["receiving", "processing"])
@pytest.mark.parametrize("raised", [RuntimeError("a handler"), asyncio.CancelledError()])
def test_exception_passes_unchanged_whatever_an_observer_does_with_it(
    observer: Telemetry,
    said: int,
    surround: str,
    raised: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    together = Together(Counters(), observer)
    about: dict[str, tuple[object, ...]] = {
        "receiving": (a_request(),),
        "processing": (a_delivery(), make_event()),
    }
    with pytest.raises(type(raised)) as caught, getattr(together, surround)(*about[surround]):
        raise raised
    assert caught.value is raised
    assert (raised.__cause__, raised.__context__) == (None, None)
    assert len(caplog.records) == said


@pytest.mark.parametrize("leaving", [False, True])
async def test_telemetry_that_raises_changes_no_answer_and_no_attempt(
    make_client: MakeClient,
    asana: AsanaSimulator,
    leaving: bool,  # noqa: FBT001 - a column of the table
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = make_client(
        telemetry=Broken(ValueError("no exporter"), leaving=leaving), max_attempts=2
    )
    handled: list[str] = []

    @client.on("story", action="added")
    async def handle(event: Event) -> None:
        handled.append(event.resource.gid)
        raise RuntimeError("not yet")

    hurry(client)
    async with client:
        task = await asana.create_task("Fix the login", project=asana.project)
        await client.ensure(asana.project)
        comment = await asana.add_comment(task, "done")
        await asana.settled()
        assert [each.status for each in asana.deliveries] == [200, 200]  # with the heartbeat
        running = asyncio.create_task(client.run())
        await eventually(client.dead_letters)
        stats = await eventually_idle(client)
    await running
    assert set(handled) == {comment}
    assert (stats.stored, stats.retried, stats.dead, stats.handled) == (1, 1, 1, 0)
    said = [record for record in caplog.records if record.getMessage() == "the telemetry raised"]
    assert [record.levelno for record in said] == [logging.ERROR]


async def test_together_all_watch_until_they_are_cancelled() -> None:
    first, second = Notes(), Notes()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Together(Counters(), first, second).watch, one_stats)
            await until(lambda: [first.told, second.told] == [["watching"], ["watching"]])
            scope.cancel()
    assert first.stats == second.stats == await one_stats()


async def one_stats() -> Stats:
    return Counters().snapshot(COUNTS, [])


# A client's snapshot


UNREADABLE = b'{"events":null}'


def hurry(client: WebhooksClient) -> None:
    """Have failing deliveries come again at once."""
    assert client._components is not None
    inbox = client._components.inbox
    inbox._back_off = inbox._back_off._replace(first_delay=0.001)


async def last_body(asana: AsanaSimulator) -> bytes:
    await asana.settled()
    return asana.deliveries[-1].body


IDLE_BUDGET = BudgetState(reads=0, writes=0, most_reads=50, most_writes=15, waiting=0, held_for=0.0)


async def test_snapshot_of_a_client_that_did_nothing_is_empty(make_client: MakeClient) -> None:
    async with make_client() as client:
        assert await client.stats() == Stats(
            waiting=0,
            oldest_age=None,
            dead_letters=0,
            stored=0,
            duplicates=0,
            handled=0,
            retried=0,
            dead=0,
            unwanted=0,
            duplicate_events=0,
            recovered=0,
            dropped=0,
            gaps=0,
            failures=0,
            notices={},
            refused={},
            webhooks=(),
            budgets=(IDLE_BUDGET,),
        )


async def test_what_waits_is_counted_with_the_age_of_the_oldest(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        before = datetime.now(UTC)
        for name in ("Fix the login", "Fix the logout"):
            await asana.create_task(name, project=asana.project)
        await asana.settled()
        stats = await client.stats()
        most = (datetime.now(UTC) - before).total_seconds()
    assert (stats.waiting, stats.stored, stats.handled) == (2, 2, 0)
    assert stats.oldest_age is not None
    assert 0 <= stats.oldest_age <= most


async def test_repeats_are_duplicates_whether_they_can_be_read_or_not(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        body = await last_body(asana)
        for repeated in (body, body, UNREADABLE, UNREADABLE):
            assert await asana.deliver(webhook.gid, repeated) == 200
        stats = await client.stats()
    assert (stats.stored, stats.duplicates) == (1, 3)
    assert (stats.dead, stats.dead_letters) == (1, 1)


async def test_refusals_are_counted_by_reason(
    make_client: MakeClient, asana: AsanaSimulator, free_port: int
) -> None:
    async with make_client() as client, httpx.AsyncClient(verify=NO_TLS) as http:
        webhook = await client.ensure(asana.project)
        await asana.settled()
        for _ in range(2):
            assert await asana.deliver(webhook.gid, b"{}", signature="0" * 64) == 401
        await http.get(webhook.target or "")
        await http.post(f"http://127.0.0.1:{free_port}/hooks/{'x' * 32}")
        await http.get(f"http://127.0.0.1:{free_port}/healthz")
        assert (await client.stats()).refused == {
            "the signature does not fit the body": 2,
            "a webhook target takes POST only": 1,
            "no webhook here": 1,
        }


async def test_what_handlers_make_of_deliveries_is_counted(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client = make_client(max_attempts=2)
    failures = {"1": 0, "2": 1, "3": 9}  # of handlers, for each gid

    @client.on()
    async def handle(event: Event) -> None:
        failures[event.resource.gid] -= 1
        if failures[event.resource.gid] >= 0:
            raise RuntimeError("not yet")

    hurry(client)
    async with client:
        await client.ensure(asana.project)
        for gid in failures:
            event = {"action": "changed", "resource": {"gid": gid}, "created_at": created_at()}
            await asana.emit(asana.project, event)
        await asana.settled()
        running = asyncio.create_task(client.run())
        await eventually(client.dead_letters)
        await until(lambda: failures["2"] < 0)
        stats = await eventually_idle(client)
    await running
    assert (stats.stored, stats.handled, stats.retried, stats.dead) == (3, 2, 2, 1)
    assert (stats.waiting, stats.oldest_age, stats.dead_letters) == (0, None, 1)


def created_at() -> str:
    return datetime.now(UTC).isoformat()


async def eventually_idle(client: WebhooksClient) -> Stats:
    with guard():
        while (stats := await client.stats()).waiting:
            await anyio.sleep(0.002)
    return stats


async def test_events_of_the_iterator_are_handled_deliveries_too(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        await asana.create_task("Fix the logout", project=asana.project)
        seen = 0
        async for _ in client.events():
            seen += 1
            if seen == 3:  # the first of the second delivery
                break
        assert (await client.stats()).handled == 1


async def test_silence_of_each_webhook_is_told(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        task = await asana.create_task("Fix the login", project=asana.project)
        busy = await client.ensure(asana.project)
        quiet = await client.ensure(task)
        await asana.create_task("Fix the logout", project=asana.project)
        await asana.settled()
        first, second = (await client.stats()).webhooks
    assert (first.gid, first.resource) == (busy.gid, asana.project)
    assert (second.gid, second.resource) == (quiet.gid, task)
    assert first.since_delivery is not None
    assert second.since_delivery is None
    for webhook in (first, second):
        assert webhook.since_heartbeat is not None
        assert 0 <= webhook.since_heartbeat < 10


async def test_deleted_webhook_is_no_longer_told_of(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    async with make_client() as client:
        webhook = await client.ensure(asana.project)
        await client.delete_webhook(webhook.gid)
        assert (await client.stats()).webhooks == ()


async def test_snapshot_holds_no_route_secret_or_body(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        await asana.create_task("Fix the login", project=asana.project)
        body = await last_body(asana)
        await asana.deliver(webhook.gid, body + b" ", signature=sign(body, "another"))
        stats = await client.stats()
        (route,) = await store.list_routes()
    text = repr(stats) + msgspec.json.encode(stats).decode()
    assert webhook.gid in text
    for secret in (route.id, route.secret, route.target, "login", sign(body, route.secret or "")):
        assert secret is not None
        assert secret not in text


# Counters alone


COUNTS = Counts(waiting=0, dead_letters=0)


def a_route(**fields: object) -> Route:
    route = Route(id="r", target="https://hooks.example.com/r", resource="12")
    return msgspec.structs.replace(route, **fields)


def test_silence_grows_from_the_last_delivery_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    counters = Counters()
    counters.became(a_delivery(), "stored")
    clock.now = 130.0
    counters.became(a_delivery(), "duplicate")
    counters.became(a_delivery("another"), "stored")
    clock.now = 135.5
    assert counters.snapshot(COUNTS, [a_route()]).webhooks == (
        WebhookStats(gid=None, resource="12", since_delivery=5.5, since_heartbeat=None),
    )


def test_last_deliveries_of_only_so_many_webhooks_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_ROUTES", 2)
    counters = Counters()
    for route in ("a", "b", "a", "c"):
        counters.became(a_delivery(route), "stored")
    heard = counters.snapshot(COUNTS, [a_route(id=route) for route in ("a", "b", "c")]).webhooks
    assert [each.since_delivery is not None for each in heard] == [True, False, True]


def test_handling_a_delivery_is_no_sign_of_life_of_its_webhook() -> None:
    counters = Counters()
    counters.became(a_delivery(), "handled")
    assert counters.snapshot(COUNTS, [a_route()]).webhooks[0].since_delivery is None


def test_time_that_lies_ahead_is_no_negative_age() -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    counts = Counts(waiting=1, dead_letters=0, oldest_at=later)
    stats = Counters().snapshot(counts, [a_route(heartbeat_at=later)])
    assert stats.oldest_age == 0.0
    assert stats.webhooks[0].since_heartbeat == 0.0


def test_ages_are_seconds() -> None:
    counts = Counts(waiting=1, dead_letters=0, oldest_at=datetime.now(UTC) - timedelta(hours=1))
    age = Counters().snapshot(counts, []).oldest_age
    assert age is not None
    assert 3600 <= age < 3610


def test_snapshot_stays_as_it_was() -> None:
    counters = Counters()
    counters.answered(UNKNOWN_ROUTE)
    stats = counters.snapshot(COUNTS, [])
    counters.answered(UNKNOWN_ROUTE)
    assert stats.refused == {"no webhook here": 1}
