"""One scope: its stream begun, read and judged while others change the same state in the store."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from asana_webhooks import Event, MemoryStore, Notice, ServerError, WebhookFilter, WebhooksApi
from asana_webhooks import _recovery as module
from asana_webhooks._clock import Clock
from asana_webhooks._continuity import Tally, Watch
from asana_webhooks._ledger import close_gap, keep, list_continuity, load
from asana_webhooks._recovery import Recovery
from asana_webhooks._remembered import Came, pack, unpack
from asana_webhooks._stream import Part, stream_event
from asana_webhooks.errors import PermissionDeniedError
from asana_webhooks.models import Delivery, Progress, Route, State, split_events
from asana_webhooks.notices import Notices

NOON = datetime(2026, 7, 4, 12, tzinfo=UTC)
SCOPE = "/12"
ROUTE = Route(id="r1", target="https://hooks.example.com/r1", resource="12")


def event(task: str, *, at: float = 0.0) -> Event:
    shape = {
        "created_at": (NOON + timedelta(seconds=at)).isoformat(),
        "action": "added",
        "resource": {"gid": task, "resource_type": "task"},
    }
    return stream_event(json.dumps(shape).encode(), received_at=NOON)


def body_of(*events: Event) -> bytes:
    return b'{"events":[%b]}' % b",".join(each.raw for each in events)


class Store(MemoryStore):
    """Lets somebody else change a state just before it is kept, so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.intrusions = 0
        self.change: Callable[[Watch], Watch] = lambda watch: replace(watch, seen=watch.seen + 1)

    async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
        if self.intrusions:
            self.intrusions -= 1
            watch, version = await load(self, state.scope)
            text = self.change(watch).encode()
            await super().put_state(State(scope=state.scope, version=version, text=text))
        return await super().put_state(state, deliveries=deliveries)


