"""The inspector: what it tells of deliveries, to whom, and its page in a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from conftest import guard, until
from msgspec.structs import replace
from support.chromium import Page, browsing

from asana_webhooks import Event, MemoryStore, StoreError, WebhooksClient, sign
from asana_webhooks._background import background_task
from asana_webhooks._continuity import OpenGap
from asana_webhooks._handlers import HandlerError
from asana_webhooks._ledger import keep, load
from asana_webhooks.cli import recording
from asana_webhooks.cli.inspector import Inspector, handle_again, post_again
from asana_webhooks.cli.inspector.page import shown_route
from asana_webhooks.cli.recording import Record, Recorder
from asana_webhooks.models import Delivery, Route, Webhook, WebhookFilter
from asana_webhooks.protocol import ACCEPTED, WRONG_SIGNATURE, Request, Response
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import make_event

PROJECTS = [WebhookFilter(resource_type="project")]
EVIL = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script>"


class Inspected:
    """A client of the local Asana, seen by a recorder, with an inspector beside it."""

    def __init__(self, asana: AsanaSimulator, port: int) -> None:
        self.asana = asana
        self.address = f"http://127.0.0.1:{port}"
        self.recorder = Recorder()
        self.store = MemoryStore()
        self.handled: list[Event] = []
        self.client = WebhooksClient(
            "a-token",
            public_url=f"{self.address}/hooks",
            store=self.store,
            port=port,
            base_url=asana.base_url,
            telemetry=self.recorder,
        )
        self.client.on()(self.handle)
        actions = {
            "Post again": post_again(lambda: self.address),
            "Handle again": handle_again(self.recorder, self.store),
        }
        self.inspector = Inspector(self.recorder, self.store, actions=actions, port=0)

    async def handle(self, event: Event) -> None:
        if event.resource.resource_type == "story":
            message = f"no tracker {EVIL}"
            raise ValueError(message)
        self.handled.append(event)

    @property
    def url(self) -> str:
        return self.inspector.url

    @property
    def origin(self) -> str:
        return self.url.rstrip("/")

    async def establish(self) -> Webhook:
        webhook = await self.client.establish(self.asana.project)
        await self.asana.settled()
        return webhook

    async def all_verdicts(self) -> Webhook:
        """Have one delivery of each verdict; in the end one that a handler failed on."""
        webhook = await self.establish()
        task = await self.asana.create_task("a", project=self.asana.project)
        await self.asana.settled()
        genuine = self.asana.deliveries[-1]
        await self.asana.deliver(webhook.gid, genuine.body)
        hostile = json.dumps({"events": [], "name": EVIL}).encode()
        await self.asana.deliver(webhook.gid, hostile, signature=sign(hostile, "x" * 32))
        await self.asana.deliver(webhook.gid, b"[" + EVIL.encode())
        await self.asana.add_comment(task, "hello")
        await self.asana.settled()
        await until(lambda: self.recorder.records()[-1].attempts)
        return webhook

    async def keep_ledger(self) -> None:
        """Have a webhook with a gap, of which events were recovered and one dropped."""
        await self.establish()
        watch, version = await load(self.store, f"/{self.asana.project}")
        now = datetime.now(UTC)
        gap = OpenGap(
            id="5f2a91c0",
            start=now - timedelta(hours=30),
            end=now,
            reason="expired",
            detail=f"it was not read {EVIL}",
        )
        latency = {2: 50, 16: 1}
        watch = replace(watch, gaps=(gap,), seen=100, recovered=3, late=2, latency=latency)
        assert await keep(self.store, f"/{self.asana.project}", version, watch)

    def verdicts(self) -> list[str]:
        return [record.verdict for record in self.recorder.records()]


ALL = [
    *("handshake", "heartbeat", "accepted", "duplicate", "refused", "dead letter", "accepted"),
]


@pytest.fixture
async def inspected(asana: AsanaSimulator, free_port: int) -> AsyncIterator[Inspected]:
    made = Inspected(asana, free_port)
    async with (
        made.client,
        background_task(made.client.run(), "run"),
        made.inspector,
    ):
        yield made


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(raise_for_status=False) as session:
        yield session


class Stream:
    """The page's stream, as messages of a kind with content."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.text = ""

    async def next(self, kind: str) -> Any:
        with guard():
            while True:
                name = await self._field("event")
                content = json.loads(await self._field("data"))
                if name == kind:
                    return content

    async def _field(self, wanted: str) -> str:
        while True:
            line = (await self._response.content.readuntil(b"\n")).decode()
            assert line, "the stream ended"
            self.text += line
            name, _, value = line.partition(": ")
            if name == wanted:
                return value.strip()


