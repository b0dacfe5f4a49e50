"""A local Asana, and a client that can be closed and opened again, for the demo."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Self

import httpx

from ..._background import background_task
from ...client import WebhooksClient
from ...models import Event
from ...simulator import AsanaSimulator, Attempt
from ...stores import Store
from ...stores.urls import open_store
from ..recording import Recorder
from .reporter import CheckFailed

__all__ = ["FILE", "PATIENCE", "TOKEN", "DemoEnvironment", "Running"]

PATIENCE = 10.0
"""Seconds that one thing may take."""

PORTS = range(20_000, 30_000)
"""Ports for the receiver, which no system hands out by itself.

So the one that was free is free still when the client comes back to it.
"""

PORT_ATTEMPTS = 20
FILE = "asana-webhooks.db"
TOKEN = "any-token-will-do"  # noqa: S105 - for the local Asana that is the truth


class Running(NamedTuple):
    """A client that receives and hands on to its handler, and the store that it uses."""

    client: WebhooksClient
    store: Store


class DemoEnvironment:
    """A local Asana, an HTTP client to call it, and a place for a store; all end with the context.

    ``handled`` are the events that reached the handler of any client, in order; a recorder sees
    what its clients receive.
    """

    asana: AsanaSimulator
    http: httpx.AsyncClient

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self.handled: list[Event] = []
        self._news = asyncio.Condition()
        self._opened = AsyncExitStack()
        self._port = 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            directory = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="asana-webhooks-demo-")
            )
            self._store_url = f"sqlite:///{Path(directory, FILE)}"
            # For posts of others: a proxy of the environment would not find this loopback.
            self.http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
            self.asana = await stack.enter_async_context(AsanaSimulator())
            self._opened = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._opened.aclose()

    @asynccontextmanager
    async def first_client(self) -> AsyncIterator[Running]:
        """Run a client on a port that is free."""
        async with AsyncExitStack() as stack:
            yield await self._enter_on_free_port(stack)

    async def _enter_on_free_port(self, stack: AsyncExitStack) -> Running:
        for port in secrets.SystemRandom().sample(PORTS, PORT_ATTEMPTS):
            self._port = port
            with contextlib.suppress(OSError):
                return await stack.enter_async_context(self.next_client())
        msg = f"no port is free, of {PORT_ATTEMPTS} tried from {PORTS.start} to {PORTS.stop - 1}"
        raise CheckFailed(msg)

    @asynccontextmanager
    async def next_client(self) -> AsyncIterator[Running]:
        """Run a client on the port and the store of the one before."""
        store = self.open_store()
        client = WebhooksClient(
            TOKEN,
            public_url=f"{self.address}/asana",
            port=self._port,
            store=store,
            base_url=self.asana.base_url,
            telemetry=self._recorder,
        )

        @client.on()
        async def handle(event: Event) -> None:
            async with self._news:
                self.handled.append(event)
                self._news.notify_all()

        async with client, background_task(client.run(), "handlers"):
            yield Running(client, store)

    @property
    def address(self) -> str:
        """The URL of the receiver."""
        return f"http://127.0.0.1:{self._port}"

    def open_store(self) -> Store:
        """Return the store of the clients, not entered yet."""
        return open_store(self._store_url)

    async def has_handled(self, count: int) -> None:
        """Return when so many events were handled, or when patience is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._news:
                await self._news.wait_for(lambda: len(self.handled) >= count)

    async def settled(self) -> None:
        """Return when each delivery is accepted. Raises CheckFailed when that takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.asana.settled()
        except TimeoutError:
            status = self.asana.deliveries[-1].status if self.asana.deliveries else None
            msg = f"Asana cannot get rid of a delivery; the last answer was {status or 'none'}"
            raise CheckFailed(msg) from None

    def accepted(self) -> list[Attempt]:
        """Return the deliveries with events that were answered 200, a repeated one once."""
        accepted = [each for each in self.asana.deliveries if each.status == 200]
        distinct = {each.body: each for each in accepted if json.loads(each.body)["events"]}
        return list(distinct.values())
