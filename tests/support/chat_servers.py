"""A server that stands for Discord, Telegram and Slack, as far as the examples call them.

Sources: https://discord.com/developers/docs/events/gateway, https://core.telegram.org/bots/api,
https://docs.slack.dev/apis/events-api/using-socket-mode
"""

import asyncio
import json
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web

_BOT = {"id": "1", "username": "asana", "discriminator": "0", "avatar": None, "bot": True}


class ChatServers:
    """Listens on a free port of this machine; ``messages`` are the texts that bots sent."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.url = ""
        app = web.Application()
        app.add_routes(
            [
                # Discord: calls, and the gateway that every bot connects to
                web.get("/api/v10/users/@me", _answer(_BOT)),
                web.get("/api/v10/oauth2/applications/@me", _answer(_application())),
                web.post("/api/v10/channels/{channel}/messages", self._discord_message),
                web.get("/", self._discord_gateway),
                # Telegram
                web.post("/bot{token}/getMe", _answer({"ok": True, "result": _telegram_bot()})),
                web.post("/bot{token}/getUpdates", self._telegram_updates),
                web.post("/bot{token}/sendMessage", self._telegram_message),
                # Slack
                web.post("/api/auth.test", _answer({"ok": True, "bot_id": "B1", "user_id": "U1"})),
                web.post("/api/apps.connections.open", self._slack_address),
                web.get("/slack", self._slack_socket),
                web.post("/api/chat.postMessage", self._slack_message),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._runner.cleanup()

    async def _discord_gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 45_000}})
        async for message in socket:
            if message.type is WSMsgType.TEXT and json.loads(message.data)["op"] == 2:  # identify
                ready = {"v": 10, "user": _BOT, "guilds": [], "session_id": "s"}
                ready["resume_gateway_url"] = "wss://gateway.discord.gg"
                await socket.send_json({"op": 0, "s": 1, "t": "READY", "d": ready})
        return socket

    async def _discord_message(self, request: web.Request) -> web.Response:
        text = (await request.json())["content"]
        self.messages.append(text)
        empty = ("attachments", "embeds", "mentions", "mention_roles", "components")
        message = {"id": "2", "channel_id": request.match_info["channel"], "author": _BOT}
        flags = {"tts": False, "pinned": False, "mention_everyone": False, "type": 0}
        sent = "2026-08-01T12:00:00+00:00"
        return _json(
            {"content": text, "timestamp": sent, "edited_timestamp": None}
            | message
            | flags
            | {name: [] for name in empty}
        )

    async def _telegram_updates(self, _request: web.Request) -> web.Response:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await asyncio.Event().wait()
        return _json({"ok": True, "result": []})

    async def _telegram_message(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.messages.append(str(form["text"]))
        chat = {"id": int(str(form["chat_id"])), "type": "group", "title": "Bugs"}
        message = {"message_id": 1, "date": 1_785_585_600, "chat": chat, "text": form["text"]}
        return _json({"ok": True, "result": message})

    async def _slack_address(self, _request: web.Request) -> web.Response:
        return _json({"ok": True, "url": self.url.replace("http", "ws") + "/slack"})

    async def _slack_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1})
        async for _message in socket:
            pass
        return socket

    async def _slack_message(self, request: web.Request) -> web.Response:
        message = await request.json()
        self.messages.append(message["text"])
        return _json({"ok": True, "channel": message["channel"], "ts": "1.2"})


def _json(body: dict[str, Any]) -> web.Response:
    """Return an answer of JSON whose type says nothing of a charset: discord.py wants that."""
    return web.Response(body=json.dumps(body).encode(), content_type="application/json")


def _answer(body: dict[str, Any]) -> Any:
    async def handle(_request: web.Request) -> web.Response:
        return _json(body)

    return handle


def _application() -> dict[str, Any]:
    texts = {"id": "1", "name": "asana", "description": "", "icon": None, "verify_key": ""}
    return texts | {"owner": _BOT, "bot_public": True, "bot_require_code_grant": False, "flags": 0}


def _telegram_bot() -> dict[str, Any]:
    return {"id": 12, "is_bot": True, "first_name": "asana", "username": "asana_bot"}
