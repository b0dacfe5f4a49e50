"""Which events the program itself has caused: judged, and kept from its handlers."""

import asyncio
import random
import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from conftest import eventually, until
from support.inboxes import confirm, draining, is_empty

from asana_webhooks import Event, MemoryStore, Router
from asana_webhooks._echoes import LONGEST_CALL, MARGIN, Echoes, suspects
from asana_webhooks._inbox import Inbox
from asana_webhooks._ping_pong import FLIPS, PingPong
from asana_webhooks._writes import Writes, Written, effects_of
from asana_webhooks.models import Delivery, Write
from asana_webhooks.stores import Store
from asana_webhooks.testing import make_delivery, make_event

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
USER, OTHER = "8", "9"


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def written(
    data: dict[str, Any] | None = None,
    *,
    method: str = "PUT",
    path: str = "/tasks/5",
    ended: float | None = 1.0,
    made: str | None = None,
) -> Written:
    return Written(
        user=USER,
        effects=effects_of(method, path, data or {"completed": True}),
        started=NOON,
        ended=None if ended is None else at(ended),
        made=() if made is None else (made,),
    )


def event(
    seconds: float = 0.5,
    *,
    user: str | None = USER,
    gid: str = "5",
    kind: str = "task",
    field: str | None = "completed",
    **others: Any,
) -> Event:
    return make_event(
        kind,
        field=field,
        gid=gid,
        created_at=at(seconds),
        user=user and {"gid": user, "resource_type": "user"},
        **others,
    )


def comment(seconds: float = 0.5, *, gid: str = "50", user: str | None = None) -> Event:
    parent = {"gid": "5", "resource_type": "task"}
    return event(
        seconds,
        gid=gid,
        kind="story",
        field=None,
        user=user,
        action="added",
        subtype="comment_added",
        parent=parent,
    )


COMMENT: dict[str, Any] = {"method": "POST", "path": "/tasks/5/stories", "data": {"text": "a"}}


def are_suspected(found: Event, *writes: Written, now: float = 2.0) -> list[tuple[str, bool]]:
    named = {f"w{number}": each for number, each in enumerate(writes)}
    return [(each.write, each.is_open) for each in suspects(found, named, at(now))]


# What may have caused an event


def test_write_is_suspected_of_what_it_changes() -> None:
    assert are_suspected(event(), written()) == [("w0", False)]
    assert are_suspected(event(field="name"), written()) == []


@pytest.mark.parametrize("user", [OTHER, None])
def test_other_users_change_is_not_the_programs(user: str | None) -> None:
    assert are_suspected(event(user=user), written()) == []


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-MARGIN.total_seconds() - 0.001, []),
        (-MARGIN.total_seconds(), [("w0", False)]),
        (1 + MARGIN.total_seconds(), [("w0", False)]),
        (1 + MARGIN.total_seconds() + 0.001, []),
    ],
)
def test_change_outside_of_the_times_of_a_call_is_not_its(
    seconds: float, expected: list[Any]
) -> None:
    assert are_suspected(event(seconds), written()) == expected


def test_likeliest_write_is_the_first() -> None:
    other = Written(user=USER, effects=written().effects, started=at(1), ended=at(2))
    assert are_suspected(event(1.2), written(), other) == [("w1", False), ("w0", False)]
    assert are_suspected(event(0.8), written(), other) == [("w0", False), ("w1", False)]


def test_call_under_way_is_open_until_it_cannot_be() -> None:
    longest = LONGEST_CALL.total_seconds()
    assert are_suspected(event(30), written(ended=None), now=40) == [("w0", True)]
    assert are_suspected(event(30), written(ended=None), now=longest + 1) == []
    assert are_suspected(event(longest + 1), written(ended=None), now=40) == []
    assert are_suspected(event(-1), written(ended=None), now=1) == []


def test_comment_is_the_calls_that_made_it() -> None:
    assert are_suspected(comment(), written(**COMMENT, made="50")) == [("w0", False)]
    assert are_suspected(comment(user=USER), written(**COMMENT, made="50")) == [("w0", False)]
    assert are_suspected(comment(gid="51"), written(**COMMENT, made="50")) == []
    assert are_suspected(comment(user=OTHER), written(**COMMENT, made="50")) == []


