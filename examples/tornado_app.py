"""Beside Tornado, as what has neither ASGI nor aiohttp, in the environment of service.py."""

import asyncio
import os

import tornado.web

from asana_webhooks import Event, WebhooksClient, serve

client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


class Asana(tornado.web.RequestHandler):
    async def post(self) -> None:
        asked = self.request
        answer = await client.handle("POST", asked.path, asked.headers.get_all(), asked.body)
        self.set_status(answer.status)
        for name, value in answer.headers:
            self.set_header(name, value)
        self.write(answer.body)


async def main() -> None:
    tornado.web.Application([("/asana/.*", Asana)]).listen(int(os.environ["PORT"]))
    await serve(client)


asyncio.run(main())
