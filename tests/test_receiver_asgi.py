"""The ASGI application: how it reads what servers hand over, and how it answers."""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from conftest import guard
from support.doors import (
    GOOD,
    HEARTBEAT,
    MAX_BODY,
    PATH,
    RETIRED,
    ROUTE,
    UNKNOWN,
    Case,
    Exchange,
    by_socket,
    coding,
    delivery,
    fastapi,
    make_endpoint,
    make_store,
    on_uvicorn,
    scope_of,
    signature,
    signed,
    starlette,
)

from asana_webhooks import _receiver_asgi as asgi_module
from asana_webhooks._endpoint import Endpoint, Receive
from asana_webhooks._receiver_asgi import AsgiApp
from asana_webhooks.protocol import Request, Response
from asana_webhooks.stores.memory import MemoryStore


@pytest.fixture
async def store() -> MemoryStore:
    return await make_store()


@pytest.fixture
def app(store: MemoryStore) -> AsgiApp:
    return AsgiApp(make_endpoint(store))


# Reading


async def test_endpoint_is_shown_every_header(
    monkeypatch: pytest.MonkeyPatch, store: MemoryStore
) -> None:
    endpoint, shown = make_endpoint(store), []
    answers = endpoint.handle

    async def handle(request: Request, read: Any) -> Response:
        shown.append(request.headers)
        return await answers(request, read)

    monkeypatch.setattr(endpoint, "handle", handle)
    case = signed(200, (b"X-Odd", b"\xe4"), body=delivery())
    exchange = Exchange(scope_of(case), pieces=[case.body])
    assert (await exchange.with_(AsgiApp(endpoint))).status == 200
    assert (b"x-odd", b"\xe4") in shown[0]


async def test_body_is_read_once_and_put_together(app: AsgiApp, store: MemoryStore) -> None:
    case = signed(200, body=delivery())
    exchange = Exchange(scope_of(case), pieces=[case.body[:5], b"", case.body[5:9], case.body[9:]])
    assert (await exchange.with_(app)).status == 200
    assert exchange.asked == 4
    assert (await store.counts()).waiting == 1


TOO_LARGE = signed(413, body=b" " * (MAX_BODY + 1))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(signed(404, path=f"/hooks/{UNKNOWN}"), id="unknown"),
        pytest.param(signed(404, path=f"/hooks/{RETIRED}"), id="retired"),
        pytest.param(signed(405, method="PUT"), id="PUT"),
        pytest.param(TOO_LARGE, id="too large"),
        pytest.param(signed(415, coding(b"gzip")), id="gzip"),
        pytest.param(Case(200, "GET", "/hooks/healthz"), id="alive"),
        pytest.param(signed(405, path="/hooks/healthz"), id="POST to a probe"),
    ],
)
async def test_body_is_not_asked_for_when_it_does_not_matter(app: AsgiApp, case: Case) -> None:
    exchange = Exchange(scope_of(case))
    assert (await exchange.with_(app)).status == case.status
    assert exchange.asked == 0


async def test_body_over_the_limit_is_refused_before_its_end(app: AsgiApp) -> None:
    exchange = Exchange(scope_of(signed(413, chunked=True)), pieces=[b" " * 4096] * 100)
    assert (await exchange.with_(app)).status == 413
    assert exchange.asked == 3


