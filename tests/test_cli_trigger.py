"""``asana-webhooks trigger``: events at a local Asana, and deliveries straight to a receiver."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import eventually
from support.cli_serve import Place, Serve, place, serve
from support.simulated import Simulated, simulated
from support.target import Target, new_webhook
from test_serving import ROUTE, SECRET, is_ready

from asana_webhooks import verify_signature
from asana_webhooks.cli.app import cli
from asana_webhooks.cli.trigger import EVENTS, events
from asana_webhooks.cli.trigger.actions import ACTIONS
from asana_webhooks.cli.trigger.bodies import BODIES, EventBuilder, body_of
from asana_webhooks.models import Route
from asana_webhooks.simulator import AsanaSimulator
from asana_webhooks.stores.sqlite import SqliteStore

__all__ = ["place", "serve"]

PROJECT = "8675309"


def run(*arguments: str, **variables: str | None) -> Result:
    known: dict[str, str | None] = {"ASANA_BASE_URL": None, "ASANA_WEBHOOKS_STORE": None}
    return CliRunner().invoke(cli, ["trigger", *arguments], env=known | variables)


def fields(result: Result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    found: dict[str, str] = json.loads(result.stdout)
    return found


# At a local Asana


class Shell:
    """A local Asana, and what happened there since the last look."""

    def __init__(self, process: Simulated) -> None:
        self._base_url = process.base_url
        self.api = httpx.Client(
            base_url=self._base_url, headers={"Authorization": "Bearer t"}, trust_env=False
        )
        self._sync = self.api.get("/events", params={"resource": PROJECT}).json()["sync"]

    def run(self, *arguments: str) -> Result:
        return run(*arguments, ASANA_BASE_URL=self._base_url)

    def events(self) -> list[dict[str, Any]]:
        answer = self.api.get("/events", params={"resource": PROJECT, "sync": self._sync}).json()
        self._sync = answer["sync"]
        found: list[dict[str, Any]] = answer["data"]
        return found

    def said(self) -> list[str]:
        return [say(event) for event in self.events()]

    def new_task(self) -> str:
        fields = {"data": {"name": "Mine", "projects": [PROJECT]}}
        gid: str = self.api.post("/tasks", json=fields).json()["data"]["gid"]
        self.events()
        return gid


def say(event: dict[str, Any]) -> str:
    """Return what an event tells, without gids."""
    text = f"{event['resource']['resource_type']} {event['action']}"
    if event.get("parent"):
        text += f" to {event['parent']['resource_type']}"
    return f"{text}: {event['change']['field']}" if event.get("change") else text


@pytest.fixture(scope="module")
def process() -> Iterator[Simulated]:
    with simulated("--quiet") as process:
        yield process


@pytest.fixture
def shell(process: Simulated) -> Iterator[Shell]:
    shell = Shell(process)
    yield shell
    shell.api.close()


NEW = ["task added to project", "task added to section"]


@pytest.mark.parametrize(
    ("event", "caused"),
    [
        ("task.added", NEW),
        ("task.changed", [*NEW, "task changed: name"]),
        ("task.completed", [*NEW, "task changed: completed", "task changed: completed_at"]),
        ("task.reopened", [*NEW, *["task changed: completed", "task changed: completed_at"] * 2]),
        ("task.assigned", [*NEW, "task changed: assignee"]),
        ("task.removed", [*NEW, "task removed to project", "task removed to section"]),
        ("task.deleted", [*NEW, "task deleted"]),
        ("task.undeleted", [*NEW, "task deleted", "task undeleted"]),
        ("subtask.added", [*NEW, "task added to task"]),
        ("story.added", [*NEW, "story added to task"]),
        ("section.added", ["section added to project"]),
        ("project.changed", ["project changed: notes"]),
    ],
)
def test_event_is_caused_by_what_users_do(shell: Shell, event: str, caused: list[str]) -> None:
    seen = fields(shell.run(event, "--json"))
    assert (seen.pop("event"), seen.pop("project")) == (event, PROJECT)
    events = shell.events()
    assert [say(each) for each in events] == caused
    assert set(seen.values()) <= {each["resource"]["gid"] for each in events}
    assert ("task" in seen) == (event.split(".", maxsplit=1)[0] in ("task", "subtask", "story"))


@pytest.mark.parametrize(
    ("event", "caused"),
    [
        ("task.changed", ["task changed: name"]),
        ("task.completed", ["task changed: completed", "task changed: completed_at"]),
        ("task.assigned", ["task changed: assignee"]),
        ("task.deleted", ["task deleted"]),
        ("story.added", ["story added to task"]),
    ],
)
def test_given_task_is_clicked_on_and_none_created(
    shell: Shell, event: str, caused: list[str]
) -> None:
    task = shell.new_task()
    result = shell.run(event, "--task", task)
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines()][:3] == [
        ["event:", event],
        ["project:", PROJECT],
        ["task:", task],
    ]
    assert shell.said() == caused


def test_same_event_can_be_caused_again(shell: Shell) -> None:
    task = shell.new_task()
    for event in ("task.changed", "task.assigned", "task.undeleted", "task.reopened"):
        for _ in range(2):
            assert shell.run(event, "--task", task).exit_code == 0
            assert shell.said() != []


def test_task_that_was_deleted_comes_back(shell: Shell) -> None:
    task = shell.new_task()
    shell.run("task.deleted", "--task", task)
    shell.events()
    assert shell.run("task.undeleted", "--task", task).exit_code == 0
    assert shell.said() == ["task undeleted"]


def test_completed_task_is_not_completed_again(shell: Shell) -> None:
    task = shell.new_task()
    shell.run("task.completed", "--task", task)
    result = shell.run("task.completed", "--task", task)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"task {task} is completed already" in result.stderr


def test_event_happens_in_the_project_that_is_named(shell: Shell) -> None:
    made = shell.api.post("/projects", json={"data": {"name": "Other", "workspace": "1331"}})
    project = made.json()["data"]["gid"]
    seen = fields(shell.run("task.added", "--project", project, "--json"))
    assert seen["project"] == project
    listed = shell.api.get(f"/projects/{project}/tasks").json()["data"]
    assert [task["gid"] for task in listed] == [seen["task"]]
    assert shell.said() == []


@pytest.mark.parametrize(
    ("event", "options", "said"),
    [
        pytest.param("task.added", ["--project", "1"], "answered 400: projects: [0]", id="project"),
        pytest.param("task.deleted", ["--task", "1"], "answered 404: task: Unknown", id="task"),
        pytest.param("task.undeleted", ["--task", "1"], "never an object", id="never there"),
    ],
)
def test_refusal_of_the_local_asana_is_told(
    shell: Shell, event: str, options: list[str], said: str
) -> None:
    result = shell.run(event, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr


def test_other_refusals_than_unknown_end_an_undeletion(shell: Shell) -> None:
    with simulated("--quiet", "--fault", "rate-limited") as asana:
        result = run("task.undeleted", "--task", "1301", "--base-url", asana.base_url)
    assert result.exit_code == 1
    assert "answered 429: You have made too many requests" in result.stderr


def test_proxy_of_an_answer_in_html_is_no_local_asana() -> None:
    with simulated("--quiet", "--fault", "unavailable") as asana:
        result = run("task.added", "--base-url", asana.base_url)
    assert result.exit_code == 1
    assert "what answered 503 is no local Asana; check --base-url" in result.stderr


def test_nobody_there_is_one_line(free_port: int) -> None:
    result = run("task.added", "--base-url", f"http://127.0.0.1:{free_port}/api/1.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no Asana answers at http://127.0.0.1:{free_port}" in result.stderr
    assert "asana-webhooks simulate" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["task.added"], "no local Asana is named", id="no Asana"),
        pytest.param(
            ["task.added", "--base-url", "https://app.asana.com/api/1.0"],
            "this is no local Asana",
            id="Asana itself",
        ),
        pytest.param(
            ["task.added", "--task", "1", "--base-url", "http://127.0.0.1:9"],
            "leave out --task",
            id="task of its own",
        ),
        pytest.param(["task.added", "--to", "http://h"], "for --deliver", id="to"),
        pytest.param(["task.added", "--resource", "1"], "for --deliver", id="resource"),
        pytest.param(["task.exploded"], "'task.exploded' is not one of", id="event"),
        pytest.param([], "Missing argument 'EVENT'", id="nothing"),
        pytest.param(["task.added", "--deliver", "--to", "h:1"], "must be http://", id="address"),
    ],
)
def test_wrong_call_says_what_to_write(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.split())


def test_events_are_listed() -> None:
    result = run("--list")
    assert result.exit_code == 0
    _, *lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*EVENTS]
    assert "A task is completed." in result.stdout


def test_each_event_has_a_click_and_a_body() -> None:
    assert [*EVENTS] == [*ACTIONS] == [*BODIES]


# Straight to a receiver


@pytest.mark.parametrize("event", EVENTS)
async def test_body_is_as_the_local_asana_posts_it(event: str) -> None:
    async with Target() as target, AsanaSimulator(gather_for=0) as local:
        await new_webhook(local, target.url)
        result = await asyncio.to_thread(run, event, "--base-url", local.base_url)
        assert result.exit_code == 0, result.output
        await local.settled()
        posted = [each for events in target.events for each in events]
    for made in json.loads(body_of(event, EventBuilder(project=PROJECT, task=None)))["events"]:
        alike = next(each for each in posted if say(each) == say(made))
        assert list(made) == list(alike)
        assert made["user"] == alike["user"]
        assert made.get("change") == alike.get("change")
        for name in ("resource", "parent"):
            assert kind(made[name]) == kind(alike[name])


def kind(record: dict[str, Any] | None) -> dict[str, Any] | None:
    return record and {name: value for name, value in record.items() if name != "gid"}


def test_body_names_the_task_that_is_given() -> None:
    (event,) = json.loads(body_of("task.deleted", EventBuilder(project="1", task="42")))["events"]
    assert event["resource"]["gid"] == "42"
    assert event["created_at"].endswith("Z")


class Receiver(http.server.HTTPServer):
    """Keeps what it is posted, and answers with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.posts: list[tuple[str, bytes, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, body, self.headers["X-Hook-Signature"]))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Stored:
    """A store with routes of these resources, whose receiver is at one address."""

    def __init__(self, file: Path) -> None:
        self.url = f"sqlite:///{file}"
        self._file = file
        self.secrets: list[str] = []

    def add(self, resource: str, address: str, *, reserved: bool = False) -> str:
        id_ = f"{len(self.secrets):032}"
        secret = f"{len(self.secrets):064}"
        self.secrets += [id_, secret]

        async def keep() -> None:
            async with SqliteStore(self._file) as store:
                route = Route(id=id_, target=f"{address}/hooks/{id_}", resource=resource)
                await store.reserve(route, ttl=60)
                await store.add_candidate(id_, secret)
                if not reserved:
                    await store.confirm(id_, gid=f"7{resource}", secret=secret)

        asyncio.run(keep())
        return secret

    def run(self, *arguments: str) -> Result:
        return run(*arguments, "--deliver", ASANA_WEBHOOKS_STORE=self.url)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "store.db")


