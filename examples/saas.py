"""A service for many Asana users, who come and go: PUT and DELETE /users/NAME.

Set PUBLIC_URL, the address at which the internet reaches PORT (8080) of this machine. Let nobody
but your own pages call it, and encrypt the tokens. ASANA_BASE_URL is for another Asana.
"""

import json
import os
from pathlib import Path

from aiohttp import web

from asana_webhooks import Event, WebhooksClient
from asana_webhooks.serving import application

USERS = Path("users.json")
users: dict[str, dict[str, str]] = json.loads(USERS.read_text()) if USERS.exists() else {}


def save() -> None:
    USERS.write_text(json.dumps(users))


async def load(account: str) -> str:
    return users[account]["token"]  # a KeyError says that there is none


client = WebhooksClient(tokens=load, public_url=os.environ["PUBLIC_URL"], serve=False)
for name, user in users.items():
    client.account(name).keep(user["project"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    task = await client.of(event).fetch(event, opt_fields=["name"])  # with that user's token
    if task is not None:
        print(f"{event.source.account}: {task['name']!r} was completed or reopened")


async def connect(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    users[name] = await request.json()  # {"token": "2/1…", "project": "1204619"}
    save()
    client.account(name).keep(users[name]["project"])
    return web.Response()


async def disconnect(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    await client.remove_account(name)
    users.pop(name, None)
    save()
    return web.Response()


if __name__ == "__main__":
    app = application(client)
    app.add_routes([web.put("/users/{name}", connect), web.delete("/users/{name}", disconnect)])
    web.run_app(app, port=int(os.environ.get("PORT", "8080")), print=None)
