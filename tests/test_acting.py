"""What a program does at Asana in its handlers, and which events of it come back to them."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import eventually, until
from support.inboxes import confirm, draining, is_empty
from support.ports import free_tcp_port
from support.replicas import KINDS, shared_place_of

from asana_webhooks import Event, MemoryStore, SqliteStore, WebhooksApi, WebhooksClient
from asana_webhooks._echoes import Echoes
from asana_webhooks._ping_pong import FLIPS
from asana_webhooks.models import Delivery
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.testing import make_delivery, make_event

MakeClient = Callable[..., WebhooksClient]


@asynccontextmanager
async def running(client: WebhooksClient, resource: str) -> AsyncIterator[WebhooksClient]:
    """Run a client that has a webhook of a resource."""
    async with client:
        await client.ensure(resource)
        handling = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            handling.cancel()
            await asyncio.wait([handling])


async def is_idle(client: WebhooksClient) -> bool:
    """Return whether nothing waits for handlers."""
    return await is_empty(client._opened().store)


def field_of(event: Event) -> str | None:
    return event.change.field if event.change else None


async def test_comment_that_a_handler_posts_does_not_wake_it(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client, answered = make_client(), list[str]()

    @client.on("story", action="added")
    async def answer(event: Event) -> None:
        assert event.parent is not None
        answered.append(event.resource.gid)
        await client.request(
            "POST", f"/tasks/{event.parent.gid}/stories", data={"text": "Thank you!"}
        )

    async with running(client, asana.project):
        task = await asana.create_task("Fix the login", project=asana.project)
        comments = [await asana.add_comment(task, "Soon, please") for _ in range(3)]
        await asana.settled()
        await until(lambda: len(answered) >= 3)
        await asana.settled()
        await eventually(lambda: is_idle(client))
    assert answered == comments


async def test_users_of_one_program_do_not_answer_each_other(
    asana: AsanaSimulator, free_port: int
) -> None:
    """Each has a webhook of the project, and so is told of what the other one writes."""

    async def load(account: str) -> str:
        return account

    client = WebhooksClient(
        tokens=load,
        public_url=f"http://127.0.0.1:{free_port}",
        port=free_port,
        store=MemoryStore(),
        base_url=asana.base_url,
    )
    answered: list[tuple[str, str]] = []

    @client.on("story", action="added")
    async def answer(event: Event) -> None:
        assert event.parent is not None
        answered.append((event.source.account, event.resource.gid))
        path = f"/tasks/{event.parent.gid}/stories"
        await client.of(event).request("POST", path, data={"text": "Thank you!"})

    for name in ("ada", "bob"):
        await asana.add_user(name, token=name)
    async with client:
        for name in ("ada", "bob"):
            await client.account(name).ensure(asana.project)
        handling = asyncio.create_task(client.run())
        task = await asana.create_task("Fix the login", project=asana.project)
        comment = await asana.add_comment(task, "Soon, please")
        await until(lambda: len(answered) >= 2)
        await asana.settled()
        await eventually(lambda: is_idle(client))
        handling.cancel()
        await asyncio.wait([handling])
    assert sorted(answered) == [("ada", comment), ("bob", comment)]


async def test_person_with_the_same_token_is_not_hidden(
    make_client: MakeClient, asana: AsanaSimulator
) -> None:
    client, changes = make_client(), list[str | None]()

    @client.on("task", action="changed")
    async def complete(event: Event) -> None:
        changes.append(field_of(event))
        await client.request("PUT", f"/tasks/{event.resource.gid}", data={"completed": True})

    async with (
        running(client, asana.project),
        WebhooksApi("a-token", base_url=asana.base_url) as api,
    ):
        task = await asana.create_task("Fix the login", project=asana.project)
        await api.request("PUT", f"/tasks/{task}", data={"name": "Fix it"})
        await until(lambda: changes == ["name"])
        await anyio.sleep(0.3)  # or it would be while the program's own call is under way
        await api.request("PUT", f"/tasks/{task}", data={"completed": False})
        await until(lambda: len(changes) >= 3)
        await asana.settled()
        await eventually(lambda: is_idle(client))
    assert changes == ["name", "completed", "completed_at"]


@pytest.fixture
async def telling() -> AsyncIterator[AsanaSimulator]:
    """Yield a local Asana with stories of the system."""
    async with AsanaSimulator(retry_delay=0.01, gather_for=0, system_stories=True) as simulator:
        yield simulator


CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("PUT", "/tasks/{task}", {"name": "a", "completed": True, "assignee": "me", "notes": "b"}),
    ("PUT", "/tasks/{task}", {"due_on": "2026-03-01"}),
    ("POST", "/tasks/{task}/stories", {"text": "a"}),
    ("POST", "/tasks/{task}/subtasks", {"name": "a"}),
    ("POST", "/tasks", {"name": "a", "projects": ["{project}"], "assignee": "{user}"}),
    ("PUT", "/tasks/{task}", {"custom_fields": {"{field}": "{option}", "{text_field}": "a"}}),
    ("POST", "/projects/{project}/removeCustomFieldSetting", {"custom_field": "{field}"}),
    ("POST", "/projects/{project}/addMembers", {"members": ["{user}"]}),
    ("POST", "/tasks/{task}/setParent", {"parent": "{other}"}),
    ("POST", "/tasks/{other}/addProject", {"project": "{project}", "section": "{section}"}),
    ("POST", "/tasks/{task}/removeProject", {"project": "{project}"}),
    ("POST", "/sections/{section}/addTask", {"task": "{task}"}),
    ("POST", "/tasks/{task}/addTag", {"tag": "{tag}"}),
    ("POST", "/tasks/{task}/addFollowers", {"followers": ["{user}"]}),
    ("POST", "/projects/{project}/sections", {"name": "a"}),
    ("PUT", "/projects/{project}", {"name": "a", "archived": True}),
    ("PUT", "/sections/{section}", {"name": "a"}),
    ("DELETE", "/tasks/{task}", None),
    ("DELETE", "/sections/{section}", None),
]


@pytest.mark.parametrize(
    ("method", "path", "data"), CALLS, ids=[f"{method} {path}" for method, path, _ in CALLS]
)
async def test_all_that_a_call_causes_is_its_echo(
    telling: AsanaSimulator, method: str, path: str, data: Any
) -> None:
    """Also the stories that the system makes."""
    asana, port = telling, free_tcp_port()
    client = WebhooksClient(
        "a-token",
        public_url=f"http://127.0.0.1:{port}",
        port=port,
        store=MemoryStore(),
        base_url=asana.base_url,
    )
    seen, echoes = list[Event](), list[Event]()

    @client.on()
    async def note(event: Event) -> None:
        seen.append(event)

    @client.on(echoes=True)
    async def note_all(event: Event) -> None:
        echoes.append(event)

    async with running(client, asana.project):
        names = await make_things(client, asana)
        await asana.settled()
        await eventually(lambda: is_idle(client))
        seen.clear()
        echoes.clear()
        await client.request(method, path.format(**names), data=data and filled(data, names))
        await asana.settled()
        await eventually(lambda: is_idle(client))
    assert seen == []
    assert echoes
    assert all(event.echo for event in echoes)


async def make_things(client: WebhooksClient, asana: AsanaSimulator) -> dict[str, str]:
    """Make what the calls name; return the gids."""
    section = await client.request(
        "POST", f"/projects/{asana.project}/sections", data={"name": "Soon"}
    )
    field = await make_field(client, asana, resource_subtype="enum", enum_options=[{"name": "red"}])
    text_field = await make_field(client, asana, resource_subtype="text")
    tag = await client.request("POST", f"/workspaces/{asana.workspace}/tags", data={"name": "bug"})
    return {
        "project": asana.project,
        "section": section["gid"],
        "tag": tag["gid"],
        "field": field["gid"],
        "option": field["enum_options"][0]["gid"],
        "text_field": text_field["gid"],
        "task": await asana.create_task("Fix the login", project=asana.project),
        "other": await asana.create_task("Fix the logout", project=asana.project),
        "user": await asana.add_user("Ada"),
    }


async def make_field(client: WebhooksClient, asana: AsanaSimulator, **fields: Any) -> Any:
    """Make a custom field of the project."""
    given = {"name": fields["resource_subtype"], "workspace": asana.workspace, **fields}
    made = await client.request("POST", "/custom_fields", data=given)
    setting = {"custom_field": made["gid"]}
    path = f"/projects/{asana.project}/addCustomFieldSetting"
    await client.request("POST", path, data=setting)
    return made


def filled(data: Any, names: dict[str, str]) -> Any:
    """Return data with the names in braces filled in."""
    if isinstance(data, str):
        return data.format(**names)
    if isinstance(data, list):
        return [filled(each, names) for each in data]
    if isinstance(data, dict):
        return {filled(key, names): filled(each, names) for key, each in data.items()}
    return data


async def test_another_client_on_the_store_recognises_the_echo(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    worker, writer, seen = make_client(store=url), make_client(store=url, serve=False), list[str]()

    @worker.on("task", field="name")
    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    async with running(worker, asana.project), writer:
        ours = await asana.create_task("a", project=asana.project)
        theirs = await asana.create_task("a", project=asana.project)
        await writer.request("PUT", f"/tasks/{ours}", data={"name": "b"})
        async with WebhooksApi("a-token", base_url=asana.base_url) as api:
            await api.request("PUT", f"/tasks/{theirs}", data={"name": "b"})
        await asana.settled()
        await eventually(lambda: is_idle(worker))
    assert seen == [theirs]


WRITER = """
import asyncio, sys
from asana_webhooks import PostgresStore, RedisStore, SqliteStore, WebhooksClient

