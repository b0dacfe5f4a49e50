"""Faults of deliveries, for all webhooks or for one, as a target on a socket sees them."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from conftest import until
from support.target import HEARTBEAT, Target, api_of, new_webhook

from asana_webhooks import Event, WebhooksClient
from asana_webhooks.simulator import AsanaSimulator, Fault, WebhookFaults

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


@pytest.mark.parametrize("fault", WebhookFaults._known[1:])
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