@contextlib.asynccontextmanager
async def streaming(inspected: Inspected, **headers: str) -> AsyncIterator[Stream]:
    async with (
        aiohttp.ClientSession(read_bufsize=2**22) as http,
        http.get(f"{inspected.url}stream", headers=headers) as response,
    ):
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield Stream(response)


# What is told


async def test_each_request_is_told_with_its_verdict_and_reason(inspected: Inspected) -> None:
    await inspected.all_verdicts()
    async with streaming(inspected) as stream:
        state = await stream.next("state")
    told = [(each["verdict"], each["status"], each["reason"]) for each in state["records"]]
    assert told[:5] == [
        ("handshake", 200, ""),
        ("heartbeat", 200, ""),
        ("accepted", 200, ""),
        ("duplicate", 200, ""),
        ("refused", 401, "the signature does not fit the body"),
    ]
    assert told[5][:2] == ("dead letter", 200)
    assert told[5][2].startswith("not a delivery: ")
    assert [each["events"] for each in state["records"]][4:6] == [[], []]
    assert state["records"][2]["events"][0].endswith(f"added to project {inspected.asana.project}")
    assert json.loads(state["records"][2]["body"])["events"]


async def test_attempts_are_told_with_what_was_raised(inspected: Inspected) -> None:
    await inspected.all_verdicts()
    async with streaming(inspected) as stream:
        records = (await stream.next("state"))["records"]
    well = records[2]["attempts"]
    told = [(each["kind"], each["event"], each["ok"], each["text"]) for each in well]
    assert told == [("handler", 0, True, "handled"), ("handler", 1, True, "handled")]
    failed, *_ = records[-1]["attempts"]
    assert not failed["ok"]
    assert "handle raised ValueError('no tracker" in failed["text"]


async def test_no_secret_signature_or_route_is_told(inspected: Inspected) -> None:
    webhook = await inspected.establish()
    [route] = await inspected.store.list_routes()
    body = b'{"events":[]}'
    assert webhook.secret is not None
    headers = {
        "X-Hook-Signature": sign(body, webhook.secret),
        "X-Original-URI": f"/hooks/{route.id}",
        "Authorization": "Bearer abc",
    }
    async with (
        aiohttp.ClientSession() as http,
        http.post(route.target, data=body, headers=headers) as answer,
    ):
        assert answer.status == 200
    async with streaming(inspected) as stream:
        records = (await stream.next("state"))["records"]
    for hidden in (webhook.secret, headers["X-Hook-Signature"], route.id, "Bearer abc"):
        assert hidden not in stream.text
    assert ["X-Hook-Signature", "redacted, 64 characters"] in records[-1]["headers"]
    assert ["X-Original-URI", "/hooks/<route>"] in records[-1]["headers"]
    assert ["X-Hook-Secret", "redacted, 64 characters"] in records[0]["headers"]
    assert route.id not in repr(inspected.recorder.records())


async def test_what_comes_is_told_at_once_and_again_when_it_is_handled(
    inspected: Inspected,
) -> None:
    async with streaming(inspected) as stream:
        assert (await stream.next("state"))["records"] == []
        await inspected.establish()
        webhooks = await stream.next("webhooks")
        assert [each["resource"] for each in webhooks] == [inspected.asana.project]
        await inspected.asana.create_task("a", project=inspected.asana.project)
        while not (record := await stream.next("record"))["attempts"]:
            pass
        assert record["verdict"] == "accepted"
        [webhook] = inspected.asana.webhooks
        assert record["webhook"] == webhook


