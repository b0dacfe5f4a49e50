"""Servers that answer as a test says, and findings of the doctor by name."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal

from asana_webhooks.cli.doctor.finding import Finding
from support.ports import free_tcp_port

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]
Serve = Callable[..., str]


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio") as portal:
        yield portal


@pytest.fixture
def serve(portal: BlockingPortal) -> Iterator[Serve]:
    """Return a function that serves answers, with TLS if given, and returns host and port."""
    runners = []

    async def start(answer: Answer, port: int, tls: ssl.SSLContext | None) -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        return runner

    def started(answer: Answer, *, tls: ssl.SSLContext | None = None) -> str:
        port = free_tcp_port()
        runners.append(portal.call(start, answer, port, tls))
        return f"localhost:{port}"

    yield started
    for runner in runners:
        portal.call(runner.cleanup)


def findings(*groups: Any) -> dict[str, Finding]:
    async def all_of() -> list[Finding]:
        return [finding for group in groups for finding in [each async for each in group]]

    return {finding.check: finding for finding in asyncio.run(all_of())}


def results(found: dict[str, Finding]) -> dict[str, str]:
    return {check: finding.result for check, finding in found.items()}


def workspaces_of(webhooks: dict[str, list[dict[str, Any]] | int]) -> Answer:
    """Return what answers as an Asana with these workspaces: with webhooks, or with a status."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("/users/me"):
            return web.json_response({"data": {"gid": "1201"}})
        if request.path.endswith("/workspaces"):
            odd = {"name": "without a gid"}
            return web.json_response({"data": [odd, *({"gid": gid} for gid in webhooks)]})
        found = webhooks[request.query["workspace"]]
        if isinstance(found, int):
            said = {"errors": [{"message": "Not for you"}]}
            return web.json_response(said, status=found)
        return web.json_response({"data": found})

    return answer
