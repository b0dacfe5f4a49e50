"""Checks of the store: that it opens and takes what is written, and what it promises."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from ...errors import StoreError
from ...models import Route
from ...stores.urls import open_store
from ..webhooks import is_missing
from .finding import Finding, captured, failed, ok, warning

__all__ = ["store_findings"]

PROMISES = {
    "memory": "everything ends with the process",
    "sqlite": "what is answered 200 is on the disk (WAL, synchronous=FULL), for this user alone",
    "postgresql": "what is answered 200 is what the server has committed",
    "redis": "what is answered 200 survives what the server's append-only file survives",
}
SAME = {"postgres": "postgresql", "rediss": "redis", "unix": "redis"}
OFTEN = {"redis": "; appendfsync everysec may lose two seconds at a power failure"}


async def store_findings(url: str) -> AsyncIterator[Finding]:
    """Yield whether the store works, and what it said of itself when it was opened."""
    scheme = url.partition(":")[0]
    scheme = SAME.get(scheme, scheme)
    made = " (it is new)" if is_missing(url) else ""
    try:
        with captured("asana_webhooks.stores") as said:
            await _write(url)
    except (StoreError, ValueError) as error:
        yield failed("store", str(error), "mend it, or name another with --store")
        return
    yield ok("store", f"it opens, and takes what is written{made}")
    promise = PROMISES[scheme] + OFTEN.get(scheme, "")
    if scheme == "memory":
        yield warning("durability", promise, "name a lasting one with --store")
    elif said:
        yield warning("durability", "; ".join(said), "change these settings of the server")
    else:
        yield ok("durability", promise)


async def _write(url: str) -> None:
    """Write a route that nobody knows, and take it away again."""
    route = Route(id=secrets.token_urlsafe(24), target="https://doctor.invalid/-", resource="0")
    async with open_store(url) as store:
        await store.reserve(route, ttl=1.0)
        await store.drop(route.id)
