"""``asana-webhooks simulate``: the local Asana as a process, and what it tells."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from support.plain_http import NO_TLS
from support.simulated import simulated
from support.target import Target

from asana_webhooks.cli.app import cli
from asana_webhooks.cli.simulate import describe, read_tables
from asana_webhooks.simulator import Attempt, Call, Fault, Handshake, faults
from asana_webhooks.simulator.observers import Traffic

pytestmark = pytest.mark.slow

TOKEN = "a-token-that-nobody-shall-see"


def api_at(base_url: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.Client(base_url=base_url, headers=headers, trust_env=False)


def create(base_url: str, target: str) -> httpx.Response:
    with api_at(base_url) as api:
        fields = {"data": {"resource": "8675309", "target": target}}
        return api.post("/webhooks", json=fields)


# As users run it


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
    ids=["told", "Ctrl-C", "terminal closed"],
)
def test_first_line_is_the_base_url_and_a_signal_ends_it(number: int) -> None:
    with simulated() as asana:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/api/1\.0", asana.base_url)
        with api_at(asana.base_url) as api:
            assert api.get("/projects/8675309").json()["data"]["name"] == "Bugs"
        status, out, err = asana.end(number)
    assert (status, out) == (0, "")
    assert "Traceback" not in err


def test_what_it_holds_and_how_to_use_it_is_told() -> None:
    with simulated("--fault", "duplicate", "--fault", "slow-201") as asana:
        _, _, err = asana.end()
    for held in ("1331     example.com", "8675309  Bugs", "1201     Robin", "1301     The login"):
        assert held in err
    assert f"export ASANA_BASE_URL={asana.base_url}\n" in err
    assert "export ASANA_ACCESS_TOKEN=anything\n" in err
    assert "Faults: duplicate, slow-201\n" in err


def test_user_with_a_token_is_another_than_the_others() -> None:
    with simulated("--user", "Kim Example=kims-token") as asana:
        names = []
        for token in ("kims-token", "any"):
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=asana.base_url, headers=headers, trust_env=False) as api:
                names.append(api.get("/users/me").json()["data"]["name"])
    assert names == ["Kim Example", "Robin Example"]


@pytest.mark.parametrize("users", [["Kim"], ["=token"], ["Kim="], ["Kim=same", "Lee=same"]])
def test_user_without_a_token_of_its_own_is_refused(users: list[str]) -> None:
    arguments = [word for user in users for word in ("--user", user)]
    result = CliRunner().invoke(cli, ["simulate", *arguments])
    assert result.exit_code == 2
    assert "write NAME=TOKEN" in result.output


def test_file_is_planted_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "world.json"
    path.write_text('{"projects": [{"name": "Launch"}]}')
    with simulated("--seed", str(path)) as asana, api_at(asana.base_url) as api:
        projects = api.get("/projects", params={"workspace": "1331"}).json()["data"]
    assert [each["name"] for each in projects] == ["Bugs", "Launch"]
    path.write_text('{"songs": []}')
    result = CliRunner().invoke(cli, ["simulate", "--seed", str(path)])
    assert (result.exit_code, "unknown field `songs`" in result.output) == (2, True)


def test_with_tls_the_base_url_is_https_and_the_written_authority_vouches(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    with simulated("--tls", "--ca-file", str(path)) as asana:
        assert re.fullmatch(r"https://127\.0\.0\.1:\d+/api/1\.0", asana.base_url)
        trusting = ssl.create_default_context(cafile=path)
        headers = {"Authorization": f"Bearer {TOKEN}", "Host": "app.asana.com"}
        query = {"project": "8675309", "limit": "1"}
        with httpx.Client(verify=trusting, headers=headers, trust_env=False) as api:
            page = api.get(f"{asana.base_url}/tasks", params=query).json()["next_page"]
        status, _, err = asana.end()
    assert page["uri"].startswith("https://app.asana.com/api/1.0/tasks?")
    assert status == 0
    assert f"export SSL_CERT_FILE={path} CURL_CA_BUNDLE={path}\n" in err


def test_authority_is_written_to_a_folder_that_goes_in_the_end() -> None:
    with simulated("--tls") as asana:
        _, _, err = asana.end()
    found = re.search(r"export SSL_CERT_FILE=(\S+) ", err)
    assert found is not None
    assert not Path(found[1]).parent.exists()


def test_printed_line_for_the_shell_lets_time_pass() -> None:
    with simulated() as asana:
        with httpx.Client(trust_env=False) as http:
            url = f"{asana.origin}/-/control/advance"
            assert http.post(url, content=b'{"hours": 8}').status_code == 200
        _, _, err = asana.end()
    assert f"""curl -d '{{"hours": 8}}' {url}\n""" in err


async def test_each_call_handshake_and_delivery_is_a_line_without_secrets() -> None:
    async with Target() as target:
        route = "a-route-that-nobody-shall-see"
        with simulated("--retry-delay", "0.01", "--gather-for", "0") as asana:
            async with httpx.AsyncClient(
                verify=NO_TLS, base_url=asana.base_url, headers={"Authorization": f"Bearer {TOKEN}"}
            ) as api:
                target.statuses.extend([200, 503])
                fields = {"resource": "8675309", "target": f"{target.url}/{route}"}
                created = (await api.post("/webhooks", json={"data": fields})).json()
                await api.put("/tasks/1301?opt_fields=name", json={"data": {"completed": True}})
                await api.post(f"{asana.origin}/-/control/settled")
            status, _, err = asana.end()
    lines = [line.partition("  ")[2] for line in err.splitlines() if re.match(r"\d\d-\d\d ", line)]
    gid = created["data"]["gid"]
    events = "task 1301 changed completed, task 1301 changed completed_at"
    assert status == 0
    assert [line for line in lines if line.startswith("handshake")] == [
        "handshake  for a webhook on 8675309 -> 200, the secret came back"
    ]
    assert [line for line in lines if line.startswith("call")] == [
        "call       POST /api/1.0/webhooks -> 201",
        "call       PUT /api/1.0/tasks/1301 -> 200",
        "call       POST /-/control/settled -> 200",
    ]
    assert [line for line in lines if line.startswith("delivery")] == [
        f"delivery   to webhook {gid}: heartbeat -> 200",
        f"delivery   to webhook {gid}: {events} -> 503",
        f"delivery   to webhook {gid}: {events} -> 200 (attempt 2)",
    ]
    for hidden in (TOKEN, route, created["X-Hook-Secret"]):
        assert hidden not in err


def test_quiet_leaves_out_what_happens() -> None:
    with simulated("--quiet") as asana:
        assert create(asana.base_url, "http://127.0.0.1:9/").status_code == 400
        _, _, err = asana.end()
    assert "8675309  Bugs" in err
    assert "handshake" not in err
    assert "POST" not in err


def test_it_goes_on_when_nobody_reads_what_it_tells() -> None:
    with simulated() as asana:
        assert asana.process.stderr is not None
        asana.process.stderr.close()
        asana.process.stderr = None
        with api_at(asana.base_url) as api:
            assert [api.get("/users/me").status_code for _ in range(3)] == [200] * 3
        asana.process.send_signal(signal.SIGTERM)
        asana.process.wait(timeout=20)


def test_it_delivers_to_this_machine_only_unless_told_otherwise() -> None:
    target = "http://nowhere.invalid/hook"
    with simulated("--quiet") as asana:
        assert "only if allow_hosts has it" in create(asana.base_url, target).text
    with simulated("--quiet", "--allow-host", "nowhere.invalid", "--allow-host", "b.c") as asana:
        assert "did not respond with the handshake secret" in create(asana.base_url, target).text


def test_calls_beyond_the_rate_limit_are_refused() -> None:
    with simulated("--quiet", "--rate-limit", "2") as asana, api_at(asana.base_url) as api:
        assert [api.get("/users/me").status_code for _ in range(3)] == [200, 200, 429]


def test_calls_at_once_beyond_the_limits_are_refused() -> None:
    options = ("--concurrent-gets", "1", "--concurrent-writes", "1", "--retry-after", "7")
    faults = ("--fault", "slow-stream", "--fault", "slow-handshake")
    with simulated("--quiet", *options, *faults) as asana, api_at(asana.base_url) as api:

        def read() -> httpx.Response:
            with api_at(asana.base_url) as other:
                return other.get("/events", params={"resource": "8675309"})

        def write() -> httpx.Response:
            return create(asana.base_url, "http://127.0.0.1:9/")

        with ThreadPoolExecutor() as pool:
            reading = pool.submit(until_it_is, lambda status: status != 429, read)
            refused = until_it_is(lambda status: status == 429, lambda: api.get("/users/me"))
            assert refused.headers["Retry-After"] == "7"
            tag = {"data": {"workspace": "1331"}}
            assert api.post("/tags", json=tag).status_code == 201
            writing = pool.submit(until_it_is, lambda status: status != 429, write)
            until_it_is(lambda status: status == 429, lambda: api.post("/tags", json=tag))
            both = ["slow-stream", "slow-handshake"]
            httpx.post(f"{asana.origin}/-/control/faults", json={"off": both})
            assert (reading.result().status_code, writing.result().status_code) == (412, 400)


def until_it_is(right: Callable[[int], bool], call: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the first answer with the right status; raises when there is none in ten seconds."""
    deadline = time.monotonic() + 10
    while not right((answer := call()).status_code):
        assert time.monotonic() < deadline
    return answer


