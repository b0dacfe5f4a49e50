"""A program of the user's, to which commands post requests on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web


class Program:
    """A program of the user's, which keeps what is posted to it."""

    def __init__(self) -> None:
        self.status = 200
        self.posted: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.posted.append((dict(request.headers), await request.read()))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


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
