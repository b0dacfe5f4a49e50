"""The calls by which other processes drive the local Asana, and what it tells who watches."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import until
from support.plain_http import NO_TLS
from support.target import HEARTBEAT, Target, api_of, new_webhook

from asana_webhooks.simulator import AsanaSimulator, Attempt, Call, Handshake
from asana_webhooks.simulator.control import _is_here
from asana_webhooks.simulator.observers import Traffic


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with Target() as target:
        yield target


@pytest.fixture
async def asana() -> AsyncIterator[AsanaSimulator]:
    async with AsanaSimulator(gather_for=0) as asana:
        yield asana


@pytest.fixture
async def control(asana: AsanaSimulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        verify=NO_TLS, base_url=asana.control_url, trust_env=False
    ) as http:
        yield http


async def data(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_time_and_faults_are_shown(control: httpx.AsyncClient, asana: AsanaSimulator) -> None:
    asana.faults.add("duplicate")
    shown = await data(await control.get("/state"))
    assert shown["faults"] == ["duplicate"]
    assert abs(datetime.fromisoformat(shown["now"]) - asana.now) < timedelta(minutes=1)


async def test_time_passes_when_another_process_says_so(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    await new_webhook(asana, target.url)
    target.posts.clear()
    before = asana.now
    shown = await data(await control.post("/advance", json={"hours": 8, "minutes": 30}))
    assert target.bodies == [HEARTBEAT]
    assert datetime.fromisoformat(shown["now"]) >= before + timedelta(hours=8, minutes=30)


async def test_body_may_come_as_a_shell_sends_it(control: httpx.AsyncClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    await data(await control.post("/advance", content=b'{"days": 1}', headers=form))
    await data(await control.post("/settled"))


async def test_faults_are_switched_for_all_or_for_one(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    gid = await new_webhook(asana, target.url)
    assert await data(await control.post("/faults", json={"on": ["lost-201", "duplicate"]})) == {
        "faults": ["duplicate", "lost-201"]
    }
    assert await data(await control.post("/faults", json={"off": ["lost-201"]})) == {
        "faults": ["duplicate"]
    }
    await data(await control.post("/faults", json={"on": ["tampered"], "webhook": gid}))
    assert [*asana.webhooks[gid].faults] == ["tampered"]
    assert [*asana.faults] == ["duplicate"]


async def test_slow_stream_lasts_until_it_is_switched_off(
    control: httpx.AsyncClient, asana: AsanaSimulator
) -> None:
    async with api_of(asana) as api:
        for _ in range(2):
            await data(await control.post("/faults", json={"on": ["slow-stream"]}))
            params = {"resource": asana.project}
            reading = asyncio.create_task(api.get("/events", params=params))
            done, _ = await asyncio.wait([reading], timeout=0.1)
            assert not done
            await data(await control.post("/faults", json={"off": ["slow-stream"]}))
            assert (await reading).status_code == 412


@pytest.mark.parametrize("fault", ["slow-201", "slow-handshake"])
async def test_slow_fault_lasts_until_it_is_switched_off(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target, fault: str
) -> None:
    for number in range(2):
        asana.create_started.clear()
        await data(await control.post("/faults", json={"on": [fault]}))
        creating = asyncio.create_task(new_webhook(asana, f"{target.url}/{number}"))
        await until(asana.create_started.is_set)
        done, _ = await asyncio.wait([creating], timeout=0.1)
        assert not done
        await data(await control.post("/faults", json={"off": [fault]}))
        assert await creating in asana.webhooks


async def test_settled_waits_for_deliveries(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    await new_webhook(asana, target.url)
    target.pause = 0.1
    await asana.create_task("Slow to be told", project=asana.project)
    assert len(target.events) == 1
    await data(await control.post("/settled", json={}))
    assert len(target.events) == 2
    assert [attempt.status for attempt in asana.deliveries] == [200, 200]


async def test_settled_gives_up_when_it_takes_too_long(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    await new_webhook(asana, target.url)
    target.usual = 500
    await asana.create_task("Never taken", project=asana.project)
    answer = await control.post("/settled", json={"timeout": 0.05})
    assert answer.status_code == 504
    assert "still under way after 0.05 s" in answer.text


async def test_deleted_object_comes_back(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    await new_webhook(asana, target.url)
    await asana.delete("1301")
    await data(await control.post("/undelete", json={"gid": "1301"}))
    await asana.settled()
    assert [event["action"] for events in target.events for event in events] == [
        "deleted",
        "undeleted",
    ]


async def test_events_are_sent_as_they_are(
    control: httpx.AsyncClient, asana: AsanaSimulator, target: Target
) -> None:
    await new_webhook(asana, target.url)
    event = {"action": "sneezed", "resource": {"gid": "1", "resource_type": "cat"}}
    await data(await control.post("/emit", json={"resource": asana.project, "events": [event]}))
    await asana.settled()
    assert target.events[-1] == [event]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        pytest.param("/advance", {"hours": -1}, 400, "forwards only", id="backwards"),
        pytest.param("/advance", {"hours": 1e300}, 400, "", id="for ever"),
        pytest.param("/advance", {"weeks": 1}, 400, "unknown field `weeks`", id="unknown field"),
        pytest.param("/advance", {"hours": "8"}, 400, "Expected `float`", id="wrong type"),
        pytest.param("/faults", {"on": ["gremlins"]}, 400, "no fault is called", id="no fault"),
        pytest.param("/faults", {"webhook": "1"}, 404, "Unknown object: 1", id="no webhook"),
        pytest.param("/undelete", {}, 400, "missing required field `gid`", id="missing field"),
        pytest.param("/undelete", {"gid": "1"}, 400, "never an object", id="no object"),
    ],
)
async def test_mistake_is_named(
    control: httpx.AsyncClient, path: str, body: Any, status: int, said: str
) -> None:
    answer = await control.post(path, json=body)
    assert answer.status_code == status
    assert said in answer.json()["errors"][0]["message"]


async def test_unknown_fault_switches_nothing(
    control: httpx.AsyncClient, asana: AsanaSimulator
) -> None:
    answer = await control.post("/faults", json={"on": ["duplicate"], "off": ["gremlins"]})
    assert answer.status_code == 400
    assert not asana.faults


async def test_target_that_keeps_time_from_passing_is_said(
    control: httpx.AsyncClient,
    asana: AsanaSimulator,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await new_webhook(asana, target.url)
    monkeypatch.setattr(asana, "_patience", 0.05)
    target.pause = 5
    answer = await control.post("/advance", json={"hours": 8})
    assert answer.status_code == 504
    assert "nothing ended for" in answer.text


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://e.example"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=["origin", "fetch"],
)
async def test_web_page_is_refused(
    control: httpx.AsyncClient, asana: AsanaSimulator, headers: dict[str, str]
) -> None:
    answer = await control.post("/faults", json={"on": ["duplicate"]}, headers=headers)
    assert answer.status_code == 403
    assert not asana.faults


@pytest.mark.parametrize(
    ("address", "here"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.7", False), ("2001:db8::1", False)],
)
def test_only_this_machine_is_here(address: str, *, here: bool) -> None:
    assert _is_here(address) is here


def test_who_has_no_address_is_not_here() -> None:
    assert not _is_here(None)


async def test_another_machine_is_refused() -> None:
    address = own_address()
    async with (
        AsanaSimulator(host=address) as asana,
        httpx.AsyncClient(verify=NO_TLS, trust_env=False) as http,
    ):
        assert (await http.get(f"{asana.control_url}/state")).status_code == 403


def own_address() -> str:
    """Return an address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no other address than loopback")
        address: str = probe.getsockname()[0]
        return address


