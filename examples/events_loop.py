"""A loop of one's own instead of handlers: ``async for event in client.events()``.

An event counts as handled when the loop asks for the next one. The one at which the program was
stopped comes first in the next run. The environment is that of service.py.
"""

import asyncio
import contextlib
import os
import signal

from asana_webhooks import Event, WebhookFilter, WebhooksClient

PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(os.environ["ASANA_PROJECT"], filters=[WebhookFilter(resource_type="task")])


def describe(event: Event) -> str:
    field = f" ({event.change.field})" if event.change else ""
    return f"{event.created_at:%H:%M:%S} task {event.resource.gid} {event.action}{field}"


async def main() -> None:
    async with client:
        async for event in client.events():
            print(describe(event))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
