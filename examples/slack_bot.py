"""A Slack bot (slack-bolt, socket mode). It reads what service.py does, and three more."""

import asyncio
import os

from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.app.async_app import AsyncApp

from asana_webhooks import Event, WebhooksClient, serve

PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(os.environ["ASANA_PROJECT"])
app = AsyncApp(token=os.environ["SLACK_BOT_TOKEN"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    task = await client.fetch(event, opt_fields=["name", "completed"])
    if task is not None:  # None when it is deleted by now
        text = f"{task['name']} was {'completed' if task['completed'] else 'reopened'}"
        await app.client.chat_postMessage(channel=os.environ["SLACK_CHANNEL"], text=text)


async def main() -> None:
    slack = AsyncSocketModeHandler(app, os.environ["SLACK_APP_TOKEN"])
    await slack.connect_async()
    await serve(client)  # until SIGTERM or Ctrl-C
    await slack.close_async()


if __name__ == "__main__":
    asyncio.run(main())
