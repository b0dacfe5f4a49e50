"""A service: handlers that are given what happens to the tasks of a project.

Set ASANA_ACCESS_TOKEN (the client reads it), ASANA_PROJECT (the project's gid) and PUBLIC_URL, the
address at which the internet reaches PORT (8080) of this machine: https://hooks.example.com, say.
ASANA_BASE_URL is for another Asana, such as a local one.
"""

import asyncio
import logging
import os

from asana_webhooks import Event, WebhooksClient, serve

PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="added")
async def welcome(event: Event) -> None:
    if event.parent and event.parent.resource_type == "project":  # it is added to a section too
        print(f"task {event.resource.gid} was added")


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("asana_webhooks").setLevel(logging.INFO)
    asyncio.run(serve(client))  # until SIGTERM or Ctrl-C
