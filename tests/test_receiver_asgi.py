"""The ASGI application: the receiver's answers, by hand, in Starlette, in FastAPI on uvicorn."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import httpx
import pytest
import pytest_asyncio
import uvicorn
from anyio.lowlevel import checkpoint
from conftest import guard
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asana_webhooks import _receiver_asgi as asgi_module
from asana_webhooks._endpoint import Endpoint, Receive
from asana_webhooks._receiver_aiohttp import Receiver
from asana_webhooks._receiver_asgi import AsgiApp
from asana_webhooks.models import Route
from asana_webhooks.protocol import Request, Response
from asana_webhooks.signature import sign
from asana_webhooks.stores.memory import MemoryStore

ROUTE, RESERVED, RETIRED, UNKNOWN = (letter * 32 for letter in "crtu")
SECRET = "0123456789abcdef" * 4
PATH = f"/hooks/{ROUTE}"
HEARTBEAT = b'{"events":[]}'
GOOD = sign(HEARTBEAT, SECRET).encode()
MAX_BODY = 10_000

Headers = list[tuple[bytes, bytes]]


class Answer(NamedTuple):
    """What must be the same, however the request came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Case(NamedTuple):
    """A request and the status of its answer."""

    status: int
    method: str = "POST"
    path: str = PATH
    headers: Headers = []  # noqa: RUF012 - never changed
    body: bytes = HEARTBEAT
    chunked: bool = False


Ask = Callable[[Case], Awaitable[Answer]]


def signature(value: bytes) -> tuple[bytes, bytes]:
    return b"X-Hook-Signature", value


def secret(value: bytes) -> tuple[bytes, bytes]:
    return b"X-Hook-Secret", value


def signed(status: int, *headers: tuple[bytes, bytes], **parts: Any) -> Case:
    body = parts.get("body", HEARTBEAT)
    return Case(status, headers=[signature(sign(body, SECRET).encode()), *headers], **parts)


def delivery() -> bytes:
    event = {"action": "changed", "resource": {"gid": "1", "resource_type": "task"}}
    event["created_at"] = datetime.now(UTC).isoformat()
    return json.dumps({"events": [event]}).encode()


CASES = {
    "delivery": signed(200, body=delivery()),
    "heartbeat": signed(200),
    "unreadable": signed(200, body=b'{"events":'),
    "empty": signed(200, body=b""),
    "chunked": signed(200, chunked=True),
    "body of the limit": signed(200, body=b" " * MAX_BODY),
    "upper-case hex": Case(200, headers=[signature(GOOD.upper())]),
    "identity": signed(200, (b"Content-Encoding", b"identity")),
    "trailing slash": signed(200, path=PATH + "/"),
    "query": signed(200, path=PATH + "?a=/b"),
    "trailing slash and query": signed(200, path=PATH + "/?a"),
    "deeper": signed(200, path=f"/hooks/a%2fb/{ROUTE}"),
    "own secret": Case(200, headers=[secret(SECRET.encode())]),
    "first secret": Case(200, path=f"/hooks/{RESERVED}", headers=[secret(b"s" * 32)]),
    "alive": Case(200, "GET", "/hooks/healthz", body=b""),
    "ready": Case(200, "GET", "/hooks/readyz", body=b""),
    "short secret": Case(400, path=f"/hooks/{RESERVED}", headers=[secret(b"s" * 15)]),
    "non-ASCII secret": Case(400, path=f"/hooks/{RESERVED}", headers=[secret(b"\xe9" * 32)]),
    "two secrets": Case(400, path=f"/hooks/{RESERVED}", headers=[secret(b"s" * 32)] * 2),
    "no signature": Case(401),
    "empty signature": Case(401, headers=[signature(b"")]),
    "63 characters": Case(401, headers=[signature(GOOD[1:])]),
    "prefixed signature": Case(401, headers=[signature(b"sha256=" + GOOD)]),
    "non-ASCII signature": Case(401, headers=[signature("é".encode() * 32)]),
    "undecodable signature": Case(401, headers=[signature(b"\xff" * 64)]),
    "two signatures": Case(401, headers=[signature(GOOD)] * 2),
    "joined signatures": Case(401, headers=[signature(GOOD + b"," + GOOD)]),
    "wrong signature": Case(401, headers=[signature(b"0" * 64)]),
    "secret and wrong signature": Case(401, headers=[secret(b"s" * 32), signature(b"0" * 64)]),
    "foreign secret": Case(403, headers=[secret(b"f" * 32)]),
    "unknown": signed(404, path=f"/hooks/{UNKNOWN}"),
    "retired": signed(404, path=f"/hooks/{RETIRED}"),
    "encoded slash": signed(404, path=f"/hooks/a%2f{ROUTE}"),
    "encoded line break": signed(404, path=PATH + "%0d%0a"),
    "encoded question mark": signed(404, path=PATH + "%3fa"),
    "GET": Case(405, "GET", body=b""),
    "PUT": signed(405, method="PUT"),
    "POST to a probe": signed(405, path="/hooks/healthz"),
    "body too large": signed(413, body=b" " * (MAX_BODY + 1)),
    "chunked too large": signed(413, body=b" " * (MAX_BODY + 1), chunked=True),
    "gzip": signed(415, (b"Content-Encoding", b"gzip")),
    "two codings": signed(415, *[(b"Content-Encoding", c) for c in (b"identity", b"br")]),
}


# What is asked


