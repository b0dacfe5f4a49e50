"""Tunnels: programs on PATH that print what the real ones print."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import guard, until
from support.tunnel_program import NGROK, WAIT, Install, install, is_running

from asana_webhooks.cli import tunnels
from asana_webhooks.cli.tunnels import tunnel

__all__ = ["install"]

BOX = "+--------------------------------------------------------------------------+"
CLOUDFLARED = [
    "2026-02-03T13:19:49Z INF Requesting new quick Tunnel on trycloudflare.com...",
    f"2026-02-03T13:19:51Z INF {BOX}",
    "2026-02-03T13:19:51Z INF |  Your quick Tunnel has been created! Visit it at (it may take"
    " some time to be reachable):  |",
    "2026-02-03T13:19:51Z INF |  https://calm-river-two.trycloudflare.com                    |",
    f"2026-02-03T13:19:51Z INF {BOX}",
    "2026-02-03T13:19:51Z INF Starting metrics server on 127.0.0.1:20241/metrics",
    "2026-02-03T13:19:52Z INF Registered tunnel connection connIndex=0"
    " connection=52b585bc-858c-432a-b724-90993c84cc10 event=0 ip=198.41.219.4 protocol=quic",
]
OLD_CLOUDFLARED = [
    *CLOUDFLARED[:-1],
    "2022-06-01T16:23:12Z INF Connection c206cf44-945f-4c3c-a85c-af60c6338dc2 registered"
    " connIndex=0 location=ORD",
]
TAILSCALE = [
    "Available on the internet:",
    "",
    "https://box.tail-scale.ts.net/",
    "|-- proxy http://127.0.0.1:8080",
    "",
    "Press Ctrl+C to exit.",
]
CALM = "https://calm-river-two.trycloudflare.com"
OUTPUTS = [
    pytest.param("cloudflared", CLOUDFLARED, CALM, id="cloudflared"),
    pytest.param("cloudflared", OLD_CLOUDFLARED, CALM, id="cloudflared of 2022"),
    pytest.param("ngrok", NGROK, "https://3f1c-2001-db8.ngrok-free.app", id="ngrok"),
    pytest.param("tailscale", TAILSCALE, "https://box.tail-scale.ts.net", id="tailscale"),
    pytest.param(
        "tailscale",
        ["https://box.tail-scale.ts.net:8443/"],
        "https://box.tail-scale.ts.net:8443",
        id="tailscale on another port",
    ),
]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("name", "lines", "url"), OUTPUTS)
async def test_address_is_read_from_what_the_program_prints(
    install: Install, name: str, lines: list[str], url: str, stream: str
) -> None:
    trace = install(name, lines, stream=stream)
    async with tunnel(name, 8123) as opened:
        assert (opened.name, opened.url) == (name, url)
        started = json.loads(trace.read_text())
        assert is_running(started["pid"])
        assert any("8123" in argument for argument in started["arguments"])
        assert not opened.ended.is_set()
    assert not is_running(started["pid"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cloudflared", ["tunnel", "--no-autoupdate", "--url", "http://127.0.0.1:8080"]),
        ("ngrok", ["http", "8080", "--log=stdout", "--log-format=json"]),
        ("tailscale", ["funnel", "8080"]),
    ],
)
async def test_program_is_called_as_it_is_documented(
    install: Install, name: str, arguments: list[str]
) -> None:
    trace = install(name, [*CLOUDFLARED, *NGROK, *TAILSCALE])
    async with tunnel(name, 8080):
        assert json.loads(trace.read_text())["arguments"] == arguments


async def test_first_program_that_is_there_is_taken(install: Install) -> None:
    install("tailscale", TAILSCALE)
    install("ngrok", NGROK)
    async with tunnel(None, 8080) as opened:
        assert opened.name == "ngrok"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "none of cloudflared, ngrok and tailscale is on PATH"),
        ("ngrok", "ngrok is not on PATH: install it, or give"),
    ],
)
async def test_missing_program_is_named(install: Install, name: str | None, said: str) -> None:
    with pytest.raises(click.ClickException, match=said):
        async with tunnel(name, 8080):
            pass


async def test_program_that_tells_nothing_is_ended_with_its_last_lines(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "URL_TIMEOUT", 1.0)
    lines = [
        "Funnel is not enabled on your tailnet.",
        "To enable, visit:",
        "https://login.tailscale.com/f/funnel?node=n1",
        "\x1b[2Jboo",
    ]
    trace = install("tailscale", lines)
    with pytest.raises(click.ClickException) as caught:
        async with tunnel(None, 8080):
            pass
    message = caught.value.message
    assert message.startswith("tailscale told no address within 1 s; it said: Funnel is not enab")
    assert "https://login.tailscale.com/f/funnel?node=n1 | \\x1b[2Jboo" in message
    assert not is_running(json.loads(trace.read_text())["pid"])


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        pytest.param(
            "cloudflared",
            [
                'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel":'
                " dial tcp: lookup api.trycloudflare.com: no such host",
                "INF Unregistered tunnel connection connIndex=0",
            ],
            id="cloudflared",
        ),
        pytest.param("cloudflared", CLOUDFLARED[:-1], id="no connection"),
        pytest.param(
            "cloudflared",
            ["WRN https://api.trycloudflare.com/tunnel is slow", CLOUDFLARED[-1]],
            id="the address of its maker",
        ),
        pytest.param(
            "ngrok",
            ["[]", "5", NGROK[0], '{"msg": "started tunnel", "url": "tcp://1.tcp.ngrok.io:2"}'],
            id="ngrok",
        ),
        pytest.param("tailscale", ["visit https://box.tail-scale.ts.net/ now"], id="tailscale"),
    ],
)
async def test_other_addresses_are_not_taken_for_the_tunnels(
    install: Install, name: str, lines: list[str]
) -> None:
    install(name, lines, after="sys.exit(1)")
    with pytest.raises(click.ClickException, match=f"{name} ended; it said: "):
        async with tunnel(name, 8080):
            pass


async def test_program_that_says_nothing_at_all_is_named(install: Install) -> None:
    install("ngrok", [], after="sys.exit(1)")
    with pytest.raises(click.ClickException, match="ngrok ended; it said: nothing"):
        async with tunnel("ngrok", 8080):
            pass


async def test_token_of_the_program_is_not_quoted(install: Install) -> None:
    lines = ["ERROR: authentication failed", "ERROR: Your authtoken: 2abcDEFsecret"]
    install("ngrok", lines, after="sys.exit(1)")
    with pytest.raises(click.ClickException) as caught:
        async with tunnel("ngrok", 8080):
            pass
    assert "Your authtoken: ..." in caught.value.message
    assert "2abcDEFsecret" not in caught.value.message


async def test_program_is_not_given_the_secrets_of_ours(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASANA_PAT", "a-token")
    monkeypatch.setenv("ASANA_WEBHOOKS_ENCRYPTION_KEYS", "a-key")
    monkeypatch.setenv("ASANA_CLIENT_SECRET", "a-secret")
    monkeypatch.setenv("ASANA_WEBHOOKS_STORE", "redis://:a-password@host")
    monkeypatch.setenv("NGROK_AUTHTOKEN", "its-own")
    trace = install("ngrok", NGROK)
    async with tunnel("ngrok", 8080):
        environment = json.loads(trace.read_text())["environment"]
    assert environment["NGROK_AUTHTOKEN"] == "its-own"
    assert {"a-token", "a-key", "a-secret"}.isdisjoint(environment.values())
    assert "ASANA_WEBHOOKS_STORE" not in environment


async def test_end_of_the_program_is_told(install: Install) -> None:
    trace = install("ngrok", NGROK)
    async with tunnel("ngrok", 8080) as opened:
        os.kill(json.loads(trace.read_text())["pid"], 9)
        with guard():
            await opened.ended.wait()


async def test_program_that_does_not_want_to_end_is_killed(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnels, "STOP_TIMEOUT", 0.1)
    trace = install("ngrok", NGROK, before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    async with tunnel("ngrok", 8080):
        pid = json.loads(trace.read_text())["pid"]
    await until(lambda: not is_running(pid))


class Child:
    """A process that a program has started; it holds the program's output open, and our FIFO."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "fifo"
        os.mkfifo(self._path)
        self._fifo = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        self.pid = 0

    def code(self, *first: str) -> str:
        """Return what a program does to start it; ``first`` is what the child does first."""
        tell = f"os.write(os.open({str(self._path)!r}, os.O_WRONLY), str(os.getpid()).encode())"
        return f"if not os.fork(): {'; '.join([*first, tell, WAIT])}"

    def is_there(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            self.pid = int(os.read(self._fifo, 100) or 0)
        return self.pid != 0

    def is_gone(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._fifo, 100) == b""  # nobody has it open any more
        return False


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child(tmp_path)
    yield made
    if made.pid and not made.is_gone():
        os.kill(made.pid, signal.SIGKILL)
    os.close(made._fifo)


@pytest.mark.parametrize(
    "before", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["willing", "stubborn"]
)
async def test_what_the_program_has_started_ends_too(
    install: Install, monkeypatch: pytest.MonkeyPatch, child: Child, before: str
) -> None:
    monkeypatch.setattr(tunnels, "STOP_TIMEOUT", 0.5)
    install("ngrok", NGROK, before=f"{before}\n{child.code()}")
    with guard():
        async with tunnel("ngrok", 8080):
            await until(child.is_there)
        await until(child.is_gone)


async def test_who_left_and_holds_the_output_open_is_not_waited_for(
    install: Install, monkeypatch: pytest.MonkeyPatch, child: Child
) -> None:
    monkeypatch.setattr(tunnels, "STOP_TIMEOUT", 0.1)
    install("ngrok", NGROK, before=child.code("os.setsid()"))
    with guard():
        async with tunnel("ngrok", 8080):
            await until(child.is_there)
        assert not child.is_gone()


async def test_program_ends_with_an_error_of_ours(install: Install) -> None:
    trace = install("ngrok", NGROK)
    with pytest.raises(KeyError):
        async with tunnel("ngrok", 8080):
            raise KeyError
    pid = json.loads(trace.read_text())["pid"]
    await until(lambda: not is_running(pid))


async def test_much_output_does_not_block_the_program(install: Install, tmp_path: Path) -> None:
    done = tmp_path / "done"
    install("ngrok", NGROK, after=f"print('x' * 500_000, flush=True); open({str(done)!r}, 'w')")
    async with tunnel("ngrok", 8080):
        await until(done.exists)
