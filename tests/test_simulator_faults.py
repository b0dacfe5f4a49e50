"""Faults of deliveries, for all webhooks or for one, as a target on a socket sees them."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from conftest import until
from support.target import HEARTBEAT, Target, api_of, new_webhook

from asana_webhooks import Event, WebhooksClient
from asana_webhooks.simulator import AsanaSimulator, Dropped, Fault, WebhookFaults, losses
from asana_webhooks.simulator.observers import Traffic
from asana_webhooks.simulator.threaded import threaded_simulator

FIRST, SECOND, THIRD = (
    {"action": action, "resource": {"gid": "1", "resource_type": "task"}, "user": None}
    for action in ("added", "changed", "removed")
)
ON_THE_WAY = ("server-error-answers", "rate-limited-answers", "slow-answers")
EACH_ATTEMPT = ("duplicate", "tampered", *ON_THE_WAY, "cut-connections")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with Target() as target:
        yield target


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    async with AsanaSimulator(gather_for=0) as asana:
        yield asana


@pytest.fixture
async def webhook(asana: AsanaSimulator, target: Target) -> str:
    """The gid of an established webhook whose first heartbeat is over and forgotten."""
    gid = await new_webhook(asana, target.url)
    target.posts.clear()
    asana.deliveries.clear()
    return gid


def signed(asana: AsanaSimulator, webhook: str, body: bytes) -> str:
    secret = asana.webhooks[webhook].secret.encode()
    return hmac.new(secret, body, hashlib.sha256).hexdigest()


# For all, or for one


def test_faults_of_one_webhook_are_those_that_can_be() -> None:
    faults = WebhookFaults(["duplicate", Fault.NOT_FOUND])
    assert repr(faults) == "Faults(duplicate, not-found)"
    for name in ("lost-201", "unavailable", "lost"):
        with pytest.raises(ValueError, match=f"no fault of a single webhook is called '{name}'; "):
            faults.add(name)


def went_well(asana: AsanaSimulator, webhook: str) -> bool:
    """Return whether this webhook was posted to once, with its signature and with success."""
    [first, *more] = [each for each in asana.deliveries if each.webhook_gid == webhook]
    right = first.signature == signed(asana, webhook, first.body)
    return right and first.status == 200 and not more


@pytest.mark.parametrize("fault", EACH_ATTEMPT)
async def test_fault_of_one_webhook_leaves_others_alone(
    asana: AsanaSimulator, target: Target, webhook: str, fault: str
) -> None:
    other = await new_webhook(asana, target.url + "/other")
    asana.deliveries.clear()
    asana.webhooks[webhook].faults.add(fault)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0.1)
    assert went_well(asana, other)
    assert not went_well(asana, webhook)


@pytest.mark.parametrize("fault", EACH_ATTEMPT)
async def test_fault_that_is_on_for_all_is_on_for_each(
    asana: AsanaSimulator, target: Target, webhook: str, fault: str
) -> None:
    asana.faults.add(fault)
    other = await new_webhook_unsettled(asana, target.url + "/other")
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0)
    assert not went_well(asana, webhook)
    assert not went_well(asana, other)


async def new_webhook_unsettled(asana: AsanaSimulator, url: str) -> str:
    """Make a webhook and return its gid, whatever becomes of its first heartbeat."""
    async with api_of(asana) as api:
        fields = {"data": {"resource": asana.project, "target": url}}
        gid: str = (await api.post("/webhooks", json=fields)).json()["data"]["gid"]
    return gid


async def test_one_webhook_can_be_hidden(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    other = await new_webhook(asana, target.url + "/other")
    asana.webhooks[webhook].faults.add("not-found")
    async with api_of(asana) as api:
        assert (await api.get(f"/webhooks/{webhook}")).status_code == 404
        assert (await api.get(f"/webhooks/{other}")).status_code == 200
        asana.webhooks[webhook].faults.clear()
        assert (await api.get(f"/webhooks/{webhook}")).status_code == 200


# What is delivered


async def test_duplicate_is_the_same_post_once_more(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("duplicate")
    target.statuses.extend([200, 500, 500, 200])
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=1)
    assert target.events == [[FIRST]] * 4
    assert len(set(target.posts)) == 1
    outcomes = [(each.number, each.status) for each in asana.deliveries]
    assert outcomes == [(1, 200), (1, 500), (2, 500), (2, 200)]
    assert asana.webhooks[webhook].next_attempt_after is None


async def test_reordered_deliveries_overtake_each_other_in_pairs(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("reordered")
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0.5)
    assert target.posts == []
    await asana.emit(asana.project, SECOND)
    await asana.advance(seconds=0)
    assert target.events == [[SECOND], [FIRST]]
    await asana.emit(asana.project, THIRD)
    await asana.emit(asana.project, FIRST)
    await asana.emit(asana.project, SECOND)
    await asana.advance(seconds=0)
    assert target.events[2:] == [[FIRST], [THIRD]]
    await asana.advance(seconds=1)
    assert target.events[4:] == [[SECOND]]


async def test_delivery_that_nothing_overtakes_goes_after_twice_the_gathering_and_a_second(
    target: Target,
) -> None:
    async with AsanaSimulator(gather_for=60) as asana:
        await new_webhook(asana, target.url)
        asana.faults.add("reordered")
        await asana.emit(asana.project, FIRST)
        await asana.advance(seconds=60 + 100)
        assert target.bodies == [HEARTBEAT]
        await asana.advance(seconds=21)
        assert target.events == [[], [FIRST]]
        await asana.emit(asana.project, SECOND)
        await asana.advance(seconds=60)
        await asana.emit(asana.project, THIRD)
        await asana.advance(seconds=60)
        assert target.events == [[], [FIRST], [THIRD], [SECOND]]


async def test_delivery_that_failed_is_not_overtaken(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("reordered")
    target.statuses.append(500)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=1)
    await asana.emit(asana.project, SECOND)
    await asana.advance(seconds=2)
    assert target.events == [[FIRST], [FIRST], [SECOND]]


async def test_early_event_that_failed_is_not_overtaken_either(
    asana: AsanaSimulator, target: Target
) -> None:
    asana.faults |= {"early-events", "reordered"}
    target.statuses.append(500)
    await new_webhook_unsettled(asana, target.url)
    await asana.advance(seconds=2)
    early = target.bodies[0]
    assert target.bodies == [early, early, HEARTBEAT]
    assert early != HEARTBEAT


async def test_reordering_does_not_outlive_its_webhook(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("reordered")
    await asana.emit(asana.project, FIRST)
    async with api_of(asana) as api:
        await api.delete(f"/webhooks/{webhook}")
    await asana.advance(hours=9)
    assert target.posts == []


async def test_superset_is_a_retry_with_what_waited_behind_it(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("superset")
    target.statuses.extend([500, 500])
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0)
    await asana.emit(asana.project, SECOND)
    await asana.advance(seconds=1)
    await asana.emit(asana.project, THIRD)
    await asana.advance(seconds=2)
    assert target.events == [[FIRST], [FIRST, SECOND], [FIRST, SECOND, THIRD]]
    for post in target.posts:
        assert post.signature == signed(asana, webhook, post.body)
    await asana.advance(hours=1)
    assert len(target.posts) == 3


async def test_tampered_body_parses_alike_and_does_not_fit_its_signature(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.webhooks[webhook].faults.add("tampered")
    target.statuses.append(401)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0)
    asana.webhooks[webhook].faults.discard("tampered")
    await asana.advance(seconds=1)
    tampered, genuine = target.posts
    assert json.loads(tampered.body) == json.loads(genuine.body) == {"events": [FIRST]}
    assert tampered.body != genuine.body
    assert tampered.signature == genuine.signature == signed(asana, webhook, genuine.body)
    assert [(each.body, each.status) for each in asana.deliveries] == [
        (tampered.body, 401),
        (genuine.body, 200),
    ]


# What is never delivered, and what is delivered late


async def new_tasks(asana: AsanaSimulator, count: int) -> list[str]:
    return [await asana.create_task("Fix it", project=asana.project) for _ in range(count)]


async def stream(asana: AsanaSimulator, sync: str = "") -> tuple[list[Any], str]:
    """Return all events on the project since the token, and the next token."""
    found: list[Any] = []
    async with api_of(asana) as api:
        while True:
            params = {"resource": asana.project, "sync": sync}
            body = (await api.get("/events", params=params)).json()
            found += body.get("data", [])
            sync = body["sync"]
            if not body.get("has_more"):
                return found, sync


def told(target: Target) -> list[Any]:
    return [(each["resource"]["gid"], each["created_at"]) for each in flat(target)]


def flat(target: Target) -> list[Any]:
    return [event for events in target.events for event in events]


def lost(asana: AsanaSimulator, webhook: str) -> list[Any]:
    events = [each.event for each in asana.dropped if each.webhook_gid == webhook]
    return [(each["resource"]["gid"], each["created_at"]) for each in events]


async def test_dropped_events_are_a_share_that_the_stream_has(target: Target) -> None:
    async with AsanaSimulator(gather_for=0, drop_share=0.2) as asana:
        webhook = await new_webhook(asana, target.url)
        _, sync = await stream(asana)
        asana.webhooks[webhook].faults.add("dropped")
        await new_tasks(asana, 250)
        await asana.settled()
        happened = [(e["resource"]["gid"], e["created_at"]) for e in (await stream(asana, sync))[0]]
        assert len(happened) == 500
        assert 70 <= len(lost(asana, webhook)) <= 130
        assert sorted(told(target) + lost(asana, webhook)) == sorted(happened)
        asana.webhooks[webhook].faults.clear()
        (task,) = await new_tasks(asana, 1)
        await asana.settled()
        assert [gid for gid, _ in told(target)[-2:]] == [task, task]


async def test_equal_programs_lose_the_same_events(target: Target) -> None:
    runs = []
    for _ in range(2):
        async with AsanaSimulator(gather_for=0, drop_share=0.5) as asana:
            asana.faults.add("dropped")
            webhook = await new_webhook(asana, target.url)
            tasks = await new_tasks(asana, 10)
            await asana.settled()
            runs.append([tasks.index(gid) for gid, _ in lost(asana, webhook)])
    assert runs[0] == runs[1]
    assert 0 < len(runs[0]) < 20


async def test_list_of_dropped_events_has_an_end(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MOST_DROPPED", 3)
    async with AsanaSimulator(gather_for=0, drop_share=1.0) as asana:
        asana.faults.add("dropped")
        await new_webhook(asana, target.url)
        tasks = await new_tasks(asana, 3)
        assert [each.event["resource"]["gid"] for each in asana.dropped] == [
            tasks[1],
            tasks[2],
            tasks[2],
        ]


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_share_that_is_none_is_a_mistake(share: float) -> None:
    with pytest.raises(ValueError, match="drop_share must be more than 0 and at most 1"):
        AsanaSimulator(drop_share=share)


async def test_events_that_pass_no_filter_are_not_dropped(target: Target) -> None:
    async with AsanaSimulator(gather_for=0, drop_share=1.0) as asana, api_of(asana) as api:
        filters = [{"action": "changed", "resource_type": "task"}]
        fields = {"resource": asana.project, "target": target.url, "filters": filters}
        await api.post("/webhooks", json={"data": fields})
        asana.faults.add("dropped")
        (task,) = await new_tasks(asana, 1)
        await asana.complete_task(task)
        assert [each.event["change"]["field"] for each in asana.dropped] == [
            "completed",
            "completed_at",
        ]


async def test_sync_error_comes_in_the_place_of_events_that_the_stream_has(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    _, sync = await stream(asana)
    asana.webhooks[webhook].faults.add("sync-error")
    (task,) = await new_tasks(asana, 1)
    await asana.settled()
    [[said]] = target.events
    assert said.keys() == {"action", "message"}
    assert said["action"] == "sync_error"
    happened, _ = await stream(asana, sync)
    assert [each["resource"]["gid"] for each in happened] == [task, task]
    assert [gid for gid, _ in lost(asana, webhook)] == [task, task]


@pytest.mark.parametrize("alone", [True, False], ids=["one", "all"])
async def test_delayed_deliveries_wait_until_it_is_over_and_keep_their_order(
    asana: AsanaSimulator, target: Target, webhook: str, *, alone: bool
) -> None:
    other = await new_webhook(asana, target.url + "/other")
    target.posts.clear()
    faults = asana.webhooks[webhook].faults if alone else asana.faults
    faults.add("delayed")
    for event in (FIRST, SECOND):
        await asana.emit(asana.project, event)
        await asana.advance(hours=9)
    await asana.settled()  # nothing is under way
    meanwhile = [each.webhook_gid for each in asana.deliveries[-len(target.posts) :]]
    assert set(meanwhile if target.posts else []) == ({other} if alone else set())
    target.posts.clear()
    faults.discard("delayed")
    await asana.advance(seconds=0)
    mine = [[FIRST], [], [SECOND], []]
    assert sorted(map(str, target.events)) == sorted(map(str, mine * (1 if alone else 2)))
    posted = [json.loads(a.body)["events"] for a in asana.deliveries if a.webhook_gid == webhook]
    assert posted == mine
    assert asana.dropped == []


async def test_each_delay_is_over_once(asana: AsanaSimulator, target: Target, webhook: str) -> None:
    for event in (FIRST, SECOND, THIRD):
        asana.faults.add("delayed")
        await asana.emit(asana.project, event)
        await asana.settled()
        asana.faults.discard("delayed")
        asana.faults.discard("delayed")
        await asana.settled()
    assert target.events == [[FIRST], [SECOND], [THIRD]]


async def test_retries_wait_with_what_is_delayed(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    target.statuses.append(500)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0)
    asana.faults.add("delayed")
    await asana.advance(hours=5)
    assert target.events == [[FIRST]]
    asana.faults.discard("delayed")
    await asana.settled()
    assert target.events == [[FIRST], [FIRST]]


async def test_what_is_delayed_for_a_webhook_that_is_deleted_is_never_posted(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("delayed")
    await asana.emit(asana.project, FIRST)
    await asana.settled()
    async with api_of(asana) as api:
        await api.delete(f"/webhooks/{webhook}")
    asana.faults.discard("delayed")
    await asana.settled()
    assert target.posts == []


async def test_another_thread_may_end_what_delays(target: Target) -> None:
    with threaded_simulator(gather_for=0) as asana:
        await new_webhook(asana, target.url)
        asana.faults.add("delayed")
        target.posts.clear()
        await asana.emit(asana.project, FIRST)
        await asana.settled()
        assert target.posts == []
        asana.faults.discard("delayed")
        await asana.settled()
        assert target.events == [[FIRST]]
        asana.faults.add("delayed")
        await asana.emit(asana.project, SECOND)
        await asana.settled()
        faults = asana.faults
    faults.discard("delayed")  # there is nobody any more who could post anything
    assert target.events == [[FIRST]]


async def test_fault_that_ends_after_its_simulator_starts_nothing(target: Target) -> None:
    async with AsanaSimulator(gather_for=0) as asana:
        await new_webhook(asana, target.url)
        asana.faults.add("delayed")
        await asana.emit(asana.project, FIRST)
        await asana.settled()
    target.posts.clear()
    asana.faults.discard("delayed")
    assert target.posts == []


async def test_outage_ends_calls_and_deliveries_and_loses_what_happens(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    _, sync = await stream(asana)
    target.statuses.append(500)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=0)
    asana.faults.add("outage")
    async with api_of(asana) as api:
        for url in ("/users/me", f"{asana.oauth_url}/oauth_token"):
            with pytest.raises(httpx.RemoteProtocolError):
                await api.get(url)
    tasks = await new_tasks(asana, 2)
    await asana.advance(hours=6)
    assert target.events == [[FIRST]]
    asana.faults.discard("outage")
    (last,) = await new_tasks(asana, 1)
    await asana.settled()
    assert flat(target)[:2] == [FIRST, FIRST]
    assert [each["resource"]["gid"] for each in flat(target)[2:]] == [last, last]
    happened, _ = await stream(asana, sync)
    assert [each["resource"]["gid"] for each in happened[1:]] == [
        gid for gid in (*tasks, last) for _ in range(2)
    ]
    assert [gid for gid, _ in lost(asana, webhook)] == [gid for gid in tasks for _ in range(2)]


async def test_heartbeats_go_on_after_an_outage_of_more_than_a_day(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("outage")
    await asana.advance(hours=30)
    assert target.posts == []
    asana.faults.clear()
    await asana.advance(hours=8)
    assert target.bodies == [HEARTBEAT]
    assert webhook in asana.webhooks


async def test_outage_can_be_ended_from_outside(asana: AsanaSimulator) -> None:
    asana.faults.add("outage")
    async with httpx.AsyncClient(base_url=asana.control_url) as control:
        await control.post("/faults", json={"off": ["outage"]})
    async with api_of(asana) as api:
        assert (await api.get("/users/me")).status_code == 200


async def test_nobody_is_told_of_calls_in_an_outage_but_of_each_event_that_is_lost(
    target: Target,
) -> None:
    seen: list[Traffic] = []
    async with AsanaSimulator(gather_for=0, watch=seen.append) as asana:
        webhook = await new_webhook(asana, target.url)
        asana.faults.add("outage")
        seen.clear()
        async with api_of(asana) as api:
            with pytest.raises(httpx.RemoteProtocolError):
                await api.get("/users/me")
        await asana.emit(asana.project, FIRST, SECOND)
    assert seen == [Dropped(webhook, FIRST), Dropped(webhook, SECOND)]


# On the way


@pytest.mark.parametrize(
    ("fault", "status", "content"),
    [
        ("server-error-answers", 503, "503 Service Unavailable\n\n"),
        ("rate-limited-answers", 429, "429 Too Many Requests\n\n"),
        ("slow-answers", None, "no answer within 10 s"),
        ("cut-connections", None, "the connection was cut"),
    ],
)
async def test_failure_on_the_way_is_tried_again(
    asana: AsanaSimulator,
    target: Target,
    webhook: str,
    fault: str,
    status: int | None,
    content: str,
) -> None:
    asana.faults.add(fault)
    await asana.emit(asana.project, FIRST)
    await asana.advance(seconds=1)
    record = asana.webhooks[webhook]
    assert [each.status for each in asana.deliveries] == [status, status]
    assert [each.error for each in asana.deliveries] == ["" if status else content] * 2
    assert (record.delivery_retry_count, record.last_failure_content) == (1, content)
    asana.faults.discard(fault)
    await asana.advance(seconds=2)
    assert asana.deliveries[-1].status == 200
    times = 1 if fault == "cut-connections" else 3  # else it sees every one of them
    assert target.events == [[FIRST]] * times
    assert len(set(target.posts)) == 1


@pytest.mark.parametrize("fault", ON_THE_WAY)
async def test_target_that_cannot_be_reached_is_not_said_to_have_answered(
    asana: AsanaSimulator, fault: str
) -> None:
    async with Target() as target:
        gid = await new_webhook(asana, target.url)
    asana.faults.add(fault)
    await asana.advance(hours=8)
    assert asana.webhooks[gid].last_failure_content.startswith("ClientConnectorError: ")


async def test_faults_of_the_answers_end_a_webhook_like_real_ones(
    asana: AsanaSimulator, target: Target, webhook: str
) -> None:
    asana.faults.add("server-error-answers")
    await asana.advance(days=1)
    assert asana.webhooks == {}
    assert set(target.bodies) == {HEARTBEAT}


@asynccontextmanager
async def wire() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve a target that echoes secrets and keeps all else as it came, until its sender ends."""
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if line.startswith(b"X-Hook-Secret: ")]
        if lines:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + lines[0] + b"\r\n\r\n")
        else:
            came.append(head + await reader.read())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}/hook", came