def test_comment_may_be_that_of_a_call_under_way() -> None:
    assert are_suspected(comment(), written(**COMMENT, ended=None)) == [("w0", True)]


def test_comment_of_a_call_without_an_answer_is_not_known_to_be_its() -> None:
    assert are_suspected(comment(), written(**COMMENT)) == []


def test_only_its_making_may_be_that_of_a_call_under_way() -> None:
    making = written({"name": "a"}, method="POST", path="/tasks", ended=None)
    made = event(gid="50", field=None, action="added", parent={"gid": "1"})
    assert are_suspected(made, making) == [("w0", True)]
    assert are_suspected(event(gid="50"), making) == []


def test_one_call_has_a_part_for_each_place_and_field() -> None:
    making = written({"name": "a"}, method="POST", path="/tasks", made="50")
    placed = [
        event(gid="50", field=None, action="added", parent={"gid": gid, "resource_type": kind})
        for gid, kind in (("7", "project"), ("70", "section"))
    ]
    placed += [event(gid="50", field=field) for field in ("assignee", "due_on")]
    parts = {each.part for one in placed for each in suspects(one, {"w": making}, at(2))}
    assert len(parts) == 4


# Judging by what a store knows


class Judge:
    """Judges events by what a store knows, as the workers of a process do."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = at(2)

    async def is_echo(self, found: Event) -> bool | None:
        """Return whether an event is an echo; None while it waits."""
        echoes = Echoes(self.store, lambda: self.now, ping_pong=None)
        judging = echoes.of_claim()
        judging.add([_delivery(found)])
        pause = await judging.judge(found, asyncio.get_running_loop().time())
        return None if pause else found.echo


def _delivery(*events: Event, route: str = "a") -> Delivery:
    body = make_delivery("s", *events).body
    return Delivery(route=route, body=body, digest=secrets.token_bytes(32), received_at=NOON)


async def keep(store: Store, name: str, kept: Written, *, account: str = "") -> None:
    await store.put_write(
        Write(id=name, account=account, resources=kept.resources(), text=kept.encode())
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_write_hides_one_change_of_a_field(store: MemoryStore) -> None:
    judge = Judge(store)
    await keep(store, "w", written())
    assert await judge.is_echo(event(0.5))
    assert not await judge.is_echo(event(0.6))
    assert await judge.is_echo(event(0.5))  # also told by another webhook, or by another worker
    assert await judge.is_echo(event(0.5, field="completed_at"))
    story = event(
        kind="story",
        gid="60",
        field=None,
        subtype="marked_complete",
        action="added",
        parent={"gid": "5"},
    )
    assert await judge.is_echo(story)


async def test_two_writes_hide_two_changes(store: MemoryStore) -> None:
    judge = Judge(store)
    await keep(store, "w1", written())
    await keep(store, "w2", written({"completed": False}))
    assert [await judge.is_echo(event(each / 10)) for each in range(3)] == [True, True, False]


async def test_write_of_another_account_is_the_programs_too(store: MemoryStore) -> None:
    await keep(store, "w", written(), account="acme")
    assert await Judge(store).is_echo(event())


async def test_damaged_write_hides_nothing(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put_write(Write(id="w", resources=("5",), text="{"))
    assert not await Judge(store).is_echo(event())
    assert "damaged" in caplog.text


async def test_event_waits_for_the_result_of_a_call_under_way(store: MemoryStore) -> None:
    judge = Judge(store)
    await keep(store, "w", written(**COMMENT, ended=None))
    assert await judge.is_echo(comment(gid="50")) is None
    await keep(store, "w", written(**COMMENT, made="50"))
    assert await judge.is_echo(comment(gid="50"))
    assert not await judge.is_echo(comment(gid="51"))


def people_and_programs(
    rng: random.Random, count: int
) -> tuple[dict[str, Written], list[tuple[Event, bool]]]:
    """Return writes and events on one token, and whether each event is a person's.

    No person changes a field while the program's own write to it is under way.
    """
    writes: dict[str, Written] = {}
    events: list[tuple[Event, bool]] = []
    now: dict[tuple[str, str], float] = {}
    fields = ("completed", "name", "assignee", "due_on", "notes")
    while len(events) < count:
        gid, field = str(rng.randrange(50)), rng.choice(fields)
        start = now.get((gid, field), 0.0) + rng.choice([0.01, 1.5, 5.0, 60.0])
        is_person, is_repeated = rng.random() < 0.5, rng.random() < 0.2
        if is_person:
            events.append((event(start, gid=gid, field=field), True))
            now[gid, field] = start
            continue
        ended = start + rng.choice([0.05, 0.3, 2.0])
        margin = MARGIN.total_seconds() + MARGIN.total_seconds() + 0.01
        start, ended = start + margin, ended + margin
        effects = effects_of("PUT", f"/tasks/{gid}", {field: "x"})
        writes[f"w{len(writes)}"] = Written(
            user=USER, effects=effects, started=at(start), ended=at(ended)
        )
        if not is_repeated:  # or the value was the same, which is no change
            happened = start + rng.random() * (ended - start)
            events.append((event(happened, gid=gid, field=field), False))
        now[gid, field] = ended + margin
    return writes, events


@pytest.mark.parametrize("seed", [1, 2])
def test_of_ten_thousand_mixed_events_none_of_a_person_is_hidden(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - to be the same each time
    writes, events = people_and_programs(rng, 5000)
    of_gid: dict[str, dict[str, Written]] = {}
    for name, each in writes.items():
        of_gid.setdefault(each.resources()[0], {})[name] = each
    taken: dict[tuple[str, str], str] = {}

    def is_echo(found: Event) -> bool:
        known = of_gid.get(found.resource.gid, {})
        return any(
            taken.setdefault((each.write, each.part), found.key) == found.key
            for each in suspects(found, known, at(10**7))
        )

    rng.shuffle(events)
    wrong = [found for found, is_person in events if is_echo(found) is is_person]
    assert wrong == []
    assert sum(not is_person for _, is_person in events) > 1000


# In the inbox


class Seen:
    def __init__(self) -> None:
        self.events: list[Event] = []

    @property
    def gids(self) -> list[str]:
        return [each.resource.gid for each in self.events]

    async def __call__(self, found: Event) -> None:
        self.events.append(found)


def options(store: Store, *, ping_pong: PingPong | None = None, now: float = 2.0) -> dict[str, Any]:
    return {"echoes": Echoes(store, lambda: at(now), ping_pong=ping_pong)}


async def deliver(store: Store, *events: Event, route: str = "a") -> None:
    assert await store.put(_delivery(*events, route=route))


@pytest.fixture
async def routed(store: MemoryStore) -> MemoryStore:
    await confirm(store, "a")
    return store


async def test_handlers_get_no_echoes_unless_they_want_them(routed: MemoryStore) -> None:
    router, seen, seen_all = Router(), Seen(), Seen()
    router.on("task", name="others")(seen)
    router.on("task", echoes=True, name="all")(seen_all)
    await keep(routed, "w", written())
    await deliver(routed, event(0.5), event(0.5, field="name"), event(30))
    async with draining(routed, router=router, **options(routed)):
        await eventually(lambda: is_empty(routed))
    fields = [each.change and each.change.field for each in seen_all.events]
    assert fields == ["completed", "name", "completed"]
    assert [each.echo for each in seen_all.events] == [True, False, False]
    assert [each.created_at for each in seen.events] == [at(0.5), at(30)]


async def test_echo_that_no_handler_wants_is_not_said_to_be_unwanted(
    routed: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await keep(routed, "w", written())
    await deliver(routed, event())
    async with draining(routed, seen := Seen(), **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert seen.events == []
    assert "no handler wants" not in caplog.text


async def test_echo_of_a_write_that_came_while_the_webhook_was_worked_on_is_known(
    routed: MemoryStore,
) -> None:
    go_on, seen = asyncio.Event(), Seen()

    async def wait_for_first(found: Event) -> None:
        await seen(found)
        await go_on.wait()

    await deliver(routed, event(gid="6"))
    async with draining(routed, wait_for_first, **options(routed)):
        await until(lambda: seen.gids == ["6"])
        await keep(routed, "w", written())
        await deliver(routed, event(), event(gid="7"))
        await until(lambda: seen.gids == ["6", "7"])
        go_on.set()
        await eventually(lambda: is_empty(routed))
    assert seen.gids == ["6", "7"]


async def test_event_that_waits_holds_up_its_own_resource_only(routed: MemoryStore) -> None:
    await keep(routed, "w", written(ended=None))
    await deliver(routed, event(), event(field="name"), event(gid="6"))
    async with draining(routed, seen := Seen(), concurrency=1, **options(routed)):
        await until(lambda: seen.gids == ["6"])
        await anyio.wait_all_tasks_blocked()
        assert seen.gids == ["6"]
        await keep(routed, "w", written())
        await eventually(lambda: is_empty(routed))
    assert [each.change and each.change.field for each in seen.events[1:]] == ["name"]


async def test_event_of_a_call_that_never_ended_is_handed_over(
    routed: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._echoes.LONGEST_WAIT", 0.05)
    monkeypatch.setattr("asana_webhooks._echoes.LOOK_AGAIN", 0.01)
    await keep(routed, "w", written(ended=None))
    await deliver(routed, event())
    async with draining(routed, seen := Seen(), **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert [each.echo for each in seen.events] == [False]


async def test_event_that_waits_stays_in_the_store_when_the_inbox_ends(
    routed: MemoryStore,
) -> None:
    await keep(routed, "w", written(ended=None))
    await deliver(routed, event())
    async with draining(routed, seen := Seen(), **options(routed)) as inbox:
        await until(lambda: any(not each.running for each in inbox._claims.active))
    assert seen.events == []
    assert not await is_empty(routed)
    async with draining(routed, seen, **options(routed, now=1000)):
        await eventually(lambda: is_empty(routed))
    assert seen.gids == ["5"]


async def test_store_that_fails_to_tell_writes_loses_no_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Flaky(MemoryStore):
        failures = 2

        async def list_writes(self, resources: Collection[str]) -> list[Write]:
            if self.failures:
                self.failures -= 1
                raise ConnectionError
            return await super().list_writes(resources)

    await confirm(store := Flaky(), "a")
    await keep(store, "w", written())
    await deliver(store, event(), event(gid="6"))
    async with draining(store, seen := Seen(), **options(store)):
        await eventually(lambda: is_empty(store))
    assert seen.gids == ["6"]


async def test_without_writes_nothing_is_asked(routed: MemoryStore) -> None:
    async def refuse(resources: object) -> list[Write]:
        raise AssertionError

    routed.list_writes = refuse  # type: ignore[method-assign] # nobody calls it
    await deliver(routed, event())
    async with draining(routed, seen := Seen(), **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert seen.gids == ["5"]


async def test_writes_are_read_once_for_all_deliveries_of_a_claim(routed: MemoryStore) -> None:
    asked: list[set[str]] = []
    list_writes = routed.list_writes

    async def count(resources: Any) -> list[Write]:
        asked.append(set(resources))
        await anyio.wait_all_tasks_blocked()  # as a server has all others wait for its answer
        return await list_writes(resources)

    routed.list_writes = count  # type: ignore[method-assign] # passes on
    await keep(routed, "w", written())
    for gid in range(5, 55):
        await deliver(routed, event(gid=str(gid)), event(30, gid=str(gid)))
    async with draining(routed, seen := Seen(), **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert len(seen.events) == 99
    assert len(asked) == 1
    assert {"5", "54"} <= asked[0]


async def test_retry_of_an_event_is_for_its_handler_whatever_is_known_by_then(
    routed: MemoryStore,
) -> None:
    seen = Seen()

    async def fail_once(found: Event) -> None:
        await seen(found)
        if len(seen.events) == 1:
            await keep(routed, "w", written())
            raise RuntimeError

    await keep(routed, "other", written(path="/tasks/77"))
    await deliver(routed, event())
    async with draining(routed, fail_once, **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert seen.gids == ["5", "5"]


@pytest.mark.parametrize("echoes", [False, True])
async def test_stream_yields_echoes_if_they_are_wanted(
    routed: MemoryStore, *, echoes: bool
) -> None:
    await keep(routed, "w", written())
    await deliver(routed, event(), event(gid="6"), event(gid="7"))
    gids: list[str] = []
    async with Inbox(routed, poll=0.001, **options(routed)) as inbox:
        async for found in inbox.stream(echoes=echoes):
            gids.append(found.resource.gid)
            if found.resource.gid == "7":
                break
    assert gids == (["5", "6", "7"] if echoes else ["6", "7"])


async def test_stream_that_waits_ends_with_its_inbox(routed: MemoryStore) -> None:
    await keep(routed, "w", written(ended=None))
    await deliver(routed, event())
    async with Inbox(routed, poll=0.001, **options(routed)) as inbox:
        first = asyncio.create_task(anext(inbox.stream(), None))
        await until(lambda: any(each.running for each in inbox._claims.active))
        await anyio.wait_all_tasks_blocked()
    assert await first is None
    assert not await is_empty(routed)


async def test_what_a_call_made_is_looked_for_until_it_is_known(store: MemoryStore) -> None:
    asked = 0
    list_writes = store.list_writes

    async def count(resources: Any) -> list[Write]:
        nonlocal asked
        asked += 1
        return await list_writes(resources)

    store.list_writes = count  # type: ignore[method-assign] # passes on
    making: dict[str, Any] = {"method": "POST", "path": "/tasks", "data": {"name": "a"}}
    added = [
        event(gid=gid, field=None, action="added", parent={"gid": "7", "resource_type": "project"})
        for gid in ("50", "51", "52")
    ]
    judging = Echoes(store, lambda: at(2), ping_pong=None).of_claim()
    judging.add([_delivery(*added)])
    now = asyncio.get_running_loop().time()
    await keep(store, "w", written(**making, ended=None))
    assert await judging.judge(added[0], now)
    await keep(store, "w", written(**making, made="50"))
    assert [await judging.judge(each, now) for each in added] == [0.0] * 3
    assert [each.echo for each in added] == [True, False, False]
    assert asked == 3  # for the claim, and twice while the call was under way


async def test_stream_waits_for_the_result_of_a_call(
    routed: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._echoes.LOOK_AGAIN", 0.01)
    await keep(routed, "w", written(ended=None))
    await deliver(routed, event(), event(gid="6"))
    async with Inbox(routed, poll=0.001, **options(routed)) as inbox:
        first = asyncio.create_task(anext(inbox.stream()))
        await anyio.wait_all_tasks_blocked()
        assert not first.done()
        await keep(routed, "w", written())
        assert (await first).resource.gid == "6"


async def test_two_programs_that_answer_each_other_are_stopped(
    routed: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The other program undoes within a second what a handler writes."""
    seen = Seen()
    writes = Writes(routed, lambda: (at(len(seen.events) * 2), at(len(seen.events) * 2)))

    async def answer(found: Event) -> None:
        await seen(found)
        turn = len(seen.events) * 2
        async with writes.note(user=USER, method="PUT", path="/tasks/5", data={"completed": True}):
            pass
        await deliver(routed, event(turn), event(turn + 1, user=OTHER))

    router = Router()
    router.on("task", field="completed")(answer)
    await deliver(routed, event(1, user=OTHER), event(1, user=OTHER, gid="6", field="name"))
    async with draining(routed, router=router, **options(routed, ping_pong=PingPong(), now=100)):
        await until(lambda: "answer each other" in caplog.text)
        await deliver(routed, event(90), route="b")  # of another webhook
        await deliver(routed, event(90), event(90, gid="7"), route="c")
        await until(lambda: seen.gids[-1] == "7")
        await anyio.wait_all_tasks_blocked()
        assert seen.gids == ["5"] * (FLIPS // 2) + ["7"]
        assert not await is_empty(routed)


async def test_events_that_were_paused_are_handed_over_in_the_end(
    routed: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._ping_pong.PAUSE", 0.05)
    seen = Seen()
    for number in range(FLIPS):
        await keep(routed, f"w{number}", written())
    turns = [event(each / 100, user=USER if each % 2 else OTHER) for each in range(2 * FLIPS)]
    await deliver(routed, *turns)
    async with draining(routed, seen, **options(routed, ping_pong=PingPong())):
        await eventually(lambda: is_empty(routed))
    assert [each.created_at for each in seen.events] == [each.created_at for each in turns[::2]]


async def test_guard_that_is_switched_off_lets_them(routed: MemoryStore) -> None:
    seen = Seen()
    await keep(routed, "w", written())
    turns = [event(each / 100, user=OTHER if each % 2 else USER) for each in range(20)]
    for number in range(10):
        await keep(routed, f"w{number}", written())
    await deliver(routed, *turns)
    async with draining(routed, seen, **options(routed)):
        await eventually(lambda: is_empty(routed))
    assert len(seen.events) == 10
