"""The events streams of kept webhooks, on the driven clock: what was missed is recovered, once."""

import asyncio
import contextlib
import os
import random
import runpy
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from conftest import eventually, until

from asana_webhooks import (
    ConnectionFailedError,
    Continuity,
    Event,
    Gap,
    MemoryStore,
    Notice,
    Source,
    StoreError,
    WebhookFilter,
    WebhooksClient,
)
from asana_webhooks import _asana_transport as transport
from asana_webhooks._ledger import MARK, keep, load
from asana_webhooks._stream import Stream
from asana_webhooks.models import Delivery, State
from asana_webhooks.simulator import AsanaSimulator, Call
from asana_webhooks.simulator.groups.events import EventCalls
from asana_webhooks.simulator.responses import Refused
from asana_webhooks.stores import Store
from asana_webhooks.testing import advance

MakeClient = Callable[..., WebhooksClient]
T = TypeVar("T")

SUPPORT = Path(__file__).parent / "support"

HOUR = 3_600.0
RECONCILE = 3_600.0
YOUNG = 600.0

CHANGES = int(os.environ.get("ASANA_WEBHOOKS_CHANGES", "0"))
"""How many tasks change around each outage; 0: few, and few kinds of outages with most stores."""

STEPS = 12
"""In how many steps hours with changes pass at most: each step takes real time."""


