"""``asana-webhooks list``: what Asana says, and what the store holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.cli_shell import Shell, shell
from support.doctored import Serve, portal, serve, workspaces_of

from asana_webhooks.simulator import Fault

__all__ = ["portal", "serve", "shell"]

HEADER = ["gid", "resource", "name", "active", "last success", "retries", "deletion", "secret"]


def columns(lines: list[str]) -> list[list[str]]:
    """Return the cells of lines that print_records printed as columns."""
    starts = [lines[0].index(name) for name in HEADER]
    return [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        for line in lines
    ]


def test_list_shows_health_and_whose_secret_is_held(shell: Shell) -> None:
    well = shell.establish_and_settle(f"sqlite:///{shell.file}")
    ill = shell.establish_and_settle(f"sqlite:///{shell.file}.other")
    now = datetime.now(UTC)
    shell.record(well).last_success_at = now - timedelta(hours=1, minutes=2)
    record = shell.record(ill)
    record.last_success_at, record.delivery_retry_count = None, 3
    record.failure_deletion_timestamp = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
    result = shell.run("list")
    header, first, second = columns(result.stdout.splitlines())
    assert header == HEADER
    assert first[:4] == [well, shell.asana.project, "Bugs", "yes"]
    assert first[4].startswith("1:02:0")
    assert first[5:] == ["0", "-", "yes"]
    assert second == [
        *(ill, shell.asana.project, "Bugs", "yes", "-", "3", "2031-02-03 04:05:06", "no")
    ]
    assert [secret for secret in shell.secrets() if secret in result.output] == []


def test_list_as_json_is_a_record_a_line(shell: Shell) -> None:
    gid = shell.establish("--filter", "task")
    other = shell.establish("--store", f"sqlite:///{shell.file}.other")
    record, foreign = shell.records("list")
    assert (record["gid"], record["secret_held"]) == (gid, True)
    assert (foreign["gid"], foreign["secret_held"]) == (other, False)
    assert record["resource"]["name"] == "Bugs"
    assert record["filters"] == [{"resource_type": "task"}]
    assert not any(secret in str(record) for secret in shell.secrets())


def test_list_is_of_one_workspace_and_one_resource_if_asked(shell: Shell) -> None:
    gid = shell.establish()
    one = ("list", shell.asana.workspace, "--resource", shell.asana.project)
    assert [record["gid"] for record in shell.records(*one)] == [gid]
    assert shell.records("list", "--resource", "1400") == []
    assert "404" in shell.failure("list", "9")


def test_list_without_webhooks_says_so_and_makes_no_store(shell: Shell) -> None:
    result = shell.run("list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no webhooks\n")
    assert not shell.file.exists()


@pytest.mark.parametrize(
    "command",
    [["list"], ["show", "GID"], ["update", "GID", "--no-filters"], ["delete", "GID", "--yes"]],
    ids=lambda command: command[0],
)
def test_store_that_is_named_and_not_there_is_told(shell: Shell, command: list[str]) -> None:
    gid = shell.establish()
    missing = f"sqlite:///{shell.file}.none"
    arguments = [gid if each == "GID" else each for each in command]
    said = shell.failure(*arguments, "--store", missing)
    assert f"there is no store at {missing}: name the one that the receivers use" in said
    assert [*shell.asana.webhooks] == [gid]


def test_list_waits_where_asana_limits_the_rate(shell: Shell) -> None:
    gid = shell.establish()
    shell.asana.faults.add(Fault.RATE_LIMITED)
    assert [record["gid"] for record in shell.records("list")] == [gid]


def test_store_that_does_not_open_is_one_line(shell: Shell) -> None:
    shell.establish()
    shell.file.write_text("this is a text, and no database, however long one makes it")
    assert "is not a SQLite database" in shell.failure("list")


def webhook(gid: str, target: str = "https://h.example/a") -> dict[str, Any]:
    return {"gid": gid, "target": target, "resource": {"gid": "7"}, "active": True}


@pytest.mark.parametrize("status", [402, 403, 404])
def test_workspace_that_asana_refuses_to_list_is_named_and_left_out(
    shell: Shell, serve: Serve, status: int
) -> None:
    host = serve(workspaces_of({"1": [webhook("11")], "2": status, "3": [webhook("33")]}))
    result = shell.run("list", "--json", ASANA_BASE_URL=f"http://{host}/api/1.0")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["gid"] for line in result.stdout.splitlines()] == ["11", "33"]
    [line] = [line for line in result.stderr.splitlines() if "workspace" in line and "2" in line]
    assert line.startswith(f"Warning: workspace 2 is left out: Asana answered {status}")


def test_refusal_is_the_error_where_nothing_else_was_found(shell: Shell, serve: Serve) -> None:
    host = serve(workspaces_of({"1": [], "2": 402}))
    result = shell.run("list", ASANA_BASE_URL=f"http://{host}/api/1.0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("Error: Asana answered 402: Not for you")


def test_odd_record_costs_that_record(shell: Shell, serve: Serve) -> None:
    odd = {"gid": 7, "target": []}
    host = serve(workspaces_of({"1": [odd, webhook("11", "https://[h.example/a"), webhook("12")]}))
    lines = shell.lines("list", "--json", ASANA_BASE_URL=f"http://{host}/api/1.0")
    assert [(json.loads(line)["gid"], json.loads(line)["target"]) for line in lines] == [
        ("11", "no URL"),
        ("12", "https://h.example/a"),
    ]