def test_control_is_served_inside_the_context_only() -> None:
    with pytest.raises(RuntimeError):
        _ = AsanaSimulator().control_url


# Who watches


async def test_watcher_is_told_of_calls_handshakes_and_attempts(target: Target) -> None:
    seen: list[Traffic] = []
    async with AsanaSimulator(gather_for=0, watch=seen.append) as asana:
        gid = await new_webhook(asana, target.url)
        await asana.create_task("News", project=asana.project)
        await asana.settled()
    assert seen[0] == Handshake(asana.project, 200, echoed=True)
    assert Call("POST", "/api/1.0/webhooks", 201) in seen
    attempts = [each for each in seen if isinstance(each, Attempt)]
    assert attempts == asana.deliveries
    assert [each.webhook_gid for each in attempts] == [gid, gid]
    assert len(json.loads(attempts[1].body)["events"]) == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/api/1.0/tasks/1?opt_fields=name", 404, id="unknown object"),
        pytest.param("/api/1.0/sheep", 404, id="unknown call"),
        pytest.param("/sh%1b%5bm", 404, id="not below the API"),
        pytest.param("/-/control/state", 200, id="control"),
    ],
)
async def test_watcher_is_told_of_paths_without_their_query(path: str, status: int) -> None:
    seen: list[Traffic] = []
    async with AsanaSimulator(watch=seen.append) as asana, api_of(asana) as api:
        await api.get(f"{asana.base_url.removesuffix('/api/1.0')}{path}")
    assert [(each.path.lower(), each.status) for each in seen if isinstance(each, Call)] == [
        (path.partition("?")[0], status)
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [pytest.param("http://127.0.0.1:9/x", None, id="nobody"), pytest.param("", 401, id="refusal")],
)
async def test_watcher_is_told_of_handshakes_that_fail(path: str, status: int | None) -> None:
    seen: list[Traffic] = []
    async with AsanaSimulator(watch=seen.append) as asana, api_of(asana) as api:
        target = path or f"{asana.oauth_url}/oauth_token"  # it has no use for a secret
        fields = {"data": {"resource": asana.project, "target": target}}
        assert (await api.post("/webhooks", json=fields)).status_code == 400
    assert Handshake(asana.project, status, echoed=False) in seen
