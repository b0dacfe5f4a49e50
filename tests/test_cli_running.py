"""``simulate --run``: real programs, unchanged, that reach the local Asana as the real one."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from support.cli_process import environment as of_a_shell

from asana_webhooks.cli import running
from asana_webhooks.cli.app import cli
from asana_webhooks.cli.redirect import redirect, run_next
from asana_webhooks.cli.running import connect_proxy, environment

URL = "https://app.asana.com/api/1.0/users/me"
TOKEN = "a-token-that-nobody-shall-see"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}

URLLIB = f"""
import json, urllib.request
request = urllib.request.Request({URL!r}, headers={HEADERS})
print(json.load(urllib.request.urlopen(request))["data"]["name"])
"""
HTTPX = f"""
import httpx
print(httpx.get({URL!r}, headers={HEADERS}).json()["data"]["name"])
"""
REQUESTS = f"""
try: import requests
except ImportError: from pip._vendor import requests
print(requests.get({URL!r}, headers={HEADERS}).json()["data"]["name"])
"""
AIOHTTP = f"""
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession(headers={HEADERS}) as session:
        async with session.get({URL!r}) as answer:
            print((await answer.json())["data"]["name"])
asyncio.run(main())
"""
OFFICIAL = f"""
import asana
configuration = asana.Configuration()
configuration.access_token = {TOKEN!r}
with_it = asana.ApiClient(configuration)
print(asana.UsersApi(with_it).get_user("me", {{}})["name"])
"""
FETCH = f"""
fetch({URL!r}, {{headers: {HEADERS}}}).then((answer) => answer.json())
  .then((body) => console.log(body.data.name))
"""
HTTPS = f"""
import {{ get }} from "node:https";
get({URL!r}, {{headers: {HEADERS}}}, async (answer) => {{
  let text = "";
  for await (const part of answer) text += part;
  console.log(JSON.parse(text).data.name);
}});
"""
CURL = ("curl", "-sS", "-H", f"Authorization: Bearer {TOKEN}", URL)

PROGRAMS = {
    "curl": CURL,
    "urllib": (sys.executable, "-c", URLLIB),
    "httpx": (sys.executable, "-c", HTTPX),
    "requests": (sys.executable, "-c", REQUESTS),
    "aiohttp": (sys.executable, "-c", AIOHTTP),
    "Asana's own client": (sys.executable, "-c", OFFICIAL),
    "fetch of Node.js": ("node", "-e", FETCH),
    "https of Node.js": ("node", "--input-type=module", "-e", HTTPS),
}


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Simulate = Callable[..., Ended]


@pytest.fixture
def simulate(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Return what runs the command in this process; the program's output is the process's."""
    for name in (*running.BUNDLES, "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    def called(*arguments: str) -> Ended:
        result = CliRunner().invoke(cli, ["simulate", *arguments])
        out, err = capfd.readouterr()
        return Ended(result.exit_code, out, result.output + err)

    return called


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.slow
def test_program_reaches_the_local_asana_as_the_real_one(simulate: Simulate, name: str) -> None:
    program = PROGRAMS[name]
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed on this machine")
    if name == "requests" and not (find_spec("requests") or find_spec("pip")):
        pytest.skip("neither requests nor pip, which has a copy of it, is installed")
    status, out, err = simulate("--run", "--", *program)
    assert status == 0, err
    assert "Robin Example" in out
    assert "GET /api/1.0/users/me -> 200" in err
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("command", "status"),
    [
        pytest.param(["sh", "-c", "exit 7"], 7, id="its own"),
        pytest.param(["sh", "-c", "kill -KILL $$"], 137, id="killed"),
        pytest.param(["a-program-that-nobody-has"], 127, id="not found"),
        pytest.param(["/"], 126, id="no program"),
    ],
)
def test_exit_status_is_the_programs(simulate: Simulate, command: list[str], status: int) -> None:
    assert simulate("--quiet", "--run", *command).status == status


def test_standard_output_and_all_arguments_are_the_programs(simulate: Simulate) -> None:
    ended = simulate("--run", "echo", "--quiet", "--", "--tls")
    assert ended == (0, "--quiet -- --tls\n", "")


