"""A receiver that kills itself at a named step: run by test_kill.py as a process of its own.

Arguments: the store's file, the file for what was handled, the port, and the step: one of
``commit`` (verified, not stored), ``answer`` (stored, not answered), ``handler`` (in it), ``ack``
(handled, not acknowledged to the store) or ``never``.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from asana_webhooks import Event, SqliteStore, WebhooksClient
from asana_webhooks.models import Claim, Delivery

FILE, HANDLED, PORT, STEP = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
PUBLIC_URL = f"http://127.0.0.1:{PORT}"


def die_at(step: str) -> None:
    if step == STEP:
        os.kill(os.getpid(), signal.SIGKILL)


def write_down(line: str) -> None:
    with HANDLED.open("a") as file:
        file.write(line)


class Killable(SqliteStore):
    async def put(
        self, delivery: Delivery, *, candidate: str | None = None, reason: str | None = None
    ) -> bool:
        die_at("commit")
        stored = await super().put(delivery, candidate=candidate, reason=reason)
        die_at("answer")
        return stored

    async def ack(self, claim: Claim, handled: Sequence[Delivery]) -> bool:
        die_at("ack")
        return await super().ack(claim, handled)

    async def finish(self, claim: Claim, handled: Sequence[Delivery] = ()) -> bool:
        die_at("ack")
        return await super().finish(claim, handled)


async def main() -> None:
    client = WebhooksClient(
        "a-token",
        public_url=PUBLIC_URL,
        port=PORT,
        store=Killable(FILE),
        base_url="http://127.0.0.1:9/api/1.0",
    )

    @client.on()
    async def note(event: Event) -> None:
        write_down(f"{event.resource.gid} {event.key}\n")
        die_at("handler")

    async with client:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await client.run()


asyncio.run(main())
