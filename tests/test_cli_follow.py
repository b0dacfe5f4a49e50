"""``asana-webhooks follow`` and ``accounts``: many projects and users, by hand."""

from __future__ import annotations

import sys

import pytest
from support.cli_shell import Shell, shell

from asana_webhooks.cli import follow

__all__ = ["shell"]


def watched(shell: Shell) -> set[str]:
    return {each.resource for each in shell.asana.webhooks.values()}


def project(shell: Shell, name: str) -> str:
    return shell.portal.call(shell.asana.create_project, name)


def run(shell: Shell, *options: str) -> str:
    workspace, port = shell.asana.workspace, str(shell.port)
    result = shell.run("follow", workspace, "--port", port, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_each_project_of_a_workspace_gets_a_webhook(shell: Shell) -> None:
    other = project(shell, "Features")
    assert run(shell, "--filter", "task") == "2 of 2 projects have their webhook\n"
    assert watched(shell) == {shell.asana.project, other, shell.asana.workspace}
    filters = [each.filters for each in shell.asana.webhooks.values() if each.resource == other]
    assert [[item["resource_type"] for item in each] for each in filters] == [["task"]]


def test_those_that_do_not_fit_any_longer_are_left(shell: Shell) -> None:
    other = project(shell, "Features")
    run(shell)
    assert run(shell, "--where", "name=Features") == "1 of 1 projects have their webhook\n"
    assert watched(shell) == {other, shell.asana.workspace}
    assert run(shell, "--where", "archived=true", "--json") == '{"projects": 0, "webhooks": 0}\n'
    assert watched(shell) == {shell.asana.workspace}


def test_digits_are_a_name_or_a_gid(shell: Shell) -> None:
    other = project(shell, "2026")
    assert run(shell, "--where", "name=2026") == "1 of 1 projects have their webhook\n"
    workspace = f"workspace.gid={shell.asana.workspace}"
    assert run(shell, "--where", workspace) == "2 of 2 projects have their webhook\n"
    assert other in watched(shell)


def test_choice_that_no_project_fits_is_said(shell: Shell) -> None:
    assert run(shell, "--where", "name=Nothing") == "no project fits: nothing is followed now\n"


def test_record_in_place_of_its_gid_is_refused(shell: Shell) -> None:
    line = shell.failure("follow", "12", "--where", "team=1204619", "--port", str(shell.port))
    assert "did you mean 'team.gid'?" in line


@pytest.mark.parametrize("where", ["archived", "=false"])
def test_what_is_no_field_and_value_is_refused(shell: Shell, where: str) -> None:
    line = shell.failure("follow", "12", "--where", where, status=2)
    assert "it must be FIELD=VALUE" in line


def test_what_is_no_container_is_said(shell: Shell) -> None:
    line = shell.failure("follow", shell.asana.project, "--port", str(shell.port))
    assert "no workspace, team or portfolio" in line


def test_bar_shows_how_far_it_has_come(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with follow._bar() as show:
        show(0, 0)
        show(3, 4)
    assert "3/4" in capsys.readouterr().err


def test_accounts_are_listed_with_their_webhooks(shell: Shell) -> None:
    port = str(shell.port)
    shell.establish()
    shell.lines("ensure", shell.asana.project, "--port", port, "--account", "acme")
    run(shell, "--account", "globex")
    assert {route.account for route in shell.routes()} == {"", "acme", "globex"}
    records = shell.records("accounts")
    assert [(each["account"], each["webhooks"]) for each in records] == [
        ("", 1),
        ("acme", 1),
        ("globex", 2),
    ]
    header, *lines = shell.lines("accounts")
    assert header.split()[:3] == ["account", "webhooks", "leaving"]
    assert len(lines) == 3


def test_store_without_accounts_says_so(shell: Shell) -> None:
    shell.establish()
    shell.lines("delete", next(iter(shell.asana.webhooks)), "--yes")
    assert "no accounts" in shell.run("accounts").stderr
