"""Running a client, or a receiver alone, as a process of its own.

A process that is told to stop, by SIGTERM, SIGINT or SIGHUP, is not ready from then on, accepts no
more, lets requests and handlers end, and exits within ten seconds. Told a second time it dies at
once, which loses nothing: what was acknowledged is in the store. Several clients may be served in
one process; a signal tells all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ._arrivals import notify_arrivals
from ._background import background_task
from ._endpoint import Endpoint
from ._listener import raise_descriptor_limit
from ._receiver_aiohttp import Receiver
from ._signals import stopping
from .client import WebhooksClient
from .stores import Store

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["application", "serve", "serve_store"]

logger = logging.getLogger(__name__)


async def serve(
    client: WebhooksClient,
    *,
    handlers: bool = True,
    stop: asyncio.Event | None = None,
    started: asyncio.Event | None = None,
) -> None:
    """Run a client as a program: keep its webhooks, receive, and handle, until told to stop.

    The client is entered unless it is open, and closed in the end. A signal tells it to stop, or
    ``stop``, which is set then; ``started`` is set once it receives. Without ``handlers``
    deliveries are only stored, for other processes to handle. From then on the process may have as
    many descriptors as the system permits. Raises what entering the client raises, and RuntimeError
    when there is no handler to hand to.
    """
    raise_descriptor_limit()
    with stopping(stop, kills=True) as told:
        async with contextlib.aclosing(client) if client.is_open else client:
            if client.port is not None:
                logger.info("receiving on port %d", client.port)
            if started is not None:
                started.set()
            if not handlers:
                await told.once.wait()
                return
            async with (
                background_task(client.run(), "handlers") as running,
                background_task(told.once.wait(), "signal") as waiting,
            ):
                await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
                await client.aclose()  # which ends the handlers: they and requests end together


async def serve_store(
    store: Store,
    *,
    host: str,
    port: int,
    reuse_port: bool = False,
    stop: asyncio.Event | None = None,
    started: asyncio.Event | None = None,
) -> None:
    """Receive into a store until told to stop; handlers, and whoever establishes, are elsewhere.

    ``stop`` and ``started`` are as in ``serve``. Raises StoreError when the store does not open,
    OSError when the address is taken.
    """
    raise_descriptor_limit()
    arrived = asyncio.Event()
    endpoint = Endpoint(store, on_arrival=arrived.set)
    receiver = Receiver(endpoint, host=host, port=port, reuse_port=reuse_port)
    with stopping(stop, kills=True) as told:
        async with store, background_task(notify_arrivals(store, arrived), "hints"), receiver:
            logger.info("receiving on port %d", receiver.port)
            endpoint.accepting = True
            if started is not None:
                started.set()
            await told.once.wait()
            endpoint.accepting = False


def application(client: WebhooksClient, *, handlers: bool = True) -> web.Application:
    """Return a whole aiohttp application, which runs the client from its start to its end.

    What the client keeps is established as soon as the server listens. For servers that run
    applications, as ``gunicorn service:app -k aiohttp.GunicornWebWorker`` does. Raises ValueError
    unless the client was made with ``serve=False``; without a handler to hand to, the application
    does not start, with RuntimeError.
    """
    if client.port is not None:
        msg = "the application's server is the receiver: make the client with serve=False"
        raise ValueError(msg)
    app = client.aiohttp_app()

    async def running(_: web.Application) -> AsyncIterator[None]:
        if handlers:
            client._check_handlers()
        async with client.running() if handlers else client:
            yield

    app.cleanup_ctx.append(running)
    return app
