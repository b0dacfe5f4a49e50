"""Deliveries of the local Asana, driven through hours at once."""

import asyncio
import hashlib
import hmac
import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import until
from support.target import HEARTBEAT, Target, api_of, new_webhook

from asana_webhooks.simulator import AsanaSimulator

EVENT = {"action": "changed", "resource": {"gid": "1", "resource_type": "task"}, "user": None}
OTHER = EVENT | {"action": "deleted"}


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with Target() as target:
        yield target


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    async with AsanaSimulator() as asana:
        yield asana


@pytest.fixture
async def webhook(asana: AsanaSimulator, target: Target) -> str:
    """The gid of an established webhook whose first heartbeat is over and forgotten."""
    gid = await new_webhook(asana, target.url)
    target.posts.clear()
    asana.deliveries.clear()
    return gid


async def shown(asana: AsanaSimulator, gid: str) -> dict[str, Any]:
    """Return what the API says of a webhook, its times as such."""
    async with api_of(asana) as api:
        response = await api.get(f"/webhooks/{gid}")
    fields: dict[str, Any] = response.json()["data"]
    times = ("created_at", "last_success_at", "last_failure_at", "next_attempt_after")
    for name in (*times, "failure_deletion_timestamp"):
        fields[name] = fields[name] and datetime.fromisoformat(fields[name])
    return fields


# Gathering


