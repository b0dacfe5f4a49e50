"""``asana-webhooks establish`` and ``ensure``: real handshakes, and what is left of failed ones."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.cli_shell import Shell, shell

from asana_webhooks import WebhooksClient
from asana_webhooks.auth import Token, TokenFile
from asana_webhooks.cli.establish import PRUNE_NEXT
from asana_webhooks.simulator import Fault

__all__ = ["shell"]

BOTH = pytest.mark.parametrize("command", ["establish", "ensure"])


@BOTH
def test_webhook_is_made_shown_and_held_by_the_store(shell: Shell, command: str) -> None:
    filters = ["--filter", "task.changed:completed", "--filter", "story"]
    result = shell.run(command, shell.asana.project, "--port", str(shell.port), *filters)
    assert result.exit_code == 0, result.output
    [webhook] = shell.asana.webhooks.values()
    [route] = shell.routes()
    fields = dict(line.split(":", 1) for line in result.stdout.splitlines())
    fields = {name: value.strip() for name, value in fields.items()}
    assert (route.gid, route.secret) == (webhook.gid, webhook.secret)
    assert fields["gid"] == webhook.gid
    assert fields["resource"] == f"{shell.asana.project} project Bugs"
    assert fields["active"] == fields["secret_held"] == "yes"
    assert fields["filters"] == "task.changed:completed story"
    assert fields["target"] == f"{shell.public_url}/{route.id[:4]}..."
    assert re.fullmatch(r"[-0-9]{10} [:0-9]{8} \(0:00:0\d ago\)", fields["created_at"])
    assert fields["last_failure_content"] == "-"
    assert "`asana-webhooks serve`" in result.stderr
    assert [secret for secret in shell.secrets() if secret in result.output] == []


def test_json_is_asanas_record_without_secret_and_route(shell: Shell) -> None:
    options = ["--filter", "task.changed:completed", "--port", str(shell.port)]
    [record] = shell.records("establish", shell.asana.project, *options)
    assert record["filters"] == [
        {"resource_type": "task", "action": "changed", "fields": ["completed"]}
    ]
    assert record["resource"]["name"] == "Bugs"
    assert record["created_at"].endswith("Z")
    assert record["secret_held"] is True
    assert "secret" not in record
    assert record["target"].endswith("...")


def test_establish_makes_another_webhook_and_ensure_finds_the_first(shell: Shell) -> None:
    first = shell.establish()
    [found] = shell.records("ensure", shell.asana.project, "--port", str(shell.port))
    assert found["gid"] == first
    assert shell.establish() != first
    assert len(shell.asana.webhooks) == 2


def test_ensure_without_filters_keeps_those_that_there_are(shell: Shell) -> None:
    shell.lines("ensure", shell.asana.project, "--port", str(shell.port), "--filter", "story.added")
    shell.lines("ensure", shell.asana.project, "--port", str(shell.port))
    [webhook] = shell.asana.webhooks.values()
    assert [each["resource_type"] for each in webhook.filters] == ["story"]
    [route] = shell.routes()
    assert [each.action for each in route.filters or ()] == ["added"]


def test_ensure_updates_filters(shell: Shell) -> None:
    gid = shell.establish("--filter", "task")
    shell.lines("ensure", shell.asana.project, "--port", str(shell.port), "--filter", "story")
    assert [item["resource_type"] for item in shell.record(gid).filters] == ["story"]


def test_receiver_that_shares_the_store_answers_the_handshake(shell: Shell) -> None:
    receiver = shell.client()
    with shell.portal.wrap_async_context_manager(receiver):
        taken = shell.failure("establish", shell.asana.project, "--port", str(shell.port))
        assert "say --no-receiver; else choose another --port" in taken
        result = shell.run("establish", shell.asana.project, "--no-receiver")
    assert result.exit_code == 0, result.output
    assert "`asana-webhooks serve`" not in result.stderr
    assert [route.gid for route in shell.routes()] == list(shell.asana.webhooks)


def test_handshake_that_does_not_come_is_explained_and_nothing_is_left(shell: Shell) -> None:
    shell.asana.faults.add(Fault.NO_HANDSHAKE)
    line = shell.failure("establish", shell.asana.project, "--port", str(shell.port))
    assert "no handshake was completed" in line
    assert not shell.asana.webhooks
    assert shell.routes() == []


@pytest.mark.slow
def test_time_for_the_create_call_can_be_limited(shell: Shell) -> None:
    shell.asana.faults.add(Fault.SLOW_HANDSHAKE)
    options = ["--port", str(shell.port), "--timeout", "0.1"]
    result = shell.run("establish", shell.asana.project, *options)
    assert result.exit_code == 1
    warned, error = result.stderr.splitlines()
    assert warned == "Warning: the answer to a create call was lost; looking for its webhook"
    assert error.startswith("Error: Asana did not answer the create call within 0.1 s")


def test_store_in_memory_is_refused(shell: Shell) -> None:
    line = shell.failure("establish", "12", "--store", "memory:", status=2)
    assert "name a lasting one" in line


def test_address_that_cannot_be_listened_on_is_told_as_it_is(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(self: WebhooksClient) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(WebhooksClient, "__aenter__", refuse)
    assert "Permission denied" in shell.failure("establish", "12")


def test_public_url_that_asana_cannot_reach_is_refused_before_anything(shell: Shell) -> None:
    arguments = ("establish", "12", "--public-url", "https://localhost/x")
    line = shell.failure(*arguments, ASANA_BASE_URL=None)
    assert "must be on the public internet" in line


def test_interrupt_names_the_command_that_finds_what_may_be_left(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupt(self: WebhooksClient, resource: str, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WebhooksClient, "establish", interrupt)
    result = shell.run("establish", "12", "--port", str(shell.port))
    assert (result.exit_code, result.stdout) == (130, "")
    assert PRUNE_NEXT in result.stderr


# The token


def test_without_a_token_the_next_step_is_named(shell: Shell) -> None:
    assert shell.failure("establish", "12", ASANA_ACCESS_TOKEN=None) == (
        "Error: no access token: set ASANA_ACCESS_TOKEN, name a file with --token-file, or run"
        " `asana-webhooks login`"
    )


def test_token_of_a_file_goes_before_that_of_the_environment(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("another-token\n")
    gid = shell.establish("--token-file", str(file))
    assert shell.record(gid).app == "another-token"


@pytest.mark.parametrize("place", ["default", "told"])
def test_login_serves_where_no_token_is_set(shell: Shell, tmp_path: Path, place: str) -> None:
    told = {"ASANA_WEBHOOKS_LOGIN_FILE": str(tmp_path / "login.json")} if place == "told" else {}
    default = tmp_path / "asana-webhooks" / f"127.0.0.1-{urlsplit(shell.asana.base_url).port}.json"
    file = Path(told.get("ASANA_WEBHOOKS_LOGIN_FILE", default))
    file.parent.mkdir(exist_ok=True)
    at = datetime.now(UTC) + timedelta(hours=1)
    token = Token(access_token="of-a-login", refresh_token="r", expires_at=at)
    asyncio.run(TokenFile(file).save(token))
    known = {"ASANA_ACCESS_TOKEN": None, "ASANA_CLIENT_ID": "id", **told}
    arguments = ("establish", shell.asana.project, "--port", str(shell.port), "--json")
    (line,) = shell.lines(*arguments, **known)
    gid = json.loads(line)["gid"]
    assert shell.record(gid).app == "of-a-login"


def test_bad_token_is_not_quoted(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"hush \xff hush")
    line = shell.failure("list", "--token-file", str(file))
    assert "token is no access token" in line
    assert "hush" not in line


def test_with_debug_the_log_says_what_else_is_a_warning(shell: Shell) -> None:
    shell.asana.faults.add(Fault.NO_SECRET)
    arguments = ["establish", shell.asana.project, "--port", str(shell.port)]
    plain = shell.run(*arguments)
    assert re.match(r"Warning: Asana's answer for webhook \d+ held no secret", plain.stderr)
    told = shell.run("--debug", *arguments)
    assert "WARNING asana_webhooks._establish: Asana's answer" in told.stderr
    assert "Warning: " not in told.stderr


# As a process


class Child:
    """The command as a process; ``errors`` grows while it runs."""

    def __init__(self, shell: Shell, *arguments: str) -> None:
        known = {name: value for name, value in shell.environment.items() if value is not None}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asana_webhooks", *arguments],
            env={**os.environ, **known},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def end(self) -> tuple[int, str, str]:
        written, errors = self.process.communicate(timeout=40)
        return self.process.returncode, written, errors


@pytest.fixture
def waiting(shell: Shell) -> Child:
    """A process whose create call has no answer yet, though its handshake is over."""
    shell.asana.faults.add(Fault.SLOW_201)
    child = Child(shell, "establish", shell.asana.project, "--port", str(shell.port))
    shell.portal.call(shell.asana.handshake_done.wait)
    return child


@pytest.mark.skipif(os.name == "nt", reason="Windows interrupts whole groups of processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_webhook_behind(
    shell: Shell, waiting: Child, number: signal.Signals
) -> None:
    assert len(shell.asana.webhooks) == 1
    waiting.process.send_signal(number)
    status, written, errors = waiting.end()
    assert (status, written) == (130, "")
    assert errors.split("\n") == ["", PRUNE_NEXT, "", ""]
    assert not shell.asana.webhooks
    assert shell.routes() == []


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows interrupts whole groups of processes")
def test_interrupted_it_names_what_it_could_not_delete(shell: Shell, waiting: Child) -> None:
    shell.asana.faults.add(Fault.UNAVAILABLE)
    waiting.process.send_signal(signal.SIGINT)
    status, _, errors = waiting.end()
    assert status == 130
    lines = [line for line in errors.splitlines() if line]
    assert lines[0].startswith("Error: a webhook may be left at Asana")
    assert lines[1:] == [PRUNE_NEXT]
    shell.asana.faults.discard(Fault.UNAVAILABLE)
    assert [record["gid"] for record in shell.records("prune", "--dry-run")] == [
        *shell.asana.webhooks
    ]


def test_port_that_another_program_has_is_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, written, errors = Child(
            shell, "establish", shell.asana.project, "--port", str(port)
        ).end()
    assert (status, written, errors.count("\n")) == (1, "", 1)
    assert f"port {port} of 127.0.0.1 is taken" in errors
