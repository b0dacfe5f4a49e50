"""``asana-webhooks delete``: webhooks end at Asana, and their routes in the store."""

from __future__ import annotations

import asyncio
import io
import signal
import sys

import click
import pytest
from support.cli_shell import Shell, refuse_to_delete, shell

from asana_webhooks import StoreError
from asana_webhooks.cli.options import confirm
from asana_webhooks.simulator import Fault
from asana_webhooks.stores.sqlite import SqliteStore

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
    assert "nobody is there to answer" in shell.failure("delete", gid)
    assert list(shell.asana.webhooks) == [gid]
    assert shell.run("delete", gid, answer="y\n").exit_code == 0
    assert not shell.asana.webhooks


def test_end_of_input_on_a_terminal_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(click.Abort):
        confirm("Go on?")


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


def test_webhook_that_asana_does_not_delete_costs_no_other(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gids = [shell.establish() for _ in range(3)]
    refuse_to_delete(monkeypatch, gids[1])
    result = shell.run("delete", *gids, "--yes")
    assert result.exit_code == 1
    assert result.stdout.count("deleted, and retired in the store") == 2
    assert f"Error: webhook {gids[1]} is not deleted: Asana answered 403" in result.stderr
    assert [*shell.asana.webhooks] == [gids[1]] == [route.gid for route in shell.routes()]


def test_gid_that_is_none_is_refused_before_anything_is_deleted(shell: Shell) -> None:
    gid = shell.establish()
    assert "must be a gid" in shell.failure("delete", gid, "everything", "--yes")
    assert [*shell.asana.webhooks] == [gid]


def test_store_that_fails_is_told_with_what_to_repeat(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = shell.establish()

    async def fail(store: SqliteStore, route: str) -> bool:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "retire", fail)
        line = shell.failure("delete", gid, "--yes")
    assert "is deleted at Asana, but not retired in the store; repeat this: the disk is" in line
    assert shell.lines("delete", gid, "--yes") == [f"{gid} deleted, and retired in the store"]


def test_interrupted_it_retires_what_it_has_deleted(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = shell.establish()
    retire = SqliteStore.retire

    async def retire_and_be_interrupted(store: SqliteStore, route: str) -> bool:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.01)
        return await retire(store, route)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteStore, "retire", retire_and_be_interrupted)
        result = shell.run("delete", gid, "--yes")
    assert result.exit_code == 130
    assert not shell.asana.webhooks
    assert shell.routes() == []


def test_client_that_looks_after_a_deleted_webhook_does_not_make_it_again(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    client = shell.client()
    with shell.portal.wrap_async_context_manager(client):
        webhook = shell.portal.call(client.ensure, shell.asana.project)
        assert shell.run("delete", webhook.gid, "--yes").exit_code == 0
        desired = shell.portal.call(client._parts).desired
        shell.portal.call(desired._look)
        assert "is looked after no longer" in caplog.text
    assert not shell.asana.webhooks
    assert shell.routes() == []