async def write(
    kind: str, address: str, name: str, base_url: str, public_url: str, task: str
) -> None:
    store = {
        "sqlite": lambda: SqliteStore(address),
        "valkey": lambda: RedisStore(address, prefix=name),
        "postgres": lambda: PostgresStore(address, schema=name),
    }[kind]()
    async with WebhooksClient(
        "a-token", public_url=public_url, store=store, serve=False, base_url=base_url
    ) as client:
        await client.request("PUT", f"/tasks/{task}", data={"name": "b"})
        await client.request("POST", f"/tasks/{task}/stories", data={"text": "done"})

asyncio.run(write(*sys.argv[1:]))
"""


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_another_process_on_the_store_recognises_the_echoes(
    make_client: MakeClient, asana: AsanaSimulator, tmp_path: Path, kind: str
) -> None:
    place = shared_place_of(kind, tmp_path)
    worker, seen = make_client(store=place.store()), list[str]()

    @worker.on("task", field="name")
    @worker.on("story")
    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    async with running(worker, asana.project):
        ours = await asana.create_task("a", project=asana.project)
        theirs = await asana.create_task("a", project=asana.project)
        target = next(iter(asana.webhooks.values())).target
        where = (kind, place.address, place.name, asana.base_url, target.rpartition("/")[0])
        await anyio.run_process([sys.executable, "-c", WRITER, *where, ours])
        async with WebhooksApi("a-token", base_url=asana.base_url) as api:
            await api.request("PUT", f"/tasks/{theirs}", data={"name": "b"})
        await asana.settled()
        await until(lambda: theirs in seen)
        await eventually(lambda: is_idle(worker))
    assert seen == [theirs]


KILLED = """
import asyncio, sys
from datetime import UTC, datetime
from asana_webhooks import SqliteStore
from asana_webhooks._writes import Writes