async def test_cut_connection_ends_in_the_middle_of_the_body() -> None:
    large = FIRST | {"padding": "x" * 1_000_000}
    async with AsanaSimulator(gather_for=0, retry_delay=60) as asana, wire() as (url, came):
        asana.faults |= {"cut-connections", "superset"}
        gid = await new_webhook_unsettled(asana, url)
        await asana.advance(seconds=0)
        await until(lambda: came)
        await asana.emit(asana.project, large)
        await asana.advance(seconds=60)
        await until(lambda: len(came) == 2)
    whole = json.dumps({"events": [large]}, separators=(",", ":")).encode()
    for text, body in zip(came, (HEARTBEAT, whole), strict=True):
        head, _, half = text.partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert b"X-Hook-Signature: " + signed(asana, gid, body).encode() in head
        assert half == body[: len(body) // 2]


# With a client


HARMLESS = [
    fault for fault in WebhookFaults._known if fault not in ("not-found", "dropped", "sync-error")
]


@pytest.mark.parametrize("fault", HARMLESS)
async def test_client_handles_every_event_whatever_goes_wrong_with_deliveries(
    make_client: Callable[..., WebhooksClient], target: Target, fault: Fault
) -> None:
    handled: list[Event] = []
    async with AsanaSimulator(gather_for=0) as asana:
        client = make_client(base_url=asana.base_url)

        @client.on()
        async def handle(event: Event) -> None:
            handled.append(event)

        async with client:
            webhook = await client.establish(asana.project)
            await asana.settled()
            async with asyncio.TaskGroup() as group:
                running = group.create_task(client.run())
                asana.webhooks[webhook.gid].faults.add(fault)
                task = await asana.create_task("Fix the login", project=asana.project)
                await asana.complete_task(task)
                await asana.advance(seconds=1)
                asana.webhooks[webhook.gid].faults.clear()
                await asana.advance(minutes=1)
                await until(lambda: len({event.key for event in handled}) == 4)
                running.cancel()
    assert len(handled) == 4
