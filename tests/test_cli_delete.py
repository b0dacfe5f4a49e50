"""``asana-webhooks delete``: webhooks end at Asana, and their routes in the store."""

from __future__ import annotations

from support.cli_shell import Shell, shell

from asana_webhooks.simulator import Fault

__all__ = ["shell"]


def test_delete_ends_webhooks_at_asana_and_retires_their_routes(shell: Shell) -> None:
    ours, other = shell.establish(), shell.establish("--store", f"sqlite:///{shell.file}.other")
    assert shell.lines("delete", ours, other, "77", "--yes") == [
        f"{ours} deleted, and retired in the store",
        f"{other} deleted",
        "77 deleted",
    ]
    assert not shell.asana.webhooks
    assert shell.routes() == []


def test_delete_asks_first(shell: Shell) -> None:
    gid = shell.establish()
    refused = shell.run("delete", gid, answer="n\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"Delete {gid} for good?" in refused.stderr
    assert list(shell.asana.webhooks) == [gid]
    assert shell.run("delete", gid).exit_code == 1, "nobody answered"
    assert list(shell.asana.webhooks) == [gid]
    assert shell.run("delete", gid, answer="y\n").exit_code == 0
    assert not shell.asana.webhooks


def test_what_asana_does_not_delete_stays_in_the_store(shell: Shell) -> None:
    gid = shell.establish()
    shell.run("list")
    refused = shell.failure("delete", gid, "--yes", ASANA_ACCESS_TOKEN="", ASANA_PAT="not a token")
    assert "ASANA_PAT is no access token" in refused
    assert [route.gid for route in shell.routes()] == [gid]


def test_delete_of_a_webhook_that_asana_lost_retires_its_route(shell: Shell) -> None:
    gid = shell.establish()
    shell.asana.faults.add(Fault.NOT_FOUND)
    assert shell.lines("delete", gid, "--yes") == [f"{gid} deleted, and retired in the store"]
    assert shell.routes() == []


def test_delete_of_nothing_is_a_wrong_call(shell: Shell) -> None:
    assert "GID..." in shell.failure("delete", "--yes", status=2)
