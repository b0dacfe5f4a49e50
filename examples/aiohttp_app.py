"""Beside other routes in an aiohttp application. The environment is that of service.py."""

import os
from collections.abc import AsyncIterator

from aiohttp import web

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def webhooks(_app: web.Application) -> AsyncIterator[None]:
    async with client.running():
        yield


app = web.Application()
app.router.add_get("/", hello)
app.add_subapp("/asana", client.aiohttp_app())
app.cleanup_ctx.append(webhooks)

if __name__ == "__main__":  # the paths of webhooks stay out of logs
    web.run_app(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8080")), access_log=None)
