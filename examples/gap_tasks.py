"""Tells which tasks of a project change, and after a gap which may have; set as for service.py."""

import asyncio
import os

from asana_webhooks import Event, Notice, WebhooksClient, serve

PROJECT = os.environ["ASANA_PROJECT"]
PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(PROJECT, filters=None)


@client.on("task")
async def follow(event: Event) -> None:
    print(f"task {event.resource.gid}: {(event.change and event.change.field) or event.action}")


@client.on_notice("gap")
async def compare(notice: Notice) -> None:
    for gap in [gap for each in await client.continuity() for gap in each.gaps]:
        changed = {"project": PROJECT, "modified_since": gap.start.isoformat()}
        async for page in client.iter_pages("/tasks", params=changed):
            print("may have changed:", *(task["gid"] for task in page))
        await client.close_gap(gap.id)


if __name__ == "__main__":
    asyncio.run(serve(client))  # until SIGTERM or Ctrl-C
