"""``asana-webhooks doctor`` proves the way, through proxies that break it on real sockets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import httpx
import pytest
from aiohttp import web
from support.cli_shell import Shell, shell
from support.doctored import Answer, Serve, findings, portal, results, serve
from support.plain_http import NO_TLS

from asana_webhooks.cli.doctor import way as module
from asana_webhooks.cli.doctor.finding import Finding
from asana_webhooks.cli.doctor.way import way_findings

__all__ = ["portal", "serve", "shell"]

ALL_OK = {"handshake": "ok", "signature": "ok", "large body": "ok"}


class Post(NamedTuple):
    """The part of a request or an answer that a proxy may alter."""

    headers: dict[str, str]
    body: bytes
    status: int = 200


Alter = Callable[[Post], Post]


def same(post: Post) -> Post:
    return post


def without(name: str) -> Alter:
    def drop(post: Post) -> Post:
        kept = {key: value for key, value in post.headers.items() if key.lower() != name.lower()}
        return post._replace(headers=kept)

    return drop


def changed(name: str, value: str) -> Alter:
    def change(post: Post) -> Post:
        if name.lower() not in (key.lower() for key in post.headers):
            return post
        return without(name)(post)._replace(headers={**without(name)(post).headers, name: value})

    return change


def written_anew(post: Post) -> Post:
    return post._replace(body=json.dumps(json.loads(post.body), separators=(",", ":")).encode())


def stripped(post: Post) -> Post:
    return post._replace(body=post.body.strip())


def in_latin_1(post: Post) -> Post:
    return post._replace(body=post.body.decode().encode("latin-1"))


def compressed(post: Post) -> Post:
    headers = {**post.headers, "Content-Encoding": "gzip"}
    return Post(headers, gzip.compress(post.body))


def padded(post: Post) -> Post:
    return post._replace(body=b" " + post.body)


def proxy_to(port: int, *, request: Alter = same, answer: Alter = same, limit: int = 0) -> Answer:
    """Return what answers as the receiver on a port does, through a proxy that alters things."""

    async def forward(asked: web.BaseRequest) -> web.Response:
        body = await asked.content.read()
        if limit and len(body) > limit:
            return web.Response(status=413, text="<html>Request Entity Too Large</html>")
        hop = {"host", "content-length", "transfer-encoding", "connection"}
        headers = {key: value for key, value in asked.headers.items() if key.lower() not in hop}
        there = Post(headers, body)
        if asked.method == "POST":
            there = request(there)
        async with httpx.AsyncClient(verify=NO_TLS, trust_env=False) as client:
            answered = await client.request(
                asked.method,
                f"http://127.0.0.1:{port}{asked.raw_path}",
                headers=there.headers,
                content=there.body,
            )
        kept = {key: value for key, value in answered.headers.items() if key.lower() not in hop}
        kept.pop("content-type", None)
        back = answer(Post(kept, answered.content, answered.status_code))
        return web.Response(status=back.status, headers=back.headers, body=back.body)

    return forward


@pytest.fixture
def receiving(shell: Shell) -> Iterator[Shell]:
    with shell.portal.wrap_async_context_manager(shell.client()):
        yield shell


def way(shell: Shell, address: str) -> dict[str, Finding]:
    return findings(way_findings(f"http://{address}/asana", f"sqlite:///{shell.file}"))


def test_way_without_a_fault_is_proved_and_nothing_is_left(receiving: Shell, serve: Serve) -> None:
    found = way(receiving, serve(proxy_to(receiving.port)))
    assert results(found) == ALL_OK
    assert receiving.routes() == []
    counts = receiving.store(lambda store: store.counts())
    assert (counts.waiting, counts.dead_letters) == (0, 0)


@pytest.mark.parametrize(
    ("proxy", "check", "said"),
    [
        pytest.param(
            {"request": without("X-Hook-Secret")},
            *("handshake", "the header X-Hook-Secret was lost on the way"),
            id="drops the secret of requests",
        ),
        pytest.param(
            {"request": changed("X-Hook-Secret", "s" * 32)},
            *("handshake", "the header X-Hook-Secret was changed on the way"),
            id="changes the secret of requests",
        ),
        pytest.param(
            {"answer": without("X-Hook-Secret")},
            *("handshake", "the header X-Hook-Secret of the answer was lost on the way back"),
            id="drops the secret of answers",
        ),
        pytest.param(
            {"answer": changed("X-Hook-Secret", "s" * 32)},
            *("handshake", "the header X-Hook-Secret of the answer was changed on the way back"),
            id="changes the secret of answers",
        ),
        pytest.param(
            {"answer": lambda post: post._replace(status=204, body=b"")},
            *("handshake", "the receiver answered 200, and 204 came back"),
            id="changes the status",
        ),
        pytest.param(
            {"request": compressed},
            *("handshake", "a Content-Encoding was added: a proxy compresses requests"),
            id="compresses requests",
        ),
        pytest.param(
            {"request": without("X-Hook-Signature")},
            *("signature", "the header X-Hook-Signature was lost or changed on the way"),
            id="drops the signature",
        ),
        pytest.param(
            {"request": changed("X-Hook-Signature", "sha256=abc")},
            *("signature", "the header X-Hook-Signature was lost or changed on the way"),
            id="changes the signature",
        ),
        pytest.param(
            {"request": written_anew},
            "signature",
            "bodies are changed on the way: blanks, line ends, escapes, letters beyond ASCII",
            id="writes JSON anew",
        ),
        pytest.param(
            {"request": stripped},
            *("signature", "bodies are changed on the way: line ends"),
            id="strips bodies",
        ),
        pytest.param(
            {"request": in_latin_1},
            *("signature", "bodies are changed on the way: letters beyond ASCII"),
            id="encodes bodies anew",
        ),
        pytest.param(
            {"request": padded},
            *("signature", "bodies are changed on the way: every byte, blanks, line ends"),
            id="changes all bodies",
        ),
        pytest.param(
            {"limit": 100_000},
            *("large body", "500 kB: the answer was 413"),
            id="limits bodies",
        ),
    ],
)
def test_what_a_broken_proxy_loses_is_named(
    receiving: Shell, serve: Serve, proxy: dict[str, Alter], check: str, said: str
) -> None:
    found = way(receiving, serve(proxy_to(receiving.port, **proxy)))  # type: ignore[arg-type]
    assert found[check].result == "failed"
    assert said in found[check].found
    assert found[check].next
    assert receiving.routes() == []


def test_body_that_is_compressed_after_the_handshake_is_named(
    receiving: Shell, serve: Serve
) -> None:
    def only_deliveries(post: Post) -> Post:
        is_delivery = any(key.lower() == "x-hook-signature" for key in post.headers)
        return compressed(post) if is_delivery else post

    found = way(receiving, serve(proxy_to(receiving.port, request=only_deliveries)))
    assert found["signature"].found == ("a Content-Encoding was added: a proxy compresses requests")


def test_body_that_is_changed_now_and_then_is_told(receiving: Shell, serve: Serve) -> None:
    altered: list[Post] = []

    def once(post: Post) -> Post:
        if b"events" in post.body and not altered:
            altered.append(post)
            return padded(post)
        return post

    found = way(receiving, serve(proxy_to(receiving.port, request=once)))
    assert found["signature"].found == "bodies are changed on the way: now and then"


def test_receiver_with_another_store_is_told(
    shell: Shell, serve: Serve, tmp_path: pytest.TempPathFactory
) -> None:
    shell.routes()  # makes the file
    other = f"sqlite:///{shell.file}.other"
    with shell.portal.wrap_async_context_manager(shell.client(store=other)):
        found = way(shell, f"127.0.0.1:{shell.port}")
    assert results(found) == {"handshake": "failed"}
    assert found["handshake"].found == "the receiver does not know a route of this store"
    assert "--store" in (found["handshake"].next or "")


async def teapot(request: web.BaseRequest) -> web.Response:
    return web.Response(status=418, text="\x1b[31mI am a teapot")


async def hangs_up(request: web.BaseRequest) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (teapot, "no receiver got it: the answer was 418"),
        (hangs_up, "no answer: "),
    ],
)
def test_handshake_that_no_receiver_gets_fails(
    shell: Shell, serve: Serve, answer: Callable[..., Awaitable[web.Response]], said: str
) -> None:
    shell.routes()
    found = way(shell, serve(answer))
    assert results(found) == {"handshake": "failed"}
    assert found["handshake"].found.startswith(said)
    assert shell.routes() == []


def test_proxy_that_hangs_up_on_deliveries_is_told(receiving: Shell, serve: Serve) -> None:
    forward = proxy_to(receiving.port)

    async def answer(request: web.BaseRequest) -> web.Response:
        if "X-Hook-Signature" in request.headers:
            return await hangs_up(request)
        return await forward(request)

    found = way(receiving, serve(answer))
    assert results(found) == {"handshake": "ok", "signature": "failed", "large body": "failed"}
    assert found["signature"].found.startswith("no answer: ")


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{file}"])
def test_way_is_not_proved_without_the_receivers_store(shell: Shell, url: str) -> None:
    found = findings(way_findings(shell.public_url, url.format(file=shell.file)))
    assert results(found) == {"way": "warning"}
    assert not shell.file.exists()


def test_store_that_does_not_open_proves_no_way(shell: Shell) -> None:
    shell.file.write_text("this is no database" * 100)
    found = way(shell, f"127.0.0.1:{shell.port}")
    assert results(found) == {"way": "failed"}


def test_route_of_a_doctor_that_was_killed_ends_by_itself(
    receiving: Shell, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIVES_FOR", 0.0001)
    found = way(receiving, f"127.0.0.1:{receiving.port}")
    assert results(found) == {"handshake": "failed"}
    assert receiving.routes() == []


# The command


def test_command_fails_when_a_proxy_writes_json_anew(receiving: Shell, serve: Serve) -> None:
    address = serve(proxy_to(receiving.port, request=written_anew))
    result = receiving.run("doctor", ASANA_WEBHOOKS_PUBLIC_URL=f"http://{address}/asana")
    assert result.exit_code == 1
    assert "failed   signature: bodies are changed on the way: blanks" in result.stdout
    assert "ok       handshake: X-Hook-Secret arrives, and comes back" in result.stdout


def test_command_proves_no_way_where_no_receiver_answers(shell: Shell) -> None:
    shell.routes()
    result = shell.run("doctor")
    assert "handshake" not in result.stdout


def test_command_leaves_no_store_file_where_there_was_none(shell: Shell) -> None:
    before = sorted(shell.file.parent.iterdir())
    result = shell.run("doctor")
    assert "store: there is no file yet" in result.stdout
    assert sorted(shell.file.parent.iterdir()) == before
