"""All projects of a workspace, a team or a portfolio, also those that are made later.

Set ASANA_ACCESS_TOKEN (the client reads it), ASANA_WORKSPACE (the gid of what holds the projects)
and PUBLIC_URL, the address at which the internet reaches PORT (8080) of this machine.
ASANA_BASE_URL is for another Asana, such as a local one.
"""

import asyncio
import logging
import os

from asana_webhooks import Event, WebhooksClient, serve

WORKSPACE = os.environ["ASANA_WORKSPACE"]
PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.follow(WORKSPACE, where={"archived": False})


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} of {event.source.resource} was completed or reopened")


@client.on("project", action="added", resource=WORKSPACE)
async def greet(event: Event) -> None:
    print(f"project {event.resource.gid} was made")


if __name__ == "__main__":
    logging.basicConfig()
    logging.getLogger("asana_webhooks").setLevel(logging.INFO)  # it tells how far it has come
    asyncio.run(serve(client))  # until SIGTERM or Ctrl-C
