"""A program that reads the streams of a store's webhooks, until it is killed. It handles nothing.

Arguments: the kind, the address and the name of the store, its public URL, that of the local Asana,
and ``always`` to read again and again; else a stream is read when it is due.
"""

import asyncio
import sys

from asana_webhooks import WebhooksClient
from asana_webhooks.stores import Store


def open_store(kind: str, address: str, name: str) -> Store:
    """Return the store of a ``Place`` of this kind, address and name."""
    if kind == "sqlite":
        from asana_webhooks import SqliteStore

        return SqliteStore(address)
    if kind == "valkey":
        from asana_webhooks import RedisStore

        return RedisStore(address, prefix=name)
    from asana_webhooks import PostgresStore

    return PostgresStore(address, schema=name)


async def main(kind: str, address: str, name: str, public_url: str, asana: str, how: str) -> None:
    client = WebhooksClient(
        "a-token",
        public_url=public_url,
        base_url=asana,
        store=open_store(kind, address, name),
        serve=False,
    )
    async with client:
        sys.stdout.write("reads\n")
        sys.stdout.flush()
        while how == "always":
            await client.reconcile()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
