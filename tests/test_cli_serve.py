"""``asana-webhooks serve``: real processes, told to stop, killed, and started again."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import eventually, until
from support.cli_serve import Place, Serve, place, serve
from test_serving import HERE, is_ready, post_event

from asana_webhooks import Event, WebhooksClient
from asana_webhooks.cli import serve as serving
from asana_webhooks.cli import workers
from asana_webhooks.cli.app import cli

pytestmark = pytest.mark.slow

__all__ = ["place", "serve"]


def children(process: subprocess.Popen[bytes]) -> set[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return {int(pid) for pid in found.read_text().split()}


def arguments_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


async def has_ended(process: subprocess.Popen[bytes]) -> int:
    await until(lambda: process.poll() is not None)
    return process.returncode


async def test_client_is_served_and_ends_within_ten_seconds(place: Place, serve: Serve) -> None:
    target = await place.target()
    process = serve("support.served:client", SLOW="1")
    await eventually(lambda: is_ready(place.port))
    assert await post_event(target, "1") == 200
    await until(place.has_begun)
    started = time.monotonic()
    process.terminate()
    assert await has_ended(process) == 0
    assert time.monotonic() - started < 10
    assert place.gids() == ["1"]
    assert await place.waiting() == 0


@pytest.mark.parametrize("how", ["thread", "swallows"])
@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_handler_that_goes_on_does_not_hold_the_process_and_its_event_stays_in_the_store(
    place: Place, serve: Serve, how: str, arguments: tuple[str, ...]
) -> None:
    target = await place.target()
    process = serve("support.served:client", *arguments, SLOW="60", HOW=how)
    await eventually(lambda: is_ready(place.port))
    assert await post_event(target, "1") == 200
    await until(place.has_begun)
    started = time.monotonic()
    process.terminate()
    assert await has_ended(process) == 0
    assert time.monotonic() - started < workers.STOP_TIMEOUT  # ten, on a machine that is not busy
    log = place.log.read_bytes()
    assert log.count(b"the process ends without it") == 1
    assert b"Traceback" not in log
    assert place.gids() == []
    assert await place.waiting() == 1


async def test_error_of_a_process_that_a_handler_holds_is_told_and_is_its_status(
    place: Place, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "fails.py").write_text(FAILS_WHILE_A_THREAD_RUNS)
    process = serve("fails:client", PYTHONPATH=str(tmp_path))
    assert await has_ended(process) == 1
    assert "no way to begin" in place.log.read_text()
    assert "the process ends without it" in place.log.read_text()


FAILS_WHILE_A_THREAD_RUNS = """
import asyncio
import time
from support.served import client
async def enter(self):
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
    raise ValueError("no way to begin")