def test_it_answers_by_the_names_that_it_is_told() -> None:
    names = ("--host-name", "asana", "--host-name", "Asana.test")
    with simulated("--quiet", *names) as asana, api_at(asana.base_url) as api:
        statuses = {
            name: api.get("/users/me", headers={"Host": name}).status_code
            for name in ("asana:8787", "asana.test", "localhost", "another.test")
        }
    assert statuses == {
        "asana:8787": 200,
        "asana.test": 200,
        "localhost": 200,
        "another.test": 403,
    }


def test_stream_of_events_is_as_late_and_its_tokens_last_as_long_as_it_is_told() -> None:
    options = ("--sync-lasts", "600", "--stream-lag", "60")
    with simulated("--quiet", *options) as asana, api_at(asana.base_url) as api:
        params = {"resource": "8675309"}
        params["sync"] = api.get("/events", params=params).json()["sync"]
        api.put("/tasks/1301", json={"data": {"name": "Late"}})
        assert api.get("/events", params=params).json()["data"] == []
        for minutes, answers in ((2, 1), (9, None)):
            httpx.post(f"{asana.origin}/-/control/advance", json={"minutes": minutes})
            answer = api.get("/events", params=params)
            assert answer.status_code == (200 if answers else 412)
            assert len(answer.json().get("data", [])) == (answers or 0)


