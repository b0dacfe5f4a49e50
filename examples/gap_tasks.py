"""Tells which tasks of a project change, and after a gap which may have; set as for service.py."""

import asyncio
import os

import httpx

from asana_webhooks import Event, Notice, WebhooksClient, serve

TASKS = os.environ.get("ASANA_BASE_URL", "https://app.asana.com/api/1.0") + "/tasks"
HEADERS = {"Authorization": f"Bearer {os.environ['ASANA_ACCESS_TOKEN']}"}
PROJECT = {"project": os.environ["ASANA_PROJECT"], "limit": "100"}
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=int(os.getenv("PORT", "8080")))
client.keep(PROJECT["project"], filters=None)


@client.on("task")
async def follow(event: Event) -> None:
    print(f"task {event.resource.gid}: {(event.change and event.change.field) or event.action}")


@client.on_notice("gap")
async def compare(notice: Notice) -> None:
    async with httpx.AsyncClient(headers=HEADERS) as asana:
        for gap in [gap for each in await client.continuity() for gap in each.gaps]:
            query = PROJECT | {"modified_since": gap.start.isoformat()}
            while query:
                page = (await asana.get(TASKS, params=query)).raise_for_status().json()
                print("may have changed:", *(task["gid"] for task in page["data"]))
                query = page["next_page"] and query | {"offset": page["next_page"]["offset"]}
            await client.close_gap(gap.id)


if __name__ == "__main__":
    asyncio.run(serve(client))  # until SIGTERM or Ctrl-C
