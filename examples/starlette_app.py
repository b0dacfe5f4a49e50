"""Beside other routes in Starlette.

The environment is that of service.py. Run it: uvicorn --no-access-log starlette_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    async with client.running():
        yield


routes = [Route("/", PlainTextResponse("hello")), Mount("/asana", client.asgi)]
app = Starlette(routes=routes, lifespan=lifespan)
