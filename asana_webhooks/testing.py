"""For tests of handlers, and of receivers: events, signed requests, and handlers run to the end.

::

    await celebrate(make_event("task", action="changed", field="completed"))

    delivery = make_delivery(SECRET, make_event("task", action="added"))
    response = await send(delivery, app, path="/asana")
    assert response.status_code == 200
"""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from ._background import background_task
from ._vocabulary import warn_about_pattern
from .client import WebhooksClient
from .models import NO_SOURCE, Event, Source, decode_event
from .signature import sign

if TYPE_CHECKING:
    import httpx
    from aiohttp import web

    from .simulator import AsanaSimulator

__all__ = [
    "LocalClient",
    "Post",
    "advance",
    "drain",
    "local_client",
    "make_delivery",
    "make_event",
    "make_handshake",
    "send",
]

AsgiApplication: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

HOST = "127.0.0.1"
CAN_SHARE = hasattr(socket, "SO_REUSEPORT")

NOT_ASYNC = (
    "the client lives in an event loop: enter it with `async with`, in an async test (which needs"
    " pytest-asyncio or the plugin of anyio) or in a coroutine that is given to asyncio.run()"
)

PAUSE = 0.005
"""Seconds between looks at what still waits."""

USER = {"gid": "1201", "resource_type": "user"}

_gids = itertools.count(1_300_000_000_000_001)


class Post(NamedTuple):
    """A post of Asana to a target: the raw body, and the headers that belong to it."""

    body: bytes
    headers: dict[str, str]

    def __repr__(self) -> str:
        """Return how long it is and what its headers are called; a secret may be in them."""
        return f"Post({len(self.body)} bytes, {', '.join(self.headers)})"


def make_event(
    resource_type: str = "task",
    *,
    subtype: str | None = None,
    action: str = "changed",
    field: str | None = None,
    gid: str | None = None,
    source: Source = NO_SOURCE,
    echo: bool = False,
    **others: Any,
) -> Event:
    """Return an event as ``client.on`` with the same arguments would hand it to its handler.

    ``gid`` is the resource's, a new one if None. ``source`` and ``echo`` become the event's.
    ``others`` are fields of the event in Asana's JSON shape (``parent``, ``change``, ``user``,
    ``created_at``, or whatever is new), beside or in place of what is here otherwise: a user, and
    this moment.
    ``json()`` is the whole of it, to give to ``AsanaSimulator.emit``.

    Raises DecodeError when a field has another shape than Asana's. A word that is not known of
    Asana is a UserWarning, as it is of ``client.on``.
    """
    warn_about_pattern(resource_type, subtype, action, field)
    resource = {"gid": gid or str(next(_gids)), "resource_type": resource_type}
    event = {
        "user": USER,
        "created_at": datetime.now(UTC),
        "action": action,
        "resource": resource | ({"resource_subtype": subtype} if subtype else {}),
        "parent": None,
    }
    change = {"change": {"field": field, "action": "changed"}} if field else {}
    made = decode_event(msgspec.json.encode(event | change | others), source=source)
    force_setattr(made, "echo", echo)
    return made


def make_delivery(secret: str, *events: Event) -> Post:
    """Return the post that delivers these events, signed with the secret; a heartbeat without any.

    Events that did not come from ``make_event`` or from a client have no JSON: ValueError.
    """
    if not all(event.raw for event in events):
        msg = "an event has no JSON to sign: make it with make_event(...)"
        raise ValueError(msg)
    body = b'{"events":[' + b",".join(event.raw for event in events) + b"]}"
    return Post(body, {"Content-Type": "application/json", "X-Hook-Signature": sign(body, secret)})


def make_handshake(secret: str) -> Post:
    """Return the post whose ``X-Hook-Secret`` a receiver is to echo in its answer's header."""
    return Post(b"{}", {"Content-Type": "application/json", "X-Hook-Secret": secret})


async def send(
    post: Post, to: str | web.Application | AsgiApplication, *, path: str = "/"
) -> httpx.Response:
    """Return the answer to a post: of a URL, of an aiohttp application or of an ASGI one.

    ``path`` is where in an application its receiver is. An aiohttp application is started for it,
    on a free port; an ASGI application is called without its lifespan.
    """
    from aiohttp import web

    if isinstance(to, str):
        return await _post(post, to)
    if isinstance(to, web.Application):
        return await _send_to_aiohttp(post, to, path)
    import httpx

    return await _post(post, f"http://testserver{path}", transport=httpx.ASGITransport(to))


