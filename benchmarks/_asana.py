"""The local Asana as a process of its own, with one webhook that calls may ask for."""

from __future__ import annotations

import asyncio
import signal

import httpx
from _callers import TOKEN, echo_server
from _lab import has, say

from asana_webhooks.simulator import AsanaSimulator


async def serve() -> None:
    """Serve until told to end."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with AsanaSimulator() as asana:
        webhook = await _webhook(asana)
        say(base_url=asana.base_url, project=asana.project, webhook=webhook)
        await ended.wait()
    say()


async def _webhook(asana: AsanaSimulator) -> str:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with echo_server() as place, httpx.AsyncClient(headers=headers) as client:
        wanted = {"resource": asana.project, "target": f"{place}/target"}
        answer = await client.post(f"{asana.base_url}/webhooks", json={"data": wanted})
        await asana.settled()
    gid: str = answer.raise_for_status().json()["data"]["gid"]
    return gid


def main() -> None:
    """Run it on uvloop if that is installed: it must not be what is waited for."""
    factory = None
    if has("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
