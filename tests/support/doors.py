"""The ways into an endpoint: what is asked at each of them, and how.

A door is aiohttp's receiver, alone or mounted, the ASGI application, by hand or on a server, or
what takes a request that is there whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
import uvicorn
from aiohttp import web
from anyio.lowlevel import checkpoint
from conftest import guard
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from asana_webhooks._endpoint import Endpoint
from asana_webhooks._receiver_aiohttp import Receiver, aiohttp_app
from asana_webhooks._receiver_asgi import AsgiApp
from asana_webhooks._receiver_bytes import answer
from asana_webhooks.models import Route
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
    """The part of an answer that must be the same, however the request came."""

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


def coding(value: bytes) -> tuple[bytes, bytes]:
    return b"Content-Encoding", value


def signed(status: int, *headers: tuple[bytes, bytes], **parts: Any) -> Case:
    body = parts.get("body", HEARTBEAT)
    return Case(status, headers=[signature(sign(body, SECRET).encode()), *headers], **parts)


def delivery() -> bytes:
    event = {"action": "changed", "resource": {"gid": "1", "resource_type": "task"}}
    return json.dumps({"events": [event | {"created_at": datetime.now(UTC).isoformat()}]}).encode()


# What is asked


async def make_store() -> MemoryStore:
    """Return a store with a confirmed, a reserved and a retired route."""
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


def starlette(app: AsgiApp) -> Starlette:
    return Starlette(routes=[Mount("/hooks", app)])


def fastapi(app: AsgiApp) -> FastAPI:
    host = FastAPI()
    host.mount("/hooks", app)
    return host


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone.

        A fixture ends in another run of the loop than it begins in. The handler of that first run
        would be put back, and SIGINT would raise KeyboardInterrupt in whatever is awaited.
        """
        yield


@asynccontextmanager
async def on_uvicorn(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve on a free port, which is what is yielded."""
    server = _Server(uvicorn.Config(app, port=0, ws="none", log_config=None, **options))
    task = asyncio.create_task(server.serve(), name="uvicorn")
    with guard():
        while not server.started:
            await checkpoint()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def on_aiohttp(endpoint: Endpoint, *middlewares: Any) -> AsyncIterator[int]:
    """Serve the application, mounted in another, on a free port, which is what is yielded."""

    async def home(request: web.Request) -> web.Response:
        return web.Response(text="home")

    host = web.Application(middlewares=middlewares)
    host.router.add_get("/", home)
    host.add_subapp("/hooks", aiohttp_app(endpoint))
    runner = web.AppRunner(host, access_log=None, shutdown_timeout=0.1, lingering_time=0.05)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


DOORS = [
    *("aiohttp", "mounted in aiohttp"),
    *("ASGI", "in Starlette", "in FastAPI", "on uvicorn", "in FastAPI on uvicorn"),
    "bytes",
]

WHOLE = {"bytes"}
"""Doors that get a request when all of it was read: they close no connection."""


@asynccontextmanager
async def opening(door: str, endpoint: Endpoint) -> AsyncIterator[Ask]:
    """Open the door to an endpoint, and yield what asks there."""
    app = AsgiApp(endpoint)
    if door == "aiohttp":
        async with Receiver(endpoint, host="127.0.0.1", port=0) as receiver:
            yield by_socket(receiver.port)
    elif door == "mounted in aiohttp":
        async with on_aiohttp(endpoint) as port:
            yield by_socket(port)
    elif "uvicorn" in door:
        async with on_uvicorn(fastapi(app) if "FastAPI" in door else app) as port:
            yield by_socket(port)
    elif door == "bytes":
        yield by_bytes(endpoint)
    else:
        yield by_hand(
            {"ASGI": app, "in Starlette": starlette(app), "in FastAPI": fastapi(app)}[door]
        )


# How it is asked


def by_socket(port: int) -> Ask:
    async def ask(case: Case) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            with guard():
                writer.write(raw(case))
                head = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip()
                first, *lines = head.split("\r\n")
                headers = {name.lower(): value for name, value in (x.split(": ") for x in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
        finally:
            writer.close()
        return same(int(first.split()[1]), headers, body)

    return ask


def raw(case: Case) -> bytes:
    """Return a request as it goes over the wire."""
    headers = [(b"Host", b"hooks.example.com"), *case.headers]
    body = case.body
    if case.chunked:
        pieces = [body[start : start + 4096] for start in range(0, len(body), 4096)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        if not any(name == b"Transfer-Encoding" for name, _ in headers):
            headers.append((b"Transfer-Encoding", b"chunked"))
    else:
        headers.append((b"Content-Length", b"%d" % len(body)))
    first = f"{case.method} {case.path} HTTP/1.1\r\n".encode()
    return first + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body


def same(status: int, headers: dict[str, str], body: bytes) -> Answer:
    """Return the part of an answer that no server decides."""
    kept = {"allow", "retry-after", "x-hook-secret", "content-length"}
    if status in (408, 413, 501):
        kept.add("connection")
    return Answer(status, {name: headers[name] for name in kept & headers.keys()}, body)


def by_bytes(endpoint: Endpoint) -> Ask:
    async def ask(case: Case) -> Answer:
        length = [] if case.chunked else [(b"Content-Length", b"%d" % len(case.body))]
        headers = [*case.headers, *length]
        with guard():
            response = await answer(endpoint, case.method, case.path, headers, case.body)
        found = {name.lower(): value for name, value in response.headers}
        found["content-length"] = str(len(response.body))
        return same(response.status, found, response.body)

    return ask


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
