"""One of the callers that ``establish.py`` compares, as a process of its own.

It prints that it is ready when it is warm, then how many calls it made in how many seconds, or how
long each establishment took.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from _lab import BrokenError, say
from aiohttp import web
from httpx_aiohttp import AiohttpTransport

from asana_webhooks import WebhooksApi, WebhooksClient

TOKEN = "benchmark"  # noqa: S105 - the local Asana takes any
WARM_UP = 0.25

Job = Callable[[], Awaitable[object]]


# Calls


async def call_ours(options: argparse.Namespace) -> None:
    """Count what WebhooksApi does in a time."""
    async with WebhooksApi(TOKEN, base_url=options.base_url) as api:

        async def call() -> None:
            if (await api.get_webhook(options.gid)).gid != options.gid:
                raise BrokenError(options.gid)

        await _until(time.monotonic() + WARM_UP, call, options.at_once)
        say()
        started, used = time.monotonic(), time.process_time()
        counts = await _until(started + options.seconds, call, options.at_once)
        _say_calls(sum(counts), started, used)


async def _until(end: float, call: Job, at_once: int) -> list[int]:
    async def repeat() -> int:
        count = 0
        while time.monotonic() < end:
            await call()
            count += 1
        return count

    return await asyncio.gather(*(repeat() for _ in range(at_once)))


def call_official(options: argparse.Namespace) -> None:
    """Count what the ``asana`` package does in a time, a thread for each call at once."""
    import asana

    configuration = asana.Configuration()
    configuration.host = options.base_url
    configuration.access_token = TOKEN
    configuration.connection_pool_maxsize = max(15, options.at_once)
    api = asana.WebhooksApi(asana.ApiClient(configuration))

    def repeat(end: float) -> int:
        count = 0
        while time.monotonic() < end:
            if api.get_webhook(options.gid, {})["gid"] != options.gid:
                raise BrokenError(options.gid)
            count += 1
        return count

    with ThreadPoolExecutor(options.at_once) as threads:
        list(threads.map(repeat, [time.monotonic() + WARM_UP] * options.at_once))
        say()
        started, used = time.monotonic(), time.process_time()
        counts = list(threads.map(repeat, [started + options.seconds] * options.at_once))
        _say_calls(sum(counts), started, used)


def _say_calls(calls: int, started: float, used: float) -> None:
    cpu = time.process_time() - used
    say(calls=calls, seconds=time.monotonic() - started, cpu=cpu)


# Establishments


async def establish_bare(options: argparse.Namespace) -> None:
    """Time the create call alone: a handler that echoes, a comparison, nothing kept."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    secrets_seen: dict[str, str] = {}
    async with (
        echo_server(secrets_seen) as place,
        httpx.AsyncClient(transport=AiohttpTransport(), headers=headers, timeout=60) as client,
    ):

        async def establish() -> None:
            path = f"/{secrets.token_urlsafe(24)}"
            wanted = {"resource": options.gid, "target": place + path}
            answer = await client.post(f"{options.base_url}/webhooks", json={"data": wanted})
            if answer.json()["X-Hook-Secret"] != secrets_seen[path]:
                raise BrokenError(path)

        await _time(establish, options)


@asynccontextmanager
async def echo_server(seen: dict[str, str] | None = None) -> AsyncIterator[str]:
    """Serve the least that completes a handshake; yields its URL, notes secrets by path."""
    noted: dict[str, str] = {} if seen is None else seen

    async def receive(request: web.Request) -> web.Response:
        secret = request.headers.get("X-Hook-Secret")
        await request.read()
        if secret is None:
            return web.Response()
        noted[request.path] = secret
        return web.Response(headers={"X-Hook-Secret": secret})

    app = web.Application()
    app.router.add_post("/{target}", receive)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def establish_memory(options: argparse.Namespace) -> None:
    """Time ``establish()`` with the memory store."""
    await _establish(options, "memory:")


async def establish_sqlite(options: argparse.Namespace) -> None:
    """Time ``establish()`` with the SQLite store."""
    with tempfile.TemporaryDirectory() as folder:
        await _establish(options, f"sqlite:///{Path(folder) / 'store.db'}")


async def _establish(options: argparse.Namespace, store: str) -> None:
    port = _free_port()
    client = WebhooksClient(
        TOKEN,
        public_url=f"http://127.0.0.1:{port}/hooks",
        port=port,
        base_url=options.base_url,
        store=store,
    )
    async with client:
        await _time(lambda: client.establish(options.gid), options)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _time(establish: Job, options: argparse.Namespace) -> None:
    times: list[float] = []

    async def repeat(count: int) -> None:
        for _ in range(count):
            started = time.perf_counter()
            await establish()
            times.append(time.perf_counter() - started)

    await asyncio.gather(*(repeat(2) for _ in range(options.at_once)))
    times.clear()
    say()
    await asyncio.gather(*(repeat(options.count) for _ in range(options.at_once)))
    say(times=times)


CALLERS = {
    "ours": call_ours,
    "bare": establish_bare,
    "memory": establish_memory,
    "sqlite": establish_sqlite,
}


def main() -> None:
    """Run the caller that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("base_url")
    parser.add_argument("gid", help="of the webhook to ask for, or of the resource to watch")
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0, help="of establishments, by each at once")
    options = parser.parse_args()
    if options.name == "official":
        call_official(options)
    else:
        asyncio.run(CALLERS[options.name](options))


if __name__ == "__main__":
    main()