@pytest.fixture(autouse=True)
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a call fail at once: its repeats take real time."""
    monkeypatch.setattr(transport, "MAX_TRIES", 1)


STORES = {
    "memory": (),
    "sqlite": (),
    "valkey": (pytest.mark.servers,),
    "postgres": (pytest.mark.servers,),
}
"""The stores, and the marks of tests with them."""


@pytest.fixture(params=[pytest.param(name, marks=marks) for name, marks in STORES.items()])
async def make_store(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], Store]]:
    """Yield a function that returns the one store, to be opened anew."""
    if request.param == "memory":
        memory = MemoryStore()
        yield lambda: memory
        return
    from support.replicas import world_on  # it loads the servers, which most tests do without

    async with world_on(request.param, tmp_path, shared=True) as world:
        yield world.place.store


class Program:
    """A program that is started and stopped, and notes what its handler was given."""

    def __init__(
        self,
        make_client: MakeClient,
        asana: AsanaSimulator,
        make_store: Callable[[], Store],
        **options: Any,
    ) -> None:
        self.asana = asana
        self.events: list[Event] = []
        self.notices: list[Notice] = []
        self.filters: list[WebhookFilter] | None = options.pop("filters", None)
        self._make_client = make_client
        self._make_store = make_store
        self._options = options

    @asynccontextmanager
    async def running(self) -> AsyncIterator[WebhooksClient]:
        client = self._make_client(store=self._make_store(), **self._options)

        @client.on()
        async def note(event: Event) -> None:
            self.events.append(event)

        @client.on_notice()
        async def note_notice(notice: Notice) -> None:
            self.notices.append(notice)

        client.keep(self.asana.project, filters=self.filters)
        async with client.running():
            await client.kept()
            yield client

    @property
    def keys(self) -> Counter[str]:
        return Counter(event.key for event in self.events)

    @property
    def recovered(self) -> list[Event]:
        return [event for event in self.events if event.source and event.source.via == "stream"]

    def tasks(self, *, via: str | None = None) -> list[str]:
        """Return the tasks that were seen added to the project, in order."""
        return [
            event.resource.gid
            for event in self.events
            if event.action == "added"
            and event.resource.resource_type == "task"
            and event.parent is not None
            and event.parent.gid == self.asana.project
            and via in (None, event.source and event.source.via)
        ]


@pytest.fixture
def program(make_client: MakeClient, asana: AsanaSimulator) -> Program:
    memory = MemoryStore()
    return Program(make_client, asana, lambda: memory, order="webhook")


@pytest.fixture
def stored_program(
    make_client: MakeClient, asana: AsanaSimulator, make_store: Callable[[], Store]
) -> Program:
    """Return a program on each kind of store."""
    return Program(make_client, asana, make_store, order="webhook")


@pytest.fixture
def events_calls() -> list[Call]:
    """Return the calls for pages of streams, as they come."""
    return []


@pytest.fixture
async def asana(events_calls: list[Call]) -> AsyncIterator[AsanaSimulator]:
    def note(traffic: object) -> None:
        if isinstance(traffic, Call) and traffic.path.endswith("/events"):
            events_calls.append(traffic)

    async with AsanaSimulator(
        retry_delay=0.01, retry_after=0, gather_for=0, drop_share=0.05, watch=note
    ) as simulator:
        yield simulator


@contextmanager
def faulty(asana: AsanaSimulator, *names: str) -> Iterator[None]:
    """Have these faults on."""
    for name in names:
        asana.faults.add(name)
    yield
    for name in names:
        asana.faults.discard(name)


async def change(asana: AsanaSimulator, count: int) -> list[str]:
    """Add tasks, and complete every other one; return them."""
    tasks = []
    for number in range(count):
        tasks.append(await asana.create_task(f"Task {number}", project=asana.project))
        if number % 2:
            await asana.complete_task(tasks[-1])
    return tasks


async def pass_time(
    asana: AsanaSimulator, hours: float, *, client: WebhooksClient | None, changes: int = 0
) -> list[str]:
    """Pass some hours, with changes spread over them."""
    tasks = []
    steps = max(1, min(changes, STEPS))
    for step in range(steps):
        tasks += await change(asana, changes * (step + 1) // steps - changes * step // steps)
        seconds = hours * HOUR / steps
        if client is None:
            await asana.advance(seconds=seconds)
        else:
            await advance(asana, seconds, client=client)
    return tasks


async def all_of(program: Program, tasks: list[str]) -> None:
    """Wait until all events of these tasks were handled; none was twice."""
    await until(lambda: set(tasks) <= set(program.tasks()))
    assert sorted(program.tasks()) == sorted(tasks)
    assert set(program.keys.values()) == {1}


async def the_one(client: WebhooksClient) -> Continuity:
    (continuity,) = await client.continuity()
    return continuity


def remove(asana: AsanaSimulator) -> None:
    """Delete all webhooks as Asana does: without a word."""
    for gid in list(asana.webhooks):
        del asana.webhooks[gid]  # type: ignore[attr-defined] # its face is read-only


# What is missed is recovered


async def test_event_that_was_never_delivered_is_recovered(
    stored_program: Program, asana: AsanaSimulator
) -> None:
    program = stored_program
    async with program.running() as client:
        with faulty(asana, "outage"):
            lost = await change(asana, 1)
        told = await change(asana, 1)
        await until(lambda: program.tasks() == told)
        await advance(asana, RECONCILE + YOUNG, client=client)
        await all_of(program, told + lost)
        assert program.tasks(via="stream") == lost
        continuity = await the_one(client)
        assert continuity.evidence == "stream"
        assert continuity.recovered == continuity.dropped == len(program.recovered)
        assert continuity.seen == len(program.events)
        assert continuity.gaps == ()


async def test_recovered_event_tells_its_source(program: Program, asana: AsanaSimulator) -> None:
    async with program.running() as client:
        with faulty(asana, "outage"):
            await change(asana, 1)
        await advance(asana, RECONCILE + YOUNG, client=client)
        await until(lambda: program.events)
        source = program.events[0].source
        assert source is not None
        assert (source.webhook, source.resource) == (next(iter(asana.webhooks)), asana.project)
        assert source.received_at is not None


def outages() -> list[Any]:
    """Return which store, whose outage and how many hours of it are a case."""
    return [
        pytest.param(store, who, hours, marks=(*marks, *((pytest.mark.slow,) if hours > 6 else ())))
        for store, marks in STORES.items()
        for who in ("asana", "receiver", "both", "deleted")
        for hours in (1, 6, 23)
        if CHANGES or store == "memory" or (who, hours) in {("asana", 1), ("deleted", 6)}
    ]


@pytest.mark.parametrize(("make_store", "who", "hours"), outages(), indirect=["make_store"])
async def test_of_an_outage_nothing_is_missing_and_nothing_twice(
    stored_program: Program,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    hours: float,
) -> None:
    monkeypatch.setattr("asana_webhooks._reconciliation.LONGEST_PAUSE", 900.0)
    program, quarter = stored_program, CHANGES // 4 or 10
    async with program.running() as client:
        tasks = await pass_time(asana, 2, client=client, changes=quarter)
        if who == "asana":
            with faulty(asana, "outage"):
                tasks += await pass_time(asana, hours, client=client, changes=2 * quarter)
    if who != "asana":
        with faulty(asana, "outage") if who == "both" else contextlib.nullcontext():
            tasks += await pass_time(asana, hours / 2, client=None, changes=quarter)
            if who == "deleted":
                remove(asana)
            tasks += await pass_time(asana, hours / 2, client=None, changes=quarter)
    async with program.running() as client:
        tasks += await pass_time(asana, 2.5, client=client, changes=quarter)
        await pass_time(asana, 1.2, client=client)
        await all_of(program, tasks)
        assert (await the_one(client)).gaps == ()
    recovered = program.tasks(via="stream")
    assert recovered == [task for task in tasks if task in set(recovered)]


async def test_outage_that_is_longer_than_the_stream_is_a_gap_to_the_minute(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        await pass_time(asana, 2, client=client, changes=10)
        proven = (await the_one(client)).proven_until
        assert proven is not None
        begin = asana.now
    await pass_time(asana, 30, client=None, changes=CHANGES or 30)
    end = asana.now
    async with program.running() as client:
        await until(lambda: [each for each in program.notices if each.kind == "gap"])
        (notice,) = [each for each in program.notices if each.kind == "gap"]
        (gap,) = (await the_one(client)).gaps
        assert gap.start <= begin
        assert abs(gap.start - proven - timedelta(seconds=YOUNG)) < timedelta(seconds=1)
        assert gap.end is not None
        assert abs(gap.end - end) < timedelta(minutes=1)
        assert gap.reason == "expired"
        assert (notice.start, notice.end) == (gap.start, gap.end)
        assert gap.id in notice.detail
        assert (await client.stats()).gaps == 1
        assert await client.close_gap(gap.id)
        assert not await client.close_gap(gap.id)
        assert (await the_one(client)).gaps == ()
        lost = await change(asana, 3)
        await pass_time(asana, 1.2, client=client)
        await until(lambda: set(lost) <= set(program.tasks()))


async def test_example_finds_every_task_that_changed_in_a_gap(
    asana: AsanaSimulator,
    free_port: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "ASANA_ACCESS_TOKEN": "a-token",
        "ASANA_PROJECT": asana.project,
        "ASANA_BASE_URL": asana.base_url,
        "PUBLIC_URL": f"http://127.0.0.1:{free_port}",
        "PORT": str(free_port),
    }.items():
        monkeypatch.setenv(name, value)
    path = Path(__file__).parent.parent / "examples" / "gap_tasks.py"
    async with runpy.run_path(str(path))["client"].running() as client:
        await client.kept()
        await pass_time(asana, 1, client=client)
    tasks = await pass_time(asana, 30, client=None, changes=CHANGES or 130)
    client = runpy.run_path(str(path))["client"]
    async with client.running():
        await until(lambda: client._opened().counters.notices["gap"])
        await eventually(lambda: no_gaps(client))
    found = [line.split()[3:] for line in capsys.readouterr().out.splitlines() if "may" in line]
    assert len(found) > 1  # pages
    assert set(tasks) <= {task for page in found for task in page}


async def no_gaps(client: WebhooksClient) -> bool:
    return not any(each.gaps for each in await client.continuity())


async def test_gap_outlives_the_program(stored_program: Program, asana: AsanaSimulator) -> None:
    program = stored_program
    async with program.running() as client:
        await pass_time(asana, 1, client=client)
    await asana.advance(hours=30)
    async with program.running() as client:
        gaps = await eventually(lambda: gaps_of(client))
    async with program.running() as client:
        assert await gaps_of(client) == gaps
        await pass_time(asana, 3, client=client)
        assert await gaps_of(client) == gaps
    assert [each.kind for each in program.notices].count("gap") == 1


async def gaps_of(client: WebhooksClient) -> tuple[Gap, ...]:
    return (await the_one(client)).gaps


async def test_share_that_asana_drops_is_recovered_and_told(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        with faulty(asana, "dropped"):
            tasks = await pass_time(asana, 5, client=client, changes=CHANGES or 150)
        await advance(asana, RECONCILE + YOUNG, client=client)
        await all_of(program, tasks)
        continuity = await the_one(client)
        assert continuity.seen == len(program.events)
        assert continuity.dropped == len(program.recovered)
        assert continuity.dropped_share == pytest.approx(0.05, abs=0.01 if CHANGES else 0.03)
        assert continuity.latency is not None
        assert (await client.stats()).recovered == len(program.recovered)


async def test_webhook_that_is_lost_while_it_runs_is_read_as_soon_as_it_is_back(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        await pass_time(asana, 0.2, client=client)
        remove(asana)
        lost = await change(asana, 3)
        await pass_time(asana, 0.5, client=client)
        await all_of(program, lost)
        assert "restored" in [each.kind for each in program.notices]


@pytest.mark.parametrize(("minutes", "reads"), [(9, 0), (11, 1)])
async def test_program_that_was_away_for_ten_minutes_reads_at_once(
    program: Program, asana: AsanaSimulator, events_calls: list[Call], minutes: float, reads: int
) -> None:
    async with program.running() as client:
        await pass_time(asana, 0.5, client=client)
    await asana.advance(minutes=minutes)
    events_calls.clear()
    async with program.running() as client:
        await advance(asana, 60, client=client)
        assert len(events_calls) == reads


async def test_stream_is_read_to_its_end(program: Program, asana: AsanaSimulator) -> None:
    async with program.running() as client:
        with faulty(asana, "outage"):
            lost = await change(asana, 500)
        await advance(asana, RECONCILE + YOUNG, client=client)
        await all_of(program, lost)
        assert len(program.recovered) > 1_000


async def test_recovering_by_hand_tells_how_many(program: Program, asana: AsanaSimulator) -> None:
    async with program.running() as client:
        with faulty(asana, "outage"):
            lost = await change(asana, 1)
        assert await client.reconcile() == 0  # it is young, and may be under way
        await asana.advance(minutes=11)
        assert await client.reconcile() == len(await client.continuity()) * 2
        await all_of(program, lost)


async def test_late_delivery_of_what_was_recovered_is_handled_once(
    stored_program: Program, asana: AsanaSimulator
) -> None:
    program = stored_program
    async with program.running() as client:
        with faulty(asana, "delayed"):
            tasks = await change(asana, 4)
            await advance(asana, RECONCILE + YOUNG, client=client)
            await all_of(program, tasks)
        told = await change(asana, 1)
        await until(lambda: told[0] in program.tasks())
        await all_of(program, tasks + told)
        await advance(asana, RECONCILE, client=client)
        continuity = await the_one(client)
        assert continuity.recovered > 0
        assert continuity.dropped == 0


# Where the stream tells a change otherwise


@pytest.fixture(params=["stream-times", "stream-parents", "stream-values", "all"])
def differing_stream(request: pytest.FixtureRequest, asana: AsanaSimulator) -> None:
    """Have the stream differ from what webhooks deliver."""
    names = ("stream-times", "stream-parents", "stream-values")
    for name in names if request.param == "all" else (request.param,):
        asana.faults.add(name)


@pytest.mark.usefixtures("differing_stream")
async def test_of_a_stream_that_differs_nothing_is_handled_twice(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        tasks = await pass_time(asana, 3, client=client, changes=CHANGES or 10)
        await pass_time(asana, 1.2, client=client)
        await all_of(program, tasks)
        assert program.recovered == []


@pytest.mark.parametrize("how", ["stream-times", "stream-parents"])
async def test_stream_that_differs_in_much_is_a_gap_and_proves_nothing(
    program: Program, asana: AsanaSimulator, how: str
) -> None:
    async with program.running() as client:
        with faulty(asana, how):
            tasks = await change(asana, 30)
            await asana.settled()
            await pass_time(asana, 3, client=client)
            await all_of(program, tasks)
            (notice,) = [each for each in program.notices if each.kind == "gap"]
            assert "does not tell what the webhook delivers" in notice.detail
            continuity = await the_one(client)
            assert (continuity.evidence, continuity.proven_until) == ("heartbeats", None)
            (gap,) = continuity.gaps
            assert (gap.reason, gap.end) == ("disagreement", None)
        assert await client.close_gap(gap.id)
        with faulty(asana, "outage"):
            tasks += await change(asana, 1)
        await pass_time(asana, 2.2, client=client)
        await all_of(program, tasks)
        assert (await the_one(client)).evidence == "stream"


@pytest.mark.usefixtures("differing_stream")
async def test_late_deliveries_that_differ_from_what_was_recovered_are_handled_once(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        await pass_time(asana, 1, client=client)
    tasks = await pass_time(asana, 6, client=None, changes=CHANGES or 30)
    async with program.running() as client:
        await until(lambda: added(program).keys() >= set(tasks))
        told = await pass_time(asana, 12, client=client, changes=3)
        assert added(program) == dict.fromkeys([*tasks, *told], 2)


def added(program: Program) -> Counter[str]:
    """Return how often each task was added: Asana tells of its project, and of its section."""
    tasks = (each for each in program.events if each.resource.resource_type == "task")
    return Counter(each.resource.gid for each in tasks if each.action == "added")


# Filters


async def test_what_the_filters_keep_back_is_not_recovered(
    program: Program, asana: AsanaSimulator
) -> None:
    wanted = WebhookFilter(resource_type="task", action="changed", fields=["completed"])
    program.filters = [wanted]
    async with program.running() as client:
        with faulty(asana, "outage"):
            await change(asana, 4)
        await advance(asana, RECONCILE + YOUNG, client=client)
        await until(lambda: len(program.events) == 2)
        assert {event.change and event.change.field for event in program.events} == {"completed"}
        assert (await the_one(client)).seen == 2


async def test_filters_are_those_of_the_time_of_the_event(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        with faulty(asana, "delayed"):
            before = await change(asana, 2)
            await advance(asana, 600, client=client)
            (gid,) = asana.webhooks
            await client.update_webhook(gid, filters=[WebhookFilter(resource_type="story")])
            await advance(asana, 600, client=client)
            await change(asana, 2)
            await advance(asana, RECONCILE + YOUNG, client=client)
            await all_of(program, before)
            assert len(program.recovered) == (await the_one(client)).seen


# Without a stream, or with one that is no more


async def test_resource_without_a_stream_is_continued_by_heartbeats_alone(
    make_client: MakeClient, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    async with make_client() as client:
        await client.ensure(asana.workspace, filters=[WebhookFilter(resource_type="project")])
        await advance(asana, 3 * RECONCILE, client=client)
        continuity = await the_one(client)
        assert (continuity.evidence, continuity.proven_until) == ("heartbeats", None)
        assert continuity.gaps == ()
        assert len(events_calls) == 1


async def test_client_that_never_reconciles_asks_for_no_stream(
    make_client: MakeClient, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    async with make_client(reconcile=None) as client:
        await client.ensure(asana.project)
        await advance(asana, 3 * RECONCILE, client=client)
        assert (await the_one(client)).evidence == "heartbeats"
        with pytest.raises(RuntimeError, match="reconcile=None"):
            await client.reconcile()
    assert events_calls == []


async def test_stream_that_is_refused_is_a_gap_until_it_is_given_again(
    program: Program, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(calls: EventCalls, request: Any) -> str:
        raise Refused(403, "Forbidden")

    async with program.running() as client:
        await pass_time(asana, 1.1, client=client)
        with monkeypatch.context() as patch:
            patch.setattr(EventCalls, "_resource", refuse)
            await pass_time(asana, 3, client=client)
            (gap,) = await gaps_of(client)
            assert (gap.reason, gap.end) == ("refused", None)
            with faulty(asana, "outage"):
                lost = await change(asana, 2)
        await pass_time(asana, 1.2, client=client)
        await all_of(program, lost)
        (gap,) = await gaps_of(client)
        assert gap.end is not None
        assert [each.kind for each in program.notices].count("gap") == 2


@pytest.mark.parametrize("has_stream", [True, False], ids=["stream", "no stream"])
async def test_word_of_asana_that_it_could_not_keep_up_is_followed(
    make_client: MakeClient, asana: AsanaSimulator, events_calls: list[Call], *, has_stream: bool
) -> None:
    notices: list[Notice] = []
    client = make_client()

    @client.on()
    async def ignore(event: Event) -> None:
        pass

    @client.on_notice("gap")
    async def note(notice: Notice) -> None:
        notices.append(notice)

    resource = asana.project if has_stream else asana.workspace
    async with client.running():
        await client.ensure(resource, filters=[WebhookFilter(resource_type="project")])
        await asana.settled()
        events_calls.clear()
        (gid,) = asana.webhooks
        body = b'{"events":[{"action":"sync_error","message":"too much happened"}]}'
        assert await asana.deliver(gid, body) == 200
        if has_stream:
            await until(lambda: events_calls)
            assert (await the_one(client)).gaps == ()
            return
        (gap,) = await eventually(lambda: gaps_of(client))
        assert gap.reason == "sync_error"
        assert "too much happened" in gap.detail
        await until(lambda: notices)


async def test_token_that_ends_early_is_a_gap(program: Program, asana: AsanaSimulator) -> None:
    async with program.running() as client:
        await pass_time(asana, 0.5, client=client)
        with faulty(asana, "sync-expired"):
            await pass_time(asana, 0.6, client=client)
        (gap,) = await gaps_of(client)
        assert "before its 24 hours" in gap.detail
        assert gap.end is not None
        assert gap.end - gap.start < timedelta(hours=1, minutes=1)


async def test_token_that_ends_while_its_stream_is_read_costs_only_what_follows(
    program: Program, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Stream._page

    async def page_once(stream: Stream, resource: str, sync: str) -> Any:
        found = await page(stream, resource, sync)
        asana.faults.add("sync-expired")
        return found

    async with program.running() as client:
        with faulty(asana, "outage"):
            lost = await change(asana, 100)
            await asana.advance(minutes=20)
        monkeypatch.setattr(Stream, "_page", page_once)
        await client.reconcile()
        (gap,) = await gaps_of(client)
        assert "longer than the token" in gap.detail
        await until(lambda: len(program.recovered) == 100)
        assert set(program.tasks()) < set(lost)


# Over processes, stores and ends


async def test_of_ten_programs_on_one_store_one_reads(
    make_client: MakeClient, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    store = MemoryStore()
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(make_client(store=store))
        await first.ensure(asana.project)
        others = [
            await stack.enter_async_context(make_client(store=store, port=None, serve=False))
            for _ in range(9)
        ]
        events_calls.clear()
        await asana.advance(hours=1)
        for client in (first, *others):
            await client._clock.advance(RECONCILE, beside=nobody)
        assert len(events_calls) == 1


async def nobody(seconds: float) -> None:
    """Pass no other time."""


async def test_reader_that_died_is_followed_by_another(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        store = client._opened().store
        scope = f"/{asana.project}"
        watch, version = await load(store, scope)
        until_then = client.asana_now() + timedelta(hours=1.5)
        dead = msgspec.structs.replace(watch, reader="dead", reading_until=until_then)
        assert await keep(store, scope, version, dead)
        with faulty(asana, "outage"):
            lost = await change(asana, 1)
        await pass_time(asana, 1.4, client=client)
        assert program.events == []
        await pass_time(asana, 0.2, client=client)
        await all_of(program, lost)


async def test_stream_is_read_at_once_though_others_change_its_state(
    make_client: MakeClient, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    class Contended(MemoryStore):
        refusals = 0

        async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
            if self.refusals:
                self.refusals -= 1
                return False
            return await super().put_state(state, deliveries=deliveries)

    store = Contended()
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        await advance(asana, 60, client=client)
        events_calls.clear()
        (gid,) = asana.webhooks
        await client.update_webhook(gid, filters=[WebhookFilter(resource_type="task")])
        client._opened().reconciliation.restored(Source(webhook=gid, resource=asana.project))
        store.refusals = 1
        await advance(asana, 10, client=client)
        assert len(events_calls) == 1


async def test_webhook_that_was_deleted_on_purpose_is_forgotten_without_a_gap(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        assert await store.get_state(f"/{asana.project}")
        await client.delete_webhook(webhook.gid)
        await advance(asana, RECONCILE, client=client)
        assert await store.get_state(f"/{asana.project}") is None
        await client.ensure(asana.project)
        await advance(asana, 2 * RECONCILE, client=client)
        assert (await the_one(client)).gaps == ()


async def test_webhook_that_is_made_anew_is_not_given_what_was_before_it(
    program: Program, asana: AsanaSimulator
) -> None:
    async with program.running() as client:
        await client.leave(asana.project)
        await change(asana, 3)
        await asana.advance(minutes=20)
    async with program.running() as client:
        told = await change(asana, 1)
        await pass_time(asana, 1.2, client=client)
        await all_of(program, told)


async def test_gap_of_a_webhook_that_is_gone_stays_until_it_is_closed(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        webhook = await client.ensure(asana.project)
        watch, version = await load(store, f"/{asana.project}")
        now = client.asana_now()
        await keep(store, f"/{asana.project}", version, watch.with_gap("expired", now, now, ""))
        await client.delete_webhook(webhook.gid)
        await advance(asana, RECONCILE, client=client)
        continuity = await the_one(client)
        assert (continuity.source.webhook, continuity.source.resource) == ("", asana.project)
        await client.close_gap(continuity.gaps[0].id)
        await advance(asana, 49 * HOUR, client=client)
        assert await store.get_state(f"/{asana.project}") is None


async def test_damaged_continuity_begins_anew(
    make_client: MakeClient, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore()
    async with make_client(store=store) as client:
        await client.ensure(asana.project)
        state = await store.get_state(f"/{asana.project}")
        assert state is not None
        assert await store.put_state(msgspec.structs.replace(state, text="{damaged"))
        await advance(asana, 2 * RECONCILE, client=client)
        assert (await the_one(client)).evidence == "stream"
    assert "was damaged in the store" in caplog.text
    assert "{damaged" not in caplog.text


class Failing(MemoryStore):
    """Fails now and then, before a call or after it was carried out."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = random.Random(7)  # noqa: S311 - the same each time
        self.fails = False

    async def _maybe(self, work: Coroutine[Any, Any, T]) -> T:
        fate = self.dice.random() if self.fails else 1.0
        if fate < 0.15:
            work.close()
            raise StoreError("away")
        result = await work
        if fate < 0.3:
            raise StoreError("away after it was done")
        return result

    async def get_state(self, scope: str) -> State | None:
        return await self._maybe(super().get_state(scope))

    async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
        return await self._maybe(super().put_state(state, deliveries=deliveries))

    async def peek(self, route: str, *, after: str = "", limit: int = 100) -> list[Delivery]:
        return await self._maybe(super().peek(route, after=after, limit=limit))