async def test_events_of_one_moment_go_in_one_body(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    task = await asana.create_task("Fix the login", project=asana.project)
    await asana.complete_task(task)
    await asana.add_comment(task, "It was the cookie")
    await asana.settled()
    [events] = target.events
    assert [event["action"] for event in events] == [
        "added",
        "added",
        "changed",
        "changed",
        "added",
    ]
    [post] = target.posts
    secret = asana.webhooks[webhook].secret.encode()
    assert post.signature == hmac.new(secret, post.body, hashlib.sha256).hexdigest()


async def test_events_can_take_a_minute_as_they_do_at_asana(target: Target) -> None:
    async with AsanaSimulator(gather_for=60) as asana:
        await new_webhook(asana, target.url)
        await asana.emit(asana.project, EVENT)
        await asana.advance(seconds=50)
        await asana.emit(asana.project, OTHER)
        assert target.bodies == [HEARTBEAT]
        await asana.advance(seconds=10)
        await asana.emit(asana.project, EVENT)
        assert target.events == [[], [EVENT, OTHER]]
        await asana.advance(minutes=1)
        assert target.events == [[], [EVENT, OTHER], [EVENT]]


async def test_each_body_is_of_its_own_when_nothing_is_gathered(target: Target) -> None:
    async with AsanaSimulator(gather_for=0) as asana:
        await new_webhook(asana, target.url)
        await asana.emit(asana.project, EVENT)
        await asana.emit(asana.project, EVENT, OTHER)
        await asana.settled()
    assert target.events == [[], [EVENT], [EVENT, OTHER]]


async def test_gathered_events_count_as_under_way(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    await asana.emit(asana.project, EVENT)
    assert target.posts == []
    await asana.settled()
    assert target.events == [[EVENT]]


async def test_events_are_those_that_happened_whatever_becomes_of_the_object_given(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    event = dict(EVENT)
    await asana.emit(asana.project, event)
    event["action"] = "removed"
    await asana.settled()
    assert target.events == [[EVENT]]


async def test_event_that_is_no_json_is_refused_to_who_emits_it(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    with pytest.raises(TypeError):
        await asana.emit(asana.project, {"action": object()})
    await asana.emit(asana.project, EVENT)
    await asana.settled()
    assert target.events == [[EVENT]]


async def test_gathered_events_of_a_deleted_webhook_are_dropped(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    await asana.emit(asana.project, EVENT)
    async with api_of(asana) as api:
        await api.delete(f"/webhooks/{webhook}")
    await asana.advance(hours=9)
    assert target.posts == []


# Heartbeats


async def test_heartbeat_comes_at_the_handshake_and_every_eight_hours(
    asana: AsanaSimulator, target: Target
) -> None:
    gid = await new_webhook(asana, target.url)
    for count, hours in ((1, 7.9), (2, 0.1), (2, 7.9), (5, 16.1)):
        await asana.advance(hours=hours)
        assert target.bodies == [HEARTBEAT] * count
    secret = asana.webhooks[gid].secret.encode()
    signature = hmac.new(secret, HEARTBEAT, hashlib.sha256).hexdigest()
    assert {post.signature for post in target.posts} == {signature}


async def test_heartbeat_that_succeeds_is_a_success(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    before = await shown(asana, webhook)
    await asana.advance(days=10)
    after = await shown(asana, webhook)
    days = after["last_success_at"] - before["last_success_at"]
    assert timedelta(days=10) - days < timedelta(seconds=5)
    assert target.bodies == [HEARTBEAT] * 30


async def test_heartbeat_that_fails_is_tried_again(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.statuses.extend([500, 503])
    await asana.advance(hours=8)
    record = await shown(asana, webhook)
    assert record["delivery_retry_count"] == 0
    assert record["last_failure_content"] == "500 Internal Server Error\n\nhm"
    await asana.advance(seconds=3)
    assert [(each.number, each.status) for each in asana.deliveries] == [
        (1, 500),
        (2, 503),
        (3, 200),
    ]
    assert target.bodies == [HEARTBEAT] * 3


async def test_no_heartbeat_comes_after_deletion(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    async with api_of(asana) as api:
        await api.delete(f"/webhooks/{webhook}")
    await asana.advance(days=1)
    assert target.posts == []


async def test_heartbeats_are_nothing_to_wait_for(target: Target) -> None:
    async with AsanaSimulator() as asana, asyncio.timeout(5):
        tasks = asyncio.all_tasks()
        await new_webhook(asana, target.url)
        await asana.settled()
        await until(lambda: asyncio.all_tasks() == tasks)


async def test_heartbeats_end_with_the_simulator(target: Target) -> None:
    async with AsanaSimulator() as asana:
        await new_webhook(asana, target.url)
    await asana.advance(hours=9)
    assert target.bodies == [HEARTBEAT]


# Failures


async def test_pauses_between_attempts_double(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.usual = 500
    await asana.emit(asana.project, EVENT)
    await asana.advance(seconds=0.05)
    for count, seconds in ((1, 0.5), (2, 0.5), (2, 1), (3, 1), (3, 3), (4, 1)):
        await asana.advance(seconds=seconds)
        assert len(target.posts) == count, seconds
    await asana.advance(seconds=8 + 16 + 32)
    assert len(set(target.posts)) == 1
    assert [each.number for each in asana.deliveries] == [1, 2, 3, 4, 5, 6, 7]


async def test_record_shows_how_a_failure_goes_on(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.usual = 500
    succeeded = (await shown(asana, webhook))["last_success_at"]
    await asana.emit(asana.project, EVENT)
    await asana.advance(seconds=0.05 + 1 + 2)
    record = await shown(asana, webhook)
    failed = record["last_failure_at"]
    assert record["active"] is True
    assert record["delivery_retry_count"] == 2
    assert record["next_attempt_after"] == failed + timedelta(seconds=4)
    assert record["last_success_at"] == succeeded
    assert record["failure_deletion_timestamp"] == succeeded + timedelta(hours=24)
    target.usual = 204
    await asana.advance(seconds=4)
    record = await shown(asana, webhook)
    assert record["last_success_at"] == failed + timedelta(seconds=4)
    assert record["last_failure_at"] == failed
    assert record["delivery_retry_count"] == 0
    assert record["next_attempt_after"] is record["failure_deletion_timestamp"] is None


async def test_target_that_is_back_after_nine_hours_gets_everything_in_order(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.usual = 503
    await asana.emit(asana.project, EVENT)
    await asana.advance(hours=9)
    await asana.emit(asana.project, OTHER)
    await asana.advance(seconds=1)
    assert set(target.bodies) == {target.bodies[0]}
    target.posts.clear()
    target.usual = 200
    await asana.advance(hours=9)
    assert target.events == [[EVENT], [], [OTHER], []]
    assert webhook in asana.webhooks


async def test_webhook_is_deleted_after_24_hours_without_a_success(
    asana: AsanaSimulator, webhook: str, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "asana_webhooks")
    target.usual = 500
    await asana.advance(hours=23.99)
    assert (await shown(asana, webhook))["active"] is True
    await asana.advance(hours=0.01)
    assert webhook not in asana.webhooks
    assert f"webhook {webhook} is deleted: 500" in caplog.messages
    target.posts.clear()
    await asana.emit(asana.project, EVENT)
    await asana.advance(days=2)
    assert target.posts == []


async def test_last_attempt_before_the_deletion_can_save_a_webhook(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.usual = 500
    await asana.advance(hours=23.9)
    target.usual = 200
    await asana.advance(hours=0.1)
    assert (await shown(asana, webhook))["failure_deletion_timestamp"] is None


async def test_success_now_and_then_keeps_a_webhook(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    for _ in range(5):
        target.usual = 500
        await asana.advance(hours=20)
        target.usual = 200
        await asana.advance(hours=4)
    assert webhook in asana.webhooks


async def test_410_to_a_heartbeat_deletes_at_once(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    target.usual = 410
    await asana.advance(days=2)
    assert target.bodies == [HEARTBEAT]
    assert webhook not in asana.webhooks


async def test_driven_clock_waits_in_real_time_for_an_answer_that_does_not_come(
    target: Target,
) -> None:
    async with AsanaSimulator(delivery_timeout=1) as asana:
        gid = await new_webhook(asana, target.url)
        target.pause = 60
        await asana.advance(hours=8)
        assert asana.webhooks[gid].last_failure_content == "no answer within 1 s"
        target.pause = 0.05
        await asana.advance(seconds=1)
        assert [each.status for each in asana.deliveries] == [200, None, 200]


async def test_target_that_hears_nothing_is_a_failure_like_any_other(asana: AsanaSimulator) -> None:
    async with Target() as target:
        gid = await new_webhook(asana, target.url)
    await asana.advance(hours=8)
    record = await shown(asana, gid)
    assert record["last_failure_content"].startswith("ClientConnectorError: ")
    assert asana.deliveries[-1].status is None
    await asana.advance(hours=16)
    assert asana.webhooks == {}


# The clock of the whole


async def test_what_happens_is_dated_by_the_driven_clock(
    asana: AsanaSimulator, webhook: str, target: Target
) -> None:
    await asana.advance(days=1, hours=2, minutes=3, seconds=4)
    target.posts.clear()
    await asana.create_task("Fix the login", project=asana.project)
    await asana.settled()
    ahead = datetime.fromisoformat(target.events[0][0]["created_at"]) - datetime.now(UTC)
    wanted = timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert abs(ahead - wanted) < timedelta(seconds=5)


@pytest.mark.parametrize("length", [{"hours": -1}, {"hours": 1, "minutes": -61}, {"days": 1e7}])
async def test_time_passes_neither_backwards_nor_beyond_all_dates(
    asana: AsanaSimulator, length: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="forwards only, and by 1000000000 seconds at most, not"):
        await asana.advance(**length)
    assert abs(asana.now - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.parametrize("name", ["days", "hours", "minutes", "seconds"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        *[(value, ValueError) for value in (float("inf"), float("-inf"), float("nan"))],
        pytest.param(10**5000, ValueError, id="10**5000"),
        *[(value, TypeError) for value in ("1", None, [1], True)],
    ],
)
async def test_time_that_is_no_number_is_refused_by_its_name(
    asana: AsanaSimulator, name: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"^{name} must be a number") as caught:
        await asana.advance(**{name: value})
    assert type(caught.value) is error


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_gathering_for_no_time_at_all_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match="gather_for must be a number of seconds"):
        AsanaSimulator(gather_for=seconds)


# Where deliveries go


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_a_failure_and_leads_nowhere(
    asana: AsanaSimulator, webhook: str, target: Target, status: int
) -> None:
    async with Target() as elsewhere:
        target.statuses.append(status)
        target.headers["Location"] = elsewhere.url
        await asana.emit(asana.project, EVENT)
        await asana.advance(seconds=2)
        assert elsewhere.posts == []
    assert [each.status for each in asana.deliveries] == [status, 200]


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every name that this machine is asked for; each is loopback."""
    asked: list[str] = []

    async def getaddrinfo(
        self: object, host: str, port: int, **options: Any
    ) -> list[tuple[Any, ...]]:
        asked.append(host)
        address = ("127.0.0.1", port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("host", ["hooks.test", "localhost.test", "2130706433", "127.1", "0x7f.1"])
async def test_name_of_loopback_is_not_even_looked_up_unless_it_is_allowed(
    asana: AsanaSimulator, target: Target, lookups: list[str], host: str
) -> None:
    url = target.url.replace("127.0.0.1", host)
    async with api_of(asana) as api:
        fields = {"data": {"resource": asana.project, "target": url}}
        response = await api.post("/webhooks", json=fields)
    assert response.status_code == 400
    assert "allow_hosts" in json.dumps(response.json())
    assert host not in lookups
    assert asana.webhooks == {}


async def test_name_that_is_allowed_is_posted_to(target: Target, lookups: list[str]) -> None:
    async with AsanaSimulator(allow_hosts=("hooks.test",)) as asana:
        await new_webhook(asana, target.url.replace("127.0.0.1", "hooks.test"))
    assert target.bodies == [HEARTBEAT]
    assert "hooks.test" in lookups