def test_nothing_of_a_run_stays_and_no_key_is_written(simulate: Simulate, tmp_path: Path) -> None:
    script = f"""
        dir=$(dirname "$SSL_CERT_FILE"); echo "$dir"; stat -c %a "$dir"
        grep -rlE "PRIVATE KEY" {shlex.quote(str(tmp_path))} "$dir" | wc -l
        grep -c "BEGIN CERT" "$SSL_CERT_FILE"
    """
    folder, *rest = simulate("--run", "sh", "-c", script).out.split()
    assert rest == ["700", "0", "1"]
    assert not Path(folder).exists()


def test_other_hosts_are_refused_and_named_once(simulate: Simulate) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed on this machine")
    script = "curl -sS https://example.com/; curl -sS https://example.com/?a=b"
    status, _, err = simulate("--run", "sh", "-c", script)
    assert status != 0
    assert err.count("refused    example.com:443: the program may call it with --allow-others") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run"], "--run takes a command"),
        (["echo"], "a command goes with --run"),
        (["--ca-file", "x"], "--ca-file goes with --tls"),
        (["--allow-others"], "--allow-others goes with --run"),
        (["--tls", "--run", "echo"], "--tls is for other programs"),
    ],
    ids=["no command", "no --run", "no --tls", "nothing to allow", "both"],
)
def test_options_that_do_not_fit_are_refused(
    simulate: Simulate, arguments: list[str], said: str
) -> None:
    status, _, err = simulate(*arguments)
    assert status == 2
    assert said in err


WAITS = """
import signal, sys
def told(number, frame): sys.exit(40 + number)
for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(each, told)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signal_is_passed_on(number: int) -> None:
    command = [sys.executable, "-m", "asana_webhooks", "simulate", "--run", "--"]
    with subprocess.Popen(
        [*command, sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        env=of_a_shell(),
        start_new_session=True,  # without a terminal, which would tell both
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == 40 + number


OUT_OF_REACH = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
os.setpgid(0, 0)  # to where the terminal sends no Ctrl-C
print("ready", flush=True)
print("told" if signal.sigtimedwait({signal.SIGINT}, 0.3) else "left alone")
"""


@pytest.mark.slow
def test_ctrl_c_is_left_to_the_terminal_which_tells_the_program_itself() -> None:
    terminal, programs = os.openpty()
    command = [sys.executable, "-m", "asana_webhooks", "simulate", "--run", "--"]
    with (
        subprocess.Popen(
            [*command, sys.executable, "-c", OUT_OF_REACH],
            env=of_a_shell(),
            preexec_fn=partial(os.login_tty, programs),  # noqa: PLW1509 - it calls nothing that locks
        ) as process,
        os.fdopen(terminal, "r+b", buffering=0) as typed,
    ):
        os.close(programs)
        said = b""
        while b"ready" not in said:
            said += typed.read(100) or b""
        typed.write(b"\x03")
        while not said.endswith((b"told\r\n", b"alone\r\n")):
            said += typed.read(100) or b""
        assert process.wait(timeout=20) == 0
    assert said.endswith(b"left alone\r\n")


# The proxy