async def test_reading_that_breaks_off_anywhere_loses_and_repeats_nothing(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    store = Failing()
    program = Program(make_client, asana, lambda: store)
    tasks: list[str] = []
    async with program.running() as client:
        store.fails = True
        with faulty(asana, "dropped"):
            for _ in range(10):
                tasks += await pass_time(asana, 2, client=client, changes=10)
        store.fails = False
        await pass_time(asana, 1.3, client=client)
        await all_of(program, tasks)
        assert program.recovered


# When it is read, and what goes wrong


async def test_webhook_is_made_though_its_stream_cannot_be_asked_for(
    make_client: MakeClient, asana: AsanaSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(stream: Stream, resource: str) -> str:
        raise ConnectionFailedError("away")

    async with make_client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "first_token", fail)
            await client.ensure(asana.project)
            assert (await the_one(client)).evidence == "heartbeats"
        await advance(asana, 60, client=client)
        assert (await the_one(client)).evidence == "stream"


async def test_error_of_one_stream_holds_up_no_other(
    make_client: MakeClient,
    asana: AsanaSimulator,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = await asana.create_task("Fix it", project=asana.project)
    page = Stream._page

    async def fail(stream: Stream, resource: str, sync: str) -> Any:
        if resource == task:
            raise LookupError
        return await page(stream, resource, sync)

    async with make_client() as client:
        for resource in (asana.project, task):
            await client.ensure(resource)
        monkeypatch.setattr(Stream, "_page", fail)
        await advance(asana, 2 * RECONCILE, client=client)
        now = client.asana_now()
        ages = {
            each.source.resource: now - (each.proven_until or now)
            for each in await client.continuity()
        }
        assert ages[asana.project] < timedelta(hours=1.2) < ages[task]
    assert f"the events stream of {task} could not be read" in caplog.text


async def test_event_of_a_stream_that_cannot_be_read_is_named(
    program: Program, asana: AsanaSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with program.running() as client:
        await asana.emit(asana.project, {"odd": 1})
        await advance(asana, RECONCILE, client=client)
        (gap,) = await gaps_of(client)
        assert gap.reason == "unreadable"
    assert f"an event of the stream of {asana.project} cannot be read" in caplog.text


async def test_limit_of_calls_is_waited_for(
    program: Program, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    async with program.running() as client:
        await advance(asana, 60, client=client)
        events_calls.clear()
        with faulty(asana, "rate-limited"):
            await pass_time(asana, 1, client=client)
        await pass_time(asana, 0.1, client=client)
        assert [call.status for call in events_calls] == [429, 200]


async def test_word_of_asana_is_a_notice_when_nothing_is_reconciled(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    notices: list[Notice] = []
    client = make_client(reconcile=None)

    @client.on()
    async def ignore(event: Event) -> None:
        pass

    @client.on_notice("gap")
    async def note(notice: Notice) -> None:
        notices.append(notice)

    async with client.running():
        webhook = await client.ensure(asana.project)
        await asana.settled()
        body = b'{"events":[{"action":"sync_error","message":"too much happened"}]}'
        assert await asana.deliver(webhook.gid, body) == 200
        await until(lambda: notices)
        assert "too much happened" in notices[0].detail


async def test_damaged_mark_of_the_last_program_counts_as_none(
    program: Program, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    async with program.running() as client:
        await advance(asana, 60, client=client)
        store = client._opened().store
        state = await store.get_state(MARK)
        assert state is not None
        assert await store.put_state(msgspec.structs.replace(state, text="damaged"))
    events_calls.clear()
    async with program.running() as client:
        await advance(asana, 60, client=client)
        assert len(events_calls) == 1


async def test_latencies_are_counted_for_no_more_scopes_than_can_be_kept(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._reconciliation.MAX_TALLIES", 2)
    reconciliation = make_client()._configured().reconciliation
    for number in (1, 2, 3, 1):
        source = Source(webhook="7", resource=str(number))
        reconciliation.delivered(source, 1.0)
        reconciliation.came_afterwards(source)
    reconciliation.delivered(Source(webhook="", resource=""), 1.0)
    assert list(reconciliation._recovery.tallies) == ["/1", "/2"]
    assert reconciliation._recovery.tallies["/1"].late == 2


async def test_trouble_that_is_over_has_its_stream_read(
    program: Program, asana: AsanaSimulator, events_calls: list[Call]
) -> None:
    async with program.running() as client:
        await advance(asana, 60, client=client)
        with faulty(asana, "server-error-answers"):
            await change(asana, 1)
            await advance(asana, 900, client=client)
        events_calls.clear()
        await advance(asana, 1_000, client=client)
        assert "restored" in [each.kind for each in program.notices]
        assert len(events_calls) == 1


KILLS = int(os.environ.get("ASANA_WEBHOOKS_KILLS", "3"))
"""How often the reader is killed."""

READERS = int(os.environ.get("ASANA_WEBHOOKS_READERS", "3"))
"""How many processes share a store."""


EACH_KIND = pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param("valkey", marks=pytest.mark.servers),
        pytest.param("postgres", marks=pytest.mark.servers),
    ],
)


class Readers:
    """Programs that read the streams of a store of this kind, as processes of their own."""

    def __init__(self, kind: str, folder: Path, public_url: str, asana: AsanaSimulator) -> None:
        from support.replicas import shared_place_of  # it loads the servers

        self.place = shared_place_of(kind, folder)
        self._arguments = (kind, self.place.address, self.place.name, public_url, asana.base_url)

    async def start(self, how: str) -> asyncio.subprocess.Process:
        """Return a process that is about to read."""
        command = (sys.executable, "-m", "support.reader", *self._arguments, how)
        reader = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=SUPPORT.parent)
        assert reader.stdout is not None
        assert await reader.stdout.readline() == b"reads\n"
        return reader


@pytest.fixture
def readers(kind: str, tmp_path: Path, free_port: int, asana: AsanaSimulator) -> Readers:
    return Readers(kind, tmp_path, f"http://127.0.0.1:{free_port}/hooks", asana)


@pytest.mark.slow
@EACH_KIND
async def test_reader_that_is_killed_at_any_instant_loses_and_repeats_nothing(
    make_client: MakeClient, asana: AsanaSimulator, readers: Readers
) -> None:
    dice = random.Random(3)  # noqa: S311 - the same each time
    program = Program(make_client, asana, readers.place.store)
    async with program.running():
        pass
    tasks: list[str] = []
    for _ in range(KILLS):
        with faulty(asana, "outage"):
            tasks += await change(asana, 50)
        await asana.advance(minutes=6)  # Asana keeps a stream for a day: 200 kills are within it
        reader = await readers.start("always")
        await asyncio.sleep(dice.uniform(0, 0.1))
        reader.kill()
        await reader.wait()
    await asana.advance(minutes=12)
    async with program.running() as client:
        await client.reconcile()
        await all_of(program, tasks)
        assert (await the_one(client)).gaps == ()


@pytest.mark.slow
@EACH_KIND
async def test_of_some_processes_on_one_store_one_reads(
    make_client: MakeClient,
    asana: AsanaSimulator,
    readers: Readers,
    events_calls: list[Call],
) -> None:
    program = Program(make_client, asana, readers.place.store)
    async with program.running():
        pass
    with faulty(asana, "outage"):
        tasks = await change(asana, 250)
    await asana.advance(minutes=12)
    events_calls.clear()
    processes = await asyncio.gather(*(readers.start("when due") for _ in range(READERS)))
    async with readers.place.store() as store:
        (route,) = await store.list_routes()

        async def is_recovered() -> bool:
            waiting = await store.peek(route.id)
            return sum(each.body.count(b'"added"') for each in waiting) >= len(tasks)

        await eventually(is_recovered)
    for process in processes:
        process.kill()
        await process.wait()
    asked = [call.query for call in events_calls]
    assert len(asked) == len(set(asked))  # no page of the stream was asked for twice
    async with program.running():
        await all_of(program, tasks)
