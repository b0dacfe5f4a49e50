"""``asana-webhooks doctor``: the command, and what it finds of Asana and of real stores."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support.cli_shell import Shell, shell
from support.doctored import Answer, Serve, findings, portal, results, serve, workspaces_of
from support.ports import free_tcp_port
from support.postgres_server import PostgresServer, schema_name
from support.postgres_server import _postgres_server as postgres_server
from support.valkey_server import TO_A_DISK, running_valkey

from asana_webhooks.cli.doctor import checks
from asana_webhooks.cli.doctor.asana import clock_finding
from asana_webhooks.cli.doctor.finding import Finding
from asana_webhooks.cli.doctor.store import store_findings
from asana_webhooks.simulator import Fault
from asana_webhooks.stores.postgres import PostgresStore

__all__ = ["portal", "postgres_server", "serve", "shell"]

NOW = datetime(2026, 7, 4, 10, 11, 12, tzinfo=UTC)


# The command as a whole


def test_all_is_well_with_a_receiver_that_runs(shell: Shell) -> None:
    with shell.portal.wrap_async_context_manager(shell.client()):
        result = shell.run("doctor")
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert [word for word, _ in lines] == ["ok"] * 12
    assert [text.partition(":")[0] for _, text in lines] == [
        *("token", "webhooks", "clock", "public URL", "name", "receiver", "unknown route"),
        *("store", "durability", "handshake", "signature", "large body"),
    ]
    assert "Robin Example 1201" in lines[0][1]
    assert "\x1b" not in result.stdout


def test_what_failed_comes_with_the_next_step_and_status_1(shell: Shell) -> None:
    result = shell.run("doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    place = lines.index("failed   receiver: no answer from there: ConnectError")
    assert "start the receiver (`asana-webhooks serve`)" in lines[place + 1]
    assert lines[-1].startswith("ok       durability")


def test_json_is_a_finding_a_line(shell: Shell) -> None:
    result = shell.run("doctor", "--json", ASANA_WEBHOOKS_PUBLIC_URL=None)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0, "a warning is no failure"
    assert [each["result"] for each in found] == ["ok", "ok", "ok", "warning", "ok", "ok"]
    assert found[3]["check"] == "public URL"
    assert found[3]["next"] == "name it with --public-url or ASANA_WEBHOOKS_PUBLIC_URL"
    assert found[0]["next"] is None


@pytest.mark.parametrize(("no_colour", "is_coloured"), [("", True), ("1", False)])
def test_results_are_coloured_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, no_colour: str, *, is_coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    printed: list[str] = []
    monkeypatch.setattr("click.echo", printed.append)
    checks._print(Finding("x", "failed", "\x1b]0;title", "do"), as_json=False)
    assert ("\x1b[31mfailed" in printed[0]) is is_coloured
    assert "\\x1b]0;title" in printed[0]
    assert printed[1] == "         -> do"
    assert is_coloured or "\x1b" not in printed[0]


# Asana


def asana_results(shell: Shell, **environment: Any) -> dict[str, dict[str, Any]]:
    result = shell.run("doctor", "--json", ASANA_WEBHOOKS_PUBLIC_URL=None, **environment)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return {each["check"]: each for each in found}


def test_without_a_token_nothing_is_asked_of_asana(shell: Shell) -> None:
    found = asana_results(shell, ASANA_ACCESS_TOKEN=None)
    assert found["token"]["result"] == "failed"
    assert "set ASANA_ACCESS_TOKEN" in found["token"]["found"]
    assert {"webhooks", "clock"}.isdisjoint(found)


def test_asana_that_fails_is_told_with_its_status(shell: Shell) -> None:
    shell.asana.faults.add(Fault.UNAVAILABLE)
    found = asana_results(shell)
    assert found["token"]["found"] == "Asana answered 503: no explanation in the body"
    assert found["token"]["next"] == "try again later"
    assert found["webhooks"]["result"] == "failed"


def test_asana_that_does_not_answer_is_told(shell: Shell) -> None:
    found = asana_results(shell, ASANA_BASE_URL=f"http://127.0.0.1:{free_tcp_port()}/api/1.0")
    assert found["token"]["result"] == "failed"
    assert "no answer from 127.0.0.1" in found["token"]["found"]
    assert "clock" not in found


def asana_that_says(status: int, body: Any, **headers: str) -> Answer:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=json.dumps(body).encode(), headers=headers)

    return answer


@pytest.mark.parametrize(
    ("status", "body", "said", "step"),
    [
        pytest.param(
            *(401, {"errors": [{"message": "Not Authorized"}]}),
            *("Asana answered 401: Not Authorized", "check the access token"),
            id="refused",
        ),
        pytest.param(
            *(403, {"errors": [{"message": "Forbidden"}]}),
            *("Asana answered 403: Forbidden", "check the token's scopes"),
            id="forbidden",
        ),
        pytest.param(302, {}, "Asana answered 302", "check base_url", id="redirect"),
        pytest.param(451, {}, "Asana answered 451", "check --base-url", id="other"),
        pytest.param(200, [], "none of Asana's", "check --base-url", id="another server"),
    ],
)
def test_what_asana_says_of_the_token_is_told(
    shell: Shell, serve: Serve, status: int, body: Any, said: str, step: str
) -> None:
    url = f"http://{serve(asana_that_says(status, body))}/api/1.0"
    found = asana_results(shell, ASANA_BASE_URL=url)
    for check in ("token", "webhooks"):
        assert found[check]["result"] == "failed"
        assert said in found[check]["found"]
        assert step in found[check]["next"]


@pytest.mark.parametrize(
    ("lacking", "needed"),
    [
        ("workspaces:read", "webhooks:read, webhooks:write, webhooks:delete, workspaces:read;"),
        ("webhooks:read", "webhooks:read, webhooks:write, webhooks:delete;"),
    ],
)
def test_scopes_that_the_token_lacks_are_named(
    shell: Shell, serve: Serve, lacking: str, needed: str
) -> None:
    said = {"errors": [{"message": f"missing scope {lacking}"}]}
    found = asana_results(
        shell, ASANA_BASE_URL=f"http://{serve(asana_that_says(403, said))}/api/1.0"
    )
    assert found["webhooks"]["result"] == "failed"
    assert found["webhooks"]["found"] == f"the token lacks {lacking}"
    assert f"the scopes {needed}" in found["webhooks"]["next"]


@pytest.mark.parametrize("status", [402, 403, 404])
def test_workspace_that_asana_refuses_to_list_is_a_warning(
    shell: Shell, serve: Serve, status: int
) -> None:
    host = serve(workspaces_of({"1": status, "2": []}))
    found = asana_results(shell, ASANA_BASE_URL=f"http://{host}/api/1.0")
    assert found["webhooks"]["result"] == "warning"
    assert found["webhooks"]["found"].endswith(f"1: Asana answered {status}: Not for you")


def test_workspaces_that_are_all_refused_are_a_failure(shell: Shell, serve: Serve) -> None:
    host = serve(workspaces_of({"1": 402, "2": 402}))
    found = asana_results(shell, ASANA_BASE_URL=f"http://{host}/api/1.0")
    assert found["webhooks"]["result"] == "failed"
    assert found["webhooks"]["found"] == "Asana answered 402: Not for you"


def test_token_that_may_not_tell_whose_it_is_is_good(shell: Shell, serve: Serve) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/me"):
            said = {"errors": [{"message": "missing scope users:read"}]}
            return web.json_response(said, status=403)
        return web.json_response({"data": [{"gid": "1"}]})

    found = asana_results(shell, ASANA_BASE_URL=f"http://{serve(answer)}/api/1.0")
    assert [found[check]["result"] for check in ("token", "webhooks", "clock")] == ["ok"] * 3
    assert "users:read" in found["token"]["found"]


def test_base_url_that_is_none_is_not_the_tokens_fault(shell: Shell) -> None:
    found = asana_results(shell, ASANA_BASE_URL="asana.com")
    assert found["base URL"]["result"] == "failed"
    assert "check --base-url" in found["base URL"]["next"]
    assert "token" not in found


def test_login_that_cannot_be_read_is_not_the_networks_fault(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "login.json"
    file.write_text("no token")
    found = asana_results(
        shell,
        ASANA_ACCESS_TOKEN=None,
        ASANA_CLIENT_ID="id",
        ASANA_WEBHOOKS_LOGIN_FILE=str(file),
    )
    assert "delete it and log in again" in found["token"]["found"]
    assert found["token"]["next"] == "or set ASANA_ACCESS_TOKEN"


@pytest.mark.parametrize(
    ("data", "name"), [([], "somebody's"), ({}, "somebody's"), ({"gid": "7"}, "7's")]
)
def test_token_of_a_user_without_workspaces_is_a_warning(
    shell: Shell, serve: Serve, data: Any, name: str
) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.json_response({"data": data if request.path.endswith("/me") else []})

    found = asana_results(shell, ASANA_BASE_URL=f"http://{serve(answer)}/api/1.0")
    assert found["token"]["found"] == f"it is {name}"
    assert found["webhooks"]["found"] == "the token sees no workspace"


@pytest.mark.parametrize(
    ("seconds", "result", "said"),
    [
        (0, "ok", "0 s behind"),
        (-59, "ok", "59 s behind"),
        (90, "warning", "90 s ahead of"),
        (-90, "warning", "90 s behind"),
        (4_000, "failed", "4000 s ahead of"),
    ],
)
def test_clock_is_compared_with_asanas(seconds: float, result: str, said: str) -> None:
    date = format_datetime(NOW - timedelta(seconds=seconds), usegmt=True)
    found = clock_finding(date, NOW)
    assert (found.result, found.found) == (result, f"{said} Asana's")


def test_clock_of_an_answer_without_a_readable_date_is_a_warning() -> None:
    assert clock_finding("yesterday", NOW).result == "warning"


# The store


def test_file_that_there_is_not_yet_is_tried_beside_it_and_not_made(shell: Shell) -> None:
    url = f"sqlite:///{shell.file}"
    before = sorted(shell.file.parent.iterdir())
    found = findings(store_findings(url))
    assert results(found) == {"store": "ok", "durability": "ok"}
    assert "there is no file yet" in found["store"].found
    assert "synchronous=FULL" in found["durability"].found
    assert sorted(shell.file.parent.iterdir()) == before


def test_file_that_is_there_is_opened_and_nothing_is_left_in_it(shell: Shell) -> None:
    assert shell.routes() == []  # makes it
    found = findings(store_findings(f"sqlite:///{shell.file}"))
    assert found["store"].found == "it opens, and takes what is written"
    assert shell.routes() == []


def test_store_in_memory_is_a_warning() -> None:
    assert results(findings(store_findings("memory:"))) == {"store": "ok", "durability": "warning"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://h/d", "store must be"),
        ("sqlite:////nowhere/at/all.db", "check that its directory exists"),
        ("redis://127.0.0.1:9/0", "cannot be reached"),
    ],
)
def test_store_that_does_not_open_fails_with_the_remedy(url: str, said: str) -> None:
    found = findings(store_findings(url))
    assert results(found) == {"store": "failed"}
    assert said in found["store"].found


@pytest.mark.servers
def test_redis_that_keeps_what_it_is_given_is_well() -> None:
    with running_valkey(*TO_A_DISK) as server:
        found = findings(store_findings(server.url))
    assert results(found) == {"store": "ok", "durability": "ok"}
    assert "appendfsync everysec may lose two seconds" in found["durability"].found


@pytest.mark.servers
def test_redis_that_evicts_or_forgets_is_a_warning_in_its_stores_words() -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", "--save", "")
    with running_valkey(*options) as server:
        found = findings(store_findings(server.url))
    assert results(found) == {"store": "ok", "durability": "warning"}
    assert "evicts keys (maxmemory-policy allkeys-lru)" in found["durability"].found
    assert "keeps no append-only file" in found["durability"].found


@pytest.mark.servers
def test_redis_without_the_command_config_is_judged_all_the_same() -> None:
    with running_valkey("--rename-command", "CONFIG", "") as server:
        found = findings(store_findings(server.url))
    assert results(found) == {"store": "ok", "durability": "warning"}
    assert "keeps no append-only file" in found["durability"].found


@pytest.mark.parametrize(("commit", "result"), [("on", "ok"), ("off", "warning")])
def test_postgres_is_judged_by_its_synchronous_commit(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, commit: str, result: str
) -> None:
    url = f"{postgres_server.dsn}?options=-c%20synchronous_commit%3D{commit}"
    monkeypatch.setattr(
        "asana_webhooks.cli.doctor.store.open_store",
        lambda url: PostgresStore(url, schema=schema_name()),
    )
    found = findings(store_findings(url))
    assert results(found) == {"store": "ok", "durability": result}
    assert ("synchronous_commit is off" in found["durability"].found) is (commit == "off")