async def test_body_that_does_not_come_in_time_is_refused(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = AsgiApp(make_endpoint(store, body_timeout=0.05))
    monkeypatch.setattr(asgi_module, "LINGER", 0.05)
    exchange = Exchange(scope_of(signed(408)))
    monkeypatch.setattr(exchange, "receive", asyncio.Event().wait)
    assert (await exchange.with_(app)).status == 408


@pytest.mark.parametrize(
    ("version", "connection"), [("1.0", b"close"), ("1.1", b"close"), ("2", None), ("3", None)]
)
async def test_connection_is_closed_only_where_a_header_does_that(
    app: AsgiApp, version: str, connection: bytes | None
) -> None:
    exchange = Exchange(scope_of(TOO_LARGE, http_version=version))
    assert (await exchange.with_(app)).status == 413
    assert dict(exchange.sent[0]["headers"]).get(b"connection") == connection


@pytest.mark.parametrize("before", [0, 1])
async def test_body_that_a_disconnect_cuts_is_not_stored(
    app: AsgiApp, store: MemoryStore, before: int
) -> None:
    case = signed(400, body=delivery())
    messages = [{"type": "http.request", "body": case.body, "more_body": True}] * before
    messages.append({"type": "http.disconnect"})
    exchange = Exchange(scope_of(case))
    exchange._messages = iter(messages)
    assert (await exchange.with_(app)).status == 400
    assert (await store.counts()).waiting == 0


async def test_client_that_leaves_when_its_body_is_refused_is_no_bug(app: AsgiApp) -> None:
    exchange = Exchange(scope_of(TOO_LARGE))
    exchange._messages = iter([{"type": "http.disconnect"}])
    assert (await exchange.with_(app)).status == 413


async def test_delivery_is_stored_though_nobody_waits_for_the_answer(
    app: AsgiApp, store: MemoryStore
) -> None:
    async def gone(message: MutableMapping[str, Any]) -> None:
        raise ConnectionResetError

    case = signed(200, body=delivery())
    await app(scope_of(case), Exchange({}, [case.body]).receive, gone)
    assert (await store.counts()).waiting == 1


async def test_bug_of_ours_is_left_to_the_host(store: MemoryStore) -> None:
    class Broken(Endpoint):
        async def handle(self, request: Request, read: Receive) -> Response:
            msg = "a bug"
            raise RuntimeError(msg)

    exchange = Exchange(scope_of(signed(500)))
    with pytest.raises(RuntimeError, match="a bug"):
        await AsgiApp(Broken(store, on_arrival=lambda: None))(
            exchange.scope, exchange.receive, exchange.send
        )
    assert exchange.sent == []


# Scopes


@pytest.mark.parametrize("kind", ["lifespan", "http2", ""])
async def test_other_kind_of_connection_is_refused_by_name(app: AsgiApp, kind: str) -> None:
    exchange = Exchange({"type": kind, "asgi": {"version": "3.0"}})
    with pytest.raises(ValueError, match=f"handles '{kind}' itself"):
        await app(exchange.scope, exchange.receive, exchange.send)
    assert (exchange.asked, exchange.sent) == (0, [])


@pytest.mark.parametrize("wrap", [lambda app: app, starlette, fastapi])
async def test_websocket_of_a_stranger_is_closed_without_a_traceback(
    app: AsgiApp, wrap: Callable[[AsgiApp], Any]
) -> None:
    exchange = Exchange(scope_of(signed(200), type="websocket", scheme="ws", subprotocols=[]))
    await wrap(app)(exchange.scope, exchange.receive, exchange.send)
    assert [message["type"] for message in exchange.sent] == ["websocket.close"]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"x-hook-signature", GOOD)], id="lower case"),
        pytest.param([(b"X-Hook-Signature", GOOD)], id="title case"),
        pytest.param([(b"X-HOOK-SIGNATURE", GOOD)], id="upper case"),
        pytest.param([[b"x-hook-signature", GOOD]], id="lists"),
        pytest.param([(b"x-hook-signature", b"\t" + GOOD + b" \t")], id="blanks around"),
        pytest.param(iter([(b"accept", b"*/*"), (b"x-hook-signature", GOOD)]), id="an iterator"),
    ],
)
async def test_headers_may_come_in_any_form_that_servers_give_them(
    app: AsgiApp, headers: Any
) -> None:
    assert (await Exchange(scope_of(Case(200), headers=headers)).with_(app)).status == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({"raw_path": None}, 200, id="no raw path"),
        pytest.param({"raw_path": None, "path": PATH + "/"}, 200, id="no raw path, trailing slash"),
        pytest.param({"raw_path": None, "path": "/hooks/x"}, 404, id="no raw path, unknown"),
        pytest.param({"raw_path": None, "path": f"/é\n/{ROUTE}"}, 200, id="odd prefix"),
        pytest.param({"raw_path": f"{PATH}?a=b".encode()}, 200, id="raw path with its query"),
        pytest.param({"raw_path": b"/\xff/" + ROUTE.encode()}, 200, id="undecodable prefix"),
        pytest.param({"root_path": "/hooks"}, 200, id="prefix in root path and path"),
        pytest.param({"root_path": "/hooks", "path": f"/{ROUTE}"}, 200, id="path without prefix"),
        pytest.param(
            {"root_path": "/hooks", "path": f"/{ROUTE}", "raw_path": f"/{ROUTE}".encode()},
            200,
            id="both without prefix",
        ),
        pytest.param({"root_path": PATH, "path": "", "raw_path": b""}, 404, id="nothing below"),
    ],
)
async def test_route_is_found_wherever_the_application_is_mounted(
    app: AsgiApp, changes: dict[str, Any], status: int
) -> None:
    assert (await Exchange(scope_of(signed(200), **changes)).with_(app)).status == status


