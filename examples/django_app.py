"""Beside Django under ASGI: the webhooks have a lifespan.

The environment is that of service.py, and your DJANGO_SETTINGS_MODULE. Run it:
uvicorn --no-access-log django_app:application
"""

import os
from typing import Any

from django.core.asgi import get_asgi_application

from asana_webhooks import Event, WebhooksClient

django = get_asgi_application()
client = WebhooksClient(public_url=os.environ["PUBLIC_URL"] + "/asana", serve=False)
client.keep(os.environ["ASANA_PROJECT"])


@client.on("task", action="changed", field="completed")
async def celebrate(event: Event) -> None:
    print(f"task {event.resource.gid} was completed or reopened")


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        async with client.running():
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        below = scope["path"].startswith("/asana/")
        await (client.asgi if below else django)(scope, receive, send)
