"""Programs for ``asana-webhooks serve`` and for gunicorn: run as processes of their own.

STORE, PORT, BASE_URL and HANDLED (a file, one line for each event) come from the environment; SLOW
is how many seconds a handler takes, and HOW what it does with them: it waits in a ``thread``, or
``swallows`` its cancellation.
"""

import asyncio
import contextlib
import os
import time
from pathlib import Path

from asana_webhooks import Event, WebhooksClient
from asana_webhooks.serving import application

PORT = int(os.environ.get("PORT", "8080"))


def make(*, serve: bool = True) -> WebhooksClient:
    made = WebhooksClient(
        "a-token",
        public_url=f"http://127.0.0.1:{PORT}/asana",
        store=os.environ["STORE"],
        base_url=os.environ.get("BASE_URL", "http://127.0.0.1:9/api/1.0"),
        port=PORT if serve else None,
        serve=serve,
    )

    @made.on()
    async def handle(event: Event) -> None:
        write(f"began {event.resource.gid}")
        await spend(float(os.environ.get("SLOW", "0")))
        write(f"{os.getpid()} {event.resource.gid}")

    return made


async def spend(seconds: float) -> None:
    how = os.environ.get("HOW")
    if how == "thread":
        await asyncio.to_thread(time.sleep, seconds)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(*[asyncio.CancelledError][: how == "swallows"]):
            await asyncio.sleep(end - time.monotonic())


def write(line: str) -> None:
    with Path(os.environ["HANDLED"]).open("a") as file:
        file.write(f"{line}\n")


client = make()
no_client = "not a client"


def app() -> object:
    return application(make(serve=False))
