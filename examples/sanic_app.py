"""Beside Sanic, by raw bytes, in the environment of service.py."""

import os
from contextlib import AsyncExitStack

from sanic import Request, Sanic
from sanic.response import HTTPResponse, raw

from asana_webhooks import Event, WebhooksClient

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])
app = Sanic("hooks")
stack = AsyncExitStack()


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


@app.before_server_start
async def begin(_: object) -> None:
    await stack.enter_async_context(client.running())


@app.post("/asana/<route>")
async def asana(request: Request, route: str) -> HTTPResponse:
    answer = await client.handle("POST", request.path, request.headers, request.body)
    return raw(answer.body, status=answer.status, headers=dict(answer.headers))


app.after_server_stop(lambda _: stack.aclose())
app.run(port=int(os.environ["PORT"]), single_process=True, motd=False)
