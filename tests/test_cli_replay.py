"""``asana-webhooks replay``: deliveries that were written down, posted again byte by byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result
from support.cli_shell import Shell, shell
from support.ports import free_tcp_port

from asana_webhooks.cli.app import cli
from asana_webhooks.cli.replay import Recorded
from asana_webhooks.signature import sign

__all__ = ["shell"]

AT = datetime(2026, 7, 4, 10, 11, 12, tzinfo=UTC)


class Target:
    """A server that keeps what is posted, and answers with the statuses that it is given."""

    def __init__(self) -> None:
        self.url = f"http://127.0.0.1:{free_tcp_port()}/hook?key=1"
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.posts.append((dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def start(self) -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(self.answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(self.url.split(":")[2].split("/")[0])).start()
        return runner


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    with start_blocking_portal("asyncio") as portal:
        runner = portal.call(target.start)
        yield target
        portal.call(runner.cleanup)


def replay(*arguments: str, lines: str = "", **environment: str) -> Result:
    return CliRunner().invoke(cli, ["replay", *arguments], input=lines, env=environment)


def recorded(body: bytes, **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return json.dumps(Recorded(AT, names, body).fields()) + "\n"


@pytest.mark.parametrize("body", [b"", b'{"events":[]}', "é\n".encode(), bytes(range(256))])
def test_line_holds_each_body_byte_by_byte(body: bytes) -> None:
    delivery = Recorded(AT, {"X-Hook-Signature": "ab"}, body)
    line = json.dumps(delivery.fields())
    assert line.isascii()
    assert "\n" not in line
    assert Recorded.from_line(line) == delivery
    assert Recorded.from_line(line.encode()) == delivery


def test_deliveries_are_posted_in_order_with_their_headers(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "deliveries.jsonl"
    file.write_text(recorded(b"one \xff", X_Hook_Signature="aa", Host="h.example", TE="trailers"))
    lines = f"\n{recorded(b'two', X_Hook_Signature='bb', Content_Type='application/json')}"
    result = replay(str(file), "-", "--to", target.url, lines=lines)
    assert result.exit_code == 0, result.output
    (first, one), (second, two) = target.posts
    assert (one, two) == (b"one \xff", b"two")
    assert (first["X-Hook-Signature"], second["X-Hook-Signature"]) == ("aa", "bb")
    assert second["Content-Type"] == "application/json"
    assert "h.example" not in first.values()
    assert "TE" not in {name.upper() for name in first}
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["received", "bytes", "status"]
    assert rows[1:] == [["2026-07-04", "10:11:12", str(size), "200"] for size in (5, 3)]


def test_status_tells_whether_each_was_taken(target: Target) -> None:
    target.statuses = [204, 503, 302]
    lines = recorded(b"1") + recorded(b"2") + recorded(b"3")
    result = replay("-", "--json", lines=lines, ASANA_WEBHOOKS_REPLAY_TO=target.url)
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == [204, 503, 302]
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: 2 of 3 were not answered 200 or 204; the receiver's log says why\n"
    )
    assert len(target.posts) == 3


def test_target_that_does_not_answer_and_header_that_cannot_be_sent_are_told() -> None:
    lines = recorded(b"1") + recorded(b"2", X_Odd="\u2603")
    result = replay("-", "--to", f"http://127.0.0.1:{free_tcp_port()}/", lines=lines)
    assert result.exit_code == 1
    assert "no answer (ConnectError)" in result.stdout
    assert "no answer (UnicodeEncodeError)" in result.stdout


def test_this_machine_is_never_asked_through_a_proxy(target: Target) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    assert replay("-", "--to", target.url, lines=recorded(b"1"), **proxies).exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[]", id="no object"),
        pytest.param('{"received_at": "2026-07-04T10:11:12Z", "body": "hush"}', id="no headers"),
        pytest.param('{"received_at": "now", "headers": {}, "body": "hush"}', id="no time"),
        pytest.param(
            '{"received_at": "2026-07-04T10:11:12Z", "headers": [], "body": "hush"}', id="list"
        ),
        pytest.param(
            '{"received_at": "2026-07-04T10:11:12Z", "headers": {}, "body": 1}', id="number"
        ),
        pytest.param(
            '{"received_at": "2026-07-04T10:11:12Z", "headers": {}, "body": "\\ud800"}',
            id="surrogate",
        ),
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_line_that_is_none_is_named_before_anything_is_posted(target: Target, line: str) -> None:
    result = replay("-", "--to", target.url, lines=recorded(b"1") + line)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "line 2 of standard input is no recorded delivery" in result.stderr
    assert "hush" not in result.stderr
    assert target.posts == []


def test_nothing_to_post_is_said(target: Target) -> None:
    result = replay("-", "--to", target.url)
    assert (result.exit_code, result.output) == (0, "nothing to post\n")


@pytest.mark.parametrize("to", ["h.example/x", "ftp://h.example", "http://me:pw@h.example/"])
def test_target_that_is_none_is_a_wrong_call(to: str) -> None:
    result = replay("-", "--to", to)
    assert result.exit_code == 2
    assert "--to must be http:// or https://" in result.stderr
    assert "pw" not in result.stderr


def test_receiver_takes_its_own_delivery_again_as_a_repeat(shell: Shell) -> None:
    gid = shell.establish()
    webhook = shell.record(gid)
    body = b'{"events":[{"action":"added"}]}'
    lines = recorded(body, X_Hook_Signature=sign(body, webhook.secret)) * 2
    with shell.portal.wrap_async_context_manager(shell.client()):
        result = replay("-", "--to", webhook.target, lines=lines)
    assert result.exit_code == 0, result.output
    assert result.stdout.count(" 200\n") == 2
    assert shell.store(lambda store: store.counts()).waiting == 1