type(client).__aenter__ = enter
"""


async def test_told_twice_it_dies_at_once_and_loses_nothing(place: Place, serve: Serve) -> None:
    target = await place.target()
    process = serve("support.served:client", SLOW="600")
    await eventually(lambda: is_ready(place.port))
    assert await post_event(target, "1") == 200
    await until(place.has_begun)
    process.terminate()
    await until(lambda: b"told once more" in place.log.read_bytes())
    process.terminate()
    assert await has_ended(process) == -signal.SIGTERM
    assert place.gids() == []
    assert await place.waiting() == 1


async def test_receiver_alone_needs_no_client_and_no_token(place: Place, serve: Serve) -> None:
    target = await place.target()
    process = serve("--port", str(place.port), ASANA_ACCESS_TOKEN="")
    await eventually(lambda: is_ready(place.port))
    assert await post_event(target, "1") == 200
    process.send_signal(signal.SIGINT)
    assert await has_ended(process) == 0
    assert await place.waiting() == 1


async def test_workers_share_the_port_and_one_that_dies_is_replaced(
    place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await place.target()
    process = serve("support.served:client", "--workers", "2")
    await until(lambda: len(children(process)) == 2)
    await eventually(lambda: is_ready(place.port))
    for number in range(20):
        assert await post_event(target, str(number)) == 200
    await until(lambda: len(place.gids()) == 20)
    assert sorted(place.gids(), key=int) == [str(number) for number in range(20)]

    before = children(process)
    await until(lambda: place.log.read_bytes().count(b"receiving on port") == 2)
    os.kill(min(before), signal.SIGKILL)
    await until(lambda: len(children(process) | before) == 3)
    process.terminate()
    assert await has_ended(process) == 0
    assert not any(map(is_alive, before))


@pytest.mark.parametrize("how", ["option", "variable"])
async def test_workers_are_told_the_store_by_no_argument(
    place: Place, serve: Serve, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "a-password.db"
    arguments = ["--workers", "2", "--port", str(place.port)]
    if how == "option":
        process = serve(*arguments, "--store", f"sqlite:///{file}")
    else:
        process = serve(*arguments, ASANA_WEBHOOKS_STORE=f"sqlite:///{file}")
    await eventually(lambda: is_ready(place.port))
    await until(lambda: len(children(process)) == 2)
    told = [arguments_of(pid) for pid in children(process)]
    assert [b"a-password" in arguments for arguments in told] == [False, False]
    assert file.exists()
    assert not place.file.exists()


async def test_debugging_reaches_workers_and_says_each_line_once(
    place: Place, serve: Serve
) -> None:
    process = serve("--workers", "2", "--port", str(place.port), debug=True)
    await eventually(lambda: is_ready(place.port))
    await until(lambda: place.log.read_bytes().count(b"receiving on port") == 2)
    told = [arguments_of(pid) for pid in children(process)]
    assert [b"\0--debug\0serve\0" in arguments for arguments in told] == [True, True]
    process.terminate()
    assert await has_ended(process) == 0
    assert place.log.read_bytes().count(b"receiving on port") == 2


async def test_workers_end_when_their_supervisor_is_killed(place: Place, serve: Serve) -> None:
    process = serve("--workers", "2", "--port", str(place.port))
    await eventually(lambda: is_ready(place.port))
    await until(lambda: len(children(process)) == 2)
    orphans = children(process)
    process.kill()
    await until(lambda: not any(map(is_alive, orphans)))


async def test_workers_that_are_told_twice_are_killed(place: Place, serve: Serve) -> None:
    target = await place.target()
    process = serve("support.served:client", "--workers", "2", SLOW="600")
    await eventually(lambda: is_ready(place.port))
    await until(lambda: len(children(process)) == 2)
    assert await post_event(target, "1") == 200
    await until(place.has_begun)
    process.terminate()
    await until(lambda: b"told once more" in place.log.read_bytes())
    told_at = time.monotonic()
    process.terminate()
    assert await has_ended(process) == 0
    assert time.monotonic() - told_at < 6.0, "it waited for its handlers, which have 8 seconds"
    assert await place.waiting() == 1


async def test_workers_that_cannot_start_are_one_error(place: Place, serve: Serve) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", place.port))
        taken.listen()
        process = serve("--workers", "2", "--port", str(place.port))
        assert await has_ended(process) == 1
    assert b"Address already in use" in place.log.read_bytes()


async def test_worker_that_fails_at_its_start_ends_them_all(
    place: Place, serve: Serve, tmp_path: Path
) -> None:
    process = serve("--workers", "2", "--port", "0", "--store", f"sqlite:///{tmp_path}/no/s.db")
    assert await has_ended(process) == 1
    log = place.log.read_text()
    assert "a worker did not start" in log
    assert "check that its directory exists" in log


async def test_worker_that_fails_alone_at_its_start_ends_the_others_however_late_that_is(
    place: Place, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "third_fails.py").write_text(THIRD_FAILS)
    process = serve("third_fails:client", "--workers", "2", PYTHONPATH=str(tmp_path))
    assert await has_ended(process) == 1
    log = place.log.read_text()
    assert "a worker did not start" in log
    assert "the third import" in log


THIRD_FAILS = """
import time
from pathlib import Path
from support.served import client
imports = Path(__file__).with_suffix(".imports")
with imports.open("a") as file:  # the supervisor's is the first
    file.write("x")
