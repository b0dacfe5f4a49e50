"""Posting a request on, by each command that does so."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import anyio
import pytest
from click.testing import CliRunner
from support.program import Program, program

from asana_webhooks.cli.app import cli
from asana_webhooks.cli.forwarding import post, session
from asana_webhooks.cli.recording import Record
from asana_webhooks.cli.replay import Recorded

__all__ = ["program"]

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
OF_THE_NEW_CONNECTION = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "host", "user-agent"}
)


Send = Callable[[str], Awaitable[None]]


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
    [(posted, _)] = program.posted
    headers = {name.lower(): value for name, value in posted.items()}
    assert headers["host"] in program.url
    assert "X-Hop" not in headers.get("connection", "")
    assert {k: v for k, v in headers.items() if k not in OF_THE_NEW_CONNECTION} == PASSED_ON