async def test_continuity_is_told_with_each_webhook(inspected: Inspected) -> None:
    await inspected.keep_ledger()
    async with streaming(inspected) as stream:
        [webhook] = (await stream.next("state"))["webhooks"]
    continuity = webhook["continuity"]
    assert continuity["evidence"] == "stream"
    assert continuity["proven_until"] is not None
    assert [(gap["id"], gap["reason"]) for gap in continuity["gaps"]] == [("5f2a91c0", "expired")]
    counted = (continuity["recovered"], continuity["dropped"], continuity["dropped_share"])
    assert counted == (3, 1, 0.01)
    assert continuity["latency"] == {"median": 1.41, "p99": 16.0}


async def test_stream_ends_with_the_command(asana: AsanaSimulator, free_port: int) -> None:
    made = Inspected(asana, free_port)
    async with made.store, aiohttp.ClientSession() as http:
        async with made.inspector:
            response = await http.get(f"{made.url}stream")
        with guard():
            assert b"event: state" in await response.read()


async def test_page_that_was_closed_is_forgotten(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks.cli.inspector.server.LOOK", 0.01)
    async with streaming(inspected) as stream:
        await stream.next("state")
        assert len(inspected.recorder._feeds) == 1
    await until(lambda: not inspected.recorder._feeds)


async def test_webhooks_stay_as_they_were_while_the_store_fails(
    inspected: Inspected, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inspected.establish()
    async with streaming(inspected) as stream:
        before = (await stream.next("state"))["webhooks"]

    async def fail(*_: object) -> list[Route]:
        message = "locked"
        raise StoreError(message)

    monkeypatch.setattr(inspected.store, "list_routes", fail)
    async with streaming(inspected) as stream:
        assert (await stream.next("state"))["webhooks"] == before != []


async def test_only_the_last_requests_are_remembered(
    asana: AsanaSimulator, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "GENUINE", (2, 1_000))
    monkeypatch.setattr(recording, "OF_STRANGERS", (1, 1_000))
    inspected = Inspected(asana, free_port)
    async with inspected.client, background_task(inspected.client.run(), "run"):
        await inspected.all_verdicts()
    assert inspected.verdicts() == ["refused", "dead letter", "accepted"]
    known = {record.verdict for record in inspected.recorder._by_origin.values()}
    assert known == {"dead letter", "accepted"}
    assert inspected.recorder.find(1) is None


def end(recorder: Recorder, status: int, body: bytes = b"{}", **fields: Any) -> None:
    """Have a request recorded that was answered with this status."""
    request = Request(method="POST", route="r" * 32, body=body, **fields)
    with recorder.receiving(request):
        recorder.answered(Response(status, "" if status == 200 else "no"))


def test_strangers_push_out_no_genuine_delivery() -> None:
    recorder = Recorder()
    end(recorder, 200, signatures=(DIGEST,))
    for _ in range(300):
        end(recorder, 404)
        end(recorder, 401, signatures=("6" * 64,))
        end(recorder, 200, secrets=("s" * 32,))
    first, *others = recorder.records()
    assert (first.id, first.verdict) == (1, "heartbeat")
    assert len(others) == recording.OF_STRANGERS[0]
    assert {record.verdict for record in others} == {"refused", "handshake"}


@pytest.mark.parametrize("status", [200, 401])
def test_bytes_that_are_remembered_have_a_bound_but_the_last_request_is_there(status: int) -> None:
    recorder = Recorder()
    for number in range(60):
        end(recorder, status, body=bytes([number]) * 2**20, signatures=(DIGEST,))
    kept = recorder.records()
    assert sum(len(record.body) for record in kept) <= recording.GENUINE[1]
    assert kept[-1].body == bytes([59]) * 2**20
    end(recorder, status, body=bytes(2**26), signatures=(DIGEST,))
    assert [len(record.body) for record in recorder.records()] == [2**26]


def test_page_that_does_not_read_holds_no_more_than_is_remembered() -> None:
    recorder = Recorder()
    with recorder.following() as feed:
        for _ in range(500):
            end(recorder, 401)
        assert [*feed._changed] == [record.id for record in recorder.records()]


async def test_passers_by_and_probes_are_not_recorded(
    inspected: Inspected, http: aiohttp.ClientSession
) -> None:
    for path in ("/favicon.ico", "/healthz", "/readyz"):
        await http.get(inspected.address + path)
    assert inspected.verdicts() == []
    await http.post(f"{inspected.address}/hooks/{'x' * 32}", data=b"{}")
    [record] = inspected.recorder.records()
    assert (record.verdict, record.status, record.reason) == ("refused", 404, "no webhook here")


async def test_event_that_is_tried_again_alone_is_told_with_its_delivery(
    inspected: Inspected,
) -> None:
    await inspected.all_verdicts()
    record = inspected.recorder.records()[-1]
    await until(lambda: len(record.attempts) == 2)
    [event] = record.events()
    assert [(each.event, each.ok) for each in record.attempts] == [(event.key, False)] * 2


async def test_handler_that_is_stopped_is_no_success(inspected: Inspected) -> None:
    await inspected.establish()
    await inspected.asana.create_task("a", project=inspected.asana.project)
    await inspected.asana.settled()
    [*_, record] = inspected.recorder.records()
    attempt = inspected.recorder.processing(inspected.recorder.again(record), make_event())
    with pytest.raises(asyncio.CancelledError), attempt:
        raise asyncio.CancelledError
    assert record.attempts[-1].text == "stopped before its end"


DIGEST = "5" * 64


def signed_request() -> tuple[Request, Delivery]:
    """Return a request with a signature, and the delivery that an endpoint makes of it."""
    request = Request(method="POST", route="r" * 32, signatures=(DIGEST,))
    digest = bytes.fromhex(DIGEST)
    return request, Delivery(route="r" * 32, body=b"", digest=digest, received_at=datetime.now(UTC))


async def test_attempt_that_ends_before_the_answer_is_told_with_it() -> None:
    told: list[Record] = []
    recorder = Recorder(told.append)
    request, delivery = signed_request()
    with recorder.following() as feed, recorder.receiving(request):
        with recorder.processing(delivery, make_event()):
            pass
        assert await feed.next(within=0.01) == []
        recorder.became(delivery, "stored")
        recorder.answered(ACCEPTED)
        assert await feed.next(within=5) == recorder.records() == told
    [record] = told
    assert [attempt.text for attempt in record.attempts] == ["handled"]


async def test_text_of_an_attempt_is_bounded() -> None:
    recorder = Recorder()
    request, delivery = signed_request()
    with recorder.receiving(request):
        recorder.answered(ACCEPTED)
    with pytest.raises(HandlerError), recorder.processing(delivery, make_event()):
        raise HandlerError("handle") from ValueError("x" * 2**20)
    [attempt] = recorder.records()[0].attempts
    assert attempt.text.startswith("handle raised ValueError")
    assert len(attempt.text) < 500


async def test_attempts_are_the_first_record_s_though_the_delivery_came_again() -> None:
    recorder = Recorder()
    request, delivery = signed_request()
    for _ in range(2):
        with recorder.receiving(request):
            recorder.answered(ACCEPTED)
    with recorder.processing(delivery, make_event()):
        pass
    first, second = recorder.records()
    assert (len(first.attempts), len(second.attempts)) == (1, 0)


@pytest.mark.parametrize("response", [WRONG_SIGNATURE, None], ids=["refused", "no answer"])
async def test_attempts_are_not_those_of_a_request_that_was_not_accepted(
    response: Response | None,
) -> None:
    recorder = Recorder()
    request, delivery = signed_request()
    with recorder.receiving(request):
        if response is not None:
            recorder.answered(response)
    with recorder.processing(delivery, make_event()):
        pass
    assert not any(record.attempts for record in recorder.records())
    assert not recorder._by_origin


async def test_work_outside_of_a_request_is_left_alone() -> None:
    recorder = Recorder()
    _, delivery = signed_request()
    with recorder.processing(delivery, make_event()):
        recorder.became(delivery, "handled")
    recorder.answered(ACCEPTED)
    assert recorder.records() == []


async def test_events_that_cannot_be_decoded_are_left_out(inspected: Inspected) -> None:
    webhook = await inspected.establish()
    body = b'{"events":[{"odd":1},{"action":"changed","created_at":"2100-01-01T00:00:00Z",'
    body += b'"resource":{"gid":"1","resource_type":"task"}}]}'
    await inspected.asana.deliver(webhook.gid, body)
    async with streaming(inspected) as stream:
        records = (await stream.next("state"))["records"]
    assert records[-1]["events"] == ["task 1 changed"]


def test_webhooks_filters_read_as_words() -> None:
    filters = (
        WebhookFilter(resource_type="task", action="changed", fields=["completed", "name"]),
        WebhookFilter(resource_type="task", resource_subtype="milestone"),
        WebhookFilter(action="deleted"),
    )
    route = Route(id="r", target="t", resource="1", filters=filters)
    assert shown_route(route)["filters"] == [
        "task changed: completed, name",
        "task/milestone whatever happens",
        "anything deleted",
    ]


async def test_port_that_is_taken_is_an_error(inspected: Inspected) -> None:
    port = int(inspected.origin.rpartition(":")[2])
    with pytest.raises(OSError, match="address already in use|bind"):
        async with Inspector(inspected.recorder, inspected.store, actions={}, port=port):
            pass


# To whom


def test_page_loads_nothing_from_elsewhere() -> None:
    from asana_webhooks.cli.inspector.page import read_page

    text, policy = read_page()
    addresses = set(re.findall(r"https?://[^\s'\"]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "unsafe" not in policy


async def test_page_is_served_with_a_strict_policy(
    inspected: Inspected, http: aiohttp.ClientSession
) -> None:
    async with http.get(inspected.url) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["", "stream", "nowhere"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1.evil.example:80", ""])
async def test_other_names_that_lead_here_are_refused(
    inspected: Inspected, http: aiohttp.ClientSession, host: str, path: str
) -> None:
    async with http.get(inspected.url + path, headers={"Host": host}) as answer:
        assert answer.status == 403
        assert "127.0.0.1 and at localhost" in await answer.text()


@pytest.mark.parametrize(
    ("path", "site"), [("", "cross-site"), ("stream", "same-origin"), ("stream", "none")]
)
async def test_page_is_opened_from_anywhere_and_asks_itself(
    inspected: Inspected, http: aiohttp.ClientSession, path: str, site: str
) -> None:
    async with http.get(inspected.url + path, headers={"Sec-Fetch-Site": site}) as answer:
        assert answer.status == 200


AGAIN = "records/3/Post again"


async def test_page_is_at_localhost_too(inspected: Inspected, http: aiohttp.ClientSession) -> None:
    host = inspected.origin.replace("http://127.0.0.1", "localhost")
    async with http.get(inspected.url, headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        pytest.param("POST", AGAIN, {}, id="post without an origin"),
        pytest.param("POST", AGAIN, {"Origin": "null"}, id="post from a sandbox"),
        pytest.param("POST", AGAIN, {"Origin": "https://evil.example"}, id="post of another"),
        pytest.param("POST", AGAIN, {"Origin": "http://localhost"}, id="post of a neighbour"),
        pytest.param("GET", "stream", {"Origin": "https://evil.example"}, id="stream to another"),
        pytest.param("GET", "stream", {"Sec-Fetch-Site": "cross-site"}, id="image of another"),
        pytest.param("GET", "stream", {"Sec-Fetch-Site": "same-site"}, id="image of a neighbour"),
    ],
)
async def test_other_pages_are_refused(
    inspected: Inspected,
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    headers: dict[str, str],
) -> None:
    await inspected.all_verdicts()
    async with http.request(method, inspected.url + path, headers=headers) as answer:
        assert answer.status == 403
    assert inspected.verdicts() == ALL


# What can be done


@pytest.fixture
def act(inspected: Inspected, http: aiohttp.ClientSession) -> Callable[..., Any]:
    async def act(record: int, name: str) -> tuple[int, str]:
        url = f"{inspected.url}records/{record}/{name}"
        async with http.post(url, headers={"Origin": inspected.origin}) as answer:
            return answer.status, (await answer.json())["said"]

    return act


async def test_delivery_is_posted_again_as_it_came(inspected: Inspected, act: Any) -> None:
    await inspected.all_verdicts()
    assert await act(3, "Post again") == (200, "Posted; the receiver answered 200.")
    assert inspected.verdicts() == [*ALL, "duplicate"]
    before, *_, after = inspected.recorder.records()[2:]
    assert after.body == before.body
    assert dict(after.headers)["X-Hook-Signature"] == dict(before.headers)["X-Hook-Signature"]


async def test_delivery_is_handled_again(inspected: Inspected, act: Any) -> None:
    await inspected.all_verdicts()
    count, letters = len(inspected.handled), await inspected.store.dead_letters()
    assert await act(3, "Handle again") == (
        200,
        "It is in the inbox; handlers are given it now.",
    )
    record = inspected.recorder.find(3)
    assert record is not None
    await until(lambda: len(record.attempts) == 4)
    assert inspected.handled[count:] == inspected.handled[:2]
    assert [each.text for each in record.attempts] == ["handled"] * 4
    assert await inspected.store.dead_letters() == letters


@pytest.mark.parametrize(
    ("record", "name"),
    [
        pytest.param(99, "Post again", id="unknown"),
        pytest.param(3, "Destroy", id="no such action"),
        pytest.param(1, "Post again", id="handshake"),
        pytest.param(5, "Handle again", id="refused"),
    ],
)
async def test_what_is_no_genuine_delivery_stays_as_it_is(
    inspected: Inspected, act: Any, record: int, name: str
) -> None:
    await inspected.all_verdicts()
    assert await act(record, name) == (404, "There is no such delivery any more.")
    assert inspected.verdicts() == ALL


async def test_receiver_or_store_that_fails_is_named(
    inspected: Inspected, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await inspected.all_verdicts()

    async def fail(*_: object, **__: object) -> bool:
        message = "the disk is full"
        raise StoreError(message)

    monkeypatch.setattr(inspected.store, "put", fail)
    assert await act(3, "Handle again") == (503, "the disk is full")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        inspected.address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        status, said = await act(3, "Post again")
    assert (status, said) == (
        200,
        "The receiver did not answer: ClientConnectorError.",
    )


# The page, in a browser


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browsing() as page:
        yield page
        assert page.problems == []


ROWS = "document.querySelectorAll('#list li').length"
DETAIL = "document.getElementById('detail').innerText"


async def test_page_shows_all_verdicts_and_runs_nothing_that_strangers_send(
    inspected: Inspected, page: Page
) -> None:
    await inspected.all_verdicts()
    await page.show(inspected.url)
    await page.until(f"{ROWS} === 7")
    shown = await page.evaluate(
        "[...document.querySelectorAll('#list .verdict')].map((each) => each.textContent)"
    )
    assert shown == ALL[::-1]
    for row in range(7):
        await page.evaluate(f"document.querySelectorAll('#list button')[{row}].click()")
        assert await page.evaluate(f"{DETAIL}.length") > 50
    await page.evaluate("document.querySelectorAll('#list button')[2].click()")
    assert "onerror=window.hurt" in await page.evaluate(DETAIL)
    assert await page.evaluate("window.hurt === undefined")
    assert page.problems == []
    markup = "document.createElement('p').innerHTML = '<b>'"
    assert await page.evaluate(f"try {{ {markup}; 'set' }} catch (e) {{ e.name }}") == "TypeError"
    page.problems.clear()


async def test_page_is_alive_and_says_when_the_command_ended(
    asana: AsanaSimulator, free_port: int, page: Page
) -> None:
    made = Inspected(asana, free_port)
    async with made.client, background_task(made.client.run(), "run"):
        async with made.inspector:
            await page.show(made.url)
            await page.until("document.getElementById('live').textContent === 'live'")
            assert await page.evaluate("!document.getElementById('none').hidden")
            await made.establish()
            await page.until(f"{ROWS} === 2")
            await page.until("document.getElementById('webhooks').innerText.includes('heartbeat')")
            await page.until("document.getElementById('webhooks').innerText.includes('no events')")
            await asana.create_task("a", project=asana.project)
            await page.until(f"{DETAIL}.includes('2 events')")
            await page.until(f"{DETAIL}.includes('handled')")
        await page.until("document.getElementById('live').innerText.includes('not running')")


async def test_page_shows_what_is_genuine_whatever_strangers_post(
    inspected: Inspected, page: Page, http: aiohttp.ClientSession
) -> None:
    await inspected.establish()
    await page.show(inspected.url)
    await page.until(f"{ROWS} === 2")
    for _ in range(60):
        await http.post(f"{inspected.address}/hooks/{'x' * 32}", data=b"{}")
    await page.until(f"{ROWS} === 51")
    shown = "[...document.querySelectorAll('#list .verdict')].map((each) => each.textContent)"
    await page.until(f"String({shown}) === String(Array(50).fill('refused').concat('heartbeat'))")


async def test_page_is_used_with_the_keyboard_alone(inspected: Inspected, page: Page) -> None:
    await inspected.all_verdicts()
    await page.show(inspected.url)
    await page.until(f"{ROWS} === 7")
    for _ in range(4):
        await page.press("j")
    assert "2 events" in await page.evaluate(DETAIL)
    await page.press("ArrowUp")
    await page.press("ArrowDown")
    action = "document.activeElement.dataset.action ?? ''"
    for _ in range(20):
        await page.press("Tab")
        if await page.evaluate(action) == "Handle again":
            break
    await page.press("Enter")
    await page.until(f"{DETAIL}.includes('It is in the inbox')")
    await page.until(f"{DETAIL}.split('Handler, event 2: handled').length === 3")
    assert await page.evaluate(action) == "Handle again"  # though the delivery was drawn anew


async def test_page_shows_only_what_is_asked_for(inspected: Inspected, page: Page) -> None:
    await inspected.all_verdicts()
    await page.show(inspected.url)
    await page.until(f"{ROWS} === 7")
    counts = {"Accepted 2": 2, "Duplicates 1": 1, "Refused 2": 2, "Failing 1": 1, "All 7": 7}
    for chip, count in counts.items():
        await page.evaluate(
            f"[...document.querySelectorAll('#chips button')]"
            f".find((each) => each.textContent === '{chip}').click()"
        )
        assert await page.evaluate(ROWS) == count, chip


async def test_page_shows_which_event_failed_beside_others_that_were_handled(
    inspected: Inspected, page: Page
) -> None:
    webhook = await inspected.establish()
    failing, well = make_event("story", action="added"), make_event("task", action="added")
    body = b'{"events":[%b,%b]}' % (failing.raw, well.raw)
    await page.show(inspected.url)
    await inspected.asana.deliver(webhook.gid, body)
    await page.until(f"{DETAIL}.includes('Handler, event 2: handled')")
    assert re.search(r"Handler, event 1: \S+ raised ValueError", await page.evaluate(DETAIL))
    assert "Failing 1" in await page.evaluate("document.getElementById('chips').innerText")


async def test_page_shows_the_continuity_of_each_webhook(inspected: Inspected, page: Page) -> None:
    await inspected.keep_ledger()
    await page.show(inspected.url)
    text = "document.getElementById('webhooks').innerText"
    await page.until(f"{text}.includes('Recovered')")
    shown = await page.evaluate(text)
    for words in ("Proven until", "3 events", "1 (1%)", "99 %", "expired (5f2a91c0)"):
        assert words in shown
    title = await page.evaluate("document.querySelector('.ledger .bad').title")
    assert title == f"it was not read {EVIL}"
    assert await page.evaluate("window.hurt === undefined")
    await page.resize(360, 740)
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


async def test_page_says_that_heartbeats_are_the_only_evidence(
    inspected: Inspected, page: Page
) -> None:
    await inspected.client.establish(inspected.asana.workspace, filters=PROJECTS)
    await page.show(inspected.url)
    await page.until("document.getElementById('webhooks').innerText.includes('heartbeats alone')")
    assert "Dropped" not in await page.evaluate("document.getElementById('webhooks').innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_fits_a_phone_and_the_lights(
    inspected: Inspected, page: Page, scheme: str
) -> None:
    await inspected.all_verdicts()
    await page.prefer(scheme)
    await page.show(inspected.url, width=360, height=740)
    await page.until(f"{ROWS} === 7")
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    visible = "document.querySelector('{}').offsetParent !== null"
    assert await page.evaluate(fits)
    assert await page.evaluate(visible.format("#list"))
    assert not await page.evaluate(visible.format("#detail .back"))
    for row in range(7):
        await page.evaluate(f"document.querySelectorAll('#list button')[{row}].click()")
        assert await page.evaluate(fits)
    assert not await page.evaluate(visible.format("#list"))
    assert await page.evaluate(visible.format("#detail .back"))
    await page.press("Escape")
    assert await page.evaluate(visible.format("#list"))
    luminance = await page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)"
    )
    assert (sum(luminance) > 384) == (scheme == "light")
