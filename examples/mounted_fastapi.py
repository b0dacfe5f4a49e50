"""Mounted in FastAPI, within its lifespan. The environment is that of service.py."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from asana_webhooks import Event, WebhooksClient

PROJECT = os.environ["ASANA_PROJECT"]
PORT = int(os.environ.get("PORT", "8080"))
ASANA = os.environ.get("ASANA_BASE_URL", "https://app.asana.com/api/1.0")
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", base_url=ASANA, serve=False)


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


async def watch() -> None:
    while True:
        try:
            await client.ensure(PROJECT)
            await client.run()
        except Exception:
            logging.getLogger(__name__).exception("Asana is not watched; next try in 5 s")
            await asyncio.sleep(5)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with client, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(), name="watch Asana")
        yield  # only then the server listens, and ensure() needs that: so it is called in a task
        watching.cancel()


app = FastAPI(lifespan=lifespan)
app.mount("/asana", client.asgi)

if __name__ == "__main__":
    uvicorn.run(app, port=PORT, access_log=False)  # the paths of webhooks stay out of logs
