"""Posting a request on, by each command that does so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

import anyio
import pytest
from aiohttp import web
from click.testing import CliRunner

from asana_webhooks.cli.app import cli
from asana_webhooks.cli.forwarding import post, session
from asana_webhooks.cli.recording import Record
from asana_webhooks.cli.replay import Recorded

CAME = {
    "X-Hook-Signature": "aa",
    "Content-Type": "application/json",
    "Connection": "keep-alive, X-Hop",
    "X-Hop": "1",
    "Forwarded": "for=192.0.2.1",
    "Host": "hooks.example.com",
    "Keep-Alive": "timeout=5",
    "Proxy-Authorization": "Basic a-password",
    "TE": "trailers",
    "Upgrade": "h2c",
}
PASSED_ON = {"x-hook-signature": "aa", "content-type": "application/json"}
OF_THE_NEW_CONNECTION = {"accept", "accept-encoding", "connection", "content-length", "host"}


Send = Callable[[str], Awaitable[None]]


class Program:
    """A program of the user's, which keeps what is posted to it."""

    def __init__(self) -> None:
        self.url = ""
        self.headers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        return web.Response()


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    made = Program()
    app = web.Application()
    app.router.add_post("/hooks", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield made
    await runner.cleanup()


async def forward(url: str) -> None:
    headers = tuple(CAME.items())
    record = Record(1, datetime.now(UTC), "route", "POST", headers, signed=True, body=b"{}")
    async with session() as http:
        assert await post(http, url, record) == 200


async def replay(url: str) -> None:
    line = json.dumps(Recorded(datetime.now(UTC), CAME, b"{}").fields())

    def run() -> None:
        assert CliRunner().invoke(cli, ["replay", "-", "--to", url], input=line).exit_code == 0

    await anyio.to_thread.run_sync(run)


@pytest.mark.parametrize("send", [forward, replay])
async def test_headers_of_the_way_here_are_not_posted_on(program: Program, send: Send) -> None:
    await send(program.url)
    headers = {k: v for k, v in program.headers.items() if k not in OF_THE_NEW_CONNECTION}
    headers.pop("user-agent", None)
    assert headers == PASSED_ON
    assert program.headers["host"] in program.url
    assert "X-Hop" not in program.headers.get("connection", "")