async def write() -> None:
    async with SqliteStore(sys.argv[1]) as store:
        writes = Writes(store, lambda: (datetime.now(UTC), datetime.now(UTC)))
        async with writes.note(
            user="8", method="PUT", path="/tasks/5", data={"completed": True}
        ):
            print("written", flush=True)
            await asyncio.sleep(60)

asyncio.run(write())
"""


async def test_event_of_a_call_whose_process_was_killed_is_handed_over_after_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asana_webhooks._echoes.LONGEST_WAIT", 0.2)
    file = tmp_path / "store.db"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    now = datetime.now().astimezone()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    waits, gids = anyio.current_time(), list[str]()

    async def note(event: Event) -> None:
        gids.append(event.resource.gid)

    async with SqliteStore(file) as store:
        await confirm(store, "a")
        user = {"gid": "8", "resource_type": "user"}
        for gid in ("5", "6"):
            event = make_event(field="completed", gid=gid, created_at=now, user=user)
            body = make_delivery("s", event).body
            digest = gid.encode() * 32
            assert await store.put(Delivery(route="a", body=body, digest=digest, received_at=now))
        echoes = Echoes(store, lambda: datetime.now().astimezone(), ping_pong=None)
        async with draining(store, note, echoes=echoes):
            await eventually(lambda: is_empty(store))
    assert gids == ["6", "5"]
    assert anyio.current_time() - waits >= 0.2


@pytest.mark.parametrize("guard", [True, False])
async def test_two_programs_that_answer_each_other_stop(
    make_client: MakeClient,
    asana: AsanaSimulator,
    caplog: pytest.LogCaptureFixture,
    *,
    guard: bool,
) -> None:
    """One completes a task whenever it is not, the other does the opposite."""
    await asana.add_user("Ada", token="ada")
    address = f"http://127.0.0.1:{(port := free_tcp_port())}"
    one = make_client(ping_pong_guard=guard)
    other = WebhooksClient(
        "ada",
        public_url=address,
        port=port,
        store=MemoryStore(),
        base_url=asana.base_url,
        ping_pong_guard=guard,
    )
    flips: list[bool] = []
    for client, wanted in ((one, True), (other, False)):

        @client.on("task", field="completed", name=f"{wanted}")
        async def undo(
            event: Event,
            client: WebhooksClient = client,
            wanted: bool = wanted,  # noqa: FBT001
        ) -> None:
            flips.append(wanted)
            with contextlib.suppress(RuntimeError):  # it ends in the middle, without the guard
                await client.request(
                    "PUT", f"/tasks/{event.resource.gid}", data={"completed": wanted}
                )

    caplog.set_level(logging.WARNING)
    async with running(one, asana.project), running(other, asana.project):
        task = await asana.create_task("Fix the login", project=asana.project)
        await asana.complete_task(task)
        if not guard:
            await until(lambda: len(flips) > 3 * FLIPS)
            return
        await until(lambda: "answer each other" in caplog.text)
        await asana.settled()
        await asyncio.sleep(0.3)
        assert len(flips) <= FLIPS + 1  # the first one changes nothing
        assert "user" in caplog.text
