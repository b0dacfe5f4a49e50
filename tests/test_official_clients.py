"""Asana's own clients, for Python and Node.js, against the local Asana; only the host is another.

The receiver is the standard library's server, and the signatures are checked with its hmac alone.
"""

import hashlib
import hmac
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import asana as official
import pytest
from asana.rest import ApiException
from conftest import guard, until

from asana_webhooks.simulator import AsanaSimulator

SCRIPT = Path(__file__).with_name("support") / "official_client.js"


class Receiver(http.server.ThreadingHTTPServer):
    """Answers handshakes, and keeps what is signed as it should be."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.secrets: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.forged = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/asana?app=1"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        secret = self.headers["X-Hook-Secret"]
        if secret:
            self.server.secrets[self.path] = secret
        else:
            self.keep(body, self.headers["X-Hook-Signature"])
        self.send_response(200)
        if secret:
            self.send_header("X-Hook-Secret", secret)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def keep(self, body: bytes, signature: str) -> None:
        secret = self.server.secrets[self.path].encode()
        expected = hmac.new(secret, body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(signature, expected):
            self.server.forged += 1
            return
        events = json.loads(body)["events"]
        self.server.events += events
        self.server.heartbeats += not events

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()
    assert receiver.forged == 0


@pytest.fixture
async def client(asana: AsanaSimulator) -> AsyncIterator[official.ApiClient]:
    configuration = official.Configuration()
    configuration.host = asana.base_url
    configuration.access_token = "a-token"
    client = official.ApiClient(configuration)
    yield client
    client.rest_client.pool_manager.clear()


def asked(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wait in a thread for a call of the official client, which blocks."""
    return anyio.to_thread.run_sync(lambda: call(*args, **kwargs))


def says(event: dict[str, Any]) -> tuple[str, str, str | None]:
    change = event.get("change") or {}
    parent = event["parent"] or {}
    kind = event["resource"]["resource_type"]
    return event["action"], kind, change.get("field") or parent.get("resource_type")


async def test_python_client_lives_through_the_life_of_a_webhook(
    asana: AsanaSimulator, client: official.ApiClient, receiver: Receiver
) -> None:
    webhooks = official.WebhooksApi(client)
    body = {"data": {"resource": asana.project, "target": receiver.url}}
    created = await asked(webhooks.create_webhook, body, {}, full_payload=True)
    webhook = created["data"]["gid"]
    assert receiver.secrets == {"/asana?app=1": created["X-Hook-Secret"]}
    await until(lambda: receiver.heartbeats == 1)
    with pytest.raises(ApiException) as refused:
        await asked(webhooks.create_webhook, body, {})
    assert refused.value.status == 403

    listed = await asked(lambda: list(webhooks.get_webhooks("1331", {"opt_fields": "target"})))
    assert listed == [{"gid": webhook, "target": receiver.url}]
    shown = await asked(webhooks.get_webhook, webhook, {})
    assert shown["resource"]["name"] == "Bugs"
    filters = [{"resource_type": "task", "action": "deleted"}]
    changed = await asked(webhooks.update_webhook, {"data": {"filters": filters}}, webhook, {})
    assert changed["filters"][0]["action"] == "deleted"

    assert await asked(webhooks.delete_webhook, webhook) == {}
    with pytest.raises(ApiException) as gone:
        await asked(webhooks.get_webhook, webhook, {})
    assert gone.value.status == 404


async def test_python_client_works_and_the_receiver_is_told(
    asana: AsanaSimulator, client: official.ApiClient, receiver: Receiver
) -> None:
    body = {"data": {"resource": asana.project, "target": receiver.url}}
    await asked(official.WebhooksApi(client).create_webhook, body, {})
    tasks, stories = official.TasksApi(client), official.StoriesApi(client)
    data = {"name": "From Python", "projects": [asana.project]}
    task = (await asked(tasks.create_task, {"data": data}, {}))["gid"]
    await asked(tasks.update_task, {"data": {"completed": True}}, task, {})
    comment = {"data": {"text": "Hello"}}
    story = await asked(stories.create_story_for_task, comment, task, {})
    assert story["resource_subtype"] == "comment_added"
    found = await asked(lambda: list(tasks.get_tasks_for_project(asana.project, {"limit": 1})))
    assert [each["gid"] for each in found] == ["1301", "1302", "1303", task]
    assert await asked(tasks.delete_task, task) == {}
    await asana.settled()
    await until(lambda: len(receiver.events) == 6)
    assert [says(event) for event in receiver.events] == [
        ("added", "task", "project"),
        ("added", "task", "section"),
        ("changed", "task", "completed"),
        ("changed", "task", "completed_at"),
        ("added", "story", "task"),
        ("deleted", "task", None),
    ]


async def test_python_client_reads_the_stream_of_events(
    asana: AsanaSimulator, client: official.ApiClient
) -> None:
    events = official.EventsApi(client)
    # Without a token the client is answered 412, takes the token from there and asks again.
    assert await asked(lambda: list(events.get_events(asana.project, {}))) == []
    with pytest.raises(ApiException) as first:
        await asked(events.get_events, asana.project, {}, full_payload=True)
    assert first.value.status == 412
    sync = json.loads(first.value.body)["sync"]
    await asana.complete_task("1301")
    listed = await asked(lambda: list(events.get_events(asana.project, {"sync": sync})))
    assert [says(event)[2] for event in listed] == ["completed", "completed_at"]
    assert listed[0]["resource"]["name"] == "The login forgets its visitors"