async def make_store() -> MemoryStore:
    store = MemoryStore()
    for id_ in (ROUTE, RESERVED, RETIRED):
        route = Route(id=id_, target=f"https://hooks.example.com/hooks/{id_}", resource="1")
        await store.reserve(route, ttl=3600)
    for id_ in (ROUTE, RETIRED):
        await store.add_candidate(id_, SECRET)
        await store.confirm(id_, gid="2", secret=SECRET)
    await store.retire(RETIRED)
    return store


def make_endpoint(store: MemoryStore, **options: Any) -> Endpoint:
    endpoint = Endpoint(store, on_arrival=lambda: None, max_body=MAX_BODY, **options)
    endpoint.accepting = True
    return endpoint


@pytest.fixture
async def store() -> MemoryStore:
    return await make_store()


@pytest.fixture
def app(store: MemoryStore) -> AsgiApp:
    return AsgiApp(make_endpoint(store))


def starlette(app: AsgiApp) -> Starlette:
    return Starlette(routes=[Mount("/hooks", app)])


def fastapi(app: AsgiApp) -> FastAPI:
    host = FastAPI()
    host.mount("/hooks", app)
    return host


@asynccontextmanager
async def on_uvicorn(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve on a free port, which is what is yielded."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_config=None, **options))
    task = asyncio.create_task(server.serve(), name="uvicorn")
    with guard():
        while not server.started:
            await checkpoint()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


# How it is asked


@asynccontextmanager
async def by_http(port: int) -> AsyncIterator[Ask]:
    async def ask(case: Case) -> Answer:
        content = in_chunks(case.body) if case.chunked else case.body
        answer = await client.request(case.method, case.path, headers=case.headers, content=content)
        return same(answer.status_code, dict(answer.headers), answer.content)

    address = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
        yield ask


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 4096):
        yield body[start : start + 4096]


def same(status: int, headers: dict[str, str], body: bytes) -> Answer:
    kept = {"allow", "retry-after", "x-hook-secret", "content-length"}
    if status in (408, 413):
        kept.add("connection")
    return Answer(status, {name: headers[name] for name in kept & headers.keys()}, body)


def by_hand(app: Any) -> Ask:
    async def ask(case: Case) -> Answer:
        exchange = Exchange(scope_of(case), pieces=[case.body] if case.body else [])
        return await exchange.with_(app)

    return ask


def scope_of(case: Case, **changes: Any) -> dict[str, Any]:
    raw_path, _, query = case.path.encode().partition(b"?")
    length = [] if case.chunked else [(b"content-length", b"%d" % len(case.body))]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": case.method,
        "scheme": "http",
        "path": unquote_to_bytes(raw_path).decode(),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in case.headers] + length,
        **changes,
    }


class Exchange:
    """A server's side of one request: the body goes in once, the answer comes out once."""

    def __init__(self, scope: dict[str, Any], pieces: Iterable[bytes] = (HEARTBEAT,)) -> None:
        self.scope = scope
        self._messages = self._body(list(pieces))
        self.asked = 0  # for the body, before the answer
        self.sent: list[MutableMapping[str, Any]] = []

    async def with_(self, app: Any) -> Answer:
        with guard():
            await app(self.scope, self.receive, self.send)
        start, *pieces = self.sent
        assert start["type"] == "http.response.start"
        assert {piece["type"] for piece in pieces} == {"http.response.body"}
        *before, last = [piece.get("more_body", False) for piece in pieces]
        assert all(before)
        assert not last
        assert all(name == name.lower() for name, _ in start["headers"])
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        body = b"".join(piece.get("body", b"") for piece in pieces)
        return same(start["status"], headers, body)

    def _body(self, pieces: list[bytes]) -> Iterable[dict[str, Any]]:
        for piece in pieces[:-1]:
            yield {"type": "http.request", "body": piece, "more_body": True}
        yield {"type": "http.request", **({"body": pieces[-1]} if pieces else {})}

    async def receive(self) -> dict[str, Any]:
        self.asked += not self.sent
        for message in self._messages:
            return message
        pytest.fail("the body was asked for again")

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)


# The same answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[Ask]:
    endpoint = make_endpoint(await make_store())
    server = Receiver(endpoint, host="127.0.0.1", port=0)
    async with server as open_one, by_http(open_one.port) as ask:
        yield ask


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["alone", "in Starlette", "in FastAPI", "alone on uvicorn", "on uvicorn"],
)
async def shell(request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    app = AsgiApp(make_endpoint(await make_store()))
    if request.param == "alone":
        yield by_hand(app)
    elif request.param == "in Starlette":
        yield by_hand(starlette(app))
    elif request.param == "in FastAPI":
        yield by_hand(fastapi(app))
    else:
        host = app if "alone" in request.param else fastapi(app)
        async with on_uvicorn(host) as port, by_http(port) as ask:
            yield ask


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_answer_is_that_of_the_receiver(receiver: Ask, shell: Ask, case: Case) -> None:
    answer = await shell(case)
    assert answer.status == case.status
    assert answer == await receiver(case)


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


@pytest.mark.parametrize(
    "name", ["unknown", "retired", "PUT", "body too large", "gzip", "alive", "POST to a probe"]
)
async def test_body_is_not_asked_for_when_it_does_not_matter(app: AsgiApp, name: str) -> None:
    exchange = Exchange(scope_of(CASES[name]))
    assert (await exchange.with_(app)).status == CASES[name].status
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
    exchange = Exchange(scope_of(CASES["body too large"], http_version=version))
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
    exchange = Exchange(scope_of(CASES["body too large"]))
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
    async with on_uvicorn(app) as port, by_http(port) as ask:
        assert (await ask(CASES["delivery"])).status == 200