def test_delivery_is_signed_with_the_stored_secret(stored: Stored, receiver: Receiver) -> None:
    secret = stored.add("12", receiver.url)
    result = stored.run("task.added", "--json")
    assert fields(result) == {
        "event": "task.added",
        "webhook": "712",
        "resource": "12",
        "host": f"127.0.0.1:{receiver.server_port}",
        "status": 200,
    }
    ((path, body, signature),) = receiver.posts
    verify_signature(body, signature, secret)
    assert path == f"/hooks/{stored.secrets[0]}"
    assert [event["parent"]["gid"] for event in json.loads(body)["events"]] == ["12", "1400"]
    assert not any(hidden in result.output for hidden in stored.secrets)


def test_receiver_elsewhere_is_given_the_route(stored: Stored, receiver: Receiver) -> None:
    stored.add("12", "https://hooks.example.com")
    receiver.status = 204
    assert stored.run("task.added", "--to", f"{receiver.url}/asana/").exit_code == 0
    assert [path for path, *_ in receiver.posts] == [f"/asana/{stored.secrets[0]}"]


def test_newest_webhook_of_the_resource_is_taken(stored: Stored, receiver: Receiver) -> None:
    for resource in ("12", "13", "13", "14"):
        stored.add(resource, receiver.url)
    assert stored.run("task.added", "--resource", "13", "--project", "99").exit_code == 0
    ((path, body, _),) = receiver.posts
    assert path == f"/hooks/{stored.secrets[4]}"
    assert json.loads(body)["events"][0]["parent"]["gid"] == "99"


