"""Events in a loop instead of handlers: ``async for event in client.events()``.

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


def describe(event: Event) -> str:
    field = f" ({event.change.field})" if event.change else ""
    return f"{event.created_at:%H:%M:%S} task {event.resource.gid} {event.action}{field}"


async def main() -> None:
    async with client:  # from here on it listens
        await client.ensure(PROJECT, filters=[WebhookFilter(resource_type="task")])
        # An event counts as handled when the loop asks for the next one; the one at which the
        # program was stopped comes first in the next run.
        async for event in client.events():
            print(describe(event))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
