"""Checks of the store: that it opens and takes what is written, and what it promises."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ...errors import StoreError
from ...models import Route
from ...stores.urls import open_store
from ..webhooks import is_missing
from .finding import Finding, captured, failed, ok, warning

__all__ = ["STORE_CHECK", "store_findings"]

STORE_CHECK = "store"

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
    try:
        with captured("asana_webhooks.stores") as said:
            if is_missing(url):
                await _try_beside(url)
                found = "there is no file yet; one is made, and takes what is written, beside it"
            else:
                await _write(url)
                found = "it opens, and takes what is written"
    except (StoreError, ValueError, OSError) as error:
        yield failed(STORE_CHECK, str(error), "mend it, or name another with --store")
        return
    yield ok(STORE_CHECK, found)
    promise = PROMISES[scheme] + OFTEN.get(scheme, "")
    if scheme == "memory":
        yield warning("durability", promise, "name a lasting one with --store")
    elif said:
        yield warning("durability", "; ".join(said), "change these settings of the server")
    else:
        yield ok("durability", promise)


async def _try_beside(url: str) -> None:
    """Write into a file in a new directory beside one that does not exist, and remove both."""
    path = Path(url.removeprefix("sqlite:///"))
    if not path.parent.is_dir():
        await _write(url)  # which fails, and says what to do
    with TemporaryDirectory(prefix=".doctor-", dir=path.parent) as directory:
        await _write(f"sqlite:///{directory}/{path.name}")


async def _write(url: str) -> None:
    """Write a route that nobody knows, and take it away again."""
    route = Route(id=secrets.token_urlsafe(24), target="https://doctor.invalid/-", resource="0")
    async with open_store(url) as store:
        await store.reserve(route, ttl=1.0)
        await store.drop(route.id)