@pytest.fixture
async def echo() -> AsyncIterator[tuple[str, int]]:
    """Give the address of a server that sends back what it gets until the end, and a full stop."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read() + b".")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()


async def ask(proxy: str, *parts: bytes) -> bytes:
    host, _, port = proxy.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for part in parts:
        writer.write(part)
        await writer.drain()
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def connect(host: str) -> bytes:
    return f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.mark.parametrize("host", ["app.asana.com:443", "APP.asana.com.:443"])
async def test_real_host_leads_to_the_local_asana(echo: tuple[str, int], host: str) -> None:
    async with connect_proxy(echo, allow_others=False, say=pytest.fail) as proxy:
        answer = await ask(proxy, connect(host), b"some", b"thing")
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nsomething."


async def test_others_are_passed_on_when_allowed(echo: tuple[str, int]) -> None:
    nowhere = ("127.0.0.1", 1)
    async with connect_proxy(nowhere, allow_others=True, say=pytest.fail) as proxy:
        assert (await ask(proxy, connect(f"127.0.0.1:{echo[1]}"), b"x")).endswith(b"\r\n\r\nx.")
        assert (await ask(proxy, connect("app.asana.com:443"))).startswith(b"HTTP/1.1 502 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(connect("app.asana.com:80"), b"403", id="another port"),
        pytest.param(connect("app.asana.com.example.com:443"), b"403", id="a longer name"),
        pytest.param(connect("[::1]:443"), b"403", id="an address"),
        pytest.param(connect("app.asana.com"), b"400", id="no port"),
        pytest.param(connect("app.asana.com:65536"), b"400", id="no such port"),
        pytest.param(b"CONNECT " + b"a" * 256 + b":1 HTTP/1.1\r\n\r\n", b"400", id="long name"),
        pytest.param(b"GET http://x/ HTTP/1.1\r\n\r\n", b"405", id="another method"),
        pytest.param(b"\x16\x03\x01", b"400", id="not HTTP"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\n" + b"a: b\r\n" * 5_000, b"400", id="long head"),
    ],
)
async def test_what_the_proxy_does_not_do_it_says(request_: bytes, status: bytes) -> None:
    said: list[str] = []
    async with connect_proxy(("127.0.0.1", 1), allow_others=False, say=said.append) as proxy:
        answer = await ask(proxy, request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert len(said) == (status == b"403")


async def test_silent_caller_and_open_connection_end_with_the_proxy(
    echo: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HEAD_TIMEOUT", 0.01)
    async with connect_proxy(echo, allow_others=False, say=pytest.fail) as proxy:
        port = int(proxy.rpartition(":")[2])
        silent, idle = await asyncio.open_connection("127.0.0.1", port)
        assert await silent.read() == b""
        idle.close()
        joined, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(connect("app.asana.com:443"))
        await joined.readuntil(b"\r\n\r\n")
    assert await joined.read() == b""
    writer.close()


# The environment of the program


def test_variables_of_the_user_stay_where_they_do_not_lead_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "no_proxy": "intern.example, *, .asana.com,app.asana.com,com",
        "PYTHONPATH": "/mine",
        "NODE_OPTIONS": "--mine",
        "OTHER": "kept",
    }.items():
        monkeypatch.setenv(name, value)
    with environment(("::1", 8), "PEM", "http://proxy", allow_others=False) as variables:
        assert variables["NO_PROXY"] == variables["no_proxy"]
        assert variables["NO_PROXY"] == "localhost,127.0.0.1,::1,intern.example"
        assert variables["PYTHONPATH"] == f"{Path(variables['SSL_CERT_FILE']).parent}:/mine"
        assert variables["NODE_OPTIONS"].endswith('/redirect.cjs" --mine')
        assert variables["OTHER"] == "kept"
        assert Path(variables["SSL_CERT_FILE"]).read_text().strip() == "PEM"


def test_usual_authorities_are_trusted_too_where_others_are_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_text("MINE")
    monkeypatch.setenv("SSL_CERT_FILE", str(mine))
    with environment(("127.0.0.1", 8), "PEM", "http://proxy", allow_others=True) as variables:
        for name in running.BUNDLES:
            assert Path(variables[name]).read_text().split() == ["MINE", "PEM"]


def test_port_443_of_the_host_leads_to_the_address_and_nothing_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: asked.append(args))
    loaded: list[tuple[object, ...]] = []
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda _, *a: loaded.append(a))
    redirect(host="app.asana.com", address="::1", port=8, authorities="/ours.pem")
    calls: list[tuple[str | bytes, str | int]] = [
        ("app.asana.com", 443),
        (b"app.asana.com", "https"),
        ("app.asana.com", 80),
        ("example.com", 443),
    ]
    for host, port in calls:
        socket.getaddrinfo(host, port)
    assert asked == [("::1", 8), ("::1", 8), ("app.asana.com", 80), ("example.com", 443)]
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations("/theirs.pem")
    assert loaded == [("/theirs.pem",), ("/ours.pem",)]


def test_hidden_sitecustomize_is_run_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(f"import os\nos.environ['RAN'] = {folder.name!r}")
    monkeypatch.setenv("RAN", "")
    monkeypatch.setattr(sys, "path", [str(ours), str(theirs)])
    run_next(ours)
    assert os.environ["RAN"] == "theirs"
    monkeypatch.setenv("RAN", "")
    monkeypatch.setattr(sys, "path", [str(ours)])
    run_next(ours)
    assert os.environ["RAN"] == ""