async def test_each_event_that_is_dropped_is_a_line() -> None:
    async with Target() as target:
        options = ("--gather-for", "0", "--drop-share", "1", "--fault", "dropped")
        with simulated(*options) as asana:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(base_url=asana.base_url, headers=headers) as api:
                fields = {"data": {"resource": "8675309", "target": target.url}}
                gid = (await api.post("/webhooks", json=fields)).json()["data"]["gid"]
                await api.put("/tasks/1301", json={"data": {"name": "Nobody is told"}})
            _, _, err = asana.end()
    assert f"  dropped    for webhook {gid}: task 1301 changed name\n" in err


def test_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("--port", str(taken.getsockname()[1]))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "address already in use" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# In this process


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["simulate", *arguments])


@pytest.mark.parametrize("quiet", [True, False])
def test_it_runs_until_it_is_told_to_stop(free_port: int, *, quiet: bool) -> None:
    base_url = f"http://127.0.0.1:{free_port}/api/1.0"

    def stop() -> None:
        with api_at(base_url) as api:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    assert api.get("/users/me").status_code == 200
                except httpx.ConnectError:
                    time.sleep(0.01)
                else:
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    stopping = threading.Thread(target=stop)
    stopping.start()
    options = ["--fault", "duplicate", *(["--quiet"] if quiet else [])]
    result = run("--port", str(free_port), *options)
    stopping.join()
    assert result.exit_code == 0
    assert result.stdout == f"{base_url}\n"
    assert ("GET /api/1.0/users/me -> 200" in result.stderr) is not quiet