async def test_raw_path_may_be_missing(app: AsgiApp) -> None:
    scope = scope_of(signed(200))
    del scope["raw_path"]
    assert (await Exchange(scope).with_(app)).status == 200


@pytest.mark.parametrize(
    ("values", "status"),
    [
        pytest.param([], 200, id="missing"),
        pytest.param([b""], 200, id="empty"),
        pytest.param([b"many"], 200, id="a word"),
        pytest.param([b"-1"], 200, id="negative"),
        pytest.param([b"\xb2"], 200, id="a digit that is not decimal"),
        pytest.param([b"\xff"], 200, id="undecodable"),
        pytest.param([b"0" * 5000], 200, id="5,000 zeros"),
        pytest.param([b"13", b"14"], 200, id="two"),
        pytest.param([b"9" * 5000], 413, id="5,000 digits"),
        pytest.param([b"%d" % (MAX_BODY + 1)], 413, id="too large"),
    ],
)
async def test_content_length_is_a_hint_that_may_be_rubbish(
    app: AsgiApp, values: list[bytes], status: int
) -> None:
    headers = [signature(GOOD), *[(b"content-length", value) for value in values]]
    assert (await Exchange(scope_of(Case(200), headers=headers)).with_(app)).status == status


# On a real server


@pytest.mark.parametrize(
    ("length", "answers"),
    [
        pytest.param(len(HEARTBEAT), [b"100", b"200"], id="wanted"),
        pytest.param(MAX_BODY + 1, [b"413"], id="too large"),
    ],
)
async def test_server_asks_for_the_body_only_when_it_is_wanted(
    app: AsgiApp, length: int, answers: list[bytes]
) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n"
        f"X-Hook-Signature: {GOOD.decode()}\r\nContent-Length: {length}\r\n\r\n"
    )
    async with on_uvicorn(fastapi(app)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        with guard():
            for status in answers:
                assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == status
                writer.write(HEARTBEAT)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("length", "sent", "status"),
    [
        pytest.param(5_000_000, 5_000_000, b"413", id="too large, all of it under way"),
        pytest.param(5_000_000, 1, b"413", id="too large, the rest does not come"),
        pytest.param(MAX_BODY, 1, b"408", id="the rest does not come in time"),
    ],
)
async def test_refusal_of_an_unread_body_gets_through_and_ends_the_connection(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch, length: int, sent: int, status: bytes
) -> None:
    app = AsgiApp(make_endpoint(store, body_timeout=0.05))
    monkeypatch.setattr(asgi_module, "LINGER", 5.0 if sent == length else 0.05)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: a\r\nX-Hook-Signature: {GOOD.decode()}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    )
    async with on_uvicorn(fastapi(app), timeout_keep_alive=60) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with guard():
            writer.write(head.encode() + b" " * sent)
            await writer.drain()
            assert (await reader.read()).split()[1] == status
        writer.close()
        await writer.wait_closed()


async def test_application_alone_on_a_server_starts_without_a_lifespan(app: AsgiApp) -> None:
    async with on_uvicorn(app) as port:
        assert (await by_socket(port)(signed(200, body=delivery()))).status == 200