async def test_python_client_reads_long_streams_in_pages(
    asana: AsanaSimulator, client: official.ApiClient
) -> None:
    events = official.EventsApi(client)
    with pytest.raises(ApiException) as first:
        await asked(events.get_events, asana.project, {}, full_payload=True)
    sync = json.loads(first.value.body)["sync"]
    for number in range(60):
        await asana.create_task(f"Task {number}", project=asana.project)
    pages = []
    for more in (True, False):
        page = await asked(events.get_events, asana.project, {"sync": sync}, full_payload=True)
        assert page["has_more"] is more
        pages.append(page["data"])
        sync = page["sync"]
    assert [len(page) for page in pages] == [100, 20]
    assert pages[0][0]["resource"]["name"] == "Task 0"


async def test_python_client_manages_projects_and_what_is_in_them(
    asana: AsanaSimulator, client: official.ApiClient
) -> None:
    projects, sections = official.ProjectsApi(client), official.SectionsApi(client)
    tasks, tags = official.TasksApi(client), official.TagsApi(client)
    data = {"data": {"name": "Website"}}
    project = (await asked(projects.create_project_for_workspace, data, "1331", {}))["gid"]
    body = {"body": {"data": {"name": "Doing"}}}
    section = (await asked(sections.create_section_for_project, project, body))["gid"]
    tag = (await asked(tags.create_tag_for_workspace, {"data": {"name": "hot"}}, "1331", {}))["gid"]
    await asked(tasks.add_tag_for_task, {"data": {"tag": tag}}, "1301")
    await asked(sections.add_task_for_section, section, {"body": {"data": {"task": "1301"}}})
    part = await asked(tasks.create_subtask_for_task, {"data": {"name": "Part"}}, "1301", {})
    shown = await asked(tasks.get_task, "1301", {"opt_fields": "projects.name,tags.name"})
    assert [each["name"] for each in shown["projects"]] == ["Bugs", "Website"]
    assert [each["name"] for each in shown["tags"]] == ["hot"]
    subtasks = await asked(lambda: list(tasks.get_subtasks_for_task("1301", {})))
    assert [each["gid"] for each in subtasks] == [part["gid"]]
    await asked(tasks.remove_project_for_task, {"data": {"project": asana.project}}, "1301")
    names = await asked(lambda: list(projects.get_projects_for_task("1301", {})))
    assert [each["name"] for each in names] == ["Website"]
    await asked(projects.update_project, {"data": {"archived": True}}, project, {})
    assert await asked(projects.delete_project, project) == {}
    users = await asked(lambda: list(official.UsersApi(client).get_users({"workspace": "1331"})))
    assert [each["name"] for each in users] == ["Robin Example", "Sam Example"]
    teams = official.TeamsApi(client)
    found = await asked(lambda: list(teams.get_teams_for_workspace("1331", {})))
    assert [each["name"] for each in found] == ["Engineering"]
    spaces = await asked(lambda: list(official.WorkspacesApi(client).get_workspaces({})))
    assert [each["gid"] for each in spaces] == ["1331"]


def installed(folder: Path) -> Path:
    """Install Asana's package for Node.js, and return the script beside it."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed on this machine")
    options = ["--no-audit", "--no-fund", "--no-save", "--loglevel=error", "--fetch-timeout=20000"]
    retries = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000"]
    command = ["npm", "install", *options, *retries, "asana@3"]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, check=True, timeout=80)
    except subprocess.SubprocessError as error:
        pytest.skip(f"npm cannot install the package asana: {type(error).__name__}")
    return Path(shutil.copy(SCRIPT, folder))


@pytest.mark.slow  # npm installs the client
async def test_node_client_lives_through_the_life_of_a_webhook(
    asana: AsanaSimulator, receiver: Receiver, tmp_path: Path
) -> None:
    script = await anyio.to_thread.run_sync(installed, tmp_path)
    with guard():
        done = await anyio.run_process(
            ["node", str(script), asana.base_url, receiver.url], cwd=tmp_path, check=False
        )
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout)
    await asana.settled()
    await until(lambda: len(receiver.events) == 6)
    assert seen.pop("secret") == receiver.secrets["/asana?app=1"]
    duplicate = seen.pop("duplicate")
    assert duplicate["status"] == 403
    assert duplicate["body"]["errors"][0]["message"].startswith("Duplicated webhook.")
    [listed] = seen.pop("listed")
    assert (listed["active"], listed["target"]) == (True, receiver.url)
    assert seen == {
        "firstStatus": 412,
        "status": 201,
        "filters": [
            {"resource_type": None, "resource_subtype": None, "action": "added", "fields": None}
        ],
        "next": {"data": None},
        "found": True,
        "changed": [],
        "story": "Hello",
        "tasks": [3, 1],
        "gone": 404,
        "events": [
            ["added", "task"],
            ["added", "task"],
            ["changed", "task"],
            ["changed", "task"],
            ["added", "story"],
            ["deleted", "task"],
        ],
        "user": "Robin Example",
        "deleted": {},
        "left": 1,
    }
    assert [says(event)[:2] for event in receiver.events] == [
        tuple(each) for each in seen["events"]
    ]
    assert set(receiver.secrets) == {"/asana?app=1", "/asana?app=1&spare"}
