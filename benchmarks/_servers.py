"""One of the servers that ``receive.py`` compares, as a process of its own.

It prints its port when it is ready, and when it is told to end how many deliveries it handled, in
how many events, and when the last one was (in readings of the monotonic clock).
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from _deliveries import FIRST_SERIAL, SERIAL_DIGITS
from _lab import has, say, told_to_end
from _stores import NEEDS, open_store

if TYPE_CHECKING:  # the servers to compare with shall not carry the package
    from asana_webhooks import Event, WebhooksClient
    from asana_webhooks.stores import Store

DRAIN_TIMEOUT = 60.0
MOST_WAITING = 10_000_000

Serve = Callable[[str, str, str], Coroutine[Any, Any, None]]


class Tally:
    """The count of a server without handlers: whatever it answered."""

    def __init__(self) -> None:
        self.deliveries = 0
        self.last = 0.0

    def count(self) -> None:
        """Count one delivery."""
        self.deliveries += 1
        self.last = time.monotonic()

    def report(self) -> None:
        """Print the result."""
        say(handled=self.deliveries, events=None, last=self.last)


class Handled:
    """The events that reached the handler, each counted, so that a repeat is noticed.

    Of a delivery one bit is kept, by the serial number of its last event: a soak has millions.
    """

    def __init__(self) -> None:
        self.events = 0
        self.last = 0.0
        self._serials = bytearray()

    async def handle(self, event: "Event") -> None:
        """Note one event."""
        gid = event.resource.gid
        if len(gid) == SERIAL_DIGITS:
            place, bit = divmod(int(gid) - FIRST_SERIAL, 8)
            if place >= len(self._serials):
                self._serials.extend(bytes(place + 1024 - len(self._serials)))
            self._serials[place] |= 1 << bit
        self.events += 1
        self.last = time.monotonic()

    def report(self) -> None:
        """Print the result."""
        handled = int.from_bytes(self._serials, "little").bit_count()
        say(handled=handled, events=self.events, last=self.last)


async def serve_bare(route: str, secret: str, place: str) -> None:
    """Read the body and answer 200, the least that a handler on aiohttp can do."""
    from aiohttp import web

    tally = Tally()

    async def receive(request: web.Request) -> web.Response:
        await request.read()
        tally.count()
        return web.Response()

    async def healthz(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hooks/{route}", receive), web.get("/healthz", healthz)])
    ended = told_to_end()
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    say(port=runner.addresses[0][1])
    await ended.wait()
    tally.report()
    await runner.cleanup()


def serving(name: str) -> Serve:
    """Return the client's own receiver with this store, the whole way to a handler."""

    async def serve(route: str, secret: str, place: str) -> None:
        await _serve_client(open_store(name, place), route, secret)

    return serve


def receiving(name: str) -> Serve:
    """Return the client's own receiver with this store; nobody handles what it has stored."""

    async def serve(route: str, secret: str, place: str) -> None:
        await _serve_receiver(open_store(name, place, max_waiting=MOST_WAITING), route, secret)

    return serve


async def _serve_receiver(store: "Store", route: str, secret: str) -> None:
    client = _client(store)
    ended = told_to_end()
    async with client:
        await _confirm(store, route, secret)
        say(port=client.port)
        await ended.wait()
        say(handled=(await store.counts()).waiting, events=None, last=0.0)


def _client(store: "Store") -> "WebhooksClient":
    from asana_webhooks import WebhooksClient

    nowhere = "http://127.0.0.1:9"
    return WebhooksClient(
        "token", public_url=f"{nowhere}/hooks", base_url=nowhere, store=store, port=0
    )


async def _serve_client(store: "Store", route: str, secret: str) -> None:
    handled = Handled()
    client = _client(store)
    client.on()(handled.handle)
    ended = told_to_end()
    async with client:
        await _confirm(store, route, secret)
        run = asyncio.create_task(client.run())
        say(port=client.port)
        await ended.wait()
        await _emptied(store)
        run.cancel()
        await asyncio.wait([run])
    handled.report()


async def _confirm(store: "Store", route: str, secret: str) -> None:
    from asana_webhooks.models import Route

    target = f"http://127.0.0.1:9/hooks/{route}"
    await store.reserve(Route(id=route, target=target, resource="1204619"), ttl=60)
    await store.add_candidate(route, secret)
    await store.confirm(route, gid="1", secret=secret)


