"""A minimal service: handlers that are given what happens to the tasks of a project.

Set ASANA_ACCESS_TOKEN (the client reads it), ASANA_PROJECT (the project's gid) and PUBLIC_URL, the
address at which the internet reaches PORT (8080) of this machine: https://hooks.example.com, say.
ASANA_BASE_URL is for another Asana, such as a local one.
"""

import asyncio
import contextlib
import os

from asana_webhooks import Event, WebhookFilter, WebhooksClient

PROJECT = os.environ["ASANA_PROJECT"]
PORT = int(os.environ.get("PORT", "8080"))
ASANA = os.environ.get("ASANA_BASE_URL", "https://app.asana.com/api/1.0")
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT, base_url=ASANA)


@client.on("task", action="added")
async def welcome(event: Event) -> None:
    print(f"task {event.resource.gid} was added")


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


async def main() -> None:
    async with client:  # from here on it listens
        webhook = await client.ensure(PROJECT, filters=[WebhookFilter(resource_type="task")])
        print(f"webhook {webhook.gid} is established")
        await client.run()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
