"""Beside other routes in Litestar.

The environment is that of service.py. Run it: uvicorn --no-access-log litestar_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, asgi, get

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


@asynccontextmanager
async def lifespan(_app: Litestar) -> AsyncIterator[None]:
    async with client.running():
        yield


@get("/")
async def hello() -> str:
    return "hello"


app = Litestar([hello, asgi("/asana", is_mount=True)(client.asgi)], lifespan=[lifespan])
