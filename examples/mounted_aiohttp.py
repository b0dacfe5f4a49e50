"""Mounted in an existing aiohttp application. The environment is that of service.py."""

import asyncio
import os
from collections.abc import AsyncIterator

from aiohttp import web

from asana_webhooks import Event, WebhooksClient

PROJECT = os.environ["ASANA_PROJECT"]
PORT = int(os.environ.get("PORT", "8080"))
ASANA = os.environ.get("ASANA_BASE_URL", "https://app.asana.com/api/1.0")
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", base_url=ASANA, serve=False)


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


async def watch(app: web.Application) -> None:
    while True:
        try:
            await client.ensure(PROJECT)
            await client.run()
        except Exception:
            app.logger.exception("Asana is not watched; next try in 5 s")
            await asyncio.sleep(5)


async def webhooks(app: web.Application) -> AsyncIterator[None]:
    async with client, asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch(app), name="watch Asana")
        yield  # only then aiohttp listens, and ensure() needs that: so it is called in a task
        watching.cancel()


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


app = web.Application()
app.router.add_get("/", hello)
app.add_subapp("/asana", client.aiohttp_app())
app.cleanup_ctx.append(webhooks)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=PORT)