if imports.stat().st_size == 3:
    time.sleep(6)
    raise RuntimeError("the third import")
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        pytest.param("nowhere:client", "No module named 'nowhere'", id="no module"),
        pytest.param("support.served:nothing", "has no attribute 'nothing'", id="no attribute"),
        pytest.param(
            "support.served:no_client",
            "is of type str; it must be a WebhooksClient",
            id="no client",
        ),
        pytest.param(":", "write module:name", id="nothing at all"),
    ],
)
def test_target_that_is_no_client_is_named(
    target: str, said: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(place, monkeypatch)
    with pytest.raises(click.ClickException, match=said):
        serving.find_client(target)


@pytest.mark.parametrize(
    ("content", "target", "said"),
    [
        ("raise KeyError('x')", "theirs", "KeyError: 'x'"),
        ("def client(:", "theirs", "SyntaxError: invalid syntax"),
        ("raise ValueError('no token')", "theirs", "ValueError: no token"),
        ("def make(): 1 / 0", "theirs:make", "ZeroDivisionError: division by zero"),
    ],
    ids=["at import", "syntax", "value", "function"],
)
def test_failure_of_the_users_module_is_told_as_theirs(
    content: str, target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    importlib.invalidate_caches()
    result = CliRunner().invoke(cli, ["serve", target])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: '{target}' fails: {said}")
    assert f"`asana-webhooks --debug serve {target}` shows where" in result.stderr


@pytest.mark.parametrize(
    "target", ["support.served", "support.served:client", "support.served:make"]
)
def test_target_is_a_client_or_what_returns_one(
    target: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(place, monkeypatch)
    assert isinstance(serving.find_client(target), WebhooksClient)


def use(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)


def test_port_is_free_although_connections_of_an_earlier_receiver_linger() -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as earlier:  # which may be taken over, like asyncio's
        port = earlier.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sender:
            accepted, _ = earlier.accept()
            accepted.close()  # who closes first has to wait, in TIME_WAIT
            assert sender.recv(1) == b""
    with workers.reserved_port("127.0.0.1", port) as reserved:
        assert reserved == port


def test_port_on_which_another_program_listens_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(OSError, match=r"port \d+ of 127.0.0.1: Address already in use"),
        workers.reserved_port("127.0.0.1", other.getsockname()[1]),
    ):
        pass


@pytest.mark.parametrize("options", [["--workers", "2"], ["--port", "1"], ["--host", "::1"]])
@pytest.mark.parametrize(
    ("listening", "said"),
    [
        pytest.param({"serve": False}, "there is no receiver to move", id="served elsewhere"),
        pytest.param({"unix_socket": "s"}, "the receiver cannot be moved", id="unix socket"),
    ],
)
def test_options_of_a_port_are_refused_for_a_client_that_listens_on_none(
    monkeypatch: pytest.MonkeyPatch, listening: dict[str, Any], said: str, options: list[str]
) -> None:
    monkeypatch.setattr(serving, "find_client", lambda _: made(**listening))
    result = CliRunner().invoke(cli, ["serve", "support.served:client", *options])
    assert result.exit_code == 2
    assert f"need a client that listens on a port: {said}" in " ".join(result.stderr.split())


def made(**options: Any) -> WebhooksClient:
    client = WebhooksClient("t", public_url="https://h.example.com", **options)
    client.on()(ignore)
    return client


async def ignore(event: Event) -> None: ...


@pytest.mark.parametrize(
    ("client", "said"),
    [
        pytest.param(WebhooksClient("t"), "give it a public_url", id="only calls"),
        pytest.param(
            WebhooksClient("t", public_url="https://h.example.com"),
            "this client has no handler",
            id="no handler",
        ),
    ],
)
def test_client_that_cannot_serve_is_refused_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, client: WebhooksClient, said: str
) -> None:
    monkeypatch.setattr(serving, "find_client", lambda _: client)
    result = CliRunner().invoke(cli, ["serve", "bot:client"])
    assert result.exit_code == 2
    assert said in result.stderr


def test_store_beside_a_client_is_refused() -> None:
    result = CliRunner().invoke(
        cli, ["serve", "support.served:client", "--store", "sqlite:///other.db"]
    )
    assert result.exit_code == 2
    assert "a client names its store itself: leave out --store" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        pytest.param(["--store", "memory:"], None, id="option"),
        pytest.param(["--workers", "2"], "memory:", id="variable"),
    ],
)
def test_receiver_alone_with_a_store_in_memory_is_refused(
    arguments: list[str], variable: str | None
) -> None:
    told = {"ASANA_WEBHOOKS_STORE": variable}
    result = CliRunner().invoke(cli, ["serve", *arguments], env=told)
    assert result.exit_code == 2
    assert "name a lasting one with --store, or a client with handlers" in result.stderr


@pytest.mark.parametrize("option", ["--workers=2", "--no-handlers"])
def test_store_in_memory_that_processes_are_to_share_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(serving, "find_client", lambda _: made(store="memory:"))
    result = CliRunner().invoke(cli, ["serve", "bot:client", option])
    assert result.exit_code == 2
    assert "this client's store is in memory" in result.stderr
    assert "--no-handlers" in result.stderr