def test_faults_are_listed_with_what_they_stand_for() -> None:
    result = run("--list-faults")
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert heading.split() == ["name", "what_happens", "what_it_stands_for"]
    assert [line.split()[0] for line in lines] == [fault.value for fault in Fault]
    assert "the target is never called, the create call is answered 400" in lines[0]
    assert "`" not in result.stdout


def test_table_of_faults_explains_each() -> None:
    rows = read_tables(faults.__doc__ or "", "name", "what", "why")
    assert [row["name"] for row in rows] == [*Fault]
    assert all(row["what"] and row["why"] for row in rows)


@pytest.mark.parametrize(
    ("option", "value", "status", "said"),
    [
        pytest.param("--fault", "gremlins", 2, "'gremlins' is not one of", id="fault"),
        pytest.param("--gather-for", "-1", 1, "gather_for must be a number of", id="negative"),
        pytest.param("--retry-delay", "soon", 2, "not a valid float", id="no number"),
        pytest.param("--port", "70000", 2, "not in the range", id="port"),
        pytest.param("--rate-limit", "0", 2, "not in the range", id="limit"),
        pytest.param("--concurrent-gets", "0", 2, "not in the range", id="limit at once"),
        pytest.param("--drop-share", "0", 2, "not in the range", id="share"),
        pytest.param("--sync-lasts", "0", 1, "sync_lasts must be a positive", id="token"),
        pytest.param("--allow-host", "http://h", 1, "host names without scheme", id="host"),
    ],
)
def test_mistake_in_an_option_is_named(option: str, value: str, status: int, said: str) -> None:
    result = run(option, value)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def attempt(*events: Any, status: int | None = 200, number: int = 1) -> Attempt:
    body = json.dumps({"events": events}).encode()
    return Attempt("77", body, "f" * 64, status, "http://the-target" if not status else "", number)


NO_USER = {"action": "added", "resource": {"gid": "1", "resource_type": "task"}, "user": None}


@pytest.mark.parametrize(
    ("traffic", "line"),
    [
        pytest.param(Call("GET", "/x", 404), "call       GET /x -> 404", id="call"),
        pytest.param(
            Handshake("12", 204, echoed=False),
            "handshake  for a webhook on 12 -> 204, no secret",
            id="no echo",
        ),
        pytest.param(
            Handshake("12", None, echoed=False),
            "handshake  for a webhook on 12 -> no answer",
            id="no handshake",
        ),
        pytest.param(
            attempt(status=None, number=3),
            "delivery   to webhook 77: heartbeat -> no answer (attempt 3)",
            id="no answer",
        ),
        pytest.param(
            attempt(*[NO_USER] * 5),
            "delivery   to webhook 77: task 1 added, task 1 added, task 1 added, 2 more -> 200",
            id="many",
        ),
        pytest.param(
            attempt({"resource": 7, "change": {"field": "name"}}),
            "delivery   to webhook 77: something ? ? name -> 200",
            id="no event of Asana's",
        ),
        pytest.param(
            attempt({**NO_USER, "action": "\x1b[31m"}),
            r"delivery   to webhook 77: task 1 \x1b[31m -> 200",
            id="escape",
        ),
    ],
)
def test_traffic_is_described_in_a_line(traffic: Traffic, line: str) -> None:
    assert describe(traffic) == line
