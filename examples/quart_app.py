"""Beside Quart, in the environment of service.py: hypercorn --workers 0 quart_app:application."""

import os
from collections.abc import AsyncGenerator
from typing import Any

from quart import Quart

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])
app = Quart(__name__)


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


@app.while_serving
async def webhooks() -> AsyncGenerator[None, None]:
    async with client.running():
        yield


@app.get("/")
async def hello() -> str:
    return "hello"


async def application(scope: Any, receive: Any, send: Any) -> None:
    below = scope["type"] == "http" and scope["path"].startswith("/asana/")
    await (client.asgi if below else app)(scope, receive, send)
