"""``asana-webhooks update``: other filters at Asana, and in the store."""

from __future__ import annotations

import pytest
from support.cli_shell import Shell, shell

from asana_webhooks import WebhookFilter

__all__ = ["shell"]


def test_update_replaces_the_filters_at_asana_and_in_the_store(shell: Shell) -> None:
    gid = shell.establish("--filter", "task")
    [record] = shell.records("update", gid, "--filter", "story.added", "--filter", "*.deleted")
    wanted = (
        WebhookFilter(resource_type="story", action="added"),
        WebhookFilter(action="deleted"),
    )
    assert [item["action"] for item in record["filters"]] == ["added", "deleted"]
    assert [item["action"] for item in shell.record(gid).filters] == ["added", "deleted"]
    assert [route.filters for route in shell.routes()] == [wanted]
    assert record["secret_held"] is True


def test_update_to_every_event(shell: Shell) -> None:
    gid = shell.establish("--filter", "task")
    assert any(line.endswith("every event") for line in shell.lines("update", gid, "--no-filters"))
    assert shell.record(gid).filters == []


def test_update_of_a_webhook_that_the_store_lacks_changes_asana_alone(shell: Shell) -> None:
    gid = shell.establish("--store", f"sqlite:///{shell.file}.other")
    [record] = shell.records("update", gid, "--filter", "task")
    assert record["secret_held"] is False
    assert not shell.file.exists()


@pytest.mark.parametrize("options", [[], ["--filter", "task", "--no-filters"]], ids=["no", "both"])
def test_update_wants_to_know_which_events(shell: Shell, options: list[str]) -> None:
    gid = shell.establish("--filter", "task")
    assert "--no-filters for all" in shell.failure("update", gid, *options, status=2)
    assert len(shell.record(gid).filters) == 1
