"""A Telegram bot (aiogram) that tells a chat. It reads what service.py does, and two more."""

import asyncio
import os

from aiogram import Bot, Dispatcher
from aiogram.filters import CommandStart
from aiogram.types import Message

from asana_webhooks import Event, WebhooksClient

PORT = int(os.environ.get("PORT", "8080"))
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"], port=PORT)
client.keep(os.environ["ASANA_PROJECT"])
bot, dispatcher = Bot(os.environ["TELEGRAM_TOKEN"]), Dispatcher()


@dispatcher.message(CommandStart())
async def start(message: Message) -> None:
    await message.answer(f"This chat is {message.chat.id}")


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    text = f"Task {event.resource.gid} was completed or reopened"
    await bot.send_message(os.environ["TELEGRAM_CHAT"], text)


async def main() -> None:
    async with bot, client.running():
        await dispatcher.start_polling(bot, close_bot_session=False)  # until SIGTERM or Ctrl-C


if __name__ == "__main__":
    asyncio.run(main())
