"""The ASGI application in AWS Lambda, through Mangum."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mangum import Mangum
from starlette.applications import Starlette
from starlette.routing import Mount
from support.doors import PATH, RESERVED, SECRET, delivery, make_store

from asana_webhooks import Event, MemoryStore, WebhooksClient, sign


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that Mangum finds; another one is left in place of it."""
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield made
    asyncio.set_event_loop(None)
    made.close()


def invoke(function: Mangum, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """Invoke with an event of API Gateway's version 2, as AWS documents it."""
    http = {"method": "POST", "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "hooks.example.com", "content-length": str(len(body)), **headers},
        "requestContext": {"http": http | {"userAgent": "Asana"}, "stage": "$default"},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    answer: dict[str, Any] = function(event, object())  # type: ignore[arg-type]
    return answer


def test_each_invocation_answers_and_hands_over(loop: asyncio.AbstractEventLoop) -> None:
    store: MemoryStore = loop.run_until_complete(make_store())
    client = WebhooksClient(
        "a-token",
        public_url="https://hooks.example.com/hooks",
        store=store,
        serve=False,
        base_url="http://127.0.0.1:9",
        look_after=None,
        reconcile=None,
    )
    seen: list[str] = []

    @client.on("task")
    async def note(event: Event) -> None:
        seen.append(event.resource.gid)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield
            await client.drain(deadline=5.0)

    function = Mangum(Starlette(routes=[Mount("/hooks", client.asgi)], lifespan=lifespan))
    answer = invoke(function, f"/hooks/{RESERVED}", {"x-hook-secret": "s" * 32}, b"")
    assert (answer["statusCode"], answer["headers"]["x-hook-secret"]) == (200, "s" * 32)
    for number in range(1, 4):
        body = delivery()
        answer = invoke(function, PATH, {"x-hook-signature": sign(body, SECRET)}, body)
        assert answer["statusCode"] == 200
        assert len(seen) == number
    assert invoke(function, PATH, {"x-hook-signature": "0" * 64}, b"{}")["statusCode"] == 401
