"""Beside other routes in FastAPI.

The environment is that of service.py. Run it: uvicorn --no-access-log fastapi_app:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client.running():
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/asana", client.asgi)


@app.get("/")
async def hello() -> str:
    return "hello"
