"""A program that reads the streams of a store's webhooks again and again, until it is killed.

Arguments: the URL of the store, its public URL, and the local Asana's. It handles nothing.
"""

import asyncio
import sys

from asana_webhooks import WebhooksClient


async def main(store: str, public_url: str, asana: str) -> None:
    client = WebhooksClient(
        "a-token", public_url=public_url, base_url=asana, store=store, serve=False
    )
    async with client:
        sys.stdout.write("reads\n")
        sys.stdout.flush()
        while True:
            await client.reconcile()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