class Script:
    """A stream that answers what it is told to, one after the other."""

    def __init__(self) -> None:
        self.pages: list[Part | Exception] = []
        self.tokens: list[str | Exception] = ["token-0"]
        self.asked: list[str] = []

    async def first_token(self, resource: str) -> str:
        token: str = self._next(self.tokens)
        return token

    async def read(self, resource: str, cursor: str, at: datetime, **options: Any) -> Part:
        self.asked.append(cursor)
        page: Part = self._next(self.pages)
        return page

    @staticmethod
    def _next(script: list[Any]) -> Any:
        answer = script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Now:
    """Asana's time."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at


def page(cursor: str, sync: str, *events: Event, at: float, is_end: bool = True) -> Part:
    now = NOON + timedelta(seconds=at)
    return Part(cursor, list(events), sync, now, now, now, is_end=is_end)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with Store() as opened:
        await opened.reserve(ROUTE, ttl=60)
        await opened.add_candidate(ROUTE.id, "a" * 64)
        await opened.confirm(ROUTE.id, gid="7", secret="a" * 64)
        yield opened


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def make(store: Store, now: Now, script: Script, notices: list[Notice]) -> Callable[[], Recovery]:
    """Return a function that makes one of several readers."""

    def make() -> Recovery:
        clock = Clock()
        api = WebhooksApi("a-token")
        recovery = Recovery(
            lambda account: api,
            store,
            Notices(count=notices.append, now=now, clock=clock),
            clock,
            arrived=lambda: None,
            recovered=lambda count: None,
        )
        recovery._now = now
        recovery._stream_of = lambda route: script  # type: ignore[assignment, method-assign, return-value]
        return recovery

    return make


@pytest.fixture
def recovery(make: Callable[[], Recovery]) -> Recovery:
    return make()


async def prepared(recovery: Recovery, *routes: Route, error: str | None = None) -> Any:
    return await recovery.prepare(SCOPE, routes or [ROUTE], filtered_at=None, sync_error=error)


async def watch_of(store: Store) -> Watch:
    return (await load(store, SCOPE))[0]


async def recovered(store: Store) -> list[str]:
    """Return the tasks of the events that wait and were taken from the stream."""
    return [
        json.loads(bytes(raw))["resource"]["gid"]
        for delivery in await store.peek(ROUTE.id)
        for raw in split_events(delivery.body)
        if Progress.decode(delivery.progress).via == "stream"
    ]


# Beginning


async def test_first_token_is_kept_until_the_webhook_is_there_and_read_from_then(
    store: Store, recovery: Recovery, script: Script
) -> None:
    await recovery.begin(SCOPE, ROUTE)
    watch, is_replaced = await prepared(recovery)
    assert (watch.cursor, watch.routes, is_replaced) == ("token-0", ("r1",), False)
    assert script.tokens == []


async def test_webhook_that_takes_the_place_of_another_goes_on_from_its_place(
    store: Store, recovery: Recovery
) -> None:
    await recovery.begin(SCOPE, ROUTE)
    await prepared(recovery)
    other = replace(ROUTE, id="r2")
    await recovery.begin(SCOPE, other)
    watch, is_replaced = await prepared(recovery, other)
    assert (watch.cursor, watch.routes, is_replaced) == ("token-0", ("r1", "r2"), True)


async def test_token_of_a_webhook_that_was_never_made_is_not_used_for_the_next(
    recovery: Recovery, script: Script
) -> None:
    script.tokens = ["token-0", "token-1"]
    await recovery.begin(SCOPE, ROUTE)
    await recovery.begin(SCOPE, ROUTE)
    watch, _ = await prepared(recovery)
    assert watch.cursor == "token-1"


async def test_webhook_after_one_that_was_deleted_on_purpose_begins_anew(
    store: Store, recovery: Recovery, script: Script
) -> None:
    script.tokens = ["token-0", "token-1"]
    await prepared(recovery)
    await store.retire(ROUTE.id)
    watch, is_replaced = await prepared(recovery, replace(ROUTE, id="r2"))
    assert (watch.cursor, watch.routes, is_replaced) == ("token-1", ("r2",), True)


async def test_answer_without_a_token_is_asked_for_again(
    store: Store, recovery: Recovery, script: Script
) -> None:
    script.tokens = ["", "", "token"]
    await recovery.begin(SCOPE, ROUTE)
    assert await store.get_state(SCOPE) is None
    assert (await prepared(recovery))[0].cursor == ""
    assert (await prepared(recovery))[0].cursor == "token"


async def test_refusal_says_that_there_is_no_stream_and_an_outage_does_not(
    recovery: Recovery, script: Script
) -> None:
    script.tokens = [ServerError(503, ()), PermissionDeniedError(403, ("no",))]
    with pytest.raises(ServerError):
        await prepared(recovery)
    assert (await prepared(recovery))[0].refused
    assert (await prepared(recovery))[0].refused


async def test_filters_of_all_webhooks_of_a_resource_count(recovery: Recovery) -> None:
    tasks, stories = (WebhookFilter(resource_type=kind) for kind in ("task", "story"))
    first, second = replace(ROUTE, filters=(tasks,)), replace(ROUTE, filters=(stories, tasks))
    await prepared(recovery, first)
    watch, _ = await prepared(recovery, first, replace(second, id="r2"))
    assert watch.periods[-1].filters == (tasks, stories)
    watch, _ = await prepared(recovery, first, replace(ROUTE, id="r3"))
    assert watch.periods[-1].filters is None


async def test_what_somebody_else_changes_meanwhile_is_prepared_by_the_next_visit(
    store: Store, recovery: Recovery, script: Script
) -> None:
    store.intrusions, script.tokens = 1, ["token-0", "token-1"]
    assert await prepared(recovery) is None
    assert await prepared(recovery) is not None


async def test_word_of_asana_is_a_gap_where_there_is_no_stream(
    store: Store, recovery: Recovery, script: Script, notices: list[Notice]
) -> None:
    script.tokens = [PermissionDeniedError(403, ("no",))]
    await prepared(recovery)
    await prepared(recovery, error="too much")
    (gap,) = (await watch_of(store)).gaps
    assert "too much" in gap.detail
    assert [notice.kind for notice in notices] == ["gap"]


# Reading


async def test_pages_are_kept_one_by_one_and_judged_at_the_end(
    store: Store, recovery: Recovery, script: Script, now: Now
) -> None:
    await prepared(recovery)
    now.at = NOON + timedelta(hours=1)
    script.pages = [
        page("token-0", "token-1", event("1"), at=3_600, is_end=False),
        ServerError(503, ()),
    ]
    with pytest.raises(ServerError):
        await recovery.read(SCOPE, ROUTE)
    watch = await watch_of(store)
    assert (watch.cursor, len(watch.pending)) == ("token-1", 1)
    assert await recovered(store) == []
    script.pages = [page("token-1", "token-2", event("2"), at=3_600)]
    assert await recovery.read(SCOPE, ROUTE) == 2
    assert await recovered(store) == ["1", "2"]
    assert (await watch_of(store)).reader == ""


async def test_stream_that_another_process_reads_is_not_read(
    make: Callable[[], Recovery], script: Script, now: Now
) -> None:
    first, second = make(), make()
    await prepared(first)
    script.pages = [ServerError(503, ()), page("token-0", "token-1", at=0)]
    with pytest.raises(ServerError):
        await first.read(SCOPE, ROUTE)
    assert await second.read(SCOPE, ROUTE) == await second.judge(SCOPE, ROUTE) == 0
    assert len(script.asked) == 1
    now.at += module.READING
    await second.read(SCOPE, ROUTE)
    assert len(script.asked) == 2


async def test_stream_is_not_read_when_somebody_else_was_quicker(
    store: Store, recovery: Recovery, script: Script
) -> None:
    await prepared(recovery)
    store.intrusions = 1
    assert await recovery.read(SCOPE, ROUTE) == 0
    assert script.asked == []


async def test_what_was_read_is_compared_anew_when_somebody_changed_the_state(
    store: Store, recovery: Recovery, script: Script, now: Now
) -> None:
    await prepared(recovery)
    now.at = NOON + timedelta(hours=1)

    async def read(*arguments: Any, **options: Any) -> Part:
        store.intrusions = 1
        return page("token-0", "token-1", event("1"), at=3_600)

    script.read = read  # type: ignore[method-assign] # of this test
    assert await recovery.read(SCOPE, ROUTE) == 1
    watch = await watch_of(store)
    assert (watch.cursor, watch.seen) == ("token-1", 2)  # with what the other has counted
    assert await recovered(store) == ["1"]


@pytest.mark.parametrize("loss", ["another reads", "it never comes to rest"])
async def test_what_was_read_is_left_when_somebody_else_has_the_state(
    store: Store, recovery: Recovery, script: Script, now: Now, loss: str
) -> None:
    await prepared(recovery)
    now.at = NOON + timedelta(hours=1)

    async def read(*arguments: Any, **options: Any) -> Part:
        store.intrusions = 100
        if loss == "another reads":
            store.change = lambda watch: replace(watch, reader="another")
        return page("token-0", "token-1", event("1"), at=3_600)

    script.read = read  # type: ignore[method-assign] # of this test
    assert await recovery.read(SCOPE, ROUTE) == 0
    assert await recovered(store) == []
    assert (await watch_of(store)).cursor == "token-0"


@pytest.mark.parametrize("intrusions", [0, 1])
async def test_refusal_is_a_gap_unless_somebody_else_reads_by_now(
    store: Store, recovery: Recovery, script: Script, notices: list[Notice], intrusions: int
) -> None:
    await prepared(recovery)

    async def read(*arguments: Any, **options: Any) -> Part:
        watch, version = await load(store, SCOPE)
        reader = "another" if intrusions else watch.reader
        await keep(store, SCOPE, version, replace(watch, reader=reader))
        raise PermissionDeniedError(403, ("no",))

    script.read = read  # type: ignore[method-assign] # of this test
    await recovery.read(SCOPE, ROUTE)
    assert (await watch_of(store)).is_refused is not bool(intrusions)
    assert len(notices) == 1 - intrusions


async def test_events_that_cannot_be_read_are_a_gap(
    store: Store, recovery: Recovery, script: Script
) -> None:
    await prepared(recovery)
    script.pages = [page("token-0", "token-1", at=60)._replace(odd=2)]
    await recovery.read(SCOPE, ROUTE)
    (gap,) = (await watch_of(store)).gaps
    assert (gap.reason, gap.start, gap.end) == ("unreadable", NOON, NOON + timedelta(seconds=60))


async def test_stream_is_read_on_when_what_waits_has_been_judged(
    store: Store,
    recovery: Recovery,
    script: Script,
    now: Now,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asana_webhooks._continuity.MAX_PENDING", 100)
    await prepared(recovery)
    script.pages = [page("token-0", "token-1", event("1"), event("2"), at=1, is_end=False)]
    assert await recovery.read(SCOPE, ROUTE) == 0
    assert not (await watch_of(store)).is_readable
    now.at = NOON + timedelta(minutes=11)
    assert await recovery.judge(SCOPE, ROUTE) == 2
    assert (await watch_of(store)).is_readable


# Judging


async def waiting(store: Store, *events: Event, route: str = ROUTE.id, progress: str = "") -> None:
    """Put a delivery in the inbox."""
    body = body_of(*events)
    delivery = Delivery(
        route=route, body=body, digest=body[:32], received_at=NOON, progress=progress
    )
    assert await store.put(delivery)


async def test_event_that_waits_in_the_inbox_is_not_missing(
    store: Store, recovery: Recovery, script: Script, now: Now
) -> None:
    await prepared(recovery)
    await waiting(store, event("1"))
    await waiting(store, event("2"), route="lost")  # of the webhook that was before
    watch, version = await load(store, SCOPE)
    await keep(store, SCOPE, version, watch.read_for(["lost"]))
    now.at = NOON + timedelta(hours=1)
    script.pages = [page("token-0", "token-1", *map(event, "123"), at=3_600)]
    assert await recovery.read(SCOPE, ROUTE) == 1
    assert await recovered(store) == ["3"]


async def test_delivery_that_nobody_can_read_is_none_of_an_event(
    store: Store, recovery: Recovery, script: Script, now: Now
) -> None:
    await prepared(recovery)
    body = b'{"events":[{"odd":1}]}'
    odd = Delivery(route=ROUTE.id, body=body, digest=bytes(32), received_at=NOON)
    assert await store.put(odd)
    now.at = NOON + timedelta(hours=1)
    script.pages = [page("token-0", "token-1", event("1"), at=3_600)]
    assert await recovery.read(SCOPE, ROUTE) == 1


@pytest.mark.parametrize(
    ("agreed", "came"), [(True, Came.STREAMED), (False, Came.DOUBTFUL)], ids=["accord", "doubt"]
)
async def test_recovered_event_says_whether_the_stream_was_seen_to_agree(
    store: Store, recovery: Recovery, script: Script, now: Now, *, agreed: bool, came: int
) -> None:
    await prepared(recovery)
    if agreed:
        await waiting(store, event("1"))
    now.at = NOON + timedelta(hours=1)
    script.pages = [page("token-0", "token-1", event("1"), event("2"), at=3_600)]
    await recovery.read(SCOPE, ROUTE)
    last = (await store.peek(ROUTE.id))[-1]
    packed = await recovery._waiting(SCOPE, await watch_of(store))
    assert Progress.decode(last.progress).fresh == ("exact" if agreed else "near")
    assert list(unpack(packed))[-1] == next(unpack(pack(event("2"), came)))


@pytest.mark.parametrize(("intrusions", "count"), [(1, 1), (100, 0)])
async def test_what_waits_is_judged_anew_when_somebody_changed_the_state(
    store: Store, recovery: Recovery, script: Script, now: Now, intrusions: int, count: int
) -> None:
    await prepared(recovery)
    script.pages = [page("token-0", "token-1", event("1"), at=1)]
    await recovery.read(SCOPE, ROUTE)
    now.at = NOON + timedelta(minutes=11)
    store.intrusions = intrusions
    assert await recovery.judge(SCOPE, ROUTE) == count


async def test_many_events_are_put_in_deliveries_of_a_hundred(
    store: Store, recovery: Recovery, script: Script, now: Now
) -> None:
    await prepared(recovery)
    now.at = NOON + timedelta(hours=1)
    events = [event(str(number), at=number) for number in range(250)]
    script.pages = [page("token-0", "token-1", *events, at=3_600)]
    assert await recovery.read(SCOPE, ROUTE) == 250
    sizes = [len(split_events(each.body)) for each in await store.peek(ROUTE.id)]
    assert sizes == [100, 100, 50]
    assert await recovered(store) == [str(number) for number in range(250)]


# What was counted


async def test_what_was_counted_is_kept_once(store: Store, recovery: Recovery) -> None:
    await prepared(recovery)
    recovery.tallies[SCOPE] = Tally(late=2)
    store.intrusions = 1
    await recovery.keep_tally(SCOPE)
    assert recovery.tallies
    await recovery.keep_tally(SCOPE)
    await recovery.keep_tally(SCOPE)
    assert (await watch_of(store)).late == 2
    assert recovery.tallies == {}


async def test_what_is_counted_while_it_is_kept_is_kept_the_next_time(
    store: Store, recovery: Recovery
) -> None:
    await prepared(recovery)
    tally = recovery.tallies[SCOPE] = Tally(late=2)

    class Counting(Store):
        async def put_state(self, state: State, *, deliveries: Sequence[Delivery] = ()) -> bool:
            tally.late += 1
            return await store.put_state(state, deliveries=deliveries)

        async def get_state(self, scope: str) -> State | None:
            return await store.get_state(scope)

    recovery._store = Counting()
    await recovery.keep_tally(SCOPE)
    assert (await watch_of(store)).late == 2
    assert recovery.tallies == {SCOPE: Tally(late=1)}


# Gaps in the store


async def test_gap_is_closed_while_others_change_its_state(store: Store) -> None:
    watch = Watch().with_gap("expired", NOON, NOON, "")
    await keep(store, SCOPE, 0, watch)
    await keep(store, "/13", 0, Watch())
    store.intrusions = 3
    assert await close_gap(store, watch.gaps[0].id)
    assert (await watch_of(store)).gaps == ()


async def test_gap_whose_state_never_comes_to_rest_stays(store: Store) -> None:
    watch = Watch().with_gap("expired", NOON, NOON, "")
    await keep(store, SCOPE, 0, watch)
    store.intrusions = 1_000
    assert not await close_gap(store, watch.gaps[0].id)


async def test_state_without_a_webhook_and_gaps_is_not_told(store: Store) -> None:
    await keep(store, "/13", 0, Watch())
    (continuity,) = await list_continuity(store)
    assert continuity.source.webhook == "7"
