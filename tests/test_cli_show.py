"""``asana-webhooks show``: what Asana says of a webhook, and whether the store has its secret."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from support.cli_shell import Shell, shell

__all__ = ["shell"]


def test_show_tells_all_of_one_webhook(shell: Shell) -> None:
    gid = shell.establish_and_settle(f"sqlite:///{shell.file}")
    record = shell.record(gid)
    record.last_failure_content = "503 \x1b[31mred"
    record.next_attempt_after = datetime.now(UTC) + timedelta(minutes=5, seconds=30)
    lines = shell.lines("show", gid)
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert fields["gid"] == gid
    assert fields["filters"] == "every event"
    assert fields["last_failure_content"] == "503 \\x1b[31mred"
    assert "(in 0:05:" in fields["next_attempt_after"]
    assert fields["is_workspace_webhook"] == "no"
    assert fields["secret_held"] == "yes"


def test_show_says_when_the_secret_is_not_here(shell: Shell) -> None:
    gid = shell.establish()
    elsewhere = shell.run("show", gid, "--json", ASANA_WEBHOOKS_STORE="sqlite:///nowhere.db")
    assert '"secret_held": false' in elsewhere.stdout


def test_show_of_an_unknown_webhook_is_one_line(shell: Shell) -> None:
    assert shell.failure("show", "99") == (
        "Error: Asana answered 404: webhook: Unknown object: 99"
        " (check the gid, and that the token's user may see what has it)"
    )


def test_gid_that_is_none_is_one_line(shell: Shell) -> None:
    assert "must be a gid" in shell.failure("show", "../users/me")