def test_webhook_must_be_named_when_there_are_several(stored: Stored, receiver: Receiver) -> None:
    for resource in ("12", "13"):
        stored.add(resource, receiver.url)
    result = stored.run("task.added")
    assert (result.exit_code, receiver.posts) == (2, [])
    assert "--resource: 12, 13" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param([], "no confirmed webhook: check --store", id="any"),
        pytest.param(["--resource", "12"], "no confirmed webhook on 12: check", id="one"),
    ],
)
def test_webhook_that_is_not_confirmed_is_none(
    stored: Stored, receiver: Receiver, options: list[str], said: str
) -> None:
    stored.add("12", receiver.url, reserved=True)
    result = stored.run("task.added", *options)
    assert (result.exit_code, receiver.posts) == (1, [])
    assert said in result.stderr


def test_store_that_is_not_there_is_named_and_not_made(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/wrong.db"
    result = run("task.added", "--deliver", "--store", store)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no store at {store}" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [202, 301, 401, 503])
def test_other_answers_than_success_are_failures(
    stored: Stored, receiver: Receiver, status: int
) -> None:
    stored.add("12", receiver.url)
    receiver.status = status
    result = stored.run("task.added")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"127.0.0.1:{receiver.server_port} answered {status}" in result.stderr


def test_silent_receiver_is_named_without_its_target(
    stored: Stored, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.add("12", f"http://127.0.0.1:{free_port}")
    result = stored.run("task.added")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no answer from 127.0.0.1:{free_port}: ConnectError" in result.stderr

    def post(target: str, body: bytes, signature: str) -> httpx.Response:
        msg = f"cannot reach {target}"
        raise httpx.ConnectError(msg)

    monkeypatch.setattr(events, "_post", post)
    known = {"ASANA_WEBHOOKS_STORE": stored.url}
    result = CliRunner().invoke(cli, ["--debug", "trigger", "task.added", "--deliver"], env=known)
    assert "Traceback" in result.stderr
    assert not any(hidden in result.output for hidden in stored.secrets)


@pytest.mark.slow
async def test_real_receiver_stores_what_it_is_delivered(place: Place, serve: Serve) -> None:
    await place.target()
    serve("--port", str(place.port))
    await eventually(lambda: is_ready(place.port))
    stored = {"ASANA_WEBHOOKS_STORE": place.environment["STORE"]}
    for count in (1, 2):
        result = await asyncio.to_thread(run, "story.added", "--deliver", **stored)
        assert result.exit_code == 0, result.output
        assert await place.waiting() == count
        assert ROUTE not in result.output
        assert SECRET not in result.output