async def _send_to_aiohttp(post: Post, app: web.Application, path: str) -> httpx.Response:
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        return await _post(post, f"http://{host}:{port}{path}")
    finally:
        await runner.cleanup()


async def _post(post: Post, url: str, **options: Any) -> httpx.Response:
    import httpx

    # A proxy that the environment names would not find what is on this machine.
    async with httpx.AsyncClient(trust_env=False, **options) as http:
        return await http.post(url, content=post.body, headers=post.headers)


async def drain(client: WebhooksClient, *, timeout: float = 10.0) -> None:
    """Run the client's handlers until no delivery waits, those that failed included.

    Where they run already, with ``running``, ``run`` or ``serve``, it only waits. Raises
    TimeoutError when a delivery waits still after so many seconds; what ``client.run`` raises.
    """
    waiting = 0
    try:
        async with asyncio.timeout(timeout), _handlers(client) as running:
            while not running.done() and (waiting := (await client.stats()).waiting):  # noqa: ASYNC110 - there is no event for it: other processes may share the store
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        msg = (
            f"not all is handled after {timeout:g} seconds, waiting: {waiting}; when a handler"
            " raises, its error is in the log, and the next try comes later"
        )
        raise TimeoutError(msg) from None


@asynccontextmanager
async def _handlers(client: WebhooksClient) -> AsyncIterator[asyncio.Future[None]]:
    """Run the handlers beside the body, unless they run; yield what is done when they end."""
    await asyncio.sleep(0)  # a task that was made to run them does so from now on
    if client._is_handling():
        client._check_handlers()
        yield asyncio.get_running_loop().create_future()
    else:
        async with background_task(client.run(), "handlers") as running:
            yield running


async def advance(
    asana: AsanaSimulator,
    seconds: float = 0.0,
    *,
    minutes: float = 0.0,
    hours: float = 0.0,
    days: float = 0.0,
    client: WebhooksClient,
) -> None:
    """Pass time at the local Asana and for the timers of the client, which is open, together.

    When it returns, all that either had to do in this time is done: Asana's deliveries and
    deletions, the client's looking after its webhooks and its notices. What it kept in its store
    for later, such as a delivery that is tried again, waits in real time.

    Raises what ``asana.advance`` raises, and TimeoutError when the client is busy with one moment
    for more than a minute of real time.
    """
    length = seconds + 60 * minutes + 3_600 * hours + 86_400 * days
    if not 0 <= length < math.inf:
        msg = f"time passes forwards only, not by {length:g} seconds"
        raise ValueError(msg)
    await client._clock.advance(length, beside=lambda step: asana.advance(seconds=step))


class LocalClient(WebhooksClient):
    """A ``WebhooksClient`` that says what to do in a synchronous test."""

    def __enter__(self) -> NoReturn:
        raise TypeError(NOT_ASYNC)

    def __exit__(self, *exc: object) -> None:
        """Never called; without it Python would not get as far as the message above."""


@contextmanager
def local_client(base_url: str, **options: Any) -> Iterator[LocalClient]:
    """Yield a client, not entered yet, of the local Asana under this URL.

    ``options`` are those of ``WebhooksClient``. Unless they name a port, the client has one that is
    kept for it until the end.
    """
    with _free_port() as free:
        port = options.pop("port", 0) or free
        defaults: dict[str, Any] = {
            "token": "a-token" if options.get("tokens") is None else None,
            "public_url": f"http://{HOST}:{port}/asana",
            "store": "memory:",
        }
        if options.get("serve", True) and options.get("unix_socket") is None:
            defaults |= {"port": port, "reuse_port": CAN_SHARE}
        yield LocalClient(base_url=base_url, **(defaults | options))


@contextmanager
def _free_port() -> Iterator[int]:
    # A socket that is bound, but does not listen, keeps the port from every process that asks for
    # a free one. The receiver may listen on it all the same, where a port can be shared at all.
    with socket.socket() as holder:
        if CAN_SHARE:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind((HOST, 0))
        port: int = holder.getsockname()[1]
        if not CAN_SHARE:
            holder.close()
        yield port
