"""Inside a bot, within its own life cycle. The environment is that of service.py."""

import asyncio
import logging
import os
from contextlib import suppress

from asana_webhooks import Event, WebhooksClient

PROJECT = os.environ["ASANA_PROJECT"]
PORT = int(os.environ.get("PORT", "8080"))
ASANA = os.environ.get("ASANA_BASE_URL", "https://app.asana.com/api/1.0")
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT, base_url=ASANA)


class Bot:
    """Stands for the bot of your library, which may call each hook in a task of its own."""

    async def setup_hook(self) -> None:
        """Called by discord.py under this name; with slack_bolt, await it before start_async."""
        client.on("task", action="changed", field="completed")(self._announce)
        await client.__aenter__()
        self._watching = asyncio.create_task(self._watch(), name="watch Asana")

    async def close(self) -> None:
        """The same; add ``await super().close()``. With slack_bolt, await it after close_async."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await client.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await client.ensure(PROJECT)
                await client.run()
            except Exception:
                logging.getLogger(__name__).exception("Asana is not watched; next try in 5 s")
                await asyncio.sleep(5)

    async def _announce(self, event: Event) -> None:
        print(f"task {event.resource.gid} was completed or reopened")  # your bot says it


bot = Bot()
with asyncio.Runner() as runner:  # what your library does
    runner.run(bot.setup_hook())
    with suppress(KeyboardInterrupt):
        runner.run(asyncio.Event().wait())
    runner.run(bot.close())