async def _emptied(store: "Store") -> None:
    with suppress(TimeoutError):  # the parent sees what is missing
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while (await store.counts()).waiting:  # noqa: ASYNC110 - a store has no such event
                await asyncio.sleep(0.01)


async def serve_asgi(route: str, secret: str, place: str) -> None:
    """Read the body and answer 200, the least that an application on an ASGI server can do."""
    tally = Tally()
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return  # of a lifespan: there is nothing to start
        while (await receive()).get("more_body"):
            pass
        if scope["method"] == "POST":
            tally.count()
        await send(start)
        await send({"type": "http.response.body", "body": b""})

    await _serve_asgi(app, tally)


async def serve_starlette(route: str, secret: str, place: str) -> None:
    """The same with a route and a request of Starlette."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    tally = Tally()

    async def receive(request: Request) -> Response:
        await request.body()
        tally.count()
        return Response()

    async def healthz(request: Request) -> Response:
        return Response()

    routes = [Route("/hooks/{route}", receive, methods=["POST"]), Route("/healthz", healthz)]
    await _serve_asgi(Starlette(routes=routes), tally)


async def _serve_asgi(app: Any, tally: Tally) -> None:
    import uvicorn

    told_to_end()
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no such event
        await asyncio.sleep(0.01)
    say(port=server.servers[0].sockets[0].getsockname()[1])
    await serving  # uvicorn takes the signal
    tally.report()


async def serve_fastapi(route: str, secret: str, place: str) -> None:
    """The receiver that many deploy: signature checked, body parsed, nothing kept."""
    from fastapi import FastAPI, Request, Response

    tally = Tally()
    app = FastAPI()

    @app.post("/hooks/{route}")
    async def receive(route: str, request: Request) -> Response:
        body = await request.body()
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers.get("X-Hook-Signature", "")):
            return Response(status_code=401)
        json.loads(body)
        tally.count()
        return Response()

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response()

    await _serve_asgi(app, tally)


def serve_flask(route: str, secret: str, place: str) -> None:
    """The same on Flask, in one synchronous worker of gunicorn."""
    from flask import Flask, request
    from gunicorn.app.base import BaseApplication

    tally = Tally()
    app = Flask("benchmark")

    @app.post("/hooks/<route>")
    def receive(route: str) -> tuple[str, int]:
        body = request.get_data()
        expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, request.headers.get("X-Hook-Signature", "")):
            return "", 401
        json.loads(body)
        tally.count()
        return "", 200

    @app.get("/healthz")
    def healthz() -> tuple[str, int]:
        return "", 200

    class Gunicorn(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            self.cfg.set("bind", "127.0.0.1:0")
            self.cfg.set("workers", 1)
            self.cfg.set("loglevel", "error")
            self.cfg.set("when_ready", lambda arbiter: say(port=_port(arbiter)))
            self.cfg.set("worker_exit", lambda arbiter, worker: tally.report())

        def load(self) -> Flask:
            return app

    Gunicorn().run()


def _port(arbiter: Any) -> int:
    port: int = arbiter.LISTENERS[0].sock.getsockname()[1]
    return port


SERVERS: dict[str, Serve] = {
    "bare": serve_bare,
    "asgi": serve_asgi,
    "starlette": serve_starlette,
    "fastapi": serve_fastapi,
    **{name: serving(name) for name in NEEDS},
    **{f"{name}-alone": receiving(name) for name in NEEDS},
}


ON_UVICORN = ("asgi", "starlette", "fastapi")


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the loop: uvloop when it is asked for, for uvicorn whenever it is there."""
    if name.endswith("-uvloop") or (name in ON_UVICORN and has("uvloop")):
        import uvloop

        return uvloop.new_event_loop
    return None


def main() -> None:
    """Run the server that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("route")
    parser.add_argument("secret")
    parser.add_argument("place")
    options = parser.parse_args()
    arguments = options.route, options.secret, options.place
    if options.name == "flask":
        serve_flask(*arguments)
        return
    serve = SERVERS[options.name.removesuffix("-uvloop")]
    with asyncio.Runner(loop_factory=loop_factory(options.name)) as runner:
        runner.run(serve(*arguments))


if __name__ == "__main__":
    main()
