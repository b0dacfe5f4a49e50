"""A target for the local Asana that keeps what it is sent, and webhooks on it."""

import asyncio
import json
from collections import deque
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, Self

import httpx
from aiohttp import web

from asana_webhooks.simulator import AsanaSimulator
from support.plain_http import NO_TLS

HEARTBEAT = b'{"events":[]}'


class Post(NamedTuple):
    body: bytes
    signature: str


class Target:
    """Echoes secrets; answers deliveries with ``statuses`` in turn, and then with ``usual``.

    It thinks for ``pause`` seconds before it does.
    """

    def __init__(self) -> None:
        self.url = ""
        self.posts: list[Post] = []
        self.statuses: deque[int] = deque()
        self.usual = 200
        self.pause = 0.0
        self.headers: dict[str, str] = {}
        self._opened = AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._opened.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._opened.aclose()

    async def _answer(self, request: web.Request) -> web.Response:
        if "X-Hook-Secret" in request.headers:
            return web.Response(headers={"X-Hook-Secret": request.headers["X-Hook-Secret"]})
        self.posts.append(Post(await request.read(), request.headers["X-Hook-Signature"]))
        await asyncio.sleep(self.pause)
        status = self.statuses.popleft() if self.statuses else self.usual
        return web.Response(status=status, headers=self.headers, text="hm")

    @property
    def bodies(self) -> list[bytes]:
        return [post.body for post in self.posts]

    @property
    def events(self) -> list[list[dict[str, Any]]]:
        return [json.loads(body)["events"] for body in self.bodies]


def api_of(asana: AsanaSimulator) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=NO_TLS, base_url=asana.base_url, headers={"Authorization": "Bearer a-token"}
    )


async def new_webhook(asana: AsanaSimulator, url: str) -> str:
    """Make a webhook on the project, and return its gid when its first heartbeat is answered."""
    async with api_of(asana) as api:
        fields = {"data": {"resource": asana.project, "target": url}}
        response = await api.post("/webhooks", json=fields)
    assert response.status_code == 201, response.text
    await asana.settled()
    gid: str = response.json()["data"]["gid"]
    return gid
