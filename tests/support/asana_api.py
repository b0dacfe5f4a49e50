"""A mocked Asana, real servers in its place, and waits that pass at once: for tests of calls."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing

import httpx
import pytest
import respx
from aiohttp import web
from aiohttp.test_utils import TestServer

from asana_webhooks._asana_transport import TOKEN_VARIABLES
from asana_webhooks.api import WebhooksApi
from asana_webhooks.models import WebhookFilter

TOKEN = "2/1201/made-up:0123456789abcdef"
BASE = "https://app.asana.com/api/1.0"
SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"
TARGET = "https://hooks.example.com/asana/projects"
FILTER = WebhookFilter(resource_type="task", action="changed", fields=("completed",))
WEBHOOK = {
    "gid": "1200000000000001",
    "resource_type": "webhook",
    "resource": {"gid": "1100000000000001", "resource_type": "workspace", "name": "example.com"},
    "target": TARGET,
    "active": True,
    "created_at": "2021-08-31T14:03:07.687Z",
    "last_failure_at": None,
    "last_failure_content": "",
    "last_success_at": "2021-08-31T14:03:09.022Z",
    "filters": [
        {
            "resource_type": "project",
            "resource_subtype": None,
            "action": "added",
            "fields": None,
        }
    ],
}
ONE = {"data": WEBHOOK}
DUPLICATE = {"errors": [{"message": "You already have an existing webhook for the given resource"}]}


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Wire = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TOKEN_VARIABLES, "ASANA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def asana() -> Iterator[respx.MockRouter]:
    with respx.mock(using="httpx", base_url=BASE) as router:
        yield router


@pytest.fixture
async def api() -> AsyncIterator[WebhooksApi]:
    async with WebhooksApi(TOKEN) as opened:
        yield opened


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, in seconds; they pass on the clock, but not for the tests."""
    chosen: list[float] = []
    really_sleep, really_monotonic = asyncio.sleep, time.monotonic

    async def note(seconds: float, result: object = None) -> object:
        if seconds:
            chosen.append(seconds)
        return await really_sleep(0, result)

    monkeypatch.setattr(asyncio, "sleep", note)
    monkeypatch.setattr(time, "monotonic", lambda: really_monotonic() + sum(chosen))
    return chosen


def sent(route: respx.Route) -> httpx.Request:
    request: httpx.Request = route.calls.last.request
    return request


@asynccontextmanager
async def asana_at(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[WebhooksApi]:
    """An api whose base URL is a real server that answers every request with this."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    server = TestServer(application)
    await server.start_server(shutdown_timeout=0.1)
    try:
        async with WebhooksApi(TOKEN, base_url=f"http://{host}:{server.port}") as api:
            yield api
    finally:
        await server.close()


@asynccontextmanager
async def bytes_at(talk: Wire, scheme: str = "http") -> AsyncIterator[str]:
    """The base URL of a real server that reads a head and then does this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await talk(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
