"""A Discord bot (discord.py) that tells a channel. It reads what service.py does, and two more."""

import asyncio
import contextlib
import os
import signal

import discord

from asana_webhooks import Event, WebhooksClient

PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(os.environ["ASANA_PROJECT"])
bot = discord.Client(intents=discord.Intents.default())


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    channel = bot.get_partial_messageable(int(os.environ["DISCORD_CHANNEL"]))
    await channel.send(f"Task {event.resource.gid} was completed or reopened")


async def main() -> None:
    async with bot:
        await bot.login(os.environ["DISCORD_TOKEN"])
        async with client.running():
            await bot.connect()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
