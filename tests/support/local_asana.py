"""A local Asana with a plain client, whose answers are validated, and a plain target."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from aiohttp import web

from asana_webhooks.simulator import AsanaSimulator
from support import asana_openapi
from support.plain_http import NO_TLS


class World:
    """The local Asana, a client for its API, and the events that reach the target."""

    def __init__(self, asana: AsanaSimulator, api: httpx.AsyncClient, target: str) -> None:
        self.asana = asana
        self.api = api
        self.target = target

    async def watch(self, resource: str, *filters: dict[str, Any]) -> str:
        """Return the gid of a new webhook whose heartbeat has been delivered."""
        target = f"{self.target}/{resource}/{len(self.asana.webhooks)}"
        data = {"resource": resource, "target": target, "filters": list(filters)}
        created = await self.api.post("/webhooks", json={"data": data})
        assert created.status_code == 201, created.text
        await self.asana.settled()
        self.asana.deliveries.clear()
        gid: str = created.json()["data"]["gid"]
        return gid

    async def told(self, webhook: str) -> list[list[dict[str, Any]]]:
        """Return what each delivery to the webhook said since the last look."""
        await self.asana.settled()
        found = [each.body for each in self.asana.deliveries if each.webhook_gid == webhook]
        self.asana.deliveries[:] = [
            each for each in self.asana.deliveries if each.webhook_gid != webhook
        ]
        return [json.loads(body)["events"] for body in found]

    async def post(self, path: str, **data: Any) -> dict[str, Any]:
        """Return the record in the answer to a call that succeeds."""
        record: dict[str, Any] = self._record(await self.api.post(path, json={"data": data}))
        return record

    async def put(self, path: str, **data: Any) -> dict[str, Any]:
        """Return the record in the answer to a call that succeeds."""
        record: dict[str, Any] = self._record(await self.api.put(path, json={"data": data}))
        return record

    async def get(self, path: str, **params: Any) -> Any:
        """Return the record, or the list of records, that a call shows."""
        return self._record(await self.api.get(path, params=params))

    async def gids(self, path: str, **params: Any) -> list[str]:
        """Return the gids of the records that a call lists."""
        return [each["gid"] for each in await self.get(path, **params)]

    async def refused(
        self, method: str, path: str, data: Any = None, **params: Any
    ) -> tuple[int, str]:
        """Return the status and the message of a call that fails."""
        body = None if data is None else {"data": data}
        response = await self.api.request(method, path, json=body, params=params or None)
        [error] = response.json()["errors"]
        return response.status_code, error["message"]

    def _record(self, response: httpx.Response) -> Any:
        assert response.status_code in (200, 201), response.text
        return response.json()["data"]


async def _validated(response: httpx.Response) -> None:
    if response.headers.get("Content-Type", "").startswith("application/json"):
        await response.aread()
        asana_openapi.validate(response)


def client(asana: AsanaSimulator, app: str = "app-one") -> httpx.AsyncClient:
    """Return a client that raises when an answer is not as Asana describes it."""
    return httpx.AsyncClient(
        base_url=asana.base_url,
        headers={"Authorization": f"Bearer {app}"},
        event_hooks={"response": [_validated]},
        timeout=20,
        verify=NO_TLS,
    )


async def _answer(request: web.Request) -> web.Response:
    secret = request.headers.get("X-Hook-Secret")
    return web.Response(headers={"X-Hook-Secret": secret} if secret else None)


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[World]:
    """A world whose local Asana has these options."""
    app = web.Application()
    app.router.add_post("/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with AsanaSimulator(**{"gather_for": 0, **options}) as asana, client(asana) as api:
            yield World(asana, api, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
